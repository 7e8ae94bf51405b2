"""Records the calls of this folder anew: python -m tests.tapes.make [NAME...].

Real servers, human speech. Only to be done when the gateway is to behave otherwise; the change that
does so says why.
"""

import asyncio
import gzip
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.app import Running
from gateway.audio.wav import read_wav
from gateway.logs import configure
from gateway.shipped import shipped_sound
from gateway.simulator.agents import Call, Script, Turn
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.faults import Faults
from gateway.simulator.server import SimulatorOptions
from tests.running import PREVIEW_VERSION, happens
from tests.tape.recording import record

FOLDER = Path(__file__).parent
HZ = 24_000
SHORT = read_wav(FOLDER.parent / "sounds" / "caller-short.wav", HZ)
LONG = read_wav(shipped_sound("caller.wav"), HZ)
PREVIEW = {"OPENAI_API_VERSION": PREVIEW_VERSION}

AGENT = """
[agents.default]
instructions = "You are the parrot of the tests."
audio_format = "{audio}"
transcription = {{ model = "gpt-4o-mini-transcribe" }}
{more}
"""


def says(pcm: bytes, after_s: float = 0.2) -> Utterance:
    """The caller says this when the agent has finished."""
    return Utterance(pcm, HZ, When("agent_stops", after_s))


def interrupts(pcm: bytes, after_s: float) -> Utterance:
    """The caller says this so long after the agent began."""
    return Utterance(pcm, HZ, When("agent_starts", after_s))


async def _nothing(_: Running) -> None:
    """Nobody does anything beside the call."""


async def _drain(running: Running) -> None:
    """The operator stops the gateway in the middle of the call."""
    await happens(lambda: bool(running.gateway.bridges))
    await asyncio.sleep(2.5)
    await running.drain(0.0)


@dataclass(frozen=True)
class Scene:
    """One call to record. ``more``: lines of the agent's table."""

    plan: CallPlan
    audio: str = "g711_ulaw"
    more: str = ""
    faults: Faults = field(default_factory=Faults)
    script: Script | None = None
    environ: dict[str, str] = field(default_factory=dict)
    meanwhile: Callable[[Running], Awaitable[None]] = _nothing


def turn(after: str, say: str = "", text: str = "", **more: object) -> Turn:
    """What the scripted agent does."""
    return Turn(after=after, say=say, text=text, **more)  # type: ignore[arg-type]  # checked at run time


GOODBYE = Script(
    (
        turn("create", "hello.wav", "Hello."),
        turn(
            "speech",
            "goodbye.wav",
            "Goodbye.",
            hears="That is all, thank you.",
            calls=(Call("hang_up", {}),),
        ),
        turn("any", "goodbye.wav", "Goodbye."),
    )
)
TOOLS = Script(
    (
        turn("create", "hello.wav", "Hello."),
        turn("speech", hears="What time is it?", calls=(Call("get_time", {"zone": "UTC"}),)),
        turn("any", "answer.wav", "I cannot tell the time."),
    )
)
TALKATIVE = Script(
    (
        turn("create", "hello.wav", "Hello."),
        turn("any", "answer.wav", "Please leave your message after the tone."),
        turn("any", "goodbye.wav", "Goodbye."),
    )
)
PCM = "pcm16"

