"""An aiohttp server socket behaves as the bridge's contract says."""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from gateway.errors import LocalProtocolError
from gateway.links import ABNORMAL, MAX_KEPT_MESSAGES, MediaSocket, ServerLink
from gateway.realtime import Listener
from tests.ear import Ear
from tests.running import happens

# `serve` runs on uvloop where there is one, and transports differ in what they allow.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

LARGEST_BYTES = 4096
CHUNK_BYTES = 262_144  # what a loop reads at once
SMALL_BUFFER_BYTES = 4096
MESSAGE = "x" * 1000

Meanwhile = Callable[[web.Request], Awaitable[None]]


async def _at_once(_request: web.Request) -> None:
    """Nothing happens between the upgrade and the link."""


@dataclass
class Server:
    """Where to connect, and the link of each who did."""

    port: int
    links: "asyncio.Queue[ServerLink]"

    @property
    def url(self) -> str:
        """For clients that know HTTP."""
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(autouse=True)
def _nothing_broke_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    broke = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not [record.getMessage() for record in broke if record.name == "asyncio"]


@asynccontextmanager
async def _served(meanwhile: Meanwhile = _at_once, **changes: Any) -> AsyncIterator[Server]:
    """A server that makes links; what is ``meanwhile`` comes between the upgrade and the link."""
    links: asyncio.Queue[ServerLink] = asyncio.Queue()
    over = asyncio.Event()

    async def accept(request: web.Request) -> web.WebSocketResponse:
        usual = {"max_msg_size": LARGEST_BYTES, "compress": False, "timeout": 0.2}
        answer = MediaSocket(**(usual | changes))
        assert request.transport is not None
        mine = request.transport.get_extra_info("socket")
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        await answer.prepare(request)
        await meanwhile(request)
        link = ServerLink(answer, request)
        links.put_nowait(link)
        await over.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await link.close()
        return answer

    app = web.Application()
    app.router.add_get("/", accept)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Server(runner.addresses[0][1], links)
    finally:
        over.set()
        await runner.cleanup()


@asynccontextmanager
async def _met(**changes: Any) -> AsyncIterator[tuple[ServerLink, aiohttp.ClientWebSocketResponse]]:
    """A link and the ordinary client at its other end."""
    async with (
        _served(**changes) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url) as client,
    ):
        yield await server.links.get(), client


class Peer:
    """A client that reads and answers only when it is told to."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"), max_size=None)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        self._socket.settimeout(0)

    async def __aenter__(self) -> Self:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        self._protocol.send_request(self._protocol.connect())
        await self.write()
        await self.read(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, *texts: str) -> Self:
        """Put messages into the next write."""
        for text in texts:
            self._protocol.send_text(text.encode())
        return self

    def fragment(self, *parts: bytes, between: bytes | None = None) -> Self:
        """Put a message in parts into the next write, with a ping between two of them."""
        for number, part in enumerate(parts):
            send = self._protocol.send_continuation if number else self._protocol.send_text
            if number and between is not None:
                self._protocol.send_ping(between)
            send(part, fin=number == len(parts) - 1)
        return self

    def ping(self, payload: bytes) -> Self:
        """Put a ping into the next write."""
        self._protocol.send_ping(payload)
        return self

    def hang_up(self, code: int) -> Self:
        """Put a close into the next write."""
        self._protocol.send_close(code)
        return self

    async def write(self) -> None:
        """All that was put, and the answers to what was read, in one segment."""
        await self._loop.sock_sendall(self._socket, b"".join(self._protocol.data_to_send()))

    async def read(self, count: int) -> list[Frame]:
        """So many frames, or those there were when the line ended."""
        frames: list[Any] = []
        async with asyncio.timeout(10):
            while len(frames) < count:
                chunk = await self._loop.sock_recv(self._socket, CHUNK_BYTES)
                if not chunk:
                    break
                self._protocol.receive_data(chunk)
                frames += self._protocol.events_received()
        return frames

    def reset(self) -> None:
        """Be gone without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()


