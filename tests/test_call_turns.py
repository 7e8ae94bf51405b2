"""What a caller gets for a turn: an answer, a filler, another try, or an apology."""

import pytest

from gateway.answers import TOOL_ROUNDS_LIMIT
from gateway.events import (
    HANG_UP,
    ULAW_8K,
    AddMessage,
    AgentSaid,
    AgentTranscribed,
    AgentTranscriptDelta,
    AppendAudio,
    AudioDone,
    CallerSpoke,
    CallerTranscribed,
    CancelResponse,
    ClearAudio,
    CommitInput,
    CreateResponse,
    DialRealtime,
    DtmfEntered,
    DtmfReceived,
    FunctionCalled,
    HangUp,
    ItemTruncated,
    RealtimeError,
    RealtimeErrorSeen,
    ResponseDone,
    ResponseStarted,
    SendFunctionOutput,
    SessionOptions,
    TokensUsed,
    ToolCalled,
    TruncateItem,
    TurnAnswered,
    TurnTimedOut,
    Usage,
)
from gateway.states import Lifecycle, Turn
from tests.lab import Lab
from tests.scenes import PROMPT_MS, dropped_ms, end_of, placed, prompts, ringing, session

PLAIN = CreateResponse()


def _asked_while_thinking() -> Lab:
    """A call that owes the caller an answer which has begun and has no sound yet."""
    lab = placed()
    lab.caller_stops()
    lab.realtime(ResponseStarted("resp_1"))
    return lab


def _failed(
    response_id: str, code: str = "server_error", retry_after_s: float = 0.0
) -> ResponseDone:
    return ResponseDone(response_id, "failed", code, "sorry", retry_after_s)


# ---------------------------------------------------------------------- turns


def test_a_turn_goes_from_the_caller_to_the_agent_and_back() -> None:
    """The state follows the conversation: listening, thinking, speaking, listening."""
    lab = placed()
    turns = [lab.call.turn]
    lab.caller_speaks()
    lab.caller_stops()
    turns.append(lab.call.turn)
    lab.answer("resp_1", "item_1", 1000)
    turns.append(lab.call.turn)
    lab.run_for(0.9)
    turns.append(lab.call.turn)
    lab.run_for(0.5)
    turns.append(lab.call.turn)

    assert turns == [Turn.LISTENING, Turn.THINKING, Turn.SPEAKING, Turn.SPEAKING, Turn.LISTENING]


def test_the_agent_speaks_until_the_answer_is_done() -> None:
    """A pause in the middle of an answer does not give the turn away."""
    lab = placed()
    lab.answer("resp_1", "item_1", 500, is_done=False)
    lab.run_for(2)
    stalled = lab.call.turn
    lab.realtime(AudioDone("resp_1", "item_1", 0), ResponseDone("resp_1", "completed"))

    assert stalled is Turn.SPEAKING
    assert lab.call.turn is Turn.LISTENING


def test_the_answer_of_a_turn_is_timed() -> None:
    """The operator sees how long the caller waited, once for each turn."""
    lab = placed()
    lab.caller_stops()
    lab.run_for(0.8)
    lab.answer("resp_1", "item_1", 100)
    lab.delta("resp_2", "item_2", 100)

    assert [fact.latency_s for fact in lab.told(TurnAnswered)] == [0.8]


def test_the_words_of_the_caller_are_told() -> None:
    """A transcript of the caller's turn reaches the record."""
    lab = placed()
    lab.realtime(CallerTranscribed("item_u", "Good morning"))

    assert lab.told(CallerSpoke) == [CallerSpoke("Good morning")]


