"""What a caller hears of the agent, and what the model is told was heard."""

import pytest

from gateway.events import (
    AgentSaid,
    AgentTranscribed,
    AgentTranscriptDelta,
    AudioDelta,
    AudioDone,
    BargeInConfirmed,
    CancelResponse,
    ClearAudio,
    ItemPlayed,
    PlayAudio,
    PlayoutReported,
    QueryPlayout,
    ResponseDone,
    ResponseStarted,
    SpeechStarted,
    TruncateItem,
)
from gateway.states import Turn
from tests.lab import Lab, options
from tests.scenes import PROMPTS, dropped_ms, handed_over_ms, on_asterisk, placed


def _stale_ms(lab: Lab, since: int) -> float:
    """Agent audio handed over after a moment in the list of what was sent."""
    commands = [command for _, command in lab.sent[since:]]
    return sum(len(command.payload) / 8 for command in commands if isinstance(command, PlayAudio))


# ---------------------------------------------------------------------- barge-in


def test_an_interruption_while_the_model_generates() -> None:
    """The phone falls silent, nothing more of the answer is played, the turn is the caller's."""
    lab = placed()
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.run_for(1)
    heard_ms = lab.phone.played_ms(lab.now)
    lab.caller_speaks()
    cleared = len(lab.sent)
    lab.delta("resp_1", "item_1", 3000)
    lab.run_for(5)

    assert lab.commanded(ClearAudio) == [ClearAudio()]
    assert _stale_ms(lab, cleared) == 0
    assert lab.phone.played_ms(lab.now) <= heard_ms + 20
    assert lab.call.turn is Turn.LISTENING


def test_an_interruption_after_the_model_finished_sending() -> None:
    """Speech that is only in the provider's buffer is silenced and truncated like any other."""
    lab = placed()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    heard_ms = lab.phone.played_ms(lab.now)
    lab.caller_speaks()

    assert len(lab.commanded(ClearAudio)) == 1
    (command,) = lab.commanded(TruncateItem)
    assert (command.item_id, command.content_index) == ("item_1", 0)
    assert abs(command.audio_end_ms - heard_ms) <= 100
    assert not lab.commanded(CancelResponse)


def test_audio_that_waits_for_the_socket_never_follows_the_clear() -> None:
    """Unsent commands are taken back before the clear, and count as unheard."""
    lab = placed()
    lab.call.realtime_received(ResponseStarted("resp_1"), lab.now)
    lab.call.realtime_received(AudioDelta("resp_1", "item_1", 0, b"\x55" * 16_000), lab.now)
    assert lab.call.to_provider
    lab.call.realtime_received(SpeechStarted("item_u", 0), lab.now)

    assert list(lab.call.to_provider) == [ClearAudio()]
    lab.settle()
    assert lab.commanded(TruncateItem) == [TruncateItem("item_1", 0, 0)]
    assert dropped_ms(lab, "down", "unheard") == 2000


