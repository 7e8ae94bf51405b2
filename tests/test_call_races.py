"""What a caller gets when things happen at the worst moment."""

import pytest

from gateway.audio.convert import Converter
from gateway.events import (
    HANG_UP,
    ULAW_8K,
    AddMessage,
    AgentTranscribed,
    AgentTranscriptDelta,
    AppendAudio,
    AudioCounted,
    AudioDone,
    AudioDropped,
    BargeInConfirmed,
    CallerTranscribed,
    CallStopped,
    CancelResponse,
    ClearAudio,
    CommitInput,
    ConfigureSession,
    CreateResponse,
    DialRealtime,
    DtmfReceived,
    FunctionCalled,
    HangUp,
    LinkClosed,
    QueryPlayout,
    RealtimeCommand,
    RealtimeError,
    RealtimeErrorSeen,
    ResponseDone,
    ResponseStarted,
    SessionOptions,
    SpeechStarted,
    TruncateItem,
    TurnAnswered,
    TurnDetection,
    TurnTimedOut,
)
from gateway.states import Lifecycle, Turn
from gateway.uplink import LEAD_IN_MS
from tests.lab import Lab
from tests.scenes import PROMPT_MS, PROMPTS, end_of, on_asterisk, placed, prompts, ringing, session

PLAIN = CreateResponse()
GREETING = CreateResponse("Say hello.")
BUSY = "conversation_already_has_active_response"
FRAME_MS = 20


def _uninterrupted(**changes: object) -> Lab:
    """A call whose agent may not be interrupted; the service does not stop by itself either."""
    return placed(allow_barge_in=False, session=session(interrupt_response=False), **changes)


def _can_hang_up(**changes: object) -> Lab:
    """A call whose agent has the tool to end it."""
    return placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)), **changes)


def _hangs_up(response_id: str) -> tuple[AudioDone, FunctionCalled, ResponseDone]:
    """The end of an answer that calls the hang-up tool."""
    return (
        AudioDone(response_id, "item_1", 0),
        FunctionCalled(response_id, "item_f", "call_1", "hang_up", "{}"),
        ResponseDone(response_id, "completed"),
    )


def _mumble(lab: Lab, *, for_s: float = 0.4) -> None:
    """The caller says a word or two, as the model hears it."""
    lab.caller_speaks()
    lab.run_for(for_s)
    lab.caller_stops()


def _recording(name: str) -> bytes:
    """What a whole recording sounds like on the phone."""
    converter = Converter("pcm", 24_000, "ulaw", 8000)
    return converter.convert(PROMPTS[name]) + converter.flush()


def _hears_whole(lab: Lab, name: str) -> bool:
    """Whether the caller heard a recording to its end before the line was cut."""
    cut_at = next(at for at, command in lab.sent if isinstance(command, HangUp)) + lab.out_s
    ends_at = lab.phone.ends_at_s(lab.phone.spans[-1])
    return _recording(name) in lab.phone.played and ends_at <= cut_at


def _frame(number: int) -> bytes:
    """20 ms of the caller that are like no others."""
    return number.to_bytes(2, "big") * 80


def _says(lab: Lab, numbers: range) -> None:
    """The caller sends these frames, in real time."""
    for number in numbers:
        lab.frames(1, _frame(number))


def _lose_session(lab: Lab) -> list[RealtimeCommand]:
    """The session breaks and a new one is ready at once; returns what that one is told."""
    lab.realtime(LinkClosed(1006))
    return _open_next(lab)


def _open_next(lab: Lab) -> list[RealtimeCommand]:
    """The new session is ready; returns what it is told at once."""
    said = len(lab.asked)
    lab.open_session()
    return [command for _, command in lab.asked[said:]]


def _audio(commands: list[RealtimeCommand]) -> bytes:
    """The caller's voice in what a session is told."""
    return b"".join(c.payload for c in commands if isinstance(c, AppendAudio))


def _told(commands: list[RealtimeCommand]) -> list[RealtimeCommand]:
    """What a session is told in words."""
    return [c for c in commands if not isinstance(c, AppendAudio | ConfigureSession)]


