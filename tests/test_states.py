"""The two state tables of a call."""

import pytest

from gateway.errors import LocalProtocolError
from gateway.states import LIFECYCLE, TURN, Lifecycle, Machine, Turn, diagram


def test_a_step_leads_where_the_table_says() -> None:
    """A step moves the machine and says whether that changed the state."""
    machine = Machine(LIFECYCLE, Lifecycle.STARTING)

    assert machine.step("session ready")
    assert machine.state is Lifecycle.ACTIVE


def test_a_step_that_stays_is_no_change() -> None:
    """Being owed an answer twice is one change of state, not two."""
    machine = Machine(TURN, Turn.LISTENING)

    assert [machine.step("answer owed"), machine.step("answer owed")] == [True, False]
    assert machine.state is Turn.THINKING


def test_a_step_that_does_not_exist_names_state_and_step() -> None:
    """A bug of ours is reported with both names that find it, and moves nothing."""
    machine = Machine(LIFECYCLE, Lifecycle.ENDING)

    with pytest.raises(LocalProtocolError, match="no step 'session ready' in state 'ending'"):
        machine.step("session ready")
    assert machine.state is Lifecycle.ENDING


def test_can_asks_without_stepping() -> None:
    """Whether a step exists can be asked before it is taken."""
    machine = Machine(LIFECYCLE, Lifecycle.ACTIVE)

    assert machine.can("last words")
    assert not machine.can("session ready")
    assert machine.state is Lifecycle.ACTIVE


def test_every_state_has_a_row() -> None:
    """No state is reached that the tables do not describe."""
    assert set(LIFECYCLE) == set(Lifecycle)
    assert set(TURN) == set(Turn)


def test_every_lifecycle_state_can_be_over_but_the_last() -> None:
    """A call can end from anywhere, and what has ended stays ended."""
    assert all("over" in steps for state, steps in LIFECYCLE.items() if state != Lifecycle.ENDED)
    assert not LIFECYCLE[Lifecycle.ENDED]


def test_every_turn_takes_every_step() -> None:
    """Events of the two sides may cross in any order without a step going missing."""
    steps = {frozenset(row) for row in TURN.values()}

    assert steps == {frozenset({"caller speaks", "answer owed", "agent speaks", "answer over"})}


@pytest.mark.parametrize("state", Turn)
def test_a_caller_who_speaks_is_listened_to(state: Turn) -> None:
    """Whoever had the turn, the caller takes it."""
    machine = Machine(TURN, state)
    machine.step("caller speaks")

    assert machine.state is Turn.LISTENING


def test_the_diagram_shows_every_change_of_state_and_no_other() -> None:
    """The picture in the README is drawn from the tables, arrow by arrow."""
    lines = [line.strip() for line in diagram().splitlines()]
    changes = {
        (str(state), str(target))
        for table in (LIFECYCLE, TURN)
        for state, steps in table.items()
        for target in steps.values()
        if target is not state
    }

    arrows = [line.partition(":")[0].split(" --> ") for line in lines if " --> " in line]
    assert {(start, end) for start, end in arrows if "[*]" not in (start, end)} == changes
    assert [line for line in lines if "[*]" in line] == [
        "[*] --> starting",
        "ended --> [*]",
        "[*] --> listening",
    ]
