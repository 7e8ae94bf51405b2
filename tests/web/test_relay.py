"""What stands between a page and a worker: told the same as without it, and nothing piles up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.web import CALL_OVER, RIGHT, SESSION, TOO_SLOW, Right, Session
from gateway.web import relay as module
from gateway.web.inside import ASKER
from gateway.web.relay import Relay, WorkerSilent
from tests.running import happens, served

# `serve` runs on uvloop where there is one, and transports differ in what they allow.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PIECE = b"x" * 50_000


async def _view(
    request: web.Request, telling: Callable[[web.StreamResponse], Awaitable[None]]
) -> web.StreamResponse:
    """As the console does it."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        await telling(response)
    except TimeoutError:
        assert request.transport is not None
        request.transport.abort()
    return response


@dataclass
class _Between:
    """A worker made of a handler, the relay, and a page that has been let in."""

    relay: Relay
    client: aiohttp.ClientSession = field(init=False)
    is_over: bool = False

    async def plain(self, request: web.Request) -> web.StreamResponse:
        """Let in, and passed on."""
        return await self.relay.answer(self._let_in(request))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The same for a stream."""
        return await self.relay.stream(self._let_in(request), _view)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """The same for a WebSocket."""
        page = web.WebSocketResponse(compress=False, max_msg_size=100_000)
        self._let_in(request)
        return await self.relay.socket(request, page, ends_with_right=True)

    def _let_in(self, request: web.Request) -> web.Request:
        request[SESSION] = Session("listener", 1.0, "0" * 32)
        request[RIGHT] = Right(lambda: self.is_over)
        return request


@asynccontextmanager
async def _between(folder: Path, handler: Handler) -> AsyncIterator[_Between]:
    worker, pages = web.Application(), web.Application()
    worker.router.add_route("*", "/{path:.*}", handler)
    path = str(folder / "sock")
    async with served(worker, path):
        relay = Relay(path)
        between = _Between(relay)
        pages.router.add_get("/socket", between.socket)
        pages.router.add_get("/stream", between.stream)
        pages.router.add_route("*", "/{path:.*}", between.plain)
        async with served(pages) as url, aiohttp.ClientSession(url) as between.client:
            yield between
        await relay.close()


async def _has_no_answer(between: _Between) -> None:
    """Whatever a page wants, it is told that nothing comes."""
    for path in ("/plain", "/stream"):
        async with between.client.get(path) as reply:
            assert (reply.status, await reply.text()) == (504, module.NO_ANSWER)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="504"):
        await between.client.ws_connect("/socket")
    with pytest.raises(WorkerSilent):
        await between.relay.rows(0)


# ------------------------------------------------------------- requests


async def test_an_answer_is_passed_on_as_it_is(tmp_path: Path) -> None:
    """Method, path and query one way, with who asks; status, type, body and Retry-After back."""
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.raw_path, request.headers[ASKER]))
        return web.json_response({"a": 1}, status=409, headers={"Retry-After": "7", "X-Own": "1"})

    async with _between(tmp_path, answer) as between:
        headers = {ASKER: '{"role":"listener"}', "Cookie": "a=b"}
        async with between.client.post("/a%2Fb?c=%20d", headers=headers) as reply:
            told = (reply.status, reply.content_type, await reply.json())
            extra = reply.headers.get("Retry-After"), reply.headers.get("X-Own")

    assert told == (409, "application/json", {"a": 1})
    assert extra == ("7", None)
    ((method, path, asker),) = asked
    assert (method, path) == ("POST", "/a%2Fb?c=%20d")
    assert '"source":"127.0.0.1"' in asker  # not what the page said


async def test_a_worker_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of it."""
    monkeypatch.setattr(module, "ANSWER_S", 0.1)

    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError

    async with _between(tmp_path, hang) as between:
        await _has_no_answer(between)