def _told_ms(lab: Lab) -> float:
    """All sound for the caller that was told to be carried or dropped."""
    carried_ms = sum(f.duration_ms for f in lab.told(AudioCounted) if f.direction == "down")
    return carried_ms + sum(f.duration_ms for f in lab.told(AudioDropped) if f.direction == "down")


# ---------------------------------------------------------------------- interruptions


def test_a_caller_with_a_long_story_keeps_the_session() -> None:
    """The watch on the answer that was interrupted does not run while the caller speaks."""
    lab = placed()
    lab.answer("resp_1", "item_1", 4000, is_done=False)
    lab.run_for(1)
    lab.caller_speaks()
    lab.run_for(0.1)
    lab.realtime(ResponseDone("resp_1", "cancelled", "turn_detected"))
    lab.frames(1000)

    assert not lab.told(TurnTimedOut)
    assert len(lab.commanded(DialRealtime)) == 1
    assert prompts(lab) == []


@pytest.mark.parametrize("is_done", [True, False])
def test_a_mm_hm_under_the_agents_voice_costs_nothing(*, is_done: bool) -> None:
    """An agent that may not be interrupted needs no answer to it: no filler, no new session."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 3000, is_done=is_done)
    lab.run_for(1)
    _mumble(lab)
    lab.realtime(ResponseDone("resp_1", "completed"))
    lab.run_for(40)

    assert lab.phone.played == b"\x55" * 24_000
    assert len(lab.commanded(DialRealtime)) == 1
    assert not lab.told(TurnTimedOut)
    assert prompts(lab) == []
    assert lab.call.turn is Turn.LISTENING


def test_a_mm_hm_under_a_long_answer_costs_nothing_meanwhile() -> None:
    """Nobody watches for an answer while half a minute of the agent is still to be heard."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 30_000)
    lab.run_for(1)
    _mumble(lab)
    lab.run_for(28)

    assert lab.call.turn is Turn.SPEAKING
    assert len(lab.commanded(DialRealtime)) == 1
    assert prompts(lab) == []


def test_a_mm_hm_is_not_said_again_to_the_next_session() -> None:
    """What needed no answer in the old session needs none in the new one either."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(1)
    lab.caller_speaks()
    _says(lab, range(1, 21))
    lab.caller_stops()
    lab.run_for(5)
    told = _lose_session(lab)
    lab.run_for(20)

    assert _audio(told) == b""
    assert prompts(lab) == []
    assert lab.call.turn is Turn.LISTENING


def test_a_mm_hm_does_not_pass_for_an_answered_turn() -> None:
    """The answer that was running is not booked as a fast reply to it."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.run_for(1)
    _mumble(lab)
    lab.delta("resp_1", "item_1", 2000)

    assert not lab.told(TurnAnswered)


