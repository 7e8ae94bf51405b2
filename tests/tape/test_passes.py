"""Lines that belong together are put together."""

import pytest

from gateway.errors import TapeError
from gateway.tape.passes import MOST_LINES, Aside, Pass, Step, Stop, steps
from gateway.tape.reading import Ending, Line


def heard(t: float, link: str = "provider") -> Line:
    """A message came in."""
    return Line(t, link, "in", "text", "heard")


def sent(t: float, link: str = "provider", data: str = "sent") -> Line:
    """A message went out."""
    return Line(t, link, "out", "text", data)


def event(t: float, link: str, direction: str, kind: str) -> Line:
    """Something that is no message."""
    return Line(t, link, direction, kind)


TO_PROVIDER, TO_MODEL = ("provider", "sent"), ("realtime", b"sent")
END = Line(99.0, end=Ending("success", "caller_hangup"))


def steps_of(*lines: Line) -> list[Step]:
    """All of them but the end."""
    *found, last = steps((*lines, END))
    assert last == Stop(END)
    return found


def test_what_is_sent_at_the_time_of_a_message_is_its_doing() -> None:
    """One pass: what came in, and what went out on both links."""
    came, first, second = heard(1.0), sent(1.0), sent(1.0, "realtime")

    assert steps_of(came, first, second) == [Pass(1.0, came, [TO_PROVIDER, TO_MODEL])]


def test_what_is_sent_later_is_a_timers_doing() -> None:
    """Each moment is a pass of its own."""
    came, early, late = heard(1.0), sent(1.5), sent(2.0)

    assert steps_of(came, early, late) == [
        Pass(1.0, came),
        Pass(1.5, None, [TO_PROVIDER]),
        Pass(2.0, None, [TO_PROVIDER]),
    ]


def test_two_messages_are_two_passes_even_at_the_same_moment() -> None:
    """A clock may be coarse."""
    first, second, answer = heard(1.0), heard(1.0, "realtime"), sent(1.0)

    assert steps_of(first, second, answer) == [Pass(1.0, first), Pass(1.0, second, [TO_PROVIDER])]


def test_a_timer_that_did_nothing_is_a_pass() -> None:
    """It may have changed what the call waits for."""
    assert steps_of(Line(1.0, rang=True)) == [Pass(1.0, None)]


def test_a_link_clogs_behind_what_it_took_in_that_pass() -> None:
    """The others' messages do not count, and it may be free again before the pass is over."""
    came, other, taken = heard(1.0), sent(1.0, "realtime"), sent(1.0)
    clogged = event(1.0, "provider", "in", "clogged")
    freed = event(1.0, "provider", "in", "freed")

    assert steps_of(came, other, taken, clogged, freed) == [
        Pass(
            1.0,
            came,
            [TO_MODEL, TO_PROVIDER],
            [("provider", 1, "clogged"), ("provider", 1, "freed")],
        )
    ]


def test_a_link_that_is_free_later_sets_the_call_going() -> None:
    """What waited goes then."""
    freed, went = event(2.0, "provider", "in", "freed"), sent(2.0)

    assert steps_of(freed, went) == [Pass(2.0, freed, [TO_PROVIDER])]


def test_what_a_timer_notices_of_a_link_is_its_doing() -> None:
    """A socket found closed, or free again behind a timer that is told of."""
    shut, rang = event(1.0, "realtime", "in", "shut"), Line(2.0, rang=True)
    freed = event(2.0, "provider", "in", "freed")

    assert steps_of(shut, rang, freed) == [
        Pass(1.0, None, [], [("realtime", 0, "shut")]),
        Pass(2.0, None, [], [("provider", 0, "freed")]),
    ]


def test_a_pass_that_never_ends_is_no_calls() -> None:
    """It would have to be held in memory."""
    with pytest.raises(TapeError, match=r"at 1.000000 s: more than \d+ lines of one moment"):
        steps_of(heard(1.0), *[sent(1.0)] * (MOST_LINES + 1))


def test_dialling_and_closing_stand_aside() -> None:
    """They take their time."""
    dialled, closed = event(1.0, "realtime", "out", "dialled"), event(1.0, "p", "out", "closed")
    opened = event(1.5, "realtime", "in", "opened")

    assert steps_of(dialled, opened, closed) == [Aside(dialled), Pass(1.5, opened), Aside(closed)]


def test_the_end_and_a_gap_stop_the_replay() -> None:
    """Behind a gap nobody knows what the call had heard."""
    gap, behind = Line(3.0, lost=7), heard(4.0)

    assert list(steps((heard(1.0), END, behind))) == [Pass(1.0, heard(1.0)), Stop(END)]
    assert list(steps((gap, behind, END))) == [Stop(gap)]


@pytest.mark.parametrize("gap", [Line(1.0, lost=7), Line(1.0, cut={"max_bytes": 9})])
def test_the_last_pass_before_a_gap_is_left_out(gap: Line) -> None:
    """What is missing may be what was sent in it."""
    assert list(steps((heard(1.0), sent(1.0), heard(2.0), sent(2.0), gap))) == [
        Pass(1.0, heard(1.0), [TO_PROVIDER]),
        Stop(gap),
    ]


def test_the_last_pass_of_a_tape_that_was_cut_short_is_left_out() -> None:
    """Nobody knows what else was sent in it."""
    assert list(steps((heard(1.0), sent(1.0), heard(2.0)))) == [
        Pass(1.0, heard(1.0), [TO_PROVIDER])
    ]
