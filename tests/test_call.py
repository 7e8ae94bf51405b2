"""One call from its start to its end: what the caller, the model and the operator get."""

import pytest

from gateway.events import (
    RESULTS,
    ULAW_8K,
    AddMessage,
    AppendAudio,
    AudioCounted,
    AudioDelta,
    AudioLost,
    AudioReceived,
    CallBegan,
    CallEnded,
    CallReady,
    CallStopped,
    CancelResponse,
    ClearAudio,
    CloseRealtime,
    ConfigureSession,
    CreateResponse,
    DialRealtime,
    DtmfReceived,
    FirstAudioSent,
    FrameRejected,
    HangUp,
    LinkClosed,
    MarksLost,
    MessageRejected,
    PlayoutPaused,
    PlayoutResumed,
    RateLimitReported,
    RateLimitSeen,
    RealtimeConnected,
    RealtimeError,
    Reason,
    ResponseStarted,
    SessionCreated,
    SessionOptions,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    TruncateItem,
)
from gateway.states import Lifecycle, Turn
from tests.lab import Lab, options, started
from tests.scenes import (
    PROMPT_MS,
    appended,
    dropped_ms,
    end_of,
    handed_over_ms,
    placed,
    prompts,
    ringing,
)


def _frame(number: int) -> bytes:
    return number.to_bytes(2, "big") * 80


# ---------------------------------------------------------------------- the beginning


def test_the_session_is_dialled_before_anything_else() -> None:
    """A call asks for its model at once, and tells the operator who is on the line."""
    lab = ringing()

    assert [command for _, command in lab.asked] == [DialRealtime(0.0, 4.9)]
    assert lab.call.lifecycle is Lifecycle.STARTING
    (began,) = lab.told(CallBegan)
    assert (began.provider_call_id, began.from_number, began.to_number, began.audio_in) == (
        "CA1",
        "+15550100001",
        "+15550100002",
        ULAW_8K,
    )


def test_the_greeting_is_asked_first() -> None:
    """The agent speaks first, in its own manner, where a greeting is set."""
    session = SessionOptions(instructions="You are kind.", audio=ULAW_8K)
    lab = placed(session=session, greeting="Say hello.")

    assert [command for _, command in lab.asked] == [
        DialRealtime(0.0, 4.9),
        ConfigureSession(session),
        CreateResponse("You are kind.\n\nSay hello."),
    ]
    assert lab.call.turn is Turn.THINKING


def test_without_a_greeting_the_caller_speaks_first() -> None:
    """No greeting set: the model is asked nothing and the agent listens."""
    lab = placed()

    assert not lab.commanded(CreateResponse)
    assert lab.call.turn is Turn.LISTENING


def test_the_operator_is_told_how_long_the_beginning_took() -> None:
    """Set-up and first sound are measured from the provider's start message."""
    lab = ringing(greeting="Say hello.")
    lab.run_for(1.5)
    lab.open_session()
    lab.run_for(0.5)
    lab.answer("resp_1", "item_1", 500)
    lab.answer("resp_2", "item_2", 500)

    assert [fact.setup_s for fact in lab.told(CallReady)] == [1.5]
    assert [fact.latency_s for fact in lab.told(FirstAudioSent)] == [2.0]


def test_the_states_of_a_call_are_told() -> None:
    """An operator can follow a call from state to state."""
    lab = placed()
    lab.answer("resp_1", "item_1", 200)
    lab.run_for(1)
    lab.provider(CallStopped())

    steps = [(fact.machine, fact.state) for fact in lab.told(StateChanged)]
    assert steps == [
        ("lifecycle", "active"),
        ("turn", "thinking"),
        ("turn", "speaking"),
        ("turn", "listening"),
        ("lifecycle", "ended"),
    ]


# ---------------------------------------------------------------------- the caller's audio


def test_a_slow_session_hears_the_caller_from_the_first_frame() -> None:
    """Three seconds spoken before the session was ready arrive complete and in order."""
    lab = ringing()
    frames = [_frame(number) for number in range(200)]
    for frame in frames[:150]:
        lab.frames(1, frame)
    assert not lab.commanded(AppendAudio)
    lab.open_session()
    for frame in frames[150:]:
        lab.frames(1, frame)

    assert appended(lab) == b"".join(frames)