def test_a_mm_hm_that_the_service_answers_is_answered() -> None:
    """Nothing is owed for it, but an answer that comes is played behind the first."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 2000)
    lab.run_for(1)
    _mumble(lab)
    lab.realtime(ResponseStarted("resp_2"))
    lab.delta("resp_2", "item_2", 500, value=0x33)
    lab.realtime(AudioDone("resp_2", "item_2", 0), ResponseDone("resp_2", "completed"))
    lab.run_for(4)

    assert lab.phone.played == b"\x55" * 16_000 + b"\x33" * 4000
    assert not lab.commanded(CancelResponse)


def test_a_caller_who_starts_under_the_agents_voice_and_goes_on_is_not_idle() -> None:
    """Somebody who talks is not told goodbye, and is owed an answer at the end."""
    lab = _uninterrupted(idle_s=10.0)
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(2)
    lab.caller_speaks()
    lab.frames(600)
    talking = prompts(lab)
    lab.caller_stops()
    lab.run_for(6.5)

    assert talking == []
    assert prompts(lab) == ["filler"]


def test_speech_whose_end_is_never_reported_does_not_keep_the_line() -> None:
    """A model that misses the end of the turn costs minutes, not the longest call."""
    lab = placed(idle_s=60.0)
    lab.caller_speaks()
    lab.run_for(119)
    assert lab.call.lifecycle is Lifecycle.ACTIVE
    lab.run_for(70)

    assert end_of(lab).termination.reason == "idle_timeout"
    assert prompts(lab) == ["goodbye"]


def test_speech_whose_end_is_never_reported_is_not_said_again() -> None:
    """Nobody waits for an answer to it, so a later session owes none."""
    lab = placed(idle_s=1000.0)
    lab.caller_speaks()
    lab.frames(10)
    lab.run_for(125)
    told = _lose_session(lab)
    lab.run_for(20)

    assert _audio(told) == b""
    assert prompts(lab) == []


def test_an_answer_ends_speech_whose_end_was_not_reported() -> None:
    """After an answer the caller is comforted as ever when the next one is late."""
    lab = placed()
    lab.caller_speaks()
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(5)
    lab.provider(DtmfReceived("1"), DtmfReceived("#"))
    lab.run_for(6.5)

    assert prompts(lab) == ["filler"]


def test_a_late_word_of_the_provider_is_not_about_the_next_interruption() -> None:
    """What it still held at the first barge-in says nothing about the second."""
    lab = on_asterisk(back_s=0.3)
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    _mumble(lab, for_s=0.05)
    lab.run_for(0.06)
    lab.answer("resp_2", "item_2", 4000)
    lab.run_for(0.12)
    lab.caller_speaks()
    lab.run_for(1)

    ends = {command.item_id: command.audio_end_ms for command in lab.commanded(TruncateItem)}
    assert ends.keys() == {"item_1", "item_2"}
    assert ends["item_2"] <= 140


# ---------------------------------------------------------------------- questions of ours


@pytest.mark.parametrize("about", ["", "other"])
def test_a_create_of_the_service_that_was_refused_repeats_no_greeting(about: str) -> None:
    """An error about somebody else's question is no reason to greet the caller twice."""
    lab = _uninterrupted(greeting="Say hello.")
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(3)
    _mumble(lab)
    lab.realtime(ResponseStarted("resp_2"))
    lab.delta("resp_2", "item_2", 3000)
    _mumble(lab)
    lab.realtime(RealtimeError(BUSY, "busy", about=about))  # type: ignore[arg-type]  # two of its values
    lab.realtime(AudioDone("resp_2", "item_2", 0), ResponseDone("resp_2", "completed"))
    lab.run_for(5)

    assert lab.commanded(CreateResponse) == [GREETING]


def test_a_greeting_the_service_refused_is_asked_for_again() -> None:
    """Whatever it did not like about it, the caller is greeted at the second try."""
    lab = placed(greeting="Say hello.")
    lab.realtime(RealtimeError("invalid_value", "warn", about="create"))
    lab.run_for(2)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)

    assert lab.commanded(CreateResponse) == [GREETING, GREETING]
    assert lab.phone.played_ms(lab.now) >= PROMPT_MS + 500


def test_a_greeting_the_service_refused_costs_the_caller_no_answer() -> None:
    """The next turn is answered and heard: its answer is not taken for the refused greeting."""
    lab = placed(greeting="Say hello.")
    lab.realtime(RealtimeError("invalid_value", "warn", about="create"))
    lab.run_for(0.2)
    _mumble(lab)
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(3)

    assert not lab.commanded(CancelResponse)
    assert lab.phone.played.endswith(b"\x55" * 8000)


def test_keys_and_then_words_get_one_answer() -> None:
    """The model is told of the keys, but is not asked to talk over the caller."""
    lab = placed()
    lab.provider(DtmfReceived("5"))
    lab.run_for(1)
    lab.caller_speaks()
    lab.run_for(2)
    assert lab.commanded(AddMessage) == [AddMessage("user", "The caller pressed the keys 5")]
    lab.caller_stops()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)

    assert not lab.commanded(CreateResponse)
    assert lab.phone.played == b"\x55" * 4000


