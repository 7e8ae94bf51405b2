"""Records calls: wraps their links, notes what passes, writes it down in a thread.

On the event loop a message costs an entry in a list. Every ``BATCH_BYTES`` or ``BATCH_S`` of a call
the list is handed to the process's one writer, which encodes and writes it. What the writer cannot
take is lost to the tape and counted; the call never waits and never learns of a disk that is full.
"""

import fcntl
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from gateway import __version__
from gateway.bridge import Outside
from gateway.errors import ConnectError
from gateway.events import Reason, Termination
from gateway.realtime import Dial, Link, Listener
from gateway.tape import FORMAT
from gateway.tape.masking import LinkName, Mask

# What all calls together may have waiting for the disk: a second of 400 calls.
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
# A call's notes are handed over when there are so many, or so old: a few writes a second, and no
# more than 0.1 ms in which the writer keeps the interpreter to itself.
BATCH_BYTES: Final = 64 * 1024
BATCH_S: Final = 1.0
# Kept of a peer that has not been let in yet.
EARLY_BYTES: Final = 256 * 1024
# Kept of a call until its caller has heard that it is recorded: half a minute, and to spare.
HELD_BYTES: Final = 8 * 1024 * 1024
# What an entry costs beside the message it refers to.
ENTRY_BYTES: Final = 150
# How long the writer rests where nothing waits; else as many times less as batches wait. In a row
# they would take every other turn of the interpreter, and calls pile up meanwhile.
PAUSE_S: Final = 0.05
# How long a stop waits for the disk.
DRAIN_S: Final = 5.0

Result = Literal["ok", "cut", "failed"]

# Members of lines that are no messages, in which a peer says what it likes.
_WORDS = ("reason", "detail")
# What an entry says: a message on one of four ways, or ready members of a line.
_PROVIDER_IN, _PROVIDER_OUT, _REALTIME_IN, _REALTIME_OUT, _MEMBERS = range(5)
_WAYS: tuple[tuple[LinkName, Literal["in", "out"]], ...] = (
    ("provider", "in"),
    ("provider", "out"),
    ("realtime", "in"),
    ("realtime", "out"),
)
_WAYS_OF: Mapping[LinkName, tuple[int, int]] = {
    "provider": (_PROVIDER_IN, _PROVIDER_OUT),
    "realtime": (_REALTIME_IN, _REALTIME_OUT),
}
_Entry = tuple[float, int, Any]
# Takes the sound out of what a provider says.
Hush = Callable[[str | bytes], str | bytes]


class _Line(msgspec.Struct, gc=False):
    t: float
    link: str
    dir: str
    kind: str
    data: str | bytes


class TapeEnd(NamedTuple):
    """How a tape ended; ``detail`` names the error of one that failed."""

    result: Result
    path: Path
    detail: str = ""


# ------------------------------------------------------------- on the event loop


