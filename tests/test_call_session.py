"""What a caller gets when the line to the model is slow, refused, lost or renewed."""

import pytest

from gateway.call import Call
from gateway.events import (
    AddMessage,
    AgentTranscribed,
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioReceived,
    CallEnded,
    CallerTranscribed,
    CloseRealtime,
    ConfigureSession,
    CreateResponse,
    DialRealtime,
    DtmfReceived,
    HangUp,
    LinkClosed,
    RealtimeConnected,
    RealtimeDialled,
    RealtimeError,
    RealtimeLost,
    RealtimeReconnected,
    RealtimeRefused,
    ResponseDone,
    ResponseStarted,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    TruncateItem,
)
from gateway.states import Lifecycle, Turn
from tests.lab import PASSED_THROUGH, Lab, options, started
from tests.scenes import appended, end_of, on_asterisk, placed, prompts, ringing, session


def _refused(result: str, *, can_retry: bool = True, retry_after_s: float = 0.0) -> RealtimeRefused:
    return RealtimeRefused(result, can_retry, retry_after_s)


def _apologised(lab: Lab) -> CallEnded:
    """The record of a call that ended with an apology, heard to its end before the hang-up."""
    lab.run_for(5)
    assert prompts(lab)[-1] == "apology"
    assert [command for _, command in lab.sent if isinstance(command, HangUp)] == [HangUp()]
    assert lab.sent[-1] == (lab.sent[-1][0], HangUp())
    return end_of(lab)


def _expiring(expires_at: float) -> Lab:
    """A call whose session says when it will end."""
    lab = ringing(idle_s=1e6)
    lab.realtime(RealtimeConnected(0.1), SessionCreated("sess_1", expires_at), SessionUpdated())
    return lab


# ---------------------------------------------------------------------- dialling


def test_a_model_that_does_not_answer_costs_an_apology() -> None:
    """When the budget is over the caller is told, hung up on, and the call has one record."""
    lab = ringing()
    lab.run_for(4.9)
    assert prompts(lab) == []

    assert _apologised(lab).termination.reason == "realtime_unavailable"
    assert not lab.told(RealtimeDialled)


def test_a_session_that_never_takes_its_options_costs_an_apology() -> None:
    """Connected is not ready: the same budget holds until session.updated."""
    lab = ringing()
    lab.realtime(RealtimeConnected(0.1), SessionCreated("sess_1", 0.0))
    lab.run_for(5)

    assert _apologised(lab).termination.reason == "realtime_unavailable"
    assert lab.told(RealtimeLost) == [RealtimeLost(1000, 5.0, is_expected=True)]


def test_a_refusal_that_may_pass_is_tried_once_more() -> None:
    """One retry within what is left of the budget, then the conversation begins."""
    lab = ringing()
    lab.run_for(1)
    lab.realtime(_refused("5xx"))
    lab.open_session()

    first, second = lab.commanded(DialRealtime)
    assert first == DialRealtime(0.0, 4.9)
    assert (second.delay_s, second.with_fresh_token) == (0.2, False)
    assert second.timeout_s == pytest.approx(5 - 1 - 0.2 - 0.1)
    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert [fact.result for fact in lab.told(RealtimeDialled)] == ["5xx", "ok"]


def test_a_second_refusal_is_the_last() -> None:
    """Two attempts, then the caller is told."""
    lab = ringing()
    lab.realtime(_refused("5xx"))
    lab.realtime(_refused("5xx"))

    assert _apologised(lab).termination.reason == "realtime_unavailable"
    assert len(lab.commanded(DialRealtime)) == 2


def test_a_final_refusal_is_not_tried_again() -> None:
    """A deployment that does not exist will not exist in a second."""
    lab = ringing()
    lab.realtime(_refused("404", can_retry=False))

    assert _apologised(lab).duration_s < 5
    assert len(lab.commanded(DialRealtime)) == 1


def test_a_rejected_token_is_replaced() -> None:
    """After 401 the retry is made with a fresh token."""
    lab = ringing()
    lab.realtime(_refused("401"))

    assert lab.commanded(DialRealtime)[1].with_fresh_token


def test_a_bearable_retry_after_is_kept() -> None:
    """A service that asks for two seconds gets them."""
    lab = ringing()
    lab.realtime(_refused("429", retry_after_s=2.0))

    again = lab.commanded(DialRealtime)[1]
    assert again.delay_s == 2.0
    assert again.timeout_s == pytest.approx(5 - 2 - 0.1)


