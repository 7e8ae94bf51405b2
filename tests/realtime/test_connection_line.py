"""An open line to the model behaves as the bridge's contract says, however the model behaves."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from gateway.realtime.auth import ApiKey
from gateway.realtime.connection import (
    CLOSE_TIMEOUT_S,
    MAX_FRAGMENTS,
    MAX_KEPT_MESSAGES,
    Target,
    _Socket,
    _SocketLink,
    dial,
)
from tests.ear import Ear
from tests.running import happens

# `serve` runs on uvloop where there is one, and transports differ in what they allow.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

CHUNK_BYTES = 262_144  # what a loop reads at once
MESSAGE = b"x" * 1000


@pytest.fixture(autouse=True)
def _nothing_broke_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    broke = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not [record.getMessage() for record in broke if record.name == "asyncio"]


@dataclass
class Line:
    """Both ends of an open line, and what our end of it heard."""

    link: _SocketLink
    model: ServerConnection
    ear: Ear = field(default_factory=Ear)

    @property
    def socket(self) -> _Socket:
        """What is behind the link."""
        return self.link._socket

    def write(self, *frames: Frame) -> None:
        """The model's frames as they are, in one write."""
        serialized = (frame.serialize(mask=False, extensions=[]) for frame in frames)
        self.model.transport.write(b"".join(serialized))

    def clog(self) -> list[bytes]:
        """Send until the link is clogged; returns what was sent."""
        sent: list[bytes] = []
        while not self.link.is_clogged and len(sent) < 50_000:
            sent.append(b"%d " % len(sent) + MESSAGE)
            self.link.send(sent[-1])
        assert self.link.is_clogged
        return sent


@contextlib.asynccontextmanager
async def _open() -> AsyncIterator[Line]:
    models: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def hold(connection: ServerConnection) -> None:
        models.put_nowait(connection)
        await connection.wait_closed()

    async with serve(hold, "127.0.0.1", 0, max_queue=None, close_timeout=0.5) as server:
        port = server.sockets[0].getsockname()[1]
        target = Target(f"ws://127.0.0.1:{port}/", "ga", ApiKey("a-key-for-the-tests"))
        link = cast("_SocketLink", await dial(target, timeout_s=5.0))
        line = Line(link, await models.get())
        try:
            yield line
        finally:
            line.socket.transport.abort()
            line.model.transport.abort()


def _text(data: bytes, *, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, data, fin=fin)


def _more(data: bytes, *, fin: bool = False) -> Frame:
    return Frame(Opcode.CONT, data, fin=fin)


# ------------------------------------------------------------- what the model says


async def test_messages_come_as_bytes_in_the_pass_that_read_them() -> None:
    """Text, binary, nothing at all and umlauts: bytes, in order."""
    async with _open() as line:
        line.ear.hear(line.link)
        for message in ("text \u00e9", b"\x00\xff", ""):
            await line.model.send(message)

        assert await happens(lambda: len(line.ear.told) == 3)
        assert line.ear.told == ["text \u00e9".encode(), b"\x00\xff", b""]
        assert {type(message) for message in line.ear.told} == {bytes}


