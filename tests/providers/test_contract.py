"""The contract every provider's stream fulfils, held against each of them."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.events import (
    AudioReceived,
    CallStarted,
    CallStopped,
    ClearAudio,
    DtmfReceived,
    HangUp,
    MarkReached,
    MessageRejected,
    PlayAudio,
    ProviderCommand,
    ProviderEvent,
    QueryPlayout,
    SendMark,
)
from gateway.providers import HttpRequest, Provider
from gateway.providers.asterisk import AsteriskStream
from gateway.providers.softphone import SoftphoneStream
from gateway.providers.table import doors
from gateway.providers.twilio import TwilioStream

# Of events.MessageRejected: the labels a metric may have.
KINDS = {
    *("bad_json", "bad_base64", "bad_message", "unknown_event", "out_of_state"),
    *("duplicate_start", "duplicate", "empty", "media_format", "too_big"),
}
FRAME = b"\x7f" * 160


@dataclass(frozen=True, slots=True)
class Wire:
    """One provider's side of a call: what it says, and how it answers a mark."""

    connect: Callable[[], Provider]
    start: str
    audio: str | bytes
    dtmf: str
    echo: Callable[[str | bytes], str]
    audio_of: Callable[[str | bytes], bytes]
    stop: str | None


def _twilio_text(event: str, **fields: Any) -> str:
    return msgspec.json.encode({"event": event, "streamSid": "MZ1"} | fields).decode()


def _twilio_echo(message: str | bytes) -> str:
    return _twilio_text("mark", mark=msgspec.json.decode(message)["mark"])


def _twilio_audio(message: str | bytes) -> bytes:
    return base64.b64decode(msgspec.json.decode(message)["media"]["payload"])


def _asterisk_json_echo(message: str | bytes) -> str:
    name = msgspec.json.decode(message)["correlation_id"]
    return f'{{"event":"MEDIA_MARK_PROCESSED","correlation_id":"{name}"}}'


def _asterisk_plain_echo(message: str | bytes) -> str:
    assert isinstance(message, str)
    return message.replace("MARK_MEDIA", "MEDIA_MARK_PROCESSED")


def _binary(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


WIRES = {
    "twilio": Wire(
        TwilioStream,
        _twilio_text("start", start={"callSid": "CA1", "accountSid": "AC1"}),
        _twilio_text("media", media={"payload": base64.b64encode(FRAME).decode(), "chunk": "1"}),
        _twilio_text("dtmf", dtmf={"digit": "5"}),
        _twilio_echo,
        _twilio_audio,
        _twilio_text("stop"),
    ),
    "asterisk_json": Wire(
        AsteriskStream,
        '{"event":"MEDIA_START","channel":"WebSocket/gw/1","channel_id":"1.1","format":"ulaw"}',
        FRAME,
        '{"event":"DTMF_END","digit":"5"}',
        _asterisk_json_echo,
        _binary,
        None,
    ),
    "asterisk_plain": Wire(
        AsteriskStream,
        "MEDIA_START channel:WebSocket/gw/1 channel_id:1.1 format:ulaw",
        FRAME,
        "DTMF_END digit:5",
        _asterisk_plain_echo,
        _binary,
        None,
    ),
    "softphone": Wire(
        SoftphoneStream,
        '{"event":"start","start":{"callId":"c1"}}',
        f'{{"event":"media","media":{{"payload":"{base64.b64encode(FRAME).decode()}"}}}}',
        '{"event":"dtmf","dtmf":{"digit":"5"}}',
        _twilio_echo,
        _twilio_audio,
        '{"event":"stop"}',
    ),
}
each_wire = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)


@each_wire
def test_a_call_goes_its_way(wire: Wire) -> None:
    """Start, audio both ways, a key, a mark and its echo, a clear, the end."""
    stream = wire.connect()

    (started,) = stream.receive(wire.start)
    assert isinstance(started, CallStarted)
    assert [AudioReceived(FRAME)] == stream.receive(wire.audio)
    assert [DtmfReceived("5")] == stream.receive(wire.dtmf)
    assert [wire.audio_of(message) for message in stream.send(PlayAudio(FRAME))] == [FRAME]
    (mark,) = stream.send(SendMark("m1"))
    assert [MarkReached("m1")] == stream.receive(wire.echo(mark))
    assert len(stream.send(ClearAudio())) == 1
    if wire.stop is not None:
        assert [CallStopped()] == stream.receive(wire.stop)


@each_wire
def test_two_calls_share_nothing(wire: Wire) -> None:
    """A stream knows nothing of another one of its kind."""
    first, second = wire.connect(), wire.connect()
    first.receive(wire.start)

    assert second.send(ClearAudio()) == []
    assert isinstance(second.receive(wire.start)[0], CallStarted)


