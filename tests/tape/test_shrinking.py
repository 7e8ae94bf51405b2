"""`gateway tape shrink` asks the user's own command."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import cli

FINDS_CLEAR = f"""{sys.executable} -c "
import sys
text = open(sys.argv[1]).read()
print('stale sound' if 'event' in text and 'clear' in text else 'fine')
sys.exit('clear' in text)
" {{}}"""


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
