"""Tests of the Asterisk door and stream against recorded calls."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import AuthRejected
from gateway.events import (
    AudioFormat,
    AudioLost,
    AudioReceived,
    CallStarted,
    ClearAudio,
    DtmfReceived,
    HangUp,
    MarkReached,
    MessageRejected,
    PlayAudio,
    PlayoutPaused,
    PlayoutReported,
    PlayoutResumed,
    ProviderCommand,
    ProviderEvent,
    QueryPlayout,
    SendMark,
)
from gateway.providers import HttpRequest, IncomingCall
from gateway.providers.asterisk import AsteriskDoor, AsteriskStream
from tests.providers.vectors import read_vector, replay

PLAIN_START = (
    "MEDIA_START connection_id:gw channel:WebSocket/gw/0x7f channel_id:1795244195.1 "
    "format:ulaw optimal_frame_size:160 ptime:20"
)
OLD_PLAIN_START = (
    "MEDIA_START connection_id:gw channel:WebSocket/gw/0x7f format:ulaw optimal_frame_size:160"
)

LONG_PLAIN_STATUS = (
    "STATUS channel_id:1.1 queue_length:3 xon_level:800 xoff_level:900 queue_full:false "
    "bulk_media:false media_paused:false"
)


def _text(event: str, **fields: Any) -> str:
    return msgspec.json.encode({"event": event, "channel_id": "1.1"} | fields).decode()


def _start_text(
    name: str = "ulaw", size_bytes: Any = 160, ptime_ms: Any = 20, **fields: Any
) -> str:
    body = {"channel": "WebSocket/gw/0x7f", "connection_id": "gw", "format": name}
    sizes = {"optimal_frame_size": size_bytes, "ptime": ptime_ms}
    return _text("MEDIA_START", **(body | sizes | fields))


def _started(start: str = "", query: Mapping[str, str] | None = None) -> AsteriskStream:
    stream = AsteriskStream(query)
    assert isinstance(stream.receive(start or _start_text())[0], CallStarted)
    return stream


def _kind(events: list[ProviderEvent]) -> str:
    (event,) = events
    assert isinstance(event, MessageRejected)
    return event.kind


def _call_started(stream: AsteriskStream, message: str) -> CallStarted:
    (event,) = stream.receive(message)
    assert isinstance(event, CallStarted)
    return event


# ------------------------------------------------------------- the door


def _upgrade(authorization: str = "", url: str = "http://gw/asterisk/media") -> HttpRequest:
    return HttpRequest("GET", url, {"authorization": authorization} if authorization else {})


def _basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def test_the_recorded_credentials_open_the_door() -> None:
    """What a real PBX sends for its username and password passes."""
    handshake = read_vector("asterisk_echo_dtmf_caller_hangs_up")[0]
    door = AsteriskDoor("gwuser", "gwpass")

    door.verify(_upgrade(handshake["headers"]["Authorization"]))

    assert handshake["headers"]["Sec-WebSocket-Protocol"] in door.subprotocols
    assert not door.needs_token


@pytest.mark.parametrize(
    ("authorization", "kind"),
    [
        ("", "missing"),
        ("Bearer Z3d1c2VyOmd3cGFzcw==", "missing"),
        ("Basic", "signature"),
        ("Basic !!!", "signature"),
        ("Basic \udcff", "signature"),
        (_basic("gwuser:wrong"), "signature"),
        (_basic("other:gwpass"), "signature"),
        (_basic("gwuser:gwpass "), "signature"),
        (_basic("gwuser"), "signature"),
        (_basic(":"), "signature"),
    ],
)
def test_other_credentials_do_not(authorization: str, kind: str) -> None:
    """Missing and wrong are told apart; nothing malformed raises anything else."""
    with pytest.raises(AuthRejected) as caught:
        AsteriskDoor("gwuser", "gwpass").verify(_upgrade(authorization))

    assert kind == caught.value.kind


def test_a_password_may_hold_colons_and_umlauts() -> None:
    """Only the first colon parts name from password (RFC 7617); both are UTF-8."""
    AsteriskDoor("gw", "a:ß:").verify(_upgrade(_basic("gw:a:ß:").replace("Basic", "bAsIc ")))


def test_an_empty_password_lets_nobody_in() -> None:
    """A forgotten setting does not open the door."""
    for credentials in ("", ":", "gw:"):
        with pytest.raises(AuthRejected):
            AsteriskDoor("gw" if "gw" in credentials else "", "").verify(
                _upgrade(_basic(credentials))
            )


def test_insecure_means_unchecked() -> None:
    """An insecure door takes an upgrade without credentials."""
    AsteriskDoor("", "", insecure=True).verify(_upgrade())


def test_there_are_no_webhooks() -> None:
    """The dialplan answers, so every webhook is unknown."""
    door = AsteriskDoor("gw", "x")

    assert door.incoming_call(_upgrade()) is None
    assert door.status(_upgrade()) is None
    assert door.answer(IncomingCall("1", "", ""), "", "", "").status == 404


@pytest.mark.parametrize(("reason", "status"), [("capacity", 503), ("unknown_number", 404)])
def test_a_refusal_is_an_http_status(reason: str, status: int) -> None:
    """The upgrade fails and the dialplan goes on."""
    assert status == AsteriskDoor("gw", "x").refuse(reason).status


# ------------------------------------------------------------- recorded calls


def test_a_recorded_call_with_digits_is_understood() -> None:
    """Start, early frames and three keys of a call that the caller ended."""
    handshake = read_vector("asterisk_echo_dtmf_caller_hangs_up")[0]
    stream = AsteriskDoor("", "", insecure=True).connect(
        _upgrade(url=f"http://gw{handshake['path']}")
    )

    started, *rest = replay("asterisk_echo_dtmf_caller_hangs_up", stream)

    assert isinstance(started, CallStarted)
    assert started.provider_call_id == "1795244195.1"
    assert started.stream_id == "WebSocket-gw-0x7f5454003ff0"
    assert (started.from_number, started.to_number) == ("caller", "700")
    assert started.parameters["mode"] == "echo"
    assert [AudioReceived, AudioReceived] == [type(event) for event in rest[:2]]
    assert [DtmfReceived("1"), DtmfReceived("2"), DtmfReceived("#")] == rest[2:]


def test_a_recorded_barge_in_is_understood() -> None:
    """Status before and after a flush, marks, and the events we knowingly pass over."""
    started, *rest = replay("asterisk_outbound_barge_in", AsteriskStream())

    assert isinstance(started, CallStarted)
    assert [
        PlayoutReported(406 * 20),
        PlayoutReported(0),
        MarkReached("mark-2"),
        PlayoutReported(25 * 20),
        MarkReached("mark-3"),
    ] == [event for event in rest if not isinstance(event, AudioReceived)]


def test_a_recorded_error_is_a_rejected_message() -> None:
    """The PBX's complaint about our text is counted and kept for the log."""
    events = replay("asterisk_bad_json", AsteriskStream())

    assert events.count(MessageRejected("bad_message", "Unable to parse JSON command")) == 2


