"""Makes a tape smaller while a command still fails on it: a fault of production becomes a test.

The search is delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing
input", 2002): leave out whole turns first, then ever smaller stretches, down to single frames. What
the call needs to come about at all is kept: its start, its session, its end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from gateway.errors import TapeError
from gateway.tape.compare import kind_of
from gateway.tape.reading import Line, Tape, named

# A tape is held in memory while it is made smaller.
MOST_BYTES: Final = 256 * 1024 * 1024
# A pause that is longer may be cut to this.
PAUSE_S: Final = 0.5

_TURN: Final = "input_audio_buffer.speech_started"
_NEEDED: Final = frozenset({"start", "stop", "MEDIA_START", "session.created", "session.updated"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Lines that are left out together: what came in, and all that came of it."""

    lines: tuple[tuple[float, bytes], ...]
    begins_turn: bool = False
    is_needed: bool = False
    # Nothing came in: time passed.
    is_timers: bool = False


@dataclass(frozen=True, slots=True)
class Film:
    """A whole tape in memory: its first line, and the units in order."""

    head: bytes
    units: tuple[Unit, ...]

    def content(self) -> bytes:
        """What a file of it holds."""
        return self.head + b"".join(raw for unit in self.units for _, raw in unit.lines)

    @property
    def lines(self) -> int:
        """How many, the first one included."""
        return 1 + sum(len(unit.lines) for unit in self.units)

    def with_head(self, members: Mapping[str, object]) -> "Film":
        """The same with more in its first line."""
        head = msgspec.json.decode(self.head) | members
        return replace(self, head=msgspec.json.encode(head) + b"\n")


def load(path: Path, *, needs_timers: bool = True) -> Film:
    """Read a tape into memory.

    Args:
        path: the tape.
        needs_timers: what timers did is not left out: nobody records it anew.

    Raises:
        TapeError: it cannot be read, or is larger than ``MOST_BYTES``.
    """
    with named(path), Tape(path) as tape:
        head = tape.raw
        units = tuple(_units(tape, path))
    if not needs_timers:
        units = tuple(replace(unit, is_needed=False) if unit.is_timers else unit for unit in units)
    return Film(head, units)


def _units(tape: Tape, path: Path) -> Iterator[Unit]:
    held: list[tuple[float, bytes]] = []
    first: Line | None = None
    size = 0
    for line in tape:
        size += len(tape.raw)
        if size > MOST_BYTES:
            raise TapeError(f"{path}: longer than {MOST_BYTES} bytes, too long to be made smaller")
        if first is not None and _begins(line, first):
            yield _unit(first, held)
            held, first = [], None
        first = first or line
        held.append((line.t, tape.raw))
    if first is not None:
        yield _unit(first, held)


def _begins(line: Line, first: Line) -> bool:
    """Whether this line is no doing of what the unit began with."""
    is_timers = line.dir == "out" and line.data is not None and line.t != first.t
    is_effect = line.dir == "out" or line.kind == "clogged"
    return is_timers or not is_effect


def _unit(first: Line, held: list[tuple[float, bytes]]) -> Unit:
    kind = kind_of(first.message) if first.data is not None else first.kind
    is_message = first.data is not None and first.dir == "in"
    return Unit(
        tuple(held),
        begins_turn=is_message and kind == _TURN,
        is_needed=not is_message or kind in _NEEDED,
        is_timers=first.rang or (first.dir == "out" and first.data is not None),
    )


class Shrinker:
    """The search.

    Args:
        still_fails: writes a film down, runs the command; whether it fails as at first.
        most_runs: how often that may be asked; then the smallest film so far is the result.
    """

    def __init__(self, still_fails: Callable[[Film], bool], most_runs: int = 1000) -> None:
        self._still_fails = still_fails
        self._most_runs = most_runs
        self.runs = 0

    def shrink(self, film: Film) -> Film:
        """The smallest film that was found to fail; the same one if nothing can go."""
        film = self._without_turns(film)
        size = max(1, len(film.units) // 2)
        while size:
            film = self._without_stretches(film, size)
            size //= 2
        return self._without_pauses(film)

    def _fails(self, film: Film) -> bool:
        if self.runs >= self._most_runs:
            return False
        self.runs += 1
        return self._still_fails(film)

    def _without_turns(self, film: Film) -> Film:
        """Leave out each turn in turn, the last one first."""
        for number in range(len(_turns(film.units)) - 1, -1, -1):
            turns = _turns(film.units)
            parts = [*turns[:number], _needed(turns[number]), *turns[number + 1 :]]
            film = self._tried(film, parts)
        return film

    def _without_stretches(self, film: Film, size: int) -> Film:
        """Leave out stretches of so many units, until none of them can go."""
        at = 0
        while at < len(film.units):
            units, end = film.units, at + size
            kept = _needed(units[at:end])
            smaller = self._tried(film, [units[:at], kept, units[end:]])
            at += size if smaller is film else len(kept)
            film = smaller
        return film

    def _tried(self, film: Film, parts: Sequence[Sequence[Unit]]) -> Film:
        """The film of these parts if it is smaller and fails, else the one there was."""
        units = tuple(unit for part in parts for unit in part)
        if len(units) == len(film.units):
            return film
        smaller = replace(film, units=units)
        return smaller if self._fails(smaller) else film

    def _without_pauses(self, film: Film) -> Film:
        closer = replace(film, units=tuple(_closed_up(film.units)))
        return closer if closer != film and self._fails(closer) else film


def _turns(units: Sequence[Unit]) -> list[Sequence[Unit]]:
    starts = [0, *(at for at, unit in enumerate(units) if unit.begins_turn and at), len(units)]
    return [units[a:b] for a, b in pairwise(starts)]


def _needed(units: Sequence[Unit]) -> Sequence[Unit]:
    return [unit for unit in units if unit.is_needed]


def _closed_up(units: Sequence[Unit]) -> Iterator[Unit]:
    """The same with every long pause cut short."""
    before, cut = 0.0, 0.0
    for unit in units:
        at = unit.lines[0][0]
        cut += max(0.0, at - before - PAUSE_S)
        before = unit.lines[-1][0]
        yield unit if not cut else replace(unit, lines=tuple(_earlier(unit.lines, cut)))


def _earlier(lines: Sequence[tuple[float, bytes]], cut: float) -> Iterator[tuple[float, bytes]]:
    for t, raw in lines:
        line = msgspec.json.decode(raw)
        line["t"] = round(t - cut, 6)
        yield line["t"], msgspec.json.encode(line) + b"\n"
