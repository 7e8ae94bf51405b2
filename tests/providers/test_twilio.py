"""Tests of the Twilio door and stream against the vendor's documents and its own validator."""

import base64
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from gateway.errors import AuthRejected
from gateway.events import (
    ULAW_8K,
    AudioLost,
    AudioReceived,
    CallStarted,
    CallStopped,
    ClearAudio,
    DtmfReceived,
    HangUp,
    MarkReached,
    MessageRejected,
    PlayAudio,
    ProviderEvent,
    QueryPlayout,
    SendMark,
)
from gateway.providers import HttpReply, HttpRequest, IncomingCall
from gateway.providers.twilio import TwilioDoor, TwilioStream
from tests.providers.vectors import replay

ACCOUNT_ID = "AC00000000000000000000000000000001"
CALL_ID = "CA00000000000000000000000000000002"
STREAM_ID = "MZ00000000000000000000000000000003"
TOKEN = "12345"
HOST = "https://mycompany.com"
FORM = (
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+14158675309"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
)
CALL = IncomingCall(CALL_ID, "+14155550100", "+14155550101", {"agent": "sales"})
MEDIA_URL = "wss://mycompany.com/twilio/media"
STATUS_URL = "https://mycompany.com/twilio/status"


def _text(**message: Any) -> str:
    return msgspec.json.encode(message).decode()


