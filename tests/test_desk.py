"""What the parts of a call share."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.desk import COUNT_EVERY_MS, Desk
from gateway.events import AudioCounted, AudioDropped, MarksLost


def test_due_alarms_come_earliest_first_and_once() -> None:
    """Two things that are due happen in the order in which they were due."""
    desk = Desk()
    for name, at in (("later", 2.0), ("sooner", 1.0), ("not yet", 9.0)):
        desk.alarms[name] = at

    assert [desk.take_due(2.0) for _ in range(3)] == ["sooner", "later", None]
    assert desk.alarms == {"not yet": 9.0}


def test_silencing_an_alarm_that_was_not_set_is_harmless() -> None:
    """A part need not know whether another has set the alarm."""
    desk = Desk()
    desk.alarms["idle"] = 1.0
    desk.silence("idle", "answer")

    assert desk.alarms == {}


def test_carried_audio_is_told_about_once_a_second() -> None:
    """Fifty frames are one fact, and nothing of them is lost."""
    desk = Desk()
    for _ in range(COUNT_EVERY_MS // 20 + 1):
        desk.count("up", 20)
    desk.tell_counts()
    desk.tell_counts()

    assert desk.facts == [AudioCounted("up", 1000.0), AudioCounted("up", 20.0)]


def test_dropping_nothing_is_not_told() -> None:
    """Operators see drops, not the absence of them."""
    desk = Desk()
    desk.drop("down", "cancelled", 0)
    desk.drop("down", "cancelled", 20)
    desk.tell(MarksLost())

    assert desk.facts == [AudioDropped("down", "cancelled", 20), MarksLost()]


names = st.sampled_from(["idle", "answer", "max call"])


@given(st.lists(st.tuples(names, st.none() | st.floats(0, 9), st.booleans())))
def test_the_earliest_alarm_is_always_known(
    changes: list[tuple[str, float | None, bool]],
) -> None:
    """Set, moved, silenced, all cleared, asked for in between or not."""
    desk = Desk()
    for name, at, is_asked in changes:
        if at is None:
            desk.silence(name)
        elif at > 8:  # now and then
            desk.alarms.clear()
        else:
            desk.alarms[name] = at
        if is_asked:
            desk.alarms.earliest()

    assert desk.alarms.earliest() == min(desk.alarms.values(), default=None)