async def test_a_message_in_parts_comes_whole() -> None:
    """Fragments are joined over reads, with a ping between them answered meanwhile."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.write(_text(b"one ", fin=False), _more(b"tw"))
        pong = await line.model.ping()
        async with asyncio.timeout(5):
            await pong
        assert line.ear.told == []
        line.write(_more(b"o "), _more(b"three", fin=True), _text(b"four"))

        assert await happens(lambda: len(line.ear.told) == 2)
        assert line.ear.told == [b"one two three", b"four"]


async def test_a_message_and_a_close_in_one_segment_come_in_that_order() -> None:
    """Last words are heard although the close is already there."""
    async with _open() as line:
        line.ear.hear(line.link)
        close = Frame(Opcode.CLOSE, (4000).to_bytes(2, "big") + b"enough")
        line.write(_text(b"last"), _text(b"words"), close)

        with pytest.raises(ConnectionClosed):
            await line.model.recv()
        line.model.transport.close()
        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == [b"last", b"words"]
        assert (line.link.close_code, line.link.close_reason) == (4000, "enough")
        with pytest.raises(ConnectionError):
            line.link.send(b"too late")
    assert line.ear.closed == 1


async def test_part_of_a_message_is_none() -> None:
    """The line is cut in the middle of a message: it is not told."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.write(_text(b"whole"), _text(b"half", fin=False))
        assert await happens(lambda: line.ear.told == [b"whole"])
        line.model.transport.abort()

        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == [b"whole"]
        assert line.link.close_code == 1006


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([_more(b"of nothing")], 1002),
        ([_text(b"one", fin=False), _text(b"two")], 1002),
        ([Frame(Opcode.CLOSE, b"\x00\x01")], 1002),
    ],
    ids=["no beginning", "no end", "no code"],
)
async def test_what_the_model_did_wrong_is_the_close_code(frames: list[Frame], code: int) -> None:
    """A broken stream ends the line with the code we closed it with."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.write(*frames)

        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == []
        assert line.link.close_code == code


async def test_a_message_in_too_many_parts_ends_the_line() -> None:
    """Parts of nothing cost no size, but each a place: there is a bound to them as well."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.write(_text(b"", fin=False), *[_more(b"")] * (MAX_FRAGMENTS - 2), _more(b"", fin=True))
        assert await happens(lambda: line.ear.told == [b""])
        line.write(_text(b"", fin=False), *[_more(b"")] * MAX_FRAGMENTS)

        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == [b""]
        assert line.link.close_code == 1009


async def test_pings_and_pongs_are_websockets_own() -> None:
    """The model's ping is answered with its payload; the answer to ours has its latency."""
    async with _open() as line:
        line.ear.hear(line.link)
        pong = await line.model.ping(b"are you there?")
        answer = await line.socket.ping()
        async with asyncio.timeout(5):
            assert await pong >= 0
            assert await answer >= 0

        assert line.ear.told == []


# ------------------------------------------------------------- before anybody listens


async def test_what_comes_before_anybody_listens_is_kept() -> None:
    """A few messages, told first and in order; what comes later follows."""
    async with _open() as line:
        await line.model.send("session.created")
        await line.model.send("rate_limits.updated")
        assert await happens(lambda: len(line.socket._kept) == 2)
        line.ear.hear(line.link)
        assert line.ear.told == [b"session.created", b"rate_limits.updated"]
        await line.model.send("more")

        assert await happens(lambda: len(line.ear.told) == 3)


async def test_reading_stops_when_enough_is_kept_and_nothing_is_lost() -> None:
    """A model that talks before anybody listens fills its own buffers, not our memory."""
    texts = [b"%d " % number + MESSAGE for number in range(12_000)]
    async with _open() as line:
        line.write(*(_text(text) for text in texts))
        kept = line.socket._kept
        assert await happens(lambda: len(kept) >= MAX_KEPT_MESSAGES)
        assert not await happens(
            lambda: line.model.transport.get_write_buffer_size() == 0, within_s=0.3
        )
        assert len(kept) <= MAX_KEPT_MESSAGES + CHUNK_BYTES // len(MESSAGE)
        line.ear.hear(line.link)

        assert await happens(lambda: len(line.ear.told) == len(texts))
        assert line.ear.told == texts


@pytest.mark.parametrize("count", [2, MAX_KEPT_MESSAGES])
async def test_a_model_that_spoke_and_left_before_anybody_listened_is_heard(count: int) -> None:
    """What was kept comes first, then the close; also when reading had stopped."""
    texts = [b"%d" % number for number in range(count)]
    async with _open() as line:
        line.write(*(_text(text) for text in texts))
        assert await happens(lambda: len(line.socket._kept) == count)
        line.model.transport.abort()
        if count < MAX_KEPT_MESSAGES:
            assert await happens(lambda: line.socket._is_gone)
        line.ear.hear(line.link)

        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == texts
    assert line.ear.closed == 1