def _start_text(**changes: Any) -> str:
    body = {
        "accountSid": ACCOUNT_ID,
        "streamSid": STREAM_ID,
        "callSid": CALL_ID,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    return _text(event="start", sequenceNumber="1", start=body | changes, streamSid=STREAM_ID)


def _media_text(
    chunk: int | str | None = None,
    *,
    sequence: int | str | None = None,
    payload: str = "/////w==",
    track: str = "inbound",
    stream_id: str = STREAM_ID,
) -> str:
    media = {"track": track, "chunk": chunk, "timestamp": "155", "payload": payload}
    return _text(event="media", sequenceNumber=sequence, media=media, streamSid=stream_id)


def _frame(chunk: int) -> str:
    """The media message Twilio sends as its ``chunk``-th, when nothing else was sent."""
    return _media_text(str(chunk), sequence=str(chunk + 1))


def _started(auth_token: str = TOKEN, **changes: Any) -> TwilioStream:
    stream = TwilioStream(auth_token)
    stream.receive(_start_text(**changes))
    return stream


def _only(events: list[ProviderEvent]) -> ProviderEvent:
    (event,) = events
    return event


def _kind(events: list[ProviderEvent]) -> str:
    event = _only(events)
    assert isinstance(event, MessageRejected)
    return event.kind


def _door(*tokens: str, public_url: str = HOST) -> TwilioDoor:
    return TwilioDoor(public_url, tokens or (TOKEN,))


def _webhook(
    signature: str,
    path: str = "/myapp.php?foo=1&bar=2",
    form: tuple[tuple[str, str], ...] = FORM,
    body: bytes = b"",
    host: str = HOST,
) -> HttpRequest:
    headers = {"x-twilio-signature": signature} if signature else {}
    return HttpRequest("POST", host + path, headers, form, body)


def _upgrade(url: str, signature: str) -> HttpRequest:
    return HttpRequest("GET", url, {"upgrade": "WebSocket", "x-twilio-signature": signature})


def _sign(url: str, form: Mapping[str, str] | None = None) -> str:
    return str(RequestValidator(TOKEN).compute_signature(url, form or {}))


# ------------------------------------------------------------- signatures


@pytest.mark.parametrize(
    ("host", "signature"),
    [
        ("https://mycompany.com", "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        ("https://mycompany.com", "kvajT1Ptam85bY51eRf/AJRuM3w="),
        ("https://mycompany.com:443", "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        ("http://mycompany.com", "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    ],
)
def test_the_vendors_signatures_are_accepted(host: str, signature: str) -> None:
    """The values of the vendor's own tests pass, with the port in the signed URL or without."""
    _door(public_url=host).verify(_webhook(signature, host=host))


def test_repeated_fields_are_signed_once_each_and_sorted() -> None:
    """The vendor's value for a form with a field three times, twice with one value, passes."""
    form = (
        ("Digits", "5678"),
        ("Sid", "CA123"),
        ("Digits", "1234"),
        ("SidAccount", "AC123"),
        ("Digits", "1234"),
    )

    _door().verify(_webhook("IK+Dwps556ElfBT0I3Rgjkr1wJU=", form=form))


def test_a_body_is_checked_by_its_hash() -> None:
    """A JSON body passes with the hash the URL promises; another body does not."""
    digest = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
    path = f"/myapp.php?foo=1&bar=2&bodySHA256={digest}"
    signature = "a9nBmqA0ju/hNViExpshrM61xv4="
    body = b'{"property": "value", "boolean": true}'

    _door().verify(_webhook(signature, path, (), body))

    with pytest.raises(AuthRejected) as caught:
        _door().verify(_webhook(signature, path, (), body + b" "))
    assert caught.value.kind == "signature"


@pytest.mark.parametrize(
    "signed",
    [
        "wss://example.com/twilio/media",
        "wss://example.com/twilio/media/",
        "wss://example.com:443/twilio/media",
        "https://example.com/twilio/media",
        "https://example.com:443/twilio/media/",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_upgrade_is_accepted_in_every_spelling(signed: str, slash: str) -> None:
    """Twilio may sign the socket's URL as wss or https, with port or slash or without."""
    request = _upgrade(f"https://example.com/twilio/media{slash}", _sign(signed))

    _door(public_url="https://example.com/").verify(request)


@pytest.mark.parametrize(
    ("url", "signature"),
    [
        ("https://example.com/twilio/media", "Ko8aymfVk0cCegaxVKH0ZCvSyf4="),
        ("https://example.com/twilio/media/", "2FSgdRajF1AcedC3OxeCdxXJk50="),
    ],
)
def test_the_upgrades_signature_is_the_one_we_computed(url: str, signature: str) -> None:
    """Fixed values guard against a change in validator and door alike."""
    _door(public_url="https://example.com").verify(_upgrade(url, signature))


@pytest.mark.parametrize(
    "signed",
    [
        "wss://example.com/twilio/other",
        "wss://evil.example/twilio/media",
        "ws://example.com/twilio/media",
        "wss://example.com/twilio/media?x=1",
    ],
)
def test_another_urls_signature_opens_no_upgrade(signed: str) -> None:
    """Path, host, scheme and query all count."""
    request = _upgrade("https://example.com/twilio/media", _sign(signed))

    with pytest.raises(AuthRejected, match="does not match"):
        _door(public_url="https://example.com").verify(request)


def test_a_webhook_is_not_accepted_with_a_sockets_signature() -> None:
    """What was signed for the upgrade is no good for the webhook."""
    url = "mycompany.com/twilio/voice"

    with pytest.raises(AuthRejected):
        _door().verify(_webhook(_sign(f"wss://{url}"), "/twilio/voice", ()))


def test_a_request_without_a_signature_is_missing_one() -> None:
    """No header is another kind than a wrong one."""
    with pytest.raises(AuthRejected) as caught:
        _door().verify(_webhook(""))

    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    "request_",
    [
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", form=(*FORM[:-1], ("To", "+19005551212"))),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", form=(*FORM, ("Extra", "1"))),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", "/myapp.php?foo=1&bar=3"),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", "/MyApp.php?foo=1&bar=2"),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", host="https://evil.example"),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", host="https://evilcompa.com"),
        _webhook(_sign(f"{HOST}/twilio/voice/"), "/twilio/voice", ()),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8"),
        _webhook("\udcff\ud800"),
        _webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8=", "/myapp.php?\ud800"),
    ],
)
def test_a_tampered_webhook_is_rejected(request_: HttpRequest) -> None:
    """One field, the query, the path, the host or the signature changed: not from Twilio."""
    with pytest.raises(AuthRejected) as caught:
        _door().verify(request_)

    assert caught.value.kind == "signature"


@pytest.mark.parametrize("tokens", [(TOKEN, "next"), ("next", TOKEN)])
def test_either_of_two_live_tokens_may_have_signed(tokens: tuple[str, ...]) -> None:
    """While a token is rotated, the old one and the new one both pass."""
    _door(*tokens).verify(_webhook("RSOYDt4T1cUTdK1PDd93/VVr8B8="))


@pytest.mark.parametrize("tokens", [(), ("",), ("other",)])
def test_without_the_right_token_nothing_passes(tokens: tuple[str, ...]) -> None:
    """No token at all, or an empty one, rejects everything."""
    signed_with_nothing = RequestValidator("").compute_signature(f"{HOST}/x", {})

    for signature in ("RSOYDt4T1cUTdK1PDd93/VVr8B8=", str(signed_with_nothing)):
        with pytest.raises(AuthRejected):
            TwilioDoor(HOST, tokens).verify(_webhook(signature, "/x", ()))


def test_insecure_means_unchecked() -> None:
    """An insecure door takes unsigned requests, and says that calls carry no token."""
    door = TwilioDoor("", (), insecure=True)

    door.verify(_webhook("", host=""))

    assert not door.needs_token
    assert _door().needs_token


PATHS = st.text("abcXYZ019/-_.~%", max_size=12).map("/".__add__)
QUERIES = st.one_of(st.just(""), st.text("abc=&%+019", min_size=1, max_size=12).map("?".__add__))
FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(deadline=None)
@given(
    host=st.sampled_from(["https://h.example", "https://h.example:8443", "http://h.example:80"]),
    tail=st.tuples(PATHS, QUERIES).map("".join),
    form=st.lists(st.tuples(FIELD, FIELD), max_size=5),
    port=st.sampled_from(["", ":443", ":80", ":8443", ":9"]),
    token=st.sampled_from([TOKEN, "wrong"]),
)
def test_we_agree_with_the_vendors_validator(
    host: str, tail: str, form: list[tuple[str, str]], port: str, token: str
) -> None:
    """For any URL, form and signer, the door says what the vendor's own library says."""
    scheme, _, name = host.partition("://")
    signed = f"{scheme}://{name.partition(':')[0]}{port}{tail}"
    fields = MultiDict(form)
    signature = RequestValidator(token).compute_signature(signed, fields)
    expected = RequestValidator(TOKEN).validate(host + tail, fields, signature)

    assert _accepts(_door(public_url=host), _webhook(signature, tail, tuple(form), b"", host)) == (
        expected
    )


def _accepts(door: TwilioDoor, request: HttpRequest) -> bool:
    try:
        door.verify(request)
    except AuthRejected:
        return False
    return True


# ------------------------------------------------------------- webhooks


def test_an_answer_webhook_is_read() -> None:
    """Call id and numbers come from the form, parameters from the query behind the URL."""
    form = (("CallSid", CALL_ID), ("From", "+14155550100"), ("To", "+14155550101"))
    request = _webhook("", "/twilio/voice?agent=sales&token=forged&empty=", form)

    assert IncomingCall(
        CALL_ID, "+14155550100", "+14155550101", {"agent": "sales", "empty": ""}
    ) == _door().incoming_call(request)


def test_an_answer_webhook_may_be_a_get() -> None:
    """With GET the fields are the query."""
    url = f"{HOST}/twilio/voice?CallSid={CALL_ID}&From=%2B1&To=%2B2"

    assert IncomingCall(CALL_ID, "+1", "+2") == _door().incoming_call(HttpRequest("GET", url))


@pytest.mark.parametrize("call_id", ["", "CA 1", "CA1\n", "C" * 65, "../CA1", "CÄ1"])
def test_a_webhook_without_a_proper_call_id_is_no_call(call_id: str) -> None:
    """An id goes into URLs and logs, so only plain ones are taken."""
    request = _webhook("", form=(("CallSid", call_id),))

    assert _door().incoming_call(request) is None
    assert _door().status(request) is None


def test_the_answer_connects_the_call_to_the_stream() -> None:
    """The TwiML holds the stream, its parameters, then a hang-up, and nothing else."""
    reply = _door().answer(CALL, MEDIA_URL, STATUS_URL, "once")

    assert (reply.status, reply.content_type) == (200, "application/xml")
    assert reply.body.endswith(
        f'<Response><Connect><Stream url="{MEDIA_URL}" statusCallback="{STATUS_URL}">'
        '<Parameter name="token" value="once" /><Parameter name="from" value="+14155550100" />'
        '<Parameter name="to" value="+14155550101" /><Parameter name="agent" value="sales" />'
        "</Stream></Connect><Hangup /></Response>"
    )


def test_what_is_empty_is_left_out() -> None:
    """No status URL and no token make no empty attributes or parameters."""
    reply = _door().answer(IncomingCall(CALL_ID, "", ""), MEDIA_URL, "", "")

    assert reply.body.endswith(
        f'<Response><Connect><Stream url="{MEDIA_URL}" /></Connect><Hangup /></Response>'
    )


def test_parameters_too_long_for_the_vendor_are_dropped() -> None:
    """Name and value may have 500 characters together; a longer pair costs only itself."""
    call = IncomingCall(CALL_ID, "", "", {"a" * 4: "b" * 496, "c" * 4: "d" * 497, "e": "f"})

    assert _parameters(_door().answer(call, MEDIA_URL, "", "")) == {"aaaa": "b" * 496, "e": "f"}


def test_reserved_names_cannot_be_set_from_outside() -> None:
    """A webhook URL cannot bring its own token or numbers, not even behind control characters."""
    call = IncomingCall(CALL_ID, "+1", "+2", {"token": "x", "fr\x00om": "x", "\x07to": "x"})

    assert _parameters(_door().answer(call, MEDIA_URL, "", "once")) == {
        "token": "once",
        "from": "+1",
        "to": "+2",
    }


def test_the_number_of_parameters_is_bounded() -> None:
    """However many parameters a URL has, the answer keeps a readable size."""
    call = IncomingCall(CALL_ID, "", "", {f"p{index}": "v" for index in range(1000)})

    assert len(_parameters(_door().answer(call, MEDIA_URL, "", ""))) == 32


def _parameters(reply: HttpReply) -> dict[str, str]:
    return {
        element.get("name", ""): element.get("value", "")
        for element in ET.fromstring(reply.body).iter("Parameter")  # noqa: S314 - our own output
    }


@settings(deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.text(), st.sampled_from(['"><Dial>1</Dial>', "<!--", "]]>", "&amp;", "\x00\ud800"])
        ),
        min_size=5,
        max_size=5,
    )
)
def test_nothing_from_outside_becomes_a_verb(texts: list[str]) -> None:
    """Whatever stands in numbers, parameters and token, the document keeps its elements."""
    caller, called, name, value, token = texts
    call = IncomingCall(CALL_ID, caller, called, {name: value})

    root = ET.fromstring(_door().answer(call, MEDIA_URL, STATUS_URL, token).body)  # noqa: S314 - ours

    assert [element.tag for element in root] == ["Connect", "Hangup"]
    assert [element.tag for element in root[0]] == ["Stream"]
    assert {element.tag for element in root[0][0]} <= {"Parameter"}
    assert all(not len(element) for element in root[0][0])


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("capacity", '<Reject reason="busy" />'),
        ("drain", '<Reject reason="busy" />'),
        ("rate", '<Reject reason="busy" />'),
        ("unknown_number", "<Reject />"),
    ],
)
def test_a_refused_call_is_rejected_before_it_is_answered(reason: str, expected: str) -> None:
    """A full or stopping gateway sounds busy, an unknown number does not exist."""
    reply = _door().refuse(reason)

    assert (reply.status, reply.content_type) == (200, "application/xml")
    assert reply.body.endswith(f"<Response>{expected}</Response>")


