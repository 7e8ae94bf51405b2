"""The phone of a measuring caller, on made-up time."""

import binascii
import json
from itertools import pairwise
from typing import Any

import pytest

from gateway.bench.caller import Caller
from gateway.bench.framing import Splitter
from gateway.bench.tally import Books
from gateway.bench.tones import BURST_FRAME, QUIET_FRAMES
from gateway.providers.twilio import TwilioDoor


class Line:
    """A caller, what it has sent, and messages to it."""

    def __init__(self, frames: int = 1) -> None:
        self.books = Books()
        self.books.open(0.0)
        self._sent = bytearray()
        self.caller = Caller(7, self.books, self._sent.extend, frames)
        self.caller.start(0.0)
        self.caller.pair(0.1)

    def sent(self) -> list[dict[str, Any]]:
        """Everything since the last look."""
        stream = bytes(self._sent)
        self._sent.clear()
        return [json.loads(text) for _, text in Splitter().feed(stream)]

    def marks(self) -> list[str]:
        """The marks among it."""
        return [m["mark"]["name"] for m in self.sent() if m["event"] == "mark"]

    def play(self, duration_ms: int, now: float) -> None:
        """The gateway sends sound."""
        payload = binascii.b2a_base64(b"\x00" * duration_ms * 8, newline=False).decode()
        message = {"event": "media", "streamSid": "MZ", "media": {"payload": payload}}
        self.caller.receive(json.dumps(message).encode(), now)

    def say(self, event: str, now: float, **members: Any) -> None:
        """The gateway sends something else."""
        self.caller.receive(json.dumps({"event": event, **members}).encode(), now)


@pytest.fixture
def line() -> Line:
    """A call whose model has understood who calls."""
    line = Line()
    line.sent()
    return line


def test_our_own_door_understands_every_message() -> None:
    """The referee is the provider's translator: nothing is rejected, numbers go up by one."""
    line = Line()
    stream = TwilioDoor("https://a", (), insecure=True).connect(None)  # type: ignore[arg-type]
    for frame in range(60):
        line.caller.tick(1.0 + frame / 50)
    line.play(20, 2.0)
    line.say("mark", 3.0, mark={"name": "m1"})
    line.caller.stop()
    messages = line.sent()

    events = [e for m in messages for e in stream.receive(json.dumps(m))]

    assert not [e for e in events if type(e).__name__ == "MessageRejected"]
    assert [m["sequenceNumber"] for m in messages[1:]] == [str(n) for n in range(1, 64)]
    assert [m["media"]["chunk"] for m in messages if "media" in m][-1] == "60"
    assert messages[-1]["event"] == "stop"


def test_frames_may_share_a_message() -> None:
    """The same sound, a third of the messages, counted one by one."""
    one, three = Line(), Line(frames=3)
    for frame in range(60):
        one.caller.tick(frame / 50)
    for message in range(20):
        three.caller.tick(message * 3 / 50)
    alone, shared = (
        [m["media"] for m in line.sent() if m["event"] == "media"] for line in (one, three)
    )

    assert [m["chunk"] for m in shared] == [str(n) for n in range(1, 21)]
    sounds = [b"".join(binascii.a2b_base64(m["payload"]) for m in ms) for ms in (alone, shared)]
    assert sounds[0] == sounds[1]
    assert three.caller.sent_frames == 60


def test_a_burst_comes_once_a_second(line: Line) -> None:
    """Among silence; each is remembered until it is heard."""
    for frame in range(200):
        line.caller.tick(frame / 50)
    payloads = [m["media"]["payload"].encode() for m in line.sent()]
    places = [place for place, payload in enumerate(payloads) if payload == BURST_FRAME]

    assert [b - a for a, b in pairwise(places)] == [50] * (len(places) - 1)
    assert len(places) == line.books.tally.bursts == len(line.caller.bursts) == 3
    assert set(payloads) == {BURST_FRAME, *QUIET_FRAMES}