def test_the_words_of_the_agent_are_told_as_they_come() -> None:
    """Whoever looks on reads along: all words so far, ahead of what was heard of them."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    lab.realtime(AgentTranscriptDelta("resp_1", "item_1", "Good "))
    lab.realtime(AgentTranscriptDelta("resp_1", "item_1", "morning"))
    lab.realtime(AgentTranscribed("resp_1", "item_1", "Good morning."))

    said = ["Good ", "Good morning", "Good morning."]
    assert lab.told(AgentSaid) == [AgentSaid("item_1", text) for text in said]


def test_words_after_an_interruption_are_not_told() -> None:
    """They were never spoken to anybody."""
    lab = placed()
    lab.answer("resp_1", "item_1", 3000, is_done=False)
    lab.run_for(0.5)
    lab.caller_speaks()
    lab.realtime(AgentTranscriptDelta("resp_1", "item_1", "never said"))

    assert lab.told(AgentSaid) == []


def test_tokens_are_told() -> None:
    """What an answer cost is counted, and an answer without figures is not."""
    lab = placed()
    lab.answer("resp_1", "item_1", 100, is_done=False)
    lab.realtime(ResponseDone("resp_1", "completed", usage=Usage(output_audio=12)))
    lab.realtime(ResponseStarted("resp_2"), ResponseDone("resp_2", "completed"))

    assert lab.told(TokensUsed) == [TokensUsed(Usage(output_audio=12))]


def test_a_service_that_waits_to_be_asked_leaves_the_caller_time() -> None:
    """With answers switched off in the turn detection a silence counts against the caller."""
    lab = placed(session=session(create_response=False), idle_s=10.0)
    lab.caller_speaks()
    lab.caller_stops()
    lab.run_for(15)

    assert end_of(lab).termination.reason == "idle_timeout"


# ---------------------------------------------------------------------- who cancels


def test_a_service_that_cancels_by_itself_is_not_told_to() -> None:
    """With interrupt_response the service has stopped already: a cancel would be an error."""
    lab = placed()
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.caller_speaks()

    assert not lab.commanded(CancelResponse)


def test_a_service_that_does_not_cancel_is_told_to() -> None:
    """Without interrupt_response a running answer is cancelled by its id."""
    lab = placed(session=session(interrupt_response=False))
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.caller_speaks()

    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]


def test_an_answer_that_is_done_is_not_cancelled() -> None:
    """Nothing runs: there is nothing to cancel, though the voice is still to be silenced."""
    lab = placed(session=session(interrupt_response=False))
    lab.answer("resp_1", "item_1", 2000)
    lab.caller_speaks()

    assert not lab.commanded(CancelResponse)
    assert len(lab.commanded(ClearAudio)) == 1


def test_an_answer_interrupted_before_it_began_is_cancelled_when_it_begins() -> None:
    """The greeting a caller talks over is stopped by id and never heard; the next answer is."""
    lab = placed(greeting="Say hello.")
    lab.caller_speaks()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.realtime(ResponseDone("resp_1", "cancelled", "client_cancelled"))
    lab.caller_stops()
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(2)

    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]
    assert dropped_ms(lab, "down", "cancelled") == 1000
    assert lab.phone.played_ms(lab.now) == 500


def test_an_interrupted_answer_is_not_watched() -> None:
    """A caller who speaks is owed nothing: no filler and no new session."""
    lab = _asked_while_thinking()
    lab.caller_speaks()
    lab.run_for(30)

    assert not lab.told(TurnTimedOut)
    assert prompts(lab) == []


def test_an_agent_that_may_not_be_interrupted_speaks_on() -> None:
    """With allow_barge_in off the caller's voice neither clears nor cancels."""
    lab = placed(allow_barge_in=False, session=session(interrupt_response=False))
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.caller_stops()
    lab.answer("resp_2", "item_2", 1000)
    lab.run_for(6)

    assert not lab.commanded(ClearAudio)
    assert not lab.commanded(CancelResponse)
    assert not lab.commanded(TruncateItem)
    assert lab.phone.played_ms(lab.now) == 4000


def test_a_silent_agent_listens_even_when_it_may_not_be_interrupted() -> None:
    """Barge-in switched off concerns the agent's speech only."""
    lab = placed(allow_barge_in=False, session=session(interrupt_response=False))
    lab.realtime(ResponseStarted("resp_1"))
    lab.caller_speaks()

    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]


