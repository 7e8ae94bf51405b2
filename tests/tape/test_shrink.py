"""A tape becomes as small as the fault on it allows, and stays a tape."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TapeError
from gateway.tape import shrink
from gateway.tape.judge import judge
from gateway.tape.reading import Tape
from gateway.tape.shrink import Film, Shrinker, Unit, load


def frame(number: int, *, begins_turn: bool = False, is_needed: bool = False) -> Unit:
    """A unit of one line."""
    raw = b'{"t":%d.0,"n":%d}\n' % (number, number)
    return Unit(((float(number), raw),), begins_turn, is_needed)


def numbers(film: Film) -> set[int]:
    """Which frames are left."""
    return {int(raw.rpartition(b":")[2].strip(b"}\n")) for u in film.units for _, raw in u.lines}


@given(
    st.sets(st.integers(0, 79), min_size=1, max_size=5),
    st.sets(st.integers(0, 79), max_size=10),
    st.sets(st.integers(0, 79), max_size=6),
)
def test_what_is_left_is_the_fault_and_what_every_call_needs(
    guilty: set[int], needed: set[int], turns: set[int]
) -> None:
    """Whatever frames the fault needs together, wherever the turns are: nothing else stays."""
    film = Film(
        b"{}\n", tuple(frame(n, begins_turn=n in turns, is_needed=n in needed) for n in range(80))
    )
    shrinker = Shrinker(lambda smaller: guilty <= numbers(smaller), most_runs=10_000)

    assert numbers(shrinker.shrink(film)) == guilty | needed


def test_the_runs_are_bounded() -> None:
    """A slow command is not run for ever; what was found so far is the result."""
    film = Film(b"{}\n", tuple(map(frame, range(400))))
    shrinker = Shrinker(lambda smaller: {7, 300} <= numbers(smaller), most_runs=9)
    smaller = shrinker.shrink(film)

    assert shrinker.runs == 9
    assert {7, 300} <= numbers(smaller)
    assert len(smaller.units) < 400


def test_long_pauses_are_cut_where_the_fault_allows_it() -> None:
    """The order stays, and the times of what is near."""
    film = Film(b"{}\n", (frame(0, is_needed=True), frame(60, is_needed=True)))
    closer = Shrinker(lambda _: True).shrink(film)

    assert [unit.lines[0][0] for unit in closer.units] == [0.0, 0.5]
    assert Shrinker(lambda _: False).shrink(film) == film


def test_a_real_call_is_cut_into_what_came_and_what_came_of_it(call_on_tape: Path) -> None:
    """Put together again it is the same tape."""
    film = load(call_on_tape)

    assert film.content() == call_on_tape.read_bytes()
    assert sum(unit.begins_turn for unit in film.units) >= 2
    assert sum(unit.is_needed for unit in film.units) < 20


def test_a_barge_in_is_found_in_a_real_call(call_on_tape: Path, tmp_path: Path) -> None:
    """Most of the call goes; a call that can be replayed, and is interrupted, is left."""
    path = tmp_path / "smaller.jsonl"

    def is_interrupted(film: Film) -> bool:
        path.write_bytes(film.content())
        facts = judge(path).replayed.facts
        return any(type(fact).__name__ == "BargedIn" for _, fact in facts)

    film = load(call_on_tape)
    smaller = Shrinker(is_interrupted, most_runs=150).shrink(film)

    assert is_interrupted(smaller)
    assert smaller.lines < film.lines / 4


def test_a_tape_that_is_too_long_says_so(
    call_on_tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(shrink, "MOST_BYTES", 100_000)

    with pytest.raises(TapeError, match="too long to be made smaller"):
        load(call_on_tape)


def test_raw_lines_are_those_of_the_file(call_on_tape: Path) -> None:
    """The reader hands them over as they are."""
    with Tape(call_on_tape) as tape:
        raw = [tape.raw, *(tape.raw for _ in tape)]

    assert b"".join(raw) == call_on_tape.read_bytes()
