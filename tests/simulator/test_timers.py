"""Named timers on a clock that is handed in."""

from gateway.simulator.timers import Timers


def test_timers_run_in_order_of_time_once() -> None:
    """Everything due runs, earliest first, and only once."""
    timers = Timers()
    ran: list[str] = []
    timers.set("late", 2.0, lambda _now: ran.append("late"))
    timers.set("early", 1.0, lambda _now: ran.append("early"))
    timers.set("never", 9.0, lambda _now: ran.append("never"))

    timers.run(5.0)
    timers.run(5.0)

    assert ran == ["early", "late"]
    assert timers.next_s() == 9.0


def test_setting_again_moves_and_dropping_forgets() -> None:
    """A name has one timer; without any there is nothing to wait for."""
    timers = Timers()
    timers.set("a", 1.0, lambda _now: None)
    timers.set("a", 3.0, lambda _now: None)
    assert timers.next_s() == 3.0

    timers.drop("a")
    timers.drop("a")

    assert timers.next_s() is None


def test_an_action_can_drop_another_that_is_due() -> None:
    """What an earlier action forgot does not run, even in the same look."""
    timers = Timers()
    ran: list[str] = []
    timers.set("first", 1.0, lambda _now: timers.drop("second"))
    timers.set("second", 2.0, lambda _now: ran.append("second"))

    timers.run(3.0)

    assert ran == []


def test_a_timer_set_by_an_action_waits_for_the_next_look() -> None:
    """One look ends, whatever its actions set."""
    timers = Timers()
    timers.set("again", 1.0, lambda now: timers.set("again", now, lambda _now: None))

    timers.run(1.0)

    assert timers.next_s() == 1.0


def test_the_action_is_told_the_time() -> None:
    """It gets the time of the look, not the time it was due."""
    timers = Timers()
    told: list[float] = []
    timers.set("a", 1.0, told.append)

    timers.run(1.5)
    timers.clear()

    assert told == [1.5]
