"""What the provider sides of all wire protocols have in common.

A line is the provider's end of one media WebSocket, sans-I/O: it makes the messages that a
provider sends, reads what the gateway sends and hands its audio to a ``Phone``.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.simulator.phone import Phone

MomentKind = Literal["audio", "mark", "echo", "clear", "status", "hangup", "rejected"]

_MAX_MOMENTS = 200_000


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that passed on a line; ``detail`` is a name or the reason of a rejection.

    ``kind``: audio (received, ``amount_ms`` long), mark (received), echo (a mark sent back), clear
    (received; it dropped ``amount_ms``), status (asked for), hangup (asked for), rejected.
    """

    at_s: float
    kind: MomentKind
    detail: str = ""
    amount_ms: float = 0.0


class Log:
    """What passed on a line, oldest first; the oldest go when it holds 200,000."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=_MAX_MOMENTS)

    def add(self, now: float, kind: MomentKind, detail: str = "", amount_ms: float = 0.0) -> None:
        """Note one moment; details are cut at 200 characters."""
        self._moments.append(Moment(now, kind, detail[:200], amount_ms))

    def of(self, kind: MomentKind) -> list[Moment]:
        """All moments of one kind."""
        return [moment for moment in self._moments if moment.kind == kind]


class Line(Protocol):
    """The provider's end of one call's media WebSocket.

    ``close_code`` is None until the provider itself wants the socket closed (hang-up asked for,
    message too big). All methods that give messages give them in the order they are to be sent.
    """

    phone: Phone
    log: Log
    close_code: int | None

    def start(self, now: float) -> list[str | bytes]:
        """The messages that open the stream."""

    def send_audio(self, payload: bytes, now: float) -> list[str | bytes]:
        """One frame of what the caller says."""

    def send_dtmf(self, digit: str, now: float) -> list[str | bytes]:
        """One key that the caller pressed."""

    def stop(self, now: float) -> list[str | bytes]:
        """What a provider says when the caller hangs up, before it closes the socket."""

    def receive(self, message: str | bytes, now: float) -> list[str | bytes]:
        """Take one message of the gateway; gives what is answered at once. Never raises."""

    def advance(self, now: float) -> list[str | bytes]:
        """What has become due by ``now``: marks that come back."""

    def next_timer(self) -> float | None:
        """When ``advance`` will next have something."""
