"""What watching and listening cost the calls: relay latency without and with, by turns.

Run it from the checkout: ``python -m tests.benchmarks.console_load [CALLS] [TURNS]``. The gateway
is in this process; model, callers and watchers are in others. Watching is a page with all calls, a
page of one call, three listeners, and one more that never reads. It takes ``TURNS`` times 40 s and
ends by itself.
"""

import asyncio
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp

from gateway import logs
from gateway.app import Running, open_gateway
from gateway.events import Fact, RelayMeasured
from gateway.settings import load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from tests.running import free_port

VIEW, LISTEN = "v" * 32, "l" * 32
PHASE_S, SETTLE_S = 15.0, 4.0


class Latencies:
    """What the gateway says it added to messages, in s."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def observe(self, _call_id: str, fact: Fact) -> None:
        """To be put among ``gateway.observers``."""
        if isinstance(fact, RelayMeasured):
            self.found.append(fact.latency_s)

    async def of_a_phase(self) -> tuple[float, float, int]:
        """Median and 99th percentile in ms, and of how many."""
        await asyncio.sleep(SETTLE_S)
        self.found.clear()
        await asyncio.sleep(PHASE_S)
        parts = statistics.quantiles(self.found, n=100)
        return 1000 * parts[49], 1000 * parts[98], len(self.found)


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process; ended afterwards."""
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def opened(model_port: int) -> AsyncIterator[tuple[Running, Latencies]]:
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
    latencies = Latencies()
    async with open_gateway(settings) as running:
        running.gateway.observers.append(latencies.observe)
        yield running, latencies


async def measure(calls: int, turns: int) -> None:
    """Print a line for each phase, then the difference."""
    model_port = free_port()
    with child("gateway", "simulator", "--port", str(model_port)):
        async with opened(model_port) as (running, latencies):
            media = f"http://127.0.0.1:{running.port}/twilio/media"
            life_s = str(turns * 2 * (PHASE_S + SETTLE_S) + 20)
            with child(__spec__.name, "callers", media, str(calls), life_s):
                await _all_there(running, calls)
                await _phases(running, latencies, turns)


async def _all_there(running: Running, calls: int) -> None:
    async with asyncio.timeout(60):
        while running.calls < calls:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLE_S)


async def _phases(running: Running, latencies: Latencies, turns: int) -> None:
    found: dict[str, list[float]] = {"alone": [], "watched": []}
    for _ in range(turns):
        found["alone"].append(_told("alone", await latencies.of_a_phase()))
        with child(__spec__.name, "watchers", f"http://127.0.0.1:{running.ops_port}"):
            found["watched"].append(_told("watched", await latencies.of_a_phase()))
    alone, watched = (statistics.median(each) for each in found.values())
    sys.stdout.write(f"p99 changes by {watched - alone:+.3f} ms (median of {turns} turns)\n")


def _told(phase: str, figures: tuple[float, float, int]) -> float:
    median, p99, count = figures
    sys.stdout.write(f"{phase:8} median {median:.3f} ms  p99 {p99:.3f} ms  of {count} messages\n")
    sys.stdout.flush()
    return p99


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
        await asyncio.gather(
            _read(web, "/console/live"),
            _read(web, f"/console/calls/{calls[0]}/live"),
            *(_listen(web, call_id) for call_id in calls[:3]),
            _play_dead(web, calls[0]),
        )


async def _read(web: aiohttp.ClientSession, path: str) -> None:
    async with web.get(path, timeout=aiohttp.ClientTimeout()) as reply:
        async for _ in reply.content.iter_any():
            pass


async def _listen(web: aiohttp.ClientSession, call_id: str) -> None:
    async with web.ws_connect(f"/console/calls/{call_id}/listen") as socket:
        async for _ in socket:
            pass


async def _play_dead(web: aiohttp.ClientSession, call_id: str) -> None:
    async with web.ws_connect(f"/console/calls/{call_id}/listen"):
        await asyncio.Event().wait()


def main() -> None:
    """One of the three parts; by hand it is the first."""
    match sys.argv[1:]:
        case ["callers", media, calls, life_s]:
            asyncio.run(callers(media, int(calls), float(life_s)))
        case ["watchers", ops_url]:
            asyncio.run(watchers(ops_url))
        case given:
            asyncio.run(measure(*(*map(int, given), *(20, 3)[len(given) :])))


if __name__ == "__main__":
    main()
