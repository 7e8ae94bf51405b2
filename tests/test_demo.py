"""The sample call works out of the box, shows what happened, and measures itself."""

import json
import wave
from pathlib import Path

import pytest

from gateway.demo import GOOD, Story, demo_settings
from gateway.events import CallEnded, CallReady, PromptPlayed, StateChanged, Termination
from gateway.simulator.server import Simulator
from gateway.terminal import Terminal
from tests.running import run_command


@pytest.mark.xdist_group("demo")
async def test_the_sample_call_comes_through(tmp_path: Path) -> None:
    """One command, no account: both sides arrive as they were spoken, three WAV files tell."""
    folder = tmp_path / "sounds"
    done = await run_command("demo", "--once", "--json", "--port", "0", "--out", str(folder))
    told = json.loads(done.out)
    lengths = {path.name: _length_s(path) for path in folder.iterdir()}

    assert done.code == 0
    assert (told["result"], told["reason"]) == ("success", "caller_hangup")
    assert len(told["correlation_up"]) >= 7
    assert min(told["correlation_up"] + told["correlation_down"]) > GOOD
    assert told["dropped_ms"] == 0
    assert len(told["barge_in_clear_s"]) >= 1
    assert told["relay_up_s"]
    assert told["relay_down_s"]
    assert set(lengths) == {"caller.wav", "agent.wav", "both.wav"}
    assert min(lengths.values()) > 10


def _length_s(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


def test_the_story_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Facts that mean something to a person are a line each, with their moment; others are kept."""
    story = Story(Terminal())
    ended = CallEnded(Termination("caller_hangup"), 12.34, 3, 1, 5000.0, 4000.0)
    for fact in (
        CallReady(0.1234),
        StateChanged("turn", "thinking"),
        PromptPlayed("filler"),
        ended,
    ):
        story.observe("call-1", fact)
    lines = [line.split(" s  ", 1)[1] for line in capsys.readouterr().out.splitlines()]

    assert lines == [
        "call connected, model ready after 123 ms",
        "local recording: filler",
        "call over: success, caller_hangup, 12.3 s, 3 turns, 1 interruption(s)",
    ]
    assert story.values(CallReady, "setup_s") == [0.1234]
    assert len(story.facts) == 4


async def test_the_demo_asks_nobody_for_anything(simulator: Simulator) -> None:
    """Its settings stand alone: loopback only, the simulator as its model, free ports."""
    settings = demo_settings(simulator)

    assert settings.host == settings.ops_host == "127.0.0.1"
    assert settings.azure_openai_endpoint == simulator.url
    assert settings.port == settings.ops_port == 0
    assert not settings.problems_for_serving()
