"""Whose turn it is, without sockets, clock or call."""

import pytest

from gateway.desk import Desk
from gateway.events import (
    HANG_UP,
    ULAW_8K,
    AudioDelta,
    CancelResponse,
    CreateResponse,
    FirstAudioSent,
    FunctionCalled,
    PromptPlayed,
    RealtimeErrorSeen,
    ResponseDone,
    SendFunctionOutput,
    SessionOptions,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnDetection,
    TurnTimedOut,
    Usage,
)
from gateway.states import Turn
from gateway.turns import Turns
from gateway.voice import Voice
from tests.lab import options, started

PROMPTS = {"filler": bytes(48 * 100)}


def turns(**changes: object) -> tuple[Turns, Desk]:
    """Turn-taking of a call that began at 0 s."""
    desk = Desk()
    chosen = options(prompts=PROMPTS, **changes)
    return Turns(desk, chosen, Voice(desk, chosen, started()), 0.0), desk


def _parts(**changes: object) -> tuple[Turns, Desk, Voice]:
    """The same, with the voice at hand."""
    desk = Desk()
    chosen = options(prompts=PROMPTS, **changes)
    voice = Voice(desk, chosen, started())
    return Turns(desk, chosen, voice, 0.0), desk, voice


def _play_to_the_end(voice: Voice, now: float) -> None:
    """Every mark comes back."""
    for number in range(1, 10):
        voice.mark_reached(f"m{number}", now)
    voice.advance(now)


def state(taking: Turns) -> Turn:
    """Whose turn it is, freshly looked at."""
    return taking.state


def called(name: str) -> FunctionCalled:
    """The model calls a tool."""
    return FunctionCalled("resp_1", "item_f", "call_1", name, "{}")


def sound(taking: Turns, now: float, response: str = "resp_1", duration_ms: int = 200) -> None:
    """The agent speaks."""
    taking.audio_delta(AudioDelta(response, "item_1", 0, b"\x11" * duration_ms * 8), now)


def test_a_turn_is_listened_to_thought_about_and_answered() -> None:
    """The turn goes from caller to agent, and its latency is told."""
    taking, desk = turns()
    taking.speech_started(1.0)
    taking.speech_stopped(2.0)
    assert state(taking) is Turn.THINKING
    taking.response_started("resp_1", 2.1)
    sound(taking, 2.5)

    assert state(taking) is Turn.SPEAKING
    assert TurnAnswered(0.5) in desk.facts
    assert FirstAudioSent(2.5) in desk.facts
    assert taking.count == 1


def test_an_interruption_gives_the_turn_back() -> None:
    """The service cancels by itself, so nobody cancels twice."""
    taking, desk = turns()
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    taking.speech_started(1.2)

    assert state(taking) is Turn.LISTENING
    assert not [c for c in desk.to_realtime if isinstance(c, CancelResponse)]


def test_a_service_that_does_not_cancel_is_told_to() -> None:
    """With interrupt_response off the answer would go on."""
    detection = TurnDetection(interrupt_response=False)
    taking, desk = turns(session=SessionOptions(audio=ULAW_8K, turn_detection=detection))
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    taking.speech_started(1.2)

    assert CancelResponse("resp_1") in desk.to_realtime


def test_a_caller_who_may_not_interrupt_is_heard_out_later() -> None:
    """The agent of an announcement talks on."""
    taking, desk = turns(allow_barge_in=False)
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    before = len(desk.to_provider)
    taking.speech_started(1.2)

    assert state(taking) is Turn.SPEAKING
    assert len(desk.to_provider) == before


def test_an_answer_that_was_interrupted_before_it_began_is_stopped_by_its_id() -> None:
    """A cancel sent too early has no effect, so the wish is remembered."""
    taking, desk = turns()
    taking.ask(CreateResponse(), 1.0)
    taking.speech_started(1.1)
    taking.response_started("resp_1", 1.2)

    assert CancelResponse("resp_1") in desk.to_realtime
    sound(taking, 1.3)
    assert not desk.to_provider