def test_no_audio_goes_to_a_session_that_has_not_taken_its_options() -> None:
    """Audio in the wrong format would be noise: it waits for session.updated."""
    lab = ringing()
    lab.realtime(RealtimeConnected(0.1), SessionCreated("sess_1", 0.0))
    lab.frames(5)
    before = appended(lab)
    lab.realtime(SessionUpdated())

    assert before == b""
    assert appended(lab) == b"\x7f" * 800


def test_audio_held_for_a_slow_session_is_bounded() -> None:
    """Of twelve seconds the last ten are kept, and the operator is told of the other two."""
    lab = ringing(connect_budget_s=30.0)
    frames = [_frame(number) for number in range(600)]
    for frame in frames:
        lab.frames(1, frame)
    lab.open_session()

    assert appended(lab) == b"".join(frames[100:])
    assert dropped_ms(lab, "up", "overflow") == 2000


def test_live_audio_goes_straight_through() -> None:
    """A frame leaves with the event that brought it, marked with that moment."""
    lab = placed()
    lab.run_for(1)
    lab.provider(AudioReceived(b"\x01" * 160))

    (command,) = lab.commanded(AppendAudio)
    assert (command.payload, command.asked_at) == (b"\x01" * 160, 1.0)


def test_lost_audio_is_told_and_becomes_silence() -> None:
    """The model's clock keeps the caller's pace, and the operator sees the gap."""
    lab = placed()
    lab.provider(AudioLost(40))

    assert appended(lab) == b"\xff" * 320
    assert dropped_ms(lab, "up", "gap") == 40


def test_audio_lost_while_it_is_held_keeps_its_place() -> None:
    """Before the session is there a gap is held like audio."""
    lab = ringing()
    lab.provider(AudioReceived(b"\x01" * 160), AudioLost(20), AudioReceived(b"\x02" * 160))
    lab.open_session()

    assert appended(lab) == b"\x01" * 160 + b"\xff" * 160 + b"\x02" * 160


def test_carried_audio_is_told_about_once_a_second() -> None:
    """The counters of both directions are complete when the call is over."""
    lab = placed()
    lab.answer("resp_1", "item_1", 500)
    lab.frames(125)
    early = len(lab.told(AudioCounted))
    lab.provider(CallStopped())

    counts = [(fact.direction, fact.duration_ms) for fact in lab.told(AudioCounted)]
    assert early == 2
    assert sorted(counts) == [("down", 500), ("up", 500), ("up", 1000), ("up", 1000)]


def test_a_call_that_never_got_a_session_accounts_for_its_audio() -> None:
    """Audio that was held to the end reached nobody: it is told as dropped."""
    lab = ringing()
    lab.frames(50)
    lab.provider(CallStopped())

    assert dropped_ms(lab, "up", "ended") == 1000


# ---------------------------------------------------------------------- the end


