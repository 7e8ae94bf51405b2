"""One response: its events as time passes, what stays of it."""

import base64
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.agents import Part, Reply, Speech, Writing
from gateway.simulator.conversation import Conversation
from gateway.simulator.dialects import Event
from gateway.simulator.faults import NO_FAULTS, Faults
from gateway.simulator.ids import Ids
from gateway.simulator.options import Options, default_options
from gateway.simulator.plan import Pace
from gateway.simulator.response import Response, Scene
from tests.simulator.desk import loud

DELTA = "response.output_audio.delta"
CHANCE = random.Random(4)
AT_ONCE = Pace(math.inf, 0.0, jitter_s=0.0)


def _response(
    *parts: Part, pace: Pace = AT_ONCE, faults: Faults = NO_FAULTS, options: Options | None = None
) -> Response:
    options = options or default_options("m")
    scene = Scene(Ids(1), options, Conversation(), "conv_1", pace, faults, CHANCE)
    return Response(Reply(parts), scene, now=10.0)


def _sizes(events: list[Event]) -> list[int]:
    return [len(base64.b64decode(event["delta"])) for event in events if event["type"] == DELTA]


def test_nothing_is_due_before_the_latency() -> None:
    """The first event after response.created waits for the first delta's time."""
    response = _response(Speech(loud(100), "Hi"), pace=Pace(first_delta_s=0.3, jitter_s=0.0))

    assert response.start()["response"]["status"] == "in_progress"
    assert response.due_s == 10.3
    assert response.run(10.29) == []
    assert response.run(10.3)[0]["type"] == "response.output_item.added"


def test_a_reply_may_have_its_own_latency() -> None:
    """The script's latency goes before the pace's."""
    scene = Scene(
        Ids(1), default_options("m"), Conversation(), "", Pace(jitter_s=0.0), NO_FAULTS, CHANCE
    )

    response = Response(Reply((Writing("Hi"),), latency_s=2.0), scene, now=10.0)

    assert response.due_s == 12.0


def test_jitter_delays_but_does_not_reorder() -> None:
    """Late deltas stay in order, none earlier than planned."""
    pace = Pace(speed=10.0, jitter_s=0.5)
    response = _response(Speech(loud(3000), "Hi"), pace=pace)
    times = []
    while response.due_s is not None:
        times.append(response.due_s)
        response.run(response.due_s)

    assert response.is_done
    assert times[0] >= 10.3
    assert max(times) <= 10.3 + 0.3 + 0.5 + 0.5


@given(
    st.integers(min_value=1, max_value=5000),
    st.integers(min_value=1, max_value=1500),
    st.integers(min_value=1, max_value=1500),
    st.booleans(),
)
def test_cutting_loses_nothing(samples: int, first_ms: int, delta_ms: int, odd: bool) -> None:  # noqa: FBT001  drawn by hypothesis
    """Any cut into deltas, put together again, is the audio; the record says the same."""
    pcm = loud(220)[: samples * 2]
    pace = Pace(math.inf, 0.0, delta_ms, first_ms, 0.0)
    response = _response(Speech(pcm, "a b c"), pace=pace, faults=Faults(odd_deltas=odd))

    events = response.run(10.0)

    deltas = [base64.b64decode(event["delta"]) for event in events if event["type"] == DELTA]
    assert b"".join(deltas) == pcm
    assert b"".join(response.spoken.values()) == pcm


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
def test_g711_is_counted_in_its_own_bytes(name: str) -> None:
    """A second is 8,000 bytes, and the item knows it lasts a second."""
    options = default_options("m") | {"audio.output.format": {"type": name}}
    response = _response(Speech(loud(1000), "Hi"), options=options)

    events = response.run(10.0)

    assert _sizes(events)[:2] == [3200, 1600]
    assert sum(_sizes(events)) == pytest.approx(8000, abs=32)
    assert response.spoken_s == pytest.approx(1.0, abs=0.01)


def test_words_come_before_their_audio() -> None:
    """Half way through the audio at least half of the words were sent."""
    text = "one two three four five six seven eight"
    response = _response(Speech(loud(2000), text))

    words, audio = 0, 0
    for event in response.run(10.0):
        audio += event["type"] == DELTA
        words += event["type"] == "response.output_audio_transcript.delta"
        assert words * 9 >= audio * 8 - 8

    assert (words, audio) == (8, 9)


def test_events_sent_are_not_changed_later() -> None:
    """The item in the first event stays as it was when the item grows."""
    events = _response(Speech(loud(500), "Hi there")).run(10.0)

    assert events[0]["item"]["content"] == []
    assert events[0]["item"]["status"] == "in_progress"


def test_cancel_while_finishing_changes_nothing() -> None:
    """When only response.done is left, the response is completed."""
    response = _response(Speech(loud(100), "Hi"), faults=Faults(late_done_s=1.0))
    response.run(10.0)

    response.cancel("client_cancelled", 10.5)

    assert response.run(10.6) == []
    (done,) = response.run(11.0)
    assert done["response"]["status"] == "completed"


def test_empty_speech_is_an_empty_item() -> None:
    """No audio to send is no delta, and no fault."""
    events = _response(Speech(b"", "")).run(10.0)

    assert _sizes(events) == []
    assert events[-1]["response"]["status"] == "completed"