def test_a_missing_answer_is_filled_once_the_phone_is_silent() -> None:
    """The caller hears that somebody is still there."""
    taking, desk = turns()
    taking.speech_stopped(1.0)
    assert desk.alarms["answer"] == 7.0
    taking.answer_is_late(7.0)

    assert TurnTimedOut(is_final=False) in desk.facts
    assert PromptPlayed("filler") in desk.facts


def test_no_filler_is_played_over_a_caller_who_speaks() -> None:
    """Nobody is told to wait while they talk."""
    taking, desk = turns()
    taking.speech_stopped(1.0)
    taking.speech_started(2.0)
    taking.answer_is_late(7.0)

    assert PromptPlayed("filler") not in desk.facts


def test_a_failed_answer_is_asked_for_once_more() -> None:
    """The first failure costs a moment, the second the call."""
    taking, desk = turns()
    taking.response_started("resp_1", 1.0)
    failed = ResponseDone("resp_1", "failed", "rate_limit_exceeded", retry_after_s=2.0)

    assert taking.response_done(failed, 1.1)
    assert desk.alarms["retry"] == pytest.approx(3.1)
    taking.ask_again(3.1)
    taking.response_started("resp_2", 3.2)
    assert not taking.response_done(ResponseDone("resp_2", "failed", "server_error"), 3.3)


@pytest.mark.parametrize(
    "done",
    [
        ResponseDone("resp_1", "failed", "insufficient_quota"),
        ResponseDone("resp_1", "failed", "rate_limit_exceeded", retry_after_s=86.0),
    ],
)
def test_some_failures_are_not_worth_waiting_for(done: ResponseDone) -> None:
    """No money, or a minute and a half of silence, is the end."""
    taking, _ = turns()
    taking.response_started("resp_1", 1.0)

    assert not taking.response_done(done, 1.1)


def test_an_answer_without_sound_is_none() -> None:
    """A text cannot be heard: ask again rather than be silent."""
    taking, desk = turns()
    taking.response_started("resp_1", 1.0)

    assert taking.response_done(ResponseDone("resp_1", "completed"), 1.1)
    assert RealtimeErrorSeen("no_audio", "warn", "") in desk.facts
    assert "retry" in desk.alarms


def test_a_tool_that_is_not_there_is_answered_and_then_spoken_about() -> None:
    """The output goes at once, the next answer is asked for when this one is done."""
    taking, desk = turns()
    taking.response_started("resp_1", 1.0)
    taking.function_called(called("transfer"))
    assert [type(command) for command in desk.to_realtime] == [SendFunctionOutput]
    taking.response_done(ResponseDone("resp_1", "completed"), 1.1)

    assert list(desk.to_realtime)[1:] == [CreateResponse()]
    assert ToolCalled("unknown") in desk.facts