def test_a_retry_after_beyond_the_budget_costs_an_apology_at_once() -> None:
    """Nobody waits for a retry that could not succeed in time."""
    lab = ringing()
    lab.realtime(_refused("429", retry_after_s=20.0))

    assert prompts(lab) == ["apology"]
    assert _apologised(lab).duration_s < 2


def test_a_line_lost_before_the_session_was_ready_is_dialled_again() -> None:
    """A service that closes while it starts gets its second attempt, and no third."""
    lab = ringing()
    lab.realtime(RealtimeConnected(0.1), LinkClosed(1011))
    assert len(lab.commanded(DialRealtime)) == 2
    lab.realtime(RealtimeConnected(0.1), LinkClosed(1011))

    assert _apologised(lab).termination.reason == "realtime_unavailable"


def test_a_dialect_that_is_refused_costs_an_apology_at_once() -> None:
    """Close code 4000 would meet the next session too."""
    lab = ringing()
    lab.realtime(RealtimeConnected(0.1), LinkClosed(4000))

    assert len(lab.commanded(DialRealtime)) == 1
    assert _apologised(lab).termination.reason == "realtime_unavailable"


def test_a_refusal_after_the_goodbye_is_only_told() -> None:
    """A dial that fails when nobody wants it any more changes nothing."""
    lab = ringing()
    lab.call.hang_up("drain", lab.now)
    lab.realtime(_refused("5xx"))
    lab.run_for(5)

    assert len(lab.commanded(DialRealtime)) == 1
    assert prompts(lab) == ["goodbye"]


def test_options_taken_twice_begin_one_conversation() -> None:
    """A later session.updated is not a second beginning."""
    lab = placed(greeting="Say hello.")
    lab.realtime(SessionUpdated())

    assert len(lab.commanded(CreateResponse)) == 1


# ---------------------------------------------------------------------- lost and renewed


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1013])
def test_a_session_lost_in_mid_sentence_is_replaced(code: int) -> None:
    """What is queued plays on, a new session is configured, and the rest is asked for."""
    lab = placed()
    lab.run_for(11)
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.run_for(0.5)
    lab.realtime(LinkClosed(code))
    dialled = lab.commanded(DialRealtime)
    lab.run_for(0.5)
    lab.open_session()
    lab.run_for(3)

    assert dialled == [DialRealtime(0.0, 4.9), DialRealtime(0.0, 2.9)]
    assert lab.commanded(ConfigureSession) == [ConfigureSession(PASSED_THROUGH)] * 2
    assert lab.phone.played == b"\x55" * 16_000
    assert lab.commanded(CreateResponse) == [CreateResponse()]
    assert lab.told(RealtimeLost) == [RealtimeLost(code, 11.5, is_expected=False)]
    assert [fact.gap_s for fact in lab.told(RealtimeReconnected)] == [0.5]


def test_a_new_session_is_told_what_was_said() -> None:
    """The history comes before audio and question, and holds only what was heard."""
    lab = placed()
    lab.realtime(CallerTranscribed("item_u", "Where is my parcel?"))
    lab.answer("resp_1", "item_1", 500, is_done=False)
    lab.realtime(
        AgentTranscribed("resp_1", "item_1", "On its way."),
        AudioDone("resp_1", "item_1", 0),
        ResponseDone("resp_1", "completed"),
    )
    lab.run_for(1)
    lab.caller_stops()
    lab.realtime(LinkClosed(1006))
    lab.frames(2)
    before = len(lab.asked)
    lab.open_session()

    assert [command for _, command in lab.asked[before:]] == [
        ConfigureSession(PASSED_THROUGH),
        AddMessage("user", "Where is my parcel?"),
        AddMessage("assistant", "On its way."),
        AppendAudio(b"\x7f" * 320),
        CreateResponse(),
    ]


def test_audio_of_the_gap_reaches_the_new_session() -> None:
    """A caller who talks on while the session is replaced is heard completely, in order."""
    lab = placed()
    frames = [number.to_bytes(2, "big") * 80 for number in range(100)]
    for number, frame in enumerate(frames):
        if number == 30:
            lab.realtime(LinkClosed(1006))
        if number == 80:
            lab.open_session()
        lab.frames(1, frame)

    assert appended(lab) == b"".join(frames)