class Tape:
    """The tape of one call, in the hands of its event loop.

    Nothing reaches the disk before ``begin``: who is not let in leaves no tape.
    """

    def __init__(self, tapes: "Tapes", call_id: str) -> None:
        self._tapes = tapes
        self._call_id = call_id
        self._zero_ns = time.monotonic_ns()
        # When the present pass began; whether the call has yet to read that; whether it is a
        # timer's and has not shown on the tape so far.
        self.now = 0.0
        self.is_held = False
        self._is_silent = False
        self._entries: list[_Entry] = []
        self._bytes = 0
        self._due = 0.0
        # Lines lost so far, and those of them that the tape has not been told of.
        self._lost = self._gap = 0
        self._reel: _Reel | None = None
        self._hush: Hush | None = None
        self._is_ended = False

    def stopwatch(self) -> float:
        """Seconds since the tape was made, in whole microseconds."""
        return (time.monotonic_ns() - self._zero_ns) // 1000 / 1e6

    def clock(self) -> float:
        """When the present pass began; the clock of a taped call, which reads it once a pass.

        Where nothing came in since the last reading, a timer rang: that is a pass of its own.
        """
        if self.is_held:
            self.is_held = False
        else:
            self._turn_over()
            self._is_silent = True
        return self.now

    def _turn_over(self) -> None:
        """A new pass begins; of a timer that rang in vain there is nothing else on the tape."""
        if self._is_silent:
            self.mark(rang=True)
        self.now = self.stopwatch()

    def hear(self, way: int, message: str | bytes) -> None:
        """A message came in, now."""
        self._turn_over()
        self.is_held = True
        self.note(way, message)

    def note(self, way: int, message: str | bytes) -> None:
        """A message, in the present pass."""
        self._is_silent = False
        if self._hush is not None and way == _PROVIDER_IN:
            message = self._hush(message)
        self._entries.append((self.now, way, message))
        self._bytes += len(message) + ENTRY_BYTES
        if self._bytes > BATCH_BYTES or self.now > self._due:
            self._hand_over()

    def heard(self, **members: object) -> None:
        """Something that is no message came in, now."""
        self._turn_over()
        self.is_held = True
        self.mark(**members)

    def mark(self, **members: object) -> None:
        """A line that is no message, in the present pass."""
        self._is_silent = False
        self._put(self.now, members)

    def change(self, link: LinkName, kind: Literal["clogged", "freed", "shut"]) -> None:
        """A link is seen to have changed, in the present pass."""
        if self._is_silent:
            self.mark(rang=True)  # else it would look as if the link had set the call going
        self.mark(link=link, dir="in", kind=kind)

    def aside(self, **members: object) -> None:
        """A line of something that takes its time and belongs to no pass."""
        if self._is_silent:
            self.mark(rang=True)
        self._put(self.stopwatch(), members)

    def _put(self, t: float, members: Mapping[str, object]) -> None:
        self._entries.append((t, _MEMBERS, members))
        self._bytes += ENTRY_BYTES

    def begin(
        self, head: Mapping[str, object], *, token: str = "", hush: Hush | None = None
    ) -> None:
        """The call is admitted: what was noted so far is kept.

        Args:
            head: members of the first line beside the format's, the gateway's and the call's own.
            token: a secret in the provider's messages, hidden wherever it stands there.
            hush: the caller does not know yet that the call is recorded. Until ``keep`` nothing
                reaches the disk, and what came from the provider passes this.
        """
        self.mark(began=True)  # the latest reading is the one the call was given as its start
        self.is_held = True  # and its first pass has the same time
        self._tapes.lost += self._lost
        began = datetime.now(UTC)
        path = self._tapes.folder / f"{began:%Y%m%dT%H%M%S}.{began:%f}Z-{self._call_id}.jsonl"
        first: dict[str, object] = {
            "tape": FORMAT,
            "gateway": __version__,
            "call_id": self._call_id,
        }
        first["started_at"] = began.isoformat(timespec="milliseconds")
        mask = self._tapes.mask
        first["masks"] = ["secrets", "numbers"] if mask.hides_numbers else ["secrets"]
        self._reel = _Reel(path, first | dict(head), mask.with_secret(token))
        self._hush = hush
        if hush is not None:
            self._entries = [_hushed(entry, hush) for entry in self._entries]
        self._hand_over()

    def keep(self) -> None:
        """The caller knows: what was held back is kept, and all that comes."""
        if self._hush is not None:
            self._hush = None
            # What was lost is missing behind what was held.
            gap, self._gap = self._gap, 0
            self._hand_over()
            self._gap = gap

    def hung_up(self, reason: Reason) -> None:
        """The call is ended from outside, at the time it reads next."""
        self.heard(hang_up=reason)

    def stopping(self) -> None:
        """The process goes: the call is ended at once, at the time it reads next."""
        self.heard(stopped=True)

    def end(self, termination: Termination) -> None:
        """The call is over; what is noted later is not kept, nor what was held back."""
        self._turn_over()
        if self._hush is not None:
            self._is_ended, self._hush = True, None
            self._entries, self._bytes = [], 0
            return
        end = {"result": termination.result, "reason": termination.reason}
        self._hand_over(end)
        self._is_ended = True

    def _hand_over(self, end: Mapping[str, str] | None = None) -> None:
        """Give the writer what there is, unless too much waits already."""
        if self._reel is None or self._hush is not None:
            self._forget_early()
            return
        entries, size = self._entries, self._bytes
        self._entries, self._bytes, self._due = [], 0, self.now + BATCH_S
        if self._is_ended or self._reel.is_over:
            return
        if not self._tapes.has_room(size):
            self._lose(len(entries))
            if end is None:
                return
            entries, size = [], 0
        if self._gap:
            t = entries[0][0] if entries else self.now
            entries.insert(0, (t, _MEMBERS, {"lost": self._gap}))
            self._gap = 0
        if end is not None:
            entries.append((self.now, _MEMBERS, {"end": end, "lost": self._lost}))
        self._tapes.take(_Batch(self._reel, entries, size, self._lost, is_last=end is not None))

    def _lose(self, lines: int) -> None:
        self._gap += lines
        self._lost += lines
        self._tapes.lost += lines

    def _forget_early(self) -> None:
        """Whoever is not let in yet may not fill our memory either, nor who is held back."""
        if self._bytes > (EARLY_BYTES if self._reel is None else HELD_BYTES):
            _, way, message = self._entries.pop()
            self._bytes -= ENTRY_BYTES + (0 if way == _MEMBERS else len(message))
            if self._reel is None:
                self._lost += 1
            else:
                self._lose(1)