def test_hanging_up_waits_for_nothing_but_the_goodbye() -> None:
    """The agent's wish is known when its answer is done, and no further answer is asked for."""
    taking, desk = turns(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    taking.response_started("resp_1", 1.0)
    taking.function_called(called("hang_up"))

    assert taking.response_done(ResponseDone("resp_1", "completed"), 1.1)
    assert taking.wants_to_hang_up
    assert CreateResponse() not in desk.to_realtime
    assert ToolCalled("ok") in desk.facts


def test_a_caller_who_speaks_is_not_hung_up_on() -> None:
    """Words after the goodbye take the wish back."""
    taking, _ = turns(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    taking.response_started("resp_1", 1.0)
    taking.function_called(called("hang_up"))
    taking.speech_started(1.1)

    assert not taking.wants_to_hang_up


def test_the_idle_clock_runs_when_the_phone_is_silent_only() -> None:
    """Audio that is still playing is not the caller's silence."""
    taking, desk, voice = _parts(idle_s=30.0)
    taking.wait_for_caller(0.0)
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    assert "idle" not in desk.alarms
    taking.response_done(ResponseDone("resp_1", "completed"), 1.2)
    taking.wait_for_caller(1.2)
    assert "idle" not in desk.alarms
    _play_to_the_end(voice, 5.0)
    taking.played_out(5.0)

    assert state(taking) is Turn.LISTENING
    assert desk.alarms["idle"] == 35.0


def test_a_response_that_stalls_is_watched_again() -> None:
    """Sound that stopped in the middle is not an answer."""
    taking, desk, voice = _parts()
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    assert "give up" not in desk.alarms
    _play_to_the_end(voice, 2.0)
    taking.played_out(2.0)

    assert desk.alarms["give up"] == 17.0


def test_a_caller_who_speaks_owes_nobody_an_answer() -> None:
    """The phone falling silent after an interruption starts no watch on the model."""
    taking, desk, voice = _parts()
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    taking.speech_started(1.2)
    _play_to_the_end(voice, 2.0)
    taking.played_out(2.0)

    assert not {"answer", "give up", "idle"} & set(desk.alarms)


def test_words_over_an_agent_that_may_not_be_interrupted_are_waited_for() -> None:
    """What the caller says meanwhile keeps the line, and is owed an answer when the agent ends."""
    taking, desk, voice = _parts(allow_barge_in=False)
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    taking.speech_started(1.2)
    taking.response_done(ResponseDone("resp_1", "completed"), 1.3)
    _play_to_the_end(voice, 2.0)
    taking.played_out(2.0)
    assert "idle" not in desk.alarms
    taking.speech_stopped(3.0)

    assert desk.alarms["give up"] == 18.0


def test_a_mm_hm_under_the_agents_voice_owes_nothing() -> None:
    """While an agent that may not be interrupted is heard, nobody waits for its next words."""
    taking, desk, voice = _parts(allow_barge_in=False)
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    taking.response_done(ResponseDone("resp_1", "completed"), 1.12)
    taking.speech_started(1.13)
    taking.speech_stopped(1.14)
    assert not taking.is_owed
    _play_to_the_end(voice, 2.0)
    taking.played_out(2.0)

    assert state(taking) is Turn.LISTENING
    assert not {"answer", "give up"} & set(desk.alarms)


def test_speech_that_never_stops_is_stopped() -> None:
    """A model that missed the end of the turn does not keep the line for ever."""
    taking, desk, _ = _parts(idle_s=30.0)
    taking.speech_started(1.0)
    assert desk.alarms["speech"] == 121.0
    taking.speech_never_stopped(121.0)

    assert desk.alarms["idle"] == 151.0


def test_keys_pressed_by_a_caller_who_speaks_are_answered_with_the_words() -> None:
    """One answer for both: asking now would talk over the caller."""
    taking, desk, _ = _parts()
    taking.speech_started(1.0)
    taking.answer_message(1.5)

    assert CreateResponse() not in desk.to_realtime


def test_the_end_of_an_answer_told_twice_is_no_failure_of_the_next() -> None:
    """A service that repeats itself costs no answer."""
    taking, desk, _ = _parts()
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.1)
    done = ResponseDone("resp_1", "completed")
    taking.response_done(done, 1.2)
    taking.response_started("resp_2", 1.3)

    assert taking.response_done(done, 1.4)
    assert "retry" not in desk.alarms


def test_a_create_that_was_refused_is_asked_again_as_it_was() -> None:
    """A greeting the service did not like is still a greeting the second time."""
    taking, desk, _ = _parts()
    taking.ask(CreateResponse("Say hello."), 1.0)
    assert taking.create_failed(0.0, 1.1)
    taking.ask_again(1.6)

    assert list(desk.to_realtime) == [CreateResponse("Say hello.")] * 2


def test_a_model_that_never_answers_is_left_at_the_second_time() -> None:
    """Sessions that connect and stay mute are not tried for ever."""
    taking, _, _ = _parts()

    assert taking.answer_never_came()
    assert not taking.answer_never_came()


def test_tokens_are_told_when_there_are_any() -> None:
    """An answer without usage is no measurement."""
    taking, desk = turns()
    taking.response_started("resp_1", 1.0)
    sound(taking, 1.0)
    taking.response_done(ResponseDone("resp_1", "completed", usage=Usage(input_text=3)), 1.1)

    assert [fact for fact in desk.facts if isinstance(fact, TokensUsed)] == [
        TokensUsed(Usage(input_text=3))
    ]


def test_a_session_that_goes_leaves_its_debt() -> None:
    """The next session owes the answer that this one did not give."""
    taking, _ = turns()
    assert not taking.suspend()
    taking.speech_stopped(1.0)

    assert taking.suspend()
