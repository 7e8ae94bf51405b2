"""Many calls in the gateway's own process, without sockets: the bench's callers and its model.

A caller's bytes go into aiohttp's own parser, through the public listener's routes; a model is
dialled as any is, but its line is in memory. Nothing is left out of the gateway but the kernel's
share and websockets' frames. Callers and model are part of the process and so of its CPU.

Callers may send several frames in one message. A message a frame, as Twilio sends it, may be more
than one core carries of so many calls; the sound is all there. The model says what the bench's
says, and pauses between its answers.

A message counts from the time it was due, not from when the loop came round to it: what holds the
loop up is seen.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from gateway.app import Running, public_app
from gateway.bench import framing
from gateway.bench.caller import Caller
from gateway.bench.framing import CLOSE, Splitter, client_frame
from gateway.bench.model import Session
from gateway.bench.tally import Books
from gateway.bench.tones import FRAME_MS
from gateway.bench.wheel import Wheel
from gateway.breaker import Breaker
from gateway.realtime import Link, Listener

CONNECT_PER_S = 8.0
# Everybody's moments are multiples of this: a thousand wake-ups a second are a load of their own.
_GRAIN_MS = 4
_READY_S = 30.0
# The bench's model answers for 3 s every 4 s; here it waits longer for what the caller says.
_LISTENS_MS = 4000
# Between two pieces of an answer it is silent for less than this.
_SILENCE_MS = 2000
# A load that is so late is none: the core does not carry it.
_MOST_LATE_MS = 3000.0


class _Ear:
    """Hears the gateway, and lets no answer into the pass of the gateway that it is an answer to.

    Args:
        hear: told of each message.
        answer: takes what is to be said.
    """

    def __init__(
        self, hear: Callable[[bytes, float], None], answer: Callable[[bytes], None]
    ) -> None:
        self._hear = hear
        self._answer = answer
        self._hears = False

    def hear(self, messages: Iterable[bytes]) -> None:
        """What the gateway says."""
        was_hearing, self._hears = self._hears, True
        now = time.monotonic()
        for message in messages:
            self._hear(message, now)
        self._hears = was_hearing

    def say(self, frames: bytes) -> None:
        """At once, or as soon as the gateway has done what it does."""
        if self._hears:
            asyncio.get_running_loop().call_soon(self._answer, frames)
        else:
            self._answer(frames)


class _CallerLine(asyncio.Transport):
    """A caller's line, as aiohttp sees the socket of one who called."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        super().__init__()
        self.caller = Caller(number, crowd.books, self._say, crowd.frames)
        self._protocol = crowd.server()
        self._ear = _Ear(self.caller.receive, self._deliver)
        self._splitter = Splitter()
        self._head = b""
        self._is_open = self._is_closed = False
        self._key = os.urandom(16)

    def open(self) -> None:
        """Ask for the upgrade."""
        self._protocol.connection_made(self)
        self._deliver(framing.upgrade_request("memory", "/twilio/media", self._key))

    def hang_up(self) -> None:
        """As Twilio does."""
        self.caller.stop()
        self._say(client_frame(b"\x03\xe8", CLOSE))

    def _say(self, frames: bytes) -> None:
        self._ear.say(frames)

    def _deliver(self, frames: bytes) -> None:
        if not self._is_closed:
            self._protocol.data_received(frames)

    # -- what aiohttp asks of a transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The gateway has written this."""
        received = bytes(data)
        if not self._is_open:
            received = self._answered(received)
        self._ear.hear(text for opcode, text in self._splitter.feed(received) if opcode < CLOSE)

    def _answered(self, received: bytes) -> bytes:
        self._head += received
        split = framing.split_head(self._head)
        if split is None:
            return b""
        framing.check_response(split[0], self._key)
        self._is_open = True
        asyncio.get_running_loop().call_soon(self.caller.start, time.monotonic())
        return split[1]

    def is_closing(self) -> bool:
        """Whether the gateway has let go."""
        return self._is_closed

    def abort(self) -> None:
        """The gateway lets go."""
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    close = abort

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def pause_reading(self) -> None:
        """A caller speaks on."""

    def resume_reading(self) -> None:
        """A caller spoke on."""


class _ModelLine:
    """The line to a session of the model."""

    close_code, close_reason, is_clogged = 1000, "", False

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self.is_closed = False
        self._splitter = Splitter()
        self._listener: Listener | None = None
        self._crowd = crowd
        # Of the model's time, which stands still while it listens.
        self._behind_ms = 0
        self._session = Session(number, "/", self._say, self._wake, crowd.pair, crowd.due)
        self._ear = _Ear(self._session.receive, self._deliver)

    def _say(self, frames: bytes) -> None:
        self._ear.say(frames)

    def _deliver(self, frames: bytes) -> None:
        if self._listener is not None and not self.is_closed:
            for _, message in self._splitter.feed(frames):
                self._listener.message_came(message)

    def step(self, due_ms: int) -> None:
        """Say what is due."""
        self._session.step(due_ms - self._behind_ms)

    def _wake(self, _session: Session, at_ms: int) -> None:
        if at_ms + self._behind_ms - self._crowd.due() * 1000 > _SILENCE_MS:
            self._behind_ms += _LISTENS_MS
        self._crowd.wake(self, at_ms + self._behind_ms)

    def listen(self, listener: Listener) -> None:
        """Tell this listener, and begin."""
        self._listener = listener
        asyncio.get_running_loop().call_soon(self._session.start)

    def send(self, *messages: str | bytes) -> None:
        """The gateway says this."""
        self._ear.hear(each.encode() if isinstance(each, str) else each for each in messages)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """The gateway lets go."""
        del code, reason
        self.is_closed = True


