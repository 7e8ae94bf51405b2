"""When the caller says what."""

import pytest

from gateway.audio.convert import silence
from gateway.events import ULAW_8K, AudioFormat
from gateway.simulator.callplan import Utterance, When
from gateway.simulator.phone import TWILIO, Phone
from gateway.simulator.speech import Speech

HALF_SECOND = Utterance(b"\x00\x20" * 4000, 8000, When("call_start", 0.0))
SILENCE = silence("ulaw", 8000, 20)


def spoken(when: When, duration_ms: int = 100) -> Utterance:
    """An utterance of this length at this moment."""
    return Utterance(b"\x00\x20" * (8 * duration_ms), 8000, when)


def run(says: list[Utterance], agent: list[tuple[float, float]], until_s: float) -> Speech:
    """Run a caller's line against an agent that speaks from, for (seconds, seconds)."""
    phone = Phone(TWILIO, 0.0, ULAW_8K)
    speech = Speech(tuple(says), ULAW_8K, phone, 0.0)
    waiting = list(agent)
    for frame in range(round(until_s * 50)):
        now = frame / 50
        while waiting and waiting[0][0] <= now:
            phone.receive_audio(bytes(round(waiting.pop(0)[1] * 8000)), now)
        phone.advance(now)
        speech.next_frame(now)
    return speech


def starts(speech: Speech) -> list[float]:
    """When each utterance began."""
    return [round(turn.starts_at_s, 3) for turn in speech.turns]


def test_frames_of_an_utterance_and_silence_around_it() -> None:
    """Speech fills frames, the last one is padded, then there is silence."""
    phone = Phone(TWILIO, 0.0, ULAW_8K)
    speech = Speech((spoken(When("call_start", 0.02), 30),), ULAW_8K, phone, 0.0)
    frames = [speech.next_frame(n / 50) for n in range(4)]
    assert [len(frame) for frame in frames] == [160] * 4
    assert frames[0] == frames[3] == SILENCE
    assert SILENCE[:1] not in frames[1]
    assert frames[2][:80] == frames[1][:80]
    assert frames[2][80:] == SILENCE[80:]
    assert speech.is_done


def test_call_start_and_pause() -> None:
    """Moments that do not depend on the agent."""
    says = [spoken(When("call_start", 0.5)), spoken(When("pause", 0.2)), spoken(When("call_start"))]
    assert starts(run(says, [], 2.0)) == [0.5, 0.8, 0.9]


def test_barge_in_counts_from_the_agents_first_sound() -> None:
    """The caller speaks 0.3 s after the agent was first heard, and not without an agent."""
    says = [spoken(When("agent_starts", 0.3))]
    assert starts(run(says, [(1.0, 2.0)], 2.0)) == [1.3]
    assert starts(run(says, [], 2.0)) == []


def test_a_second_barge_in_needs_a_new_sound() -> None:
    """What was heard before the last utterance ended does not count again."""
    says = [spoken(When("agent_starts", 0.1)), spoken(When("agent_starts", 0.1))]
    assert starts(run(says, [(0.2, 0.12), (1.0, 0.5)], 2.0)) == [0.3, 1.1]


def test_polite_turn_taking() -> None:
    """The caller waits until the agent has spoken and been silent for a while, each time."""
    says = [spoken(When("agent_stops", 0.4)), spoken(When("agent_stops", 0.4))]
    assert starts(run(says, [(0.5, 0.5), (2.0, 0.5)], 4.0)) == [1.4, 2.9]
    assert starts(run(says, [(0.5, 0.5)], 4.0)) == [1.4]


def test_quiet_after_the_last_answer() -> None:
    """All said, answered, silent: only then is a call quiet."""
    says = [spoken(When("call_start"))]
    assert not run(says, [], 2.0).is_quiet(0.5, 2.0)
    answered = run(says, [(0.5, 0.5)], 1.4)
    assert not answered.is_quiet(0.5, 1.4)
    assert answered.is_quiet(0.5, 1.5)


@pytest.mark.parametrize("audio", [AudioFormat("alaw", 8000), AudioFormat("pcm", 24000)])
def test_speech_comes_in_the_format_of_the_line(audio: AudioFormat) -> None:
    """Half a second stays half a second in every format."""
    speech = Speech((HALF_SECOND,), audio, Phone(TWILIO, 0.0, audio), 0.0)
    frames = [speech.next_frame(n / 50) for n in range(40)]
    quiet = silence(audio.encoding, audio.rate_hz, 20)
    assert 25 <= sum(frame != quiet for frame in frames) <= 27
    assert {len(frame) for frame in frames} == {20 * audio.bytes_per_ms}
