"""The line to the model: dialled within a budget, configured, lost, renewed, closed."""

from typing import Final

from gateway.desk import CallOptions, Desk
from gateway.events import (
    CloseRealtime,
    ConfigureSession,
    DialRealtime,
    RealtimeConnected,
    RealtimeDialled,
    RealtimeLost,
    RealtimeOpened,
    RealtimeRefused,
    SessionCreated,
)

# Two attempts within the budget, the second after a moment unless the service says more.
DIALS_LIMIT: Final = 2
REDIAL_AFTER_S: Final = 0.2
SHORTEST_DIAL_S: Final = 0.3
# The driver gives up this long before we do, so that its reason is known when we speak.
SPARE_S: Final = 0.1
# Two sessions lost within this time: the third would be lost too.
RENEWAL_PAUSE_S: Final = 10.0
# A session is renewed this long before it expires, or up to half of it later to meet a silence.
ROLLOVER_MARGIN_S: Final = 60.0
# Close codes of the model that a new session would meet again (4000: dialect refused).
FATAL_CLOSES: Final = frozenset({1008, 3000, 4000})


class Session:
    """Knows whether there is somebody to talk to."""

    def __init__(
        self, desk: Desk, options: CallOptions, now: float, *, unix_offset_s: float
    ) -> None:
        self._desk = desk
        self._options = options
        self._unix_offset_s = unix_offset_s
        self._open_since: float | None = None
        self._dial_until = now
        self._dials = 0
        self._lost_at: float | None = None
        self._renewed_at = now - RENEWAL_PAUSE_S
        self._rollover_by = now
        self._is_wanted = True
        self._dial(now, options.connect_budget_s)

    @property
    def is_renewing(self) -> bool:
        """The conversation waits for a new session."""
        return self._lost_at is not None

    def _dial(self, now: float, budget_s: float) -> None:
        self._dial_until = now + budget_s
        self._dials = 1
        self._is_wanted = True
        self._desk.alarms["connect"] = self._dial_until
        self._desk.to_realtime.append(DialRealtime(0.0, max(SHORTEST_DIAL_S, budget_s - SPARE_S)))

    def connected(self, event: RealtimeConnected, now: float) -> None:
        """The socket is open: say at once what session it shall be, or that it comes too late."""
        self._desk.tell(RealtimeDialled("ok", event.duration_s))
        self._open_since = now
        if not self._is_wanted:
            self.close(now)
            return
        self._desk.to_realtime.append(ConfigureSession(self._options.session))

    def refused(self, event: RealtimeRefused, now: float) -> bool:
        """Dialling failed; false when there is no use or no time for another attempt."""
        self._desk.tell(RealtimeDialled(event.result, 0.0, event.detail))
        return not self._is_wanted or self._redial(event, now)

    def _redial(self, event: RealtimeRefused, now: float) -> bool:
        delay_s = max(event.retry_after_s, REDIAL_AFTER_S)
        left_s = self._dial_until - now - delay_s - SPARE_S
        if not event.can_retry or self._dials == DIALS_LIMIT or left_s < SHORTEST_DIAL_S:
            return False
        self._dials += 1
        self._desk.to_realtime.append(DialRealtime(delay_s, left_s, event.result == "401"))
        return True

    @property
    def open_since(self) -> float | None:
        """When the line was opened; None while there is none."""
        return self._open_since

    def created(self, event: SessionCreated, now: float) -> None:
        """The model says what it is and how long this session may live."""
        self._desk.tell(RealtimeOpened(event.session_id, event.model))
        expires_at = event.expires_at - self._unix_offset_s
        # One that ends sooner is a clock that is wrong; its end is met when it comes.
        if expires_at - ROLLOVER_MARGIN_S > now + RENEWAL_PAUSE_S:
            self._rollover_by = expires_at - ROLLOVER_MARGIN_S / 2
            self._desk.alarms["rollover"] = expires_at - ROLLOVER_MARGIN_S

    def updated(self) -> bool:
        """Our options are in force; false when that was known."""
        return self._desk.alarms.take("connect")

    def resumed(self, now: float) -> float:
        """The new session is ready; returns for how long there was none."""
        gap_s = now - (self._lost_at or now)
        self._lost_at = None
        return gap_s

    def lost(self, code: int, now: float) -> bool:
        """The line is gone; false when a new one would meet the same end."""
        self._note_end(code, now, is_expected=False)
        return code not in FATAL_CLOSES

    def redial_lost(self, now: float) -> bool:
        """The line was gone before it was ready: try again within the budget."""
        return self._redial(RealtimeRefused("refused", can_retry=True), now)

    def can_renew(self, now: float) -> bool:
        """Whether the last renewal is long enough ago."""
        return now - self._renewed_at >= RENEWAL_PAUSE_S

    def renew(self, now: float) -> None:
        """Leave this session, if it is still there, and dial a new one."""
        self.close(now)
        self._lost_at = self._renewed_at = now
        self._desk.silence("rollover")
        self._dial(now, self._options.reconnect_budget_s)

    def is_to_roll_over(self, now: float, *, is_quiet: bool) -> bool:
        """Whether the moment to renew before the end has come; asks again in a second if not."""
        if is_quiet or now >= self._rollover_by:
            return True
        self._desk.alarms["rollover"] = now + 1.0
        return False

    def again(self, now: float) -> bool:
        """Lost after it was ready and before anybody spoke: dial as at first, but not for ever."""
        if not self.can_renew(now):
            return False
        self._renewed_at = now
        self._dial(now, self._options.connect_budget_s)
        return True

    def close(self, now: float) -> None:
        """Hang up on the model; what was meant for it is void."""
        self._is_wanted = False
        self._note_end(1000, now, is_expected=True)
        self._desk.to_realtime.clear()
        self._desk.to_realtime.append(CloseRealtime())

    def _note_end(self, code: int, now: float, *, is_expected: bool) -> None:
        if self._open_since is not None:
            self._desk.tell(RealtimeLost(code, now - self._open_since, is_expected))
            self._open_since = None
