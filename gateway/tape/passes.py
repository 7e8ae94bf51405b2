"""Puts a tape's lines together again as the passes in which the call worked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import TapeError
from gateway.tape.reading import Line

# Lines "out" that take their time and belong to no pass.
ASIDES: Final = frozenset({"dialled", "closed"})
# What the call notices of a link while it writes; that it is free again the link may also tell.
_NOTICED: Final = frozenset({"clogged", "shut", "freed"})
_SHOWN: Final = _NOTICED - {"freed"}
# Lines of one pass; a barge-in into a minute of speech makes a few.
MOST_LINES: Final = 10_000

# Name, messages taken so far, kind.
Change = tuple[str, int, str]


@dataclass(slots=True)
class Pass:
    """What set the call going at ``t`` (None: a timer), and what it sent then.

    ``changes``: a link's name, how many messages it had taken in this pass, what it was then.
    """

    t: float
    cause: Line | None
    sent: list[Line] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Aside:
    """A line between the passes."""

    line: Line


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more can be replayed: the call's ``end``, or a place where lines are missing."""

    line: Line


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
        belongs = current is not None and line.t == current.t and _is_effect(line, within=True)
        if line.end is None and (line.cut is not None or line.lost):
            yield Stop(line)
            return
        if not belongs and current is not None:
            yield current
            current = None
        if line.end is not None:
            yield Stop(line)
            return
        if line.dir == "out" and line.kind in ASIDES:
            yield Aside(line)
            continue
        if current is None:
            current = Pass(line.t, None if line.rang or _is_effect(line) else line)
        if belongs or _is_effect(line):
            _add(current, line)


def _is_effect(line: Line, *, within: bool = False) -> bool:
    """Whether a pass did this; a link that is free again may also begin one."""
    is_sent = line.dir == "out" and line.data is not None
    return is_sent or line.kind in (_NOTICED if within else _SHOWN)


def _add(current: Pass, line: Line) -> None:
    if line.dir == "out":
        current.sent.append(line)
    else:
        taken = sum(sent.link == line.link for sent in current.sent)
        current.changes.append((line.link, taken, line.kind))
    if len(current.sent) + len(current.changes) > MOST_LINES:
        raise TapeError(f"at {line.t:.6f} s: more than {MOST_LINES} lines of one moment")
