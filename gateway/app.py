"""The lobby: two listeners, who may come in, and everything wired together."""

import asyncio
import functools
import itertools
import secrets
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.admission import Admission, OwnAdmission, Tokens
from gateway.audio.wav import read_wav
from gateway.breaker import Breaker
from gateway.bridge import Bridge, Outside
from gateway.call import Call, CallOptions
from gateway.errors import AudioFileError, AuthRejected, CallRejected, SettingsError
from gateway.events import (
    PCM_24K,
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
from gateway.metrics import Metrics, add_process_metrics
from gateway.prices import Bill, Prices, read_prices
from gateway.providers import Capabilities, Door, HttpReply, HttpRequest
from gateway.providers.softphone import SoftphoneDoor
from gateway.providers.table import doors
from gateway.realtime import Dial, Link
from gateway.realtime.auth import Auth, EntraToken
from gateway.realtime.connection import auth_from, dial, target_from
from gateway.realtime.protocol import RealtimeProtocol
from gateway.settings import Agent, Settings
from gateway.shipped import PROMPT_HZ, PROMPTS, shipped_sound
from gateway.tape.hush import Hush
from gateway.tape.masking import Mask
from gateway.tape.record import (
    Tape,
    TapedLink,
    TapeEnd,
    Tapes,
    plain_options,
    plain_query,
    taped_dial,
)
from gateway.tape.shelf import Keeping, Shelf
from gateway.tape.sounds import packed
from gateway.tls import server_tls
from gateway.traces import Traces, is_wanted, open_traces
from gateway.voice import ANNOUNCEMENT
from gateway.web import Area
from gateway.web.building import build_console
from gateway.web.console import Console, OpenLine
from gateway.web.pages import Refusal, add_pages
from gateway.web.proxies import behind
from gateway.web.softphone import PageLink, Switchboard, softphone_area
from gateway.web.tap import TappedStream

# A refused stream may come back after this many seconds.
RETRY_AFTER_S: Final = 5
# A webhook's form is a few kB.
MAX_FORM_BYTES: Final = 64 * 1024
# What a page may send at once: a script of 32768 characters, in any language, fits.
PAGE_MESSAGE_BYTES: Final = 256 * 1024
# Idle and header-dripping connections are cut after this (aiohttp's own default is 75 s).
KEEP_ALIVE_S: Final = 15.0
REST_TIMEOUT_S: Final = 2.0
LAG_EVERY_S: Final = 0.25
# With a thread that writes tapes the event loop gets the interpreter back after this, not after the
# usual 5 ms, which it would have to wait at each of its system calls.
TAPE_SWITCH_S: Final = 0.0002
# Models named in the log because they have no price.
MAX_UNPRICED: Final = 20
ANNOUNCEMENT_LIMIT_S: Final = 30.0
DAY_S: Final = 86_400.0
# After the drain's deadline: time for a goodbye.
GOODBYE_S: Final = 15.0


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


GATEWAY: Final = web.AppKey("GATEWAY", Gateway)
_log: Final = structlog.get_logger("gateway")


# ------------------------------------------------------------- public listener


async def _voice(request: web.Request) -> web.Response:
    """The answer webhook: who may come in gets the address of the media socket and a token."""
    gateway = request.app[GATEWAY]
    door = _door(request)
    incoming = await _incoming(request)
    _verify(gateway, door, incoming)
    call = door.incoming_call(incoming)
    if call is None:
        raise web.HTTPBadRequest(text="no call in this request\n")
    try:
        await gateway.admission.check()
    except CallRejected as rejected:
        gateway.metrics.rejected(rejected.stage, rejected.reason)
        return _reply(door.refuse(rejected.reason))
    base = _base_url(request)
    media_url = f"{base.replace('http', 'ws', 1)}/{door.name}/media"
    token = gateway.tokens.mint(call.provider_call_id, time.time())
    return _reply(door.answer(call, media_url, f"{base}/{door.name}/status", token))


async def _status(request: web.Request) -> web.Response:
    """A status callback: noted, never acted upon (the stream itself says what happens)."""
    gateway = request.app[GATEWAY]
    door = _door(request)
    incoming = await _incoming(request)
    _verify(gateway, door, incoming)
    report = door.status(incoming)
    if report is not None:
        _log.info(
            "stream_status",
            provider=door.name,
            provider_call_id=report.provider_call_id,
            kind=report.kind,
            detail=report.detail,
        )
    return web.Response(status=204)


async def _media(request: web.Request) -> web.WebSocketResponse:
    """The media socket: one call from its start message to its end."""
    gateway = request.app[GATEWAY]
    door = _door(request)
    if "Origin" in request.headers:
        raise web.HTTPForbidden(text="no browsers here\n")
    incoming = await _incoming(request)
    _verify(gateway, door, incoming)
    return await _take(gateway, door, request, incoming)


async def _take(
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
    return functools.partial(_end_call, gateway, bridge, "operator_hangup")


def _end_call(gateway: Gateway, bridge: Bridge, reason: Reason) -> None:
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
            self._wrap(gateway.tapes.tape(watch.call_id))

    def _wrap(self, tape: Tape) -> None:
        link, outside = self._bare
        self._tape = tape
        self.link = TapedLink(link, "provider", tape)
        dial = taped_dial(outside.dial, tape)
        # The world by the tape's clock.
        self.outside = replace(outside, dial=dial, clock=tape.clock, stopwatch=tape.stopwatch)

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
        tape.begin(head, token=started.token, hush=hush)
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
                self._metrics.join(trace_id)
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


def _door(request: web.Request) -> Door:
    door = request.app[GATEWAY].doors.get(request.match_info["provider"])
    if door is None or not door.is_public:
        raise web.HTTPNotFound(text="no such provider\n")
    return door


async def _incoming(request: web.Request) -> HttpRequest:
    """The request as its signature covers it: our public base URL, its own path and query."""
    body = await request.read() if request.method == "POST" else b""
    form = await _form(request)
    return HttpRequest(
        method=request.method,
        url=_base_url(request) + request.raw_path,
        headers={name.lower(): value for name, value in request.headers.items()},
        form=tuple((name, value) for name, value in form.items() if isinstance(value, str)),
        body=body,
    )


async def _form(request: web.Request) -> Mapping[str, object]:
    """The fields of a form; multipart is not read, it would put a stranger's files on our disk."""
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    try:
        return await request.post()
    except (LookupError, ValueError):
        raise web.HTTPBadRequest(text="not a form in any known character set\n") from None


def _base_url(request: web.Request) -> str:
    """From the settings; only a gateway without any proof of origin trusts the Host header."""
    return request.app[GATEWAY].settings.public_url or f"{request.scheme}://{request.host}"


def _verify(gateway: Gateway, door: Door, incoming: HttpRequest) -> None:
    try:
        door.verify(incoming)
    except AuthRejected as rejected:
        gateway.metrics.auth_failed(rejected.kind)
        gateway.door_log.warning(
            "request_refused", time.monotonic(), provider=door.name, kind=rejected.kind
        )
        raise web.HTTPForbidden(text="signature or password missing or wrong\n") from None


def _reply(reply: HttpReply) -> web.Response:
    return web.Response(status=reply.status, content_type=reply.content_type, text=reply.body)


def public_app(gateway: Gateway) -> web.Application:
    """The public listener: three routes a provider, nothing else."""
    app = web.Application(client_max_size=MAX_FORM_BYTES)
    app[GATEWAY] = gateway
    app.router.add_post("/{provider}/voice", _voice)
    app.router.add_get("/{provider}/voice", _voice)
    app.router.add_get("/{provider}/media", _media)
    app.router.add_post("/{provider}/status", _status)
    return app


# ------------------------------------------------------------- operations listener


@dataclass(frozen=True, slots=True)
class State:
    """What the operations listener tells: the metrics page, and why not ready ("" = ready).

    ``page`` is given what writes a registry down in the format the reader asked for. ``refused``:
    told of whoever does not get to a page. ``areas``: the pages for people, where the settings have
    a token for them.
    """

    page: Callable[[Callable[[Collector], bytes]], bytes]
    why_not_ready: Callable[[], str]
    refused: Callable[[Refusal], None]
    areas: tuple[Area, ...] = ()


STATE: Final = web.AppKey("STATE", State)


async def _metrics(request: web.Request) -> web.Response:
    # Exemplars exist in the OpenMetrics format only; Prometheus asks for it first.
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    page = request.app[STATE].page(encode)
    return web.Response(body=page, headers={"Content-Type": content_type})


async def _livez(_request: web.Request) -> web.Response:
    return web.Response(text="alive\n")


async def _readyz(request: web.Request) -> web.Response:
    why_not = request.app[STATE].why_not_ready()
    return web.Response(status=503 if why_not else 200, text=f"{why_not or 'ready'}\n")


def ops_app(settings: Settings, state: State) -> web.Application:
    """The operations listener: metrics and health, and the pages behind their login."""
    proxies = settings.trusted_networks
    middlewares = [behind(proxies)] if proxies else []
    app = web.Application(client_max_size=PAGE_MESSAGE_BYTES, middlewares=middlewares)
    add_pages(app, settings.console_tokens, state.areas, state.refused)
    app[STATE] = state
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    return app


def _state_of(gateway: Gateway) -> State:
    def page(encode: Callable[[Collector], bytes]) -> bytes:
        _renew_gauges(gateway)
        return encode(gateway.registry)

    return State(
        page,
        lambda: "" if gateway.is_ready else "draining",
        gateway.metrics.page_refused,
        tuple(_areas(gateway)),
    )


def _areas(gateway: Gateway) -> Iterator[Area]:
    """The pages for people, in the order of the navigation."""
    if gateway.console is not None:
        yield gateway.console.area()
    door = gateway.doors.get(SoftphoneDoor.name)
    if door is not None:
        yield softphone_area(_switchboard(gateway, door))


def _switchboard(gateway: Gateway, door: Door) -> Switchboard:
    settings = gateway.settings

    async def take(
        request: web.Request, teller: Callable[[PageLink], Observer]
    ) -> web.StreamResponse:
        return await _take(gateway, door, request, HttpRequest("GET", request.raw_path), teller)

    return Switchboard(settings.agents, settings.dialect, gateway.admission.check, take)


def _renew_gauges(gateway: Gateway) -> None:
    """What is looked at rather than told."""
    gateway.metrics.set_breaker(is_open=gateway.breaker.is_open)
    if isinstance(gateway.auth, EntraToken):
        gateway.metrics.set_token_expiry(gateway.auth.expires_at)


# ------------------------------------------------------------- opening and closing


@dataclass(frozen=True, slots=True)
class Shared:
    """What the workers of one gateway have in common."""

    admission: Admission
    token_key: bytes
    listen: Callable[[web.Server, ssl.SSLContext | None], int]


@dataclass(frozen=True, slots=True)
class Running:
    """An open gateway and where it listens."""

    gateway: Gateway
    port: int
    ops_port: int
    # A process alone does not outlive its failure.
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def calls(self) -> int:
        """Calls that are going on."""
        return self.gateway.admission.calls

    async def drain(self, limit_s: float) -> None:
        """Take no new calls, wait for those there are, then say goodbye to the rest."""
        gateway = self.gateway
        gateway.admission.is_draining = True
        gateway.metrics.drain_began(self.calls)
        gateway.metrics.set_ready(is_ready=False)
        if not await _all_gone(gateway, limit_s):
            for bridge in list(gateway.bridges):
                _end_call(gateway, bridge, "drain")
            await _all_gone(gateway, GOODBYE_S)


async def _all_gone(gateway: Gateway, limit_s: float) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            # Looked at again each time: who leaves the waiting room may have entered a call.
            while gateway.bridges or gateway.admission.is_waited_for:
                gateway.is_empty.clear()
                await gateway.is_empty.wait()
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def open_gateway(settings: Settings, shared: Shared | None = None) -> AsyncIterator[Running]:
    """Open both listeners; on leaving, whatever still runs is ended at once.

    Args:
        settings: all of them.
        shared: given to one worker of several: it has the public listener only, on a port that
            the others listen on too (``ops_port`` is 0).

    Raises:
        OSError: an address is taken or not ours.
        AudioFileError: a prompt cannot be used.
        SettingsError: the certificate of the public listener cannot be used, or traces are wanted
            without the extra ``otel``.
    """
    async with AsyncExitStack() as stack:
        gateway = await _build(settings, stack, shared)
        lag = asyncio.create_task(_watch_lag(gateway))
        stack.callback(lag.cancel)
        tls, ops_port = server_tls(settings), 0
        if shared is None:
            ops_port = await open_ops(stack, settings, _state_of(gateway))
            site = _Site(settings.host, settings.port, tls)
            port = await _listen(stack, public_app(gateway), site)
        else:
            runner = await _runner(stack, public_app(gateway))
            port = shared.listen(_server_of(runner), tls)
        gateway.metrics.set_ready(is_ready=True)
        yield Running(gateway, port, ops_port)


async def open_ops(stack: AsyncExitStack, settings: Settings, state: State) -> int:
    """Open the operations listener; returns its port.

    Raises:
        OSError: its address is taken or not ours.
    """
    return await _listen(
        stack, ops_app(settings, state), _Site(settings.ops_host, settings.ops_port)
    )


async def _build(settings: Settings, stack: AsyncExitStack, shared: Shared | None) -> Gateway:
    # A second series beside each counter, which nobody asked for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
    registry = CollectorRegistry()
    add_process_metrics(registry)
    open_doors = doors_of(settings)
    prices = read_prices(settings.prices)
    metrics = Metrics(registry, tuple(open_doors), tuple(settings.agents), prices.models)
    metrics.set_insecure(is_insecure=settings.insecure)
    metrics.set_calls_limit(settings.call_limit)
    metrics.set_workers(1)
    timeout = aiohttp.ClientTimeout(total=REST_TIMEOUT_S)
    http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
    auth = auth_from(settings, metrics.token_refreshed)
    prompts = load_prompts(settings)
    console = build_console(settings, metrics, stack)
    return Gateway(
        settings=settings,
        registry=registry,
        metrics=metrics,
        doors=open_doors,
        auth=auth,
        breaker=Breaker(_dial(settings, auth, stack), time.monotonic),
        prompts=prompts,
        prices=prices,
        http=http,
        admission=shared.admission if shared else OwnAdmission(settings.call_limit),
        tokens=Tokens(shared.token_key if shared else settings.token_key_bytes),
        tapes=_tapes(settings, metrics, stack),
        traces=_traces(metrics, stack),
        own_prompts=packed(_own(settings, prompts)) if settings.tape_dir else {},
        console=console,
        observers=[console.observe] if console else [],
    )


def _own(settings: Settings, prompts: Mapping[str, bytes]) -> dict[str, bytes]:
    files = _prompt_files(settings)
    return {name: sound for name, sound in prompts.items() if files[name]}


def _tapes(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Tapes | None:
    """The writer of tapes, where tapes are on; it stops last, once all calls have ended."""
    if not settings.tape_dir:
        return None
    sys.setswitchinterval(TAPE_SWITCH_S)

    def ended(end: TapeEnd) -> None:
        metrics.tape_ended(end.result)
        if end.result != "failed" and not shelf.add(end.path):
            _log.warning("tape_not_compressed", tape=end.path.name, detail="too many wait")
        if end.result != "ok":
            _log.error("tape_ended", result=end.result, tape=end.path.name, detail=end.detail)

    def trouble(event: str, detail: str) -> None:
        _log.warning(event, detail=detail)

    keeping = Keeping(settings.tape_keep_days * DAY_S, settings.tape_total_bytes)
    shelf = Shelf(Path(settings.tape_dir), keeping, metrics.tape_removed, trouble)
    mask = Mask(settings.secret_values, hides_numbers=settings.tape_mask)
    tapes = Tapes(
        Path(settings.tape_dir), settings.tape_max_bytes, ended, metrics.tape_lost, mask=mask
    )
    tapes.start()
    shelf.start()

    async def close() -> None:
        if not await asyncio.to_thread(tapes.close):
            _log.error("tapes_unfinished", folder=settings.tape_dir)
        await asyncio.to_thread(shelf.close)

    stack.push_async_callback(close)
    return tapes


def _traces(metrics: Metrics, stack: AsyncExitStack) -> Traces | None:
    """Where calls become traces, if the environment names a collector."""
    if not is_wanted():
        return None
    traces = open_traces(metrics.spans)

    async def close() -> None:
        await asyncio.to_thread(traces.close)

    stack.push_async_callback(close)
    return traces


def _dial(settings: Settings, auth: Auth, stack: AsyncExitStack) -> Dial:
    """Dials the model the settings name; keyless, a token is kept ready off the call path."""
    stack.push_async_callback(auth.close)
    if isinstance(auth, EntraToken):
        keeper = asyncio.create_task(auth.run())
        stack.callback(keeper.cancel)
    return functools.partial(dial, target_from(settings, auth))


def doors_of(settings: Settings) -> dict[str, Door]:
    """The door of every provider that the settings name a secret of."""
    password = settings.asterisk_password
    return doors(
        public_url=settings.public_url,
        twilio_auth_tokens=settings.twilio_auth_tokens,
        twilio_api_url=settings.twilio_api_url,
        has_softphone=settings.softphone,
        asterisk_username=settings.asterisk_username,
        asterisk_password=password.get_secret_value() if password else "",
        insecure=settings.insecure,
    )


def load_prompts(settings: Settings) -> dict[str, bytes]:
    """The recordings a caller hears instead of silence, and first of all, as 24 kHz PCM.

    Raises:
        AudioFileError: a file cannot be used; names it.
    """
    own = _prompt_files(settings)
    sounds = {
        name: read_wav(Path(own[name] or shipped_sound(file)), PROMPT_HZ)
        for name, file in PROMPTS.items()
    }
    file = settings.tape_announcement
    return sounds | ({ANNOUNCEMENT: _announcement(file)} if file else {})


def _prompt_files(settings: Settings) -> dict[str, str]:
    return {
        "apology": settings.apology_file,
        "filler": settings.filler_file,
        "goodbye": settings.goodbye_file,
        ANNOUNCEMENT: settings.tape_announcement,
    }


def _announcement(file: str) -> bytes:
    pcm = read_wav(Path(file), PROMPT_HZ)
    if len(pcm) > ANNOUNCEMENT_LIMIT_S * PCM_24K.bytes_per_ms * 1000:
        raise AudioFileError(f"{file}: an announcement longer than {ANNOUNCEMENT_LIMIT_S:g} s")
    return pcm


@dataclass(frozen=True, slots=True)
class _Site:
    """Where to listen."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


async def _listen(stack: AsyncExitStack, app: web.Application, site: _Site) -> int:
    runner = await _runner(stack, app)
    await web.TCPSite(runner, site.host, site.port, ssl_context=site.tls).start()
    return int(runner.addresses[0][1])


async def _runner(stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, shutdown_timeout=0.1
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


def _server_of(runner: web.AppRunner) -> web.Server:
    assert runner.server is not None  # noqa: S101  # it was set up
    return runner.server


async def _watch_lag(gateway: Gateway) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        gateway.metrics.loop_lag(loop.time() - due)
        # Nobody scrapes a worker: its gauges are in a file that the supervisor reads.
        _renew_gauges(gateway)
