"""Messages that are too big (P72, P73), on the wire and not only as lengths, each case a test."""

import asyncio
import json
import resource
import zlib
from collections.abc import Awaitable
from contextlib import suppress

import pytest

from gateway.events import CallReady
from gateway.simulator.twilio_line import TwilioLine
from tests.faults.conftest import OpenScene
from tests.faults.scene import Scene
from tests.faults.stream import CONTINUATION, TEXT, RawSocket, until

LIMIT_BYTES = 65_536
MIB = 1024 * 1024


async def _in_a_call(scene: Scene, socket: RawSocket) -> str:
    """Start a call over bare frames; returns the number it comes from."""
    number = scene.new_number()
    for message in TwilioLine(scene.ticket(number)).start(0.0):
        await socket.send(str(message).encode())
    await until(lambda: any(isinstance(fact, CallReady) for fact in scene.of_number(number)))
    return number


def _text(size: int) -> bytes:
    """A well-formed message of exactly so many bytes."""
    empty = json.dumps({"event": "foo", "padding": ""})
    return json.dumps({"event": "foo", "padding": "x" * (size - len(empty))}).encode()


async def _send_whole(socket: RawSocket, size: int) -> None:
    await socket.send(_text(size))


async def _send_in_pieces(socket: RawSocket, size: int, pieces: int) -> None:
    text = _text(size)
    step = -(-size // pieces)
    for at in range(0, size, step):
        is_last = at + step >= size
        await socket.send(text[at : at + step], TEXT if at == 0 else CONTINUATION, is_final=is_last)


async def _ended(scene: Scene, number: str) -> None:
    await until(lambda: scene.is_over(number))
    assert scene.reasons() == ["protocol_error"]
    assert scene.metric("calls_ended_total", reason="protocol_error") == 1


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, MIB])
async def test_p72_oversized_message(open_scene: OpenScene, size: int) -> None:
    """One byte above the limit ends the call with 1009, as a megabyte does."""
    scene = await open_scene()
    async with scene.raw() as socket:
        number = await _in_a_call(scene, socket)
        sending = asyncio.create_task(_send_whole(socket, size))
        assert await socket.close_code() == 1009
        await asyncio.wait([sending])
    await _ended(scene, number)


async def test_p72_largest_message(open_scene: OpenScene) -> None:
    """A message as large as allowed, whole or in a thousand pieces, harms nothing."""
    scene = await open_scene()
    async with scene.raw() as socket:
        number = await _in_a_call(scene, socket)
        await _send_whole(socket, LIMIT_BYTES - 1)
        await _send_in_pieces(socket, LIMIT_BYTES - 1, 1000)
        await until(lambda: scene.metric("frame_errors_total", kind="unknown_event") == 2)
        await socket.send(b'{"event":"stop","stop":{}}')
        await until(lambda: scene.is_over(number))
    assert scene.reasons() == ["caller_hangup"]


async def test_p72_oversized_in_pieces(open_scene: OpenScene) -> None:
    """A thousand small pieces of something too big end the call with 1009."""
    scene = await open_scene()
    async with scene.raw() as socket:
        number = await _in_a_call(scene, socket)
        sending = asyncio.create_task(_swallowing(_send_in_pieces(socket, 2 * LIMIT_BYTES, 1000)))
        assert await socket.close_code() == 1009
        await asyncio.wait([sending])
    await _ended(scene, number)


async def test_p72_message_without_end(open_scene: OpenScene) -> None:
    """A message that never ends is cut off with 1009 at the limit, and memory stays flat."""
    scene = await open_scene()
    async with scene.raw() as socket:
        number = await _in_a_call(scene, socket)
        before = _peak_bytes()
        sending = asyncio.create_task(_swallowing(_send_for_ever(socket)))
        assert await socket.close_code() == 1009
        sending.cancel()
        await asyncio.wait([sending])
    await _ended(scene, number)
    assert _peak_bytes() - before < 8 * MIB


async def _send_for_ever(socket: RawSocket) -> None:
    await socket.send(b'{"event":"foo","padding":"', TEXT, is_final=False)
    while True:
        await socket.send(b"x" * 1000, CONTINUATION, is_final=False)
        await asyncio.sleep(0)


async def _swallowing(sending: Awaitable[None]) -> None:
    """Send until the far end has had enough."""
    with suppress(ConnectionError):
        await sending


async def test_p73_compression_bomb(open_scene: OpenScene) -> None:
    """Compression is not agreed upon, so 64 MiB of zeros in 64 kB are a protocol error."""
    scene = await open_scene()
    squeeze = zlib.compressobj(9, wbits=-15)
    bomb = squeeze.compress(bytes(64 * MIB)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    async with scene.raw(Sec_WebSocket_Extensions="permessage-deflate") as socket:
        assert "extensions" not in socket.answer.lower()
        number = await _in_a_call(scene, socket)
        before = _peak_bytes()
        await socket.send(bomb[:-4], rsv1=True)
        assert await socket.close_code() in {1002, 1009}
    await _ended(scene, number)
    assert _peak_bytes() - before < 2 * MIB


def _peak_bytes() -> int:
    """The most memory this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
