"""Records a tape anew: the same comes in, what goes out is what the present gateway makes of it.

The call is played again, and the recorder of live calls writes down what it does this time. So the
tape that comes of it replays exactly, whatever was changed in the gateway or left out of the tape.
Its first line says that it was renewed: nobody is to take it for what was on the wire.
"""

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from errno import EISDIR
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec

from gateway import __version__
from gateway.bridge import Outside
from gateway.errors import TapeError
from gateway.events import Reason, Termination
from gateway.realtime import Link
from gateway.tape import record
from gateway.tape.masking import masking_of
from gateway.tape.reading import Line, Tape
from gateway.tape.record import TapeEnd, Tapes, all_taped
from gateway.tape.replay import Replayed, replay

# No tape of a live call is as long.
MAX_BYTES: Final = 1 << 40
# What the first line says of a tape that is not as it was recorded: by which gateway, when.
Mark = Mapping[str, str]


def mark(what: str) -> Mark:
    """Members of the first line: this was done ("renewed", "shrunk") by this gateway, now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {f"{what}_by": __version__, f"{what}_at": now}


def renew(path: Path, out: Path) -> Replayed:
    """Record a tape anew, uncompressed, into a new file; what a tape lacks this one lacks, too.

    Returns what came of playing it; ``problems`` is empty where the new tape can be relied on.

    Raises:
        TapeError: it cannot be read, played or written.
    """
    ends: list[TapeEnd] = []
    with (
        tempfile.TemporaryDirectory(prefix=".renew-", dir=out.parent) as folder,
        Tape(path) as tape,
    ):
        mask = masking_of(tape.head.masks)
        tapes = Tapes(Path(folder), MAX_BYTES, ends.append, _nothing, mask=mask)
        recorder = _Recorder(tapes, msgspec.json.decode(tape.raw) | mark("renewed"))
        replayed = replay(tape, wait_until=lambda _: tapes.write_waiting(), recorder=recorder)
        tapes.finish()
        _check(path, tapes, ends)
        (written,) = Path(folder).iterdir()
        written.replace(out)
    return replayed


def _check(path: Path, tapes: Tapes, ends: list[TapeEnd]) -> None:
    failed = [end.detail for end in ends if end.result != "ok"]
    if failed:
        raise TapeError(f"{path}: what it was renewed to cannot be written: {failed[0]}")
    if tapes.lost:
        raise TapeError(f"{path}: so much is sent at once that it cannot be renewed")
    if not any(tapes.folder.iterdir()):
        raise TapeError(f"{path}: no call begins on this tape: there is nothing to renew")


def _nothing(_: int) -> None:
    """Lost lines are looked at in the end."""


class _Retake(record.Tape):
    """A tape by the clock of the tape it is made from."""

    clock_s: Callable[[], float] = staticmethod(float)

    def stopwatch(self) -> float:
        """As late as it is in the replay, in seconds."""
        return self.clock_s()

    def break_off(self) -> None:
        """The tape ends before the call does, behind a pass that readers leave out."""
        self._turn_over()
        self.mark(rang=True)
        self._hand_over()


class _Recorder:
    """What a live call has around it when it is taped.

    Args:
        tapes: who writes.
        head: the first line.
    """

    def __init__(self, tapes: Tapes, head: Mapping[str, Any]) -> None:
        self._tape = _Retake(tapes, "renewed")
        self._head = head

    def wrap(self, link: Link, outside: Outside) -> tuple[Link, Outside]:
        """Both links by way of the tape."""
        tape = self._tape
        tape.clock_s = outside.clock
        return all_taped(link, outside, tape)

    def began(self) -> None:
        """From here on it is written down."""
        self._tape.begin(self._head)

    def hung_up(self, reason: Reason) -> None:
        """As the lobby does."""
        self._tape.hung_up(reason)

    def left(self, termination: Termination | None, stopped: Line | None) -> None:
        """A tape that did not go to the call's end does not do so now."""
        if termination is not None and stopped is not None and stopped.end is not None:
            self._tape.end(termination)
        else:
            self._tape.break_off()


# ------------------------------------------------------------- where it goes


def put(source: Path, target: Path) -> None:
    """Make this tape the one of that name: all at once, readable by its owner, packed if it is to.

    Raises:
        OSError: it cannot be written.
    """
    check_place(target)
    with _replacing(target) as file, source.open("rb") as plain:
        if target.suffix == ".gz":
            # Without a name and a time in it: the same tape gives the same bytes.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                shutil.copyfileobj(plain, packed)
        else:
            shutil.copyfileobj(plain, file)


def check_place(target: Path) -> None:
    """See that a file could be written there; makes the folder.

    Raises:
        OSError: it could not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    tempfile.TemporaryFile(dir=target.parent).close()


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield cast("BinaryIO", file)
        if target.exists():
            shutil.copymode(target, name)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
