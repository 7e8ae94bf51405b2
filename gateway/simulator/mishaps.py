"""The faults of a session that wait for a moment to come."""

from dataclasses import dataclass

from gateway.simulator.dialects import Event
from gateway.simulator.faults import MOMENTS, TOOL, Faults


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """What a session wants done with its socket; 1006 is a cut without goodbye."""

    code: int
    reason: str = ""


class Mishaps:
    """Counts the moments of one session, says what goes wrong at each."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._seen: dict[str, int] = {}
        self._may_start_falsely = faults.false_start

    def after(self, event: Event) -> tuple[Event | None, CloseSocket | None]:
        """The error that follows this event (in GA shape), the close that follows it."""
        error, close = None, None
        for moment in _moments(event):
            seen = self._seen[moment] = self._seen.get(moment, 0) + 1
            error = error or self._error(moment, seen)
            close = close or self._close(moment, seen)
        return error, close

    def starts_falsely(self, event: Event) -> bool:
        """Whether this event is the first audio delta of a session with that fault."""
        if not self._may_start_falsely or event["type"] != MOMENTS["delta"]:
            return False
        self._may_start_falsely = False
        return True

    def _error(self, moment: str, seen: int) -> Event | None:
        faults = self._faults
        is_due = faults.error_code and (moment, seen) == (faults.error_when, 1)
        return error_event(faults.error_code) if is_due else None

    def _close(self, moment: str, seen: int) -> CloseSocket | None:
        faults = self._faults
        is_due = faults.close_code and (moment, seen) == (faults.close_when, faults.close_count)
        return CloseSocket(faults.close_code, "simulated fault") if is_due else None


def error_event(code: str) -> Event:
    """An ``error`` that no request led to; "null" has no code."""
    is_bare = code == "null"
    error = {
        "type": "server_error" if code == "server_error" else "invalid_request_error",
        "code": None if is_bare else code,
        "message": "Simulated fault." if is_bare else f"Simulated fault: {code}.",
        "param": None,
        "event_id": None,
    }
    return {"type": "error", "error": error}


def _moments(event: Event) -> list[str]:
    moments = [moment for moment, kind in MOMENTS.items() if kind == event["type"]]
    if event["type"] == MOMENTS["done"]:
        output = event["response"]["output"]
        moments += [TOOL] if any(item["type"] == "function_call" for item in output) else []
    return moments
