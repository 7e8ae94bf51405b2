"""The usher: takes one media socket in, and is with its call to the end.

Who is let in gets an agent, a place, a tape where there are tapes, and a bridge that carries the
call; logs, metrics, the console and the bill are told what happens on it.
"""

import asyncio
import functools
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway.admission import Admission, Tokens
from gateway.breaker import Breaker
from gateway.bridge import Bridge, Outside
from gateway.call import Call, CallOptions
from gateway.errors import AuthRejected, CallRejected, SettingsError
from gateway.events import (
    AnnouncementHeard,
    CallBegan,
    CallEnded,
    CallStarted,
    CostIncurred,
    Fact,
    Reason,
    SetUpTimed,
    Termination,
)
from gateway.links import MediaSocket, ServerLink
from gateway.logs import CallLog, SampledLog
from gateway.metrics import Metrics
from gateway.prices import Bill, Prices
from gateway.providers import Capabilities, Door, HttpRequest
from gateway.realtime import Link
from gateway.realtime.auth import Auth
from gateway.realtime.protocol import RealtimeProtocol
from gateway.settings import Agent, Settings
from gateway.tape.hush import Hush
from gateway.tape.record import Tape, Tapes, all_taped, plain_options, plain_query
from gateway.traces import Traces
from gateway.voice import ANNOUNCEMENT
from gateway.web.console import Console, OpenLine
from gateway.web.tap import TappedStream

# A refused stream may come back after this many seconds.
RETRY_AFTER_S: Final = 5
# What a page may send at once: a script of 32768 characters, in any language, fits.
PAGE_MESSAGE_BYTES: Final = 256 * 1024
REST_TIMEOUT_S: Final = 2.0
# Models named in the log because they have no price.
MAX_UNPRICED: Final = 20
_log: Final = structlog.get_logger("gateway")

Observer = Callable[[str, Fact], None]


def _call_ids() -> Callable[[], str]:
    """Counters, so that runs repeat exactly, behind a prefix that sets processes apart."""
    boot, count = secrets.token_hex(4), itertools.count(1)
    return lambda: f"{boot}-{next(count)}"


@dataclass(slots=True)
class Gateway:
    """What the handlers share; made once, before the doors open."""

    settings: Settings
    registry: CollectorRegistry
    metrics: Metrics
    doors: Mapping[str, Door]
    auth: Auth
    prompts: Mapping[str, bytes]
    prices: Prices
    http: aiohttp.ClientSession
    admission: Admission
    breaker: Breaker
    tokens: Tokens = field(default_factory=Tokens)
    tapes: Tapes | None = None
    traces: Traces | None = None
    # Those that do not come with the package, as tapes hold them.
    own_prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    bridges: set[Bridge] = field(default_factory=set)
    on_tape: dict[Bridge, Tape] = field(default_factory=dict)
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)
    observers: list[Observer] = field(default_factory=list)
    # Where there are pages for people.
    console: Console | None = None
    door_log: SampledLog = field(default_factory=SampledLog)
    unpriced: set[str] = field(default_factory=set)
    new_call_id: Callable[[], str] = field(default_factory=_call_ids)

    def note_departure(self) -> None:
        """Somebody left; whoever waits for an empty house is told when it is."""
        if not self.bridges and not self.admission.is_waited_for:
            self.is_empty.set()

    def note_unpriced(self, model: str) -> None:
        """Say once of each model that what it costs is not known."""
        if model not in self.unpriced and len(self.unpriced) < MAX_UNPRICED:
            self.unpriced.add(model)
            _log.warning("model_without_price", model=model)

    @property
    def is_ready(self) -> bool:
        """Whether new calls are welcome."""
        return not self.admission.is_draining


async def take_in(
    gateway: Gateway,
    door: Door,
    request: web.Request,
    incoming: HttpRequest,
    teller: Callable[[ServerLink], Observer] | None = None,
) -> MediaSocket:
    """Let a media socket in that may; ``teller`` makes one more observer, of its own call only."""
    try:
        await gateway.admission.wait()
    except CallRejected as rejected:
        gateway.metrics.rejected(rejected.stage, rejected.reason)
        raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)}) from None
    place = _Place(gateway)
    try:
        socket = MediaSocket(
            heartbeat=gateway.settings.heartbeat_s,
            compress=False,
            max_msg_size=_max_message_bytes(gateway, door),
            protocols=door.subprotocols,
            timeout=REST_TIMEOUT_S,
        )
        await socket.prepare(request)
        link = ServerLink(socket, request)
        watch = _Watch(gateway, door.name, teller(link) if teller else None)
        await _answer(gateway, door, link, incoming, place, watch)
    finally:
        place.leave()
    return socket