def test_audio_that_waits_for_the_socket_survives_the_session() -> None:
    """What the lost session had not been sent yet is sent to the new one."""
    lab = placed()
    lab.call.provider_received(AudioReceived(b"\x01" * 160), lab.now)
    lab.call.provider_received(AudioReceived(b"\x02" * 160), lab.now)
    lab.realtime(LinkClosed(1006))
    lab.provider(AudioReceived(b"\x03" * 160))
    lab.open_session()

    assert appended(lab) == b"\x01" * 160 + b"\x02" * 160 + b"\x03" * 160


def test_a_lost_session_that_owed_nothing_is_asked_nothing() -> None:
    """A session replaced in a silence does not make the agent speak."""
    lab = placed()
    lab.run_for(1)
    lab.realtime(LinkClosed(1001))
    lab.open_session()

    assert not lab.commanded(CreateResponse)
    assert lab.call.turn is Turn.LISTENING


def test_items_of_a_lost_session_are_not_truncated_in_the_new_one() -> None:
    """The new model has never heard of them; the voice is silenced all the same."""
    lab = placed()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    lab.realtime(LinkClosed(1006))
    lab.open_session()
    lab.caller_speaks()

    assert lab.phone.cleared_ms == 0
    lab.run_for(1)
    assert lab.phone.cleared_ms > 2000
    assert not lab.commanded(TruncateItem)


def test_an_interruption_just_before_the_loss_truncates_nothing_later() -> None:
    """A provider's word that comes after the session is gone does not reach the next one."""
    lab = on_asterisk()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.realtime(LinkClosed(1006))
    lab.open_session()
    opened = len(lab.asked)
    lab.run_for(1)

    late = [command for _, command in lab.asked[opened:]]
    assert not [command for command in late if isinstance(command, TruncateItem)]


def test_items_of_the_new_session_are_truncated() -> None:
    """After a reconnect the conversation is as before."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.open_session()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    lab.caller_speaks()

    assert len(lab.commanded(TruncateItem)) == 1


def test_a_second_loss_soon_after_costs_an_apology() -> None:
    """A service that drops sessions one after the other is not dialled for ever."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.open_session()
    lab.run_for(9)
    lab.realtime(LinkClosed(1006))

    assert _apologised(lab).termination.reason == "realtime_error"
    assert len(lab.commanded(DialRealtime)) == 2


def test_a_second_loss_later_is_replaced_again() -> None:
    """A session an hour keeps a long call going."""
    lab = placed()
    for _ in range(3):
        lab.realtime(LinkClosed(1001))
        lab.open_session()
        lab.run_for(11)

    assert lab.call.lifecycle is Lifecycle.ACTIVE
    assert len(lab.told(RealtimeReconnected)) == 3


@pytest.mark.parametrize("code", [1008, 3000, 4000])
def test_a_close_the_next_session_would_meet_costs_an_apology(code: int) -> None:
    """A policy that throws us out is not argued with."""
    lab = placed()
    lab.realtime(LinkClosed(code))

    assert prompts(lab) == ["apology"]
    assert len(lab.commanded(DialRealtime)) == 1
    assert _apologised(lab).termination.reason == "realtime_error"


def test_a_model_that_does_not_come_back_costs_an_apology() -> None:
    """The budget of a reconnect is short: the caller waits in silence."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.run_for(2.9)
    assert prompts(lab) == []

    assert _apologised(lab).termination.reason == "realtime_error"


def test_a_refused_reconnect_is_tried_once_more() -> None:
    """The second session has two attempts too, and a line lost on the way counts as one."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.realtime(RealtimeConnected(0.1), LinkClosed(1006))
    assert len(lab.commanded(DialRealtime)) == 3
    lab.realtime(_refused("5xx"))

    assert _apologised(lab).termination.reason == "realtime_error"


def test_an_expired_session_is_replaced_before_it_is_closed() -> None:
    """The error that announces the limit is enough; saying it twice changes nothing."""
    lab = placed()
    lab.realtime(
        RealtimeError("session_expired", "expired"), RealtimeError("session_expired", "expired")
    )
    assert lab.commanded(CloseRealtime) == [CloseRealtime()]
    lab.open_session()

    assert len(lab.commanded(DialRealtime)) == 2
    assert lab.told(RealtimeLost) == [RealtimeLost(1000, 0.0, is_expected=True)]
    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_a_failed_answer_does_not_disturb_a_session_lost_after_it() -> None:
    """The retry that was planned for the old session is not asked for in the gap."""
    lab = placed()
    lab.caller_stops()
    lab.realtime(ResponseStarted("resp_1"), ResponseDone("resp_1", "failed", "server_error"))
    lab.run_for(0.1)
    lab.realtime(LinkClosed(1006))
    lab.run_for(1)
    assert not lab.commanded(CreateResponse)
    lab.open_session()

    assert lab.commanded(CreateResponse) == [CreateResponse()]


