"""A taped call can be read like a play, by people and by scripts."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import BAD_INPUT, FAILED, main, tape_name
from gateway.tape.reading import Head
from gateway.tape.show import as_json, clock, conversation, printed
from gateway.tape.story import Moment, Speech, Story, Turn, Words, story_of

Run = Callable[..., int]
STAGES = ("endpointing 500", "model 300", "gateway 0", "provider 40")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in a folder of its own; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gateway", "tape", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return run_here


def _story() -> Story:
    turn = Turn(2.0, 2.5, 500.0, 300.0, 0.0, 40.0, heard_s=2.84)
    return Story(
        Head(1, "twilio", "ga", "0.1.0", "c1", "default", "2026-11-21T10:00:00.000+00:00"),
        duration_s=61.0,
        result="success",
        reason="caller_hangup",
        caller=[
            Words("u1", 1.0, 2.0, "What time is it?"),
            Words("u2", 4.0, 5.0, is_interruption=True),
        ],
        agent=[
            Speech("i1", "r1", 2.8, "Noon. Or so.", "Noon.", "Or so.", 2000, 1200, [(2.84, 4.04)]),
            Speech(
                "prompt:goodbye", "", 60.0, generated_ms=900, heard_ms=900, heard=[(60.0, 60.9)]
            ),
            Speech("i2", "r2", 7.0, generated_ms=800.0),
        ],
        turns=[turn, Turn(5.0, 5.5, 500.0)],
        moments=[
            Moment(0.1, "connected"),
            Moment(3.0, "mark", "m1"),
            Moment(6.0, "key", "5"),
            Moment(6.5, "tool", "look_up({})"),
            Moment(6.6, "error", "server_error: sorry"),
        ],
    )


def test_a_call_reads_like_a_play() -> None:
    """Time, who and what in order, heard and unheard apart, latency where it belongs, the end."""
    assert list(printed(_story())) == [
        "call c1: twilio, ga, agent default",
        "2026-11-21T10:00:00.000+00:00, from ? to ?, gateway 0.1.0",
        "",
        "  0:01.000  caller  What time is it?",
        "  0:02.840  agent   Noon.",
        "                    not heard: Or so.",
        f"{'':20}0.8 s not heard; answered after 840 ms: {', '.join(STAGES)}",
        "  0:04.000  caller  interrupts: (1.0 s of speech, no transcript)",
        "  0:06.000  caller  presses 5",
        "  0:06.500  agent   calls look_up({})",
        "  0:06.600  error   server_error: sorry",
        "  0:07.000  agent   (nothing of this was heard)",
        "  1:00.000  gateway (plays its goodbye)",
        "  1:01.000  end     caller_hangup (success)",
        "",
        "agent: 2.1 s heard, 1.6 s generated but never heard",
        "turns: 2, answered 1, after 840 ms (worst 840 ms)",
    ]


def test_times_are_in_order_and_round_up_to_a_minute() -> None:
    """No second has 60 parts."""
    rows = conversation(_story())

    assert [row.t for row in rows] == sorted(row.t for row in rows)
    assert clock(59.9996) == "1:00.000"
    assert clock(3725.25) == "62:05.250"


def test_a_digit_that_is_hidden_is_not_shown_as_another() -> None:
    """Which key it was is not on the tape, and a reader is told what digits mean there."""
    story = _story()
    story.head = Head(1, "twilio", "ga", masks=("secrets", "numbers"))
    story.moments = [Moment(6.0, "key", "1")]

    lines = list(printed(story))

    assert lines[2] == "hidden: on this tape every digit reads 1"
    assert "  0:06.000  caller  presses a key" in lines


def test_words_cannot_pretend_to_be_lines_of_ours() -> None:
    """What a peer said moves no cursor and makes no new line."""
    story = _story()
    story.caller[0].text = "Hi\x1b[2J\r\n  0:09.000  agent   I owe you\u2028money"

    (line,) = (line for line in printed(story) if "owe" in line)

    assert line == "  0:01.000  caller  Hi [2J    0:09.000  agent   I owe you money"


def test_the_same_for_scripts() -> None:
    """All moments, and plain values only."""
    told = json.loads(json.dumps(as_json(_story())))

    assert (told["call_id"], told["reason"], told["duration_s"]) == ("c1", "caller_hangup", 61.0)
    assert [turn["total_ms"] for turn in told["turns"]] == [840.0, None]
    assert told["speech"][0]["unheard_ms"] == 800
    assert len(told["moments"]) == 5


# ------------------------------------------------------------- the commands


def test_show_prints_the_conversation(
    run: Run, capsys: pytest.CaptureFixture[str], call_on_tape: Path
) -> None:
    """Of a real call: what it prints for people and for scripts is the same story."""
    assert run("show", str(call_on_tape)) == 0
    told = capsys.readouterr().out
    assert run("show", str(call_on_tape), "--json") == 0
    as_data = json.loads(capsys.readouterr().out)

    assert told.splitlines() == list(printed(story_of(call_on_tape)))
    assert "\x1b" not in told
    assert "interrupts: " in told
    assert "not heard: " in told
    assert len(as_data["speech"]) >= 3


def test_wav_writes_beside_the_caller(
    run: Run, capsys: pytest.CaptureFixture[str], call_on_tape: Path, tmp_path: Path
) -> None:
    """Named as the tape, in the present folder, for its owner alone; or where it is asked for."""
    assert run("wav", str(call_on_tape)) == 0
    (written,) = tmp_path.glob("*.wav")
    assert run("wav", str(call_on_tape), "--out", "sub/call.wav", "--json") == 0
    printed_there = capsys.readouterr().out

    assert written.name == call_on_tape.with_suffix(".wav").name
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.read_bytes() == (tmp_path / "sub" / "call.wav").read_bytes()
    assert written.name in printed_there


@pytest.mark.parametrize("command", ["show", "wav"])
@pytest.mark.parametrize("content", [None, b"", b"RIFF\n", b'{"tape": 99, "gateway": "9.0"}\n'])
def test_what_is_no_tape_is_one_line(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    content: bytes | None,
) -> None:
    """It names the file, and no file is left behind."""
    tape = tmp_path / "bad.jsonl"
    if content is not None:
        tape.write_bytes(content)

    assert run(command, str(tape)) in (BAD_INPUT, FAILED)
    errors = capsys.readouterr().err.splitlines()

    assert len(errors) == 1
    assert "bad.jsonl: " in errors[0]
    assert not list(tmp_path.glob("*.wav"))


def test_where_the_file_cannot_be_written_is_said_first(
    run: Run, capsys: pytest.CaptureFixture[str], call_on_tape: Path
) -> None:
    """One line."""
    assert run("wav", str(call_on_tape), "--out", "/proc/call.wav") == BAD_INPUT
    assert capsys.readouterr().err.startswith("gateway: --out: /proc/call.wav: ")


@pytest.mark.parametrize(
    "name", ["call.jsonl", "call.jsonl.gz", "call.jsonl.part", "call.jsonl.gz.part", "call"]
)
def test_a_tapes_name_has_no_endings(name: str) -> None:
    """What is made of it is named after the call."""
    assert tape_name(Path("folder") / name) == "call"
