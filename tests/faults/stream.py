"""Twilio's end of a media stream, held by hand: every message is the test's own doing."""

import asyncio
import base64
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gateway.simulator.twilio_line import TwilioCall, TwilioLine

FRAME_S = 0.02
SILENCE = b"\xff" * 160
# A square wave of 250 Hz, loud, in mu-law.
TONE = (b"\x92" * 16 + b"\x12" * 16) * 5
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


class Stream:
    """A stream over an open socket, with the simulator's exact phone at its end."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, call: TwilioCall) -> None:
        self.socket = socket
        self.line = TwilioLine(call)
        self.echoes_marks = True
        self.received: list[dict[str, Any]] = []
        self.sent_ms = 0.0
        self.is_over = asyncio.Event()
        self._began = time.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the stream was made."""
        return time.monotonic() - self._began

    async def send(self, *messages: Any) -> None:
        """Send each as it is; what is not text becomes JSON."""
        for message in messages:
            is_text = isinstance(message, str | bytes)
            await self.socket.send_str(str(message) if is_text else json.dumps(message))

    async def start(self) -> None:
        """``connected`` and ``start``."""
        await self.send(*self.line.start(self.now))

    async def frames(self, count: int, payload: bytes = SILENCE, *, every_s: float = 0.0) -> None:
        """Caller audio, at once or paced by the clock."""
        began = self.now
        for number in range(count):
            await self.send(*self.line.send_audio(payload, self.now))
            self.sent_ms += len(payload) / 8
            await self._echo()
            if every_s:
                await asyncio.sleep(max(0.0, began + (number + 1) * every_s - self.now))

    async def talk(self, duration_s: float, payload: bytes = SILENCE) -> None:
        """Caller audio in real time."""
        await self.frames(round(duration_s / FRAME_S), payload, every_s=FRAME_S)

    async def stop(self) -> None:
        """Hang up in good order."""
        with suppress(ConnectionError):
            await self.send(*self.line.stop(self.now))
        await self.socket.close()

    async def read(self) -> None:
        """Take what comes until the socket is closed."""
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.received.append(json.loads(message.data))
                await self._reply(self.line.receive(message.data, self.now))
        self.is_over.set()

    async def _echo(self) -> None:
        await self._reply(self.line.advance(self.now))

    async def _reply(self, messages: list[str | bytes]) -> None:
        if self.echoes_marks:
            with suppress(ConnectionError):
                await self.send(*messages)

    def of(self, event: str) -> list[dict[str, Any]]:
        """The gateway's messages of one kind."""
        return [message for message in self.received if message["event"] == event]

    def audio(self) -> bytes:
        """All audio the gateway sent."""
        payloads = [message["media"]["payload"] for message in self.of("media")]
        return b"".join(base64.b64decode(payload) for payload in payloads)


@asynccontextmanager
async def hold(socket_url: str, headers: dict[str, str], call: TwilioCall) -> AsyncIterator[Stream]:
    """Open a media socket; it is closed at the end, whatever happened."""
    async with aiohttp.ClientSession() as session:
        # aiohttp waits 10 s for an answer to its close; a gateway that is gone gives none.
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        socket = await session.ws_connect(socket_url, headers=headers, timeout=timeout)
        stream = Stream(socket, call)
        reading = asyncio.create_task(stream.read())
        try:
            yield stream
        finally:
            await socket.close()
            reading.cancel()
            await asyncio.wait([reading])


@dataclass
class Frame:
    """One WebSocket frame as it lay on the wire."""

    opcode: int
    payload: bytes
    is_final: bool = True


@dataclass
class RawSocket:
    """A WebSocket of our own making (RFC 6455), for what no library would send."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: str = ""
    frames: list[Frame] = field(default_factory=list)

    async def send(
        self, payload: bytes, opcode: int = TEXT, *, is_final: bool = True, rsv1: bool = False
    ) -> None:
        """One masked frame."""
        head = bytes([(0x80 if is_final else 0) | (0x40 if rsv1 else 0) | opcode])
        mask = os.urandom(4)
        key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)])
        masked = (int.from_bytes(payload) ^ key).to_bytes(len(payload))
        self.writer.write(head + _length(len(payload)) + mask + masked)
        await self.writer.drain()

    async def read(self) -> Frame | None:
        """The next frame, None once the connection is closed."""
        try:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            frame = Frame(first & 0xF, await self.reader.readexactly(size), bool(first & 0x80))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.frames.append(frame)
        return frame

    async def close_code(self, within_s: float = 3.0) -> int:
        """Read to the close frame: its code, 1006 when the connection just ended."""
        async with asyncio.timeout(within_s):
            while (frame := await self.read()) is not None:
                if frame.opcode == CLOSE:
                    return int.from_bytes(frame.payload[:2])
        return 1006


def _length(size: int) -> bytes:
    if size < 126:
        return bytes([0x80 | size])
    return b"\xfe" + struct.pack(">H", size) if size < 65536 else b"\xff" + struct.pack(">Q", size)


@asynccontextmanager
async def raw(
    port: int, path: str, headers: dict[str, str], *, receive_bytes: int = 0
) -> AsyncIterator[RawSocket]:
    """Upgrade a bare TCP connection; ``receive_bytes`` narrows the kernel's receive buffer."""
    reader, writer = await _connection(port, receive_bytes)
    try:
        usual = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        }
        lines = [f"{name}: {value}\r\n" for name, value in (usual | headers).items()]
        writer.write(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101"), answer
        yield RawSocket(reader, writer, answer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _connection(
    port: int, receive_bytes: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not receive_bytes:
        return await asyncio.open_connection("127.0.0.1", port)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    narrow.setblocking(False)  # noqa: FBT003  # the standard library's own signature
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=narrow, limit=receive_bytes)


async def until(is_so: Callable[[], Any], within_s: float = 3.0) -> None:
    """Wait until something is so; fails when it is not in time."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)
