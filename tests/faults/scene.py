"""A real gateway between a simulated model and whoever calls it, watched from all sides."""

import asyncio
import io
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from aiohttp import web
from prometheus_client.exposition import generate_latest

from gateway.app import Running, open_gateway
from gateway.audio.wav import write_wav
from gateway.bridge import Bridge
from gateway.events import CallBegan, CallEnded, CallReady, Fact
from gateway.settings import Settings, load_settings
from gateway.simulator.agents import Script, Turn
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.faults import NO_FAULTS, parse_faults
from gateway.simulator.plan import Pace
from gateway.simulator.realtime import RealtimeSession
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from gateway.simulator.twilio_line import TwilioCall
from gateway.simulator.twilio_webhook import sign
from gateway.usher import Gateway
from tests.faults.gate import Gate
from tests.faults.stream import RawSocket, Stream, hold, raw, until

_Kind = TypeVar("_Kind")

TWILIO_TOKEN = "canary-twilio-auth-token"
MODEL_KEY = "canary-key-of-the-model"
CANARIES = (TWILIO_TOKEN, MODEL_KEY)
PUBLIC_URL = "https://voice.example.com"
MEDIA = "/twilio/media"
# Everything at once: the call, not the model, sets the pace.
AT_ONCE = Pace(speed=1e6, first_delta_s=0.05, jitter_s=0.0)
BYSTANDER_WORDS = "bystander " * 5
NUMBERS = itertools.count(1)


def words(duration_s: float) -> str:
    """A text that the simulated agent speaks for so long (60 ms a character)."""
    return "x" * round(duration_s / 0.06)


def says(*turns: Turn) -> Script:
    """A script that is started over when it ends; without turns a short hello and an answer."""
    usual = (Turn(after="create", text=words(0.6)), Turn(after="speech", text=words(0.9)))
    return Script(turn=turns or usual, loop=True)


def tone(duration_s: float) -> bytes:
    """Loud sound for the caller: 16-bit PCM at 24 kHz."""
    samples = np.arange(round(duration_s * 24_000))
    return bytes((np.sin(samples / 12) * 9000).astype("<i2").tobytes())


def utterance(kind: Any, after_s: float, duration_s: float = 0.4) -> Utterance:
    """The caller speaks up."""
    return Utterance(tone(duration_s), when=When(kind, after_s))