@pytest.mark.parametrize(
    ("fields", "kind", "detail"),
    [
        ({"StreamEvent": "stream-started"}, "started", ""),
        ({"StreamEvent": "stream-stopped"}, "stopped", ""),
        (
            {"StreamEvent": "stream-error", "StreamError": "31921\r\n: closed"},
            "error",
            "31921: closed",
        ),
        ({"StreamEvent": "stream-new"}, "other", ""),
        ({"CallStatus": "completed"}, "other", "completed"),
    ],
)
def test_a_status_callback_is_read(fields: dict[str, str], kind: str, detail: str) -> None:
    """Stream and call callbacks become a kind of the closed set, and text safe for a log."""
    report = _door().status(_webhook("", form=(("CallSid", CALL_ID), *fields.items())))

    assert report is not None
    assert (CALL_ID, kind, detail) == (report.provider_call_id, report.kind, report.detail)


# ------------------------------------------------------------- the stream: what Twilio says


def test_the_documented_messages_are_understood() -> None:
    """The vendor's examples, in any key order, become our events."""
    assert [
        CallStarted(
            CALL_ID,
            STREAM_ID,
            ULAW_8K,
            ULAW_8K,
            "+14155550100",
            "+14155550101",
            "once",
            {"agent": "sales"},
        ),
        AudioReceived(b"~~~~"),
        AudioReceived(b"\xff\xff\xff\xff"),
        MarkReached("m1"),
        DtmfReceived("1"),
        CallStopped(),
    ] == replay("twilio_documented", TwilioStream())


