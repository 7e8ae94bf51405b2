"""The story of a call says what its far ends and its ledger say."""

import json
from pathlib import Path
from typing import Literal

import pytest

from gateway.events import TurnTimed
from gateway.simulator.callplan import CallPlan
from gateway.simulator.callreport import CallReport
from gateway.tape.accounts import accounts_of
from gateway.tape.story import story_of
from tests.tape.recording import INTERRUPTION, record
from tests.tape.test_accounts import changed

WITHIN_S = 0.020
# How late a busy machine may be with a mark.
LATE_MS = 150
STAGES = ("endpointing", "model", "gateway", "provider")


def test_what_was_heard_when_is_what_the_phone_played(
    call_and_report: tuple[Path, CallReport],
) -> None:
    """Every stretch of every item, put together, is what the phone's record says."""
    path, report = call_and_report
    story = story_of(path)

    heard = sorted(times for speech in story.agent for times in speech.heard)
    assert sum(end - start for start, end in heard) * 1000 == pytest.approx(
        report.played_ms, abs=60
    )
    assert heard[0][0] == pytest.approx(report.spans[0].starts_at_s, abs=WITHIN_S)
    assert story.note == ""
    assert (story.result, story.reason) == ("success", "caller_hangup")


def test_words_are_told_apart_by_whether_they_were_heard(
    call_and_report: tuple[Path, CallReport],
) -> None:
    """Heard and unheard make up what was said; the ledger's milliseconds are the story's."""
    path, _ = call_and_report
    story = story_of(path)
    accounts = {each.item_id: each for each in accounts_of(path).items}
    cut = [speech for speech in story.agent if speech.unheard_text]

    assert len(cut) >= 2
    for speech in story.agent:
        assert f"{speech.heard_text} {speech.unheard_text}".split() == speech.said.split()
        assert speech.heard_ms == accounts[speech.item_id].heard_ms
        assert speech.heard_ms + speech.unheard_ms == pytest.approx(speech.generated_ms)


def test_a_turn_is_its_stages(call_and_report: tuple[Path, CallReport]) -> None:
    """They add up, within reach of what the caller's own phone measured from outside."""
    path, report = call_and_report
    turns = story_of(path).turns
    measured_ms = [(turn.answered_after_s or 0.0) * 1000 for turn in report.turns]

    assert len(turns) == len(measured_ms) == 2
    for turn, outside_ms in zip(turns, measured_ms, strict=True):
        assert [name for name, _ in turn.stages()] == [
            "endpointing",
            "model",
            "gateway",
            "provider",
        ]
        assert turn.total_ms == pytest.approx(sum(value for _, value in turn.stages()))
        assert turn.heard_s is not None
        assert turn.total_ms == pytest.approx((turn.heard_s - turn.spoke_until_s) * 1000)
        # The utterance may end in a quiet sound which the detector does not count, and a busy
        # machine sends its frames later than they were spoken.
        assert -5 - report.lateness_ms <= (turn.total_ms or 0.0) - outside_ms <= 350


def test_a_turn_is_the_one_the_metrics_count(call_and_report: tuple[Path, CallReport]) -> None:
    """Its stages are those of the call's own fact, which had to believe a mark that came late."""
    path, _ = call_and_report
    timed = [fact for _, fact in accounts_of(path).facts if isinstance(fact, TurnTimed)]
    turns = story_of(path).turns

    assert len(timed) == len(turns) == 2
    for fact, turn in zip(timed, turns, strict=True):
        assert turn.endpointing_ms == pytest.approx(fact.endpointing_s * 1000, abs=2)
        assert turn.model_ms == pytest.approx(fact.model_s * 1000, abs=2)
        assert -2 <= fact.total_s * 1000 - (turn.total_ms or 0.0) <= LATE_MS


def test_an_interruption_is_one(call_and_report: tuple[Path, CallReport]) -> None:
    """The second time the caller spoke into the agent's words, and the keys are there."""
    path, _ = call_and_report
    story = story_of(path)

    assert [words.is_interruption for words in story.caller] == [False, True]
    assert all(words.text.endswith("seconds of speech.") for words in story.caller)
    assert [moment.text for moment in story.moments if moment.kind == "key"] == ["1"]
    kinds = {moment.kind for moment in story.moments}
    assert {"clear", "truncate", "mark", "connected"} <= kinds


@pytest.mark.parametrize("version", ["", "2025-04-01-preview"])
def test_both_dialects_tell_the_same_story(tmp_path: Path, version: str) -> None:
    """What the model's messages are called does not matter."""
    path = record(
        tmp_path, CallPlan(says=INTERRUPTION[:1], quiet_s=0.3), OPENAI_API_VERSION=version
    )
    story = story_of(path)

    assert story.head.dialect == ("preview" if version else "ga")
    assert [turn.total_ms is not None for turn in story.turns] == [True]
    assert [speech.unheard_text for speech in story.agent] == ["", ""]


def test_a_tape_cut_short_is_told_up_to_there(call_on_tape: Path, tmp_path: Path) -> None:
    """Half a tape, with half a line at its end."""
    text = call_on_tape.read_text()
    part = tmp_path / "call.jsonl.part"
    part.write_text(text[: len(text) // 2])

    story = story_of(part)

    assert story.note == "this tape was cut short: it is told up to its last whole line"
    assert (story.result, story.agent != []) == ("", True)


@pytest.mark.parametrize("how", ["otherwise", "not at all"])
def test_a_tape_of_another_version_is_told_all_the_same(
    call_on_tape: Path, tmp_path: Path, how: Literal["otherwise", "not at all"]
) -> None:
    """One line says what to think of it; words, keys and sound are there."""

    def change(line: dict[str, object]) -> dict[str, object]:
        if how == "not at all" and "tape" in line:
            settings = {"call": {"session": {"turn_detection": "odd"}}}
            return line | {"settings": settings}
        if how == "otherwise" and "truncate" in str(line.get("data", "")):
            return line | {"data": str(line["data"]).replace("audio_end_ms", "other")}
        return line

    story, same = story_of(changed(call_on_tape, tmp_path, change)), story_of(call_on_tape)

    assert "what was heard is an estimate" in story.note
    assert [speech.said for speech in story.agent] == [speech.said for speech in same.agent]
    assert len(story.ear.stretches) >= 3
    assert story.ear.stretches[0].at_s == pytest.approx(same.ear.stretches[0].at_s)


def test_a_tool_call_and_an_error_are_told(tmp_path: Path) -> None:
    """What the model asked for and what went wrong, in their words."""
    path = record(tmp_path, CallPlan(hang_up_after_s=0.5))
    lines = path.read_text().splitlines(keepends=True)
    item = {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"}
    messages = (
        {"type": "response.output_item.done", "response_id": "r", "item": item},
        {"type": "error", "error": {"code": "server_error", "message": "<b>"}},
    )
    said = {"t": 0.4, "link": "realtime", "dir": "in", "kind": "text"}
    added = [json.dumps(said | {"data": json.dumps(each)}) + "\n" for each in messages]
    path.write_text("".join([*lines[:-1], *added, lines[-1]]))

    told = {moment.kind: moment.text for moment in story_of(path).moments}

    assert told["tool"] == "look_up({})"
    assert told["error"] == "server_error: <b>"