def test_a_truncation_the_model_confirms_needs_nothing() -> None:
    """The echo of our own command is taken without a word."""
    lab = placed()
    said = len(lab.asked)
    lab.realtime(ItemTruncated("item_1", 500))

    assert len(lab.asked) == said


# ---------------------------------------------------------------------- busy and other errors


def test_a_busy_service_is_asked_again_when_it_is_free() -> None:
    """A greeting that met another answer is asked for once that is done."""
    lab = placed(greeting="Say hello.")
    lab.realtime(
        ResponseStarted("resp_vad"),
        RealtimeError("conversation_already_has_active_response", "busy", about="create"),
    )
    before = lab.commanded(CreateResponse)
    lab.realtime(ResponseDone("resp_vad", "completed"))

    assert before == [CreateResponse("Say hello.")]
    assert lab.commanded(CreateResponse) == [CreateResponse("Say hello.")] * 2


def test_a_busy_service_that_became_free_is_asked_at_once() -> None:
    """The end of the other answer came before the refusal: nobody waits for it again."""
    lab = placed(greeting="Say hello.")
    lab.answer("resp_vad", "item_1", 100)
    lab.realtime(RealtimeError("conversation_already_has_active_response", "busy"))

    assert len(lab.commanded(CreateResponse)) == 2
    lab.answer("resp_2", "item_2", 100)
    lab.run_for(2)
    assert lab.call.turn is Turn.LISTENING


def test_a_service_that_is_always_busy_is_left() -> None:
    """A model that refuses every question is replaced by a new session in the end."""
    lab = placed(greeting="Say hello.")
    for _ in range(20):
        lab.realtime(RealtimeError("conversation_already_has_active_response", "busy"))
    lab.run_for(16)

    assert len(lab.commanded(CreateResponse)) == 4
    assert len(lab.commanded(DialRealtime)) == 2


@pytest.mark.parametrize("severity", ["ignore", "warn"])
def test_an_error_that_hurts_nobody_is_only_told(severity: str) -> None:
    """A cancel that came too late, or a rejected setting, does not disturb the caller."""
    lab = _asked_while_thinking()
    said = len(lab.asked)
    lab.realtime(RealtimeError("response_cancel_not_active", severity, "late"))  # type: ignore[arg-type]  # checked at run time

    assert lab.told(RealtimeErrorSeen)[-1].severity == severity
    assert len(lab.asked) == said
    lab.answer("resp_1", "item_1", 100)
    lab.run_for(1)
    assert lab.call.turn is Turn.LISTENING


def test_a_fatal_error_ends_the_call_with_an_apology() -> None:
    """An account that cannot be used is not tried again."""
    lab = placed()
    lab.realtime(RealtimeError("invalid_api_key", "fatal"))
    lab.run_for(5)

    assert prompts(lab) == ["apology"]
    assert end_of(lab).termination.reason == "realtime_error"
    assert len(lab.commanded(DialRealtime)) == 1


def test_a_fatal_error_before_the_session_is_ready_means_unavailable() -> None:
    """The reason tells a call that never began from one that broke."""
    lab = ringing()
    lab.realtime(RealtimeError("invalid_api_key", "fatal"))
    lab.run_for(5)

    assert end_of(lab).termination.reason == "realtime_unavailable"


def test_a_service_error_is_answered_with_another_try() -> None:
    """A question the service failed on before it began is asked again, after a filler."""
    lab = placed(greeting="Say hello.")
    lab.realtime(RealtimeError("server_error", "retry"))
    lab.run_for(2)

    assert prompts(lab) == ["filler"]
    assert len(lab.commanded(CreateResponse)) == 2


def test_a_service_that_goes_on_failing_costs_an_apology() -> None:
    """Two errors in a row without an answer between them are the end."""
    lab = placed(greeting="Say hello.")
    lab.realtime(RealtimeError("server_error", "retry"))
    lab.run_for(1)
    lab.realtime(RealtimeError("server_error", "retry"))
    lab.run_for(5)

    assert prompts(lab) == ["filler", "apology"]
    assert end_of(lab).termination.reason == "realtime_error"


