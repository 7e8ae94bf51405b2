"""The lobby: two listeners, opened and drained, and everything wired together."""

import asyncio
import functools
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.admission import Admission, OwnAdmission, Tokens
from gateway.audio.wav import read_wav
from gateway.breaker import Breaker
from gateway.errors import AudioFileError, AuthRejected, CallRejected
from gateway.events import (
    PCM_24K,
)
from gateway.metrics import Metrics, add_process_metrics
from gateway.prices import read_prices
from gateway.providers import Door, HttpReply, HttpRequest
from gateway.providers.softphone import SoftphoneDoor
from gateway.providers.table import doors
from gateway.realtime import Dial
from gateway.realtime.auth import Auth, EntraToken
from gateway.realtime.connection import auth_from, dial, target_from
from gateway.settings import Settings
from gateway.shipped import PROMPT_HZ, PROMPTS, shipped_sound
from gateway.tape.masking import Mask
from gateway.tape.record import (
    TapeEnd,
    Tapes,
)
from gateway.tape.shelf import Keeping, Shelf
from gateway.tape.sounds import packed
from gateway.tls import server_tls
from gateway.traces import Traces, is_wanted, open_traces
from gateway.usher import PAGE_MESSAGE_BYTES, REST_TIMEOUT_S, Gateway, Observer, end_call, take_in
from gateway.voice import ANNOUNCEMENT
from gateway.web import Area
from gateway.web.building import build_console
from gateway.web.inside import inside_app
from gateway.web.pages import Refusal, add_pages
from gateway.web.proxies import behind
from gateway.web.softphone import PageLink, Switchboard, softphone_area

# A webhook's form is a few kB.
MAX_FORM_BYTES: Final = 64 * 1024
# Idle and header-dripping connections are cut after this (aiohttp's own default is 75 s).
KEEP_ALIVE_S: Final = 15.0
LAG_EVERY_S: Final = 0.25
# With a thread that writes tapes the event loop gets the interpreter back after this, not after the
# usual 5 ms, which it would have to wait at each of its system calls.
TAPE_SWITCH_S: Final = 0.0002
ANNOUNCEMENT_LIMIT_S: Final = 30.0
DAY_S: Final = 86_400.0
# After the drain's deadline: time for a goodbye.
GOODBYE_S: Final = 15.0
# How long calls that are cut off by our end have to close their lines and tapes.
LEAVE_S: Final = 3.0


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
    return await take_in(gateway, door, request, incoming)


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
        return await take_in(gateway, door, request, HttpRequest("GET", request.raw_path), teller)

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
    # A Unix socket's path, at which the supervisor finds what the pages show; "" = it does not.
    inside: str = ""


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
                end_call(gateway, bridge, "drain")
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
        # Nobody waits for handlers that were cancelled; what they note last is to be kept.
        stack.push_async_callback(_all_gone, gateway, LEAVE_S)
        lag = asyncio.create_task(_watch_lag(gateway))
        stack.callback(lag.cancel)
        tls, ops_port = server_tls(settings), 0
        if shared is None:
            ops_port = await open_ops(stack, settings, _state_of(gateway))
            site = _Site(settings.host, settings.port, tls)
            port = await _listen(stack, public_app(gateway), site)
        else:
            await _open_inside(stack, gateway, shared.inside)
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


async def _open_inside(stack: AsyncExitStack, gateway: Gateway, path: str) -> None:
    """Let the supervisor in, where there are pages for people."""
    if path and gateway.console is not None:
        app = inside_app(_areas(gateway), gateway.console.rows_since, PAGE_MESSAGE_BYTES)
        await web.UnixSite(await _runner(stack, app), path).start()


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
