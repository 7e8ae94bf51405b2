"""The project's own calls: each is what its name says, and is still played the same way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.events import BargeInConfirmed, PromptPlayed, RealtimeReconnected
from gateway.tape.judge import tapes_at
from gateway.tape.taped import TapedCall
from tests.tapes.make import SCENES

FOLDER = Path(__file__).parent
TAPES = {path.name.partition(".")[0]: TapedCall(path) for path in tapes_at([FOLDER])}


def _ended(call: TapedCall, reason: str) -> bool:
    return call.termination[1] == reason


def _prompts(call: TapedCall) -> list[str]:
    return [fact.name for _, fact in call.facts if isinstance(fact, PromptPlayed)]


def _reconnected(call: TapedCall) -> bool:
    return any(isinstance(fact, RealtimeReconnected) for _, fact in call.facts)


def _was_cut(call: TapedCall) -> bool:
    return call.interruptions > 0 and any(0 < s.heard_ms < s.generated_ms for s in call.agent)


def _cut_behind_the_end(call: TapedCall) -> bool:
    """All of the answer had been generated when the caller cut in."""
    cuts = [moment.t for moment in call.story.moments if moment.kind == "clear"]
    return any(
        answer.end_s < cut and answer.status == "completed"
        for answer in call.story.answers
        for cut in cuts
    )


def _late_marks(call: TapedCall) -> bool:
    stages = [dict(turn.stages()) for turn in call.turns]
    return any(stage.get("provider", 0.0) > 700 for stage in stages)


# What a call must show to deserve its name.
SHOWS: dict[str, Callable[[TapedCall], bool]] = {
    "agent-hangs-up": lambda call: _ended(call, "agent_hangup") and bool(call.tool_calls),
    "barge-in-after-the-model-had-finished": lambda call: (
        _was_cut(call) and _cut_behind_the_end(call)
    ),
    "barge-in-asterisk-slin24": _was_cut,
    "barge-in-mid-word": _was_cut,
    "caller-is-silent": lambda call: _ended(call, "idle_timeout") and not call.caller,
    "drain-in-mid-sentence": lambda call: _ended(call, "drain") and "goodbye" in _prompts(call),
    "dtmf-entry": lambda call: call.keys == "111#",
    "dtmf-entry-asterisk": lambda call: call.keys == "11",
    "hang-up-during-the-goodbye": lambda call: (
        _ended(call, "caller_hangup") and bool(call.tool_calls) and "Goodbye." in call.unheard
    ),
    "model-is-slow-to-answer": lambda call: "filler" in _prompts(call),
    "model-refuses-the-call": lambda call: (
        _ended(call, "realtime_unavailable") and _prompts(call) == ["apology"]
    ),
    "plain-text-asterisk-alaw": lambda call: (
        call.story.audio_in.encoding == "alaw" and len(call.latencies_ms) > 0
    ),
    "provider-lost": lambda call: _ended(call, "provider_lost"),
    "realtime-socket-lost": lambda call: _reconnected(call) and len(call.latencies_ms) > 0,
    "response-fails": lambda call: any("failed" in error for error in call.errors),
    "session-expires": lambda call: (
        _reconnected(call) and any("session_expired" in error for error in call.errors)
    ),
    "slow-provider": lambda call: _late_marks(call) and call.interruptions > 0,
    "tool-nobody-has": lambda call: call.tool_calls[0].name == "get_time",
}


def test_every_scene_has_its_tape_and_its_meaning() -> None:
    """Both providers, both dialects, no name without a check."""
    heads = [call.story.head for call in TAPES.values()]

    assert set(TAPES) == set(SCENES) == set(SHOWS)
    assert {(head.provider, head.dialect) for head in heads} == {
        (provider, dialect) for provider in ("twilio", "asterisk") for dialect in ("ga", "preview")
    }


@pytest.mark.parametrize("name", TAPES)
def test_the_call_goes_as_it_went(name: str) -> None:
    """Byte for byte, to its end."""
    verdict = TAPES[name].verdict

    assert verdict.is_same, "\n".join(map(str, verdict.found.differences))
    assert verdict.note == ""


@pytest.mark.parametrize("name", TAPES)
def test_the_call_is_what_its_name_says(name: str) -> None:
    """The fault, the interruption, the keys are really on it."""
    assert SHOWS[name](TAPES[name]), TAPES[name].story


@pytest.mark.parametrize("name", ["barge-in-mid-word", "realtime-socket-lost"])
def test_the_interruption_was_heard_for_a_moment_only(name: str) -> None:
    """A confirmed clear says how much was heard after it."""
    confirmed = [fact for _, fact in TAPES[name].facts if isinstance(fact, BargeInConfirmed)]

    assert all(fact.heard_after_ms < 500 for fact in confirmed)
