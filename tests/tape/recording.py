"""Real calls on tape, made over loopback with the simulator as the model."""

import asyncio
from pathlib import Path

from gateway.app import open_gateway
from gateway.audio.wav import read_wav
from gateway.settings import load_settings
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


AGENT = """
[agents.default]
transcription = { model = "gpt-4o-mini-transcribe" }
"""


def record(folder: Path, plan: CallPlan, agent: str = AGENT, **environ: str) -> Path:
    """Place this call at a gateway that tapes it; the tape, once it is whole."""
    folder.mkdir(exist_ok=True)
    config = folder / "gateway.toml"
    config.write_text(agent)
    return asyncio.run(_record(folder, plan, config, environ))


async def _record(folder: Path, plan: CallPlan, config: Path, environ: dict[str, str]) -> Path:
    simulator = await start_simulator(SimulatorOptions())
    try:
        taped = {"GATEWAY_TAPE_DIR": str(folder)}
        settings = load_settings(environ_for(simulator, **(taped | environ)), config)
        async with open_gateway(settings) as running:
            url = f"http://127.0.0.1:{running.port}/{plan.provider}/media"
            await place_call(url, plan)
            assert await happens(lambda: bool(whole_tapes(folder)))
    finally:
        await simulator.close()
    (tape,) = whole_tapes(folder)
    return tape


def whole_tapes(folder: Path) -> list[Path]:
    """The closed tapes of a folder."""
    return sorted(path for path in folder.glob("*.jsonl*") if not path.name.endswith(".part"))
