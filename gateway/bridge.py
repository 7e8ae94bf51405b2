"""The corridor: two sockets and one call; the only driver.

One message is one pass: the link hands it over as it is read, the translator makes events of it,
the call decides, and what came out is written before the next message is looked at. Nothing is
queued between these steps and no task is switched; tasks are for what takes time, dialling and
closing.
"""

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

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
    SendMark,
    Termination,
    TurnAnswered,
    TurnTimed,
)
from gateway.providers import HttpRequest, Provider
from gateway.realtime import Dial, Link, Listener

# Commands that wait because a link is clogged; 500 appends are 10 s of caller audio.
OUTBOX_LIMIT = 500
# Events that come between the start message and the call: a moment, or a provider gone mad.
EARLY_LIMIT = 500
# One relayed frame in this many is timed: a histogram a frame would cost more than the frame.
RELAY_SAMPLING = 8
# A peer that does not answer our close is left behind after this.
CLOSE_TIMEOUT_S = 2.5
# Close codes we send (RFC 6455 §7.4.1).
NORMAL, POLICY = 1000, 1008

_Command = TypeVar("_Command")
_Args = TypeVarTuple("_Args")


class RealtimeTranslator(Protocol):
    """The sans-I/O side of the realtime link (``gateway.realtime.protocol``)."""

    def receive(self, message: str | bytes) -> list[RealtimeEvent]:
        """One message in, events out."""

    def send(self, command: RealtimeCommand) -> list[bytes]:
        """One command in, messages out."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a bridge needs from the world: how to dial, whom to tell, what time it is.

    ``clock`` is read once a pass: what is decided in it is decided at that time. ``stopwatch`` has
    the same zero (None: is the clock) and measures what happens within a pass. ``stopping`` is told
    when a call is ended because its task is cancelled, before the call is.
    """

    dial: Dial
    observe: Callable[[Fact], None]
    perform: Callable[[HttpRequest], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    start_deadline_s: float = 5.0
    send_timeout_s: float = 5.0
    stopwatch: Callable[[], float] | None = None
    stopping: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _WayOut:
    """When the first sound of an answer came, was converted and was written."""

    came_at: float
    converted_at: float
    sent_at: float | None = None


def _ends_the_call(
    step: Callable[["Bridge", *_Args], None],
) -> Callable[["Bridge", *_Args], None]:
    """A bug of ours in this step ends this call, and is raised where the call is run."""

    @functools.wraps(step)
    def guarded(bridge: "Bridge", *args: *_Args) -> None:
        try:
            step(bridge, *args)
        except Exception as error:  # noqa: BLE001  # handed on
            bridge.break_off(error)

    return guarded


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
        self._stopwatch = outside.stopwatch or outside.clock
        self._loop = asyncio.get_running_loop()
        self._provider_link = link
        self._realtime_link: Link | None = None
        self._started: asyncio.Future[CallStarted] = self._loop.create_future()
        self._early: deque[ProviderEvent] = deque()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._dial: DialRealtime | None = None
        self._is_dialling = False
        self._children: set[asyncio.Task[None]] = set()
        self._leaving: list[Link] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = inf
        self._relayed = 0
        self._way_out: _WayOut | None = None

    # ------------------------------------------------------------------ before the call

    async def await_start(self) -> CallStarted:
        """Listen until the provider says which call this is.

        Raises:
            CallRejected: it said something else, or nothing in time; the link is still open.
        """
        self._provider_link.listen(Listener(self._find_start, _nothing, self._left_early))
        # Unlike a timeout's cancellation this cannot overtake a start that was read in the same
        # turn of a loop that runs late.
        await asyncio.wait((self._started,), timeout=self._outside.start_deadline_s)
        if not self._started.done():
            self._started.cancel()
            raise CallRejected("handshake", "start_timeout")
        return self._started.result()

    @_ends_the_call
    def _find_start(self, message: str | bytes) -> None:
        for event in self._provider.receive(message):
            if self._started.done():
                self._keep_early(event)
            elif isinstance(event, CallStarted):
                self._started.set_result(event)
            elif isinstance(event, MessageRejected):
                self._refuse_early(event)

    def _keep_early(self, event: ProviderEvent) -> None:
        """What comes behind the start message is for the call."""
        if len(self._early) < EARLY_LIMIT:
            self._early.append(event)

    def _refuse_early(self, event: MessageRejected) -> None:
        self._outside.observe(FrameRejected("provider", event.kind, event.detail))
        if event.kind == "media_format":
            self._started.set_exception(CallRejected("handshake", "media_format", event.detail))

    def _left_early(self) -> None:
        if self._started.done():
            link = self._provider_link
            self._keep_early(LinkClosed(link.close_code, link.close_reason))
        else:
            self._started.set_exception(CallRejected("handshake", "closed_before_start"))

    def rewire(self, link: Link, outside: Outside) -> None:
        """Before ``run``: carry the call over this link, in this world."""
        self._provider_link, self._outside = link, outside
        self._clock = outside.clock
        self._stopwatch = outside.stopwatch or outside.clock

    async def turn_away(self) -> None:
        """Close the provider's link without a call."""
        await _close(self._provider_link, POLICY, "call rejected")

    # ------------------------------------------------------------------ the call

    async def run(self, call: Call) -> Termination:
        """Carry the call until it is over; both links are closed when this returns."""
        self._call = call
        self._to_provider = _Outbox(call.to_provider)
        self._to_realtime = _Outbox(call.to_realtime)
        try:
            await self._carry()
        except asyncio.CancelledError:
            if call.termination is None:
                self._outside.stopping()
                call.hang_up("drain", self._clock(), at_once=True)
            raise
        except Exception:
            call.hang_up("internal_error", self._clock())
            raise
        finally:
            await self._finish(call)
        return call.termination or Termination("internal_error")

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            self._begin()
            try:
                await self._over
            finally:
                for child in self._children:
                    child.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        child = self._tasks.create_task(work)
        self._children.add(child)
        child.add_done_callback(self._children.discard)

    @_ends_the_call
    def _begin(self) -> None:
        now = self._clock()
        for event in self._early:
            self._call.provider_received(event, now)
        self._settle(now)
        hear = Listener(self._provider_said, self._link_freed, self._provider_left)
        self._provider_link.listen(hear)

    @_ends_the_call
    def hang_up(self, reason: Reason) -> None:
        """End the call from outside (drain, operator)."""
        now = self._clock()
        self._call.hang_up(reason, now)
        self._settle(now)

    def break_off(self, error: Exception) -> None:
        """End the call because of a bug of ours, before its start too."""
        if not self._started.done():
            self._started.set_exception(error)
        elif not self._over.done():
            self._over.set_exception(error)

    # ------------------------------------------------------------------ what the links say

    @_ends_the_call
    def _provider_said(self, message: str | bytes) -> None:
        now = self._clock()
        for event in self._provider.receive(message):
            self._call.provider_received(event, now)
        self._settle(now)

    @_ends_the_call
    def _provider_left(self) -> None:
        link, now = self._provider_link, self._clock()
        self._call.provider_received(LinkClosed(link.close_code, link.close_reason), now)
        self._settle(now)

    @_ends_the_call
    def _realtime_said(self, link: Link, message: str | bytes) -> None:
        if self._realtime_link is not link:
            return  # it is being closed: what it still sends is not wanted
        now = self._clock()
        for event in self._realtime.receive(message):
            self._call.realtime_received(event, now)
        if self._call.facts:
            self._time_way_out(now)
        self._settle(now)

    @_ends_the_call
    def _realtime_left(self, link: Link) -> None:
        if self._realtime_link is link:
            self._realtime_link = None
            self._realtime_happened(LinkClosed(link.close_code, link.close_reason))

    @_ends_the_call
    def _link_freed(self) -> None:
        self._settle(self._clock())

    def _realtime_happened(self, event: RealtimeEvent) -> None:
        now = self._clock()
        self._call.realtime_received(event, now)
        self._settle(now)

    # ------------------------------------------------------------------ one pass

    def _settle(self, now: float) -> None:
        """After every event: send what came out, tell what happened, set the alarm."""
        call = self._call
        to_provider, to_realtime = self._to_provider, self._to_realtime
        if to_provider.is_clogged or to_realtime.is_clogged:
            self._look_at_clogs(now)
        if call.termination is None:
            if call.to_provider or to_provider.is_clogged:
                to_provider.drain(self._write_to_provider, self._provider_link, now)
            if call.to_realtime or to_realtime.is_clogged:
                to_realtime.drain(self._write_to_realtime, self._realtime_link, now)
            self._arm()
        if call.facts:
            self._tell()
        if call.termination is not None and not self._over.done():
            self._over.set_result(None)

    def _tell(self) -> None:
        facts = self._call.facts
        while facts:
            fact = facts.pop(0)
            self._outside.observe(self._timed(fact) if isinstance(fact, TurnTimed) else fact)

    def _time_way_out(self, came_at: float) -> None:
        """The first sound of an answer has just been converted: see how long it takes from here."""
        if any(isinstance(fact, TurnAnswered) for fact in self._call.facts):
            self._way_out = _WayOut(came_at, self._stopwatch())

    def _timed(self, fact: TurnTimed) -> TurnTimed:
        """The call knows no clock: what it took within a pass is added here."""
        way_out, self._way_out = self._way_out, None
        if way_out is None or way_out.sent_at is None:
            return fact
        converted_at = way_out.converted_at
        return fact.with_way_out(converted_at - way_out.came_at, way_out.sent_at - converted_at)

    def _write_to_provider(self, command: ProviderCommand) -> None:
        messages, queue = self._provider.send(command), self._call.to_provider
        if queue and isinstance(queue[0], SendMark):
            # With the sound it stands behind: a write to a socket costs more than a frame.
            messages += self._provider.send(queue.popleft())
        self._provider_link.send(*messages)
        if isinstance(command, ClearAudio) and command.asked_at:
            self._outside.observe(BargedIn(self._stopwatch() - command.asked_at))
        elif isinstance(command, PlayAudio) and command.asked_at:
            self._time_downlink(command.asked_at)

    def _time_downlink(self, asked_at: float) -> None:
        sent_at = self._stopwatch()
        self._outside.observe(RelayMeasured("down", sent_at - asked_at))
        if self._way_out is not None and self._way_out.came_at == asked_at:
            self._way_out.sent_at = sent_at

    def _write_to_realtime(self, command: RealtimeCommand) -> None:
        if isinstance(command, DialRealtime):
            self._hang_up_realtime()
            self._ask_for_line(command)
        elif isinstance(command, CloseRealtime):
            self._hang_up_realtime()
        elif self._realtime_link is not None:
            self._realtime_link.send(*self._realtime.send(command))
            self._relayed += 1
            if self._relayed % RELAY_SAMPLING == 0 and isinstance(command, AppendAudio):
                self._time_uplink(command)

    def _time_uplink(self, command: AppendAudio) -> None:
        if command.asked_at:
            self._outside.observe(RelayMeasured("up", self._stopwatch() - command.asked_at))

    # ------------------------------------------------------------------ the line to the model

    def _ask_for_line(self, dial: DialRealtime) -> None:
        self._dial = dial
        if not self._is_dialling:
            self._is_dialling = True
            self._start(self._dial_as_asked())

    async def _dial_as_asked(self) -> None:
        """One attempt at a time: what is asked for during one is the next."""
        while (dial := self._dial) is not None:
            self._dial = None
            await self._open_realtime(dial)
        self._is_dialling = False

    async def _open_realtime(self, dial: DialRealtime) -> None:
        began = self._stopwatch()
        try:
            await asyncio.sleep(dial.delay_s)
            link = await self._outside.dial(
                timeout_s=dial.timeout_s, with_fresh_token=dial.with_fresh_token
            )
        except ConnectError as error:
            self._realtime_happened(
                RealtimeRefused(error.result, error.can_retry, error.retry_after_s, error.detail)
            )
            return
        self._realtime_link = link
        self._realtime_happened(RealtimeConnected(self._stopwatch() - began - dial.delay_s))
        said = functools.partial(self._realtime_said, link)
        left = functools.partial(self._realtime_left, link)
        link.listen(Listener(said, self._link_freed, left))

    def _hang_up_realtime(self) -> None:
        """A far end may be slow to let go: neither audio nor accounts wait for it."""
        link, self._realtime_link = self._realtime_link, None
        if link is not None:
            self._leaving.append(link)
            if not self._over.done():
                self._start(self._close_session(link))

    async def _close_session(self, link: Link) -> None:
        await _close(link, NORMAL)
        self._leaving.remove(link)

    # ------------------------------------------------------------------ time

    def _arm(self) -> None:
        """Keep one alarm, set to the earliest thing waited for."""
        at = self._call.next_timer()
        if self._to_provider.is_clogged or self._to_realtime.is_clogged:
            at = self._first_limit(at)
        if at is None or at >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - self._stopwatch()), self._alarm_rang)

    def _first_limit(self, at: float | None) -> float:
        """The timer, or when the patience with a clogged link ends."""
        since = min(self._to_provider.clogged_at, self._to_realtime.clogged_at)
        return min(inf if at is None else at, since + self._outside.send_timeout_s)

    @_ends_the_call
    def _alarm_rang(self) -> None:
        self._alarm, self._alarm_at = None, inf
        now = self._clock()
        at = self._call.next_timer()
        if at is not None and at <= now:
            self._call.timer_fired(now)
        self._settle(now)

    def _look_at_clogs(self, now: float) -> None:
        """A peer that takes nothing is gone; one whose queue grows cannot follow."""
        limit_s = self._outside.send_timeout_s
        if self._to_provider.overflows():
            self._call.hang_up("overload", now)
        elif self._to_provider.is_stuck(now, limit_s):
            self._call.provider_received(LinkClosed(1006, "send timed out"), now)
        elif self._realtime_link is not None and self._to_realtime.is_stuck(now, limit_s):
            self._hang_up_realtime()
            self._call.realtime_received(LinkClosed(1006, "send timed out"), now)
        elif (waiting := self._call.to_realtime) and isinstance(waiting[0], CloseRealtime):
            # Nothing is left for it to take: the next session does not wait until it is free.
            self._hang_up_realtime()

    # ------------------------------------------------------------------ the end

    async def _finish(self, call: Call) -> None:
        """Tell first, then see the far ends off: a slow peer delays nobody's accounts."""
        self._tell()
        if self._alarm is not None:
            self._alarm.cancel()
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
                self._provider_link.send(*self._provider.send(HangUp()))
                if request is not None:
                    await self._outside.perform(request)