def test_only_what_waits_for_the_socket_is_taken_back() -> None:
    """With a part of the answer on its way, that part is accounted for and the rest is not."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.run_for(0.5)
    lab.call.realtime_received(AudioDelta("resp_1", "item_1", 0, b"\x55" * 8000), lab.now)
    lab.call.realtime_received(SpeechStarted("item_u", 0), lab.now)
    lab.settle()

    assert handed_over_ms(lab) == 1000
    assert dropped_ms(lab, "down", "unheard") == 1000
    (command,) = lab.commanded(TruncateItem)
    assert abs(command.audio_end_ms - 450) <= 100


def test_a_provider_that_can_be_asked_makes_it_exact() -> None:
    """The model is told to the millisecond what the phone had played when it was cleared."""
    lab = on_asterisk()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1.23)
    lab.caller_speaks()
    assert [type(command) for _, command in lab.sent[-2:]] == [QueryPlayout, ClearAudio]
    assert not lab.commanded(TruncateItem)
    lab.run_for(0.1)

    (command,) = lab.commanded(TruncateItem)
    assert command.audio_end_ms == len(lab.phone.played) / 8
    assert 1200 <= command.audio_end_ms <= 1260


def test_a_provider_that_does_not_answer_is_not_waited_for() -> None:
    """A tenth of a second later the marks have to do, and a late word changes nothing."""
    lab = on_asterisk(back_s=0.4)
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(2)
    lab.caller_speaks()
    lab.run_for(0.09)
    early = lab.commanded(TruncateItem)
    lab.run_for(0.02)
    lab.provider(PlayoutReported(0))
    lab.run_for(2)

    assert early == []
    (command,) = lab.commanded(TruncateItem)
    assert 1500 <= command.audio_end_ms <= 2000


def test_two_interruptions_before_the_provider_answers() -> None:
    """A second barge-in closes the account of the first instead of losing it."""
    lab = on_asterisk()
    lab.answer("resp_1", "item_1", 2000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.answer("resp_2", "item_2", 2000)
    lab.caller_speaks()
    lab.run_for(1)

    assert [command.item_id for command in lab.commanded(TruncateItem)] == ["item_1", "item_2"]
    assert [fact.item_id for fact in lab.told(ItemPlayed)] == ["item_1", "item_2"]


def test_an_unasked_report_of_the_provider_changes_nothing() -> None:
    """A queue report out of the blue is no barge-in."""
    lab = on_asterisk()
    lab.answer("resp_1", "item_1", 1000)
    lab.provider(PlayoutReported(500))
    lab.run_for(3)

    assert not lab.commanded(TruncateItem)
    assert not lab.told(BargeInConfirmed)
    assert [fact.heard_ms for fact in lab.told(ItemPlayed)] == [1000]


def test_late_audio_of_an_interrupted_answer_is_dropped_by_its_id() -> None:
    """A model that goes on sending is not heard, the next answer is, and both are counted."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.run_for(0.5)
    lab.caller_speaks()
    cleared = len(lab.sent)
    lab.delta("resp_1", "item_1", 300)
    lab.delta("resp_1", "item_1b", 200)
    lab.realtime(
        AudioDone("resp_1", "item_1b", 0), ResponseDone("resp_1", "cancelled", "turn_detected")
    )
    stale_ms = _stale_ms(lab, cleared)
    lab.caller_stops()
    lab.answer("resp_2", "item_2", 700)

    assert stale_ms == 0
    assert dropped_ms(lab, "down", "cancelled") == 500
    assert _stale_ms(lab, cleared) == 700


def test_a_barge_in_is_confirmed_by_the_marks_that_come_back() -> None:
    """The operator learns the most that can have been heard after the caller began."""
    lab = placed()
    lab.answer("resp_1", "item_1", 4000)
    lab.run_for(1)
    lab.caller_speaks()
    lab.run_for(1)

    (fact,) = lab.told(BargeInConfirmed)
    assert 10 <= fact.heard_after_ms <= 30


def test_the_rest_of_an_interrupted_frame_is_never_played() -> None:
    """A model that stalled within a frame and is then interrupted leaves no late click."""
    lab = placed()
    lab.answer("resp_1", "item_1", 2005, is_done=False)
    lab.run_for(3)
    lab.caller_speaks()
    spoken = len(lab.sent)
    lab.realtime(ResponseDone("resp_1", "cancelled", "turn_detected"))
    lab.run_for(1)

    assert _stale_ms(lab, spoken) == 0


def test_interrupting_a_silent_agent_clears_nothing() -> None:
    """A caller who speaks when nothing plays causes no clear and no truncation."""
    lab = placed()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)
    lab.caller_speaks()

    assert not lab.commanded(ClearAudio)
    assert not lab.commanded(TruncateItem)


# ---------------------------------------------------------------------- truncation


def test_what_was_heard_is_not_truncated() -> None:
    """Of two items the first was heard to its end: only the second is cut."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    lab.delta("resp_1", "item_1", 500)
    lab.realtime(AudioDone("resp_1", "item_1", 0))
    lab.delta("resp_1", "item_2", 3000)
    lab.run_for(1)
    heard_ms = lab.phone.played_ms(lab.now)
    lab.caller_speaks()

    (command,) = lab.commanded(TruncateItem)
    assert command.item_id == "item_2"
    assert abs(command.audio_end_ms - (heard_ms - 500)) <= 100


def test_an_item_that_was_not_begun_is_truncated_to_nothing() -> None:
    """The model forgets an item of which no sound was heard."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    lab.delta("resp_1", "item_1", 3000)
    lab.delta("resp_1", "item_2", 3000)
    lab.run_for(1)
    lab.caller_speaks()

    ends = {command.item_id: command.audio_end_ms for command in lab.commanded(TruncateItem)}
    assert ends["item_2"] == 0
    assert 850 <= ends["item_1"] <= 1000


