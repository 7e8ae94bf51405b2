"""The softphone's door and stream: what a page may say, and what it is told."""

from typing import Any

import msgspec
import pytest

from gateway.errors import AuthRejected
from gateway.events import (
    ULAW_8K,
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
    SendMark,
)
from gateway.providers import HttpRequest, IncomingCall
from gateway.providers.softphone import SoftphoneDoor, SoftphoneStream


def _text(event: str, **fields: Any) -> str:
    return msgspec.json.encode({"event": event} | fields).decode()


def _start(**fields: Any) -> str:
    return _text("start", start={"callId": "c1"} | fields)


def _started() -> SoftphoneStream:
    stream = SoftphoneStream()
    stream.receive(_start())
    return stream


# ------------------------------------------------------------- the door


def test_the_door_has_no_public_entrance() -> None:
    """Whatever a request on the public listener brings, it is not let in, nor answered."""
    door = SoftphoneDoor()
    request = HttpRequest("GET", "https://voice.example.com/softphone/media")

    assert not door.is_public
    assert not door.needs_token
    with pytest.raises(AuthRejected):
        door.verify(request)
    assert door.incoming_call(request) is None
    assert door.status(request) is None
    assert door.answer(IncomingCall("c1", "", ""), "wss://x", "", "").status == 404
    assert door.refuse("capacity").body == "capacity\n"
    assert door.connect(request).name == door.name


# ------------------------------------------------------------- from the page


def test_a_start_says_whom_to_call_and_how() -> None:
    """The agent and its changed settings travel with the start, as text for those who know them."""
    stream = SoftphoneStream()
    [started] = stream.receive(_start(agent="sales", overrides={"speed": 1.2, "voice": "b\nar"}))

    assert started == CallStarted(
        provider_call_id="c1",
        stream_id="c1",
        audio_in=ULAW_8K,
        audio_out=ULAW_8K,
        parameters={"agent": "sales", "overrides": '{"speed":1.2,"voice":"b\\nar"}'},
    )


@pytest.mark.parametrize(
    "start",
    [
        {"callId": ""},
        {"callId": "a b"},
        {"callId": "c" * 65},
        {"callId": 7},
        {"callId": "c1", "agent": "Big Boss"},
        {"callId": "c1", "overrides": "all"},
        {"callId": "c1", "overrides": None},
        {"callId": "c1", "overrides": {"voice": ["ash"]}},
        {"callId": "c1", "overrides": {"turn_detection": {"threshold": {"deep": 1}}}},
    ],
)
def test_a_bad_start_is_none(start: dict[str, Any]) -> None:
    """It is rejected, and a good one may follow."""
    stream = SoftphoneStream()
    [rejected] = stream.receive(_text("start", start=start))

    assert isinstance(rejected, MessageRejected)
    assert rejected.kind == "bad_message"
    assert isinstance(stream.receive(_start())[0], CallStarted)


def test_a_second_start_is_rejected() -> None:
    """Also after the end."""
    stream = _started()
    assert stream.receive(_start()) == [MessageRejected("duplicate_start", "start")]
    stream.receive(_text("stop"))
    assert stream.receive(_start()) == [MessageRejected("duplicate_start", "start")]


def test_a_page_speaks() -> None:
    """Sound, marks, keys and the end become events."""
    stream = _started()

    assert stream.receive(_text("media", media={"payload": b"\x7f"})) == [AudioReceived(b"\x7f")]
    assert stream.receive(_text("mark", mark={"name": "m1"})) == [MarkReached("m1")]
    assert stream.receive(_text("dtmf", dtmf={"digit": "#"})) == [DtmfReceived("#")]
    assert stream.receive(_text("stop")) == [CallStopped()]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"\x00", "bad_message"),
        ("no json", "bad_json"),
        ("[]", "bad_json"),
        (_text("dial"), "unknown_event"),
        (_text("media", media={"payload": ""}), "empty"),
        (_text("media", media={"payload": "?"}), "bad_base64"),
        (_text("mark", mark={"name": "not a name"}), "bad_message"),
        (_text("dtmf", dtmf={"digit": "12"}), "bad_message"),
        (_text("dtmf", dtmf={"digit": ""}), "bad_message"),
        (_text("dtmf"), "bad_message"),
    ],
)
def test_bad_messages_cost_nothing(message: str | bytes, kind: str) -> None:
    """Each is rejected by its kind, and the call goes on."""
    stream = _started()
    [rejected] = stream.receive(message)

    assert isinstance(rejected, MessageRejected)
    assert rejected.kind == kind
    assert stream.receive(_text("dtmf", dtmf={"digit": "1"})) == [DtmfReceived("1")]


@pytest.mark.parametrize("event", ["media", "mark", "dtmf", "stop"])
def test_nothing_goes_without_a_start(event: str) -> None:
    """Before the start and after the stop messages are out of place."""
    body = {"media": {"payload": b"x"}, "mark": {"name": "m"}, "dtmf": {"digit": "1"}, "stop": {}}
    message = _text(event, **{event: body[event]})
    stream = SoftphoneStream()

    assert stream.receive(message) == [MessageRejected("out_of_state", event)]
    stream.receive(_start())
    stream.receive(_text("stop"))
    assert stream.receive(message) == [MessageRejected("out_of_state", event)]


# ------------------------------------------------------------- to the page


def test_the_page_is_told() -> None:
    """Sound, marks, the clear and the hang-up, as the page's script reads them."""
    stream = _started()
    told: list[ProviderCommand] = [PlayAudio(b"\x7f\xff"), SendMark("m1"), ClearAudio(), HangUp()]
    messages = [msgspec.json.decode(text) for each in told for text in stream.send(each)]

    assert messages == [
        {"event": "media", "media": {"payload": "f/8="}},
        {"event": "mark", "mark": {"name": "m1"}},
        {"event": "clear"},
        {"event": "hangup"},
    ]
    assert stream.hang_up() is None


def test_a_long_sound_is_cut() -> None:
    """Into messages of the size we promise."""
    stream = _started()
    messages = stream.send(PlayAudio(b"\x7f" * 20_000))
    payloads = [msgspec.json.decode(each)["media"]["payload"] for each in messages]

    assert [len(payload) * 3 // 4 for payload in payloads] == [8001, 8001, 4002]


def test_nothing_is_sent_before_the_start_and_after_the_stop() -> None:
    """There is nobody to hear it."""
    stream = SoftphoneStream()
    assert stream.send(ClearAudio()) == []
    stream.receive(_start())
    stream.receive(_text("stop"))
    assert stream.send(PlayAudio(b"x")) == stream.send(HangUp()) == []