def test_numbers_may_be_numbers_and_unknown_fields_are_ignored() -> None:
    """A gentle change of the vendor's formats costs no call."""
    stream = TwilioStream()

    (started,) = stream.receive(
        _text(
            event="start",
            sequenceNumber=1,
            news={"deep": [1, None]},
            start={
                "callSid": CALL_ID,
                "streamSid": STREAM_ID,
                "mediaFormat": {"sampleRate": "8000", "channels": "1", "bits": 8},
                "customParameters": None,
            },
        )
    )

    assert CallStarted(CALL_ID, STREAM_ID, ULAW_8K, ULAW_8K) == started
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_media_text(1, sequence=2))


def test_texts_of_a_peer_are_bounded() -> None:
    """Numbers and a token of any length do not travel through logs and tables in full."""
    long = "7" * 10_000
    form = (("CallSid", CALL_ID), ("From", long), ("To", long))
    (started,) = TwilioStream().receive(
        _start_text(customParameters={"from": long, "to": long, "token": long})
    )

    assert _door().incoming_call(_webhook("", "/", form)) == IncomingCall(
        CALL_ID, "7" * 128, "7" * 128
    )
    assert isinstance(started, CallStarted)
    assert (started.from_number, started.to_number) == ("7" * 128, "7" * 128)
    assert started.token == "7" * 500


