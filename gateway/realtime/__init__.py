"""The contract of the line to the speech-to-speech model."""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

Dialect = Literal["ga", "preview"]


class Link(Protocol):
    """An open socket: iterating yields its messages and ends when it is closed."""

    @property
    def close_code(self) -> int:
        """WebSocket close code once the iteration has ended, 1006 when there was none."""

    @property
    def close_reason(self) -> str:
        """The peer's words about the close, often empty."""

    def __aiter__(self) -> AsyncIterator[str | bytes]: ...

    async def send(self, message: str | bytes) -> None:
        """Write one message and wait while the peer is slow.

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
