"""A test's questions to a tape get plain answers."""

import json
from pathlib import Path

import pytest

from gateway.errors import TapeError
from gateway.events import AudioAssessed
from gateway.tape.taped import TapedCall


def test_a_real_call_answers(call_on_tape: Path) -> None:
    """Who spoke, what was heard of it, how long it took, how it ended."""
    call = TapedCall(call_on_tape)

    assert call.said.startswith(call.caller[0].text)
    assert call.heard.startswith("Hello.")
    assert call.unheard
    assert call.interruptions >= 1
    assert len(call.keys) == 2
    assert len(call.latencies_ms) == len([t for t in call.turns if t.heard_s is not None]) >= 1
    assert call.termination == ("success", "caller_hangup")
    assert call.facts[0][0] <= call.facts[-1][0]
    assert call.agent[0].heard_ms > 0
    assert call.errors == []
    assert any(isinstance(fact, AudioAssessed) for _, fact in call.facts)


def test_tool_calls_are_names_and_arguments(tmp_path: Path) -> None:
    """Arguments that are no JSON object are none."""
    path = tmp_path / "tools.jsonl"
    head = {"tape": 1, "provider": "twilio", "dialect": "ga"}
    told = [
        {
            "type": "response.output_item.done",
            "response_id": "r",
            "item": {
                "type": "function_call",
                "id": f"item_{number}",
                "call_id": f"call_{number}",
                "status": "completed",
                "name": "get_time",
                "arguments": arguments,
            },
        }
        for number, arguments in enumerate(['{"zone":"UTC"}', "zone", "[1]"])
    ]
    lines = [head] + [
        {"t": 1.0, "link": "realtime", "dir": "in", "kind": "text", "data": json.dumps(message)}
        for message in told
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    calls = TapedCall(path).tool_calls

    assert [call.name for call in calls] == ["get_time"] * 3
    assert [call.arguments for call in calls] == [{"zone": "UTC"}, {}, {}]


def test_a_bad_tape_is_told_at_the_first_question(tmp_path: Path) -> None:
    """Not before: a fixture may name many."""
    call = TapedCall(tmp_path / "nowhere.jsonl")

    with pytest.raises(TapeError, match="No such file"):
        _ = call.turns