def test_a_recorded_wide_band_call_is_understood() -> None:
    """Format slin24 is 24 kHz linear audio, 960 bytes a frame."""
    stream = AsteriskStream()

    started, *rest = replay("asterisk_slin24", stream)

    assert isinstance(started, CallStarted)
    assert AudioFormat("pcm", 24000) == started.audio_in == started.audio_out
    assert {AudioReceived} == {type(event) for event in rest}
    assert [len(message) for message in stream.send(PlayAudio(bytes(960 * 8)))] == [960 * 8]


def test_inherited_variables_lose_their_underscores() -> None:
    """Channel variables become parameters under the name the dialplan author gave them."""
    started, *_ = replay("asterisk_inherited_variables", AsteriskStream())

    assert isinstance(started, CallStarted)
    assert started.parameters["SIP_CALL_ID"] == "b530e1404ff0cc4d"
    assert started.parameters["CALLER_NUM"] == "caller"


# ------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("name", "size_bytes", "expected"),
    [
        ("ulaw", 160, AudioFormat("ulaw", 8000)),
        ("alaw", 160, AudioFormat("alaw", 8000)),
        ("slin", 320, AudioFormat("pcm", 8000)),
        ("slin16", 640, AudioFormat("pcm", 16000)),
        ("slin24", 960, AudioFormat("pcm", 24000)),
        ("slin48", 1920, AudioFormat("pcm", 48000)),
    ],
)
def test_the_formats_we_speak(name: str, size_bytes: int, expected: AudioFormat) -> None:
    """Each is recognised, and audio leaves in whole frames of at most 8000 bytes."""
    stream = _started(_start_text(name, size_bytes))
    pieces = stream.send(PlayAudio(bytes(size_bytes * 30)))

    assert expected == _call_started(AsteriskStream(), _start_text(name, size_bytes)).audio_in
    assert bytes(size_bytes * 30) == b"".join(map(_bytes, pieces))
    assert all(len(piece) % size_bytes == 0 and len(piece) <= 8000 for piece in pieces)
    assert stream.caps.max_message_bytes % size_bytes == 0