def test_a_service_that_fails_while_nothing_is_owed_disturbs_nobody() -> None:
    """An error outside of any answer is told, and the caller goes on."""
    lab = placed()
    lab.realtime(RealtimeError("server_error", "retry"))
    lab.run_for(2)

    assert prompts(lab) == []
    assert not lab.commanded(CreateResponse)


def test_an_error_and_the_answer_it_broke_are_one_failure() -> None:
    """A service that tells its failure twice still gets its second chance."""
    lab = _asked_while_thinking()
    lab.realtime(RealtimeError("server_error", "retry"), _failed("resp_1"))
    lab.run_for(2)

    assert lab.commanded(CreateResponse) == [PLAIN]
    assert lab.call.lifecycle is Lifecycle.ACTIVE


# ---------------------------------------------------------------------- failed answers


def test_a_failed_answer_is_asked_for_again_after_a_filler() -> None:
    """The caller hears that it takes a moment, and then the answer."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1"))
    early = lab.commanded(CreateResponse)
    lab.run_for(1)

    assert early == []
    assert prompts(lab) == ["filler"]
    assert lab.commanded(CreateResponse) == [PLAIN]
    assert lab.told(RealtimeErrorSeen) == [RealtimeErrorSeen("server_error", "retry", "sorry")]
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(2)
    assert lab.phone.played_ms(lab.now) >= PROMPT_MS + 500


def test_a_second_failure_ends_the_call_with_an_apology() -> None:
    """Two failures in a row are the end, said in words."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1"))
    lab.run_for(1)
    lab.realtime(ResponseStarted("resp_2"), _failed("resp_2"))
    lab.run_for(5)

    assert prompts(lab) == ["filler", "apology"]
    assert end_of(lab).termination.reason == "realtime_error"


def test_an_answer_that_was_heard_forgives_a_failure() -> None:
    """Failures count in a row only."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1"))
    lab.run_for(1)
    lab.answer("resp_2", "item_2", 100)
    lab.run_for(3)
    lab.realtime(ResponseStarted("resp_3"), _failed("resp_3"))
    lab.run_for(1)

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert prompts(lab) == ["filler", "filler"]


@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key", "model_not_found"])
def test_a_failure_that_will_not_pass_is_not_tried_again(code: str) -> None:
    """Without quota, key or model the caller gets an apology at once."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1", code))
    lab.run_for(5)

    assert prompts(lab) == ["apology"]
    assert end_of(lab).termination.reason == "realtime_error"
    assert lab.told(RealtimeErrorSeen) == [RealtimeErrorSeen(code, "fatal", "sorry")]


def test_a_bearable_hint_is_waited_for() -> None:
    """A service that asks for two seconds gets them."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1", "rate_limit_exceeded", 2.0))
    lab.run_for(1.9)
    early = lab.commanded(CreateResponse)
    lab.run_for(0.2)

    assert early == []
    assert lab.commanded(CreateResponse) == [PLAIN]


def test_a_hint_no_caller_bears_ends_the_call() -> None:
    """Nobody is left in silence for a minute."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1", "rate_limit_exceeded", 60.0))
    lab.run_for(5)

    assert prompts(lab) == ["apology"]


def test_an_answer_without_sound_is_asked_for_again() -> None:
    """A text-only answer would be silence on the phone: it is told and tried once more."""
    lab = _asked_while_thinking()
    lab.realtime(ResponseDone("resp_1", "incomplete", "content_filter"))
    lab.run_for(1)

    assert lab.told(RealtimeErrorSeen) == [RealtimeErrorSeen("no_audio", "warn", "content_filter")]
    assert lab.commanded(CreateResponse) == [PLAIN]


def test_a_cancelled_answer_is_no_failure() -> None:
    """An answer somebody stopped has no sound, and nobody misses it."""
    lab = _asked_while_thinking()
    lab.realtime(ResponseDone("resp_1", "cancelled", "turn_detected"))
    lab.run_for(1)

    assert not lab.told(RealtimeErrorSeen)
    assert not lab.commanded(CreateResponse)


