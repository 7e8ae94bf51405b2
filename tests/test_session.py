"""The line to the model, with nobody at either end and a clock that is told the time."""

import pytest

from gateway.desk import Desk
from gateway.events import (
    CloseRealtime,
    ConfigureSession,
    DialRealtime,
    RealtimeConnected,
    RealtimeDialled,
    RealtimeLost,
    RealtimeRefused,
    SessionCreated,
)
from gateway.session import RENEWAL_PAUSE_S, ROLLOVER_MARGIN_S, Session
from tests.lab import options


def session(unix_offset_s: float = 0.0) -> tuple[Session, Desk]:
    """A session that begins to dial at 0 s."""
    desk = Desk()
    return Session(desk, options(), 0.0, unix_offset_s=unix_offset_s), desk


def test_dials_at_once_within_the_budget() -> None:
    """The driver has a little less than the budget, so that its reason is known in time."""
    _, desk = session()

    assert list(desk.to_realtime) == [DialRealtime(0.0, 4.9)]
    assert desk.alarms == {"connect": 5.0}


def test_configures_before_it_has_read_anything() -> None:
    """No round trip is spent on waiting for a greeting."""
    line, desk = session()
    desk.to_realtime.clear()
    line.connected(RealtimeConnected(0.1), 0.1)

    assert list(desk.to_realtime) == [ConfigureSession(options().session)]
    assert desk.facts == [RealtimeDialled("ok", 0.1)]


def test_a_session_is_ready_once() -> None:
    """A second session.updated is no second beginning."""
    line, _ = session()
    line.connected(RealtimeConnected(0.1), 0.1)

    assert line.updated()
    assert not line.updated()


@pytest.mark.parametrize(
    ("refused", "at", "second"),
    [
        (RealtimeRefused("5xx", can_retry=True), 1.0, DialRealtime(0.2, 3.7)),
        (
            RealtimeRefused("401", can_retry=True),
            1.0,
            DialRealtime(0.2, 3.7, with_fresh_token=True),
        ),
        (RealtimeRefused("429", can_retry=True, retry_after_s=2.0), 1.0, DialRealtime(2.0, 1.9)),
    ],
)
def test_a_passing_refusal_gets_one_more_attempt(
    refused: RealtimeRefused, at: float, second: DialRealtime
) -> None:
    """The second attempt waits as the service says, and takes a fresh token after a 401."""
    line, desk = session()
    desk.to_realtime.clear()

    assert line.refused(refused, at)
    dial = desk.to_realtime.pop()
    assert isinstance(dial, DialRealtime)
    assert (dial.delay_s, dial.with_fresh_token) == (second.delay_s, second.with_fresh_token)
    assert dial.timeout_s == pytest.approx(second.timeout_s)
    assert not line.refused(refused, at + 1)


@pytest.mark.parametrize(
    ("refused", "at"),
    [
        (RealtimeRefused("404", can_retry=False), 0.1),
        (RealtimeRefused("429", can_retry=True, retry_after_s=20.0), 0.1),
        (RealtimeRefused("timeout", can_retry=True), 4.9),
    ],
)
def test_a_hopeless_refusal_is_not_tried_again(refused: RealtimeRefused, at: float) -> None:
    """Nobody waits for an attempt that cannot help, or that comes too late."""
    line, _ = session()

    assert not line.refused(refused, at)


def test_a_connection_that_comes_too_late_is_closed() -> None:
    """Nobody pays for a session that nobody waits for."""
    line, desk = session()
    line.close(5.0)
    desk.to_realtime.clear()
    line.connected(RealtimeConnected(5.1), 5.1)

    assert list(desk.to_realtime) == [CloseRealtime()]
    assert desk.facts[-1] == RealtimeLost(1000, 0.0, is_expected=True)


def test_a_refusal_that_comes_too_late_changes_nothing() -> None:
    """The caller is hearing the apology already."""
    line, desk = session()
    line.close(5.0)
    desk.to_realtime.clear()

    assert line.refused(RealtimeRefused("5xx", can_retry=True), 5.1)
    assert not desk.to_realtime


@pytest.mark.parametrize(("code", "is_curable"), [(1001, True), (1006, True), (4000, False)])
def test_some_ends_would_be_met_again(code: int, is_curable: bool) -> None:  # noqa: FBT001  # a column
    """A dialect that was refused will be refused again; a cut line need not be cut again."""
    line, desk = session()
    line.connected(RealtimeConnected(0.1), 0.0)

    assert line.lost(code, 7.0) is is_curable
    assert desk.facts[-1] == RealtimeLost(code, 7.0, is_expected=False)


def test_renewing_takes_a_new_line_within_its_own_budget() -> None:
    """The old line is closed first: one call, one session."""
    line, desk = session()
    line.connected(RealtimeConnected(0.1), 0.0)
    line.updated()
    line.renew(20.0)

    assert line.is_renewing
    assert list(desk.to_realtime) == [CloseRealtime(), DialRealtime(0.0, 2.9)]
    assert line.resumed(21.5) == pytest.approx(1.5)
    assert not line.is_renewing


def test_two_losses_in_a_row_are_one_too_many() -> None:
    """A service that drops us twice in ten seconds would do it a third time."""
    line, _ = session()
    line.renew(20.0)

    assert not line.can_renew(20.0 + RENEWAL_PAUSE_S - 0.1)
    assert line.can_renew(20.0 + RENEWAL_PAUSE_S)


def test_a_session_is_renewed_in_a_silence_before_it_expires() -> None:
    """The service's own clock decides, not a number of ours."""
    line, desk = session(unix_offset_s=1_000_000.0)
    line.created(SessionCreated("sess_1", 1_003_600.0), 0.0)

    assert desk.alarms["rollover"] == 3600.0 - ROLLOVER_MARGIN_S
    assert not line.is_to_roll_over(3500.0, is_quiet=False)
    assert desk.alarms["rollover"] == 3501.0
    assert line.is_to_roll_over(3501.0, is_quiet=True)
    assert line.is_to_roll_over(3600.0 - ROLLOVER_MARGIN_S / 2, is_quiet=False)


def test_a_session_that_says_nothing_of_its_end_is_not_renewed() -> None:
    """Old services do not say when they will hang up."""
    line, desk = session()
    line.created(SessionCreated("sess_1", 0.0), 0.0)

    assert "rollover" not in desk.alarms
