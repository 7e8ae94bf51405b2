"""A gateway, a simulated model and what both were seen to do, for tests over real sockets."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp import web

from gateway.app import Running, open_gateway
from gateway.events import Fact
from gateway.settings import Agent, Settings, load_settings
from gateway.simulator.server import Simulator
from gateway.simulator.twilio_line import TwilioCall, TwilioLine

_Kind = TypeVar("_Kind")

ROOT = Path(__file__).parents[1]
TWILIO_TOKEN = "twilio-token-of-the-tests"
PREVIEW_VERSION = "2025-04-01-preview"
PBX_PASSWORD = "a-long-password"


def environ_for(simulator: Simulator, **changes: str) -> dict[str, str]:
    """The environment of a gateway on this machine, free ports, the simulator its model."""
    return environ_at(simulator.url, **changes)


def environ_at(model_url: str, **changes: str) -> dict[str, str]:
    """The same with a model elsewhere, or with none."""
    usual = {
        "AZURE_OPENAI_ENDPOINT": model_url,
        "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
        "AZURE_OPENAI_API_KEY": "not-a-secret",
        "GATEWAY_INSECURE": "1",
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "0",
        "GATEWAY_OPS_PORT": "0",
        # Nothing in the home of whoever runs the tests.
        "GATEWAY_DATABASE_URL": "sqlite://",
    }
    return usual | changes


def settings_for(simulator: Simulator, **changes: str) -> Settings:
    """The same as settings."""
    return load_settings(environ_for(simulator, **changes))


def with_agent(settings: Settings, **agent: Any) -> Settings:
    """The same settings with another one who answers."""
    return settings.model_copy(update={"agents": {"default": Agent(**agent)}})


def secrets_for(public_url: str) -> dict[str, str]:
    """Variables with which nobody gets in without a proof of origin."""
    return {
        "GATEWAY_INSECURE": "",
        "GATEWAY_PUBLIC_URL": public_url,
        "TWILIO_AUTH_TOKEN": TWILIO_TOKEN,
        "GATEWAY_ASTERISK_USERNAME": "pbx",
        "GATEWAY_ASTERISK_PASSWORD": PBX_PASSWORD,
    }


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listening(Protocol):
    """A gateway of one process or of several."""

    @property
    def port(self) -> int:
        """Of the public listener."""

    @property
    def ops_port(self) -> int:
        """Of the operations listener."""


class Facts:
    """What a gateway reported, with the id of the call."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Fact]] = []
        self._news = asyncio.Event()

    def observe(self, call_id: str, fact: Fact) -> None:
        """One fact; to be put among ``gateway.observers``."""
        self.told.append((call_id, fact))
        self._news.set()

    def of(self, kind: type[_Kind], call_id: str = "") -> list[_Kind]:
        """All facts of one kind, of one call if that is given."""
        return [
            fact
            for told_of, fact in self.told
            if isinstance(fact, kind) and call_id in ("", told_of)
        ]

    async def wait_for(
        self, kind: type[_Kind], count: int = 1, within_s: float = 10.0
    ) -> list[_Kind]:
        """The facts of a kind, once there are so many.

        Raises:
            TimeoutError: they did not come.
        """
        async with asyncio.timeout(within_s):
            while len(found := self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return found


@asynccontextmanager
async def watched_gateway(settings: Settings) -> AsyncIterator[tuple[Running, Facts]]:
    """An open gateway and everything it reports."""
    facts = Facts()
    async with open_gateway(settings) as running:
        running.gateway.observers.append(facts.observe)
        yield running, facts


def url_of(running: Listening) -> str:
    """The public listener's address."""
    return f"http://127.0.0.1:{running.port}"


def ops_url_of(running: Listening) -> str:
    """The operations listener's address."""
    return f"http://127.0.0.1:{running.ops_port}"


async def happens(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Whether something that tells nobody becomes true in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while not condition():
        if loop.time() > until:
            return False
        await asyncio.sleep(0.01)
    return True


async def metric(running: Listening, line: str) -> float:
    """One number of the metrics page; 0 when the line is not there."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{ops_url_of(running)}/metrics") as reply,
    ):
        text = await reply.text()
    found = [row for row in text.splitlines() if row.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@dataclass
class Stream:
    """A Twilio media socket in the hands of a test."""

    socket: aiohttp.ClientWebSocketResponse
    line: TwilioLine
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    async def start(self) -> None:
        """Say which call it is."""
        await self._send(*self.line.start(0.0))

    async def stop(self) -> None:
        """The caller hangs up."""
        await self._send(*self.line.stop(0.0))

    async def speak(self, payload: bytes) -> None:
        """One frame."""
        await self._send(*self.line.send_audio(payload, 0.0))

    async def _send(self, *messages: str | bytes) -> None:
        for message in messages:
            await self.socket.send_str(str(message))

    async def closed(self, within_s: float = 5.0) -> int:
        """Read until the gateway closes; its close code, 1006 without one."""
        async with asyncio.timeout(within_s):
            async for _ in self.socket:
                pass
        return self.socket.close_code or 1006


@asynccontextmanager
async def twilio_stream(
    url: str,
    call_sid: str = "CA" + "1" * 32,
    parameters: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Stream]:
    """A media socket, open, with nothing said on it yet."""
    call = TwilioCall(call_sid, "MZ" + call_sid[2:], "AC" + "0" * 32, parameters=parameters or {})
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/twilio/media", headers=headers) as socket,
    ):
        yield Stream(socket, TwilioLine(call, 40.0))


async def upgrade_status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a media upgrade; 101 when it went through."""
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


def sample(running: Running, name: str, **labels: str) -> float:
    """One number of the gateway's own registry."""
    value = running.gateway.registry.get_sample_value(f"gateway_{name}", labels)
    assert value is not None
    return value


@asynccontextmanager
async def served(app: web.Application, where: str | None = None) -> AsyncIterator[str]:
    """An application, listening on a Unix socket or on a free port; its URL then."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.UnixSite(runner, where) if where else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "" if where else f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class FakeRest:
    """Stands in for Twilio's REST interface: remembers what it was asked."""

    url: str = ""
    status: int = 200
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Note path, credentials and form; answer with ``status``."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append((request.path, request.headers.get("Authorization", ""), form))
        return web.json_response({"code": 20404}, status=self.status)


@asynccontextmanager
async def fake_rest(status: int = 200) -> AsyncIterator[FakeRest]:
    """The same, listening."""
    rest = FakeRest(status=status)
    app = web.Application()
    app.router.add_post("/{path:.*}", rest.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rest.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield rest
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Command:
    """A ``gateway`` command that runs in a process of its own."""

    process: asyncio.subprocess.Process

    async def finish(self, within_s: float = 60.0) -> Finished:
        """Wait for its end."""
        async with asyncio.timeout(within_s):
            out, err = await self.process.communicate()
        return Finished(self.process.returncode or 0, out.decode(), err.decode())

    async def says(self, pattern: str, within_s: float = 30.0) -> tuple[str, ...]:
        """The groups of the first line on standard error that matches.

        Raises:
            EOFError: it ended without such a line.
        """
        assert self.process.stderr is not None
        async with asyncio.timeout(within_s):
            while line := (await self.process.stderr.readline()).decode():
                if found := re.search(pattern, line):
                    return found.groups()
        raise EOFError(pattern)


@asynccontextmanager
async def command(*arguments: str, **environ: str) -> AsyncIterator[Command]:
    """``gateway`` with these arguments and nothing of ours in its environment but these."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        env={**kept, "PYTHONPATH": str(ROOT), **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, the oldest first."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


async def run_command(*arguments: str, **environ: str) -> Finished:
    """The same, to its end."""
    async with command(*arguments, **environ) as started:
        return await started.finish()
