"""Asterisk's end of the wire: its events, its limits, and what it makes of our commands."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.asterisk_line import CODECS, AsteriskCall, AsteriskLine

CALL = AsteriskCall(channel_id="17.1", variables={"__CALLER_NUM": "caller"})
PLAIN = AsteriskCall(channel_id="17.1", is_json=False)
FRAME = bytes(160)


def parsed(messages: list[str | bytes]) -> list[dict[str, Any]]:
    """The events as objects."""
    return [json.loads(message) for message in messages]


def command(name: str, **members: Any) -> str:
    """A command as a gateway sends it."""
    return json.dumps({"command": name, **members}, separators=(",", ":"))


def rejected(line: AsteriskLine) -> list[str]:
    """Why messages were rejected."""
    return [moment.detail for moment in line.log.of("rejected")]


def test_media_start_in_json() -> None:
    """The first event says codec, frame size, ids and channel variables."""
    (start,) = parsed(AsteriskLine(CALL).start(0.0))
    assert start == {
        "event": "MEDIA_START",
        "connection_id": "gateway",
        "channel": "WebSocket/gateway/0x7f0000000000",
        "channel_id": "17.1",
        "format": "ulaw",
        "optimal_frame_size": 160,
        "ptime": 20,
        "channel_variables": {"__CALLER_NUM": "caller"},
    }


@pytest.mark.parametrize(
    ("codec", "size_bytes"),
    [
        ("ulaw", 160),
        ("alaw", 160),
        ("slin", 320),
        ("slin16", 640),
        ("slin24", 960),
        ("slin48", 1920),
    ],
)
def test_frame_sizes(codec: str, size_bytes: int) -> None:
    """Each codec has the frame size that Asterisk computes for it."""
    (start,) = parsed(AsteriskLine(AsteriskCall(codec=codec)).start(0.0))
    assert (start["format"], start["optimal_frame_size"]) == (codec, size_bytes)
    assert size_bytes == 20 * CODECS[codec].bytes_per_ms


def test_plain_text_control() -> None:
    """The older format: key:value tokens, bare words, no channel variables."""
    line = AsteriskLine(PLAIN)
    assert line.start(0.0) == [
        (
            "MEDIA_START connection_id:gateway channel:WebSocket/gateway/0x7f0000000000 "
            "channel_id:17.1 format:ulaw optimal_frame_size:160 ptime:20"
        )
    ]
    assert line.send_dtmf("5", 0.0) == ["DTMF_END digit:5 channel_id:17.1"]
    line.receive("MARK_MEDIA m 1", 0.001)
    assert line.advance(0.02) == ["MEDIA_MARK_PROCESSED m 1"]
    line.receive("MARK_MEDIA", 0.021)
    assert line.advance(0.04) == ["MEDIA_MARK_PROCESSED"]
    assert line.receive("GET_STATUS", 0.05) == [
        (
            "STATUS channel_id:17.1 queue_length:0 xon_level:800 xoff_level:900 "
            "queue_full:false bulk_media:false media_paused:false"
        )
    ]
    assert [line.receive(FRAME * 300, 0.05) for _ in range(3)] == [[], [], ["MEDIA_XOFF"]]
    line.receive("FLUSH_MEDIA", 0.05)
    assert line.advance(0.06) == ["MEDIA_XON"]
    line.receive("HANGUP", 0.07)
    assert line.close_code == 1000


def test_a_mark_comes_back_from_the_front_of_the_queue() -> None:
    """The mark's event carries its id, one tick after the frame before it left."""
    line = AsteriskLine(CALL)
    line.receive(FRAME * 2, 0.001)
    assert line.receive(command("MARK_MEDIA", correlation_id="a"), 0.001) == []
    assert line.next_timer() == pytest.approx(0.06)
    assert parsed(line.advance(0.06)) == [
        {"event": "MEDIA_MARK_PROCESSED", "channel_id": "17.1", "correlation_id": "a"}
    ]


def test_flush_forgets_marks_and_status_tells_what_was_queued() -> None:
    """Status then flush, as a gateway asks it: the number is exact and no mark comes back."""
    line = AsteriskLine(CALL)
    line.receive(FRAME * 10, 0.001)
    line.receive(command("MARK_MEDIA", correlation_id="a"), 0.001)
    (status,) = parsed(line.receive(command("GET_STATUS"), 0.05))
    assert status["queue_length"] == 8
    assert line.receive(command("FLUSH_MEDIA"), 0.05) == []
    assert line.advance(5.0) == []
    assert [moment.amount_ms for moment in line.log.of("clear")] == [160]