async def test_a_worker_that_breaks_off_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a refusal that was asked for as a stream."""
    monkeypatch.setattr(module, "ANSWER_S", 0.1)

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=404, headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"no such")
        await asyncio.sleep(30)
        return response

    async with _between(tmp_path, half) as between:
        for path in ("/plain", "/stream"):
            async with asyncio.timeout(5), between.client.get(path) as reply:
                assert (reply.status, await reply.text()) == (504, module.NO_ANSWER)


async def test_a_worker_that_is_broken(tmp_path: Path) -> None:
    """Its complaint is no list of calls."""

    async def fail(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPInternalServerError

    async with _between(tmp_path, fail) as between:
        with pytest.raises(WorkerSilent):
            await between.relay.rows(0)
        async with between.client.get("/stream") as reply:
            assert reply.status == 500


async def test_a_worker_that_is_not_there(tmp_path: Path) -> None:
    """No socket, or nobody behind it."""
    relay = Relay(str(tmp_path / "nobody"))
    with pytest.raises(WorkerSilent):
        await relay.rows(0)
    await relay.close()


async def test_a_worker_that_has_just_died_does_not_answer(tmp_path: Path) -> None:
    """Who had found its relay a moment before is told so, like everybody."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        raise AssertionError

    async with _between(tmp_path, answer) as between:
        await between.relay.close()
        await _has_no_answer(between)


# ------------------------------------------------------------- streams