class _Outbox(Generic[_Command]):
    """One ordered queue for one socket: what a clogged link has not taken can be taken back."""

    def __init__(self, queue: deque[_Command]) -> None:
        self._queue = queue
        # Whether the link took everything so far; since when it does not.
        self.is_clogged = False
        self.clogged_at = inf

    def drain(self, write: Callable[[_Command], None], link: Link | None, now: float) -> None:
        """Write until the queue is empty or the link clogged; what has no link is not held up."""
        queue = self._queue
        waiting = len(queue)
        while queue and (link is None or not link.is_clogged):
            try:
                write(queue.popleft())
            except ConnectionError:
                continue  # A closed socket is its own news; what was meant for it is lost with it.
        was_clogged, self.is_clogged = self.is_clogged, link is not None and link.is_clogged
        if not self.is_clogged:
            self.clogged_at = inf
        elif not was_clogged or len(queue) < waiting:
            # A slow peer is not a lost one: its time counts from the last message it took.
            self.clogged_at = now

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Nothing was taken for too long, or more waits than a live peer leaves waiting."""
        return now >= self.clogged_at + limit_s or self.overflows()

    def overflows(self) -> bool:
        """More waits than is worth sending."""
        return len(self._queue) > OUTBOX_LIMIT


def _nothing() -> None:
    """Nobody waits to write yet."""


async def _close(link: Link, code: int, reason: str = "") -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await link.close(code, reason)