def _max_message_bytes(gateway: Gateway, door: Door) -> int:
    # A page may send instructions for its call.
    return gateway.settings.max_message_bytes if door.is_public else PAGE_MESSAGE_BYTES


class _Place:
    """A waiting socket's place, left once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Gateway | None = gateway
        gateway.metrics.socket_waits(1)

    def leave(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.admission.stop_waiting()
            gateway.metrics.socket_waits(-1)
            gateway.note_departure()


async def _answer(
    gateway: Gateway,
    door: Door,
    link: ServerLink,
    upgrade: HttpRequest,
    place: _Place,
    watch: "_Watch",
) -> None:
    stream = door.connect(upgrade)
    tap = TappedStream(stream) if gateway.console and gateway.settings.listen_in else None
    taping = _Taping(gateway, watch, link, _outside(gateway, watch))
    realtime, opened_at = RealtimeProtocol(gateway.settings.dialect), time.monotonic()
    bridge = Bridge(tap or stream, taping.link, realtime, taping.outside)
    try:
        started = await bridge.await_start()
        started_at = time.monotonic()
        place.leave()
        agent = await _admit(gateway, door, started)
    except CallRejected as rejected:
        _note_rejection(gateway, door, rejected)
        await bridge.turn_away()
        return
    watch.provider_call_id = started.provider_call_id
    gateway.bridges.add(bridge)
    watch.entered(opened_at, started_at, time.monotonic())
    try:
        is_taped = taping.choose(bridge, agent, started)
        options = _call_options(gateway, door, agent, stream.caps, is_taped=is_taped)
        now, unix_s = taping.outside.clock(), time.time()
        call = Call(started, options, now, unix_offset_s=unix_s - now)
        head = {"unix_offset_s": unix_s - now, "query": plain_query(upgrade.url)}
        head |= _tape_head(gateway, options)
        with taping.of(bridge, call, head, started), _shown(gateway, watch, bridge, tap):
            await bridge.run(call)
    except Exception:
        watch.log.exception("call_broke")
    finally:
        gateway.bridges.discard(bridge)
        gateway.note_departure()
        watch.close()


@contextmanager
def _shown(
    gateway: Gateway, watch: "_Watch", bridge: Bridge, tap: TappedStream | None
) -> Iterator[None]:
    """Within it the console can reach the call."""
    console, call_id = gateway.console, watch.call_id
    if console is None:
        yield
        return
    console.open(call_id, OpenLine(_hang_up(gateway, bridge), tap, bridge in gateway.on_tape))
    try:
        yield
    finally:
        console.close(call_id)


def _hang_up(gateway: Gateway, bridge: Bridge) -> Callable[[], None]:
    return functools.partial(end_call, gateway, bridge, "operator_hangup")


def end_call(gateway: Gateway, bridge: Bridge, reason: Reason) -> None:
    """From outside, at a time that the tape knows."""
    if bridge in gateway.on_tape:
        gateway.on_tape[bridge].hung_up(reason)
    bridge.hang_up(reason)


async def _admit(gateway: Gateway, door: Door, started: CallStarted) -> Agent:
    """Check the token, choose who answers, and take the call's place."""
    call_id, now, proof = started.provider_call_id, time.time(), None
    if door.needs_token and not gateway.settings.insecure:
        proof = gateway.tokens.prove(started.token, call_id, now)
    agent = _chosen_agent(gateway, door, started)
    try:
        await gateway.admission.begin(door.name, call_id, proof, now)
    finally:
        # Who asks to be let in is waited for; one that was refused must not be waited for longer.
        gateway.note_departure()
    return agent