@dataclass(frozen=True)
class Outcome:
    """What one call was like, as the caller saw it and as the gateway told it."""

    report: CallReport
    facts: tuple[Fact, ...]

    def told(self, kind: type[_Kind]) -> list[_Kind]:
        """All facts of one kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    @property
    def ended(self) -> CallEnded:
        """The one record of the call."""
        (ended,) = self.told(CallEnded)
        return ended

    @property
    def reason(self) -> str:
        """How the call ended."""
        return self.ended.termination.reason


class Scene:
    """The whole stage of one test."""

    def __init__(
        self, running: Running, simulator: Simulator, gate: Gate, log: io.StringIO
    ) -> None:
        self.running = running
        self.simulator = simulator
        self.gate = gate
        self.log = log
        self.facts: dict[str, list[Fact]] = {}
        self.outcomes: list[Outcome] = []
        self.hung_up: list[str] = []
        self.numbers: list[str] = []
        self.streams = 0
        self.bystander: Stream | None = None
        self.bystander_id = ""
        self._bystander_bridges: set[Bridge] = set()
        self.running.gateway.observers.append(self._observe)

    def _observe(self, call_id: str, fact: Fact) -> None:
        self.facts.setdefault(call_id, []).append(fact)

    @property
    def gateway(self) -> Gateway:
        """The gateway's own state."""
        return self.running.gateway

    # ------------------------------------------------------------------ what breaks

    def break_model(self, *switches: str) -> None:
        """Sessions that are opened from now on have these faults; ``first=N`` for N of them."""
        firsts = [int(s.partition("=")[2]) for s in switches if s.startswith("first=")]
        faults = parse_faults([s for s in switches if not s.startswith("first=")])
        if firsts:
            faults = replace(faults, connections=self.simulator.connections + firsts[0])
        self.simulator.options = replace(self.simulator.options, faults=faults)

    def mend_model(self) -> None:
        """Sessions that are opened from now on work."""
        self.simulator.options = replace(self.simulator.options, faults=NO_FAULTS)

    # ------------------------------------------------------------------ calls

    def new_number(self) -> str:
        """A number that nobody else calls from."""
        self.numbers.append(f"+1555{next(NUMBERS) + 2_000_000}")
        return self.numbers[-1]

    async def call(self, *said: Utterance, **plan: Any) -> Outcome:
        """A polite caller, through the signed webhook."""
        number = plan.pop("from_number", "") or self.new_number()
        usual: dict[str, Any] = {"says": said, "from_number": number, "hang_up_after_s": 1.0}
        base = f"http://127.0.0.1:{self.running.port}/twilio"
        report = await place_call(
            f"{base}/media",
            CallPlan(**(usual | plan)),
            webhook_url=f"{base}/voice",
            auth=CallAuth(twilio_token=TWILIO_TOKEN, public_url=PUBLIC_URL),
        )
        await until(lambda: self.is_over(number))
        outcome = Outcome(report, tuple(self.of_number(number)))
        self.outcomes.append(outcome)
        return outcome

    def of_number(self, number: str) -> list[Fact]:
        """Everything told of the call from this number."""
        for facts in self.facts.values():
            if any(isinstance(fact, CallBegan) and fact.from_number == number for fact in facts):
                return facts
        return []

    def is_over(self, number: str) -> bool:
        """Whether the call from this number has its record."""
        return any(isinstance(fact, CallEnded) for fact in self.of_number(number))

    def ticket(self, number: str = "", call_sid: str = "") -> TwilioCall:
        """A call that the webhook has let in: ids, and a token for its start message."""
        call_sid = call_sid or "CA" + secrets.token_hex(16)
        token = self.gateway.tokens.mint(call_sid, time.time())
        parameters = {"token": token, "from": number or self.new_number(), "to": "+15550100002"}
        return TwilioCall(call_sid, "MZ" + secrets.token_hex(16), "AC" + "0" * 32, parameters)

    def stream(self, call: TwilioCall | None = None) -> AbstractAsyncContextManager[Stream]:
        """A media socket held by hand."""
        self.streams += 1
        url = f"ws://127.0.0.1:{self.running.port}{MEDIA}"
        return hold(url, _signature(), call or self.ticket())

    def raw(
        self, *, receive_bytes: int = 0, **headers: str
    ) -> AbstractAsyncContextManager[RawSocket]:
        """A media socket made of bare frames."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return raw(self.running.port, MEDIA, _signature() | named, receive_bytes=receive_bytes)

    def bridge_of(self, number: str) -> Bridge:
        """The gateway's end of the only call but the bystander's."""
        assert self.of_number(number)
        (bridge,) = self.gateway.bridges - self._bystander_bridges
        return bridge

    # ------------------------------------------------------------------ what was told

    def told(self, kind: type[_Kind]) -> list[_Kind]:
        """All facts of one kind, of every call but the bystander's."""
        calls = [facts for name, facts in self.facts.items() if name != self.bystander_id]
        return [fact for facts in calls for fact in facts if isinstance(fact, kind)]

    def reasons(self) -> list[str]:
        """How the calls ended, the bystander's aside."""
        return [fact.termination.reason for fact in self.told(CallEnded)]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        samples = [
            sample
            for family in self.gateway.registry.collect()
            for sample in family.samples
            if sample.name == f"gateway_{name}"
        ]
        assert samples, f"no metric gateway_{name}"
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def exported(self) -> str:
        """The metrics as a scrape shows them."""
        return generate_latest(self.gateway.registry).decode()

    def log_lines(self, *words: str) -> list[str]:
        """The log's lines that hold all these words."""
        return [line for line in self.log.getvalue().splitlines() if all(w in line for w in words)]

    def sessions(self) -> list[RealtimeSession]:
        """The simulated model's sessions, the bystander's aside."""
        return list(self.simulator.sessions)[1 if self.bystander else 0 :]

    # ------------------------------------------------------------------ the bystander

    @asynccontextmanager
    async def with_bystander(self) -> AsyncIterator[None]:
        """Somebody who was on the phone before, and wants to know nothing of all this."""
        number = self.new_number()
        async with self.stream(self.ticket(number)) as stream:
            await stream.start()
            talking = asyncio.create_task(stream.talk(60.0))
            await until(lambda: any(isinstance(f, CallReady) for f in self.of_number(number)))
            self.bystander = stream
            self.streams -= 1
            self._bystander_bridges = set(self.gateway.bridges)
            (self.bystander_id,) = self.facts
            try:
                yield
            finally:
                talking.cancel()
                await asyncio.wait([talking])
                await stream.stop()
                await until(lambda: self.is_over(number))


