"""The agent's voice: played, accounted for, silenced."""

from gateway.desk import Desk
from gateway.events import (
    AddMessage,
    AudioDelta,
    AudioDropped,
    BargeInConfirmed,
    ClearAudio,
    ItemPlayed,
    PlayAudio,
    PromptPlayed,
    QueryPlayout,
    SendMark,
    TruncateItem,
)
from gateway.voice import Voice
from tests.lab import options, started

MS = 8  # bytes of mu-law


def voice(**changes: object) -> tuple[Voice, Desk]:
    """A voice with mu-law on both sides."""
    desk = Desk()
    return Voice(desk, options(**changes), started()), desk


def delta(duration_ms: int, item: str = "item_1", response: str = "resp_1") -> AudioDelta:
    """A stretch of agent audio."""
    return AudioDelta(response, item, 0, b"\x11" * (duration_ms * MS))


def test_audio_leaves_in_chunks_with_their_marks() -> None:
    """What was asked for now leaves now, each tenth of a second with its mark."""
    agent, desk = voice()

    assert agent.play(delta(250), 1.0)
    sizes = [len(c.payload) // MS for c in desk.to_provider if isinstance(c, PlayAudio)]
    marks = [c for c in desk.to_provider if isinstance(c, SendMark)]
    assert sizes == [100, 100, 40]
    assert len(marks) == 3


def test_only_the_first_frame_is_timed() -> None:
    """The relay's latency is that of the frame that could not leave earlier."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)

    timed = [c.asked_at for c in desk.to_provider if isinstance(c, PlayAudio)]
    assert timed == [1.0, 0.0, 0.0]


def test_stopping_takes_back_what_has_not_left() -> None:
    """Unsent audio must not follow the clear; its ms are accounted for."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    agent.stop(1.05)

    assert list(desk.to_provider) == [ClearAudio()]
    assert AudioDropped("down", "unheard", 300) in desk.facts
    assert agent.barge_ins == 1


def test_stopping_truncates_at_what_was_heard() -> None:
    """The model is told of the part that left and was heard, and of no more."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.mark_reached("m1", 1.1)
    agent.stop(1.1501)

    assert list(desk.to_realtime) == [TruncateItem("item_1", 0, 150)]
    played = [fact for fact in desk.facts if isinstance(fact, ItemPlayed)]
    assert [(fact.received_ms, round(fact.heard_ms)) for fact in played] == [(300, 150)]


def test_stopping_after_all_was_heard_does_nothing() -> None:
    """An interruption of silence is none."""
    agent, desk = voice()
    agent.play(delta(100), 1.0)
    agent.end_response("resp_1")
    agent.mark_reached("m1", 1.1)
    agent.advance(1.1)
    desk.to_provider.clear()
    agent.stop(1.2)

    assert not desk.to_provider
    assert agent.barge_ins == 0


def test_a_provider_that_can_be_asked_is_believed() -> None:
    """What it still held was not heard, whatever marks and clock say."""
    agent, desk = voice(has_status=True)
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.stop(1.2)

    assert list(desk.to_provider) == [QueryPlayout(), ClearAudio()]
    assert not desk.to_realtime
    agent.playout_reported(120, 1.21)
    assert list(desk.to_realtime) == [TruncateItem("item_1", 0, 180)]


def test_the_first_mark_that_was_cleared_confirms_the_clear() -> None:
    """Operators see how much was heard after an interruption, at most."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.stop(1.05)
    agent.mark_reached("m1", 1.08)
    agent.mark_reached("m2", 1.5)

    confirmed = [fact for fact in desk.facts if isinstance(fact, BargeInConfirmed)]
    assert [round(fact.heard_after_ms) for fact in confirmed] == [30]


def test_late_audio_of_a_cut_answer_is_known_by_its_id() -> None:
    """The model may send on for as long as it likes."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.stop(1.1)

    assert agent.is_cancelled("resp_1")
    assert not agent.is_cancelled("resp_2")


def test_items_of_a_session_that_is_gone_are_not_truncated() -> None:
    """The new session has never heard of them."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.outlive_session("resp_1")
    agent.stop(1.1)

    assert not desk.to_realtime


def test_what_is_being_said_is_told_to_the_next_session() -> None:
    """Behind what was said, in the order it is heard, and only once it is foreign."""
    agent, _ = voice()
    agent.conversation.caller_said("Hello?")
    for item, words in (("item_1", "One moment."), ("item_2", "Here it is.")):
        agent.play(delta(300, item), 1.0)
        agent.conversation.agent_text(item, words)
    before = agent.replay()
    agent.outlive_session("resp_1")

    assert before == [AddMessage("user", "Hello?")]
    assert agent.replay() == [
        AddMessage("user", "Hello?"),
        AddMessage("assistant", "One moment."),
        AddMessage("assistant", "Here it is."),
    ]


def test_what_was_heard_to_its_end_is_told_once() -> None:
    """An item that ends between loss and renewal is history, not present."""
    agent, _ = voice()
    agent.play(delta(100), 1.0)
    agent.conversation.agent_text("item_1", "One moment.")
    agent.outlive_session("resp_1")
    agent.mark_reached("m1", 1.2)
    agent.advance(1.2)

    assert agent.replay() == [AddMessage("assistant", "One moment.")]


def test_a_recording_and_an_item_without_words_are_not_told() -> None:
    """The model said nothing of the kind."""
    agent, _ = voice(prompts={"filler": bytes(48 * 200)})
    agent.play(delta(100), 1.0)
    agent.play_prompt("filler", 1.0)
    agent.outlive_session("resp_1")

    assert agent.replay() == []


def test_stopping_for_last_words_is_no_barge_in() -> None:
    """The sound is cut and accounted for, but nobody interrupted."""
    agent, desk = voice()
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.stop(1.1, is_barge_in=False)
    agent.mark_reached("m1", 1.2)

    assert [c.asked_at for c in desk.to_provider if isinstance(c, ClearAudio)] == [0.0]
    assert agent.barge_ins == 0
    assert not [fact for fact in desk.facts if isinstance(fact, BargeInConfirmed)]


def test_a_late_answer_to_an_earlier_question_settles_nothing() -> None:
    """Of two questions in flight only the last one is about the last cut."""
    agent, desk = voice(has_status=True)
    agent.play(delta(300), 1.0)
    desk.to_provider.clear()
    agent.stop(1.1)
    agent.settle()
    agent.play(delta(300, "item_2", "resp_2"), 1.2)
    desk.to_provider.clear()
    agent.stop(1.3)
    desk.to_realtime.clear()
    agent.playout_reported(0, 1.31)
    early = list(desk.to_realtime)
    agent.playout_reported(240, 1.35)

    assert early == []
    assert list(desk.to_realtime) == [TruncateItem("item_2", 0, 60)]


def test_a_prompt_is_played_behind_what_is_queued_and_never_truncated() -> None:
    """A local recording is nothing the model said."""
    agent, desk = voice(prompts={"filler": bytes(48 * 200)})
    agent.play_prompt("filler", 1.0)
    desk.to_provider.clear()
    agent.stop(1.05)

    assert PromptPlayed("filler") in desk.facts
    assert not desk.to_realtime


def test_a_prompt_that_is_not_there_is_no_error() -> None:
    """An operator may do without a filler."""
    agent, desk = voice()
    agent.play_prompt("filler", 1.0)

    assert not desk.to_provider
    assert not desk.facts


def test_finishing_closes_every_account() -> None:
    """When the caller leaves, what was queued is counted as dropped, what was heard as heard."""
    agent, desk = voice(lead_ms=400)
    agent.play(delta(1000), 1.0)
    desk.to_provider.clear()
    agent.finish(1.2)

    dropped = [fact.duration_ms for fact in desk.facts if isinstance(fact, AudioDropped)]
    assert dropped == [600]
    assert agent.received_ms == 1000
    assert 0 < agent.heard_ms <= 100