def test_a_caller_who_hangs_up_ends_the_call() -> None:
    """The session is closed at once, and a phone that is gone is not hung up on."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(0.5)
    lab.provider(CallStopped())

    assert end_of(lab).termination.reason == "caller_hangup"
    assert lab.asked[-1][1] == CloseRealtime()
    assert not lab.commanded(HangUp)
    assert not lab.commanded(TruncateItem)
    assert lab.call.next_timer() is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, "caller_hangup"),
        (1001, "caller_hangup"),
        (1005, "caller_hangup"),
        (1002, "protocol_error"),
        (1003, "protocol_error"),
        (1007, "protocol_error"),
        (1008, "protocol_error"),
        (1009, "protocol_error"),
        (1006, "provider_lost"),
        (1011, "provider_lost"),
        (4999, "provider_lost"),
    ],
)
def test_a_closed_provider_link_says_why(code: int, reason: Reason) -> None:
    """Each close code of the provider has its reason in the record, and the code beside it."""
    lab = placed()
    lab.provider(LinkClosed(code))

    record = end_of(lab)
    assert record.termination.reason == reason
    assert record.termination.result == RESULTS[reason]
    assert record.detail == f"close code {code}"


def test_nothing_happens_after_the_end() -> None:
    """Late events of both sides, timers and hang-ups leave a call that is over as it was."""
    lab = placed()
    lab.provider(CallStopped())
    said = (len(lab.facts), len(lab.sent), len(lab.asked))
    lab.provider(AudioReceived(b"\x01"), DtmfReceived("1"), LinkClosed(1006), CallStopped())
    lab.answer("resp_1", "item_1", 100)
    lab.realtime(LinkClosed(1006), RealtimeError("other", "fatal"))
    lab.call.timer_fired(1e6)
    lab.call.hang_up("drain", 1e6)
    lab.settle()

    assert (len(lab.facts), len(lab.sent), len(lab.asked)) == said


def test_the_record_of_a_call_is_complete() -> None:
    """Length, turns, interruptions and what was said and heard stand in one record."""
    lab = placed()
    lab.caller_speaks()
    lab.caller_stops()
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(2)
    lab.caller_stops()
    lab.answer("resp_2", "item_2", 3000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.provider(CallStopped())

    record = end_of(lab)
    assert (record.duration_s, record.turns, record.barge_ins) == (3, 2, 1)
    assert record.received_ms == 4000
    assert abs(record.heard_ms - 1000 - 950) <= 100


def test_hanging_up_at_once_says_nothing() -> None:
    """An operator who cannot wait gets the phone hung up with the very next command."""
    lab = placed()
    lab.call.hang_up("drain", lab.now, at_once=True)
    lab.settle()

    assert end_of(lab).termination.reason == "drain"
    assert prompts(lab) == []
    assert [command for _, command in lab.sent] == [HangUp()]


def test_hanging_up_takes_back_what_waits_for_the_socket() -> None:
    """At the end nothing stands before the hang-up."""
    lab = placed()
    lab.call.realtime_received(AudioDelta("resp_1", "item_1", 0, b"\x11" * 8000), lab.now)
    lab.call.hang_up("internal_error", lab.now)

    assert list(lab.call.to_provider) == [HangUp()]


def test_a_drain_says_goodbye() -> None:
    """The caller hears the whole goodbye before the line is cut, and the model is let go first."""
    lab = placed()
    lab.run_for(1)
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    assert lab.call.lifecycle is Lifecycle.ENDING
    assert lab.asked[-1][1] == CloseRealtime()
    lab.run_for(5)

    record = end_of(lab)
    assert (record.termination.reason, record.termination.result) == ("drain", "success")
    assert prompts(lab) == ["goodbye"]
    assert lab.sent[-1][1] == HangUp()
    assert lab.sent[-1][0] >= 1 + PROMPT_MS / 1000
    assert lab.phone.cleared_ms == 0


def test_a_drain_lets_the_agent_finish() -> None:
    """What is queued is heard to its end before the goodbye."""
    lab = placed()
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(1)
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    lab.run_for(10)

    assert lab.phone.played.startswith(b"\x55" * 24_000)
    assert lab.phone.played_ms(lab.now) >= 3000 + PROMPT_MS
    assert end_of(lab).heard_ms == 3000


def test_without_a_recording_the_end_is_at_once() -> None:
    """No goodbye to play and nothing queued: nobody waits."""
    lab = placed(prompts={})
    lab.call.hang_up("drain", lab.now)
    lab.settle()

    assert end_of(lab).termination.reason == "drain"


def test_last_words_are_said_once() -> None:
    """A second reason to hang up during the goodbye changes neither words nor reason."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.call.hang_up("max_duration", lab.now)
    lab.settle()
    lab.run_for(5)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).termination.reason == "drain"


def test_the_first_reason_is_the_reason() -> None:
    """A caller who hangs up during the goodbye did not end the call."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    lab.provider(CallStopped())

    assert end_of(lab).termination.reason == "drain"


def test_a_fault_during_last_words_keeps_the_first_reason() -> None:
    """What happened first is what the operator reads."""
    lab = placed()
    lab.call.hang_up("idle_timeout", lab.now)
    lab.call.hang_up("internal_error", lab.now)
    lab.settle()

    assert end_of(lab).termination.reason == "idle_timeout"


def test_last_words_are_bounded() -> None:
    """A phone that takes no audio cannot keep a call from ending."""
    lab = placed()
    lab.provider(PlayoutPaused())
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    lab.run_for(10)

    assert 3 <= end_of(lab).duration_s - PROMPT_MS / 1000 < 3.1


def test_minutes_of_agent_audio_do_not_hold_up_the_end() -> None:
    """However much is queued, the caller hears the last words, and soon."""
    lab = placed(last_words_s=10.0)
    lab.answer("resp_1", "item_1", 60_000)
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    lab.run_for(60)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).duration_s < 5


def test_in_the_last_words_the_model_has_no_say() -> None:
    """A session that is being closed can neither clear the goodbye nor prolong the call."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.realtime(SpeechStarted("item_u", 0), SpeechStopped("item_u", 0), ResponseStarted("resp_1"))
    lab.delta("resp_1", "item_1", 100)
    lab.realtime(SessionCreated("sess_1", 1.0), SessionUpdated(), LinkClosed(1000))
    lab.run_for(5)

    assert not lab.commanded(ClearAudio)
    assert end_of(lab).duration_s < 2
    assert dropped_ms(lab, "down", "ended") == 100
    assert lab.asked[-1][1] == CloseRealtime()