@each_wire
def test_queries_are_sent_where_the_capabilities_say_so(wire: Wire) -> None:
    """What ``caps`` promise is what ``send`` does."""
    stream = wire.connect()
    stream.receive(wire.start)

    assert stream.caps.status == bool(stream.send(QueryPlayout()))
    assert stream.caps.clear == bool(stream.send(ClearAudio()))
    assert stream.caps.mark == bool(stream.send(SendMark("m1")))


@each_wire
def test_the_largest_payload_is_one_message(wire: Wire) -> None:
    """A payload of ``max_message_bytes`` is not cut, and is a multiple of the frame."""
    stream = wire.connect()
    stream.receive(wire.start)

    assert len(stream.send(PlayAudio(b"\x7f" * stream.caps.max_message_bytes))) == 1
    assert stream.caps.max_message_bytes % (stream.caps.frame_ms * 8) == 0


def test_every_door_makes_its_stream() -> None:
    """The table's doors and their streams go by one name."""
    for name, door in doors(public_url="", insecure=True).items():
        upgrade = HttpRequest("GET", f"/{name}/media?a=b&a=&%ff=%")
        door.verify(upgrade)

        assert name == door.name == door.connect(upgrade).name


COMMANDS: st.SearchStrategy[ProviderCommand] = st.one_of(
    st.binary(max_size=9000).map(PlayAudio),
    st.text(st.characters(), max_size=20).map(SendMark),
    st.sampled_from([ClearAudio(), QueryPlayout(), HangUp()]),
)
EVENTS = st.sampled_from(
    [
        *("connected", "start", "media", "mark", "dtmf", "stop", "MEDIA_START", "DTMF_END"),
        *("STATUS", "MEDIA_MARK_PROCESSED", "ERROR", "MEDIA_XOFF", "QUEUE_DRAINED", "new"),
    ]
)
KEYS = st.sampled_from(
    [
        *("media", "payload", "chunk", "track", "start", "callSid", "streamSid", "mediaFormat"),
        *("callId", "agent", "overrides"),
        *("customParameters", "sequenceNumber", "mark", "name", "dtmf", "digit", "format"),
        *("channel", "channel_id", "ptime", "optimal_frame_size", "queue_length", "x"),
        *("channel_variables", "correlation_id"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["ulaw", "slin24", "inbound", "MZ1", "CA1", "AAAA", "160", "20"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.builds(
    lambda event, fields: msgspec.json.encode({"event": event} | fields).decode(),
    EVENTS,
    st.dictionaries(KEYS, VALUES, max_size=6),
)
PLAIN_TEXTS = st.builds(
    lambda event, words: " ".join([event, *(f"{key}:{value}" for key, value in words)]),
    EVENTS,
    st.lists(st.tuples(KEYS, SCALARS), max_size=5),
)
MESSAGES = st.one_of(
    st.text(st.characters(), max_size=40), st.binary(max_size=40), OBJECTS, PLAIN_TEXTS
)


@each_wire
@settings(deadline=None)
@given(steps=st.lists(st.one_of(MESSAGES, COMMANDS), max_size=8), early=st.booleans())
@example(steps=["[" * 100_000, SendMark("\ud800"), '{"event":' * 50_000], early=False)
def test_no_peer_and_no_command_makes_a_stream_raise(
    wire: Wire,
    steps: list[Any],
    early: bool,  # noqa: FBT001 - drawn
) -> None:
    """Any messages and commands in any order give known events and messages within limits."""
    stream = wire.connect()
    if not early:
        stream.receive(wire.start)

    for step in steps:
        if isinstance(step, str | bytes):
            _check_events(stream.receive(step))
        else:
            _check_messages(stream, wire, stream.send(step))
        stream.hang_up()


@each_wire
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_no_damage_to_a_good_message_makes_a_stream_raise(wire: Wire, data: st.DataObject) -> None:
    """A real message cut, or with some characters changed, is an event like any other."""
    good = data.draw(st.sampled_from([wire.start, wire.dtmf, wire.stop or wire.dtmf]))
    place = data.draw(st.integers(0, len(good)))
    bad = (
        good[:place]
        + data.draw(st.text(max_size=2))
        + good[data.draw(st.integers(place, len(good))) :]
    )
    fresh, started = wire.connect(), wire.connect()
    started.receive(wire.start)

    _check_events(fresh.receive(bad))
    _check_events(started.receive(bad))


def _check_events(events: list[ProviderEvent]) -> None:
    for event in events:
        assert isinstance(event, ProviderEvent)
        if isinstance(event, AudioReceived):
            assert event.payload
        if isinstance(event, MessageRejected):
            assert event.kind in KINDS
            assert len(event.detail) <= 100


def _check_messages(stream: Provider, wire: Wire, messages: list[str | bytes]) -> None:
    for message in messages:
        if wire.audio_of is _binary and isinstance(message, str):
            assert len(message.encode()) <= 128
        elif isinstance(message, bytes) or '"media"' in message:
            assert 0 < len(wire.audio_of(message)) <= stream.caps.max_message_bytes
