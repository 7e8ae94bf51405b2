"""What watching and listening cost the calls: relay latency without and with, by turns.

Run it from the checkout: ``python -m tests.benchmarks.console_load [CALLS] [TURNS] [FRAMES]``, or
``... console_load sockets [CALLS] [TURNS]``. The gateway is in this process, on a core of its own.
So are callers, with so many frames in a message, and model, without a socket (``crowd``), for the
kernel's share of so many calls would need more than one core; with ``sockets`` they are in other
processes. Watchers always are, on another core and over sockets: a page with all calls, a page of
one call, three listeners, and one more that never reads.

A turn is a phase alone, one watched, one alone again, which shows what difference nothing makes. It
takes ``TURNS`` (5) times a minute, and half of one for the calls (200) to come, and ends by
itself. ``FRAMES`` (5) are of 20 ms. A phase in which other programs were on the gateway's core does
not count.
"""

import asyncio
import base64
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import uvloop

from gateway import logs
from gateway.app import Running, open_gateway
from gateway.bench import process
from gateway.bench.figures import FOREIGN_CPU_LIMIT, spread
from gateway.bench.tally import Books
from gateway.events import Fact, RelayMeasured
from gateway.settings import load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from tests.benchmarks.crowd import Crowd, CrowdLost, crowd
from tests.running import free_port

VIEW, LISTEN = "v" * 32, "l" * 32
PHASE_S, SETTLE_S = 15.0, 4.0
PAGES, LISTENERS = 2, 4
KINDS = ("alone", "watched", "again")
_CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE, OTHER_CORE = _CORES[-1], _CORES[0]


@dataclass(slots=True)
class Seen:
    """What the messages of a phase took, in ms, by what is measured."""

    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    doors: dict[str, list[float]] = field(default_factory=dict)
    cpu_share: float = 0.0
    foreign_share: float = 0.0

    def p99s_ms(self) -> dict[str, float]:
        """The 99th percentile of each."""
        return {name: spread(values).p99_ms for name, values in self._measured()}

    def _measured(self) -> Iterator[tuple[str, list[float]]]:
        yield from (("relay up", self.up), ("relay down", self.down))
        yield from self.doors.items()

    def lines(self) -> Iterator[str]:
        """As it is printed."""
        for name, values in self._measured():
            found = spread(values)
            figures = f"{found.p50_ms:8.3f} {found.p99_ms:8.3f} {found.max_ms:8.3f}"
            yield f"  {name:22} p50, p99, max {figures} ms of {found.count}"
        yield f"  {'core':22} {self.cpu_share:.0%} gateway, {self.foreign_share:.0%} others"