class TapedLink:
    """A link that notes on a tape what passes; all else is the wrapped link's own."""

    def __init__(self, link: Link, name: LinkName, tape: Tape) -> None:
        self._link = link
        self._name = name
        self._tape = tape
        self._way_in, self._way_out = _WAYS_OF[name]
        self._was_clogged = False
        self._is_shut = self._is_left = False

    @property
    def close_code(self) -> int:
        """As the wrapped link's."""
        return self._link.close_code

    @property
    def close_reason(self) -> str:
        """As the wrapped link's."""
        return self._link.close_reason

    @property
    def is_clogged(self) -> bool:
        """As the wrapped link's; a change is noted where somebody sees it."""
        is_clogged = self._link.is_clogged
        if is_clogged is not self._was_clogged:
            self._was_clogged = is_clogged
            self._tape.change(self._name, "clogged" if is_clogged else "freed")
        return is_clogged

    def listen(self, listener: Listener) -> None:
        """Tell this listener, after the tape."""
        tape, way = self._tape, self._way_in
        hear, tell = tape.hear, listener.message_came

        def message_came(message: str | bytes) -> None:
            if self._is_left:
                return  # nobody listens, and the next session's messages are on tape by now
            hear(way, message)
            tell(message)
            tape.is_held = False

        self._link.listen(
            Listener(
                message_came,
                lambda: self._freed(listener.link_freed),
                lambda: self._left(listener.link_closed),
            )
        )

    def _freed(self, tell: Callable[[], None]) -> None:
        if self._is_left:
            return  # it takes no more of ours, and the next session's changes are on tape by now
        self._was_clogged = False
        self._tape.heard(link=self._name, dir="in", kind="freed")
        tell()
        self._tape.is_held = False

    def _left(self, tell: Callable[[], None]) -> None:
        if self._is_left:
            return
        code, reason = self._link.close_code, self._link.close_reason
        self._tape.heard(link=self._name, dir="in", kind="closed", code=code, reason=reason)
        tell()
        self._tape.is_held = False

    def send(self, *messages: str | bytes) -> None:
        """Write messages, and note them if they could be written, else that they could not.

        Raises:
            ConnectionError: the socket is closed.
        """
        try:
            self._link.send(*messages)
        except ConnectionError:
            if not self._is_shut:
                self._is_shut = True
                self._tape.change(self._name, "shut")
            raise
        for message in messages:
            self._tape.note(self._way_out, message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket."""
        if not self._is_left:  # the call's end may catch up with a close that takes its time
            self._is_left = True
            self._tape.aside(link=self._name, dir="out", kind="closed", code=code, reason=reason)
        await self._link.close(code, reason)


def all_taped(link: Link, outside: Outside, tape: Tape) -> tuple[Link, Outside]:
    """What a call's bridge works with, by way of the tape and by its clock."""
    return TapedLink(link, "provider", tape), replace(
        outside,
        dial=taped_dial(outside.dial, tape),
        clock=tape.clock,
        stopwatch=tape.stopwatch,
        stopping=tape.stopping,
    )


def taped_dial(dial: Dial, tape: Tape) -> Dial:
    """The same dial, which notes each attempt and gives out taped links."""

    async def dial_and_note(*, timeout_s: float, with_fresh_token: bool) -> Link:
        how: dict[str, Any] = {"timeout_s": timeout_s, "with_fresh_token": with_fresh_token}
        began = tape.stopwatch()
        tape.aside(link="realtime", dir="out", kind="dialled", **how)
        try:
            link = await dial(**how)
        except ConnectError as error:
            tape.heard(link="realtime", dir="in", kind="refused", **_refusal(error))
            raise
        took_s = round(tape.stopwatch() - began, 6)
        tape.heard(link="realtime", dir="in", kind="opened", took_s=took_s)
        return TapedLink(link, "realtime", tape)

    return dial_and_note


def _refusal(error: ConnectError) -> dict[str, object]:
    """What the call is told of a refusal."""
    return {
        "result": error.result,
        "can_retry": error.can_retry,
        "retry_after_s": error.retry_after_s,
        "detail": error.detail,
    }


def plain_options(options: Any) -> dict[str, object]:
    """A call's options (a dataclass) as members of the first line: of sound, its bytes' number."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    prompts = values.get("prompts", {})
    return values | {"prompts": {name: len(sound) for name, sound in prompts.items()}}


def plain_query(url: str) -> dict[str, str]:
    """The query of an upgrade's URL as a member of the first line."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _hushed(entry: _Entry, hush: Hush) -> _Entry:
    t, way, message = entry
    return (t, way, hush(message)) if way == _PROVIDER_IN else entry


# ------------------------------------------------------------- in the writer's thread


class _Batch(NamedTuple):
    """What one call hands over at once."""

    reel: "_Reel"
    entries: list[_Entry]
    size_bytes: int
    # Lines of this call lost so far.
    lost: int
    is_last: bool


class _Reel:
    """The file of one tape."""

    def __init__(self, path: Path, head: Mapping[str, object], mask: Mask) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        # Set by the writer, seen by the loop: nothing more is wanted.
        self.is_over = False
        self._head = head
        self._mask = mask
        self._file: BinaryIO | None = None
        self._bytes = 0

    def write(
        self, batch: _Batch, max_bytes: int, open_file: Callable[[Path], BinaryIO]
    ) -> Result | None:
        """Write it down; how the tape ended, if it did.

        Raises:
            OSError: it could not be written.
        """
        if self._file is None:
            self._file = open_file(self.part)
            first = self._mask.head(msgspec.json.encode(self._head).decode())
            self._put(self._file, first.encode() + b"\n")
        lines = _encode_lines(list(map(self._line, batch.entries)))
        if self._bytes + len(lines) > max_bytes:
            self._put(self._file, _cut(lines, batch, max_bytes - self._bytes, max_bytes))
            return self._finish("cut")
        self._put(self._file, lines)
        return self._finish("ok") if batch.is_last else None

    def _put(self, file: BinaryIO, lines: bytes) -> None:
        view = memoryview(lines)
        while view:  # a disk that fills up takes a part first
            view = view[file.write(view) :]
        self._bytes += len(lines)

    def _finish(self, result: Result) -> Result:
        # In this order: a part that nobody holds would be taken for one that a crash has left.
        self.part.rename(self.path)
        self.close()
        return result

    def close(self) -> None:
        """Nothing more is written."""
        self.is_over = True
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _line(self, entry: _Entry) -> _Line | dict[str, object]:
        t, way, data = entry
        if way == _MEMBERS:
            words = {key: self._mask.words(data[key]) for key in _WORDS if key in data}
            return {"t": t, **data, **words}
        link, direction = _WAYS[way]
        if way >= _REALTIME_IN and type(data) is bytes:
            data = _text(data)
            if type(data) is bytes:
                data = self._mask.octets(data)
        if type(data) is str:
            data = self._mask.message(data, link)
        return _Line(t, link, direction, "text" if type(data) is str else "binary", data)


def _text(message: bytes) -> str | bytes:
    """The model's side speaks text, handed over as its UTF-8 bytes."""
    try:
        return str(message, "utf-8")
    except UnicodeDecodeError:
        return message


_encode_lines = msgspec.json.Encoder().encode_lines


def _cut(lines: bytes, batch: _Batch, room_bytes: int, max_bytes: int) -> bytes:
    """The lines there is room for, and one that says that more are missing."""
    kept = lines[: lines.rfind(b"\n", 0, max(0, room_bytes)) + 1]
    t = batch.entries[kept.count(b"\n")][0]
    return kept + _encode_lines([{"t": t, "cut": {"max_bytes": max_bytes}, "lost": batch.lost}])


def _create(path: Path) -> BinaryIO:
    """A new file that its owner alone can read, in a folder that is made where it is missing.

    It is locked while it is open: so every process can tell that it grows.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with suppress(OSError):  # a file system without locks still takes tapes
        fcntl.flock(file, fcntl.LOCK_EX)
    return os.fdopen(file, "wb", 0)


class Tapes:
    """All tapes of a process and the thread that writes them.

    Args:
        folder: where they go.
        max_bytes: a tape that would grow longer is cut there.
        on_end: told in the thread how each tape ended.
        on_lost: told in the thread how many lines were lost since it was last told.
        open_file: makes a new file, unbuffered.
        mask: hides what no tape may hold.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        on_end: Callable[[TapeEnd], None],
        on_lost: Callable[[int], None],
        open_file: Callable[[Path], BinaryIO] = _create,
        mask: Mask | None = None,
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._on_end = on_end
        self._on_lost = on_lost
        self._open_file = open_file
        self.mask = mask or Mask()
        self._queue: deque[_Batch] = deque()
        # Each number is raised by one thread only: their differences need no lock.
        self._taken_bytes = self._done_bytes = 0
        self.lost = self._told_lost = 0
        self._open: set[_Reel] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tapes", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, timeout_s: float = DRAIN_S) -> bool:
        """Write what waits; whether that was done in time."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def tape(self, call_id: str) -> Tape:
        """The tape of a new call."""
        return Tape(self, call_id)

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much more may wait."""
        return self._taken_bytes - self._done_bytes + size_bytes <= MAX_WAITING_BYTES

    def take(self, batch: _Batch) -> None:
        """Let this wait for the disk."""
        self._taken_bytes += batch.size_bytes
        self._queue.append(batch)

    def _run(self) -> None:
        # At the usual priority: a nicer thread that has the interpreter is put off by any busy
        # process on its core, and all calls with it, by up to 0.6 s as measured.
        while not self._stop.wait(PAUSE_S / max(1, len(self._queue))):
            self.write_waiting(most=1)
        self.finish()

    def finish(self) -> None:
        """Write all that waits, and let go of tapes whose end never came."""
        self.write_waiting()
        for reel in self._open:
            reel.close()

    def write_waiting(self, most: int = sys.maxsize) -> None:
        """Write what waits, so many batches at most; the thread's work."""
        while self._queue and most:
            most -= 1
            batch = self._queue.popleft()
            if not batch.reel.is_over:
                self._write(batch)
            self._done_bytes += batch.size_bytes
        lost = self.lost
        if lost > self._told_lost:
            self._on_lost(lost - self._told_lost)
            self._told_lost = lost

    def _write(self, batch: _Batch) -> None:
        reel = batch.reel
        self._open.add(reel)
        try:
            result = reel.write(batch, self._max_bytes, self._open_file)
            end = TapeEnd(result, reel.path) if result else None
        except Exception as error:  # noqa: BLE001  # one bad tape must not end the others
            with suppress(OSError):
                reel.close()
            end = TapeEnd("failed", reel.part, f"{type(error).__name__}: {error}")
        if end is not None:
            self._open.discard(reel)
            self._on_end(end)