def test_parameters_that_are_no_text_or_too_long_are_left_out() -> None:
    """Only what is usable as text is passed on, cleaned of control characters."""
    parameters = {"a": "b\x00\n", "n": 3, "deep": {"x": 1}, "long": "x" * 500, "from": 7, "": "x"}
    (started,) = TwilioStream().receive(_start_text(customParameters=parameters))

    assert isinstance(started, CallStarted)
    assert started.parameters == {"a": "b"}
    assert started.from_number == ""


@pytest.mark.parametrize(
    "format_",
    [
        {"encoding": "audio/l16", "sampleRate": 16000, "channels": 2},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
    ],
)
def test_another_media_format_is_refused(format_: dict[str, Any]) -> None:
    """Audio we would turn into noise starts no call; the log names the format."""
    stream = TwilioStream()

    (event,) = stream.receive(_start_text(mediaFormat=format_))

    assert (
        MessageRejected(
            "media_format",
            f"{format_['encoding']} {format_['sampleRate']} Hz, {format_['channels']} channels",
        )
        == event
    )
    assert _kind(stream.receive(_frame(1))) == "out_of_state"


@pytest.mark.parametrize(
    "changes",
    [
        {"callSid": ""},
        {"callSid": "CA1/../2"},
        {"callSid": "CA1\n"},
        {"callSid": "C" * 65},
        {"callSid": 7},
        {"streamSid": "MZ-other"},
        {"mediaFormat": 1},
        {"customParameters": ["a"]},
    ],
)
def test_a_start_with_bad_ids_or_types_is_no_start(changes: dict[str, Any]) -> None:
    """An id that could not stand in a URL, or a field of another type, starts nothing."""
    assert _kind(TwilioStream().receive(_start_text(**changes))) == "bad_message"


