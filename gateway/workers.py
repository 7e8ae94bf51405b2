"""Several processes as one gateway: starts them, replaces the dead, and speaks for all of them.

The supervisor takes no calls. Each worker is a fresh interpreter that listens on the public port
beside the others (SO_REUSEPORT: the kernel deals the connections out); who may come in is decided
at the one front desk, metrics and health are told by the one operations listener.
"""

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics

from gateway.app import (
    GOODBYE_S,
    State,
    doors_of,
    load_prompts,
    open_ops,
)
from gateway.channel import Channel, channel_pair
from gateway.errors import CallRejected, GatewayError
from gateway.frontdesk import (
    Beat,
    Begin,
    Check,
    Drain,
    Ended,
    Fair,
    FromWorker,
    FrontDesk,
    Handed,
    Left,
    Opened,
    Stop,
    Wait,
    encode,
    from_worker,
)
from gateway.listener import shared_socket
from gateway.metrics import Metrics
from gateway.prices import read_prices
from gateway.settings import Settings
from gateway.tally import FOLDER_VARIABLE, Tally, check_sockets, page_registry, socket_of
from gateway.tls import server_tls
from gateway.usher import PAGE_MESSAGE_BYTES, REST_TIMEOUT_S, RETRY_AFTER_S
from gateway.web import Area
from gateway.web.building import build_console
from gateway.web.overview import Overview
from gateway.web.softphone import Switchboard, Teller, softphone_area
from gateway.worker import Orders

# So many deaths of one worker in this time are no accident.
MAX_DEATHS: Final = 5
DEATHS_WITHIN_S: Final = 30.0
FIRST_PAUSE_S: Final = 0.25
# A worker whose event loop has not run for so long is dead to its callers.
HUNG_S: Final = 10.0
# An interpreter with all libraries takes about one second to start.
START_S: Final = 60.0
# After a stop: so long until a worker is killed.
LEAVE_S: Final = 5.0

_log: Final = structlog.get_logger("gateway")


class WorkersFailed(GatewayError):
    """Workers die as fast as they are replaced."""