def test_a_question_that_waits_survives_one_that_was_refused() -> None:
    """The caller's second choice is asked about, though the first met a busy model."""
    lab = placed()
    lab.provider(DtmfReceived("1"), DtmfReceived("#"))
    lab.run_for(0.01)
    lab.provider(DtmfReceived("2"), DtmfReceived("#"))
    lab.run_for(0.01)
    before = lab.commanded(CreateResponse)
    lab.realtime(RealtimeError(BUSY, "busy", about="create"))
    after = lab.commanded(CreateResponse)
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(2)

    assert before == [PLAIN]
    assert after == [PLAIN, PLAIN]
    assert lab.phone.played == b"\x55" * 4000


def test_a_greeting_that_failed_is_retried_as_a_greeting() -> None:
    """The second try has the instructions of the first."""
    lab = placed(greeting="Say hello.")
    lab.realtime(ResponseStarted("resp_1"), ResponseDone("resp_1", "failed", "server_error"))
    lab.run_for(2)

    assert lab.commanded(CreateResponse) == [GREETING, GREETING]


def test_the_hint_of_an_error_is_waited_for() -> None:
    """A service that asks for three seconds gets them before it is asked again."""
    lab = placed()
    lab.caller_stops()
    lab.realtime(RealtimeError("rate_limit_exceeded", "retry", retry_after_s=3.0))
    lab.run_for(2.9)
    early = lab.commanded(CreateResponse)
    lab.run_for(0.2)

    assert early == []
    assert lab.commanded(CreateResponse) == [PLAIN]


def test_the_hint_of_an_error_that_no_caller_bears_ends_the_call() -> None:
    """Nobody waits twenty seconds in silence for an answer."""
    lab = placed()
    lab.caller_stops()
    lab.realtime(RealtimeError("rate_limit_exceeded", "retry", retry_after_s=20.0))
    lab.run_for(5)

    assert prompts(lab) == ["apology"]
    assert not lab.commanded(CreateResponse)


def test_the_end_of_an_answer_that_is_told_late_does_not_fail_the_next() -> None:
    """The answer to the keys is not thought to be silent because an old one is over."""
    lab = _uninterrupted()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)
    lab.provider(DtmfReceived("1"), DtmfReceived("#"))
    lab.run_for(0.01)
    lab.realtime(ResponseStarted("resp_2"), ResponseDone("resp_1", "completed"))
    lab.run_for(2)

    assert not lab.told(RealtimeErrorSeen)
    assert prompts(lab) == []
    assert lab.commanded(CreateResponse) == [PLAIN]


def test_the_end_of_a_tool_call_that_is_told_twice_is_told_once() -> None:
    """An answer that only called a tool is not found silent the second time."""
    lab = placed()
    lab.caller_stops()
    done = ResponseDone("resp_1", "completed")
    lab.realtime(
        ResponseStarted("resp_1"),
        FunctionCalled("resp_1", "item_f", "call_1", "weather", "{}"),
        done,
        done,
    )
    lab.run_for(2)

    assert not lab.told(RealtimeErrorSeen)
    assert prompts(lab) == []
    assert lab.commanded(CreateResponse) == [PLAIN]


# ---------------------------------------------------------------------- sessions that go


def test_a_new_session_knows_what_the_agent_is_saying() -> None:
    """Words that still play from the old session are not said a second time by the new one."""
    lab = placed()
    _mumble(lab)
    lab.realtime(CallerTranscribed("item_u", "What does it cost?"))
    lab.answer("resp_1", "item_1", 4000, is_done=False)
    lab.realtime(AgentTranscriptDelta("resp_1", "item_1", "It costs one hundred"))
    lab.run_for(1)

    assert _told(_lose_session(lab)) == [
        AddMessage("user", "What does it cost?"),
        AddMessage("assistant", "It costs one hundred"),
        PLAIN,
    ]


def test_a_new_session_knows_a_whole_answer_that_still_plays() -> None:
    """An answer that is complete is told as such, and nothing more is asked."""
    lab = placed()
    _mumble(lab)
    lab.realtime(CallerTranscribed("item_u", "What does it cost?"))
    lab.answer("resp_1", "item_1", 9000, is_done=False)
    lab.realtime(
        AgentTranscribed("resp_1", "item_1", "It costs one hundred."),
        AudioDone("resp_1", "item_1", 0),
        ResponseDone("resp_1", "completed"),
    )
    lab.run_for(1)
    told = _told(_lose_session(lab))
    lab.run_for(20)

    assert told == [
        AddMessage("user", "What does it cost?"),
        AddMessage("assistant", "It costs one hundred."),
    ]
    assert not lab.commanded(CreateResponse)
    assert lab.phone.played == b"\x55" * 72_000