def test_a_second_start_changes_nothing() -> None:
    """The first call goes on under its own ids."""
    stream = _started()
    other = _start_text(callSid="CA9", streamSid="MZ9").replace(STREAM_ID, "MZ9")

    assert _kind(stream.receive(other)) == "duplicate_start"
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(1))
    assert _kind(stream.receive(_media_text("2", stream_id="MZ9"))) == "out_of_state"


@pytest.mark.parametrize(
    "message",
    [
        _frame(1),
        _text(event="mark", mark={"name": "m1"}),
        _text(event="dtmf", dtmf={"digit": "1"}),
        _text(event="stop"),
    ],
)
def test_messages_have_their_place_between_start_and_stop(message: str) -> None:
    """Before the start and after the stop everything else is out of state."""
    stopped = _started()
    stopped.receive(_text(event="stop"))

    assert _kind(TwilioStream().receive(message)) == "out_of_state"
    assert _kind(stopped.receive(message)) == "out_of_state"


def test_another_track_is_not_the_caller() -> None:
    """Our own audio, forked back to us, is neither heard nor counted."""
    stream = _started()

    assert stream.receive(_media_text(1, track="outbound")) == []
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(1))


@pytest.mark.parametrize(
    "payload", ["%%%", "!!!!", "AA==AA==", "AA=", "A", "AAAA\n", "ÄÄÄÄ", "====", "AA=A"]
)
def test_bad_base64_costs_one_frame(payload: str) -> None:
    """Nothing is decoded leniently, and the counter tells that the frame is missing."""
    stream = _started()
    stream.receive(_frame(1))

    assert _kind(stream.receive(_media_text("2", sequence="3", payload=payload))) == "bad_base64"
    assert [AudioLost(20), AudioReceived(b"\xff" * 4)] == stream.receive(_frame(3))


@pytest.mark.parametrize("size", [1, 159, 161, 3200])
def test_any_payload_size_is_audio(size: int) -> None:
    """The gateway does not insist on 20 ms."""
    payload = base64.b64encode(b"\x7f" * size).decode()

    assert [AudioReceived(b"\x7f" * size)] == _started().receive(_media_text(1, payload=payload))


def test_an_empty_payload_is_no_audio() -> None:
    """Zero bytes are counted, not passed on."""
    assert _kind(_started().receive(_media_text(1, payload=""))) == "empty"


def test_a_gap_is_reported_once_with_its_length() -> None:
    """Eleven missing chunks are 220 ms that the caller spoke and nobody got."""
    stream = _started()
    for chunk in range(1, 50):
        stream.receive(_frame(chunk))

    assert [AudioLost(220), AudioReceived(b"\xff" * 4)] == stream.receive(_frame(61))
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(62))


def test_a_gap_is_never_longer_than_two_seconds() -> None:
    """Even when both counters agree, only so much silence is believed."""
    stream = _started()
    stream.receive(_frame(1))

    assert [AudioLost(2000), AudioReceived(b"\xff" * 4)] == stream.receive(_frame(50_000))


@pytest.mark.parametrize("nonsense", [10**9, 10**40, -5, 0])
def test_one_mad_counter_neither_stretches_nor_mutes_a_call(nonsense: int) -> None:
    """A chunk number the sequence does not agree with makes no silence, then or later."""
    stream = _started()
    stream.receive(_frame(1))
    events = stream.receive(_media_text(nonsense, sequence=3))

    for chunk in range(3, 8):
        events += stream.receive(_frame(chunk))

    assert [AudioReceived(b"\xff" * 4)] * 6 == events


def test_counters_that_start_afresh_do_not_mute_the_caller() -> None:
    """After a restart of both counters far behind, audio goes on at once."""
    stream = _started()
    for chunk in (1, 2, 300):
        stream.receive(_frame(chunk))

    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(1))
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(2))


