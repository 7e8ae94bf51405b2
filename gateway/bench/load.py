"""Callers and models on sockets, all in this process and on one clock."""

import asyncio
import gc
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from gateway.bench import framing
from gateway.bench.caller import Caller
from gateway.bench.encryption import Encryption
from gateway.bench.framing import CLOSE, PING, PONG, FramingError, Splitter
from gateway.bench.model import Session
from gateway.bench.tally import Books
from gateway.bench.tones import FRAME_MS, NUMBERS
from gateway.bench.wheel import Wheel

CONNECT_TIMEOUT_S = 10.0
# Audio of a call that the gateway does not read; more means that it has hung.
MAX_UNREAD_BYTES = 4 * 1024 * 1024
_TICK_S = 0.001
# In which the loop lets go of what was closed.
_LAST_CALLBACKS_S = 0.05

clock = time.monotonic


class _Wire(asyncio.Protocol, ABC):
    """One WebSocket connection: handshake, then messages; control frames are answered here."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self.is_open = False
        self.is_closed = False
        self._splitter = Splitter()
        self._received = b""
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._is_encrypted = False
        self._is_behind = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        # uvloop's transports have the methods without being subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._fd = transport.get_extra_info("socket").fileno()
        self._is_encrypted = transport.get_extra_info("ssl_object") is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        del exc
        self.is_closed = True
        self._on_closed()

    def send(self, frames: bytes) -> None:
        """Write at once where the socket takes it, so that the time of sending is true.

        TLS is the loop's business: what is sent leaves at the end of its turn.
        """
        if self.is_closed:
            return
        if self._is_encrypted:
            self._queue(frames)
            return
        written = 0
        if self._is_behind and self._transport is not None:
            self._is_behind = self._transport.get_write_buffer_size() > 0
        if not self._is_behind:
            try:
                written = os.write(self._fd, frames)
            except BlockingIOError:
                pass
            except OSError:
                self.abort()
                return
        if written < len(frames):
            self._queue(frames[written:])

    def _queue(self, rest: bytes) -> None:
        """Let the loop write what the socket does not take now."""
        if self._transport is None:
            return
        self._transport.write(rest)
        waiting = self._transport.get_write_buffer_size()
        self._is_behind = True
        if waiting > MAX_UNREAD_BYTES:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of the gateway."""
        try:
            if not self.is_open:
                data = self._open(data)
            if data:
                self._take(data)
        except FramingError as error:
            self.failed(str(error))
            self.abort()

    def _open(self, data: bytes) -> bytes:
        self._received += data
        split = framing.split_head(self._received)
        if split is None:
            return b""
        self.is_open = True
        self.opened(split[0])
        return split[1]

    def _take(self, data: bytes) -> None:
        now = clock()
        for opcode, payload in self._splitter.feed(data):
            if opcode < CLOSE:
                self.receive(payload, now)
            elif opcode == PING:
                self.send(self.frame(payload, PONG))
            elif opcode == CLOSE:
                self.send(self.frame(payload, CLOSE))
                self._leave()

    def _leave(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    @abstractmethod
    def frame(self, payload: bytes, opcode: int) -> bytes:
        """A frame as this side writes it."""

    @abstractmethod
    def opened(self, head: bytes) -> None:
        """The other side's part of the handshake has come."""

    @abstractmethod
    def receive(self, payload: bytes, now: float) -> None:
        """One message."""

    def failed(self, why: str) -> None:
        """The other side broke the protocol."""


class _CallerWire(_Wire):
    """The client side: a caller at the gateway's media socket."""

    def __init__(self, load: "Load", number: int) -> None:
        super().__init__(lambda: load.caller_gone(self))
        self.caller = Caller(number, load.books, self.send)
        self.session_wire: _ModelWire | None = None
        self.is_leaving = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._key = os.urandom(16)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(self._load.upgrade(self._key))

    def opened(self, head: bytes) -> None:
        framing.check_response(head, self._key)
        self.caller.start(clock())
        # What a set-up takes is not to hold the wait for the caller's next frame.
        self.caller.tick(clock())
        self._load.caller_open(self)

    def receive(self, payload: bytes, now: float) -> None:
        self.caller.receive(payload, now)

    def failed(self, why: str) -> None:
        self._load.failures.append(why)

    def frame(self, payload: bytes, opcode: int) -> bytes:
        return framing.client_frame(payload, opcode)

    def give_up(self) -> None:
        """Leave a call that did not come to be: it is a failure, and not a lost call as well."""
        self.is_leaving = True
        self.ready.cancel()
        self.abort()

    def hang_up(self) -> None:
        """Leave as Twilio does."""
        self.is_leaving = True
        if self.is_open and not self.is_closed:
            self.caller.stop()
            self.send(self.frame(b"\x03\xe8", CLOSE))


class _ModelWire(_Wire):
    """The server side: a session of the model."""

    def __init__(self, load: "Load") -> None:
        super().__init__(lambda: load.session_gone(self))
        self._load = load
        self.session: Session | None = None
        self.caller_wire: _CallerWire | None = None

    def opened(self, head: bytes) -> None:
        self.send(framing.upgrade_response(head))
        self.session = self._load.new_session(self, framing.request_target(head))
        self.session.start()

    def receive(self, payload: bytes, now: float) -> None:
        if self.session is not None:
            self.session.receive(payload, now)

    def frame(self, payload: bytes, opcode: int) -> bytes:
        return framing.server_frame(payload, opcode)


class Load:
    """So many calls through the gateway at ``url`` (its media WebSocket).

    ``encryption``: callers come by wss and the model serves wss; None = neither does.
    """

    def __init__(
        self, url: str, realtime_port: int = 0, encryption: Encryption | None = None
    ) -> None:
        self.books = Books()
        self.failures: list[str] = []
        self.lost = 0
        self.refused = 0
        self.url = url
        self.realtime_port = realtime_port
        self._serving = encryption.serving() if encryption else None
        self._trusting = encryption.trusting() if encryption else None
        self._wires: list[_CallerWire] = []
        self._by_phase: list[list[_CallerWire]] = [[] for _ in range(FRAME_MS)]
        self._waiting: dict[int, _CallerWire] = {}
        self._sessions: dict[Session, _ModelWire] = {}
        self._next_number = 0
        self._session_count = 0
        self._wheel: Wheel[Session] = Wheel(int(clock() * 1000))
        self._server: asyncio.Server
        self._ticking: asyncio.TimerHandle

    # -- opening and closing

    async def open(self) -> None:
        """Open the model's port and let time pass.

        Raises:
            OSError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _ModelWire(self),
            "127.0.0.1",
            self.realtime_port,
            ssl=self._serving,
            backlog=1024,
        )
        self.realtime_port = self._server.sockets[0].getsockname()[1]
        self._wheel.next_ms = int(clock() * 1000) + 1
        self._ticking = loop.call_later(_TICK_S, self._tick)
        gc.collect()
        gc.freeze()

    async def close(self) -> None:
        """Hang up, close the port."""
        await self.hang_up_all()
        self._ticking.cancel()
        self._server.close()
        for wire in list(self._sessions.values()):
            wire.abort()
        await asyncio.sleep(_LAST_CALLBACKS_S)
        gc.unfreeze()

    def upgrade(self, key: bytes) -> bytes:
        """The request a caller opens with."""
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return framing.upgrade_request(parts.netloc, path, key)

    # -- calls come and go

    @property
    def calls(self) -> int:
        """Calls that are set up."""
        return sum(wire.caller.is_paired for wire in self._wires)

    async def grow(self, calls: int, per_s: float, at_once: int | None = None) -> int:
        """Add calls, ``per_s`` a second; returns how many of them came to be.

        Where there are ``at_once`` of them, the oldest hangs up for each that comes.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        dials = []
        for number in range(calls):
            await asyncio.sleep(max(0.0, began_s + number / per_s - loop.time()))
            if at_once is not None:
                self._make_room(at_once)
            dials.append(asyncio.create_task(self._dial()))
        return sum(await asyncio.gather(*dials))

    def _make_room(self, at_once: int) -> None:
        """Only who has found its session may leave: every other one is still being measured."""
        staying = [wire for wire in self._wires if not wire.is_leaving]
        if len(staying) >= at_once and staying[0].caller.is_paired:
            staying[0].hang_up()

    async def _dial(self) -> bool:
        parts = urlsplit(self.url)
        wire = _CallerWire(self, self._free_number())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: wire, parts.hostname or "", parts.port or 80, ssl=self._trusting
                )
                await wire.ready
        except (OSError, TimeoutError) as error:
            wire.give_up()
            self._waiting.pop(wire.caller.number, None)
            self.failures.append(f"{type(error).__name__}: {error}"[:100])
            return False
        return True

    def _free_number(self) -> int:
        number, self._next_number = self._next_number, (self._next_number + 1) % NUMBERS
        return number

    async def hang_up_all(self) -> None:
        """Every call ends by its caller."""
        wires = list(self._wires)
        for place, wire in enumerate(wires):
            wire.hang_up()
            if place % 20 == 0:
                await asyncio.sleep(0.005)
        for _ in range(200):
            if all(wire.is_closed for wire in wires):
                break
            await asyncio.sleep(0.01)
        for wire in wires:
            if not wire.is_closed:
                wire.abort()
        await asyncio.sleep(0.05)

    def caller_open(self, wire: _CallerWire) -> None:
        """A media socket is open: its caller begins to speak."""
        self._wires.append(wire)
        self._by_phase[wire.caller.number % FRAME_MS].append(wire)
        self._waiting[wire.caller.number] = wire

    def caller_gone(self, wire: _CallerWire) -> None:
        """A media socket is closed."""
        if not wire.ready.done():
            wire.ready.set_exception(ConnectionError("closed before the call was set up"))
        elif not wire.is_leaving:
            self.lost += 1
        if wire in self._wires:
            self._wires.remove(wire)
            self._by_phase[wire.caller.number % FRAME_MS].remove(wire)
        self._waiting.pop(wire.caller.number, None)
        if wire.session_wire is not None:
            wire.session_wire.caller_wire = None

    def new_session(self, wire: _ModelWire, target: str) -> Session:
        """A gateway has dialled the model."""
        self._session_count += 1
        session = Session(
            self._session_count, target, wire.send, self._wheel.put, self._pair, clock
        )
        self._sessions[session] = wire
        return session

    def session_gone(self, wire: _ModelWire) -> None:
        """A session is closed; by the gateway, since we close none."""
        if wire.session is not None:
            self._sessions.pop(wire.session, None)
        caller_wire = wire.caller_wire
        if caller_wire is not None and not caller_wire.is_leaving and not caller_wire.is_closed:
            self.lost += 1
            caller_wire.is_leaving = True

    def _pair(self, number: int, session: Session) -> Caller | None:
        wire = self._waiting.pop(number, None)
        if wire is None:
            return None
        wire.session_wire = self._sessions[session]
        wire.session_wire.caller_wire = wire
        if not wire.ready.done():
            wire.ready.set_result(None)
        return wire.caller

    # -- time

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        lateness_ms = self.books.tally.lateness_ms
        for due_ms, sessions in self._wheel.turn(int(clock() * 1000)):
            now = clock()
            lateness_ms.append(now * 1000 - due_ms)
            for wire in self._by_phase[due_ms % FRAME_MS]:
                wire.caller.tick(clock())
            for session in sessions:
                if session in self._sessions:
                    session.step(due_ms)

    # -- what is lost on the way up

    def lags_ms(self) -> dict[Session, float]:
        """The least audio that was on its way at once since the last look, for each call."""
        lags = {}
        for session in self._sessions:
            if session.caller is not None:
                lags[session] = min(session.lag_floor_ms, session.lag_ms())
                session.lag_floor_ms = float("inf")
        return lags