def test_errors_in_the_last_words_are_told_and_change_nothing() -> None:
    """A fatal error of a session that is let go is no second end."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.realtime(RealtimeError("other", "fatal"), RealtimeError("session_expired", "expired"))
    lab.run_for(5)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).termination.reason == "drain"


def test_in_the_last_words_the_caller_is_no_longer_carried() -> None:
    """Audio, gaps and keys of an ending call go nowhere; the audio is told as dropped."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    lab.frames(3)
    lab.provider(AudioLost(20), DtmfReceived("1"))
    lab.run_for(5)

    assert appended(lab) == b""
    assert dropped_ms(lab, "up", "ended") == 60
    assert not lab.commanded(AddMessage)
    assert not lab.commanded(ClearAudio)


def test_a_session_that_opens_too_late_is_closed() -> None:
    """A model that answers after the caller was told goodbye is let go at once."""
    lab = ringing()
    lab.call.hang_up("drain", lab.now)
    lab.settle()
    before = len(lab.asked)
    lab.realtime(RealtimeConnected(0.5))

    assert [command for _, command in lab.asked[before:]] == [CloseRealtime()]


def test_the_longest_call_ends_with_a_goodbye() -> None:
    """A call that reaches its limit is ended politely."""
    lab = placed(max_call_s=20.0)
    lab.run_for(30)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).termination.reason == "max_duration"


def test_an_idle_caller_is_told_goodbye() -> None:
    """Nobody says anything for a while: the call ends politely."""
    lab = placed(idle_s=10.0)
    lab.run_for(9.9)
    assert prompts(lab) == []
    lab.run_for(5)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).termination.reason == "idle_timeout"


def test_a_listening_caller_is_not_idle() -> None:
    """The silence of a caller is counted from the end of the agent's speech."""
    lab = placed(idle_s=10.0)
    lab.answer("resp_1", "item_1", 15_000)
    lab.run_for(24.9)

    assert prompts(lab) == []
    lab.run_for(1)
    assert prompts(lab) == ["goodbye"]


def test_a_speaking_caller_is_not_idle() -> None:
    """A caller with a long story is not interrupted by a goodbye."""
    lab = placed(idle_s=10.0)
    lab.caller_speaks()
    lab.run_for(60)

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_two_alarms_at_once_end_a_call_once() -> None:
    """When the limit of the call and that of an answer meet, the goodbye is the end."""
    lab = placed(max_call_s=15.0, give_up_s=15.0, answer_s=100.0)
    lab.caller_stops()
    lab.run_for(30)

    assert prompts(lab) == ["goodbye"]
    assert end_of(lab).termination.reason == "max_duration"
    assert len(lab.commanded(DialRealtime)) == 1


def test_a_late_timer_ends_a_call_once() -> None:
    """A loop that stood still for a minute finds several limits passed, and one end."""
    lab = placed(max_call_s=30.0, idle_s=31.0, prompts={})
    lab.call.timer_fired(60.0)
    lab.settle()

    assert end_of(lab).termination.reason == "max_duration"


# ---------------------------------------------------------------------- bad messages


def test_a_provider_that_sends_only_nonsense_is_left() -> None:
    """Fifty bad messages in a row are a broken peer, and its fault."""
    lab = placed()
    lab.provider(*[MessageRejected("bad_json")] * 49)
    assert lab.call.lifecycle is Lifecycle.ACTIVE
    lab.provider(MessageRejected("bad_json"))

    record = end_of(lab)
    assert (record.termination.reason, record.detail) == (
        "protocol_error",
        "50 bad messages in a row",
    )
    assert len(lab.told(FrameRejected)) == 50
    assert lab.commanded(HangUp)


def test_good_audio_forgives_bad_messages() -> None:
    """Bad messages now and then never end a call."""
    lab = placed()
    for _ in range(10):
        lab.provider(*[MessageRejected("bad_base64")] * 20, AudioReceived(b"\x7f" * 160))

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_a_provider_may_learn_new_words() -> None:
    """Unknown events are counted for the operator and end nothing."""
    lab = placed()
    lab.provider(*[MessageRejected("unknown_event", "weather")] * 100)

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert set(lab.told(FrameRejected)) == {FrameRejected("provider", "unknown_event", "weather")}


