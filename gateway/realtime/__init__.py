"""The contract of a line: how the driver hears a socket and speaks into it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Dialect = Literal["ga", "preview"]


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom a link tells, in the pass of the event loop that read it; none of these may raise.

    ``message_came``: the peer sent this; text may come as its UTF-8 bytes. ``link_freed``: the link
    was clogged and takes messages again. ``link_closed``: the peer is gone, nothing follows;
    ``Link.close_code`` says why. It may stay untold when we closed the link ourselves.
    """

    message_came: Callable[[str | bytes], None]
    link_freed: Callable[[], None]
    link_closed: Callable[[], None]


class Link(Protocol):
    """An open socket. Messages that come before anybody listens are kept, a bounded number."""

    @property
    def close_code(self) -> int:
        """WebSocket close code once the link is closed, 1006 when there was none."""

    @property
    def close_reason(self) -> str:
        """The peer's words about the close, often empty."""

    @property
    def is_clogged(self) -> bool:
        """The peer is slow: what can wait should, until ``link_freed``."""

    def listen(self, listener: Listener) -> None:
        """Tell this listener from now on, beginning with what was kept."""

    def send(self, *messages: str | bytes) -> None:
        """Write messages in order, in one go; never waits.

        Raises:
            ConnectionError: the socket is closed.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket, waiting a bounded time for the peer's answer; harmless when closed."""


class Dial(Protocol):
    """Opens the line: ``gateway.realtime.connection.dial`` with its target filled in."""

    async def __call__(self, *, timeout_s: float, with_fresh_token: bool) -> Link:
        """Open a new line within ``timeout_s``.

        Raises:
            ConnectError: the line could not be opened; says why and whether to try again.
        """