def _chosen_agent(gateway: Gateway, door: Door, started: CallStarted) -> Agent:
    name = started.parameters.get("agent", "")
    named = gateway.settings.agents.get(name)
    if name and named is None:
        gateway.door_log.warning("agent_unknown", time.monotonic(), agent=name)
    agent = named or gateway.settings.agent_for(started.to_number)
    return agent if door.is_public else _changed_agent(agent, started)


def _changed_agent(agent: Agent, started: CallStarted) -> Agent:
    try:
        return agent.changed(msgspec.json.decode(started.parameters.get("overrides", "{}")))
    except SettingsError as error:
        raise CallRejected("start", "bad_request", error.problems[0]) from None


def _note_rejection(gateway: Gateway, door: Door, rejected: CallRejected) -> None:
    if isinstance(rejected, AuthRejected):
        gateway.metrics.auth_failed(rejected.kind)
    gateway.metrics.rejected(rejected.stage, rejected.reason)
    gateway.door_log.warning(
        "call_rejected",
        time.monotonic(),
        provider=door.name,
        stage=rejected.stage,
        reason=rejected.reason,
        detail=rejected.detail,
    )


class _Taping:
    """The tape of one call, where tapes are on; else everything passes by untouched.

    ``link`` and ``outside`` are what the call's bridge is to work with.
    """

    def __init__(
        self, gateway: Gateway, watch: "_Watch", link: ServerLink, outside: Outside
    ) -> None:
        self._gateway = gateway
        self._watch = watch
        self._bare = link, outside
        self._tape: Tape | None = None
        self.link: Link = link
        self.outside = outside
        # Who answers is known after the first message, and that is to be on tape.
        if gateway.tapes is not None and gateway.settings.taped_agents:
            self._tape = gateway.tapes.tape(watch.call_id)
            self.link, self.outside = all_taped(link, outside, self._tape)

    def choose(self, bridge: Bridge, agent: Agent, started: CallStarted) -> bool:
        """Whether this call is taped; one that is not goes on as if there were no tapes."""
        if self._tape is None:
            return False
        if self._gateway.settings.is_taped(agent, started.provider_call_id):
            return True
        self._tape = None
        self.link, self.outside = self._bare
        bridge.rewire(self.link, self.outside)
        return False

    @contextmanager
    def of(
        self, bridge: Bridge, call: Call, head: Mapping[str, object], started: CallStarted
    ) -> Iterator[None]:
        """Keep what is noted from now on, until the call is over."""
        tape, on_tape = self._tape, self._gateway.on_tape
        if tape is None:
            yield
            return
        is_announced = ANNOUNCEMENT in self._gateway.prompts
        hush = Hush(started.audio_in.encoding) if is_announced else None
        trace_id = self._watch.begin_trace(call)
        joined = {"trace_id": trace_id} if trace_id else {}
        tape.begin({**head, **joined}, token=started.token, hush=hush)
        self._watch.on_announced = tape.keep
        on_tape[bridge] = tape
        try:
            yield
        finally:
            del on_tape[bridge]
            tape.end(call.termination or Termination("internal_error"))


def _tape_head(gateway: Gateway, options: CallOptions) -> dict[str, object]:
    """What a tape has to say of the gateway that made it."""
    settings = gateway.settings
    return {
        "provider": options.provider,
        "dialect": settings.dialect,
        "agent": options.agent,
        "sounds": {
            name: sound for name, sound in gateway.own_prompts.items() if name in options.prompts
        },
        "settings": {
            "call": plain_options(options),
            "start_deadline_s": settings.start_deadline_s,
            "send_timeout_s": settings.send_timeout_s,
        },
    }