def test_a_second_start_is_refused() -> None:
    """A stream starts once; a copy of its start is only counted."""
    lab = placed()
    lab.provider(started())

    assert lab.told(FrameRejected) == [FrameRejected("provider", "duplicate_start", "")]
    assert len(lab.told(CallBegan)) == 1


def test_a_bad_message_of_the_model_is_only_told() -> None:
    """The conversation goes on without what could not be read."""
    lab = placed()
    lab.realtime(*[MessageRejected("bad_json", "{")] * 100)

    assert set(lab.told(FrameRejected)) == {FrameRejected("realtime", "bad_json", "{")}
    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_rate_limits_are_told() -> None:
    """The operator sees what the service says is left."""
    lab = placed()
    lab.realtime(RateLimitReported("tokens", 40_000, 39_000, 1.5))

    assert lab.told(RateLimitSeen) == [RateLimitSeen("tokens", 39_000)]


# ---------------------------------------------------------------------- the way to the phone


def test_a_full_provider_is_fed_again_when_it_asks() -> None:
    """Between XOFF and XON nothing is sent, and afterwards nothing is missing."""
    lab = placed()
    lab.provider(PlayoutPaused())
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(1)
    while_full = handed_over_ms(lab)
    lab.provider(PlayoutResumed())
    lab.run_for(3)

    assert while_full == 0
    assert lab.phone.played == b"\x55" * 8000
    assert lab.call.turn is Turn.LISTENING


def test_a_long_answer_is_fed_as_it_is_played() -> None:
    """A minute of speech reaches the phone without a gap, and never more than the lead is out."""
    lab = placed(lead_ms=2000)
    lab.answer("resp_1", "item_1", 60_000)
    most_ms = 0.0
    for _ in range(70):
        lab.run_for(1)
        most_ms = max(most_ms, lab.phone.status(lab.now))

    assert lab.phone.played == b"\x55" * 480_000
    assert most_ms <= 2000
    assert len(lab.phone.spans) == 1


def test_marks_that_never_return_are_told_once() -> None:
    """A provider without echoes still gets the whole answer, and the operator is told once."""
    lab = Lab(options(lead_ms=2000), echoes_marks=False)
    lab.answer("resp_1", "item_1", 20_000)
    lab.run_for(30)
    lab.answer("resp_2", "item_2", 5000)
    lab.run_for(10)

    assert len(lab.told(MarksLost)) == 1
    assert lab.phone.played_ms(lab.now) == 25_000
    assert lab.call.turn is Turn.LISTENING


def test_without_marks_the_clock_says_what_was_heard() -> None:
    """Truncation goes by the clock, and never beyond what was sent."""
    lab = Lab(options(lead_ms=2000, has_marks=False), echoes_marks=False)
    lab.answer("resp_1", "item_1", 20_000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.answer("resp_2", "item_2", 1000, is_done=False)
    lab.run_for(5)
    lab.delta("resp_2", "item_2", 1000)
    lab.caller_speaks()

    first, second = lab.commanded(TruncateItem)
    assert (first.item_id, second.item_id) == ("item_1", "item_2")
    assert 900 <= first.audio_end_ms <= 1000
    assert 1000 <= second.audio_end_ms <= 1020
    assert not lab.told(MarksLost)


def test_a_model_that_runs_minutes_ahead_is_stopped() -> None:
    """More queued speech than any answer needs is refused, and the model told to stop, once."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    for _ in range(26):
        lab.delta("resp_1", "item_1", 10_000)

    assert handed_over_ms(lab) == 5000
    assert dropped_ms(lab, "down", "overflow") == 10_000
    assert lab.commanded(CancelResponse) == [CancelResponse("resp_1")]


def test_every_call_has_one_record() -> None:
    """Among all facts there is one that begins a call and one that ends it."""
    lab = placed()
    lab.call.hang_up("drain", lab.now)
    lab.call.hang_up("drain", lab.now, at_once=True)
    lab.settle()
    lab.provider(CallStopped(), LinkClosed(1006))

    assert isinstance(lab.facts[0], CallBegan)
    assert isinstance(lab.facts[-1], CallEnded)
    assert len(lab.told(CallEnded)) == 1
    assert len(lab.commanded(HangUp)) == 1