def _bytes(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


@pytest.mark.parametrize("name", ["", "opus", "g722", "slin12", "slin44", "gsm", "ULAW"])
def test_other_formats_are_refused(name: str) -> None:
    """Audio we would turn into noise starts no call; the log names the codec."""
    assert [MessageRejected("media_format", name)] == AsteriskStream().receive(_start_text(name))


@pytest.mark.parametrize(
    ("size_bytes", "ptime_ms"),
    [(0, 20), (-160, -20), (161, 20), (160, 10), (0, 0), (8000, 1000), (10**30, 20), (160, 10**30)],
)
def test_a_frame_size_that_cannot_be_is_refused(size_bytes: int, ptime_ms: int) -> None:
    """Numbers from the PBX become loops and buffers, so they must fit each other."""
    assert (
        _kind(AsteriskStream().receive(_start_text("ulaw", size_bytes, ptime_ms))) == "bad_message"
    )


@pytest.mark.parametrize(
    ("size_bytes", "ptime_ms"), [(160, 20), (80, 10), (480, 60), ("160", "20")]
)
def test_the_frame_time_is_the_pbxs(size_bytes: int | str, ptime_ms: int | str) -> None:
    """Capabilities, lost frames and the queue are all counted in the channel's own frames."""
    stream = _started(_start_text("ulaw", size_bytes, ptime_ms))
    expected_ms = int(ptime_ms)

    assert expected_ms == stream.caps.frame_ms
    assert [AudioLost(expected_ms)] == stream.receive(b"")
    assert [PlayoutReported(7 * expected_ms)] == stream.receive(_text("STATUS", queue_length=7))


def test_an_old_release_has_no_ids_and_no_marks() -> None:
    """Without channel_id the channel's name is the id, and marks would never come back."""
    stream = AsteriskStream()

    started = _call_started(stream, OLD_PLAIN_START)

    assert started.provider_call_id == "WebSocket-gw-0x7f"
    assert stream.caps.frame_ms == 20
    assert not stream.caps.mark
    assert stream.send(SendMark("m1")) == []


@pytest.mark.parametrize(
    ("channel_id", "expected"),
    [
        ("1795244195.1", "1795244195.1"),
        ("pbx-1.2", "pbx-1.2"),
        ("../../etc/passwd", "etc-passwd"),
        ("a b\nc", "a-b-c"),
        ("x" * 200, "x" * 64),
        ("...", "WebSocket-gw-0x7f"),
    ],
)
def test_ids_are_safe_for_logs_and_files(channel_id: str, expected: str) -> None:
    """Whatever the PBX calls its channel, the id is a plain word."""
    started = _call_started(AsteriskStream(), _start_text(channel_id=channel_id))

    assert expected == started.provider_call_id


def test_the_id_stands_in_for_a_missing_channel_name() -> None:
    """A stream has a name, whatever the PBX leaves out."""
    assert _call_started(AsteriskStream(), _start_text(channel="")).stream_id == "1.1"


def test_texts_of_a_peer_are_bounded() -> None:
    """Numbers of any length do not travel through logs in full."""
    started = _call_started(AsteriskStream({"from": "7" * 400, "to": "8" * 400}), _start_text())

    assert (started.from_number, started.to_number) == ("7" * 128, "8" * 128)


def test_a_start_without_any_name_is_no_start() -> None:
    """A call that nobody could find in a log is not begun."""
    assert _kind(AsteriskStream().receive(_start_text(channel="", channel_id=""))) == "bad_message"


def test_a_second_start_changes_nothing() -> None:
    """The first call goes on in its own format."""
    stream = _started()

    assert _kind(stream.receive(_start_text("slin24", 960))) == "duplicate_start"
    assert stream.caps.frame_ms == 20
    assert stream.send(PlayAudio(b"\xff")) == [b"\xff" * 160]


def test_the_query_wins_over_variables() -> None:
    """What the dial string says for this gateway beats what the channel inherited."""
    variables = {"__from": "v", "__to": "v2", "agent": "v", "__a": "1\x00", "n": 5, "__": "x"}
    query = {"from": "q", "token": "once", "agent": "sales", "long": "x" * 500}

    started = _call_started(AsteriskStream(query), _start_text(channel_variables=variables))

    assert (started.from_number, started.to_number, started.token) == ("q", "v2", "once")
    assert started.parameters == {"agent": "sales", "a": "1"}


def test_the_number_of_parameters_is_bounded() -> None:
    """However many variables a channel has, a call keeps a readable few."""
    variables = {f"__v{index}": "x" for index in range(1000)}

    started = _call_started(AsteriskStream(), _start_text(channel_variables=variables))

    assert len(started.parameters) == 64


# ------------------------------------------------------------- audio


def test_audio_before_the_start_is_kept() -> None:
    """Frames that overtake MEDIA_START come right behind it, in order."""
    stream = AsteriskStream()

    assert stream.receive(b"\x01" * 160) == []
    assert stream.receive(b"\x02" * 160) == []
    _, audio = stream.receive(_start_text())
    assert AudioReceived(b"\x01" * 160 + b"\x02" * 160) == audio
    assert [AudioReceived(b"\x03")] == stream.receive(b"\x03")


def test_early_audio_is_bounded() -> None:
    """A second is kept; what comes after it, or is too big, is rejected."""
    stream = AsteriskStream()

    kept = [stream.receive(b"\x01" * 320) for _ in range(50)]
    assert kept == [[]] * 50
    assert _kind(stream.receive(b"\x01" * 320)) == "out_of_state"
    assert _kind(AsteriskStream().receive(b"\x01" * 8001)) == "out_of_state"
    _, audio = stream.receive(_start_text())
    assert AudioReceived(b"\x01" * 8000) == audio


@pytest.mark.parametrize(
    ("start", "size_bytes", "silence"),
    [
        (_start_text("ulaw"), 160, b"\xff"),
        (_start_text("alaw"), 160, b"\xd5"),
        (_start_text("slin", 320), 320, b"\x00"),
    ],
)
def test_a_tail_is_filled_up_with_silence(start: str, size_bytes: int, silence: bytes) -> None:
    """The PBX would drop a part of a frame; it gets the rest as silence of that encoding."""
    (message,) = _started(start).send(PlayAudio(b"\x01" * (size_bytes + 2)))

    assert b"\x01" * (size_bytes + 2) + silence * (size_bytes - 2) == message


@settings(deadline=None)
@given(st.integers(0, 30_000), st.sampled_from([("ulaw", 160), ("slin24", 960), ("slin48", 1920)]))
def test_audio_leaves_whole_and_in_whole_frames(length: int, form: tuple[str, int]) -> None:
    """For any length nothing is lost, nothing but less than a frame is added."""
    payload = bytes(index % 251 for index in range(length))

    messages = list(map(_bytes, _started(_start_text(*form)).send(PlayAudio(payload))))
    sent = b"".join(messages)

    assert sent.startswith(payload)
    assert 0 <= len(sent) - length < form[1]
    assert all(message and len(message) % form[1] == 0 for message in messages)


# ------------------------------------------------------------- control


@pytest.mark.parametrize(
    ("start", "message", "expected"),
    [
        (_start_text(), _text("DTMF_END", digit="d"), DtmfReceived("D")),
        (_start_text(), _text("MEDIA_XOFF"), PlayoutPaused()),
        (_start_text(), _text("MEDIA_XON"), PlayoutResumed()),
        (_start_text(), _text("STATUS", queue_length=3), PlayoutReported(60)),
        (_start_text(), _text("MEDIA_MARK_PROCESSED", correlation_id="m1"), MarkReached("m1")),
        (PLAIN_START, "DTMF_END digit:5 channel_id:1.1", DtmfReceived("5")),
        (PLAIN_START, "DTMF_END digit:*", DtmfReceived("*")),
        (PLAIN_START, "MEDIA_XOFF", PlayoutPaused()),
        (PLAIN_START, "MEDIA_XON channel_id:1.1\n", PlayoutResumed()),
        (
            PLAIN_START,
            LONG_PLAIN_STATUS,
            PlayoutReported(60),
        ),
        (PLAIN_START, "MEDIA_MARK_PROCESSED m1", MarkReached("m1")),
        (PLAIN_START, "MEDIA_MARK_PROCESSED channel_id:1.1 correlation_id:m1", MarkReached("m1")),
        (
            PLAIN_START,
            "ERROR channel_id:1.1 error_text:no: such thing",
            MessageRejected("bad_message", "no: such thing"),
        ),
    ],
)
def test_control_events_are_understood(start: str, message: str, expected: ProviderEvent) -> None:
    """Both styles of each event mean the same."""
    assert [expected] == _started(start).receive(message)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (_start_text(), _text("QUEUE_DRAINED")),
        (_start_text(), _text("MEDIA_BUFFERING_COMPLETED", correlation_id="x")),
        (PLAIN_START, "QUEUE_DRAINED"),
        (PLAIN_START, "MEDIA_BUFFERING_COMPLETED x"),
    ],
)
def test_events_without_a_use_are_passed_over(start: str, message: str) -> None:
    """They are known, so they are neither acted upon nor counted as faults."""
    assert _started(start).receive(message) == []


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("[]", "bad_json"),
        ("NaN", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"event":"STATUS","x":' + "[" * 100_000, "bad_json"),
        ('{"event":"NEW","digit":' + "[" * 100_000, "bad_json"),
        ('{"event":"DTMF_END","digit":"\\ud800"}', "bad_json"),
        ("\ud800", "bad_json"),
        ("STATUS queue_length:3", "bad_json"),
        ("{}", "bad_message"),
        ('{"event":"DTMF_END","digit":5}', "bad_message"),
        (_text("DTMF_END"), "bad_message"),
        (_text("STATUS"), "bad_message"),
        (_text("STATUS", queue_length=-2), "bad_message"),
        (_text("STATUS", queue_length=10**9), "bad_message"),
        (_text("STATUS", queue_length="many"), "bad_message"),
        (_text("MEDIA_MARK_PROCESSED"), "bad_message"),
        (_text("MEDIA_MARK_PROCESSED", correlation_id="x" * 17), "bad_message"),
        (_text("ERROR"), "bad_message"),
        (_text("NEW"), "unknown_event"),
        (_text("NEW", digit=5), "unknown_event"),
    ],
)
def test_abuse_is_one_rejected_message(message: str, kind: str) -> None:
    """Bad JSON, wrong types and unknown events are told apart, and the call goes on."""
    stream = _started()

    (event,) = stream.receive(message)

    assert isinstance(event, MessageRejected)
    assert kind == event.kind
    assert len(event.detail) <= 100
    assert event.detail.isprintable()
    assert [AudioReceived(b"\xff")] == stream.receive(b"\xff")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("", "unknown_event"),
        ("NEW key:value", "unknown_event"),
        ('{"event":"MEDIA_XOFF"}', "unknown_event"),
        ("STATUS queue_length:many", "bad_message"),
        ("STATUS queue_length:\ud800", "bad_message"),
        ("STATUS channel_variables:x", "bad_message"),
        ("DTMF_END digit:1 event:MEDIA_START", None),
        (PLAIN_START, "duplicate_start"),
    ],
)
def test_abuse_in_plain_text_is_one_rejected_message(message: str, kind: str | None) -> None:
    """The plain style has its own ways to be wrong; a word cannot pose as another event."""
    events = _started(PLAIN_START).receive(message)

    assert events == [DtmfReceived("1")] if kind is None else kind == _kind(events)