def _clog(link: ServerLink) -> list[str]:
    """Send until the link is clogged; returns what was sent."""
    sent: list[str] = []
    while not link.is_clogged and len(sent) < 10_000:
        sent.append(f"{len(sent)} {MESSAGE}")
        link.send(sent[-1])
    assert link.is_clogged
    return sent


def _texts(frames: list[Frame]) -> list[str]:
    return [bytes(frame.data).decode() for frame in frames if frame.opcode is Opcode.TEXT]


# ------------------------------------------------------------- what the peer says


@pytest.mark.parametrize("code", [1000, 1001, 1009, 4000])
async def test_messages_come_as_they_were_sent_and_end_with_the_peers_code(code: int) -> None:
    """Text stays text, binary stays binary; the close is told once, and its code is kept."""
    ear = Ear()
    async with _met() as (link, client):
        ear.hear(link)
        await client.send_str("text \u00e9")
        await client.send_bytes(b"\x00\xff")
        await client.close(code=code)

        assert await happens(lambda: ear.closed > 0)
        assert ear.told == ["text \u00e9", b"\x00\xff"]
        assert (link.close_code, link.close_reason) == (code, "")
        with pytest.raises(ConnectionError):
            link.send("too late")
    assert ear.closed == 1


async def test_a_connection_that_breaks_ends_with_1006() -> None:
    """No close frame, no code: the one that says so."""
    ear = Ear()
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        await peer.say("last words").write()
        assert await happens(lambda: ear.told == ["last words"])
        peer.reset()

        assert await happens(lambda: ear.closed > 0)
        assert link.close_code == ABNORMAL


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"a" * (LARGEST_BYTES + 1), 1009), (b"\xff\xfe", 1007)],
    ids=["too big", "no text"],
)
async def test_what_the_peer_did_wrong_is_the_close_code(frame: bytes, code: int) -> None:
    """Too big, or no UTF-8: the code we closed with counts, even if the peer never answers."""
    ear = Ear()
    async with _met() as (link, client):
        ear.hear(link)
        await client._writer.send_frame(frame, aiohttp.WSMsgType.TEXT)

        assert await happens(lambda: ear.closed > 0)
        assert ear.told == []
        assert link.close_code == code
        message = await client.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)


async def test_a_message_in_parts_comes_whole() -> None:
    """Fragments are joined, and a ping between them is answered meanwhile."""
    ear = Ear()
    async with _served() as server, Peer(server.port) as peer:
        ear.hear(await server.links.get())
        await peer.fragment(b"one ", b"two ", b"three", between=b"?").say("four").write()
        pongs = await peer.read(2)

        assert ear.told == ["one two three", "four"]
        assert [(frame.opcode, bytes(frame.data)) for frame in pongs] == [(Opcode.PONG, b"?")] * 2


async def test_a_ping_is_answered() -> None:
    """Its payload comes back, also of one from before anybody listened, and it is no message."""
    ear = Ear()
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        await peer.ping(b"early").write()
        ear.hear(link)
        await peer.ping(b"late").write()
        answers = await peer.read(2)

        assert [(frame.opcode, bytes(frame.data)) for frame in answers] == [
            (Opcode.PONG, b"early"),
            (Opcode.PONG, b"late"),
        ]
        assert ear.told == []


async def test_a_message_and_a_close_in_one_segment_come_in_that_order() -> None:
    """Last words are heard although the close is already there."""
    ear = Ear()
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        await peer.say("last", "words").ping(b"?").hang_up(1001).write()

        assert await happens(lambda: ear.closed > 0)
        assert ear.told == ["last", "words"]
        assert link.close_code == 1001


# ------------------------------------------------------------- before anybody listens


async def test_what_comes_before_anybody_listens_is_kept() -> None:
    """A few messages, told first and in order; what comes later follows."""
    ear = Ear()
    async with _met() as (link, client):
        await client.send_str("start")
        await client.send_bytes(b"frame")
        assert await happens(lambda: len(link._socket.inbox._kept) == 2)
        ear.hear(link)
        assert ear.told == ["start", b"frame"]
        await client.send_str("more")

        assert await happens(lambda: ear.told == ["start", b"frame", "more"])


