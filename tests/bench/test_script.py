"""What the stand-in says is what a model says."""

from itertools import pairwise

import pytest

from gateway.bench.framing import Splitter
from gateway.bench.script import ANSWER_MS, CYCLE_MS, Moment, cycle, serial
from gateway.events import (
    ALAW_8K,
    PCM_24K,
    ULAW_8K,
    AudioDelta,
    AudioFormat,
    MessageRejected,
    RealtimeEvent,
    ResponseDone,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
)
from gateway.realtime.protocol import RealtimeProtocol
from gateway.simulator.options import Dialect, DialectName


def events_of(name: DialectName, audio: AudioFormat) -> list[RealtimeEvent]:
    """One cycle as our own translator reads it."""
    frames = b"".join(serial(3, 4).join(step.pieces) for step in cycle(Dialect(name), audio))
    protocol = RealtimeProtocol(name)
    return [e for _, text in Splitter().feed(frames) for e in protocol.receive(text)]


@pytest.mark.parametrize("name", ["ga", "preview"])
@pytest.mark.parametrize("audio", [PCM_24K, ULAW_8K, ALAW_8K])
def test_a_cycle_is_two_whole_answers_in_every_dialect(
    name: DialectName, audio: AudioFormat
) -> None:
    """Nothing in it is refused, and its sound is as long as promised."""
    events = events_of(name, audio)
    sound = sum(len(event.payload) for event in events if isinstance(event, AudioDelta))
    kinds = (ResponseStarted, ResponseDone, SpeechStarted, SpeechStopped)

    assert not [event for event in events if isinstance(event, MessageRejected)]
    assert sound == 2 * ANSWER_MS * audio.bytes_per_ms
    assert [sum(isinstance(e, kind) for e in events) for kind in kinds] == [2, 2, 1, 2]


def test_the_pace_is_that_of_the_load() -> None:
    """A delta every 25 ms, the interruption 1.5 s after the first, nothing after it."""
    steps = cycle(Dialect("ga"), PCM_24K)
    at_ms = [step.at_ms for step in steps]
    firsts = [step.at_ms for step in steps if step.moment.name.startswith("FIRST_DELTA")]
    (cut_ms,) = [step.at_ms for step in steps if step.moment is Moment.SPEECH_STARTED]

    assert at_ms == sorted(at_ms)
    assert firsts[1] - firsts[0] == 4000
    assert cut_ms - firsts[1] == 1500
    assert at_ms[-1] == cut_ms < CYCLE_MS
    assert max(after - before for before, after in pairwise(at_ms[:60])) <= 200


def test_ids_are_of_one_length_and_differ() -> None:
    """A frame keeps its length whatever is put into it."""
    made = [serial(1, 1), serial(12, 1), serial(99_999_999, 10**9 - 1)]

    assert {len(one) for one in made} == {16}
    assert len(set(made)) == 3