def test_a_caller_who_speaks_before_the_retry_is_not_talked_over() -> None:
    """The caller has taken the turn: the answer that failed is no longer owed."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1"))
    lab.run_for(0.1)
    lab.caller_speaks()
    lab.run_for(3)

    assert not lab.commanded(CreateResponse)


def test_an_answer_of_the_service_spares_the_retry() -> None:
    """When another answer is running by then, no second one is asked for."""
    lab = _asked_while_thinking()
    lab.realtime(_failed("resp_1"), ResponseStarted("resp_2"))
    lab.run_for(1)

    assert not lab.commanded(CreateResponse)


# ---------------------------------------------------------------------- tools


def test_a_tool_that_does_not_exist_is_answered_at_once() -> None:
    """The model learns so immediately, and is asked to go on once its response is done."""
    lab = _asked_while_thinking()
    lab.realtime(FunctionCalled("resp_1", "item_f", "call_1", "weather", "{}"))
    (output,) = lab.commanded(SendFunctionOutput)
    before = lab.commanded(CreateResponse)
    lab.realtime(ResponseDone("resp_1", "completed"))

    assert (output.call_id, output.output) == ("call_1", '{"error":"There is no such tool."}')
    assert before == []
    assert lab.commanded(CreateResponse) == [PLAIN]
    assert lab.told(ToolCalled) == [ToolCalled("unknown")]
    assert not lab.told(RealtimeErrorSeen)


def test_several_tool_calls_owe_one_answer() -> None:
    """Calls of one response are each answered, and one response.create serves them all."""
    lab = _asked_while_thinking()
    for number in range(TOOL_ROUNDS_LIMIT + 2):
        lab.realtime(FunctionCalled("resp_1", f"item_{number}", f"call_{number}", "weather", "{}"))
    lab.realtime(ResponseDone("resp_1", "completed"))

    assert len(lab.commanded(SendFunctionOutput)) == TOOL_ROUNDS_LIMIT + 2
    assert lab.commanded(CreateResponse) == [PLAIN]


def test_a_model_that_only_calls_tools_is_stopped() -> None:
    """A tool loop ends in an apology, not in a bill."""
    lab = _asked_while_thinking()
    rounds = 1
    while lab.call.lifecycle is Lifecycle.ACTIVE and rounds < 50:
        lab.realtime(
            FunctionCalled(f"resp_{rounds}", f"item_{rounds}", f"call_{rounds}", "weather", "{}"),
            ResponseDone(f"resp_{rounds}", "completed"),
        )
        lab.run_for(1)
        rounds += 1
        lab.realtime(ResponseStarted(f"resp_{rounds}"))
    lab.run_for(5)

    assert rounds <= TOOL_ROUNDS_LIMIT + 4
    assert end_of(lab).termination.reason == "realtime_error"


def test_the_agent_can_end_the_call_once_its_goodbye_was_heard() -> None:
    """The hang-up tool waits for the last word of the answer that called it."""
    lab = placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.realtime(
        AudioDone("resp_1", "item_1", 0),
        FunctionCalled("resp_1", "item_f", "call_1", "hang_up", "{}"),
        ResponseDone("resp_1", "completed"),
    )
    lab.run_for(5)

    assert lab.told(ToolCalled) == [ToolCalled("ok")]
    assert lab.phone.played == b"\x55" * 16_000
    assert end_of(lab).termination.reason == "agent_hangup"
    assert not lab.commanded(CreateResponse)
    assert lab.sent[-1][1] == HangUp()
    assert 2 <= lab.sent[-1][0] <= 2.2


def test_the_agent_can_end_the_call_without_a_word() -> None:
    """An answer that is nothing but the hang-up is no failure; the caller hears a goodbye."""
    lab = placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    lab.realtime(
        ResponseStarted("resp_1"),
        FunctionCalled("resp_1", "item_f", "call_1", "hang_up", "{}"),
        ResponseDone("resp_1", "completed"),
    )

    lab.run_for(5)

    assert end_of(lab).termination.reason == "agent_hangup"
    assert prompts(lab) == ["goodbye"]


def test_a_caller_who_interrupts_the_goodbye_keeps_the_call() -> None:
    """An agent that was about to hang up listens instead."""
    lab = placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.realtime(FunctionCalled("resp_1", "item_f", "call_1", "hang_up", "{}"))
    lab.caller_speaks()
    lab.realtime(ResponseDone("resp_1", "cancelled", "turn_detected"))
    lab.run_for(5)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_a_late_hang_up_of_an_interrupted_answer_keeps_the_call() -> None:
    """What an answer wanted after the caller interrupted it is not done."""
    lab = placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.caller_speaks()
    lab.realtime(
        FunctionCalled("resp_1", "item_f", "call_1", "hang_up", "{}"),
        ResponseDone("resp_1", "cancelled", "turn_detected"),
    )
    lab.run_for(5)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_a_late_tool_call_of_an_interrupted_answer_asks_for_nothing() -> None:
    """The tool call is answered, but no answer is asked for while the caller speaks."""
    lab = placed()
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.caller_speaks()
    lab.realtime(
        FunctionCalled("resp_1", "item_f", "call_1", "weather", "{}"),
        ResponseDone("resp_1", "cancelled", "turn_detected"),
    )
    lab.run_for(1)

    assert len(lab.commanded(SendFunctionOutput)) == 1
    assert not lab.commanded(CreateResponse)


# ---------------------------------------------------------------------- the answer watchdog


def test_a_late_answer_is_bridged_by_a_filler() -> None:
    """After six seconds of silence the caller hears that somebody is there, once."""
    lab = placed()
    lab.caller_stops()
    lab.run_for(5.9)
    early = prompts(lab)
    lab.run_for(5)

    assert early == []
    assert prompts(lab) == ["filler"]
    assert lab.told(TurnTimedOut) == [TurnTimedOut(is_final=False)]


def test_an_answer_that_never_comes_costs_the_session() -> None:
    """After fifteen seconds a new session is asked, and asked for the answer."""
    lab = placed()
    lab.caller_stops()
    lab.run_for(15)
    assert len(lab.commanded(DialRealtime)) == 2
    assert lab.told(TurnTimedOut)[-1] == TurnTimedOut(is_final=True)
    lab.open_session()

    assert lab.commanded(CreateResponse) == [PLAIN]


def test_an_answer_in_time_calls_off_the_watchdog() -> None:
    """Once the agent is heard nobody plays a filler."""
    lab = placed()
    lab.caller_stops()
    lab.run_for(5)
    lab.answer("resp_1", "item_1", 12_000)
    lab.run_for(20)

    assert not lab.told(TurnTimedOut)


@pytest.mark.parametrize("duration_ms", [2000, 2005])
def test_an_answer_that_stalls_is_watched_again(duration_ms: int) -> None:
    """A model that falls silent in mid-sentence is noticed when the phone runs dry.

    Even where it stops in the middle of a frame, as it does wherever audio is resampled.
    """
    lab = placed()
    lab.answer("resp_1", "item_1", duration_ms, is_done=False)
    lab.run_for(7.9)
    early = prompts(lab)
    lab.run_for(0.3)

    assert early == []
    assert prompts(lab) == ["filler"]
    lab.run_for(9)
    assert len(lab.commanded(DialRealtime)) == 2


def test_no_filler_is_played_over_the_agent() -> None:
    """While something is heard the caller needs no comfort."""
    lab = placed(allow_barge_in=False, session=session(interrupt_response=False))
    lab.answer("resp_1", "item_1", 12_000)
    lab.caller_stops()
    lab.run_for(10)

    assert prompts(lab) == []


# ---------------------------------------------------------------------- keys


def test_keys_become_one_message() -> None:
    """Two seconds after the last key the model is told all of them, and asked."""
    lab = placed()
    for digit in "42*":
        lab.provider(DtmfReceived(digit))
        lab.run_for(1.5)
    assert not lab.commanded(AddMessage)
    lab.run_for(1)

    assert lab.commanded(AddMessage) == [AddMessage("user", "The caller pressed the keys 42*")]
    assert lab.commanded(CreateResponse) == [PLAIN]
    assert lab.told(DtmfEntered) == [DtmfEntered()] * 3


def test_a_hash_ends_an_entry_at_once() -> None:
    """A caller who presses # does not wait, and the next entry is a new one."""
    lab = placed()
    lab.provider(DtmfReceived("7"), DtmfReceived("#"))
    lab.run_for(0.1)
    lab.answer("resp_1", "item_1", 100)
    lab.run_for(1)
    lab.provider(DtmfReceived("8"), DtmfReceived("#"))
    lab.run_for(0.1)

    assert [command.text for command in lab.commanded(AddMessage)] == [
        "The caller pressed the keys 7#",
        "The caller pressed the keys 8#",
    ]


