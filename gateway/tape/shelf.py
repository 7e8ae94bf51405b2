"""Where whole tapes are kept: compressed behind the calls' back, the oldest removed.

``NAME.jsonl`` becomes ``NAME.jsonl.gz``, under ``NAME.jsonl.gz.part`` while that grows; at every
moment one whole tape is there. What was not compressed in time, or before the process ended, stays
as it is until a process tidies this folder. Several processes may keep one folder: who grows or
compresses a file holds a lock on it, which goes when the process does. So a part with a lock is a
call that is going on, and one without was left behind by a crash: it is kept under its name,
readable up to its last whole line, and ages as all others do.
"""

import errno
import fcntl
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gateway.tape import pack

# Tapes that wait to be compressed; one more stays as it is.
WAITING_LIMIT: Final = 200
TIDY_EVERY_S: Final = 300.0
_CLOSE_S = 2.0
# How often this process looks, while a tape is packed, whether it stops or is to tidy.
_LOOK_S = 0.1
# Nothing of this installation is loaded but the program itself: 10 ms instead of 200.
_PACKER = (sys.executable, "-I", "-S", pack.__file__)

RemovedFor = Literal["age", "size"]

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-[\w-]+\.jsonl(\.gz|\.part)?")


class Keeping(NamedTuple):
    """How long tapes are kept and how much of them; 0 = without limit."""

    age_s: float
    total_bytes: int


class _Kept(NamedTuple):
    """A tape on the shelf."""

    path: Path
    began: float
    size_bytes: int


