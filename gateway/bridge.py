"""The corridor: two sockets and one call inside one task group; the only driver.

One message is one pass: the reader wakes, the translator makes events of it, the call decides, and
the same task sends what came out. Nothing is queued between these steps, and no task is switched.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.call import Call
from gateway.errors import CallRejected, ConnectError
from gateway.events import (
    AppendAudio,
    BargedIn,
    CallStarted,
    ClearAudio,
    CloseRealtime,
    DialRealtime,
    Fact,
    FrameRejected,
    HangUp,
    LinkClosed,
    MessageRejected,
    PlayAudio,
    ProviderCommand,
    ProviderEvent,
    RealtimeCommand,
    RealtimeConnected,
    RealtimeEvent,
    RealtimeRefused,
    Reason,
    RelayMeasured,
    Termination,
)
from gateway.providers import HttpRequest, Provider
from gateway.realtime import Dial, Link

# Commands that wait because another task is writing; 500 appends are 10 s of caller audio.
OUTBOX_LIMIT = 500
# One relayed frame in this many is timed: a histogram a frame would cost more than the frame.
RELAY_SAMPLING = 8
# A peer that does not answer our close is left behind after this.
CLOSE_TIMEOUT_S = 2.5
# A write that the watch found hanging gets this long to notice before it is looked at again.
SHORTEST_WATCH_S = 0.1
# Close codes we send (RFC 6455 §7.4.1).
NORMAL, POLICY = 1000, 1008

_Command = TypeVar("_Command")


class RealtimeTranslator(Protocol):
    """The sans-I/O side of the realtime link (``gateway.realtime.protocol``)."""

    def receive(self, message: str | bytes) -> list[RealtimeEvent]:
        """One message in, events out."""

    def send(self, command: RealtimeCommand) -> list[bytes]:
        """One command in, messages out."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a bridge needs from the world: how to dial, whom to tell, what time it is."""

    dial: Dial
    observe: Callable[[Fact], None]
    perform: Callable[[HttpRequest], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    start_deadline_s: float = 5.0
    send_timeout_s: float = 5.0


class Bridge:
    """Carries one call from its first message to its last."""

    def __init__(
        self,
        provider: Provider,
        link: Link,
        realtime: RealtimeTranslator,
        outside: Outside,
    ) -> None:
        self._provider = provider
        self._realtime = realtime
        self._outside = outside
        self._clock = outside.clock
        self._provider_link = link
        self._realtime_link: Link | None = None
        self._messages = aiter(link)
        self._early: deque[ProviderEvent] = deque()
        self._dial: DialRealtime | None = None
        self._dial_asked = asyncio.Event()
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        self._leaving: deque[Link] = deque()
        self._has_left = asyncio.Event()
        self._armed: tuple[float, asyncio.TimerHandle] | None = None
        self._relayed = 0

    # ------------------------------------------------------------------ before the call

    async def await_start(self) -> CallStarted:
        """Read until the provider says which call this is.

        Raises:
            CallRejected: it said something else, or nothing in time; the link is still open.
        """
        try:
            async with asyncio.timeout(self._outside.start_deadline_s):
                async for message in self._messages:
                    started = self._find_start(self._provider.receive(message))
                    if started is not None:
                        return started
        except TimeoutError:
            raise CallRejected("handshake", "start_timeout") from None
        raise CallRejected("handshake", "closed_before_start")

    def _find_start(self, events: list[ProviderEvent]) -> CallStarted | None:
        started = None
        for event in events:
            if isinstance(event, CallStarted) and started is None:
                started = event
            elif started is not None:
                self._early.append(event)
            elif isinstance(event, MessageRejected):
                self._refuse_early(event)
        return started

    def _refuse_early(self, event: MessageRejected) -> None:
        self._outside.observe(FrameRejected("provider", event.kind, event.detail))
        if event.kind == "media_format":
            raise CallRejected("handshake", "media_format", event.detail)

    async def turn_away(self) -> None:
        """Close the provider's link without a call."""
        await _close(self._provider_link, POLICY, "call rejected")

    # ------------------------------------------------------------------ the call

    async def run(self, call: Call) -> Termination:
        """Carry the call until it is over; both links are closed when this returns."""
        self._call = call
        self._to_provider = self._outbox(call.to_provider, self._write_to_provider)
        self._to_realtime = self._outbox(call.to_realtime, self._write_to_realtime)
        try:
            await self._carry(call)
        except asyncio.CancelledError:
            call.hang_up("drain", self._clock(), at_once=True)
            raise
        except Exception:
            call.hang_up("internal_error", self._clock())
            raise
        finally:
            await self._finish(call)
        return call.termination or Termination("internal_error")

    def _outbox(
        self, queue: deque[_Command], write: Callable[[_Command], Awaitable[None]]
    ) -> "_Outbox[_Command]":
        return _Outbox(queue, write, self._clock, lambda: self._call.termination is not None)

    async def _carry(self, call: Call) -> None:
        async with asyncio.TaskGroup() as group:
            children = (
                group.create_task(self._read_provider()),
                group.create_task(self._read_realtime()),
                group.create_task(self._run_timer()),
                group.create_task(self._watch_writes()),
                group.create_task(self._close_sessions()),
            )
            for event in self._early:
                call.provider_received(event, self._clock())
            await self._settle()
            await self._over.wait()
            for child in children:
                child.cancel()

    def hang_up(self, reason: Reason) -> None:
        """End the call from outside (drain, operator)."""
        self._call.hang_up(reason, self._clock())
        self._wake.set()

    async def _read_provider(self) -> None:
        async for message in self._messages:
            now = self._clock()
            for event in self._provider.receive(message):
                self._call.provider_received(event, now)
            await self._settle()
        link = self._provider_link
        self._call.provider_received(LinkClosed(link.close_code, link.close_reason), self._clock())
        await self._settle()

    async def _read_realtime(self) -> None:
        while True:
            await self._dial_asked.wait()
            self._dial_asked.clear()
            link = await self._open_realtime()
            if link is not None:
                await self._read_session(link)

    async def _open_realtime(self) -> Link | None:
        dial, self._dial = self._dial, None
        if dial is None:
            return None
        began = self._clock()
        try:
            await asyncio.sleep(dial.delay_s)
            link = await self._outside.dial(
                timeout_s=dial.timeout_s, with_fresh_token=dial.with_fresh_token
            )
        except ConnectError as error:
            refused = RealtimeRefused(
                error.result, error.can_retry, error.retry_after_s, error.detail
            )
            await self._realtime_happened(refused)
            return None
        self._realtime_link = link
        await self._realtime_happened(RealtimeConnected(self._clock() - began - dial.delay_s))
        return link

    async def _read_session(self, link: Link) -> None:
        async for message in link:
            if self._realtime_link is not link:
                continue  # it is being closed: what it still sends is not wanted
            now = self._clock()
            for event in self._realtime.receive(message):
                self._call.realtime_received(event, now)
            await self._settle()
        if self._realtime_link is link:
            self._realtime_link = None
            await self._realtime_happened(LinkClosed(link.close_code, link.close_reason))

    async def _realtime_happened(self, event: RealtimeEvent) -> None:
        self._call.realtime_received(event, self._clock())
        await self._settle()

    # ------------------------------------------------------------------ one pass

    async def _settle(self) -> None:
        """After every event: send what came out, tell what happened, set the alarm."""
        call = self._call
        if call.termination is not None:
            self._tell()
            self._over.set()
            return
        if call.to_provider:
            await self._to_provider.drain()
        if call.to_realtime:
            await self._to_realtime.drain()
        self._tell()
        self._arm()

    def _tell(self) -> None:
        facts = self._call.facts
        while facts:
            self._outside.observe(facts.pop(0))

    async def _write_to_provider(self, command: ProviderCommand) -> None:
        for message in self._provider.send(command):
            await self._provider_link.send(message)
        if isinstance(command, ClearAudio) and command.asked_at:
            self._outside.observe(BargedIn(self._clock() - command.asked_at))
        elif isinstance(command, PlayAudio) and command.asked_at:
            self._outside.observe(RelayMeasured("down", self._clock() - command.asked_at))

    async def _write_to_realtime(self, command: RealtimeCommand) -> None:
        if isinstance(command, DialRealtime):
            self._hang_up_realtime()
            self._dial = command
            self._dial_asked.set()
        elif isinstance(command, CloseRealtime):
            self._hang_up_realtime()
        elif self._realtime_link is not None:
            for message in self._realtime.send(command):
                await self._realtime_link.send(message)
            if isinstance(command, AppendAudio):
                self._time_uplink(command)

    def _time_uplink(self, command: AppendAudio) -> None:
        self._relayed += 1
        if command.asked_at and self._relayed % RELAY_SAMPLING == 0:
            self._outside.observe(RelayMeasured("up", self._clock() - command.asked_at))

    def _hang_up_realtime(self) -> None:
        link, self._realtime_link = self._realtime_link, None
        if link is not None:
            self._leaving.append(link)
            self._has_left.set()

    async def _close_sessions(self) -> None:
        """A far end may be slow to let go: neither audio nor accounts wait for it."""
        while True:
            await self._has_left.wait()
            self._has_left.clear()
            while self._leaving:
                await _close(self._leaving[0], NORMAL)
                self._leaving.popleft()

    # ------------------------------------------------------------------ time

    async def _run_timer(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._armed = None
            now = self._clock()
            at = self._call.next_timer()
            if at is not None and at <= now:
                self._call.timer_fired(now)
            await self._settle()

    def _arm(self) -> None:
        """Keep one alarm, set to the earliest thing waited for."""
        at = self._call.next_timer()
        if at is None or (self._armed is not None and self._armed[0] <= at):
            return
        if self._armed is not None:
            self._armed[1].cancel()
        delay_s = max(0.0, at - self._clock())
        self._armed = (at, asyncio.get_running_loop().call_later(delay_s, self._wake.set))

    async def _watch_writes(self) -> None:
        """Whoever hangs in a write, be it the timer, cannot notice: this child never writes."""
        limit_s = self._outside.send_timeout_s
        while True:
            now = self._clock()
            since = [box.since for box in (self._to_provider, self._to_realtime)]
            due_s = min((at for at in since if at is not None), default=now) + limit_s - now
            await asyncio.sleep(max(SHORTEST_WATCH_S, due_s))
            await self._check_outboxes(self._clock())

    async def _check_outboxes(self, now: float) -> None:
        """A send that hangs is a peer that is gone; a queue that grows, one that cannot follow."""
        limit_s = self._outside.send_timeout_s
        if self._to_provider.overflows():
            self._call.hang_up("overload", now)
            await self._settle()
        elif self._to_provider.is_stuck(now, limit_s):
            self._call.provider_received(LinkClosed(1006, "send timed out"), now)
            await self._settle()
        elif self._realtime_link is not None and self._to_realtime.is_stuck(now, limit_s):
            # Closing it frees whoever writes.
            self._hang_up_realtime()
            self._call.realtime_received(LinkClosed(1006, "send timed out"), now)
            self._wake.set()

    # ------------------------------------------------------------------ the end

    async def _finish(self, call: Call) -> None:
        """Tell first, then see the far ends off: a slow peer delays nobody's accounts."""
        self._tell()
        if self._armed is not None:
            self._armed[1].cancel()
        self._hang_up_realtime()
        await asyncio.gather(self._see_off(call), *(_close(link, NORMAL) for link in self._leaving))
        is_misbehaving = call.termination == Termination("protocol_error")
        await _close(self._provider_link, POLICY if is_misbehaving else NORMAL)

    async def _see_off(self, call: Call) -> None:
        if HangUp() not in call.to_provider:
            return
        request = self._provider.hang_up()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for message in self._provider.send(HangUp()):
                    await self._provider_link.send(message)
                if request is not None:
                    await self._outside.perform(request)


class _Outbox(Generic[_Command]):
    """One ordered queue for one socket: whoever finds it idle drains it, others go on."""

    def __init__(
        self,
        queue: deque[_Command],
        write: Callable[[_Command], Awaitable[None]],
        clock: Callable[[], float],
        is_over: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._write = write
        self._clock = clock
        self._is_over = is_over
        # When the present write began; None when nobody writes.
        self.since: float | None = None

    async def drain(self) -> None:
        """Write until the queue is empty; returns at once when another task is writing."""
        if self.since is not None:
            return
        try:
            # What a call that is over leaves in its queue is for the end to see to.
            while self._queue and not self._is_over():
                self.since = self._clock()
                # A closed socket is the reader's news; what was meant for it is lost with it.
                with contextlib.suppress(ConnectionError):
                    await self._write(self._queue.popleft())
        finally:
            self.since = None

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """A write hangs, or more waits than a peer that is alive leaves waiting."""
        hangs = self.since is not None and now >= self.since + limit_s
        return hangs or self.overflows()

    def overflows(self) -> bool:
        """More waits than is worth sending."""
        return len(self._queue) > OUTBOX_LIMIT


async def _close(link: Link, code: int, reason: str = "") -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await link.close(code, reason)