@pytest.mark.parametrize("pings", [False, True])
async def test_reading_stops_when_enough_is_kept_and_nothing_is_lost(*, pings: bool) -> None:
    """A peer that talks before anybody listens fills its own buffers, not our memory."""
    ear = Ear()
    texts = [f"{number} {MESSAGE}" for number in range(8000)]
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        for number, text in enumerate(texts):
            peer.say(text)
            if pings and number % 50 == 0:
                peer.ping(b"")
        writing = asyncio.create_task(peer.write())
        kept = link._socket.inbox._kept
        assert await happens(lambda: len(kept) >= MAX_KEPT_MESSAGES)
        assert not await happens(writing.done, within_s=0.3)
        assert len(kept) <= MAX_KEPT_MESSAGES + 2 * CHUNK_BYTES // len(MESSAGE)
        ear.hear(link)

        assert await happens(lambda: len(ear.told) == len(texts))
        assert ear.told == texts
        await writing


async def test_a_socket_that_is_not_prepared_has_nothing_to_listen_to() -> None:
    """The mistake is ours, and named."""
    with pytest.raises(LocalProtocolError, match="not prepared"):
        _ = MediaSocket().inbox


# ------------------------------------------------------------- gone before anybody listens


async def test_a_transport_aborted_just_before_the_link_is_made() -> None:
    """The loss is not yet known when the link is made: it is told to whoever listens."""

    async def abort(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()

    ear = Ear()
    async with _served(abort) as server, Peer(server.port):
        link = await server.links.get()
        ear.hear(link)

        assert await happens(lambda: ear.closed > 0)
        assert link.close_code == ABNORMAL
        assert not link.is_clogged
        with pytest.raises(ConnectionError):
            link.send("too late")
        await link.close()
    assert ear.closed == 1


async def test_a_transport_lost_before_the_link_is_made() -> None:
    """There is nothing left to make a link of: it says so, and closing it is harmless."""

    async def lose(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()
        assert await happens(lambda: request.transport is None)

    ear = Ear()
    async with _served(lose) as server, Peer(server.port):
        link = await server.links.get()
        ear.hear(link)

        assert await happens(lambda: ear.closed > 0)
        assert link.close_code == ABNORMAL
        with pytest.raises(ConnectionError):
            link.send("too late")
        await link.close()


async def test_a_send_on_an_aborted_transport_is_a_connection_error() -> None:
    """Between the abort and the news of it a message finds no socket."""
    ear = Ear()
    async with _served() as server, Peer(server.port):
        link = await server.links.get()
        ear.hear(link)
        assert link._transport is not None
        link._transport.abort()
        with pytest.raises(ConnectionError):
            link.send("too late")
        with pytest.raises(ConnectionError):
            link.send(b"too late")

        assert await happens(lambda: ear.closed > 0)


@pytest.mark.parametrize("count", [2, MAX_KEPT_MESSAGES])
async def test_a_peer_that_spoke_and_left_before_anybody_listened_is_heard(count: int) -> None:
    """What was kept comes first, then the close; also when reading had stopped."""
    ear = Ear()
    texts = [str(number) for number in range(count)]
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        await peer.say(*texts).write()
        assert await happens(lambda: len(link._socket.inbox._kept) == count)
        peer.reset()
        if count < MAX_KEPT_MESSAGES:
            assert await happens(lambda: not link._request.protocol.connected)
        ear.hear(link)

        assert await happens(lambda: ear.closed > 0)
        assert ear.told == texts
        assert ear.closed == 1


# ------------------------------------------------------------- what we say


async def test_both_kinds_of_frame_can_be_sent() -> None:
    """A str leaves as a text frame, bytes as a binary one, the close with code and reason."""
    async with _met() as (link, client):
        link.send("text \u00e9")
        link.send(b"binary")
        closing = asyncio.create_task(link.close(1008, "no more"))
        frames = [await client.receive() for _ in range(3)]
        await closing

    assert [(message.type, message.data) for message in frames] == [
        (aiohttp.WSMsgType.TEXT, "text \u00e9"),
        (aiohttp.WSMsgType.BINARY, b"binary"),
        (aiohttp.WSMsgType.CLOSE, 1008),
    ]
    assert frames[-1].extra == "no more"


@pytest.mark.parametrize("writer_limit", [0, 65_536])
async def test_a_peer_that_reads_nothing_clogs_the_link_until_it_reads_again(
    writer_limit: int,
) -> None:
    """Sending goes on without waiting, nothing is lost or turned round, being free is told once.

    Beyond ``writer_limit`` aiohttp's own writer would wait for the peer.
    """
    ear = Ear()
    async with _served(writer_limit=writer_limit) as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        sent = _clog(link)
        late = [f"late {number}" for number in range(100)]
        for text in late:
            link.send(text)
        await peer.say("I am still here").write()
        assert await happens(lambda: ear.told == ["I am still here"])
        assert ear.freed == 0

        frames = await peer.read(len(sent) + len(late))
        assert _texts(frames) == sent + late
        assert await happens(lambda: ear.freed > 0)
        assert not link.is_clogged
        assert ear.freed == 1


@pytest.mark.parametrize("writer_limit", [0, 65_536])
async def test_a_link_can_be_clogged_and_freed_again_and_again(writer_limit: int) -> None:
    """Every clog has its end told, one each."""
    ear = Ear()
    async with _served(writer_limit=writer_limit) as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        for times in range(1, 4):
            sent = _clog(link)
            assert _texts(await peer.read(len(sent))) == sent
            assert await happens(lambda times=times: ear.freed == times)  # type: ignore[misc]


async def test_a_clogged_link_whose_peer_goes_is_closed_not_freed() -> None:
    """The loss is told once; nobody is told to go on writing."""
    ear = Ear()
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        _clog(link)
        peer.reset()

        assert await happens(lambda: ear.closed > 0)
        assert (ear.closed, ear.freed) == (1, 0)


@pytest.mark.parametrize("is_speaking", [False, True])
async def test_a_ping_that_cannot_be_answered_does_not_hide_the_end(*, is_speaking: bool) -> None:
    """The socket goes while a ping waits for its answer: the loss is told all the same."""
    closed = asyncio.Event()
    async with _served() as server, Peer(server.port) as peer:
        link = await server.links.get()
        if is_speaking:
            _clog(link)
            link.send(MESSAGE * 100)

        def cut(_message: str | bytes) -> None:
            assert link._transport is not None
            link._transport.abort()

        link.listen(Listener(cut, lambda: None, closed.set))
        await peer.ping(b"are you there?").say("I am not").write()

        async with asyncio.timeout(5):
            await closed.wait()
        assert link.close_code == ABNORMAL


# ------------------------------------------------------------- the end


async def test_close_waits_for_the_peers_answer() -> None:
    """The close frame arrives with code and reason, and what the peer still had to say is read."""
    ear = Ear()
    async with _served(timeout=5.0) as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        link.send("last words")
        closing = asyncio.create_task(link.close(4001, "bye"))
        words, close = await peer.read(2)
        assert (words.opcode, close.opcode) == (Opcode.TEXT, Opcode.CLOSE)
        assert Close.parse(close.data) == Close(4001, "bye")
        assert not await happens(closing.done, within_s=0.05)
        await peer.write()
        async with asyncio.timeout(1.0):
            await closing

        assert link.close_code == 4001
        assert await peer.read(1) == []


async def test_a_peer_that_does_not_answer_a_close_is_left_behind() -> None:
    """After the socket's time the transport is gone, whatever the peer thinks of it."""
    async with _served(timeout=0.05) as server, Peer(server.port) as peer:
        link = await server.links.get()
        async with asyncio.timeout(2.0):
            await link.close(1000)

        (close,) = await peer.read(2)
        assert close.opcode is Opcode.CLOSE


async def test_a_closed_link_says_so_and_may_be_closed_again() -> None:
    """Sending raises ConnectionError, the one error the driver knows; closing twice is harmless."""
    async with _met() as (link, client):
        closing = asyncio.create_task(link.close(1000))
        async for _ in client:
            pass
        await closing
        await link.close(1000)

        with pytest.raises(ConnectionError):
            link.send("too late")


async def test_a_clogged_link_closes_once_its_peer_has_read() -> None:
    """A slow peer gets every message and then the close frame; the wait for it is not in vain."""
    ear = Ear()
    async with _served(timeout=5.0) as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)
        sent = _clog(link)
        closing = asyncio.create_task(link.close(1008, "too slow"))
        frames = await peer.read(len(sent) + 1)
        await peer.write()
        await closing

        assert _texts(frames) == sent
        assert Close.parse(frames[-1].data) == Close(1008, "too slow")
        assert ear.freed == 0


@pytest.mark.parametrize("waits_too", ["nobody", "a pong", "a ping"])
async def test_a_clogged_link_can_be_given_up(waits_too: str) -> None:
    """A peer that reads nothing ends a close when its time is up, with no other error.

    Aiohttp's writers wait on one future: whoever of them is cancelled cancels the others.
    """
    heartbeat = 0.1 if waits_too == "a ping" else None
    async with _served(writer_limit=0, heartbeat=heartbeat) as server, Peer(server.port) as peer:
        link = await server.links.get()
        Ear().hear(link)
        _clog(link)
        if waits_too == "a pong":
            await peer.ping(b"are you there?").write()
            assert await happens(lambda: not link._socket._waiting)
        elif waits_too == "a ping":
            assert await happens(lambda: link._socket._ping_task is not None)
        transport = link._transport
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.close(1008)

        assert transport is not None
        assert transport.is_closing()
        await link.close()


# ------------------------------------------------------------- the heartbeat


async def test_a_dead_client_is_noticed() -> None:
    """It is asked, says nothing, and is gone."""
    ear = Ear()
    async with _served(heartbeat=0.1) as server, Peer(server.port) as peer:
        link = await server.links.get()
        ear.hear(link)

        assert await happens(lambda: ear.closed > 0)
        assert link.close_code == ABNORMAL
        assert [frame.opcode for frame in await peer.read(2)] == [Opcode.PING]


async def test_a_client_that_dies_after_its_first_answer_is_noticed_too() -> None:
    """One pong is no promise: the next ping is due as before."""
    ear = Ear()
    async with _served(heartbeat=0.1) as server, Peer(server.port) as peer:
        ear.hear(await server.links.get())
        for _ in range(3):
            assert [frame.opcode for frame in await peer.read(1)] == [Opcode.PING]
            await peer.write()
        assert ear.closed == 0

        assert await happens(lambda: ear.closed > 0)


async def test_data_puts_the_heartbeat_off() -> None:
    """Who talks is alive and is not asked; who falls silent is."""
    ear = Ear()
    async with _served(heartbeat=0.2) as server, Peer(server.port) as peer:
        ear.hear(await server.links.get())
        for _ in range(30):
            await peer.say("frame").write()
            await asyncio.sleep(0.02)
        asking = asyncio.create_task(peer.read(1))
        await asyncio.sleep(0)
        assert not asking.done()
        assert ear.told == ["frame"] * 30
        assert ear.closed == 0

        assert [frame.opcode for frame in await asking] == [Opcode.PING]
        assert await happens(lambda: ear.closed > 0)


async def test_an_unanswered_ping_is_forgiven_when_data_comes() -> None:
    """A frame after the ping shows as much as a pong does."""
    ear = Ear()
    async with _served(heartbeat=0.2) as server, Peer(server.port) as peer:
        ear.hear(await server.links.get())
        for _ in range(3):
            assert [frame.opcode for frame in await peer.read(1)] == [Opcode.PING]
            peer._protocol.data_to_send()  # the pong, swallowed
            await peer.say("frame").write()

        assert ear.closed == 0
        assert await happens(lambda: ear.closed > 0)