def test_a_new_session_is_told_what_still_plays_in_its_order() -> None:
    """Several items in the queue are told as the caller will hear them, and each once."""
    words = [f"Sentence {number}." for number in range(8)]
    lab = placed(lead_ms=2000)
    lab.realtime(ResponseStarted("resp_1"))
    for number, text in enumerate(words):
        lab.delta("resp_1", f"item_{number}", 1000)
        lab.realtime(AgentTranscribed("resp_1", f"item_{number}", text))
    lab.run_for(2.5)

    told = [
        command.text for command in _told(_lose_session(lab)) if isinstance(command, AddMessage)
    ]
    assert told == words


def test_a_question_that_waits_for_its_answer_is_said_again() -> None:
    """Without a transcript the new session hears the caller's own words, whole and in order."""
    lab = placed()
    _says(lab, range(100))
    lab.caller_speaks()
    _says(lab, range(100, 200))
    lab.caller_stops()
    lab.run_for(0.2)
    lab.realtime(LinkClosed(1006))
    _says(lab, range(200, 210))
    told = _open_next(lab)

    first = 100 - LEAD_IN_MS // FRAME_MS
    assert _audio(told) == b"".join(_frame(number) for number in range(first, 210))
    assert _told(told) == []
    assert not lab.commanded(CreateResponse)


def test_a_caller_who_speaks_when_the_session_goes_is_heard_from_the_beginning() -> None:
    """The new session hears the sentence that the old one did not live to answer."""
    lab = placed()
    _says(lab, range(10))
    lab.caller_speaks()
    _says(lab, range(10, 160))
    lab.realtime(LinkClosed(1006))
    _says(lab, range(160, 165))
    told = _open_next(lab)
    _mumble(lab)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)

    assert _audio(told) == b"".join(_frame(number) for number in range(165))
    assert not lab.commanded(CreateResponse)
    assert lab.phone.played == b"\x55" * 4000


def test_a_question_to_a_mute_session_is_said_again_to_the_next() -> None:
    """A quarter of a minute of waiting does not push the words out, and they are answered."""
    lab = placed()
    lab.caller_speaks()
    _says(lab, range(1, 101))
    lab.caller_stops()
    lab.frames(751, b"\xff" * 160)
    told = _open_next(lab)
    _mumble(lab)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)

    assert len(lab.commanded(DialRealtime)) == 2
    assert _audio(told).startswith(b"".join(_frame(number) for number in range(1, 101)))
    assert lab.call.turn is Turn.LISTENING
    assert lab.phone.played.endswith(b"\x55" * 4000)


def test_a_question_is_said_to_every_session_until_it_is_answered() -> None:
    """Two sessions lost one after the other lose nothing of it."""
    lab = placed()
    lab.caller_speaks()
    _says(lab, range(1, 51))
    lab.caller_stops()
    lab.run_for(0.2)
    first = _audio(_lose_session(lab))
    lab.run_for(10.5)
    second = _audio(_lose_session(lab))

    assert first == second == b"".join(_frame(number) for number in range(1, 51))


def test_keys_that_wait_for_their_answer_are_told_again() -> None:
    """A choice made just before the session broke is answered by the next one."""
    lab = placed()
    lab.provider(DtmfReceived("4"), DtmfReceived("#"))
    lab.run_for(0.1)

    assert _told(_lose_session(lab)) == [
        AddMessage("user", "The caller pressed the keys 4#"),
        PLAIN,
    ]


def test_an_answered_question_is_not_said_again() -> None:
    """Once the agent was heard, a new session is not asked the same."""
    lab = placed()
    lab.caller_speaks()
    _says(lab, range(1, 51))
    lab.caller_stops()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)
    told = _lose_session(lab)

    assert _audio(told) == b""
    assert _told(told) == []


