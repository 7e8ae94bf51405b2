"""Tapes are compressed and removed in their time; nothing that grows or is no tape is lost."""

import errno
import fcntl
import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.tape import shelf as room
from gateway.tape.pack import CHUNK_BYTES
from gateway.tape.shelf import WAITING_LIMIT, Keeping, Shelf
from tests.running import ROOT

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FOREVER = Keeping(0, 0)


class Told:
    """A shelf without its thread, and what it told."""

    def __init__(self, folder: Path, keeping: Keeping = FOREVER) -> None:
        self.folder = folder
        self.removed: list[str] = []
        self.troubles: list[tuple[str, str]] = []
        self.shelf = Shelf(folder, keeping, self.removed.append, self._trouble)

    def _trouble(self, event: str, detail: str) -> None:
        self.troubles.append((event, detail))

    def names(self) -> list[str]:
        """All files, oldest first."""
        return sorted(path.name for path in self.folder.iterdir())


def _tape(folder: Path, days_ago: float, suffix: str = "", size: int = 1000) -> Path:
    began = NOW - timedelta(days=days_ago)
    path = folder / f"{began:%Y%m%dT%H%M%S}.{began:%f}Z-ab12-{days_ago:g}.jsonl{suffix}".replace(
        f"-{days_ago:g}.", f"-{int(days_ago)}."
    )
    path.write_bytes(b'{"tape":1}\n' + os.urandom(size - 11))
    return path


@contextmanager
def _held_by_another(path: Path) -> Iterator[None]:
    """A process of its own holds the file, as a worker holds the tape it writes."""
    code = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield


def test_a_tape_is_compressed_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    """More than a chunk of it; the file is its owner's alone."""
    told, path = Told(tmp_path), _tape(tmp_path, 0, size=3 * CHUNK_BYTES + 7)
    content = path.read_bytes()
    told.shelf.add(path)

    assert told.shelf.compress_next()
    assert told.names() == [path.name + ".gz"]
    (packed,) = tmp_path.iterdir()
    assert gzip.decompress(packed.read_bytes()) == content
    assert packed.stat().st_mode & 0o777 == 0o600
    assert not told.shelf.compress_next()


def test_a_tape_too_many_stays_as_it_is(tmp_path: Path) -> None:
    """The queue is bounded; who hands a tape over never waits."""
    told = Told(tmp_path)

    added = [told.shelf.add(tmp_path / "x.jsonl") for _ in range(WAITING_LIMIT + 1)]

    assert added == [True] * WAITING_LIMIT + [False]


