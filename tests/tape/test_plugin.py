"""`pytest --call-tapes` makes a test of every tape, wherever the package is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = """
import gateway.voice
gateway.voice.Voice._is_to_truncate = lambda *_: False
"""


@pytest.fixture
def project(tmp_path: Path, call_on_tape: Path) -> Path:
    """Somebody's project: a test of their own, and a folder of calls."""
    (tmp_path / "calls" / "deep").mkdir(parents=True)
    shutil.copy(call_on_tape, tmp_path / "calls" / "interrupted.jsonl")
    shutil.copy(call_on_tape, tmp_path / "calls" / "deep" / "again.jsonl")
    (tmp_path / "calls" / "notes.txt").write_text("no tape")
    (tmp_path / "test_own.py").write_text("def test_own():\n    assert True\n")
    return tmp_path


def run(project: Path, *args: str) -> tuple[int, str]:
    """Exit code and output of pytest in that project."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *args]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_tape_below_a_folder_is_a_test(project: Path) -> None:
    """Beside the project's own; each once, by its name."""
    code, output = run(project, "--call-tapes", "calls/")

    assert code == 0, output
    assert "calls/interrupted.jsonl::replay PASSED" in output
    assert "calls/deep/again.jsonl::replay PASSED" in output
    assert "3 passed" in output


def test_tapes_nobody_asked_for_are_left_alone(project: Path) -> None:
    """Without the option pytest is as it was; with a path only what is named runs."""
    assert "1 passed" in run(project)[1]
    assert "1 passed" in run(project, "calls/deep", "--call-tapes", "calls/deep/again.jsonl")[1]


def test_a_call_that_goes_another_way_fails_with_its_diff(project: Path) -> None:
    """No traceback: the moment, what was expected, what came."""
    (project / "conftest.py").write_text(BROKEN)

    code, output = run(project, "--call-tapes", "calls")

    assert code == 1
    assert '- to the model: {"type":"conversation.item.truncate"' in output
    assert "Traceback" not in output
    assert "2 failed, 1 passed" in output
    assert "3 passed" not in output


def test_a_tape_that_was_cut_short_passes_as_far_as_it_goes(project: Path) -> None:
    """And the summary says so, once; of whole tapes it says nothing."""
    tape = project / "calls" / "interrupted.jsonl"
    tape.write_bytes(b"".join(tape.read_bytes().splitlines(keepends=True)[:200]))

    code, output = run(project, "--call-tapes", "calls/")

    assert code == 0, output
    (said,) = (line for line in output.splitlines() if "compared up to" in line)
    assert said.startswith("calls/interrupted.jsonl::replay: compared up to ")
    assert said.endswith(" s: the tape was cut short there")


def test_a_test_can_look_into_a_tape(project: Path) -> None:
    """By a path beside the test: turns, latencies, words heard, tools, keys."""
    (project / "test_own.py").write_text(
        "def test_own(call_tape):\n"
        "    call = call_tape('calls/interrupted.jsonl')\n"
        "    assert call.interruptions >= 1\n"
        "    assert call.keys\n"
        "    assert all(400 < ms < 5000 for ms in call.latencies_ms)\n"
        "    assert call.heard and call.unheard and call.said\n"
        "    assert not call.tool_calls and not call.errors\n"
        "    assert call.termination == ('success', 'caller_hangup')\n"
        "    assert call.verdict.is_same\n"
    )
    code, output = run(project)

    assert code == 0, output


def test_a_bad_tape_fails_with_one_line(project: Path) -> None:
    """And a path that is not there is a mistake, not an empty success."""
    (project / "calls" / "bad.jsonl").write_text("garbage\n")

    code, output = run(project, "--call-tapes", "calls", "--call-tapes-shape")
    assert code == 1
    assert "bad.jsonl: this is no tape" in output
    assert "1 failed, 3 passed" in output

    code, output = run(project, "--call-tapes", "nowhere")
    assert code == 4
    assert "--call-tapes: " in output
    assert "nowhere: no such file or folder" in output