SCENES = {
    "barge-in-mid-word": Scene(
        CallPlan(says=(says(SHORT), interrupts(SHORT, 0.7)), quiet_s=0.5, hang_up_after_s=16)
    ),
    "barge-in-after-the-model-had-finished": Scene(
        CallPlan(says=(says(SHORT), interrupts(SHORT, 2.2)), quiet_s=0.5, hang_up_after_s=14),
        script=TALKATIVE,
    ),
    "barge-in-asterisk-slin24": Scene(
        CallPlan(
            provider="asterisk",
            codec="slin24",
            says=(says(SHORT), interrupts(SHORT, 0.6)),
            quiet_s=0.4,
            hang_up_after_s=15,
        ),
        audio=PCM,
    ),
    "dtmf-entry": Scene(
        CallPlan(
            says=(says(SHORT),),
            dtmf=((4.0, "4"), (4.4, "7"), (4.8, "1"), (5.2, "#")),
            hang_up_after_s=10,
        ),
        environ=PREVIEW,
    ),
    "dtmf-entry-asterisk": Scene(
        CallPlan(provider="asterisk", dtmf=((3.5, "1"), (3.9, "2")), hang_up_after_s=8)
    ),
    "agent-hangs-up": Scene(
        CallPlan(says=(says(SHORT),), hang_up="agent", hang_up_after_s=15), script=GOODBYE
    ),
    "hang-up-during-the-goodbye": Scene(
        CallPlan(provider="asterisk", says=(says(SHORT),), hang_up_after_s=7.0), script=GOODBYE
    ),
    "realtime-socket-lost": Scene(
        CallPlan(says=(says(SHORT), says(SHORT, 0.5)), quiet_s=0.5, hang_up_after_s=16),
        faults=Faults(connections=1, close_code=1006, close_when="delta", close_count=6),
    ),
    "session-expires": Scene(
        CallPlan(says=(says(SHORT), says(SHORT, 0.5)), quiet_s=0.5, hang_up_after_s=16),
        faults=Faults(connections=1, expires_after_s=5.0),
        environ=PREVIEW,
    ),
    "model-refuses-the-call": Scene(
        CallPlan(hang_up="agent", hang_up_after_s=12), faults=Faults(http_status=401)
    ),
    "model-is-slow-to-answer": Scene(
        CallPlan(says=(says(SHORT),), quiet_s=0.5, hang_up_after_s=20),
        faults=Faults(silent=True, response=2),
    ),
    "response-fails": Scene(
        CallPlan(says=(says(SHORT), says(SHORT, 0.5)), quiet_s=0.5, hang_up_after_s=16),
        faults=Faults(fail_response="server_error", response=2),
    ),
    "slow-provider": Scene(
        CallPlan(
            jitter_ms=900,
            says=(says(SHORT), interrupts(SHORT, 0.5)),
            quiet_s=0.5,
            hang_up_after_s=14,
        )
    ),
    "provider-lost": Scene(
        CallPlan(says=(says(LONG),), hang_up="abort", hang_up_after_s=4.0), audio=PCM
    ),
    "tool-nobody-has": Scene(
        CallPlan(says=(says(SHORT),), quiet_s=0.8, hang_up_after_s=14), script=TOOLS
    ),
    "drain-in-mid-sentence": Scene(
        CallPlan(says=(says(SHORT),), hang_up="agent", hang_up_after_s=15), meanwhile=_drain
    ),
    "caller-is-silent": Scene(CallPlan(hang_up="agent", hang_up_after_s=20), more="idle_s = 5.0"),
    "plain-text-asterisk-alaw": Scene(
        CallPlan(
            provider="asterisk",
            codec="alaw",
            is_json=False,
            says=(says(SHORT),),
            quiet_s=0.5,
            hang_up_after_s=10,
        ),
        audio="g711_alaw",
        environ=PREVIEW,
    ),
}


def make(name: str) -> Path:
    """Record one call; the tape in this folder."""
    scene = SCENES[name]
    with tempfile.TemporaryDirectory() as folder:
        tape = record(
            Path(folder),
            scene.plan,
            AGENT.format(audio=scene.audio, more=scene.more),
            model=SimulatorOptions(script=scene.script, faults=scene.faults),
            meanwhile=scene.meanwhile,
            **scene.environ,
        )
        target = FOLDER / f"{name}.jsonl.gz"
        target.write_bytes(gzip.compress(tape.read_bytes(), mtime=0))
    return target


def main(names: list[str]) -> None:
    """Record those that are named, or all."""
    configure("error", "console")
    for name in names or SCENES:
        path = make(name)
        sys.stdout.write(f"{path.stat().st_size:8d}  {path.name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
