"""The caller of a tape talks to somebody else, and what changed is told."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.errors import SettingsError, TapeError
from gateway.events import Usage
from gateway.prices import read_prices
from gateway.settings import Agent
from gateway.simulator.server import Simulator
from gateway.tape.judge import tapes_at
from gateway.tape.reading import Tape
from gateway.terminal import Terminal
from gateway.whatif import Figures, Trial, changed, compared, figures_of, plan_of, tried, what_if
from tests.running import settings_for
from tests.tape.conftest import call_on_tape  # noqa: F401  # a fixture

FRAME_MS = 20
FIGURES = Figures("success, caller_hangup", 2, (900.0, 700.0), 1, 3.0, 1.5, "", "hi", Usage(), 0.0)


def test_fields_of_an_agent_are_set_by_name(tmp_path: Path) -> None:
    """Numbers are numbers, texts need no quotes, a long one comes from a file."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be brief.")
    agent = changed(
        Agent(voice="marin"),
        ["voice=cedar", "turn_detection.threshold=0.7", f"instructions=@{prompt}", "idle_s=30"],
    )

    assert (agent.voice, agent.instructions, agent.idle_s) == ("cedar", "Be brief.", 30.0)
    assert agent.turn_detection.threshold == 0.7


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("voice", "--set voice: accepted: NAME=VALUE"),
        ("colour=red", "--set colour: Extra inputs are not permitted"),
        ("turn_detection.threshold=loud", "--set turn_detection.threshold: Input should be"),
        ("voice.pitch=3", "--set voice.pitch=3: accepted"),
        ("instructions=@/nowhere", "No such file"),
    ],
)
def test_a_change_that_cannot_be_made_is_told(change: str, complaint: str) -> None:
    """One line, naming the field."""
    with pytest.raises(SettingsError, match=complaint):
        changed(Agent(), [change])


async def test_the_trial_is_private(simulator: Simulator, tmp_path: Path) -> None:
    """No port of the operator's, no proof of origin asked, and the agent must exist."""
    settings = tried(settings_for(simulator, GATEWAY_PORT="8080"), Trial(), tmp_path)

    assert (settings.host, settings.port, settings.ops_port) == ("127.0.0.1", 0, 0)
    assert settings.tape_dir == str(tmp_path)
    with pytest.raises(SettingsError, match="no agent 'nobody'; there are: default"):
        tried(settings, Trial(agent="nobody"), tmp_path)


def test_the_plan_is_what_the_caller_did(call_on_tape: Path) -> None:  # noqa: F811  # the fixture
    """All they said as one piece at its own times, and their keys."""
    with Tape(call_on_tape) as tape:
        duration_s = max(line.t for line in tape)
    plan = plan_of(call_on_tape, Trial(agent="polite", speed=2.0))

    assert plan.provider == "twilio"
    assert [key for _, key in plan.dtmf] == ["1", "1"]  # the tape is masked
    assert abs(plan.dtmf[1][0] - plan.dtmf[0][0] - 0.5) < 0.1
    assert abs(len(plan.says[0].pcm) / 48_000 - duration_s) < 1.0
    assert plan.parameters == {"agent": "polite"}
    assert plan.speed == 2.0


def test_a_tape_without_a_caller_cannot_be_placed(tmp_path: Path) -> None:
    """Said in one line, for each reason."""
    head = {"tape": 1, "provider": "twilio", "dialect": "ga"}
    silent, foreign = tmp_path / "silent.jsonl", tmp_path / "foreign.jsonl"
    silent.write_text(json.dumps(head) + "\n")
    foreign.write_text(json.dumps(head | {"provider": "pigeon"}) + "\n")

    with pytest.raises(TapeError, match="no sound of the caller"):
        plan_of(silent, Trial())
    with pytest.raises(TapeError, match="no provider 'pigeon' in this gateway"):
        plan_of(foreign, Trial())


def _turns_ms(path: Path) -> list[float]:
    """Each turn of the caller, as long as the model says it was by the sound it was sent."""
    with Tape(path) as tape:
        told = [
            json.loads(line.data)
            for line in tape
            if (line.link, line.dir) == ("realtime", "in") and line.data
        ]
    starts = [each["audio_start_ms"] for each in told if each["type"].endswith("speech_started")]
    ends = [each["audio_end_ms"] for each in told if each["type"].endswith("speech_stopped")]
    return [end - start for start, end in zip(starts, ends, strict=True)]


async def test_another_agent_is_tried_on_a_taped_call(
    call_on_tape: Path,  # noqa: F811  # the fixture
    simulator: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who waits less for the caller's silence answers sooner; the new call is on tape too."""
    settings = settings_for(simulator)
    trial = Trial(
        changes=("turn_detection.silence_duration_ms=250", "audio_format=g711_ulaw"), out=tmp_path
    )
    with capture_logs():
        ((then, now),) = await what_if(Terminal(), [call_on_tape], settings, trial)
    (tape,) = tapes_at([tmp_path])
    printed = capsys.readouterr().out

    assert then.turns == now.turns == len(then.latencies_ms) == len(now.latencies_ms) == 2
    # By the model's own clock, which is the caller's sound: each turn is over a silence of 250 ms
    # instead of 500 after the same words, to the frame, however late anything was.
    earlier_ms = [
        was - is_now for was, is_now in zip(_turns_ms(call_on_tape), _turns_ms(tape), strict=True)
    ]
    assert [abs(ms - 250) <= FRAME_MS for ms in earlier_ms] == [True, True]
    # By the clock of the wall a machine that stands still only ever makes a turn longer.
    assert abs(min(then.latencies_ms) - min(now.latencies_ms) - 250) < 50
    assert now.usage.input_audio > 0
    assert figures_of(tape, read_prices()) == now
    assert now.cost_usd > 0
    assert f"{then.latencies_ms[0]:.0f} ms -> {now.latencies_ms[0]:.0f} ms" in printed


def test_what_did_not_change_is_shown_once() -> None:
    """What did, as then -> now."""
    rows = dict(compared(FIGURES, FIGURES))
    other = Figures(
        "success, caller_hangup", 2, (500.0,), 0, 3.0, 0.5, "", "ho", Usage(1, 2, 0, 1), 0.5
    )
    changes = dict(compared(FIGURES, other))

    assert rows["answered after, worst"] == "900 ms"
    assert changes["answer 1"] == "900 ms -> 500 ms"
    assert changes["interruptions"] == "1 -> 0"
    assert changes["speech never heard"] == "1.5 s -> 0.5 s"
    assert changes["tokens in"] == "0 text, 0 audio, 0 cached -> 1 text, 2 audio, 1 cached"
    assert changes["cost by list prices"] == "0.0000 USD -> 0.5000 USD"
    assert (changes["heard, then"], changes["heard, now"]) == ("hi", "ho")