def _signature() -> dict[str, str]:
    return {"X-Twilio-Signature": sign(TWILIO_TOKEN, f"wss://voice.example.com{MEDIA}")}


# ----------------------------------------------------------------- opening


@asynccontextmanager
async def stage(
    folder: Path,
    log: io.StringIO,
    *,
    script: Script | None = None,
    pace: Pace = AT_ONCE,
    agent: Mapping[str, Any] | None = None,
    key: str = MODEL_KEY,
    models: tuple[str, ...] = (),
    model_host: str = "127.0.0.1",
    **environ: str,
) -> AsyncIterator[Scene]:
    """Open a model, a gate before it, and a gateway; ``environ`` is for settings."""
    async with AsyncExitStack() as stack:
        simulator = await start_simulator(
            SimulatorOptions(script=script or says(), pace=pace, key=key, models=models)
        )
        stack.push_async_callback(simulator.close)
        gate = Gate(simulator.port)
        await gate.open()
        stack.push_async_callback(gate.close)
        hung_up: list[str] = []
        rest_port = await _open_rest(stack, hung_up)
        settings = _settings(
            folder, f"http://{model_host}:{gate.port}", rest_port, key, agent or {}, environ
        )
        running = await stack.enter_async_context(open_gateway(settings))
        scene = Scene(running, simulator, gate, log)
        scene.hung_up = hung_up
        yield scene


def _settings(
    folder: Path,
    model_url: str,
    rest_port: int,
    key: str,
    agent: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Settings:
    usual = {
        "AZURE_OPENAI_ENDPOINT": model_url,
        "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
        "AZURE_OPENAI_API_KEY": key,
        "TWILIO_AUTH_TOKEN": TWILIO_TOKEN,
        "GATEWAY_TWILIO_API_URL": f"http://127.0.0.1:{rest_port}",
        "GATEWAY_PUBLIC_URL": PUBLIC_URL,
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "0",
        "GATEWAY_OPS_PORT": "0",
        "GATEWAY_CONNECT_BUDGET_S": "1",
        "GATEWAY_SEND_TIMEOUT_S": "1",
        "GATEWAY_HEARTBEAT_S": "1",
        "GATEWAY_LOG_LEVEL": "debug",
    }
    table = {"turn_detection": {"silence_duration_ms": 200}, **agent}
    overrides = {"agents": {"default": table}}
    return load_settings(usual | _prompts(folder) | dict(environ), None, overrides)


def _prompts(folder: Path) -> dict[str, str]:
    """Short recordings: what they say matters to callers, how long they take to tests."""
    lengths_s = {"APOLOGY": 0.4, "FILLER": 0.2, "GOODBYE": 0.5}
    for name, length_s in lengths_s.items():
        write_wav(folder / f"{name}.wav", tone(length_s), 24_000)
    return {f"GATEWAY_{name}_FILE": str(folder / f"{name}.wav") for name in lengths_s}


async def _open_rest(stack: AsyncExitStack, hung_up: list[str]) -> int:
    """Twilio's REST interface, as far as a hang-up goes."""

    async def complete(request: web.Request) -> web.Response:
        hung_up.append(request.path)
        response = web.json_response({})
        response.force_close()
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])