@pytest.mark.parametrize("event", ["DTMF_END", "MEDIA_XOFF", "STATUS", "QUEUE_DRAINED"])
def test_control_before_the_start_is_out_of_state(event: str) -> None:
    """Nothing but the start and an error means anything before the start."""
    assert _kind(AsteriskStream().receive(_text(event))) == "out_of_state"


COMMANDS = [
    (SendMark("m1"), '{"command":"MARK_MEDIA","correlation_id":"m1"}', "MARK_MEDIA m1"),
    (ClearAudio(), '{"command":"FLUSH_MEDIA"}', "FLUSH_MEDIA"),
    (QueryPlayout(), '{"command":"GET_STATUS"}', "GET_STATUS"),
    (HangUp(), '{"command":"HANGUP"}', "HANGUP"),
]


@pytest.mark.parametrize(("command", "as_json", "as_plain"), COMMANDS)
def test_commands_leave_in_the_style_of_the_start(
    command: ProviderCommand, as_json: str, as_plain: str
) -> None:
    """The PBX is answered in the style it spoke first, and not at all before it spoke."""
    assert [as_json] == _started().send(command)
    assert [as_plain] == _started(PLAIN_START).send(command)
    assert AsteriskStream().send(command) == []


@given(st.text(max_size=40))
def test_no_control_text_is_too_long_or_broken(name: str) -> None:
    """Whatever a mark is called, a message has at most 128 bytes and one line, or is not sent."""
    for stream in (_started(), _started(PLAIN_START)):
        for message in stream.send(SendMark(name)):
            assert isinstance(message, str)
            assert len(message.encode()) <= 128
            assert message.isprintable()


def test_the_longest_mark_fits() -> None:
    """Sixteen characters are sent and come back."""
    stream = _started()

    (message,) = stream.send(SendMark("m" * 16))

    assert len(message) <= 128
    assert [MarkReached("m" * 16)] == stream.receive(
        _text("MEDIA_MARK_PROCESSED", correlation_id="m" * 16)
    )


def test_a_call_of_a_format_we_refuse_can_still_be_hung_up() -> None:
    """A PBX that cannot be understood is told to end the call."""
    stream = AsteriskStream()
    stream.receive(_start_text("opus", 0))

    assert stream.send(HangUp()) == ['{"command":"HANGUP"}']
    assert stream.send(PlayAudio(b"\xff")) == []


def test_a_hang_up_needs_no_request() -> None:
    """It goes in band."""
    assert _started().hang_up() is None
