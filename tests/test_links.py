"""An aiohttp server socket behaves as the bridge's contract says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from gateway.links import ABNORMAL, ServerLink
from tests.running import happens

LARGEST_BYTES = 4096

Use = Callable[[ServerLink], Awaitable[None]]


@asynccontextmanager
async def _served(use: Use) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A client whose server side is handed to ``use`` as a link."""

    async def accept(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=LARGEST_BYTES)
        await socket.prepare(request)
        await use(ServerLink(socket, request.transport))
        return socket

    app = web.Application()
    app.router.add_get("/", accept)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as client:
            yield client
    finally:
        await runner.cleanup()


class _Reader:
    """Reads a link to its end and remembers what came."""

    def __init__(self) -> None:
        self.got: list[str | bytes] = []
        self.code: int | None = None
        self.reason: str | None = None

    async def __call__(self, link: ServerLink) -> None:
        async for message in link:
            self.got.append(message)
        self.code, self.reason = link.close_code, link.close_reason


@pytest.mark.parametrize("code", [1000, 1001, 1009, 4000])
async def test_messages_come_as_they_were_sent_and_end_with_the_peers_code(code: int) -> None:
    """Text stays text, binary stays binary; iteration ends with the close, whose code is kept."""
    reader = _Reader()
    async with _served(reader) as client:
        await client.send_str("text \u00e9")
        await client.send_bytes(b"\x00\xff")
        await client.close(code=code)

        assert await happens(lambda: reader.code is not None)
    assert reader.got == ["text \u00e9", b"\x00\xff"]
    assert (reader.code, reader.reason) == (code, "")


async def test_a_connection_that_breaks_ends_with_1006() -> None:
    """No close frame, no code: the one that says so."""
    reader = _Reader()
    async with _served(reader) as client:
        await client.send_str("last words")
        transport = client.get_extra_info("socket")
        assert transport is not None
        client._writer.transport.abort()

        assert await happens(lambda: reader.code is not None)
    assert reader.got == ["last words"]
    assert reader.code == ABNORMAL


@pytest.mark.parametrize(
    ("frame", "code"), [(b"a" * (LARGEST_BYTES + 1), 1009), (b"\xff\xfe", 1007)]
)
async def test_what_the_peer_did_wrong_is_the_close_code(frame: bytes, code: int) -> None:
    """Too big, or no UTF-8: the code we closed with counts, even if the peer never answers."""
    reader = _Reader()
    async with _served(reader) as client:
        await client._writer.send_frame(frame, aiohttp.WSMsgType.TEXT)

        assert await happens(lambda: reader.code is not None)
    assert reader.got == []
    assert reader.code == code


async def test_both_kinds_of_frame_can_be_sent() -> None:
    """A str leaves as a text frame, bytes as a binary one."""

    async def use(link: ServerLink) -> None:
        await link.send("text")
        await link.send(b"binary")
        await link.close(1008, "no more")

    async with _served(use) as client:
        kinds = [(message.type, message.data) async for message in client]

        assert kinds == [(aiohttp.WSMsgType.TEXT, "text"), (aiohttp.WSMsgType.BINARY, b"binary")]
        assert client.close_code == 1008


async def test_a_closed_link_says_so_and_may_be_closed_again() -> None:
    """Sending raises ConnectionError, the one error the driver knows; closing twice is harmless."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def use(link: ServerLink) -> None:
        await link.close(1000)
        await link.close(1000)
        try:
            await link.send("too late")
        except ConnectionError as error:
            outcome.set_result(type(error).__name__)

    async with _served(use) as client:
        async for _ in client:
            pass
        async with asyncio.timeout(5):
            assert await outcome
