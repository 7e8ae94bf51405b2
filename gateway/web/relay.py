"""The supervisor's way to a worker: requests, streams and WebSockets, passed on as they are.

Nothing is queued on the way: one piece is under way at a time, a page that takes it too slowly is
let go, and a worker that does not answer is given up. What a page or a worker is told of the other
one's end is what it would have been told without anybody in between.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType, hdrs, web
from yarl import URL

from gateway.errors import GatewayError
from gateway.web import CALL_OVER, RIGHT, TOO_SLOW
from gateway.web.inside import ROWS, asker

# A worker that says nothing for so long is not waited for; erasing may have to wait for a database.
ANSWER_S: Final = 2.0
ERASE_S: Final = 5.0
# A page that takes nothing for so long is gone.
TAKE_S: Final = 5.0
# How often the right to what is open is looked at; a stream that lives says something within 15 s.
LOOK_EVERY_S: Final = 0.5
SILENT_S: Final = 20.0
CLOSE_S: Final = 1.0
# The longest message of a worker: what one who listens in has not fetched.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
# Shorter than the worker keeps an idle connection: none is closed under a request.
KEEP_ALIVE_S: Final = 5.0
NO_ANSWER: Final = "the worker that has this call does not answer\n"
_PASSED_ON: Final = (hdrs.CONTENT_TYPE, hdrs.RETRY_AFTER)
# RFC 6455 §7.1.5: the code of a socket that went away without a close frame; aiohttp says 0 for a
# close frame without a code.
_NO_CODES: Final = frozenset({0, 1006})


# Answers a page, and lets it be told by what it is given.
View = Callable[
    [web.Request, Callable[[web.StreamResponse], Awaitable[None]]], Awaitable[web.StreamResponse]
]


class WorkerSilent(GatewayError):
    """The worker does not answer, or not in time."""


class Relay:
    """The way to one worker.

    Args:
        path: of the worker's private socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._session = _session(path)

    async def close(self) -> None:
        """Give up whatever is under way."""
        await self._session.close()

    async def rows(self, since: int) -> bytes:
        """The rows of the worker's calls that changed after a number.

        Raises:
            WorkerSilent: it does not answer.
        """
        url = _url(ROWS, f"since={since}")
        async with _answering(ANSWER_S), self._open_session().get(url) as reply:
            reply.raise_for_status()
            return await reply.read()

    async def answer(self, request: web.Request) -> web.Response:
        """The worker's answer to a request without a body."""
        limit_s = ERASE_S if request.method == hdrs.METH_DELETE else ANSWER_S
        try:
            async with _answering(limit_s), await self._asked(request) as reply:
                return await _copied(reply)
        except WorkerSilent:
            raise web.HTTPGatewayTimeout(text=NO_ANSWER) from None

    def _open_session(self) -> aiohttp.ClientSession:
        """Nobody asks a worker that is gone, also who had its relay before.

        Raises:
            WorkerSilent: it is gone.
        """
        if self._session.closed:
            raise WorkerSilent("it is gone")
        return self._session

    async def _asked(self, request: web.Request) -> aiohttp.ClientResponse:
        return await self._open_session().request(
            request.method, _url_of(request), headers=asker(request), allow_redirects=False
        )

    async def stream(self, request: web.Request, view: View) -> web.StreamResponse:
        """Pass a stream of server-sent events on, as long as the right to it lasts."""
        try:
            async with self._stream(request) as reply:
                if reply.status != web.HTTPOk.status_code:
                    async with _answering(ANSWER_S):
                        return await _copied(reply)
                is_over = request[RIGHT].is_over
                return await view(request, lambda page: _pass_on(reply.content, page, is_over))
        except WorkerSilent:
            raise web.HTTPGatewayTimeout(text=NO_ANSWER) from None

    @asynccontextmanager
    async def _stream(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        async with _answering(ANSWER_S):
            reply = await self._asked(request)
        try:
            yield reply
        finally:
            reply.close()

    async def socket(
        self, request: web.Request, page: web.WebSocketResponse, *, ends_with_right: bool = False
    ) -> web.StreamResponse:
        """Join a page's WebSocket with the worker's, until either is closed.

        Args:
            request: the page's upgrade, which the worker may refuse.
            page: answers it.
            ends_with_right: whether it is over when the right to it is.
        """
        if not page.can_prepare(request):
            raise web.HTTPBadRequest(text="this is a WebSocket\n")
        try:
            worker = await _upgraded(self._open_session(), request)
        except WorkerSilent:
            raise web.HTTPGatewayTimeout(text=NO_ANSWER) from None
        if isinstance(worker, web.Response):
            return worker
        try:
            if not await _prepared(page, request):
                return web.Response()  # to nobody
            is_over = request[RIGHT].is_over if ends_with_right else _never
            await _Joined(request, page, worker).run(is_over)
        finally:
            _let_go(worker)
        return page


def _session(path: str) -> aiohttp.ClientSession:
    # Pages, listeners and calls have their own bounds: none of them waits here for another.
    connector = aiohttp.UnixConnector(path, limit=0, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )


def _url(path: str, query: str = "") -> URL:
    # The name of the host is nobody's: the connector knows the way.
    return URL.build(scheme="http", host="worker", path=path, query_string=query, encoded=True)


def _url_of(request: web.Request) -> URL:
    return _url(request.rel_url.raw_path, request.rel_url.raw_query_string)


@asynccontextmanager
async def _answering(limit_s: float) -> AsyncIterator[None]:
    """So long for a worker's answer.

    Raises:
        WorkerSilent: it did not come.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise WorkerSilent(type(error).__name__) from None


async def _copied(reply: aiohttp.ClientResponse) -> web.Response:
    headers = {name: reply.headers[name] for name in _PASSED_ON if name in reply.headers}
    return web.Response(status=reply.status, body=await reply.read(), headers=headers)


async def _pass_on(
    content: aiohttp.StreamReader, page: web.StreamResponse, is_over: Callable[[], bool]
) -> None:
    """Until the worker has no more to say, or nobody may hear it.

    Raises:
        TimeoutError: the page takes nothing.
        ConnectionError: it is gone.
    """
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while not is_over() and loop.time() < heard_at + SILENT_S:
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                piece = await content.readany()
        except TimeoutError:
            continue
        except aiohttp.ClientError:
            return  # the worker has died
        if not piece:
            return
        heard_at = loop.time()
        async with asyncio.timeout(TAKE_S):
            await page.write(piece)


async def _upgraded(
    session: aiohttp.ClientSession, request: web.Request
) -> aiohttp.ClientWebSocketResponse | web.Response:
    """The worker's end of a WebSocket, or why there is none."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await session.ws_connect(
                _url_of(request),
                headers=asker(request),
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                max_msg_size=MAX_MESSAGE_BYTES,
            )
    except aiohttp.WSServerHandshakeError as refusal:
        when = refusal.headers and refusal.headers.get(hdrs.RETRY_AFTER)
        headers = {hdrs.RETRY_AFTER: when} if when else {}
        return web.Response(status=refusal.status, headers=headers, text="refused\n")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return web.Response(status=504, text=NO_ANSWER)