def test_endless_keys_are_bounded() -> None:
    """A stuck key does not fill the model's memory."""
    lab = placed()
    lab.provider(*[DtmfReceived("5")] * 500)
    lab.run_for(3)

    assert lab.commanded(AddMessage) == [
        AddMessage("user", f"The caller pressed the keys {'5' * 64}")
    ]


def test_a_key_interrupts_the_agent() -> None:
    """The service hears no keys: we clear, cancel and truncate ourselves."""
    lab = placed()
    lab.answer("resp_1", "item_1", 3000, is_done=False)
    lab.run_for(1)
    lab.provider(DtmfReceived("1"))

    assert len(lab.commanded(ClearAudio)) == 1
    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]
    assert len(lab.commanded(TruncateItem)) == 1


def test_keys_pressed_before_the_session_is_ready_are_kept() -> None:
    """An impatient caller's choice reaches the model when it can listen."""
    lab = ringing()
    lab.provider(DtmfReceived("1"), DtmfReceived("#"))
    lab.run_for(2.5)
    before = lab.commanded(AddMessage)
    lab.open_session()
    lab.run_for(3)

    assert before == []
    assert lab.commanded(AddMessage) == [AddMessage("user", "The caller pressed the keys 1#")]


def test_a_key_is_a_sign_of_life() -> None:
    """A caller who presses keys is not idle."""
    lab = placed(idle_s=5.0)
    lab.run_for(4)
    lab.provider(DtmfReceived("1"))
    lab.run_for(4)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_without_turn_detection_a_hash_ends_the_turn() -> None:
    """The caller decides: # commits what was said and asks for the answer."""
    lab = placed(session=session(kind="none"))
    lab.frames(5)
    lab.provider(DtmfReceived("#"))

    kinds = [type(command) for _, command in lab.asked[2:]]
    assert kinds == [AppendAudio] * 5 + [CommitInput, CreateResponse]
    assert not lab.commanded(AddMessage)


def test_without_turn_detection_an_early_hash_does_no_harm() -> None:
    """A # before the session is ready loses no greeting and blocks no answer."""
    lab = ringing(session=session(kind="none"), greeting="Say hello.")
    lab.provider(DtmfReceived("#"))
    lab.open_session()
    lab.answer("resp_1", "item_1", 100)
    lab.run_for(1)
    lab.provider(DtmfReceived("#"))

    assert lab.commanded(CreateResponse) == [CreateResponse("Say hello."), PLAIN]


def test_without_turn_detection_keys_still_reach_the_model() -> None:
    """Digits are digits, whoever decides about turns."""
    lab = placed(session=session(kind="none"))
    lab.answer("resp_1", "item_1", 3000, is_done=False)
    lab.provider(DtmfReceived("3"))
    lab.realtime(ResponseDone("resp_1", "cancelled", "client_cancelled"))
    lab.run_for(3)

    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]
    assert lab.commanded(AddMessage) == [AddMessage("user", "The caller pressed the keys 3")]
