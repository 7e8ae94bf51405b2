"""A Realtime API server on a port of its own, for clients that know nothing of it."""

import asyncio
import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import WSMsgType, web

from gateway.errors import SettingsError
from gateway.simulator.agents import Agent, Parrot, Script, Scripted, read_script
from gateway.simulator.faults import NO_FAULTS, Faults, parse_faults
from gateway.simulator.ids import Ids
from gateway.simulator.mishaps import CloseSocket
from gateway.simulator.options import Dialect
from gateway.simulator.plan import Pace
from gateway.simulator.realtime import Habits, RealtimeSession

MAX_SESSIONS_KEPT = 1000
MAX_AUDIO_KEPT = 50
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_SEND_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_SHORTEST_WAIT_S = 0.0001

_PATHS = {
    "/v1/realtime": Dialect("ga", "openai"),
    "/openai/v1/realtime": Dialect("ga", "azure"),
    "/openai/realtime": Dialect("preview", "azure"),
    "/voice-live/realtime": Dialect("preview", "voice-live"),
}
_MODEL = "gpt-realtime"
_BETA_DISABLED = "invalid_request_error.beta_api_shape_disabled"


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """What to simulate.

    ``port`` 0 takes a free one. An empty ``key`` accepts any, but one must be given. An empty
    ``models`` accepts any deployment. With a ``script`` (a file) the agent plays it, else it is a
    parrot. ``faults`` hold for every connection, on top of them those a client asks for in its URL
    (``?fault=name=value``).
    """

    host: str = "127.0.0.1"
    port: int = 0
    key: str = ""
    models: tuple[str, ...] = ()
    script: Path | Script | None = None
    faults: Faults = NO_FAULTS
    pace: Pace = field(default_factory=Pace)
    seed: int = 1
    record_s: int = 600
    transcription_delay_s: float = 0.4


class Simulator:
    """A running server; ``sessions`` are the last thousand, over or not, oldest first."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.port = options.port
        self.sessions: deque[RealtimeSession] = deque(maxlen=MAX_SESSIONS_KEPT)
        self.connections = 0
        self._script = _script(options.script)
        self._open: dict[RealtimeSession, web.WebSocketResponse] = {}
        self._ended: deque[RealtimeSession] = deque()
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=_CLOSE_TIMEOUT_S
        )

    @property
    def url(self) -> str:
        """Where it listens, as the endpoint a client is given."""
        return f"http://{self.options.host}:{self.port}"

    @property
    def active(self) -> int:
        """How many sessions are open."""
        return len(self._open)

    async def start(self) -> None:
        """Open the port."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Close every session (1001), then the port."""
        self._closing.set()
        goodbyes = [socket.close(code=1001) for socket in list(self._open.values())]
        await asyncio.gather(*goodbyes, return_exceptions=True)
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application()
        for path in _PATHS:
            application.router.add_get(path, self._connect)
        application.router.add_route("*", "/{path:.*}", _not_found)
        return application

    # -- one connection

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        self.connections += 1
        try:
            faults = parse_faults(request.query.getall("fault", []), self.options.faults)
        except SettingsError as error:
            return _refusal(400, "invalid_fault", str(error))
        faults = faults.for_connection(self.connections)
        await self._dawdle(faults.handshake_delay_s)
        refused = _faulty_refusal(faults) or self._refused(request)
        return refused or await self._hold(request, faults)

    async def _dawdle(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()

    def _refused(self, request: web.Request) -> web.Response | None:
        dialect = _PATHS[request.path]
        if not _has_key(request, self.options.key):
            return _refusal(401, "401", _ACCESS_DENIED)
        has_version = "api-version" in request.query
        if dialect == Dialect("ga", "azure") and has_version:
            return _refusal(401, "401", _ACCESS_DENIED)
        if dialect.name == "preview" and not has_version:
            return _refusal(400, "BadRequest", "Missing required query parameter: api-version")
        model = _model(request)
        if not model:
            return _refusal(
                400, "missing_required_parameter", "You must provide a model parameter."
            )
        if self.options.models and model not in self.options.models:
            return _refusal(404, "DeploymentNotFound", _NO_DEPLOYMENT)
        return None

    async def _hold(self, request: web.Request, faults: Faults) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            autoping=not faults.no_pong,
            compress=False,
            max_msg_size=_MAX_MESSAGE_BYTES,
            timeout=_CLOSE_TIMEOUT_S,
        )
        await socket.prepare(request)
        if _PATHS[request.path].service == "openai" and "OpenAI-Beta" in request.headers:
            await socket.close(code=4000, message=_BETA_DISABLED.encode())
            return socket
        session = self._session(request, faults)
        self.sessions.append(session)
        self._open[session] = socket
        try:
            await _Line(request, socket, session).carry()
        finally:
            self._ended_session(session)
        return socket

    def _session(self, request: web.Request, faults: Faults) -> RealtimeSession:
        options = self.options
        seed = options.seed * 1_000_003 + self.connections
        dialect = _PATHS[request.path]
        habits = Habits(
            # Azure shows the model behind a deployment, not the deployment's name.
            model=_MODEL if dialect.service == "azure" else _model(request),
            pace=options.pace,
            faults=faults,
            transcription_delay_s=options.transcription_delay_s,
            record_s=options.record_s,
            seed=seed,
        )
        return RealtimeSession(dialect, self._agent(), habits, Ids(seed), unix_s=time.time())

    def _agent(self) -> Agent:
        script, folder = self._script
        return Scripted(script, folder) if script else Parrot()

    def _ended_session(self, session: RealtimeSession) -> None:
        del self._open[session]
        self._ended.append(session)
        if len(self._ended) > MAX_AUDIO_KEPT:
            self._ended.popleft().forget_audio()