async def _prepared(page: web.WebSocketResponse, request: web.Request) -> bool:
    """Whether the page has its answer; it may have gone already."""
    with suppress(ConnectionError):
        await page.prepare(request)
        return True
    return False


def _let_go(worker: aiohttp.ClientWebSocketResponse) -> None:
    """Close the line, whatever was said on it."""
    worker._response.close()  # noqa: SLF001  # there is no other way without a word


def _never() -> bool:
    return False


# ------------------------------------------------------------- two WebSockets


_Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class _Pumped(NamedTuple):
    """How passing messages on came to its end."""

    is_slow: bool = False
    # The side they came from said so, with this code; 0 = it did not.
    code: int = 0


async def _pump(source: _Side, sink: _Side) -> _Pumped:
    """Pass messages on until there are no more, or they are not taken."""
    try:
        while (message := await source.receive()).type in _DATA:
            async with asyncio.timeout(TAKE_S):
                await _send(sink, message)
    except TimeoutError:
        return _Pumped(is_slow=True)
    except ConnectionError:
        return _Pumped()
    # Aiohttp has closed with this code, and may forget it.
    is_violation = isinstance(message.data, aiohttp.WebSocketError)
    return _Pumped(code=int(message.data.code) if is_violation else source.close_code or 0)


async def _send(sink: _Side, message: aiohttp.WSMessage) -> None:
    if message.type is WSMsgType.TEXT:
        await sink.send_str(message.data)
    else:
        await sink.send_bytes(message.data)


_DATA: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


def _outcome(pump: "asyncio.Task[_Pumped]") -> _Pumped:
    """Of one that may go on."""
    if not pump.done():
        return _Pumped()
    # Who waits with a writer that is given up is given up with it (aiohttp 3.14).
    return _Pumped(is_slow=True) if pump.cancelled() else pump.result()


@dataclass(frozen=True, slots=True)
class _Joined:
    """A page and a worker."""

    request: web.Request
    page: web.WebSocketResponse
    worker: aiohttp.ClientWebSocketResponse

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Until one of them has enough; then the other is told in the same words."""
        up = asyncio.create_task(_pump(self.page, self.worker))
        down = asyncio.create_task(_pump(self.worker, self.page))
        try:
            is_right_over = not await _one_of(up, down, is_over)
            said_up, said_down = _outcome(up), _outcome(down)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.wait((up, down))
        if said_down.is_slow:
            await _close(self.worker, TOO_SLOW)
            self._cut_off()
        elif is_right_over:
            await self._close_page(CALL_OVER)
        elif said_down.code not in _NO_CODES:
            await self._close_page(said_down.code)
        elif said_up.code not in _NO_CODES:
            await _close(self.worker, said_up.code)
        else:
            self._cut_off()

    async def _close_page(self, code: int) -> None:
        if not await _close(self.page, code):
            self._cut_off()

    def _cut_off(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


async def _close(side: _Side, code: int) -> bool:
    """Say that it is over; whether that could be said in time."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(CLOSE_S):
            await side.close(code=code)
            return True
    return False


async def _one_of(
    up: "asyncio.Task[_Pumped]", down: "asyncio.Task[_Pumped]", is_over: Callable[[], bool]
) -> bool:
    """Until one is done, which is true, or nobody may go on."""
    while not is_over():
        done, _ = await asyncio.wait(
            (up, down), timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            return True
    return False
