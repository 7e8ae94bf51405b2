"""Lines for people, one JSON object for scripts, never both."""

import json
import os
import subprocess
import sys

import pytest

from gateway.terminal import Terminal
from tests.running import ROOT

ROWS = [("short", "1"), ("a longer name", "[bold]two[/bold] :smile:")]


def _use(terminal: Terminal) -> None:
    terminal.say("a line")
    terminal.write("part ")
    terminal.say("and rest")
    terminal.table(ROWS)
    with terminal.bar("waiting", 2.0) as bar:
        bar.advance(1.0)
    terminal.result({"is_well": True, "values": [1.5]})


def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Text as it was given, columns that line up, no JSON, no bar where nobody looks."""
    _use(Terminal())

    assert capsys.readouterr().out.splitlines() == [
        "a line",
        "part and rest",
        "  short          1",
        "  a longer name  [bold]two[/bold] :smile:",
    ]


def test_scripts_get_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """All of standard output can be parsed."""
    _use(Terminal(as_json=True))

    assert json.loads(capsys.readouterr().out) == {"is_well": True, "values": [1.5]}


def test_a_long_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What goes into a pipe is not broken at a width that nobody has."""
    Terminal().say("word " * 100)

    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_is_for_a_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_terminal: bool,
) -> None:
    """Only a person's screen gets escape sequences and a bar."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with terminal.bar("waiting", 2.0) as bar:
        bar.advance(2.0)

    assert terminal.is_interactive is is_terminal
    assert ("waiting" in capsys.readouterr().out) is is_terminal


def test_nobody_reading_any_more_is_no_reason_to_stop() -> None:
    """The reader of a pipe goes away: what was under way goes on, quietly."""
    script = (
        "import sys; from gateway.terminal import Terminal; terminal = Terminal()\n"
        "for _ in range(3): terminal.say('into the void')\n"
        "sys.exit(7)"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (7, b"")