async def test_a_stream_ends_with_the_worker_or_with_the_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And pieces come as they are written."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    go_on = asyncio.Event()

    async def tell(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await go_on.wait()
        await response.write(b"two")
        return response

    async with _between(tmp_path, tell) as between:
        async with between.client.get("/stream") as page:
            assert await page.content.readany() == b"one"
            go_on.set()
            assert await page.content.read() == b"two"
        go_on.clear()
        async with between.client.get("/stream") as page:
            assert await page.content.readany() == b"one"
            between.is_over = True
            assert await page.content.read() == b""


async def test_a_worker_that_dies_ends_the_stream(tmp_path: Path) -> None:
    """As if there was no more to say: the page asks anew."""

    async def die(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with _between(tmp_path, die) as between, between.client.get("/stream") as page:
        assert page.status == 200
        assert await page.content.read() in {b"one", b""}


async def test_a_page_that_takes_no_pieces_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held up meanwhile, rather than what it says piled up."""
    monkeypatch.setattr(module, "TAKE_S", 0.3)
    written = 0
    left = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(PIECE)
                written += len(PIECE)
        finally:
            left.set()

    async with _between(tmp_path, pour) as between, between.client.get("/stream") as page:
        assert page.connection is not None
        assert page.connection.protocol is not None
        page.connection.protocol.pause_reading()
        await asyncio.wait_for(left.wait(), 10)

    assert written < 20_000_000


# ------------------------------------------------------------- WebSockets


async def _echo(request: web.Request) -> web.StreamResponse:
    """Says back what it is told, and closes with the code it is told to."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data.startswith("close "):
            await socket.close(code=int(message.data[6:]), message=b"words")
        else:
            await socket.send_str(message.data)
    return socket


async def test_messages_go_both_ways(tmp_path: Path) -> None:
    """Text as text, bytes as bytes, one by one and in order."""
    async with _between(tmp_path, _echo) as between, between.client.ws_connect("/socket") as page:
        for number in range(100):
            await page.send_str(f"ü {number}")
            await page.send_bytes(bytes(number))
        for number in range(100):
            assert await page.receive_str(timeout=5) == f"ü {number}"
            assert await page.receive_bytes(timeout=5) == bytes(number)


@pytest.mark.parametrize("code", [1000, 1008, CALL_OVER, TOO_SLOW])
async def test_the_workers_close_is_the_pages(tmp_path: Path, code: int) -> None:
    """With its code."""
    async with _between(tmp_path, _echo) as between, between.client.ws_connect("/socket") as page:
        await page.send_str(f"close {code}")
        message = await page.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)


@dataclass
class _Noting:
    """A worker that notes how its sockets end."""

    codes: list[int | None] = field(default_factory=list)
    sockets: list[web.Request] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Until the other side has enough."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(request)
        await socket.send_str("hello")
        async for _ in socket:
            pass
        self.codes.append(socket.close_code)
        return socket


@pytest.mark.parametrize("code", [1000, 1001, 4000])
async def test_the_pages_close_is_the_workers(tmp_path: Path, code: int) -> None:
    """With its code."""
    worker = _Noting()
    async with _between(tmp_path, worker.take) as between:
        page = await between.client.ws_connect("/socket")
        await page.receive(timeout=5)
        await page.close(code=code)
        assert await happens(lambda: worker.codes == [code])


async def test_a_page_that_is_gone_is_gone_for_the_worker(tmp_path: Path) -> None:
    """Without a word, as it went: a call whose line broke did not end as one that was hung up."""
    worker = _Noting()
    async with _between(tmp_path, worker.take) as between:
        page = await between.client.ws_connect("/socket")
        await page.receive(timeout=5)
        page._response.close()
        assert await happens(lambda: worker.codes == [1006])


async def test_a_worker_that_is_gone_is_gone_for_the_page(tmp_path: Path) -> None:
    """Without a word, too: it must not look like an end that somebody meant."""
    worker = _Noting()
    async with _between(tmp_path, worker.take) as between:
        page = await between.client.ws_connect("/socket")
        await page.receive(timeout=5)
        assert worker.sockets[0].transport is not None
        worker.sockets[0].transport.abort()
        assert (await page.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSED
        assert page.close_code == 1006


async def test_both_are_told_when_the_right_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page why, the worker that it is over."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    worker = _Noting()
    async with _between(tmp_path, worker.take) as between:
        page = await between.client.ws_connect("/socket")
        await page.receive(timeout=5)
        between.is_over = True
        assert (await page.receive(timeout=5)).data == CALL_OVER
        assert await happens(lambda: worker.codes == [1006])


async def test_a_message_that_is_too_long_is_the_pages_fault(tmp_path: Path) -> None:
    """It does not reach the worker, and both are told."""
    worker = _Noting()
    async with _between(tmp_path, worker.take) as between:
        page = await between.client.ws_connect("/socket")
        await page.receive(timeout=5)
        await page.send_bytes(bytes(100_001))
        assert (await page.receive(timeout=5)).data == 1009
        assert await happens(lambda: worker.codes == [1009])


async def test_what_is_no_upgrade_does_not_reach_the_worker(tmp_path: Path) -> None:
    """Nobody begins to listen who could not hear anything."""
    worker = _Noting()
    async with (
        _between(tmp_path, worker.take) as between,
        between.client.get("/socket") as reply,
    ):
        assert reply.status == 400
    assert worker.sockets == []


async def test_a_refused_upgrade_is_refused(tmp_path: Path) -> None:
    """With the worker's status, and when to come again."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"})

    async with _between(tmp_path, refuse) as between:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await between.client.ws_connect("/socket")
    assert refused.value.status == 503
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == "5"


async def test_a_page_that_reads_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker can send no more than buffers hold, and is told that the page was too slow."""
    monkeypatch.setattr(module, "TAKE_S", 0.3)
    sent, codes = 0, []

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        closed = asyncio.create_task(socket.receive())
        sending = asyncio.create_task(socket.send_bytes(PIECE))
        while not closed.done():
            await asyncio.wait((sending, closed), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not closed.done():
                sent += len(PIECE)
                sending = asyncio.create_task(socket.send_bytes(PIECE))
        sending.cancel()
        codes.append(socket.close_code)
        return socket

    async with _between(tmp_path, pour) as between:
        page = await between.client.ws_connect("/socket", max_msg_size=0)
        assert page._conn is not None
        assert page._conn.protocol is not None
        page._conn.protocol.pause_reading()
        assert await happens(lambda: codes == [TOO_SLOW], 10)
        page._response.close()

    assert sent < 20_000_000
