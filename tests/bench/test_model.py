"""The stand-in of the model, on made-up time."""

import binascii
import json
from typing import Any

import pytest

from gateway.audio.convert import Converter
from gateway.bench.caller import Caller
from gateway.bench.framing import Splitter
from gateway.bench.model import Session
from gateway.bench.tally import Books
from gateway.bench.tones import BURST_FRAME, QUIET_FRAMES, number_frames
from gateway.events import PCM_24K, ULAW_8K, AudioFormat, ConfigureSession, SessionOptions
from gateway.realtime import Dialect
from gateway.realtime.protocol import RealtimeProtocol

NUMBER = 1234


class Stage:
    """One session with a caller that waits to be found."""

    def __init__(self, target: str = "/openai/v1/realtime?model=x") -> None:
        self.now = 100.0
        self.books = Books()
        self.books.open(0.0)
        self.caller = Caller(NUMBER, self.books, lambda _frames: None)
        self.wakes: list[int] = []
        self._sent = bytearray()
        self.session = Session(
            1, target, self._sent.extend, self._wake, self._pair, lambda: self.now
        )
        self.session.start()

    def _wake(self, _session: Session, at_ms: int) -> None:
        self.wakes.append(at_ms)

    def _pair(self, number: int, _session: Session) -> Caller | None:
        return self.caller if number == NUMBER else None

    def sent(self) -> list[dict[str, Any]]:
        """Everything since the last look."""
        stream = bytes(self._sent)
        self._sent.clear()
        return [json.loads(text) for _, text in Splitter().feed(stream)]

    def configure(self, dialect: Dialect = "ga", audio: AudioFormat = PCM_24K) -> None:
        """The session.update of our own gateway."""
        options = SessionOptions(instructions="Be brief.", voice="alloy", audio=audio)
        (message,) = RealtimeProtocol(dialect).send(ConfigureSession(options))
        self.session.receive(message, self.now)

    def append(self, frames: list[bytes], audio: AudioFormat = PCM_24K) -> None:
        """The caller's frames as a gateway sends them on."""
        converter = Converter("ulaw", 8000, audio.encoding, audio.rate_hz)
        for frame in frames:
            self.caller.sent_frames += 1
            payload = converter.convert(binascii.a2b_base64(frame))
            text = binascii.b2a_base64(payload, newline=False).decode()
            message = {"type": "input_audio_buffer.append", "audio": text}
            self.session.receive(json.dumps(message).encode(), self.now)

    def run(self, until_ms: int) -> list[dict[str, Any]]:
        """Let time pass; gives what is said meanwhile."""
        events = []
        while self.wakes and min(self.wakes) <= until_ms:
            due_ms = min(self.wakes)
            self.wakes.remove(due_ms)
            self.now = due_ms / 1000
            self.session.step(due_ms)
            events += self.sent()
        return events


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        ("/openai/v1/realtime?model=x", "ga"),
        ("/openai/realtime?api-version=2025-04-01-preview&deployment=x", "preview"),
    ],
)
@pytest.mark.parametrize("audio", [PCM_24K, ULAW_8K])
def test_a_session_is_opened_in_the_dialect_it_was_dialled_in(
    target: str, dialect: Dialect, audio: AudioFormat
) -> None:
    """Created, updated, and answers in the format asked for."""
    stage = Stage(target)
    stage.configure(dialect, audio)
    kinds = [event["type"] for event in stage.sent()]
    events = stage.run(103_500)
    deltas = [e["delta"] for e in events if e["type"].endswith("audio.delta")]

    assert kinds == ["session.created", "session.updated"]
    assert {len(binascii.a2b_base64(d)) for d in deltas} == {100 * audio.bytes_per_ms}
    assert len(deltas) == 30
    assert events[0]["type"] == "input_audio_buffer.speech_stopped"
    assert events[-1]["type"] == "response.done"


def test_a_caller_is_found_by_the_number_it_says() -> None:
    """Set-up ends with the first append after session.updated."""
    stage = Stage()
    stage.caller.started_s = 99.5
    stage.configure()
    stage.append(number_frames(NUMBER) * 2)

    assert stage.session.caller is stage.caller
    assert stage.books.tally.setup_ms == [pytest.approx(500.0)]


def paired() -> Stage:
    """A session that knows its caller."""
    stage = Stage()
    stage.configure()
    stage.append(number_frames(NUMBER) * 2)
    stage.sent()
    return stage


def test_a_burst_is_recognised_when_it_arrives() -> None:
    """Its time on the way is counted once."""
    stage = paired()
    stage.append([QUIET_FRAMES[0]])
    stage.caller.bursts.append((stage.now, 100))
    stage.now += 0.007
    stage.append([QUIET_FRAMES[0], BURST_FRAME, QUIET_FRAMES[1]])

    assert stage.books.tally.uplink_ms == [pytest.approx(7.0)]


def test_what_never_arrives_shows_as_lag() -> None:
    """The least lag grows by exactly what is lost, whatever a resampler holds back."""
    stage = paired()
    stage.append([*QUIET_FRAMES[:20]])
    before, stage.session.lag_floor_ms = stage.session.lag_floor_ms, float("inf")
    stage.caller.sent_frames += 3
    stage.append([*QUIET_FRAMES[:20]])

    assert stage.session.lag_floor_ms - before == pytest.approx(60.0, abs=1.0)


def test_two_answers_a_cycle_the_second_interrupted() -> None:
    """Told to the caller's books at the moment they are sent; ids are never used twice."""
    stage = paired()
    events = stage.run(100_000 + 2000 + 16_000 - 1)
    created = [e["response"]["id"] for e in events if e["type"] == "response.created"]
    kinds = [event["type"] for event in events]
    tally = stage.books.tally

    assert len(created) == len(set(created)) == 4
    assert kinds.count("input_audio_buffer.speech_started") == tally.barge_ins == 2
    assert tally.first_deltas == 4
    # Three were closed by the next: of these one was to be heard in full, and nothing came.
    assert (tally.answers, tally.answers_short, tally.lost_down_ms) == (1, 1, 3000.0)


def test_a_greeting_that_is_asked_for_comes_at_once() -> None:
    """And once, though the first answer was planned already."""
    stage = paired()
    stage.session.receive(b'{"type":"response.create"}', stage.now)
    at_once = [event["type"] for event in stage.run(101_500)]
    later = [event["type"] for event in stage.run(104_000)]

    assert at_once.count("response.created") == at_once.count("response.done") == 1
    assert "response.created" not in later


def test_a_truncation_is_confirmed() -> None:
    """As the service does."""
    stage = paired()
    cut = {"type": "conversation.item.truncate", "item_id": "item_1", "audio_end_ms": 900}
    stage.session.receive(json.dumps(cut).encode(), stage.now)
    (event,) = stage.sent()

    assert event["type"] == "conversation.item.truncated"
    assert (event["item_id"], event["audio_end_ms"]) == ("item_1", 900)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"type":"nonsense"}'])
def test_nonsense_is_passed_over(text: bytes) -> None:
    """A broken gateway does not break the measurement."""
    stage = paired()
    stage.session.receive(text, stage.now)

    assert stage.sent() == []


def test_a_refused_session_is_told() -> None:
    """Its gateway shall see why nothing comes."""
    stage = Stage()
    stage.session.receive(b'{"type":"session.update","session":{"type":"x"}}', stage.now)

    assert [event["type"] for event in stage.sent()] == ["session.created", "error"]