def test_words_that_ask_for_no_answer_are_not_waited_for_in_the_next_session() -> None:
    """With answers switched off in the turn detection a renewal plays no filler."""
    lab = placed(session=session(create_response=False), idle_s=1000.0)
    lab.caller_speaks()
    lab.frames(10)
    _lose_session(lab)
    lab.run_for(20)

    assert prompts(lab) == []
    assert lab.call.turn is Turn.LISTENING


def test_a_mute_model_gets_two_sessions_at_most() -> None:
    """Sessions that open and never answer are not bought for an hour."""
    lab = placed()
    _mumble(lab)
    for _ in range(200):
        dialled = len(lab.commanded(DialRealtime))
        lab.run_for(1)
        if len(lab.commanded(DialRealtime)) > dialled:
            lab.open_session()

    assert len(lab.commanded(DialRealtime)) == 2
    assert end_of(lab).termination.reason == "realtime_error"
    assert end_of(lab).duration_s < 60
    assert _hears_whole(lab, "apology")


def test_nobody_is_idle_while_an_old_answer_plays_on() -> None:
    """After a renewal the silence is counted from the agent's last word, not before."""
    lab = placed(idle_s=20.0)
    lab.answer("resp_1", "item_1", 40_000)
    lab.run_for(1)
    _lose_session(lab)
    lab.run_for(58)
    early = prompts(lab)
    lab.run_for(5)

    assert early == []
    assert end_of(lab).termination.reason == "idle_timeout"
    assert lab.phone.played.startswith(b"\x55" * 320_000)


# ---------------------------------------------------------------------- last words


def test_an_apology_is_heard_however_much_is_queued() -> None:
    """Half a minute of an answer that leads nowhere does not keep the caller from the truth."""
    lab = placed(last_words_s=10.0)
    lab.answer("resp_1", "item_1", 30_000)
    lab.run_for(1)
    lab.realtime(RealtimeError("insufficient_quota", "fatal"))
    lab.run_for(40)

    assert _hears_whole(lab, "apology")
    assert end_of(lab).duration_s < 5


def test_making_room_for_last_words_is_no_interruption() -> None:
    """The operator's count of barge-ins is the callers', not ours."""
    lab = placed(last_words_s=10.0)
    lab.answer("resp_1", "item_1", 30_000)
    lab.run_for(1)
    lab.realtime(RealtimeError("insufficient_quota", "fatal"))
    lab.run_for(40)

    assert [command.asked_at for command in lab.commanded(ClearAudio)] == [0.0]
    assert end_of(lab).barge_ins == 0
    assert not lab.told(BargeInConfirmed)


def test_an_apology_follows_what_can_be_waited_for() -> None:
    """A short rest of an answer is heard, and then the apology, both whole."""
    lab = placed(last_words_s=10.0)
    lab.answer("resp_1", "item_1", 5000)
    lab.run_for(1)
    lab.realtime(RealtimeError("insufficient_quota", "fatal"))
    lab.run_for(40)

    assert lab.phone.played.startswith(b"\x55" * 40_000)
    assert _hears_whole(lab, "apology")


def test_an_agent_that_hangs_up_without_a_word_says_goodbye() -> None:
    """The caller hears that the call is over instead of a click."""
    lab = _can_hang_up()
    _mumble(lab)
    lab.realtime(ResponseStarted("resp_1"), *_hangs_up("resp_1"))
    lab.run_for(5)

    assert _hears_whole(lab, "goodbye")
    assert end_of(lab).termination.reason == "agent_hangup"


def test_an_agent_that_said_goodbye_does_not_say_it_twice() -> None:
    """The recording is for those who hang up without a word."""
    lab = _can_hang_up()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.realtime(*_hangs_up("resp_1"))
    lab.run_for(5)

    assert prompts(lab) == []
    assert end_of(lab).termination.reason == "agent_hangup"