class _Line:
    """Moves messages between one socket and its session."""

    def __init__(
        self, request: web.Request, socket: web.WebSocketResponse, session: RealtimeSession
    ) -> None:
        self._request = request
        self._socket = socket
        self._session = session
        self._clock = asyncio.get_running_loop().time

    async def carry(self) -> None:
        """Until one side closes."""
        self._session.start(self._clock())
        while await self._deliver():
            if not await self._turn():
                return

    async def _turn(self) -> bool:
        """Wait for a message or a timer, whichever is first; False once the client is gone."""
        due_s = self._session.next_timer()
        # aiohttp takes 0 for "no timeout".
        wait_s = None if due_s is None else max(_SHORTEST_WAIT_S, due_s - self._clock())
        try:
            message = await self._socket.receive(timeout=wait_s)
        except TimeoutError:
            message = None
        if message is not None:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self._session.receive(message.data, self._clock())
            elif message.type not in (WSMsgType.PING, WSMsgType.PONG):
                return False
        self._session.timer_fired(self._clock())
        return True

    async def _deliver(self) -> bool:
        """Send what the session has to say; False once it wants to close."""
        outbox = self._session.outbox
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                while outbox:
                    await self._socket.send_str(outbox.popleft())
        except (ConnectionError, TimeoutError):
            self._abort()
            return False
        if self._session.closing is not None:
            await self._close(self._session.closing)
            return False
        return True

    async def _close(self, closing: CloseSocket) -> None:
        if closing.code == 1006:  # noqa: PLR2004  the code that says there was none
            self._abort()
        else:
            await self._socket.close(code=closing.code, message=closing.reason.encode())

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


async def start_simulator(options: SimulatorOptions | None = None) -> Simulator:
    """Start a server; close it with ``await simulator.close()``.

    Raises:
        SettingsError: the script cannot be used.
        OSError: the port is taken.
    """
    simulator = Simulator(options or SimulatorOptions())
    await simulator.start()
    return simulator


# -- refusals before the handshake

_ACCESS_DENIED = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
    "valid key for an active subscription and use a correct regional API endpoint."
)
_NO_DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within "
    "the last 5 minutes, please wait a moment and try again."
)


def _refusal(status: int, code: str, message: str, retry_after_s: float = 0) -> web.Response:
    headers = {"Retry-After": f"{retry_after_s:g}"} if retry_after_s else {}
    error = {"error": {"code": code, "message": message}}
    return web.json_response(error, status=status, headers=headers)


def _faulty_refusal(faults: Faults) -> web.Response | None:
    if not faults.http_status:
        return None
    status = faults.http_status
    return _refusal(status, str(status), "Simulated fault.", faults.retry_after_s)


async def _not_found(_request: web.Request) -> web.Response:
    return _refusal(404, "404", "Resource not found")


def _has_key(request: web.Request, key: str) -> bool:
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    given = (
        request.headers.get("api-key", ""),
        bearer if scheme.lower() == "bearer" else "",
        request.query.get("api-key", ""),
    )
    if not key:
        return any(given)
    return any(secrets.compare_digest(value.encode(), key.encode()) for value in given)


def _model(request: web.Request) -> str:
    return request.query.get("model") or request.query.get("deployment", "")


def _script(script: Path | Script | None) -> tuple[Script | None, Path | None]:
    if isinstance(script, Path):
        return read_script(script), script.parent
    return script, None
