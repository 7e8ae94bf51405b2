"""`gateway tape shrink` asks the user's own command."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import cli
from gateway.tape.judge import judge
from gateway.tape.reading import Tape
from gateway.voice import Voice

FINDS_CLEAR = f"""{sys.executable} -c "
import sys
text = open(sys.argv[1]).read()
print('stale sound' if 'event' in text and 'clear' in text else 'fine')
sys.exit('clear' in text)
" {{}}"""

# Another version of the gateway: this one does not tell the model what was not heard.
OTHER_REPLAYS = f"""{sys.executable} -c "
from gateway.voice import Voice
Voice._is_to_truncate = lambda *_: False
from gateway.cli import main
main()
" replay {{}}"""


def run(*args: str | Path) -> Result:
    """The command."""
    return CliRunner().invoke(cli, ["tape", "shrink", *map(str, args)])


def test_a_tape_shrinks_to_what_makes_the_command_fail(call_on_tape: Path, tmp_path: Path) -> None:
    """The rest is gone, and it says how much."""
    out = tmp_path / "small.jsonl"
    matching = ("--matching", "stale sound", "--most-runs", "40")
    result = run(call_on_tape, "--failing", FINDS_CLEAR, "--out", out, *matching, "--json")
    told = json.loads(result.stdout)

    assert result.exit_code == 0
    assert "clear" in out.read_text()
    assert told["lines"] == len(out.read_text().splitlines()) < told["was"] / 2
    assert told["runs"] <= 40
    assert told["is_same"]
    assert judge(out).is_same


def test_a_regression_becomes_a_small_test(call_on_tape: Path, tmp_path: Path) -> None:
    """The gateway that did right shrinks, the other one replays: the first passes, it fails."""
    out = tmp_path / "small.jsonl.gz"
    result = run(
        *(call_on_tape, "--failing", OTHER_REPLAYS, "--matching", "item.truncate"),
        *("--out", out, "--most-runs", "5"),
    )

    assert result.exit_code == 0, result.output
    assert "gateway replay       the same" in result.stdout
    assert judge(out).is_same
    assert judge(out).replayed.messages < judge(call_on_tape).replayed.messages * 0.8
    with pytest.MonkeyPatch.context() as other:
        other.setattr(Voice, "_is_to_truncate", lambda *_: False)
        assert "item.truncate" in str(judge(out).found.differences[0])


def test_a_small_tape_says_that_it_is_none_of_a_whole_call(
    call_on_tape: Path, tmp_path: Path
) -> None:
    """By whom it was made, in its first line and where people look."""
    out = tmp_path / "small.jsonl"
    run(call_on_tape, "--failing", FINDS_CLEAR, "--out", out, "--most-runs", "2")
    shown = CliRunner().invoke(cli, ["tape", "show", str(out)]).stdout

    with Tape(out) as tape:
        assert tape.head.shrunk_by
        assert tape.head.renewed_by
    assert "shrunk: by gateway " in shown
    assert "renewed: by gateway " in shown


def test_what_went_out_can_stay_as_it_was_recorded(call_on_tape: Path, tmp_path: Path) -> None:
    """For a fault that only the gateway of that day had; it is said that no replay will agree."""
    out = tmp_path / "small.jsonl"
    how = ("--as-recorded", "--failing", FINDS_CLEAR, "--out", out, "--most-runs", "9")
    with pytest.MonkeyPatch.context() as today:
        today.setattr(Voice, "stop", lambda *_, **__: None)
        renewed, as_recorded = run(call_on_tape, *how[1:]), run(call_on_tape, *how)

    assert "does not fail on this tape, once renewed by this gateway" in str(renewed.exception)
    assert as_recorded.exit_code == 0
    assert "gateway replay       differs, at " in as_recorded.stdout
    with Tape(out) as tape:
        assert tape.head.shrunk_by
        assert not tape.head.renewed_by


@pytest.mark.parametrize(
    ("failing", "complaint"),
    [
        (f"{sys.executable} -c pass", "the command does not fail on this tape"),
        ("/nowhere/at-all {}", "--failing: /nowhere/at-all: No such file"),
        ("'", "--failing: No closing quotation"),
        ("  ", "--failing: no command"),
    ],
)
def test_a_command_that_cannot_be_used_is_told(
    call_on_tape: Path, tmp_path: Path, failing: str, complaint: str
) -> None:
    """Nothing is written over."""
    result = run(call_on_tape, "--failing", failing, "--out", tmp_path / "small.jsonl")

    assert result.exit_code != 0
    assert complaint in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_other_failures_do_not_count(call_on_tape: Path, tmp_path: Path) -> None:
    """The command must fail for the same reason: its words are part of the question."""
    result = run(
        call_on_tape,
        "--failing",
        FINDS_CLEAR,
        "--matching",
        "another thing",
        "--out",
        tmp_path / "small.jsonl",
    )

    assert "does not fail on this tape with 'another thing'" in str(result.exception)


def test_a_command_that_hangs_is_cut_off(call_on_tape: Path, tmp_path: Path) -> None:
    """Its time is bounded; that it hangs may be the fault itself."""
    hangs = f"{sys.executable} -c 'import time; time.sleep(30)'"
    result = run(
        call_on_tape,
        *("--failing", hangs, "--timeout-s", "0.2", "--most-runs", "2"),
        *("--out", tmp_path / "small.jsonl"),
    )

    assert result.exit_code == 0
    assert "stopped at --most-runs" in result.stdout


def test_what_a_command_started_ends_with_it(call_on_tape: Path, tmp_path: Path) -> None:
    """A check that hangs is run again and again: what it leaves behind would pile up."""
    started = tmp_path / "started"
    hangs = f"sh -c 'sleep 60 & echo $! >> {started}; wait' {{}}"
    run(
        *(call_on_tape, "--out", tmp_path / "small.jsonl", "--failing", hangs),
        *("--timeout-s", "1", "--most-runs", "1"),
    )

    numbers = started.read_text().split()
    assert len(numbers) >= 1
    assert [number for number in numbers if _is_running(number)] == []


def _is_running(number: str) -> bool:
    """A process that was killed is there until its new parent has looked."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False
