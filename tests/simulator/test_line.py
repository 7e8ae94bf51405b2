"""The log of what passed on a line."""

from gateway.simulator.line import Log, Moment


def test_the_log_keeps_kinds_apart_and_details_short() -> None:
    """Moments come back by kind, in order, with their details cut."""
    log = Log()
    log.add(1.0, "mark", "a")
    log.add(2.0, "clear", amount_ms=20)
    log.add(3.0, "mark", "b" * 999)
    assert log.of("mark") == [Moment(1.0, "mark", "a"), Moment(3.0, "mark", "b" * 200)]
    assert log.of("clear") == [Moment(2.0, "clear", "", 20)]
