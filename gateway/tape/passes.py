"""Puts a tape's lines together again as the passes in which the call worked."""

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

# Name, messages taken so far, kind.
Change = tuple[str, int, str]


class Pass(Struct):
    """What set the call going at ``t`` (None: a timer), and what it sent then.

    ``changes``: a link's name, how many messages it had taken in this pass, what it was then.
    """

    t: float
    cause: Line | None
    sent: list[Line] = []
    changes: list[Change] = []


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
        if current is not None and line.t == current.t and _is_effect(line, _NOTICED):
            _add(current, line)
            continue
        is_gap = line.end is None and (line.cut is not None or line.lost != 0)
        if current is not None and not is_gap:
            yield current
        if is_gap or line.end is not None:
            yield Stop(line)
            return
        current = None
        if line.dir == "out" and line.kind in ASIDES:
            yield Aside(line)
        else:
            current = _begun(line)


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
    if line.data is not None:
        current.sent.append(line)
    else:
        taken = sum(sent.link == line.link for sent in current.sent)
        current.changes.append((line.link, taken, line.kind))
    if len(current.sent) + len(current.changes) > MOST_LINES:
        raise TapeError(f"at {current.t:.6f} s: more than {MOST_LINES} lines of one moment")