def test_keys_pressed_in_the_gap_reach_the_new_session() -> None:
    """A caller's choice is not lost with the session."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.provider(DtmfReceived("1"), DtmfReceived("#"))
    lab.run_for(1)
    lab.open_session()
    lab.run_for(3)

    assert lab.commanded(AddMessage) == [AddMessage("user", "The caller pressed the keys 1#")]


def test_a_hash_in_the_gap_blocks_no_answer() -> None:
    """Without turn detection a # while there is no model is not taken for a question."""
    lab = placed(session=session(kind="none"))
    lab.realtime(LinkClosed(1006))
    lab.provider(DtmfReceived("#"))
    lab.open_session()
    lab.provider(DtmfReceived("#"))

    assert lab.commanded(CreateResponse) == [CreateResponse()]


def test_a_caller_who_hangs_up_in_the_gap_ends_the_dialling() -> None:
    """No session is opened for a call that is over."""
    lab = placed()
    lab.realtime(LinkClosed(1006))
    lab.provider(LinkClosed(1000))

    assert end_of(lab).termination.reason == "caller_hangup"
    assert lab.asked[-1][1] == CloseRealtime()
    assert lab.call.next_timer() is None


# ---------------------------------------------------------------------- renewed in time


def test_a_session_is_renewed_in_a_silence_before_it_expires() -> None:
    """A minute early, while nobody speaks, the session changes without a word."""
    lab = _expiring(1800.0)
    lab.run_for(1739)
    early = len(lab.commanded(DialRealtime))
    lab.run_for(1.5)
    lab.open_session()

    assert early == 1
    assert len(lab.commanded(DialRealtime)) == 2
    assert lab.told(RealtimeLost) == [RealtimeLost(1000, 1740.0, is_expected=True)]
    assert not lab.commanded(CreateResponse)
    assert prompts(lab) == []


def test_renewal_waits_for_the_agent_to_finish() -> None:
    """An answer is not cut: the session changes in the silence after it."""
    lab = _expiring(1800.0)
    lab.run_for(1735)
    lab.answer("resp_1", "item_1", 20_000)
    lab.run_for(19)
    speaking = len(lab.commanded(DialRealtime))
    lab.run_for(3)

    assert speaking == 1
    assert len(lab.commanded(DialRealtime)) == 2
    assert lab.phone.played == b"\x55" * 160_000


def test_renewal_waits_for_the_caller_to_finish_but_not_for_ever() -> None:
    """With half a minute left the session changes even while the caller speaks."""
    lab = _expiring(1800.0)
    lab.run_for(1670)
    lab.realtime(SpeechStarted("item_u", 0))
    lab.run_for(99)
    speaking = len(lab.commanded(DialRealtime))
    lab.run_for(2)

    assert speaking == 1
    assert len(lab.commanded(DialRealtime)) == 2


def test_the_expiry_is_read_on_the_wall_clock() -> None:
    """The service's unix time is turned into the call's own clock."""
    unix_offset_s = 1_700_000_000.0
    call = Call(started(), options(idle_s=1e6, max_call_s=1e6), 10.0, unix_offset_s=unix_offset_s)
    for event in (
        RealtimeConnected(0.1),
        SessionCreated("sess_1", unix_offset_s + 1810),
        SessionUpdated(),
    ):
        call.realtime_received(event, 10.0)

    assert call._desk.alarms["rollover"] == 1750.0


def test_an_expiry_that_is_over_already_is_not_believed() -> None:
    """A wall clock that is wrong by an hour does not end every call."""
    lab = _expiring(0.001)
    for _ in range(5):
        lab.run_for(2)
        lab.realtime(RealtimeConnected(0.1), SessionCreated("sess_n", 0.001), SessionUpdated())

    assert lab.call.lifecycle is Lifecycle.ACTIVE


def test_late_audio_of_a_session_that_is_gone_is_not_needed() -> None:
    """After the switch the old answer plays to its end, then the new session speaks."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.realtime(RealtimeError("session_expired", "expired"))
    lab.open_session()
    lab.realtime(ResponseStarted("resp_n"), AudioDelta("resp_n", "item_n", 0, b"\x66" * 8000))
    lab.run_for(3)

    assert lab.phone.played == b"\x55" * 8000 + b"\x66" * 8000