def test_a_frame_that_comes_twice_is_heard_once() -> None:
    """The same numbers again are a duplicate, and the next frame shows no gap."""
    stream = _started()
    stream.receive(_frame(1))
    stream.receive(_frame(2))

    assert _kind(stream.receive(_frame(2))) == "duplicate"
    assert _kind(stream.receive(_frame(1))) == "duplicate"
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(3))


def test_other_messages_between_frames_are_no_gap() -> None:
    """A mark and a digit count in the sequence; no audio is missing for that."""
    stream = _started()
    stream.receive(_media_text("1", sequence="2"))
    stream.receive(_text(event="mark", sequenceNumber="3", mark={"name": "m1"}))
    stream.receive(_text(event="dtmf", sequenceNumber="4", dtmf={"digit": "1"}))

    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_media_text("2", sequence="5"))


def test_frames_without_counters_are_audio() -> None:
    """A stand-in that counts nothing is understood too."""
    stream = _started()

    for _ in range(3):
        assert [AudioReceived(b"\xff" * 4)] == stream.receive(_media_text())


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(2, 199)))
def test_heard_and_lost_add_up(missing: set[int]) -> None:
    """Whatever frames are missing in 4 s, received plus lost is the caller's time."""
    stream = _started()
    chunks = [chunk for chunk in range(1, 201) if chunk not in missing]
    # A gap is believed up to 100 frames; a longer one is another test's business.
    events = [event for chunk in chunks for event in stream.receive(_frame(chunk))]

    heard_ms = 20 * sum(isinstance(event, AudioReceived) for event in events)
    lost_ms = sum(event.duration_ms for event in events if isinstance(event, AudioLost))
    longest = max(after - before - 1 for before, after in pairwise(chunks))

    assert lost_ms <= 20 * len(missing)
    assert longest > 100 or heard_ms + lost_ms == 4000


@pytest.mark.parametrize("digit", ["", "12", "E", "!", "ß", "\n"])
def test_a_digit_is_a_key_of_a_phone(digit: str) -> None:
    """Anything else than the sixteen keys is rejected."""
    assert _kind(_started().receive(_text(event="dtmf", dtmf={"digit": digit}))) == "bad_message"


def test_small_letters_are_keys_too() -> None:
    """The fourth column comes out as capitals."""
    assert [DtmfReceived("D")] == _started().receive(_text(event="dtmf", dtmf={"digit": "d"}))


@pytest.mark.parametrize("name", ["", "x" * 17, "a b", "m1\n"])
def test_a_mark_we_cannot_have_sent_is_rejected(name: str) -> None:
    """Echoes of marks carry names of ours only."""
    assert _kind(_started().receive(_text(event="mark", mark={"name": name}))) == "bad_message"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("[]", "bad_json"),
        ('[{"event":"stop"}]', "bad_json"),
        ("NaN", "bad_json"),
        ('{"event":"media","media":{"payload":"","chunk":NaN}}', "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"event":"media","x":' + "[" * 100_000, "bad_json"),
        ('{"event":"foo","x":' + "[" * 100_000, "bad_json"),
        ('{"event":"mark","mark":{"name":"\\ud800"}}', "bad_json"),
        ('{"event":"foo","x":"\\ud800"}', "bad_json"),
        ('{"event":"stop"} {}', "bad_json"),
        ("\ud800", "bad_json"),
        ("{}", "bad_message"),
        ('{"event":1}', "bad_message"),
        ('{"event":"media"}', "bad_message"),
        ('{"event":"media","media":null}', "bad_message"),
        ('{"event":"media","media":{"payload":1}}', "bad_message"),
        ('{"event":"foo"}', "unknown_event"),
        ('{"event":"foo\\u0000","media":3}', "unknown_event"),
        (_text(event="x" * 10_000), "unknown_event"),
        (b"\xff" * 160, "bad_message"),
        (b'{"event":"stop"}', "bad_message"),
    ],
)
def test_abuse_is_one_rejected_message(message: str | bytes, kind: str) -> None:
    """Bad JSON, wrong types and unknown events are told apart, and the call goes on."""
    stream = _started()

    event = _only(stream.receive(message))

    assert isinstance(event, MessageRejected)
    assert kind == event.kind
    assert len(event.detail) <= 100
    assert event.detail.isprintable()
    assert [AudioReceived(b"\xff" * 4)] == stream.receive(_frame(1))


