"""Real calls on tape, made over loopback with the simulator as the model."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway.app import Running, open_gateway
from gateway.audio.wav import read_wav
from gateway.settings import Settings, load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.server import SimulatorOptions, start_simulator
from tests.running import environ_for, happens

HZ = 24_000
SPEECH = read_wav(shipped_sound("caller.wav"), HZ)
# Says something, then speaks again while the agent answers.
INTERRUPTION = (
    Utterance(SPEECH[: HZ * 2], HZ, When("agent_stops", 0.1)),
    Utterance(SPEECH[: HZ * 2], HZ, When("agent_starts", 0.6)),
)
PARROT = SimulatorOptions()
AGENT = """
[agents.default]
transcription = { model = "gpt-4o-mini-transcribe" }
"""


async def _nothing(_: Running) -> None:
    """Nobody does anything beside the call."""


def record(
    folder: Path,
    plan: CallPlan,
    agent: str = AGENT,
    *,
    model: SimulatorOptions = PARROT,
    meanwhile: Callable[[Running], Awaitable[None]] = _nothing,
    **environ: str,
) -> Path:
    """Place this call at a gateway that tapes it; the tape, once it is whole."""
    how: dict[str, Any] = {"model": model, "meanwhile": meanwhile, **environ}
    return record_and_report(folder, plan, agent, **how)[0]


def record_and_report(
    folder: Path,
    plan: CallPlan,
    agent: str = AGENT,
    *,
    model: SimulatorOptions = PARROT,
    meanwhile: Callable[[Running], Awaitable[None]] = _nothing,
    **environ: str,
) -> tuple[Path, CallReport]:
    """The same, and what the phone says of the call."""
    folder.mkdir(exist_ok=True)
    config = folder / "gateway.toml"
    config.write_text(agent)

    async def place() -> CallReport:
        simulator = await start_simulator(model)
        try:
            usual = environ_for(simulator, GATEWAY_TAPE_DIR=str(folder), GATEWAY_TAPE_SHARE="1")
            return await _placed(plan, load_settings(usual | environ, config), meanwhile)
        finally:
            await simulator.close()

    report = asyncio.run(place())
    (tape,) = whole_tapes(folder)
    return _unpacked(tape), report


def _unpacked(tape: Path) -> Path:
    """The same as lines that a test can read and change."""
    if tape.suffix != ".gz":
        return tape
    plain = tape.with_suffix("")
    plain.write_bytes(gzip.decompress(tape.read_bytes()))
    tape.unlink()
    return plain


async def _placed(
    plan: CallPlan, settings: Settings, meanwhile: Callable[[Running], Awaitable[None]]
) -> CallReport:
    async with open_gateway(settings) as running:
        url = f"http://127.0.0.1:{running.port}/{plan.provider}/media"
        report, _ = await asyncio.gather(place_call(url, plan), meanwhile(running))
        assert await happens(lambda: not running.gateway.bridges)
    return report


def whole_tapes(folder: Path) -> list[Path]:
    """The closed tapes of a folder."""
    return sorted(path for path in folder.glob("*.jsonl*") if not path.name.endswith(".part"))