def test_a_caller_who_speaks_up_before_the_goodbye_was_heard_keeps_the_call() -> None:
    """An agent that is done talking still listens until its last word was played."""
    lab = _can_hang_up()
    lab.answer("resp_1", "item_1", 5000, is_done=False)
    lab.realtime(*_hangs_up("resp_1"))
    lab.run_for(1)
    _mumble(lab)
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(10)

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert lab.phone.played.endswith(b"\x55" * 4000)


def test_a_caller_who_speaks_up_during_the_recorded_goodbye_keeps_the_call() -> None:
    """It makes no difference whose goodbye it is."""
    lab = _can_hang_up()
    _mumble(lab)
    lab.realtime(ResponseStarted("resp_1"), *_hangs_up("resp_1"))
    lab.run_for(0.3)
    lab.caller_speaks()
    lab.run_for(10)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


# ---------------------------------------------------------------------- the phone's queue


def test_a_long_filler_is_played_in_one_piece() -> None:
    """An answer that goes on meanwhile waits for the end of a recording that has begun."""
    long_filler = PROMPTS["filler"] * 6
    lab = on_asterisk(lead_ms=2000, prompts={"filler": long_filler})
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.run_for(7.2)
    lab.delta("resp_1", "item_1", 2000, value=0x33)
    lab.realtime(AudioDone("resp_1", "item_1", 0), ResponseDone("resp_1", "completed"))
    lab.run_for(9)
    converter = Converter("pcm", 24_000, "ulaw", 8000)
    filler = converter.convert(long_filler) + converter.flush()
    padding = b"\xff" * (-len(filler) % 160)

    assert prompts(lab) == ["filler"]
    assert lab.phone.played == b"\x55" * 8000 + filler + padding + b"\x33" * 16_000


def test_a_frame_that_is_longer_than_the_marks_distance_is_played() -> None:
    """Marks closer together than the provider's frames do not mute the agent."""
    lab = placed(frame_ms=60, mark_interval_ms=40)
    lab.answer("resp_1", "item_1", 1200)
    lab.run_for(3)

    assert lab.phone.played == b"\x55" * 9600
    assert lab.call.turn is Turn.LISTENING


@pytest.mark.parametrize("after_s", [0.0, 0.51, 1.0, 3.3, 9.0, 16.0])
def test_every_millisecond_of_the_agent_is_carried_or_dropped(after_s: float) -> None:
    """What the operator is told adds up to what came, but for the fill of each last frame."""
    items = {"item_1": 1005, "item_2": 4011, "item_3": 10_000}
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    for item, duration_ms in items.items():
        lab.delta("resp_1", item, duration_ms)
    lab.run_for(after_s)
    lab.caller_speaks()
    lab.delta("resp_1", "item_3", 700)
    lab.provider(CallStopped())

    assert 0 <= _told_ms(lab) - sum(items.values()) - 700 <= FRAME_MS * len(items)


def test_every_millisecond_of_a_recording_is_carried_or_dropped() -> None:
    """A filler that is interrupted adds up like any other sound."""
    lab = placed(lead_ms=2000, prompts={"filler": PROMPTS["filler"] * 6})
    lab.caller_stops()
    lab.run_for(6.05)
    lab.caller_speaks()
    lab.provider(CallStopped())

    assert 0 <= _told_ms(lab) - 6 * PROMPT_MS <= FRAME_MS


# ------------------------------------------------------------- a second look


def test_a_response_that_begins_over_the_caller_takes_nothing_back() -> None:
    """The caller talks on through an answer that was cancelled at once, and keeps the session."""
    lab = placed()
    lab.caller_stops()
    lab.caller_speaks()
    lab.realtime(ResponseStarted("resp_1"), ResponseDone("resp_1", "cancelled", "turn_detected"))
    lab.run_for(18)

    assert prompts(lab) == []
    assert len(lab.commanded(DialRealtime)) == 1


def test_an_agent_that_may_not_be_interrupted_gives_the_turn_back_when_heard_out() -> None:
    """Words begun under the agent's voice and gone on with are a turn like any other."""
    lab = placed(allow_barge_in=False)
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(0.5)
    lab.caller_speaks()
    lab.run_for(3)
    lab.caller_stops()
    lab.run_for(0.3)
    lab.caller_speaks()
    lab.run_for(18)

    assert lab.call.turn is Turn.LISTENING
    assert len(lab.commanded(DialRealtime)) == 1