def test_of_duplicate_keys_the_last_counts() -> None:
    """A field that comes twice is read once; two events in one message are none of ours."""
    twice = '{"event":"dtmf","dtmf":{"digit":"1","digit":"2"}}'
    two_events = '{"event":"foo","event":"dtmf","dtmf":{"digit":"1"}}'

    assert _started().receive(twice) == [DtmfReceived("2")]
    assert _kind(_started().receive(two_events)) == "bad_message"


# ------------------------------------------------------------- the stream: what we say


def test_audio_is_a_media_message() -> None:
    """The payload comes back unchanged from the JSON we splice."""
    payload = bytes(range(256))

    (message,) = _started().send(PlayAudio(payload))

    assert {
        "event": "media",
        "streamSid": STREAM_ID,
        "media": {"payload": base64.b64encode(payload).decode()},
    } == msgspec.json.decode(message)


def test_long_audio_is_split() -> None:
    """No message carries more than the limit, and nothing is lost at the seams."""
    payload = bytes(range(250)) * 100
    stream = _started()

    messages = [msgspec.json.decode(message) for message in stream.send(PlayAudio(payload))]
    pieces = [base64.b64decode(message["media"]["payload"]) for message in messages]

    assert payload == b"".join(pieces)
    assert [len(piece) for piece in pieces] == [8000, 8000, 8000, 1000]


def test_marks_and_clears_are_the_documented_messages() -> None:
    """Exactly the fields Twilio knows: extra ones are a warning there (31951)."""
    stream = _started()

    assert [f'{{"event":"mark","streamSid":"{STREAM_ID}","mark":{{"name":"m1"}}}}'] == stream.send(
        SendMark("m1")
    )
    assert [f'{{"event":"clear","streamSid":"{STREAM_ID}"}}'] == stream.send(ClearAudio())


@pytest.mark.parametrize(
    "command", [QueryPlayout(), HangUp(), PlayAudio(b""), SendMark('"}'), SendMark("x" * 17)]
)
def test_what_the_wire_has_not_is_not_sent(command: PlayAudio | SendMark | HangUp) -> None:
    """No invented messages, no empty audio, no mark that breaks the JSON."""
    assert _started().send(command) == []


def test_nothing_is_sent_before_the_start_or_after_the_stop() -> None:
    """Without a stream there is nobody to talk to."""
    stopped = _started()
    stopped.receive(_text(event="stop"))

    for stream in (TwilioStream(), stopped):
        assert stream.send(PlayAudio(b"\xff" * 160)) == []
        assert stream.send(ClearAudio()) == []


def test_the_hang_up_is_a_request_to_the_vendor() -> None:
    """It ends the call by its id, in the account the stream named, with the first token."""
    door = TwilioDoor(HOST, (TOKEN, "old"), api_url="http://127.0.0.1:9/")
    stream = door.connect(HttpRequest("GET", f"{HOST}/twilio/media"))
    stream.receive(_start_text())

    request = stream.hang_up()

    credentials = base64.b64encode(f"{ACCOUNT_ID}:{TOKEN}".encode()).decode()
    assert (
        HttpRequest(
            "POST",
            f"http://127.0.0.1:9/2010-04-01/Accounts/{ACCOUNT_ID}/Calls/{CALL_ID}.json",
            {"authorization": f"Basic {credentials}"},
            (("Status", "completed"),),
        )
        == request
    )


@pytest.mark.parametrize(
    "stream",
    [
        TwilioStream(TOKEN),
        _started(""),
        _started(accountSid=""),
        _started(accountSid="AC1/../../evil"),
    ],
)
def test_without_ids_or_token_there_is_no_hang_up(stream: TwilioStream) -> None:
    """Nothing half-known is put into a URL."""
    assert stream.hang_up() is None
