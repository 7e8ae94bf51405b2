"""An aiohttp server socket, as the bridge sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from aiohttp import WebSocketError, WSMsgType, web

# RFC 6455 §7.1.5: the code of a socket that went away without a close frame.
ABNORMAL = 1006


class ServerLink:
    """The provider's media WebSocket as a ``gateway.realtime.Link``."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._socket = socket
        self._transport = transport
        self._violation: int | None = None

    @property
    def close_code(self) -> int:
        """Ours for what the peer did wrong, else the peer's; 1006 when there was none."""
        return self._violation or self._socket.close_code or ABNORMAL

    @property
    def close_reason(self) -> str:
        """Aiohttp does not keep the peer's words."""
        return ""

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while True:
            message = await self._socket.receive()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                # Aiohttp has closed with this code, and forgets it if the peer does not answer.
                if isinstance(message.data, WebSocketError):
                    self._violation = int(message.data.code)
                return
            yield message.data

    async def send(self, message: str | bytes) -> None:
        """Write one frame and wait while the peer is slow.

        Raises:
            ConnectionError: the socket is closed.
        """
        with _borrowed_cancellation():
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and be gone: a peer that reads nothing does not keep the socket."""
        try:
            with suppress(ConnectionError), _borrowed_cancellation():
                await self._socket.close(code=code, message=reason.encode())
        finally:
            if self._transport is not None:
                self._transport.abort()


@contextmanager
def _borrowed_cancellation() -> Iterator[None]:
    """Tell a cancellation of ours from one of another task.

    Writers of aiohttp (3.14) wait for a slow peer on one shared future: when one of them is
    cancelled, the next one to wait is told that it was.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionResetError("the socket is being given up") from None