class _Watch:
    """Tells logs, metrics and admission what happens on one call."""

    def __init__(self, gateway: Gateway, provider: str, also: Observer | None = None) -> None:
        self._gateway = gateway
        self._also = also
        self._provider = provider
        self.call_id = gateway.new_call_id()
        self._metrics = gateway.metrics.call()
        self.provider_call_id = ""
        self.on_announced: Callable[[], None] = _nothing
        self.log = structlog.get_logger("gateway").bind(call_id=self.call_id)
        self._facts = CallLog(self.call_id, log_transcripts=gateway.settings.log_transcripts)
        today = datetime.now(UTC).date()
        self._bill = Bill(gateway.prices, today, gateway.settings.model_name)

    def entered(self, opened_at: float, started_at: float, admitted_at: float) -> None:
        """The way in took so long: from the open socket to the start message, and from there."""
        self.observe(SetUpTimed("start", started_at - opened_at))
        self.observe(SetUpTimed("admission", admitted_at - started_at))

    def begin_trace(self, call: Call) -> str:
        """The call's trace, before anybody is told of the call; "" where there are no traces."""
        traces = self._gateway.traces
        if traces is None:
            return ""
        for fact in call.facts[:1]:
            self._show(traces.observe, fact)
        return traces.trace_id(self.call_id)

    def observe(self, fact: Fact) -> None:
        """One fact, and what it costs."""
        for told in self._bill.of(fact):
            self._tell(told)

    def _tell(self, fact: Fact) -> None:
        """Everybody hears of it; the end of the call frees its place at once."""
        if self._gateway.traces is not None:
            self._show(self._gateway.traces.observe, fact)
            if isinstance(fact, CallBegan):
                trace_id = self._gateway.traces.trace_id(self.call_id)
                self.log = self.log.bind(trace_id=trace_id)
                self._facts.join(trace_id)
                self._metrics.join(self.call_id, trace_id)
        self._metrics.observe(fact)
        self._facts.observe(fact, time.monotonic())
        if isinstance(fact, CallEnded):
            self._free_place()
        elif isinstance(fact, CostIncurred) and not fact.model:
            self._gateway.note_unpriced(self._bill.model)
        elif isinstance(fact, AnnouncementHeard):
            self.on_announced()
        for observer in self._gateway.observers:
            self._show(observer, fact)
        if self._also is not None:
            self._show(self._also, fact)

    def _show(self, observer: Observer, fact: Fact) -> None:
        """Who only watches must not be able to break a call."""
        try:
            observer(self.call_id, fact)
        except Exception:
            self.log.exception("observer_broke")

    def close(self) -> None:
        """The call is gone, whatever facts came."""
        self._metrics.close()
        self._free_place()
        if self._gateway.traces is not None:
            self._gateway.traces.forget(self.call_id)

    def _free_place(self) -> None:
        """Once: the same id may be back with a new call while this one's line is still closing."""
        call_id, self.provider_call_id = self.provider_call_id, ""
        if call_id:
            self._gateway.admission.end(self._provider, call_id)


def _nothing() -> None:
    """Nobody waits for the announcement."""


def _outside(gateway: Gateway, watch: _Watch) -> Outside:
    async def perform(request: HttpRequest) -> None:
        await _perform(gateway.http, request, watch.log)

    return Outside(
        dial=gateway.breaker.for_call(),
        observe=watch.observe,
        perform=perform,
        start_deadline_s=gateway.settings.start_deadline_s,
        send_timeout_s=gateway.settings.send_timeout_s,
    )


async def _perform(
    http: aiohttp.ClientSession, request: HttpRequest, log: structlog.stdlib.BoundLogger
) -> None:
    """Carry out a provider's request (a hang-up); its failure is told, never fatal."""
    try:
        async with http.request(
            request.method,
            request.url,
            headers=dict(request.headers),
            data=request.body or list(request.form),
            allow_redirects=False,
        ) as response:
            if response.status not in {200, 204, 404}:
                log.warning("provider_refused", status=response.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("provider_not_reached", error=type(error).__name__)


def _call_options(
    gateway: Gateway, door: Door, agent: Agent, caps: Capabilities, *, is_taped: bool
) -> CallOptions:
    settings, prompts = gateway.settings, gateway.prompts
    if not is_taped:
        prompts = {name: sound for name, sound in prompts.items() if name != ANNOUNCEMENT}
    return CallOptions(
        provider=door.name,
        agent=agent.name,
        session=agent.session_options(settings.dialect),
        greeting=agent.greeting,
        allow_barge_in=agent.allow_barge_in,
        lead_ms=caps.lead_ms,
        frame_ms=caps.frame_ms,
        mark_interval_ms=settings.mark_interval_ms,
        max_message_bytes=caps.max_message_bytes,
        has_marks=caps.mark,
        has_status=caps.status,
        connect_budget_s=settings.connect_budget_s,
        idle_s=agent.idle_s,
        max_call_s=agent.max_call_s,
        last_words_s=agent.goodbye_s,
        prompts=prompts,
    )
