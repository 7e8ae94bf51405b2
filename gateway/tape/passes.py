"""Puts a tape's lines together again as the passes in which the call worked."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from gateway.errors import TapeError
from gateway.tape.reading import Line

# Lines "out" that take their time and belong to no pass.
ASIDES: Final = frozenset({"dialled", "closed"})
# What the call notices of a link while it writes; that it is free again the link may also tell.
_NOTICED: Final = frozenset({"clogged", "shut", "freed"})
_SHOWN: Final = _NOTICED - {"freed"}
# Lines of one pass; a barge-in into a minute of speech makes a few.
MOST_LINES: Final = 10_000
# Steps that are looked at before they are taken; more than a call has in a tenth of a second.
MOST_AHEAD: Final = 1000

# Name, messages taken so far, kind.
Change = tuple[str, int, str]
# To which link, what.
Sent = tuple[str, str | bytes]


class Pass(Struct):
    """What set the call going at ``t`` (None: a timer), and what it sent then, as on the wire.

    ``changes``: a link's name, how many messages it had taken in this pass, what it was then.
    """

    t: float
    cause: Line | None
    sent: list[Sent] = []
    changes: list[Change] = []


@dataclass(frozen=True, slots=True)
class Aside:
    """A line between the passes."""

    line: Line

    @property
    def t(self) -> float:
        """When it was."""
        return self.line.t


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more can be replayed: the call's ``end``, or a place where lines are missing."""

    line: Line

    @property
    def t(self) -> float:
        """When it was."""
        return self.line.t


Step = Pass | Aside | Stop


def steps(lines: Iterable[Line]) -> Iterator[Step]:
    """The steps of a tape, in order; after a ``Stop`` there are none.

    Of a tape that was cut short the last pass is left out, and the last one before a gap: lines of
    them may be missing.

    Raises:
        TapeError: a pass is longer than any call's.
    """
    current: Pass | None = None
    for line in lines:
        is_message = line.data is not None
        # As ``_is_effect`` has it: a call less for each message.
        is_effect = line.dir == "out" if is_message else line.kind in _NOTICED
        if is_effect and current is not None and line.t == current.t:
            _add(current, line)
            continue
        is_gap = line.end is None and (line.cut is not None or line.lost != 0)
        if current is not None and not is_gap:
            yield current
        if is_gap or line.end is not None:
            yield Stop(line)
            return
        if is_message and not is_effect:
            current = Pass(line.t, None if line.rang else line)
            continue
        current = None
        if line.dir == "out" and line.kind in ASIDES:
            yield Aside(line)
        else:
            current = _begun(line)


class Ahead:
    """Steps that can be looked at before they are taken, one after the other."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = iter(steps)
        # The present one first.
        self._seen: deque[Step] = deque()

    def __iter__(self) -> Iterator[Step]:
        while self._sees(0):
            yield self._seen[0]
            self._seen.popleft()

    def has_timer(self, until: float) -> bool:
        """Whether a timer rings, or the model is dialled, from the present step to this time."""
        for number in range(MOST_AHEAD):
            if not self._sees(number) or self._seen[number].t > until:
                return False
            if _is_timers(self._seen[number]):
                return True
        return False

    def _sees(self, number: int) -> bool:
        while len(self._seen) <= number:
            step = next(self._steps, None)
            if step is None:
                return False
            self._seen.append(step)
        return True


def _is_timers(step: Step) -> bool:
    """Whether time did this: a pass that nothing set off, or a dial."""
    if isinstance(step, Pass):
        return step.cause is None
    return isinstance(step, Aside) and step.line.kind == "dialled"


def _is_effect(line: Line, kinds: frozenset[str]) -> bool:
    """Whether a pass did this; a link that is free again may also begin one."""
    return line.kind in kinds if line.data is None else line.dir == "out"


def _begun(line: Line) -> Pass:
    if not _is_effect(line, _SHOWN):
        return Pass(line.t, None if line.rang else line)
    begun = Pass(line.t, None)
    _add(begun, line)
    return begun


def _add(current: Pass, line: Line) -> None:
    sent, changes = current.sent, current.changes
    if line.data is not None:
        sent.append((line.link, on_the_wire(line)))
    else:
        taken = sum(link == line.link for link, _ in sent)
        changes.append((line.link, taken, line.kind))
    if len(sent) + len(changes) > MOST_LINES:
        raise TapeError(f"at {current.t:.6f} s: more than {MOST_LINES} lines of one moment")


def on_the_wire(line: Line) -> str | bytes:
    """A message as a link hands it over: the model's side speaks text, as its UTF-8 bytes.

    Raises:
        TapeError: the bytes of a binary message cannot be read.
    """
    if line.kind == "binary":
        return line.message
    data = line.data or ""
    return data.encode() if line.link == "realtime" else data
