"""An aiohttp server socket, as the bridge sees it: messages are handed over as they are read."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http_websocket import WSMessageTextBytes

from gateway.errors import LocalProtocolError
from gateway.frames import BINARY, server_frame
from gateway.realtime import Listener

# RFC 6455 §7.1.5: the code of a socket that went away without a close frame.
ABNORMAL = 1006
# Messages kept while nobody listens, before the socket stops reading.
MAX_KEPT_MESSAGES = 64

_DATA = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


class MediaSocket(web.WebSocketResponse):
    """A WebSocket whose data messages go to a listener in the pass that read them.

    Pings and closes take aiohttp's usual way, through its queue to ``receive``: one task of a call
    waits there, and is woken for nothing else.
    """

    _inbox: "_Inbox | None" = None

    @property
    def inbox(self) -> "_Inbox":
        """Where messages come in, once the socket is prepared."""
        if self._inbox is None:
            raise LocalProtocolError("the media socket is not prepared")
        return self._inbox

    # Aiohttp makes a queue, puts it here, and gives what it finds here to its parser.
    @property
    def _reader(self) -> WebSocketDataQueue | None:
        return self._inbox

    @_reader.setter
    def _reader(self, queue: WebSocketDataQueue | None) -> None:
        self._inbox = None if queue is None else _Inbox(queue)

    async def pong(self, message: bytes = b"") -> None:
        """Answer a ping; a socket that is gone is not ``receive``'s to raise: its end follows."""
        with suppress(ConnectionError):
            await super().pong(message)

    def _on_data_received(self) -> None:
        # Aiohttp's own schedules a callback for every chunk; putting the ping off is enough.
        if self._pong_response_cb is not None:
            self._reset_heartbeat()  # a ping is out, and the next one not yet planned
        elif self._heartbeat is not None and self._loop is not None:
            self._heartbeat_when = self._loop.time() + self._heartbeat


class _Inbox(WebSocketDataQueue):
    """Hands data on at once, keeps a few messages until somebody listens."""

    def __init__(self, queue: WebSocketDataQueue) -> None:
        """In place of ``queue``."""
        super().__init__(queue._protocol, queue._limit // 2, loop=asyncio.get_running_loop())  # noqa: SLF001  # there is no other way to them
        self._listener: Listener | None = None
        self._kept: list[str | bytes] = []

    def feed_data(self, data: WSMessage | WSMessageTextBytes, size: int) -> None:
        """Data to the listener, the rest into the queue."""
        if data.type not in _DATA:
            super().feed_data(data, size)
        elif self._listener is not None:
            self._listener.message_came(data.data)
        else:
            self._kept.append(data.data)
            if len(self._kept) >= MAX_KEPT_MESSAGES:
                self._protocol.pause_reading()

    def listen(self, listener: Listener) -> None:
        """Tell this listener, beginning with what was kept."""
        self._listener = listener
        kept, self._kept = self._kept, []
        for message in kept:
            listener.message_came(message)
        if len(kept) >= MAX_KEPT_MESSAGES:
            self._protocol.resume_reading()

    def forget(self) -> None:
        """Tell nobody any more; what still comes is kept, a bounded number of messages."""
        self._listener = None


class ServerLink:
    """The provider's media WebSocket as a ``gateway.realtime.Link``.

    Args:
        socket: prepared.
        request: the upgrade it answers.
    """

    def __init__(self, socket: MediaSocket, request: web.Request) -> None:
        self._socket = socket
        self._request = request
        self._transport = request.transport
        self._violation: int | None = None
        self._listener: Listener | None = None
        self._is_gone = False
        self._relief: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def close_code(self) -> int:
        """Ours for what the peer did wrong, else the peer's; 1006 when there was none."""
        return self._violation or self._socket.close_code or ABNORMAL

    @property
    def close_reason(self) -> str:
        """Aiohttp does not keep the peer's words."""
        return ""

    @property
    def is_clogged(self) -> bool:
        """The peer is slow: what can wait should."""
        if not self._request.protocol.writing_paused:
            return False
        if self._relief is None and not self._is_gone:
            self._relief = asyncio.create_task(self._wait_for_relief())
        return True

    def listen(self, listener: Listener) -> None:
        """Tell this listener from now on, beginning with what was kept."""
        self._listener = listener
        self._socket.inbox.listen(listener)
        if self._is_gone:
            listener.link_closed()
        elif self._watch is None:
            # Not sooner: aiohttp reads on when it takes a ping, though enough is kept.
            self._watch = asyncio.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        """Answers pings and closes; data does not come this way."""
        message = await self._socket.receive()
        # Aiohttp has closed with this code, and forgets it if the peer does not answer.
        if isinstance(message.data, WebSocketError):
            self._violation = int(message.data.code)
        self._is_gone = True
        if self._listener is not None:
            self._listener.link_closed()

    async def _wait_for_relief(self) -> None:
        protocol = self._request.protocol
        with suppress(ConnectionError):
            # Who was faster may have clogged it again; a lost one stays clogged.
            while protocol.writing_paused and protocol.connected:
                await self._request.writer.drain()
        self._relief = None
        if self._listener is not None and not protocol.writing_paused and not self._is_gone:
            self._listener.link_freed()

    def send(self, *messages: str | bytes) -> None:
        """Write messages in order, in one go; never waits.

        Raises:
            ConnectionError: the socket is closed.
        """
        transport = self._transport
        if self._is_gone or self._socket.closed or transport is None or transport.is_closing():
            raise ConnectionResetError("the provider's socket is closed")
        if messages:
            transport.write(b"".join(map(_frame, messages)))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and be gone: a peer that reads nothing does not keep the socket."""
        self._is_gone = True
        try:
            # Aiohttp waits for the peer's close only when nobody else waits in receive.
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.wait((self._watch,))
            with suppress(ConnectionError), _borrowed_cancellation():
                await self._socket.close(code=code, message=reason.encode())
        finally:
            if self._transport is not None:
                self._transport.abort()
            self._let_go()

    def _let_go(self) -> None:
        """Point at nobody who points back: a call is not to wait for Python's collector."""
        self._listener = None
        self._socket.inbox.forget()
        self._request.protocol._data_received_cb = None  # noqa: SLF001  # aiohttp never unsets it


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


def _frame(message: str | bytes) -> bytes:
    if isinstance(message, str):
        return server_frame(message.encode())
    return server_frame(message, BINARY)
