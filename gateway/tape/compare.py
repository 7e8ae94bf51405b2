"""Compares what a call sent with what it sends in a replay, exactly or in its shape."""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import chain, repeat
from typing import Final
from zlib import crc32

import msgspec

from gateway.tape.passes import Sent
from gateway.tape.reading import Line
from gateway.tape.replay import Played

# Two runs of audio may differ by this much and still have the same shape.
TOLERANCE_MS: Final = 60.0
# Differences that are kept to be shown; the others are counted.
MOST_SHOWN: Final = 10
# Lines of one difference that are shown.
MOST_LINES: Final = 40

# Longer stretches that differ are not put side by side: that takes time by the square.
MOST_MATCHED: Final = 500

_LONG = re.compile(r"[A-Za-z0-9+/=]{49,}")
_MOST_CHARS: Final = 300
# Shown of what is alike, before the place where two long messages differ.
_CHARS_BEFORE: Final = 100
_TRUNCATE: Final = "conversation.item.truncate"
_PEERS: Final = {"provider": "to the provider", "realtime": "to the model"}
# Of one stretch of sound: how many marks stand in it depends on when the deltas came.
_SOUND: Final = frozenset({"media", "mark", "input_audio_buffer.append", "audio", "MARK_MEDIA"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a replay went another way.

    ``where`` says in words what the call was doing; ``lines`` begin with "- " (expected), "+ "
    (came) or two blanks (both).
    """

    t: float
    where: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        shown = "\n".join(self.lines[:MOST_LINES])
        more = len(self.lines) - MOST_LINES
        parts = (f"at {self.t:.6f} s, {self.where}", shown, f"  ... {more} lines more" * (more > 0))
        return "\n".join(filter(None, parts))


@dataclass(slots=True)
class Comparison:
    """What was found; ``count`` goes on where ``differences`` is full."""

    count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference) -> None:
        """One more."""
        self.count += 1
        if self.has_room:
            self.differences.append(difference)

    @property
    def has_room(self) -> bool:
        """Whether one more would be shown."""
        return len(self.differences) < MOST_SHOWN


class Exact:
    """Every message byte for byte, in its pass.

    Args:
        mask: what was done to a message (link, text) before it was put on tape.
    """

    def __init__(self, mask: Callable[[str, str], str] = lambda _, text: text) -> None:
        self.found = Comparison()
        self._mask = mask

    def watch(self, played: Played) -> None:
        """Look at one pass."""
        if played.expected == played.came:
            return
        expected, came = _readable(played.expected), _readable(played.came)
        came = [(link, self._masked(link, message)) for link, message in came]
        if expected != came and not self.found.has_room:
            self.found.count += 1
        elif expected != came:
            self.found.add(Difference(played.t, _where(played), _diff(expected, came)))

    def _masked(self, link: str, message: str | bytes) -> str | bytes:
        return self._mask(link, message) if isinstance(message, str) else message


def _readable(sent: Sequence[Sent]) -> list[Sent]:
    """The model's messages as text, where they are text."""
    return [(link, _text(message) if link == "realtime" else message) for link, message in sent]


def _text(message: str | bytes) -> str | bytes:
    try:
        return message.decode() if isinstance(message, bytes) else message
    except UnicodeDecodeError:
        return message


def _where(played: Played) -> str:
    call = played.call
    state = f"the call was {call.lifecycle} and {call.turn}" if call else "before the call"
    return f"when {cause_in_words(played.cause)}; {state}"


def cause_in_words(cause: Line | None) -> str:
    """What set a pass off: "the model said response.done"."""
    if cause is None:
        return "a timer rang"
    if cause.began:
        return "the call began"
    if cause.hang_up:
        return f"it was hung up ({cause.hang_up})"
    if cause.stopped:
        return "the gateway stopped"
    who = "the provider" if cause.link == "provider" else "the model"
    if cause.data is not None:
        return f"{who} said {kind_of(cause.message)}"
    return f"{who}'s line was {cause.kind}"


def _diff(expected: Sequence[Sent], came: Sequence[Sent]) -> tuple[str, ...]:
    return tuple(_diff_lines(expected, came))


def _diff_lines(expected: Sequence[Sent], came: Sequence[Sent]) -> Iterator[str]:
    for tag, a0, a1, b0, b1 in _matched(expected, came):
        if tag == "equal":
            yield from (f"  {_shown(sent)}" for sent in expected[a0:a1])
        else:
            starts = list(map(_start, expected[a0:a1], came[b0:b1]))
            for sign, side in (("-", expected[a0:a1]), ("+", came[b0:b1])):
                pairs = zip(side, chain(starts, repeat(0)), strict=False)
                yield from (f"{sign} {_shown(sent, start)}" for sent, start in pairs)


def _matched(
    was: Sequence[Hashable], is_now: Sequence[Hashable]
) -> Iterator[tuple[str, int, int, int, int]]:
    """As ``SequenceMatcher.get_opcodes``, in bounded time.

    What is alike at both ends is set aside: the rest is short, unless the two have nothing to do
    with one another; then it is one difference.
    """
    head = _alike(was, is_now)
    tail = _alike(was[:head:-1], is_now[:head:-1])
    a1, b1 = len(was) - tail, len(is_now) - tail
    if head:
        yield "equal", 0, head, 0, head
    if max(a1, b1) - head > MOST_MATCHED:
        yield "replace", head, a1, head, b1
    else:
        matcher = SequenceMatcher(None, was[head:a1], is_now[head:b1], autojunk=False)
        for tag, *places in matcher.get_opcodes():
            yield tag, *(head + place for place in places)  # type: ignore[misc]  # four of them
    if tail:
        yield "equal", a1, len(was), b1, len(is_now)


def _start(was: Sent, is_now: Sent) -> int:
    """From which character on to show two messages, so that their difference can be seen."""
    texts = [_LONG.sub(_digested, text) for _, text in (was, is_now) if isinstance(text, str)]
    same = _alike(*texts) if len(texts) == 2 else 0  # noqa: PLR2004  # both are text
    return max(0, same - _CHARS_BEFORE) if same > _MOST_CHARS - _CHARS_BEFORE else 0


def _alike(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """How many are the same at the beginning."""
    both = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(both) if a != b), min(len(one), len(other)))


def _shown(sent: Sent, start: int = 0) -> str:
    link, message = sent
    return f"{_PEERS.get(link, link)}: {shortened(message, start)}"


def shortened(message: str | bytes, start: int = 0) -> str:
    """One line of a message, from this character on; sound becomes its length and checksum."""
    if isinstance(message, bytes):
        return f"<{len(message)} bytes, {crc32(message):08x}>"
    text = _LONG.sub(_digested, message)
    shown = text[start : start + _MOST_CHARS]
    return "..." * bool(start) + shown + "..." * (len(text) > start + _MOST_CHARS)


def _digested(found: re.Match[str]) -> str:
    return f"<{len(found[0])} chars, {crc32(found[0].encode()):08x}>"


# ------------------------------------------------------------- the shape


class _Media(msgspec.Struct):
    payload: str = ""


class _Kind(msgspec.Struct):
    type: str = ""
    event: str = ""
    command: str = ""
    media: _Media | None = None
    audio: str = ""
    audio_end_ms: int = 0


def kind_of(message: str | bytes) -> str:
    """What a message is: its "type" or "event", the first word of plain text, "audio"."""
    if isinstance(message, bytes):
        return "audio"
    if not message.startswith("{"):
        return message.split(" ", 1)[0][:32] or "nothing"
    kind = _read(message)
    return kind.type or kind.event or kind.command or "unknown"


def _read(message: str) -> _Kind:
    try:
        return msgspec.json.decode(message, type=_Kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Kind()


def _audio_bytes(message: str | bytes) -> int:
    if isinstance(message, bytes):
        return len(message)
    if not message.startswith("{"):
        return 0
    kind = _read(message)
    text = kind.media.payload if kind.media else kind.audio
    return len(text) * 3 // 4 - text[-2:].count("=")


@dataclass(slots=True)
class _Run:
    """Messages of one kind in a row; sound and its marks are one run."""

    kind: str
    t: float
    audio_bytes: int = 0
    # What the model is told was heard.
    heard_ms: int = 0


class Shape:
    """The same kinds in the same order, and as much sound give or take a tolerance."""

    def __init__(self) -> None:
        self._expected: dict[str, list[_Run]] = {}
        self._came: dict[str, list[_Run]] = {}

    def watch(self, played: Played) -> None:
        """Look at one pass."""
        for runs, sent in ((self._expected, played.expected), (self._came, played.came)):
            for link, message in _readable(sent):
                _extend(runs.setdefault(link, []), played.t, message)

    def compare(
        self, bytes_per_ms: dict[str, int], tolerance_ms: float = TOLERANCE_MS
    ) -> Comparison:
        """What differs, all in all.

        Args:
            bytes_per_ms: of the sound on each link.
            tolerance_ms: how much longer or shorter a stretch of sound may be.
        """
        found = Comparison()
        for link in sorted(self._expected.keys() | self._came.keys()):
            expected, came = self._expected.get(link, []), self._came.get(link, [])
            per_ms = bytes_per_ms.get(link, 8)
            for difference in _differences(link, expected, came, per_ms, tolerance_ms):
                found.add(difference)
        return found


def _extend(runs: list[_Run], t: float, message: str | bytes) -> None:
    kind = kind_of(message)
    kind = "sound" if kind in _SOUND else kind
    if not runs or runs[-1].kind != kind or kind != "sound":
        runs.append(_Run(kind, t))
    if kind == "sound":
        runs[-1].audio_bytes += _audio_bytes(message)
    elif kind == _TRUNCATE and isinstance(message, str):
        runs[-1].heard_ms = _read(message).audio_end_ms


def _differences(
    link: str, expected: list[_Run], came: list[_Run], per_ms: int, tolerance_ms: float
) -> Iterator[Difference]:
    kinds = [run.kind for run in expected], [run.kind for run in came]
    where = _PEERS.get(link, link)
    for tag, a0, a1, b0, b1 in _matched(*kinds):
        if tag != "equal":
            at = (expected[a0 : a0 + 1] or came[b0 : b0 + 1] or expected[-1:])[0].t
            lines = (*_listed("- ", expected[a0:a1], per_ms), *_listed("+ ", came[b0:b1], per_ms))
            yield Difference(at, where, lines)
            continue
        for was, is_now in zip(expected[a0:a1], came[b0:b1], strict=True):
            sound_ms = (was.audio_bytes - is_now.audio_bytes) / per_ms
            if max(abs(sound_ms), abs(was.heard_ms - is_now.heard_ms)) > tolerance_ms:
                lines = (*_listed("- ", [was], per_ms), *_listed("+ ", [is_now], per_ms))
                yield Difference(was.t, where, lines)


def _listed(prefix: str, runs: Iterable[_Run], per_ms: int) -> list[str]:
    lengths = ((run, run.audio_bytes / per_ms or run.heard_ms) for run in runs)
    return [f"{prefix}{run.kind}" + (f", {ms:.0f} ms" if ms else "") for run, ms in lengths]
