"""Connections are taken, or handed over where somebody has fewer; one that fails harms nobody."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway import listener
from gateway.listener import SLACK, SharedListener, shared_socket
from tests.certificates import trusting, write_certificate
from tests.running import happens


class Worker:
    """One of several that share a port, with an answer that names it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.other: Worker | None = None
        self.handed = 0
        self.told: list[int] = []
        self.listener: SharedListener

    async def open(self, stack: AsyncExitStack, port: int, tls: ssl.SSLContext | None) -> None:
        """Listen."""
        server = web.Server(self._answer)
        stack.push_async_callback(server.shutdown, 0.1)
        listening = shared_socket("127.0.0.1", port)
        self.listener = SharedListener(listening, server, tls, self._hand_over, self._taken)
        stack.callback(self.listener.close)

    async def _answer(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name)

    def _taken(self) -> None:
        self.told.append(self.listener.connections)

    def _hand_over(self, connection: socket.socket) -> None:
        self.handed += 1
        assert self.other is not None
        self.other.listener.adopt(connection)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test has opened."""
    async with AsyncExitStack() as opened:
        yield opened


async def _one(stack: AsyncExitStack, tls: ssl.SSLContext | None = None) -> Worker:
    worker = Worker("one")
    await worker.open(stack, 0, tls)
    return worker


async def _connections(stack: AsyncExitStack, port: int, count: int) -> None:
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)


async def test_a_worker_with_more_than_its_share_hands_over(stack: AsyncExitStack) -> None:
    """It takes as many as the freest one has and a little more; the rest goes there."""
    one, two = await _one(stack), Worker("two")
    one.other = two
    # On a port of its own: whatever it has was handed to it.
    await two.open(stack, 0, None)
    one.listener.least = 3
    await _connections(stack, one.listener.port, 10)
    assert await happens(lambda: one.listener.connections + two.listener.connections == 10)

    assert one.listener.connections == 3 + SLACK + 1
    assert one.handed == two.listener.connections == 10 - one.listener.connections
    assert one.told == list(range(1, one.listener.connections + 1))


async def test_a_connection_that_was_handed_over_is_like_any_other(stack: AsyncExitStack) -> None:
    """What its peer wrote meanwhile is not lost, and when it has gone it counts no more."""
    one, two = await _one(stack), Worker("two")
    one.other = two
    await two.open(stack, 0, None)
    one.listener.least = -SLACK - 1
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{one.listener.port}/") as reply,
    ):
        answer = await reply.text()

    assert answer == "two"
    assert await happens(lambda: two.listener.connections == 0)


async def test_several_listen_on_one_port(stack: AsyncExitStack) -> None:
    """The kernel deals out between them, and one that closes gets nothing more."""
    one, two = await _one(stack), Worker("two")
    await two.open(stack, one.listener.port, None)
    one.listener.least = two.listener.least = 1000
    await _connections(stack, one.listener.port, 64)
    assert await happens(lambda: one.listener.connections + two.listener.connections == 64)
    # 64 tosses of a coin that all fall on one side: 1 in 10^19.
    assert one.listener.connections
    assert two.listener.connections
    before = one.listener.connections
    one.listener.close()
    one.listener.close()
    await _connections(stack, two.listener.port, 8)

    assert await happens(lambda: two.listener.connections == 64 - before + 8)


async def test_tls_is_spoken_and_nothing_else(stack: AsyncExitStack, tmp_path: Path) -> None:
    """A peer that does not is left behind; the next one gets through."""
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    worker = await _one(stack, context)
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.listener.port)
    stack.callback(writer.close)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(10_000)
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"https://127.0.0.1:{worker.listener.port}/", ssl=trusting(certificate)
        ) as reply,
    ):
        assert await reply.text() == "one"
    assert await happens(lambda: worker.listener.connections == 0)


async def test_no_free_file_descriptor_is_a_pause(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer waits in the kernel's queue, and is taken when there is room again."""
    monkeypatch.setattr(listener, "PAUSE_S", 0.05)
    worker = await _one(stack)
    failing = _Failing(worker.listener._listening)
    monkeypatch.setattr(worker.listener, "_listening", failing)
    await _connections(stack, worker.listener.port, 1)

    assert await happens(lambda: worker.listener.connections == 1)
    assert failing.failures == 1


class _Failing:
    """A socket that has no file descriptor for its first connection."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.failures = 0

    def accept(self) -> object:
        """Fail once."""
        if not self.failures:
            self.failures += 1
            raise OSError(24, "Too many open files")
        return self._real.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


async def test_a_port_is_shared_or_not() -> None:
    """Those who share can have it together; who wants it alone learns that it is not free."""
    with shared_socket("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with shared_socket("127.0.0.1", port) as two:
            two.listen()
            with pytest.raises(OSError, match="in use"):
                shared_socket("127.0.0.1", port, is_alone=True)