class Shelf:
    """The folder of tapes and the thread that looks after it.

    Args:
        folder: where tapes are; it need not exist yet.
        keeping: what is removed.
        on_removed: told in the thread why a tape was removed.
        on_trouble: told in the thread what could not be done, and why.
    """

    def __init__(
        self,
        folder: Path,
        keeping: Keeping,
        on_removed: Callable[[RemovedFor], None],
        on_trouble: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._keeping = keeping
        self._on_removed = on_removed
        self._on_trouble = on_trouble
        self._waiting: queue.Queue[Path | None] = queue.Queue(WAITING_LIMIT)
        self._next_tidy = inf
        self._is_closing, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shelf", daemon=True)

    def start(self) -> None:
        """Begin to look after it."""
        self._thread.start()

    def close(self) -> None:
        """Compress what waits if that is quickly done; a tape that is not stays whole."""
        self._is_closing.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(_CLOSE_S)
        self._stop.set()
        self._thread.join(_CLOSE_S)

    def add(self, path: Path) -> bool:
        """Compress this whole tape when there is time; false where too many wait already."""
        try:
            self._waiting.put_nowait(path)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        # No nicer than calls, which wait for it where it has the interpreter; see Tapes, and pack.
        self.adopt()
        self._next_tidy = time.monotonic()
        while not self._is_closing.is_set():
            self._tidy_when_due()
            self.compress_next(max(0.0, self._next_tidy - time.monotonic()))
        while not self._stop.is_set() and self.compress_next():
            pass

    def _tidy_when_due(self) -> None:
        if time.monotonic() < self._next_tidy:
            return
        self.tidy(time.time())
        if self._waiting.empty():
            # One that another process was packing when it ended, or that there was no room for.
            self._wait_for(_tapes_in(self._folder))
        self._next_tidy = time.monotonic() + TIDY_EVERY_S

    # ------------------------------------------------------------------ compressing

    def _wait_for(self, kept: list[_Kept]) -> None:
        for tape in kept:
            if tape.path.suffix == ".jsonl":
                self.add(tape.path)

    def adopt(self) -> list[Path]:
        """What was left uncompressed waits now; returns the parts that crashes have left."""
        kept = _tapes_in(self._folder)
        self._wait_for(kept)
        orphans = [
            tape.path for tape in kept if tape.path.suffix == ".part" and not is_held(tape.path)
        ]
        if orphans:
            self._on_trouble("tapes_left_behind", f"{len(orphans)} parts of calls that crashed")
        return orphans

    def compress_next(self, patience_s: float = 0.0) -> bool:
        """Compress the next tape that waits; false where none came in time."""
        try:
            path = self._waiting.get(timeout=patience_s) if patience_s else self._waiting.get(False)
        except queue.Empty:
            return False
        if path is not None:
            try:
                self._compress(path)
            except OSError as error:
                path.with_name(path.name + ".gz.part").unlink(missing_ok=True)
                self._on_trouble("tape_not_compressed", f"{path.name}: {error.strerror}")
        return path is not None

    def _compress(self, path: Path) -> None:
        part, whole = path.with_name(path.name + ".gz.part"), path.with_name(path.name + ".gz")
        with _held(path) as source:
            if source is None:
                return
            with os.fdopen(_open_new(part), "wb", 0) as target:
                is_whole = self._pack(source, target.fileno())
            if is_whole:
                part.rename(whole)
                path.unlink(missing_ok=True)
            else:
                part.unlink()

    def _pack(self, source: int, target: int) -> bool:
        """Whether all of it was packed; this process may stop in between.

        Raises:
            OSError: the packer cannot be started, or did not come to its end.
        """
        command = (*_PACKER, str(os.getpid()))
        # A Ctrl-C is for the gateway's group. In a session of its own, niceness would not count
        # beside the gateway: sched(7), autogroups.
        with subprocess.Popen(  # noqa: S603  our own program
            command, stdin=source, stdout=target, stderr=subprocess.PIPE, process_group=0
        ) as packer:
            while packer.returncode is None and not self._stop.is_set():
                self._tidy_when_due()
                with suppress(subprocess.TimeoutExpired):
                    packer.wait(_LOOK_S)
            if packer.returncode is None:
                packer.kill()
                return False
            # Its status alone proves nothing: where somebody else waits for children it is 0.
            if (words := _last_words(packer)) != pack.DONE:
                raise OSError(errno.EIO, words)
        return True

    # ------------------------------------------------------------------ removing

    def tidy(self, now: float) -> None:
        """Remove what is too old (``now`` in unix seconds), then the oldest of what is too much."""
        self._remove_halves()
        kept = []
        for tape in _tapes_in(self._folder):
            too_old = bool(self._keeping.age_s) and tape.began < now - self._keeping.age_s
            if not (too_old and self._remove(tape, "age")):
                kept.append(tape)
        excess = sum(tape.size_bytes for tape in kept) - self._keeping.total_bytes
        for tape in kept if self._keeping.total_bytes else ():
            if excess <= 0:
                return
            if self._remove(tape, "size"):
                excess -= tape.size_bytes

    def _remove_halves(self) -> None:
        """Half of a packed tape, left by a process that was ended, outlives no whole one."""
        for half in self._folder.glob("*.jsonl.gz.part"):
            whole = half.with_name(half.name.removesuffix(".gz.part"))
            if _NAME.fullmatch(whole.name) and not whole.exists():
                half.unlink(missing_ok=True)

    def _remove(self, tape: _Kept, why: RemovedFor) -> bool:
        """Whether it is gone; somebody else may have been faster, or still be at it."""
        if is_held(tape.path):
            return False
        try:
            tape.path.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            self._on_trouble("tape_not_removed", f"{tape.path.name}: {error.strerror}")
            return False
        self._on_removed(why)
        return True


def _tapes_in(folder: Path) -> list[_Kept]:
    """All tapes, oldest first; nothing that only lies beside them."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    return [kept for entry in entries if (kept := _kept(entry)) is not None]


def _kept(entry: "os.DirEntry[str]") -> _Kept | None:
    name = _NAME.fullmatch(entry.name)
    try:
        if name is None or not entry.is_file(follow_symlinks=False):
            return None
        began = datetime.strptime(name[1], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        size = entry.stat(follow_symlinks=False).st_size
    except (OSError, ValueError):
        return None
    return _Kept(Path(entry.path), began.timestamp(), size)


def _last_words(packer: "subprocess.Popen[bytes]") -> str:
    said = packer.stderr.read() if packer.stderr else b""
    lines = said.decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), f"status {packer.returncode}")


@contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """The file, open for reading and locked; None where it is gone or somebody else holds it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        # Who waited for a name may hold a file that has lost it.
        yield file if _is_locked(file) and os.fstat(file).st_nlink else None
    finally:
        os.close(file)


def _is_locked(file: int) -> bool:
    """Whether the lock could be had; it is kept as long as the file is open.

    Raises:
        OSError: there are no locks here.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether somebody writes or compresses this tape now."""
    if path.suffix == ".gz":
        return False
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _is_locked(file)
    except OSError:
        return True
    finally:
        os.close(file)


def _open_new(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
