"""`gateway replay` says what it found, in words, in JSON and in its exit code."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import cli


def run(*args: str | Path) -> Result:
    """The command."""
    return CliRunner().invoke(cli, ["replay", *map(str, args)])


def test_a_call_that_does_the_same_exits_with_0(call_on_tape: Path) -> None:
    """One line a tape, and the sum."""
    result = run(call_on_tape.parent, "--times", "2")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"same        {call_on_tape}")
    (verdict,) = json.loads(run(call_on_tape, "--json").stdout)["tapes"]
    told = r"\n1 the same, 0 different, (\d+) s of calls at \d+ times real time by CPU\n$"
    (counted_s,) = re.findall(told, result.stdout)
    assert int(counted_s) == round(2 * verdict["duration_s"])


def test_a_difference_exits_with_1_and_is_shown(
    call_on_tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words and in JSON."""
    monkeypatch.setattr("gateway.voice.Voice._is_to_truncate", lambda *_: False)

    in_words, in_json = run(call_on_tape), run(call_on_tape, "--json")
    (told,) = json.loads(in_json.stdout)["tapes"]

    assert (in_words.exit_code, in_json.exit_code) == (1, 1)
    assert "differs" in in_words.stdout
    assert '- to the model: {"type":"conversation.item.truncate"' in in_words.stdout
    assert not told["is_same"]
    assert told["differences"] >= len(told["shown"]) >= 1


def test_a_bad_tape_exits_with_2_and_costs_the_others_nothing(
    call_on_tape: Path, tmp_path: Path
) -> None:
    """Each is told; the good ones are replayed."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text("garbage\n")

    result = run(bad, call_on_tape, tmp_path / "nowhere")

    assert result.exit_code == 2
    assert f"unreadable  {bad}: this is no tape\n" in result.stdout
    assert "\n1 the same, 0 different, 2 unreadable, " in result.stdout


def test_the_recorded_speed_gives_the_same_digest(call_on_tape: Path) -> None:
    """Waiting changes nothing; forty times real time is enough to see that it waits."""
    fast = json.loads(run(call_on_tape, "--json").stdout)
    paced = json.loads(run(call_on_tape, "--speed", "40", "--json").stdout)

    assert fast["tapes"][0]["digest"] == paced["tapes"][0]["digest"]


def test_a_folder_without_tapes_is_a_mistake(tmp_path: Path) -> None:
    """Nothing was compared: that must not look like success."""
    assert run(tmp_path).exit_code != 0