@pytest.mark.parametrize("has_pressed", [True, False])
def test_words_that_end_with_a_key_survive_the_session(has_pressed: bool) -> None:  # noqa: FBT001
    """Without turn detection, too, what was not answered is said again, and asked about."""
    detection = TurnDetection(kind="none")
    lab = placed(session=SessionOptions(audio=ULAW_8K, turn_detection=detection))
    lab.frames(50, b"\x05" * 160)
    if has_pressed:
        lab.provider(DtmfReceived("#"))
    lab.realtime(LinkClosed(1006))
    before = len(lab.asked)
    if not has_pressed:
        lab.provider(DtmfReceived("#"))
    lab.open_session()

    after = [command for _, command in lab.asked[before:]]
    said = b"".join(c.payload for c in after if isinstance(c, AppendAudio))
    assert said == b"\x05" * 8000
    assert [type(c) for c in after[-2:]] == [CommitInput, CreateResponse]


def test_a_key_pressed_before_the_session_is_ready_is_not_forgotten() -> None:
    """The turn is ended as soon as there is somebody to end it for."""
    detection = TurnDetection(kind="none")
    lab = ringing(session=SessionOptions(audio=ULAW_8K, turn_detection=detection))
    lab.frames(10)
    lab.provider(DtmfReceived("#"))
    lab.open_session()

    assert len(lab.commanded(CommitInput)) == 1
    assert len(lab.commanded(CreateResponse)) == 1


def test_a_wish_to_hang_up_dies_with_a_session_that_had_said_nothing() -> None:
    """The next session is asked anew, and its answer does not end the call."""
    lab = placed(session=SessionOptions(audio=ULAW_8K, tools=(HANG_UP,)))
    lab.realtime(
        ResponseStarted("resp_1"),
        FunctionCalled("resp_1", "item_f", "call_1", "hang_up", "{}"),
        LinkClosed(1006),
    )
    lab.open_session()
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(3)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_a_failure_told_in_both_orders_is_one() -> None:
    """The error may come before or after the answer it broke."""
    lab = placed()
    lab.caller_stops()
    lab.realtime(
        ResponseStarted("resp_1"),
        ResponseDone("resp_1", "failed", "server_error"),
        RealtimeError("server_error", "retry"),
    )
    lab.run_for(2)

    assert len(lab.commanded(CreateResponse)) == 1
    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_words_over_an_agent_that_may_not_be_interrupted_survive_its_last_delta() -> None:
    """Audio of the answer that goes on does not erase what the caller is saying."""
    lab = placed(allow_barge_in=False)
    lab.answer("resp_1", "item_1", 200, is_done=False)
    lab.caller_speaks()
    lab.frames(10, b"\x05" * 160)
    lab.delta("resp_1", "item_1", 100)
    lab.realtime(ResponseDone("resp_1", "completed"))
    lab.frames(100, b"\x05" * 160)
    before = len(lab.asked)
    lab.realtime(LinkClosed(1006))
    lab.open_session()

    again = [c.payload for _, c in lab.asked[before:] if isinstance(c, AppendAudio)]
    assert b"".join(again).count(5) == 110 * 160


def test_a_noise_at_the_moment_of_a_loss_owes_nobody_an_answer() -> None:
    """What the new session does not take for words is none, and ends no call."""
    lab = placed(idle_s=1e6)
    lab.caller_speaks()
    lab.frames(20)
    lab.realtime(LinkClosed(1006))
    lab.open_session()
    lab.run_for(60)

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert len(lab.commanded(DialRealtime)) == 2


def test_a_report_that_never_came_costs_one_report() -> None:
    """The next barge-in is told by the provider again."""
    lab = on_asterisk()
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(1)
    lab.call.realtime_received(SpeechStarted("item_u", 0), lab.now)
    lab.call.to_provider.remove(QueryPlayout())
    lab.settle()
    lab.run_for(6)
    lab.answer("resp_2", "item_2", 3000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.run_for(1)

    assert len(lab.told(BargeInConfirmed)) == 1