class CrowdLost(Exception):
    """There is no such crowd."""


class Crowd:
    """Callers of a gateway that is open.

    Args:
        server: of the public listener's routes.
        frames: how many a caller puts into one message.
    """

    def __init__(self, server: Callable[[], Any], frames: int) -> None:
        self.server = server
        self.frames = frames
        self.books = Books()
        self._due_s = 0.0
        self._wheel: Wheel[_ModelLine] = Wheel(int(time.monotonic() * 1000))
        self._lines: list[_CallerLine] = []
        phases = frames * FRAME_MS // _GRAIN_MS
        self._by_phase: list[list[Caller]] = [[] for _ in range(phases)]
        self._sessions = 0
        self._is_overrun = False
        self._loop = asyncio.get_running_loop()
        self._tick()

    async def dial(self, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
        """A line to the model."""
        del timeout_s, with_fresh_token
        self._sessions += 1
        return _ModelLine(self, self._sessions)

    def pair(self, number: int, _session: Session) -> Caller:
        """The caller of this number."""
        return self._lines[number].caller

    def wake(self, line: _ModelLine, at_ms: int) -> None:
        """Have it say what is due then."""
        if not self._is_overrun:
            self._wheel.put(line, at_ms + -at_ms % _GRAIN_MS)

    def due(self) -> float:
        """When what is going on now should have happened, in s."""
        return self._due_s

    @property
    def paired(self) -> int:
        """Callers that the model has understood."""
        return sum(line.caller.is_paired for line in self._lines)

    def check(self) -> None:
        """See that the load is what it claims to be.

        Raises:
            CrowdLost: calls have ended, or the core cannot carry so many.
        """
        if self._is_overrun:
            raise CrowdLost(f"{len(self._lines)} calls are more than this core carries just now")
        if lost := sum(line.is_closing() for line in self._lines):
            raise CrowdLost(f"{lost} of {len(self._lines)} calls were lost")

    async def grow(self, calls: int) -> None:
        """Let so many people call, one after the other.

        Raises:
            CrowdLost: so many calls did not come to be.
        """
        for number in range(calls):
            line = _CallerLine(self, number)
            self._lines.append(line)
            line.open()
            # People do not all call in one moment; a burst would be refused.
            await asyncio.sleep(1 / CONNECT_PER_S)
            self.check()
            self._by_phase[number % len(self._by_phase)].append(line.caller)
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while self.paired < calls:  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.1)
        if self.paired < calls:
            raise CrowdLost(f"{calls - self.paired} of {calls} calls did not come to be")

    async def leave(self) -> None:
        """Everybody hangs up."""
        for line in self._lines:
            line.hang_up()
            await asyncio.sleep(0.005)
        self._ticking.cancel()

    def _tick(self) -> None:
        """All whose message is due, and what the model says by now."""
        for due_ms, lines in self._wheel.turn(int(time.monotonic() * 1000)):
            if due_ms % _GRAIN_MS == 0 and not self._is_overrun:
                self._turn(due_ms, lines)
        if not self._is_overrun:
            wait_ms = self._wheel.next_ms + -self._wheel.next_ms % _GRAIN_MS
            self._ticking = self._loop.call_later(wait_ms / 1000 - time.monotonic(), self._tick)

    def _turn(self, due_ms: int, lines: list[_ModelLine]) -> None:
        self._due_s = due_ms / 1000
        late_ms = time.monotonic() * 1000 - due_ms
        self.books.tally.lateness_ms.append(late_ms)
        self._is_overrun = late_ms > _MOST_LATE_MS
        for caller in self._by_phase[due_ms // _GRAIN_MS % len(self._by_phase)]:
            caller.tick(self._due_s)
        for line in lines:
            line.step(due_ms)


@asynccontextmanager
async def crowd(running: Running, calls: int, frames: int = 1) -> AsyncIterator[Crowd]:
    """So many calls on this gateway, from now on; they hang up at the end.

    Args:
        running: the gateway.
        calls: how many.
        frames: of 20 ms, in one message of a caller.

    Raises:
        CrowdLost: so many calls did not come to be.
    """
    runner = web.AppRunner(public_app(running.gateway), access_log=None)
    await runner.setup()
    assert runner.server is not None
    people = Crowd(runner.server, frames)
    running.gateway.breaker = Breaker(people.dial, time.monotonic)
    try:
        await people.grow(calls)
        yield people
        await people.leave()
    finally:
        await runner.cleanup()