def test_an_item_heard_almost_to_its_end_is_left_alone() -> None:
    """The last tenth of a second is no reason to change the model's memory."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000)
    lab.run_for(1.01)
    lab.caller_speaks()

    assert len(lab.commanded(ClearAudio)) == 1
    assert not lab.commanded(TruncateItem)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.3, 1.0, 2.0, 5.0])
def test_truncation_never_exceeds_what_the_model_sent(after_s: float) -> None:
    """A mid-sentence stall does not count as heard speech."""
    lab = placed()
    lab.answer("resp_1", "item_1", 1000, is_done=False)
    lab.run_for(after_s)
    lab.delta("resp_1", "item_1", 10)
    lab.caller_speaks()

    (command,) = lab.commanded(TruncateItem)
    assert 0 <= command.audio_end_ms <= 1010


def test_a_filler_inside_an_item_does_not_shorten_it() -> None:
    """A model that stalls mid-sentence still knows what was heard before the filler."""
    lab = placed()
    lab.answer("resp_1", "item_1", 2000, is_done=False)
    lab.run_for(9)
    lab.delta("resp_1", "item_1", 3000)
    lab.run_for(1)
    lab.caller_speaks()

    (command,) = lab.commanded(TruncateItem)
    assert 2800 <= command.audio_end_ms <= 3000


def test_a_recording_is_never_truncated() -> None:
    """The model knows nothing of a filler, and is not told to forget it."""
    lab = Lab(options(prompts=PROMPTS | {"filler": PROMPTS["filler"] * 5}))
    lab.caller_stops()
    lab.run_for(7)
    lab.caller_speaks()

    assert len(lab.commanded(ClearAudio)) == 1
    assert not lab.commanded(TruncateItem)
    assert not lab.told(ItemPlayed)


# ---------------------------------------------------------------------- accounts


def test_each_item_of_an_answer_is_accounted_for() -> None:
    """What came and what was heard is told item by item, with the words."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    for item, text in (("item_1", "Good morning."), ("item_2", "How are you?")):
        lab.delta("resp_1", item, 700)
        lab.realtime(AgentTranscribed("resp_1", item, text), AudioDone("resp_1", item, 0))
    lab.realtime(ResponseDone("resp_1", "completed"))
    lab.run_for(3)

    assert lab.told(ItemPlayed) == [
        ItemPlayed("item_1", 700, 700, "Good morning."),
        ItemPlayed("item_2", 700, 700, "How are you?"),
    ]
    assert lab.told(AgentSaid) == [
        AgentSaid("item_1", "Good morning."),
        AgentSaid("item_2", "How are you?"),
    ]


def test_words_that_were_not_heard_are_told_apart() -> None:
    """After a barge-in the account of an item says which of its words the caller missed."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    lab.delta("resp_1", "item_1", 2000)
    lab.realtime(AgentTranscribed("resp_1", "item_1", "One two three four five six."))
    lab.run_for(1)
    lab.realtime(SpeechStarted("item_2", 1000))
    lab.run_for(1)

    (played,) = lab.told(ItemPlayed)
    assert f"{played.text} {played.unheard}" == "One two three four five six."
    assert played.text.startswith("One two")
    assert played.unheard.endswith("five six.")


def test_the_words_of_an_interrupted_item_are_those_heard() -> None:
    """The transcript ends where the caller stopped listening."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    for word in ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight"):
        lab.delta("resp_1", "item_1", 500)
        lab.realtime(AgentTranscriptDelta("resp_1", "item_1", word))
    lab.run_for(2)
    lab.caller_speaks()

    (fact,) = lab.told(ItemPlayed)
    assert fact.received_ms == 4000
    assert fact.text.startswith("one two three")
    assert "six" not in fact.text


def test_deltas_of_odd_length_arrive_whole() -> None:
    """No byte of the answer is lost, however the model cuts it."""
    lab = placed()
    sound = bytes(range(1, 201)) * 40
    lab.realtime(ResponseStarted("resp_1"))
    for start in range(0, len(sound), 333):
        lab.realtime(AudioDelta("resp_1", "item_1", 0, sound[start : start + 333]))
    lab.realtime(AudioDone("resp_1", "item_1", 0), ResponseDone("resp_1", "completed"))
    lab.run_for(3)

    assert lab.phone.played == sound


def test_audio_after_the_end_of_its_item_does_not_mute_the_call() -> None:
    """A model that breaks its own order cannot stop the answers that follow."""
    lab = placed()
    lab.realtime(ResponseStarted("resp_1"))
    lab.delta("resp_1", "item_1", 500)
    lab.realtime(AudioDone("resp_1", "item_1", 0))
    lab.delta("resp_1", "item_1", 7)
    lab.realtime(ResponseDone("resp_1", "completed"))
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(5)

    assert lab.phone.played_ms(lab.now) == 1020
    assert lab.call.turn is Turn.LISTENING