def test_a_mark_comes_back_when_the_phone_has_played_up_to_it(line: Line) -> None:
    """At once where nothing is queued, else with the first tick after."""
    line.say("mark", 1.0, mark={"name": "idle"})
    assert line.marks() == ["idle"]
    line.play(100, 1.0)
    line.say("mark", 1.0, mark={"name": "m1"})
    line.play(100, 1.01)
    line.say("mark", 1.01, mark={"name": "m2"})

    echoed = []
    for at in (1.08, 1.101, 1.18, 1.201):
        line.caller.tick(at)
        echoed.append(line.marks())

    assert echoed == [[], ["m1"], [], ["m2"]]


def test_clear_brings_outstanding_marks_back_at_once(line: Line) -> None:
    """And the phone is silent from then on."""
    line.play(1000, 1.0)
    line.say("mark", 1.0, mark={"name": "m1"})
    line.say("clear", 1.2)
    line.say("mark", 1.2, mark={"name": "m2"})

    assert line.marks() == ["m1", "m2"]


def test_a_barge_in_is_answered_by_clear_and_sound_after_it_is_stale(line: Line) -> None:
    """Until the next answer begins."""
    line.caller.answer_starts(1.0, is_to_be_cut=True)
    line.play(100, 1.002)
    line.caller.speech_started(2.5)
    line.play(100, 2.5)
    line.say("clear", 2.504)
    line.play(100, 2.6)
    line.caller.answer_starts(5.0, is_to_be_cut=False)
    line.play(100, 5.001)
    tally = line.books.tally

    assert tally.barge_ins == 1
    assert tally.barge_in_ms == [pytest.approx(4.0)]
    assert tally.stale_messages == 1
    assert tally.downlink_ms == [pytest.approx(2.0), pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("received_ms", "short", "long", "lost_ms"),
    [(3000, 0, 0, 0.0), (2980, 0, 0, 0.0), (2900, 1, 0, 100.0), (3100, 0, 1, 0.0)],
)
def test_an_answer_heard_in_full_is_held_against_its_length(
    line: Line, received_ms: int, short: int, long: int, lost_ms: float
) -> None:
    """A frame more or less is a filter's."""
    line.caller.answer_starts(1.0, is_to_be_cut=False)
    line.play(received_ms, 1.0)
    line.caller.answer_starts(5.0, is_to_be_cut=True)
    tally = line.books.tally

    assert (tally.answers, tally.answers_short, tally.answers_long) == (1, short, long)
    assert tally.lost_down_ms == lost_ms


def test_an_answer_to_be_cut_is_not_held_against_its_length(line: Line) -> None:
    """Nobody knows how much of it should have come."""
    line.caller.answer_starts(1.0, is_to_be_cut=True)
    line.play(100, 1.0)
    line.caller.answer_starts(5.0, is_to_be_cut=False)

    assert line.books.tally.answers == 0


def test_a_gap_is_what_the_caller_hears_within_an_answer(line: Line) -> None:
    """The pause between two answers is none."""
    line.caller.answer_starts(1.0, is_to_be_cut=False)
    line.play(1500, 1.0)
    line.play(1500, 2.75)
    line.caller.answer_starts(5.0, is_to_be_cut=True)
    line.play(100, 5.0)

    assert line.books.tally.gaps_ms == [pytest.approx(250.0)]


def test_a_lost_burst_does_not_make_the_next_one_late(line: Line) -> None:
    """While sound is on time, the burst that is heard is the youngest."""
    line.caller.bursts.extend([(1.0, 50), (2.0, 100)])
    line.books.tally.bursts = 2
    line.caller.burst_heard(2.001, lag_ms=20.0)

    assert line.books.tally.uplink_ms == [pytest.approx(1.0)]
    assert not line.caller.bursts


def test_sound_that_is_a_second_late_is_late_not_lost(line: Line) -> None:
    """Then the burst that is heard is the oldest."""
    line.caller.bursts.extend([(1.0, 50), (2.0, 100)])
    line.caller.burst_heard(2.2, lag_ms=1200.0)

    assert line.books.tally.uplink_ms == [pytest.approx(1200.0)]


def test_a_burst_after_two_seconds_is_lost(line: Line) -> None:
    """Nobody would call that a conversation."""
    line.caller.bursts.append((1.0, 50))
    line.caller.burst_heard(3.1, lag_ms=2000.0)

    assert line.books.tally.uplink_ms == []