class Latencies:
    """What the gateway says it added to messages, and what its callers and model saw.

    ``books``: theirs, where they are in this process.
    """

    def __init__(self, books: Books | None = None) -> None:
        self.books = books
        self._seen = Seen()

    def observe(self, _call_id: str, fact: Fact) -> None:
        """To be put among ``gateway.observers``."""
        if isinstance(fact, RelayMeasured):
            found = self._seen.up if fact.direction == "up" else self._seen.down
            found.append(fact.latency_s * 1000)

    async def of_a_phase(self) -> Seen:
        """What is seen from now on."""
        seen = self._seen = Seen()
        began = time.monotonic(), time.process_time(), process.core_busy_s(GATEWAY_CORE)
        if self.books is not None:
            tally = self.books.open(began[0])
            seen.doors = {
                "due to model": tally.uplink_ms,
                "due to caller": tally.downlink_ms,
                "due to cleared": tally.barge_in_ms,
                "loop late": tally.lateness_ms,
            }
        await asyncio.sleep(PHASE_S)
        now = time.monotonic(), time.process_time(), process.core_busy_s(GATEWAY_CORE)
        wall_s, own_s, busy_s = (end - start for end, start in zip(now, began, strict=True))
        self._seen = Seen()
        seen.cpu_share, seen.foreign_share = own_s / wall_s, max(0.0, busy_s - own_s) / wall_s
        return seen


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, on the other core; ended afterwards."""
    os.sched_setaffinity(0, {OTHER_CORE})
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    os.sched_setaffinity(0, {GATEWAY_CORE})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def opened(model_port: int) -> AsyncIterator[Running]:
    """The gateway, with everything of the console switched on."""
    settings = load_settings(
        {
            "AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{model_port}",
            "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
            "AZURE_OPENAI_API_KEY": "not-a-secret",
            "GATEWAY_INSECURE": "1",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": "0",
            "GATEWAY_OPS_PORT": "0",
            "GATEWAY_MAX_CALLS": "1000",
            "GATEWAY_CONSOLE_TOKEN": VIEW,
            "GATEWAY_CONSOLE_LISTEN_TOKEN": LISTEN,
            "GATEWAY_LISTEN_IN": "1",
            "GATEWAY_DATABASE_URL": "sqlite://",
        }
    )
    logs.configure("error")
    async with open_gateway(settings) as running:
        yield running


async def measure(calls: int, turns: int, frames: int) -> None:
    """With calls that are in this process."""
    async with opened(free_port()) as running, crowd(running, calls, frames) as people:
        await _phases(running, people, turns)


async def measure_sockets(calls: int, turns: int) -> None:
    """With calls from another process, and a model in a third."""
    model_port = free_port()
    with child("gateway", "simulator", "--port", str(model_port)):
        async with opened(model_port) as running:
            media = f"http://127.0.0.1:{running.port}/twilio/media"
            life_s = str(turns * len(KINDS) * (PHASE_S + SETTLE_S) + 20)
            with child(__spec__.name, "callers", media, str(calls), life_s):
                await _all_there(running, calls)
                await _phases(running, None, turns)


async def _all_there(running: Running, calls: int) -> None:
    async with asyncio.timeout(60):
        while running.calls < calls:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)


async def _phases(running: Running, people: Crowd | None, turns: int) -> None:
    """Print every phase, then what changes."""
    latencies = Latencies(people.books if people else None)
    running.gateway.observers.append(latencies.observe)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in range(turns):
        for kind in KINDS:
            with _watching(running, is_watched=kind == "watched"):
                await _all_watch(running, is_watched=kind == "watched")
                await asyncio.sleep(SETTLE_S)
                seen = await latencies.of_a_phase()
                if people is not None:
                    people.check()
            is_disturbed = seen.foreign_share > FOREIGN_CPU_LIMIT
            _say(f"{kind} {turn + 1}{', disturbed' * is_disturbed}", *seen.lines())
            if not is_disturbed:
                found[kind].append(seen.p99s_ms())
    if not all(found.values()):
        sys.exit("nothing is concluded: other programs were on the gateway's core")
    _say("medians of p99 where undisturbed, ms: alone, watched, alone again", *_changes(found))


@contextmanager
def _watching(running: Running, *, is_watched: bool) -> Iterator[None]:
    if not is_watched:
        yield
        return
    with child(__spec__.name, "watchers", f"http://127.0.0.1:{running.ops_port}"):
        yield


async def _all_watch(running: Running, *, is_watched: bool) -> None:
    """Until all who should watch do, and nobody else."""
    console = running.gateway.console
    assert console is not None
    wanted = (PAGES, LISTENERS) if is_watched else (0, 0)
    async with asyncio.timeout(20):
        while (console.views, console.listeners) != wanted:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)


def _changes(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    for name in found["alone"][0]:
        alone, watched, again = (
            statistics.median(p99s[name] for p99s in found[kind]) for kind in KINDS
        )
        changes = f"watching {watched - alone:+.3f}, nothing {again - alone:+.3f}"
        yield f"  {name:22} {alone:8.3f} {watched:8.3f} {again:8.3f}   {changes}"


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


async def callers(media: str, calls: int, life_s: float) -> None:
    """People who talk, listen, and talk again."""
    said = Utterance.from_wav(shipped_sound("caller.wav"), When("agent_stops", 0.5))
    plan = CallPlan(says=(said,) * 30, hang_up_after_s=life_s)
    await asyncio.gather(*(_later(0.2 * n, media, plan) for n in range(calls)))


async def _later(delay_s: float, media: str, plan: CallPlan) -> None:
    await asyncio.sleep(delay_s)
    await place_call(media, plan)


async def watchers(ops_url: str) -> None:
    """Two pages, three who listen, and one who does not even read."""
    async with aiohttp.ClientSession(ops_url, headers={"Authorization": f"Bearer {LISTEN}"}) as web:
        async with web.get("/console/calls") as reply:
            calls = [row["call_id"] for row in (await reply.json())["calls"]]
        dead = _play_dead(ops_url, calls[0])
        await asyncio.gather(
            _read(web, "/console/live"),
            _read(web, f"/console/calls/{calls[0]}/live"),
            *(_listen(web, call_id) for call_id in calls[:3]),
        )
        dead.close()


async def _read(web: aiohttp.ClientSession, path: str) -> None:
    async with web.get(path, timeout=aiohttp.ClientTimeout()) as reply:
        async for _ in reply.content.iter_any():
            pass


async def _listen(web: aiohttp.ClientSession, call_id: str) -> None:
    async with web.ws_connect(f"/console/calls/{call_id}/listen") as socket:
        async for _ in socket:
            pass


def _play_dead(url: str, call_id: str) -> socket.socket:
    """Somebody who asks for the sound, and has no room for it."""
    parts = urlsplit(url)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((parts.hostname, parts.port))
    head = (
        f"GET /console/calls/{call_id}/listen HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Authorization: Bearer {LISTEN}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
    )
    line.sendall("\r\n".join((*head, "", "")).encode())
    return line


def main() -> None:
    """One of the three parts; by hand it is the first."""
    match sys.argv[1:]:
        case ["callers", media, calls, life_s]:
            asyncio.run(callers(media, int(calls), float(life_s)))
        case ["watchers", ops_url]:
            asyncio.run(watchers(ops_url))
        case ["sockets", *given]:
            _run(measure_sockets, given, (20, 5))
        case given:
            _run(measure, given, (200, 5, 5))


def _run(
    part: Callable[..., Coroutine[None, None, None]],
    given: Sequence[str],
    usual: Sequence[int],
) -> None:
    """On a core of its own and the loop that ``serve`` runs on."""
    os.sched_setaffinity(0, {GATEWAY_CORE})
    wishes = (*map(int, given), *usual[len(given) :])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(part(*wishes))
        except CrowdLost as error:
            sys.exit(f"nothing is concluded: {error}")


if __name__ == "__main__":
    main()