@pytest.mark.parametrize("count", [0, MAX_KEPT_MESSAGES])
@pytest.mark.parametrize("is_known", [False, True])
async def test_a_transport_aborted_before_anybody_listens(count: int, *, is_known: bool) -> None:
    """The end is told to who comes late, whether it is known by then or not; kept words first."""
    texts = [b"%d" % number for number in range(count)]
    async with _open() as line:
        line.write(*(_text(text) for text in texts))
        assert await happens(lambda: len(line.socket._kept) == count)
        line.socket.transport.abort()
        if is_known:
            assert await happens(lambda: line.socket._is_gone)
        line.ear.hear(line.link)

        assert await happens(lambda: line.ear.closed > 0)
        assert line.ear.told == texts
        assert line.link.close_code == 1006
        with pytest.raises(ConnectionError):
            line.link.send(b"too late")
        await line.link.close()
    assert line.ear.closed == 1


# ------------------------------------------------------------- what we say


async def test_a_model_that_reads_nothing_clogs_the_link_until_it_reads_again() -> None:
    """Sending goes on without waiting, nothing is lost or turned round, being free is told."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.model.transport.pause_reading()
        sent = line.clog()
        for _ in range(100):
            sent.append(b"late " + MESSAGE)
            line.link.send(sent[-1])
        await line.model.send("I am still here")
        assert await happens(lambda: line.ear.told == [b"I am still here"])
        assert line.ear.freed == 0

        line.model.transport.resume_reading()
        async with asyncio.timeout(10):
            received = [await line.model.recv(decode=False) for _ in sent]
        assert received == sent
        assert await happens(lambda: line.ear.freed == 1)
        assert not line.link.is_clogged


async def test_a_clogged_link_that_is_lost_is_closed_not_freed() -> None:
    """The loss is told once; nobody is told to go on writing."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.model.transport.pause_reading()
        line.clog()
        line.model.transport.abort()

        assert await happens(lambda: line.ear.closed > 0)
        assert (line.ear.closed, line.ear.freed) == (1, 0)


@pytest.mark.parametrize(
    "cut",
    [
        lambda transport: transport.abort(),
        lambda transport: transport.close(),
    ],
    ids=["abort", "close"],
)
async def test_sending_on_a_transport_that_ends_raises_nothing_but_connection_errors(
    cut: Callable[[asyncio.Transport], None],
) -> None:
    """Between its end and the news of it a message is lost in silence; after it, it is refused."""
    async with _open() as line:
        line.ear.hear(line.link)
        cut(line.socket.transport)
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                line.link.send(b"{}")

        assert await happens(lambda: line.ear.closed > 0)
        with pytest.raises(ConnectionError):
            line.link.send(b"too late")
    assert line.ear.closed == 1


async def test_sending_to_a_model_that_half_closed_is_a_connection_error() -> None:
    """It ended its side without a close frame: what could still be written is not."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.model.transport.write_eof()
        assert await happens(lambda: line.socket.protocol.eof_sent)
        with pytest.raises(ConnectionError):
            line.link.send(b"too late")

        assert await happens(lambda: line.ear.closed > 0)
        assert line.link.close_code == 1006


# ------------------------------------------------------------- the end


async def test_close_waits_for_the_models_answer() -> None:
    """Code and reason arrive behind what was said; our close is told to who still listens."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.link.send(b"last words")
        await line.link.close(4001, "bye")

        assert await line.model.recv() == "last words"
        await line.model.wait_closed()
        assert (line.model.close_code, line.model.close_reason) == (4001, "bye")
        assert (line.link.close_code, line.ear.closed) == (4001, 1)


@pytest.mark.parametrize("is_clogged", [False, True])
async def test_a_model_that_does_not_answer_a_close_is_left_behind(*, is_clogged: bool) -> None:
    """After the line's time the transport is gone, whatever the model thinks of it."""
    async with _open() as line:
        line.ear.hear(line.link)
        line.model.transport.pause_reading()
        if is_clogged:
            line.clog()
        async with asyncio.timeout(CLOSE_TIMEOUT_S + 2.0):
            await line.link.close()

        assert line.socket.transport.is_closing()
        assert await happens(lambda: line.ear.closed == 1)
        assert line.ear.freed == 0
        await line.link.close()