class Deaths:
    """How often one worker died lately, and how long to wait before the next one starts."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def note(self, now: float) -> float | None:
        """One more death; returns the pause before the next start in s, None for a crash loop."""
        self._times.append(now)
        while self._times[0] <= now - DEATHS_WITHIN_S:
            self._times.popleft()
        if len(self._times) >= MAX_DEATHS:
            return None
        # The first is replaced at once.
        lately = len(self._times) - 1
        return FIRST_PAUSE_S * 2 ** (lately - 1) if lately else 0.0


@dataclass(slots=True)
class _Worker:
    """A process that takes calls, seen from the supervisor."""

    process: asyncio.subprocess.Process
    channel: Channel
    heard_at: float
    is_open: bool = False
    connections: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid


class Crew:
    """The workers of one gateway; all run until ``drain`` or ``stop``."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.port = port
        self.ops_port = 0
        self.failed = asyncio.Event()
        # The calls of all workers, where there are pages for people.
        self.overview: Overview | None = None
        self.areas: tuple[Area, ...] = ()
        self._settings = settings
        self._token_key = settings.token_key_bytes or secrets.token_bytes(32)
        self._desk = FrontDesk(settings.call_limit)
        self._workers: dict[int, _Worker] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._leaving = asyncio.Event()
        self._news = asyncio.Event()
        self._least = 0
        # A second series beside each counter, which nobody asked for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
        own = CollectorRegistry()
        models = read_prices(settings.prices).models
        self.metrics = Metrics(own, tuple(doors_of(settings)), tuple(settings.agents), models)
        self._tally = Tally(own, self._pids)
        self._page = page_registry(self._tally, self._pids)
        self.metrics.set_insecure(is_insecure=settings.insecure)
        self.metrics.set_calls_limit(settings.call_limit)

    # -- what is told

    @property
    def calls(self) -> int:
        """Calls that are running, in all workers."""
        return self._desk.calls

    @property
    def state(self) -> State:
        """What the operations listener says."""
        refused = self.metrics.page_refused
        return State(lambda encode: encode(self._page), self._why_not_ready, refused, self.areas)

    def check(self) -> None:
        """See whether one more call could be taken.

        Raises:
            CallRejected: reason drain or capacity.
        """
        self._desk.check()
        if not self._takers():
            raise CallRejected("admission", "capacity", "no worker takes calls")

    def check_sockets(self) -> None:
        """See whether there is a way to the workers' pages.

        Raises:
            OSError: the folder for temporary files has too long a name.
        """
        check_sockets(self._tally.folder)

    @property
    def freest(self) -> int:
        """The worker with the fewest calls; 0 when there is none."""
        pids = (worker.pid for worker in self._takers())
        return min(pids, key=self._desk.load_of, default=0)

    def _why_not_ready(self) -> str:
        if self._leaving.is_set():
            return "draining"
        return "" if self._takers() else "no worker takes calls"

    def _pids(self) -> Iterable[int]:
        return list(self._workers)

    def _tell_state(self) -> None:
        self.metrics.set_workers(len(self._takers()))
        self.metrics.set_ready(is_ready=not self._why_not_ready())
        self._news.set()

    # -- coming and going

    async def start(self) -> None:
        """Start all workers; returns when every one takes calls.

        Raises:
            WorkersFailed: they do not.
        """
        slots = range(self._settings.workers)
        self._keepers = [asyncio.create_task(self._keep()) for _ in slots]
        self._keepers.append(asyncio.create_task(self._watch()))
        for keeper in self._keepers:
            keeper.add_done_callback(self._look_at_end)
        while len(self._takers()) < self._settings.workers:
            if self.failed.is_set():
                raise WorkersFailed(_CRASH_LOOP)
            self._news.clear()
            await self._news.wait()

    async def drain(self, limit_s: float) -> None:
        """Take no new calls, wait for those there are, then say goodbye to the rest."""
        self._desk.drain()
        self._leave()
        self.metrics.set_draining(is_draining=True)
        for worker in self._workers.values():
            worker.channel.send(encode(Drain(limit_s)))
        await asyncio.wait(self._keepers, timeout=limit_s + GOODBYE_S + LEAVE_S)

    async def stop(self) -> None:
        """End everything at once; no process of ours is left when this returns."""
        self._desk.drain()
        self._leave()
        for worker in self._workers.values():
            worker.channel.send(encode(Stop()))
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=LEAVE_S)
        for worker in self._workers.values():
            _kill(worker)
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._tally.close()

    def _leave(self) -> None:
        self._leaving.set()
        if self.overview is not None:
            self.overview.is_draining = True
        self._tell_state()

    async def _keep(self) -> None:
        """One place in the crew: whoever holds it is replaced when it dies."""
        deaths = Deaths()
        while not self._leaving.is_set():
            await self._one_life()
            if self._leaving.is_set():
                return
            pause_s = deaths.note(time.monotonic())
            if pause_s is None:
                self._fail()
                return
            self.metrics.worker_restarted()
            await self._left_within(pause_s)

    def _look_at_end(self, keeper: "asyncio.Task[None]") -> None:
        """A place that nobody keeps any more, by a fault of ours, must not pass unseen."""
        if not keeper.cancelled() and (error := keeper.exception()):
            _log.error("supervisor_broke", exc_info=error)
            self._fail()

    def _fail(self) -> None:
        self.failed.set()
        self._news.set()

    async def _left_within(self, pause_s: float) -> None:
        """A pause that a stop cuts short."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), pause_s)

    async def _one_life(self) -> None:
        """From the start of a worker to its death."""
        try:
            worker = await self._spawn()
        except OSError as error:
            _log.error("worker_not_started", error=error.strerror)
            return
        code = await worker.process.wait()
        calls = self._bury(worker)
        if not self._leaving.is_set():
            _log.error("worker_died", worker_pid=worker.pid, code=code, calls_lost=calls)

    def _bury(self, worker: _Worker) -> int:
        """Free what the dead worker held; returns how many calls it took with it."""
        del self._workers[worker.pid]
        # The ends of its last calls may lie there yet; nothing in it keeps what it held.
        try:
            worker.channel.finish()
        except Exception:  # noqa: BLE001  # told, and its calls are freed all the same
            _log.exception("worker_last_words_unreadable", worker=worker.pid)
        if self.overview is not None:
            self.overview.gone(worker.pid, partial(self._desk.has, worker.pid))
        calls = self._desk.forget(worker.pid)
        self.metrics.calls_lost(calls)
        self._tally.bury(worker.pid)
        self._tell_state()
        return calls

    async def _spawn(self) -> _Worker:
        ours, theirs = channel_pair()
        try:
            with theirs, self._orders(theirs.fileno()) as orders:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "gateway", "worker"),
                    stdin=orders,
                    pass_fds=(theirs.fileno(),),
                    # Ctrl-C reaches a whole group of processes; a stop is the supervisor's to tell.
                    start_new_session=True,
                    env={**os.environ, FOLDER_VARIABLE: str(self._tally.folder)},
                )
        except BaseException:
            ours.close()
            raise
        worker = self._enter(process, ours)
        if self._leaving.is_set():
            # It came too late to be told to go.
            _kill(worker)
        return worker

    def _orders(self, line: int) -> BinaryIO:
        """What the worker reads on its standard input: a file in memory, for there are secrets."""
        settings = self._settings.for_worker()
        orders = Orders(settings, line, self.port, self._token_key, os.getpid())
        file = os.fdopen(os.memfd_create("orders"), "w+b", buffering=0)
        file.write(msgspec.json.encode(orders))
        file.seek(0)
        return file

    def _enter(self, process: asyncio.subprocess.Process, ours: socket.socket) -> _Worker:
        pid = process.pid

        def received(message: bytes, handed: socket.socket | None) -> None:
            said = from_worker(message)
            self._received(worker, said)
            if handed is not None:
                self._pass_on(handed)

        def lost() -> None:
            # It is on its way out, or takes calls that nobody counts.
            asyncio.get_running_loop().call_later(LEAVE_S, _kill, worker)

        worker = _Worker(process, Channel(ours, received, lost), time.monotonic())
        self._workers[pid] = worker
        return worker

    # -- what workers say

    def _received(self, worker: _Worker, said: FromWorker) -> None:
        worker.heard_at = time.monotonic()
        if isinstance(said, Check | Wait | Begin):
            worker.channel.send(encode(self._desk.decide(worker.pid, said)))
        elif isinstance(said, Left):
            self._desk.leave(worker.pid)
        elif isinstance(said, Ended):
            self._desk.end(worker.pid, said.key)
        elif isinstance(said, Opened):
            worker.is_open = True
            if self.overview is not None:
                path = socket_of(self._tally.folder, worker.pid)
                self.overview.opened(worker.pid, str(path))
            _log.info("worker_started", worker_pid=worker.pid)
            self._tell_state()
        elif isinstance(said, Beat | Handed):
            worker.connections = said.connections
            self._tell_fair()

    def _pass_on(self, connection: socket.socket) -> None:
        """The freest worker shall have it."""
        freest = min(self._takers(), key=lambda worker: worker.connections, default=None)
        if freest is None:
            connection.close()
            return
        freest.connections += 1
        freest.channel.send(encode(Handed(freest.connections)), connection)

    def _takers(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.is_open]

    def _tell_fair(self) -> None:
        """Every worker measures itself by the freest one."""
        least = min((worker.connections for worker in self._takers()), default=0)
        if least == self._least:
            return
        self._least = least
        for worker in self._takers():
            worker.channel.send(encode(Fair(least)))

    async def _watch(self) -> None:
        """Kill whoever is alive and does nothing."""
        while not self._leaving.is_set():
            now = time.monotonic()
            for worker in self._workers.values():
                if now - worker.heard_at > (HUNG_S if worker.is_open else START_S):
                    _log.error("worker_hung", worker_pid=worker.pid)
                    _kill(worker)
            await self._left_within(1.0)


_CRASH_LOOP: Final = (
    f"a worker process died {MAX_DEATHS} times within {DEATHS_WITHIN_S:g} s; its last lines above "
    "say why"
)


def _kill(worker: _Worker) -> None:
    with suppress(ProcessLookupError):
        worker.process.send_signal(signal.SIGKILL)


@asynccontextmanager
async def open_workers(settings: Settings) -> AsyncIterator[Crew]:
    """Open a gateway of ``settings.workers`` processes; on leaving, all of it ends at once.

    Raises:
        OSError: an address is taken or not ours, or the folder for temporary files has too long
            a name for sockets.
        AudioFileError: a prompt cannot be used.
        SettingsError: the certificate of the public listener cannot be used.
        WorkersFailed: the workers do not start.
    """
    # What would end every worker is found before the first one starts.
    load_prompts(settings)
    server_tls(settings)
    async with AsyncExitStack() as stack:
        port = stack.enter_context(claim_port(settings.host, settings.port))
        crew = Crew(settings, int(port.getsockname()[1]))
        stack.push_async_callback(crew.stop)
        console = build_console(settings, crew.metrics, stack)
        if console is not None:
            crew.check_sockets()
            crew.overview = Overview(console)
            stack.push_async_callback(crew.overview.close)
            crew.areas = tuple(_areas(settings, crew, crew.overview))
        crew.ops_port = await open_ops(stack, settings, crew.state)
        await crew.start()
        yield crew


def _areas(settings: Settings, crew: Crew, overview: Overview) -> Iterator[Area]:
    """The pages for people, in the order of the navigation."""
    yield overview.area()
    if settings.softphone:
        yield softphone_area(_switchboard(settings, crew, overview))


def _switchboard(settings: Settings, crew: Crew, overview: Overview) -> Switchboard:
    """The softphone's calls go to the workers."""

    async def check() -> None:
        crew.check()

    async def take(request: web.Request, _teller: Teller) -> web.StreamResponse:
        relay = overview.relay_of(crew.freest)
        if relay is None:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)})
        page = web.WebSocketResponse(
            heartbeat=settings.heartbeat_s,
            compress=False,
            max_msg_size=PAGE_MESSAGE_BYTES,
            timeout=REST_TIMEOUT_S,
        )
        return await relay.socket(request, page)

    return Switchboard(settings.agents, settings.dialect, check, take)


def claim_port(host: str, port: int) -> socket.socket:
    """Take a port for workers to share; 0 takes a free one. Nobody is listened to here.

    Raises:
        OSError: somebody else listens there, or the address is not ours.
    """
    try:
        # Sharing is allowed to any other gateway of this user, which knows nothing of ours.
        shared_socket(host, port, is_alone=True).close()
        return shared_socket(host, port)
    except OSError as error:
        why = (error.strerror or "not an address").lower()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from None
