"""Twilio's end of the wire: its messages, and what it makes of ours."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.twilio_line import TwilioCall, TwilioLine

CALL = TwilioCall(call_sid="CA" + "1" * 32, stream_sid="MZ" + "2" * 32, parameters={"token": "t"})


def parsed(messages: list[str | bytes]) -> list[dict[str, Any]]:
    """The messages as objects."""
    return [json.loads(message) for message in messages]


def ours(event: str, **members: Any) -> str:
    """A message as a gateway sends it."""
    return json.dumps({"event": event, "streamSid": CALL.stream_sid, **members})


def media(payload: bytes) -> str:
    """A media message of the gateway."""
    return ours("media", media={"payload": base64.b64encode(payload).decode()})


def test_a_call_as_the_documentation_shows_it() -> None:
    """Connected has no number, all others count up from 1 and say their stream."""
    line = TwilioLine(CALL)
    messages = parsed(
        [
            *line.start(10.0),
            *line.send_audio(b"\x7f" * 160, 10.0),
            *line.send_dtmf("#", 10.5),
            *line.send_audio(b"\x7f" * 160, 11.0),
            *line.stop(12.0),
        ]
    )
    assert [message["event"] for message in messages] == [
        "connected",
        "start",
        "media",
        "dtmf",
        "media",
        "stop",
    ]
    assert [message.get("sequenceNumber") for message in messages] == [None, *"12345"]
    assert {message.get("streamSid") for message in messages[1:]} == {CALL.stream_sid}
    assert messages[1]["start"] == {
        "accountSid": CALL.account_sid,
        "streamSid": CALL.stream_sid,
        "callSid": CALL.call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"token": "t"},
    }
    assert messages[3]["dtmf"] == {"track": "inbound_track", "digit": "#"}
    assert messages[4]["media"]["chunk"] == "2"
    assert messages[4]["media"]["timestamp"] == "1155"
    assert base64.b64decode(messages[4]["media"]["payload"]) == b"\x7f" * 160


def test_audio_is_played_and_its_mark_comes_back() -> None:
    """A mark behind 40 ms of audio is sent back 40 ms later, at once when all is played."""
    line = TwilioLine(CALL)
    assert line.receive(media(bytes(320)), 1.0) == []
    assert line.receive(ours("mark", mark={"name": "a"}), 1.0) == []
    assert line.next_timer() == pytest.approx(1.04)
    assert [message["mark"] for message in parsed(line.advance(1.05))] == [{"name": "a"}]
    assert [
        message["mark"] for message in parsed(line.receive(ours("mark", mark={"name": "b"}), 2.0))
    ] == [{"name": "b"}]
    assert [moment.detail for moment in line.log.of("echo")] == ["a", "b"]


def test_clear_brings_the_marks_back_at_once() -> None:
    """After a clear the outstanding marks are the reply, and the log says what was dropped."""
    line = TwilioLine(CALL)
    line.receive(media(bytes(800)), 1.0)
    line.receive(ours("mark", mark={"name": "a"}), 1.0)
    replies = line.receive(ours("clear"), 1.02)
    assert [message["mark"]["name"] for message in parsed(replies)] == ["a"]
    (moment,) = line.log.of("clear")
    assert moment.at_s == 1.02
    assert moment.amount_ms == pytest.approx(80)


@pytest.mark.parametrize(
    "message",
    [
        b"\x00",
        "",
        "[]",
        "{",
        ours("play"),
        ours("clear", extra=1),
        ours("media", media={}),
        ours("media", media={"payload": "AAA"}),
        ours("media", media={"payload": "AA==", "track": "outbound"}),
        ours("mark", mark={"name": 1}),
        json.dumps({"event": "clear", "streamSid": "MZ0"}),
        json.dumps({"event": "clear"}),
        '{"a":' * 5000,
    ],
)
def test_what_twilio_warns_about_is_ignored_and_noted(message: str | bytes) -> None:
    """A wrong message changes nothing and leaves one line in the log."""
    line = TwilioLine(CALL)
    line.receive(media(bytes(800)), 1.0)
    assert line.receive(message, 1.0) == []
    assert line.phone.status(1.0) == 100
    assert len(line.log.of("rejected")) == 1


def test_too_much_audio_is_noted() -> None:
    """Audio beyond ten minutes is warned about as Twilio does."""
    line = TwilioLine(CALL)
    line.receive(media(bytes(600_000 * 8)), 0.0)
    line.receive(media(bytes(160)), 0.0)
    assert [moment.detail for moment in line.log.of("rejected")] == [
        "31931 more than ten minutes queued"
    ]


@given(
    message=st.text() | st.binary() | st.from_regex(r'\{"event":"(media|mark)".*', fullmatch=True)
)
def test_no_message_makes_the_line_raise(message: str | bytes) -> None:
    """Whatever a gateway sends, the line goes on and sends nothing for it."""
    line = TwilioLine(CALL)
    assert line.receive(message, 1.0) == []
    assert len(line.log.of("rejected")) == 1