def test_buffering_keeps_remainders() -> None:
    """Between start and stop no byte is lost; the stop pads the last frame and is reported."""
    line = AsteriskLine(CALL)
    line.receive(command("START_MEDIA_BUFFERING"), 0.001)
    line.receive(b"\x01" * 100, 0.001)
    line.receive(b"\x02" * 100, 0.001)
    line.receive(command("STOP_MEDIA_BUFFERING", correlation_id="b"), 0.001)
    assert parsed(line.advance(0.1)) == [
        {"event": "MEDIA_BUFFERING_COMPLETED", "channel_id": "17.1", "correlation_id": "b"}
    ]
    assert line.phone.played == b"\x01" * 100 + b"\x02" * 100 + b"\xff" * 120
    assert line.phone.dropped_ms == 0


def test_outside_buffering_the_tail_is_dropped() -> None:
    """250 bytes are one frame; the log says that something was lost."""
    line = AsteriskLine(CALL)
    line.receive(bytes(250), 0.001)
    assert line.phone.status(0.001) == 20
    assert rejected(line) == ["dropped 11.25 ms"]


def test_limits_of_message_sizes() -> None:
    """129 bytes of text are ignored, 65,536 of a binary frame end the call with 1009."""
    line = AsteriskLine(CALL)
    line.receive(command("HANGUP", correlation_id="x" * 89), 0.0)
    assert rejected(line) == ["text of 129 bytes"]
    line.receive(bytes(65_531), 0.0)
    assert line.close_code is None
    line.receive(bytes(65_532), 0.0)
    assert line.close_code == 1009


def test_bad_commands() -> None:
    """Broken JSON is answered with ERROR, an unknown command with nothing."""
    line = AsteriskLine(CALL)
    (error,) = parsed(line.receive("{nonsense", 0.0))
    assert error == {
        "event": "ERROR",
        "channel_id": "17.1",
        "error_text": "Unable to parse JSON command",
    }
    assert line.receive(command("DANCE"), 0.0) == []
    assert line.receive("7", 0.0) == []
    assert len(rejected(line)) == 3


def test_direction() -> None:
    """With direction in nothing may be played; with out the caller is not sent."""
    line = AsteriskLine(CALL)
    line.receive(command("SET_MEDIA_DIRECTION", direction="in"), 0.0)
    line.receive(FRAME, 0.001)
    assert line.phone.status(0.001) == 0
    (error,) = parsed(line.receive(command("MARK_MEDIA", correlation_id="a"), 0.001))
    assert error["event"] == "ERROR"
    assert line.send_audio(FRAME, 0.001) == [FRAME]
    line.receive(command("SET_MEDIA_DIRECTION", direction="out"), 0.002)
    assert line.send_audio(FRAME, 0.002) == []


def test_no_caller_audio_before_the_answer() -> None:
    """With option n the caller is heard only after ANSWER."""
    line = AsteriskLine(AsteriskCall(is_answered=False))
    assert line.send_audio(FRAME, 0.0) == []
    line.receive(command("ANSWER"), 0.01)
    assert line.send_audio(FRAME, 0.02) == [FRAME]
    assert line.stop(0.03) == []


def test_pause_and_drained() -> None:
    """A paused queue keeps its frames; drained is reported once it has run dry."""
    line = AsteriskLine(CALL)
    line.receive(FRAME, 0.001)
    line.receive(command("PAUSE_MEDIA"), 0.001)
    line.receive(command("REPORT_QUEUE_DRAINED"), 0.001)
    assert line.advance(1.001) == []
    line.receive(command("CONTINUE_MEDIA"), 1.001)
    assert parsed(line.advance(2.0)) == [{"event": "QUEUE_DRAINED", "channel_id": "17.1"}]


@given(
    messages=st.lists(
        st.text()
        | st.binary(max_size=2000)
        | st.builds(
            lambda name, argument: json.dumps({"command": name, "correlation_id": argument}),
            st.sampled_from(["MARK_MEDIA", "FLUSH_MEDIA", "STOP_MEDIA_BUFFERING", "GET_STATUS"]),
            st.none() | st.integers() | st.text(max_size=10),
        )
    ),
    call=st.sampled_from([CALL, PLAIN]),
)
def test_no_message_makes_the_line_raise(messages: list[str | bytes], call: AsteriskCall) -> None:
    """Whatever a gateway sends, every reply is text and JSON events stay well formed."""
    line = AsteriskLine(call)
    replies = [reply for n, each in enumerate(messages) for reply in line.receive(each, n / 100)]
    replies += line.advance(100.0)
    assert all(isinstance(reply, str) for reply in replies)
    assert not call.is_json or all("event" in reply for reply in parsed(replies))