def test_a_disk_that_is_full_leaves_the_tape_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be compressed is told, and whole."""
    told, path = Told(tmp_path), _tape(tmp_path, 0)
    content = path.read_bytes()
    monkeypatch.setattr(room, "_open_new", lambda _: os.open("/dev/full", os.O_WRONLY))
    told.shelf.add(path)
    told.shelf.compress_next()

    assert path.read_bytes() == content
    assert told.names() == [path.name]
    assert told.troubles == [("tape_not_compressed", f"{path.name}: No space left on device")]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("pass", "status 0"),
    ],
)
def test_a_packer_that_ends_early_leaves_the_tape_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    """Somebody ended it, or it has a fault: that is told, and nothing half is left behind."""
    told, path = Told(tmp_path), _tape(tmp_path, 0)
    monkeypatch.setattr(room, "_PACKER", (sys.executable, "-I", "-S", "-c", program))
    told.shelf.add(path)
    told.shelf.compress_next()

    assert told.names() == [path.name]
    ((event, detail),) = told.troubles
    assert event == "tape_not_compressed"
    assert detail.startswith(f"{path.name}: {words}")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOENT, errno.ENOMEM])
def test_a_packer_that_cannot_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No process may be had, no program may be there: the tape stays, and the shelf goes on."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    told, path = Told(tmp_path), _tape(tmp_path, 0)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fail)
        told.shelf.add(path)
        assert told.shelf.compress_next()

    assert told.names() == [path.name]
    assert told.troubles == [("tape_not_compressed", f"{path.name}: {os.strerror(number)}")]
    told.shelf.add(path)
    told.shelf.compress_next()
    assert told.names() == [path.name + ".gz"]


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can know whether the tape is in other hands: it stays, and somebody hears why."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    told, path = Told(tmp_path, Keeping(1.0, 1)), _tape(tmp_path, 9)
    monkeypatch.setattr(fcntl, "flock", fail)
    told.shelf.add(path)
    told.shelf.compress_next()
    told.shelf.tidy(NOW.timestamp())

    assert told.names() == [path.name]
    assert told.troubles == [("tape_not_compressed", f"{path.name}: No locks available")]


def test_half_a_packed_tape_goes_with_the_whole_one(tmp_path: Path) -> None:
    """A process that was killed left it; it holds the same voices and would age for ever."""
    told, whole = Told(tmp_path, Keeping(86400.0, 0)), _tape(tmp_path, 0)
    for path in (whole, whole.with_name(whole.name.replace("Z-", "Z-x"))):
        path.with_name(path.name + ".gz.part").write_bytes(b"half")
    told.shelf.tidy(NOW.timestamp())

    assert told.names() == [whole.name, whole.name + ".gz.part"]


def test_what_was_held_when_it_came_up_is_packed_later(tmp_path: Path) -> None:
    """Another process had it in its hands, and ended."""
    told, path = Told(tmp_path), _tape(tmp_path, 0)
    with _held_by_another(path):
        told.shelf.adopt()
        assert told.shelf.compress_next()
        assert told.names() == [path.name]
    told.shelf._next_tidy = 0.0
    told.shelf._tidy_when_due()
    told.shelf.compress_next()

    assert told.names() == [path.name + ".gz"]


def test_a_process_that_stops_does_not_wait_for_its_packer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, the tape stays whole, and there is nothing to complain of."""
    told, path = Told(tmp_path), _tape(tmp_path, 0)
    monkeypatch.setattr(room, "_PACKER", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(room, "_CLOSE_S", 0.2)
    told.shelf.add(path)
    told.shelf.start()
    part = path.with_name(path.name + ".gz.part")
    until = time.monotonic() + 20
    while not part.exists() and time.monotonic() < until:
        time.sleep(0.01)  # a new file tells nobody
    told.shelf.close()
    told.shelf._thread.join(20)

    assert told.names() == [path.name]
    assert told.troubles == []


def test_what_was_left_uncompressed_is_compressed_at_the_next_start(tmp_path: Path) -> None:
    """A whole tape, with a half compressed one beside it; a part is kept as it is and told."""
    left, part = _tape(tmp_path, 2), _tape(tmp_path, 1, ".part")
    content = left.read_bytes()
    left.with_name(left.name + ".gz.part").write_bytes(b"half")
    told = Told(tmp_path)

    assert told.shelf.adopt() == [part]
    while told.shelf.compress_next():
        pass

    assert told.names() == [left.name + ".gz", part.name]
    assert gzip.decompress((tmp_path / (left.name + ".gz")).read_bytes()) == content
    assert told.troubles == [("tapes_left_behind", "1 parts of calls that crashed")]


def test_what_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    """One worker's start or tidying does not touch what another one writes or compresses."""
    told = Told(tmp_path, Keeping(1.0, 1))
    for suffix in (".part", ""):
        path = _tape(tmp_path, 9, suffix)
        with _held_by_another(path):
            assert told.shelf.adopt() == []
            while told.shelf.compress_next():
                pass
            told.shelf.tidy(NOW.timestamp())
            assert told.names() == [path.name]
        told.shelf.tidy(NOW.timestamp())
        assert told.names() == []
    assert told.removed == ["age", "age"]


def test_two_processes_never_compress_one_tape_at_once(tmp_path: Path) -> None:
    """Both were told of it; who comes second finds it gone."""
    path = _tape(tmp_path, 0)
    first, second = Told(tmp_path), Told(tmp_path)
    first.shelf.add(path)
    second.shelf.add(path)
    first.shelf.compress_next()
    second.shelf.compress_next()

    assert first.names() == [path.name + ".gz"]
    assert (first.troubles, second.troubles) == ([], [])


def test_tapes_go_by_their_age(tmp_path: Path) -> None:
    """Whole ones and parts of crashes, compressed or not; what is no tape stays for ever."""
    kept = _tape(tmp_path, 6, ".gz")
    for days, suffix in ((8, ".gz"), (9, ""), (10, ".part")):
        _tape(tmp_path, days, suffix)
    others = ["notes.jsonl", "20261101T000000.000000Z-x.txt", "20260101.jsonl.gz"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "20200101T000000.000000Z-dir.jsonl").mkdir()
    (tmp_path / "20200101T000000.000000Z-link.jsonl").symlink_to(kept)
    told = Told(tmp_path, Keeping(7 * 86400.0, 0))

    told.shelf.tidy(NOW.timestamp())

    assert told.removed == ["age"] * 3
    assert told.names() == sorted(
        [
            *(kept.name, *others),
            *("20200101T000000.000000Z-dir.jsonl", "20200101T000000.000000Z-link.jsonl"),
        ]
    )


def test_the_oldest_go_when_all_are_too_much(tmp_path: Path) -> None:
    """As many as have to; a tape that grows counts and stays."""
    tapes = [_tape(tmp_path, days, ".gz", 1000) for days in (5, 4, 3, 2)]
    growing = _tape(tmp_path, 6, ".part", 1500)
    told = Told(tmp_path, Keeping(0, 3600))
    with growing.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told.shelf.tidy(NOW.timestamp())

    assert told.removed == ["size", "size"]
    assert told.names() == sorted([growing.name, tapes[2].name, tapes[3].name])


def test_without_limits_nothing_goes(tmp_path: Path) -> None:
    """0 means kept."""
    told = Told(tmp_path)
    path = _tape(tmp_path, 9999)
    told.shelf.tidy(NOW.timestamp())
    Told(tmp_path / "missing").shelf.tidy(NOW.timestamp())

    assert told.names() == [path.name]


def test_the_thread_compresses_tidies_and_stops(tmp_path: Path) -> None:
    """At the start and then what it is given, no nicer than the calls."""
    old = _tape(tmp_path, 3000, ".gz")
    removed, is_removed = [], threading.Event()

    def on_removed(reason: str) -> None:
        removed.append((reason, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        is_removed.set()

    shelf = Shelf(tmp_path, Keeping(86400.0, 0), on_removed, lambda *_: None)
    shelf.start()
    assert is_removed.wait(20)
    fresh = _tape(tmp_path, 0)
    shelf.add(fresh)
    until = time.monotonic() + 20
    while fresh.exists() and time.monotonic() < until:
        is_removed.clear()
        is_removed.wait(0.01)  # a file that is gone tells nobody
    shelf.close()

    assert removed == [("age", os.getpriority(os.PRIO_PROCESS, 0))]
    assert [path.name for path in tmp_path.iterdir()] == [fresh.name + ".gz"]
    assert not old.exists()
