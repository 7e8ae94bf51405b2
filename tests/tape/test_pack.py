"""The packer: a program of its own that everybody else comes before."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

from gateway.tape import pack

_COMMAND = (sys.executable, "-I", "-S", pack.__file__)


def _started(owner: int) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen((*_COMMAND, str(owner)), stdin=pipe, stdout=pipe, stderr=pipe)


def test_what_is_packed_can_be_unpacked(tmp_path: Path) -> None:
    """Of any length, nothing too."""
    for size in (0, 1, 3 * pack.CHUNK_BYTES + 7):
        source, target = tmp_path / f"{size}", tmp_path / f"{size}.gz"
        source.write_bytes(os.urandom(size))
        with source.open("rb") as plain, target.open("wb") as packed:
            pack.pack(plain.fileno(), packed.fileno(), os.getppid())

        assert gzip.decompress(target.read_bytes()) == source.read_bytes()


def test_the_program_is_as_nice_as_can_be() -> None:
    """From before its first byte; it loads nothing of this installation."""
    with _started(os.getpid()) as packer:
        assert packer.stdin is not None
        assert packer.stdout is not None
        assert packer.stderr is not None
        packer.stdin.write(os.urandom(60_000))  # less than a pipe holds, more than zlib keeps
        packer.stdin.flush()
        packer.stdout.read(1)

        assert os.getpriority(os.PRIO_PROCESS, packer.pid) == pack.NICEST
        packer.terminate()  # meant for the gateway: it goes on
        packer.stdin.close()
        packer.stdout.read()

        assert packer.stderr.read().decode() == f"{pack.DONE}\n"
    assert packer.returncode == 0


def test_nobody_is_worked_for_who_is_gone() -> None:
    """Its lock would keep the next process from the tape."""
    with _started(os.getppid()) as orphan:
        _, words = orphan.communicate(os.urandom(1000), timeout=20)

    assert orphan.returncode
    assert words == b"nobody waits for it any more\n"


def test_why_it_failed_is_its_last_line(tmp_path: Path) -> None:
    """As the disk has it."""
    source = tmp_path / "tape"
    source.write_bytes(os.urandom(10))
    with source.open("rb") as plain, Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            (*_COMMAND, str(os.getpid())),
            stdin=plain,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.returncode
    assert done.stderr.splitlines()[-1] == b"No space left on device"
