"""Real calls on tape, made over loopback with the simulator as the model."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.app import Running, open_gateway
from gateway.audio.wav import read_wav
from gateway.settings import Settings, load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
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
    folder.mkdir(exist_ok=True)
    config = folder / "gateway.toml"
    config.write_text(agent)

    async def place() -> None:
        simulator = await start_simulator(model)
        try:
            usual = environ_for(simulator, GATEWAY_TAPE_DIR=str(folder), GATEWAY_TAPE_SHARE="1")
            await _placed(plan, load_settings(usual | environ, config), meanwhile)
        finally:
            await simulator.close()

    asyncio.run(place())
    (tape,) = whole_tapes(folder)
    return _unpacked(tape)


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
) -> None:
    async with open_gateway(settings) as running:
        url = f"http://127.0.0.1:{running.port}/{plan.provider}/media"
        await asyncio.gather(place_call(url, plan), meanwhile(running))
        assert await happens(lambda: not running.gateway.bridges)


def whole_tapes(folder: Path) -> list[Path]:
    """The closed tapes of a folder."""
    return sorted(path for path in folder.glob("*.jsonl*") if not path.name.endswith(".part"))
