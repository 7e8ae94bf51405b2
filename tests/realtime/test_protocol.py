"""The translator reads what real services sent, and writes what the referee accepts."""

import binascii
import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LocalProtocolError
from gateway.events import (
    ALAW_8K,
    PCM_24K,
    ULAW_8K,
    AddMessage,
    AgentTranscribed,
    AgentTranscriptDelta,
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioFormat,
    CallerTranscribed,
    CancelResponse,
    CloseRealtime,
    CommitInput,
    ConfigureSession,
    CreateResponse,
    DialRealtime,
    FunctionCalled,
    ItemTruncated,
    MessageRejected,
    RateLimitReported,
    RealtimeCommand,
    RealtimeError,
    RealtimeEvent,
    ResponseDone,
    ResponseStarted,
    SendFunctionOutput,
    SessionCreated,
    SessionOptions,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    TurnDetection,
    Usage,
)
from gateway.realtime import Dialect
from gateway.realtime.protocol import RealtimeProtocol
from tests.referee import check_client_event, check_server_event

RECORDINGS = Path(__file__).parent / "recordings"
DIALECTS: tuple[Dialect, ...] = ("ga", "preview")
ITEM = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}

both = pytest.mark.parametrize("dialect", DIALECTS)


def _recorded(name: str) -> list[dict[str, Any]]:
    lines = (RECORDINGS / f"ga-{name}-2026-09.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _read(name: str) -> list[RealtimeEvent]:
    protocol = RealtimeProtocol("ga")
    messages = [json.dumps(line["event"]) for line in _recorded(name) if line["dir"] == "server"]
    return [event for message in messages for event in protocol.receive(message)]


def _receive(event: object, dialect: Dialect = "ga") -> list[RealtimeEvent]:
    return RealtimeProtocol(dialect).receive(json.dumps(event))


def _send(dialect: Dialect, command: RealtimeCommand) -> dict[str, Any]:
    """The one message of a command, after the referee has looked at it."""
    (message,) = RealtimeProtocol(dialect).send(command)
    event: dict[str, Any] = json.loads(message)
    check_client_event(dialect, event)
    return event


def _session(dialect: Dialect, options: SessionOptions) -> dict[str, Any]:
    session: dict[str, Any] = _send(dialect, ConfigureSession(options))["session"]
    return session


def _error(**members: object) -> RealtimeError:
    (event,) = _receive({"type": "error", "event_id": "event_1", "error": members})
    assert isinstance(event, RealtimeError)
    return event


def _done(**response: object) -> ResponseDone:
    (event,) = _receive({"type": "response.done", "response": {"id": "resp_1", **response}})
    assert isinstance(event, ResponseDone)
    return event


# ------------------------------------------------------------- recordings of real sessions


@pytest.mark.parametrize("name", ["azure-text", "openai-audio", "openai-cancel"])
def test_recordings_are_fair_and_fully_understood(name: str) -> None:
    """The referee accepts every recorded event, and none of the server's is rejected by us."""
    for line in _recorded(name):
        check = check_server_event if line["dir"] == "server" else check_client_event
        check("ga", line["event"])

    assert not [event for event in _read(name) if isinstance(event, MessageRejected)]


def test_a_spoken_answer() -> None:
    """The recorded audio answer yields its session, words, sound and bill, in order."""
    events = _read("openai-audio")

    sound = next(event for event in events if isinstance(event, AudioDelta))
    item, response = sound.item_id, sound.response_id
    assert events == [
        SessionCreated("sess_EJHGyea8Ckdfviow69ttc", 1788266936.0, "gpt-realtime-mini"),
        SessionUpdated(),
        ResponseStarted(response),
        AgentTranscriptDelta(response, item, "Live"),
        AgentTranscriptDelta(response, item, " hello"),
        AgentTranscriptDelta(response, item, "."),
        AudioDelta(response, item, 0, sound.payload),
        AudioDone(response, item, 0),
        AgentTranscribed(response, item, "Live hello."),
        ResponseDone(
            response, "completed", usage=Usage(input_text=12, output_text=11, output_audio=24)
        ),
    ]
    assert set(sound.payload) == {0}


def test_a_text_answer() -> None:
    """The recorded text answer of Azure is marked as text, deltas and whole."""
    events = _read("azure-text")

    whole = next(event for event in events if isinstance(event, AgentTranscribed))
    deltas = [event for event in events if isinstance(event, AgentTranscriptDelta)]
    assert whole.text == "Azure live hello" == "".join(delta.text for delta in deltas)
    assert whole.is_text
    assert all(delta.is_text for delta in deltas)


def test_a_cancelled_answer() -> None:
    """The recorded cancel ends as cancelled by the client, and is billed all the same."""
    events = _read("openai-cancel")

    assert Counter(map(type, events))[AgentTranscriptDelta] == 15
    assert events[-1] == ResponseDone(
        "resp_EJHGvIEcyXkCU4LRMoGjw",
        "cancelled",
        "client_cancelled",
        usage=Usage(input_text=127, output_text=16),
    )


# ------------------------------------------------------------- receive


@both
@pytest.mark.parametrize("name", ["response.output_audio.delta", "response.audio.delta"])
def test_audio_under_both_names_in_both_dialects(dialect: Dialect, name: str) -> None:
    """Audio deltas are understood whichever dialect names them (P39)."""
    message = {"type": name, **ITEM, "delta": "AAEC"}

    assert _receive(message, dialect) == [AudioDelta("resp_1", "item_1", 0, b"\0\1\2")]


@given(payload=st.binary(min_size=1, max_size=200), index=st.integers(0, 5))
def test_audio_is_carried_whole(payload: bytes, index: int) -> None:
    """Any payload of any length, odd ones too, comes out as it was put in (P38)."""
    delta = binascii.b2a_base64(payload, newline=False).decode()
    message = {"delta": delta, **ITEM, "content_index": index}

    events = _receive({**message, "type": "response.output_audio.delta"})

    assert events == [AudioDelta("resp_1", "item_1", index, payload)]


@pytest.mark.parametrize(
    "delta", ["AA", "A A=", "AAAA\n", "AA==AAAA", "AA-_", "AAA=A", "ÄÄÄÄ", "=", "AAAA="]
)
def test_audio_that_is_no_base64(delta: str) -> None:
    """Missing padding, white space, the URL alphabet and trailing data are not guessed at."""
    (event,) = _receive({"type": "response.output_audio.delta", **ITEM, "delta": delta})

    assert isinstance(event, MessageRejected)
    assert event.kind == "bad_base64"


def test_audio_without_sound() -> None:
    """An empty delta is counted, not played."""
    events = _receive({"type": "response.output_audio.delta", **ITEM, "delta": ""})

    assert events == [MessageRejected("empty", "audio delta")]


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            {"type": "session.created", "session": {"id": "sess_1", "expires_at": None}},
            SessionCreated("sess_1", 0.0),
        ),
        ({"type": "session.created", "session": {}}, SessionCreated("", 0.0)),
        (
            {
                "type": "input_audio_buffer.speech_started",
                "audio_start_ms": 1236,
                "item_id": "item_1",
            },
            SpeechStarted("item_1", 1236),
        ),
        (
            {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 3808, "item_id": "i"},
            SpeechStopped("i", 3808),
        ),
        ({"type": "response.audio.done", **ITEM}, AudioDone("resp_1", "item_1", 0)),
        (
            {"type": "response.audio_transcript.delta", **ITEM, "delta": "Hel"},
            AgentTranscriptDelta("resp_1", "item_1", "Hel"),
        ),
        (
            {"type": "response.audio_transcript.done", **ITEM, "transcript": "Hello."},
            AgentTranscribed("resp_1", "item_1", "Hello."),
        ),
        (
            {"type": "response.text.delta", **ITEM, "delta": "Hel"},
            AgentTranscriptDelta("resp_1", "item_1", "Hel", is_text=True),
        ),
        (
            {"type": "response.text.done", **ITEM, "text": "Hello."},
            AgentTranscribed("resp_1", "item_1", "Hello.", is_text=True),
        ),
        (
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": "item_1",
                "content_index": 0,
                "transcript": "Hi.",
                "usage": {"type": "duration", "seconds": 1},
            },
            CallerTranscribed("item_1", "Hi."),
        ),
        (
            {
                "type": "conversation.item.input_audio_transcription.failed",
                "item_id": "item_1",
                "content_index": 0,
                "error": {"code": "audio_unintelligible", "message": "No words."},
            },
            RealtimeError("transcription_failed", "warn", "No words."),
        ),
        (
            {"type": "conversation.item.input_audio_transcription.failed", "item_id": "item_1"},
            RealtimeError("transcription_failed", "warn"),
        ),
        (
            {
                "type": "conversation.item.truncated",
                "item_id": "item_1",
                "content_index": 0,
                "audio_end_ms": 840,
            },
            ItemTruncated("item_1", 840),
        ),
    ],
)
@both
def test_one_message_one_event(
    dialect: Dialect, message: dict[str, Any], event: RealtimeEvent
) -> None:
    """Each message means the same event in both dialects."""
    assert _receive(message, dialect) == [event]


def test_rate_limits() -> None:
    """Each limit is an event of its own, whatever it leaves out."""
    limits = [
        {"name": "requests", "limit": 10, "remaining": 9, "reset_seconds": 1.5},
        {"name": "tokens", "limit": 40000.0, "remaining": None},
    ]

    events = _receive({"type": "rate_limits.updated", "rate_limits": limits})

    assert events == [
        RateLimitReported("requests", 10, 9, 1.5),
        RateLimitReported("tokens", 40000, 0, 0.0),
    ]


def _output_item(**item: object) -> dict[str, Any]:
    return {"type": "response.output_item.done", "response_id": "resp_1", "item": item}


def test_a_function_call() -> None:
    """A finished call comes with its arguments as the model wrote them, valid JSON or not."""
    item = {"type": "function_call", "id": "item_1", "call_id": "call_1", "name": "hang_up"}

    events = _receive(_output_item(**item, status="completed", arguments='{"why": '))

    assert events == [FunctionCalled("resp_1", "item_1", "call_1", "hang_up", '{"why": ')]


@pytest.mark.parametrize(
    ("message", "events"),
    [
        (_output_item(type="message", id="item_1"), []),
        (_output_item(type="function_call", call_id="call_1", status="incomplete"), []),
        (
            _output_item(type="function_call", name="hang_up"),
            [MessageRejected("bad_message", "function_call without call_id")],
        ),
        (
            {"type": "response.function_call_arguments.done", "call_id": "call_1", "name": "f"},
            [],
        ),
    ],
)
def test_what_is_no_function_call(message: dict[str, Any], events: list[RealtimeEvent]) -> None:
    """Messages, calls cut off in the middle and the second report of a call start nothing."""
    assert _receive(message) == events


@pytest.mark.parametrize(
    ("error", "code", "retry_after_s"),
    [
        (
            {
                "type": "invalid_request_error",
                "code": "rate_limit_exceeded",
                "message": "Rate limit reached. Please try again in 1m26.4s. Visit the site.",
            },
            "rate_limit_exceeded",
            86.4,
        ),
        ({"type": "server_error", "code": None, "message": "Oops."}, "server_error", 0.0),
        ({"type": "tokens", "code": "insufficient_quota"}, "insufficient_quota", 0.0),
        ({"code": "brand_new", "message": None}, "other", 0.0),
        ({}, "other", 0.0),
    ],
)
def test_a_failed_response(error: dict[str, Any], code: str, retry_after_s: float) -> None:
    """The code becomes a word of a closed set; the wait is read out of the message (P41)."""
    done = _done(status="failed", status_details={"type": "failed", "error": error})

    assert (done.status, done.reason) == ("failed", code)
    assert done.detail == (error.get("message") or "")
    assert done.retry_after_s == pytest.approx(retry_after_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20s", 20),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("250ms", 0.25),
        ("1s500ms", 1.5),
        ("a while", 0),
        ("99999999999s", 0),
    ],
)
def test_waits_as_the_service_writes_them(text: str, seconds: float) -> None:
    """Hours, minutes, seconds and milliseconds add up; anything else is no wait."""
    error = {"code": "rate_limit_exceeded", "message": f"Please try again in {text}."}

    done = _done(status="failed", status_details={"error": error})

    assert done.retry_after_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("response", "status", "reason"),
    [
        ({"status": "completed", "status_details": None}, "completed", ""),
        (
            {"status": "cancelled", "status_details": {"reason": "turn_detected"}},
            "cancelled",
            "turn_detected",
        ),
        (
            {"status": "incomplete", "status_details": {"reason": "max_output_tokens"}},
            "incomplete",
            "max_output_tokens",
        ),
        ({"status": "incomplete", "status_details": {"reason": "moon"}}, "incomplete", "other"),
        ({"status": "failed", "status_details": None}, "failed", "other"),
        ({"status": "in_progress"}, "incomplete", "other"),
        ({}, "incomplete", "other"),
    ],
)
def test_how_a_response_ends(response: dict[str, Any], status: str, reason: str) -> None:
    """Status and reason come from closed sets, whatever the service invents."""
    done = _done(**response)

    assert (done.status, done.reason) == (status, reason)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"input_tokens": 7, "output_tokens": 3}, Usage(input_text=7, output_text=3)),
        (
            {
                "input_token_details": {
                    "text_tokens": 100,
                    "audio_tokens": 50,
                    "cached_tokens": 64,
                    "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
                },
                "output_token_details": {"text_tokens": 5, "audio_tokens": 20},
            },
            Usage(100, 50, 60, 4, 5, 20),
        ),
        (
            {"input_token_details": {"text_tokens": 9, "audio_tokens": None, "cached_tokens": 8}},
            Usage(input_text=9, input_cached_text=8),
        ),
        ({"input_tokens": -1}, Usage()),
        ({"input_tokens": "many"}, Usage()),
        ([1], Usage()),
    ],
)
def test_the_bill(usage: object, expected: Usage) -> None:
    """Tokens are split by kind and cache; old shapes and nonsense never cost us the event."""
    assert _done(status="completed", usage=usage).usage == expected


def test_a_bill_left_out() -> None:
    """A response without usage was free."""
    assert _done(status="completed").usage == Usage()


# ------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "code", "severity"),
    [
        (
            {"code": "conversation_already_has_active_response"},
            "conversation_already_has_active_response",
            "busy",
        ),
        (
            {"message": "Conversation already has an active response in progress: resp_1"},
            "conversation_already_has_active_response",
            "busy",
        ),
        ({"code": "response_cancel_not_active"}, "response_cancel_not_active", "ignore"),
        (
            {"message": "Cancellation failed: no active response found"},
            "response_cancel_not_active",
            "ignore",
        ),
        ({"code": "input_audio_buffer_commit_empty"}, "input_audio_buffer_commit_empty", "ignore"),
        (
            {
                "code": "invalid_value",
                "message": "Audio content of 3700ms is already shorter than 3760ms",
            },
            "truncate_beyond_audio",
            "warn",
        ),
        ({"code": "integer_below_min_value"}, "integer_below_min_value", "warn"),
        ({"code": "session_expired"}, "session_expired", "expired"),
        (
            {"message": "Your session hit the maximum duration of 60 minutes."},
            "session_expired",
            "expired",
        ),
        ({"code": "rate_limit_exceeded"}, "rate_limit_exceeded", "retry"),
        ({"type": "server_error", "code": None}, "server_error", "retry"),
        ({"code": "insufficient_quota"}, "insufficient_quota", "fatal"),
        ({"code": "invalid_api_key"}, "invalid_api_key", "fatal"),
        (
            {"code": "invalid_request_error.beta_api_shape_disabled"},
            "beta_api_shape_disabled",
            "fatal",
        ),
        (
            {"code": "unknown_parameter", "param": "session.temperature"},
            "unknown_parameter",
            "fatal",
        ),
        ({"code": "unknown_parameter", "param": "item.mood"}, "unknown_parameter", "warn"),
        ({"code": "brand_new"}, "other", "warn"),
        ({}, "other", "warn"),
    ],
)
def test_how_bad_an_error_is(error: dict[str, Any], code: str, severity: str) -> None:
    """Every error gets a code of the closed set and says what to do about it."""
    event = _error(**error)

    assert (event.code, event.severity) == (code, severity)


def test_an_error_says_what_it_is_about() -> None:
    """Message, our event id and the parameter are handed on, cut to a length."""
    event = _error(message="m" * 1000, event_id="evt_7", param="p" * 1000)

    assert event.event_id == "evt_7"
    assert (len(event.message), len(event.param)) == (300, 120)


@both
def test_a_refused_session_is_fatal(dialect: Dialect) -> None:
    """An error that answers our session.update ends it, though it names no parameter."""
    protocol = RealtimeProtocol(dialect)
    (update,) = protocol.send(ConfigureSession(SessionOptions()))
    (create,) = protocol.send(CreateResponse())
    codes = [
        json.dumps({"type": "error", "error": {"event_id": json.loads(message)["event_id"]}})
        for message in (update, create)
    ]

    first, second = [protocol.receive(code)[0] for code in codes]

    assert isinstance(first, RealtimeError)
    assert isinstance(second, RealtimeError)
    assert (first.severity, second.severity) == ("fatal", "warn")


# ------------------------------------------------------------- whatever a peer may send


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        (b"\xff", "bad_json"),
        ("\ud800", "bad_json"),
        ('{"type": "error", "error": {"message": "\\ud800"}}', "bad_json"),
        ("[" * 100_000, "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type": 1}', "bad_message"),
        ('{"type": "response.output_audio.delta"}', "bad_message"),
        ('{"type": "response.output_audio.delta", "item_id": null, "delta": ""}', "bad_message"),
        ('{"type": "error", "error": "base32"}', "bad_message"),
        ('{"type": "input_audio_buffer.speech_started", "audio_start_ms": 1e999}', "bad_message"),
        (
            '{"type": "input_audio_buffer.speech_started", "audio_start_ms": %s}' % ("9" * 400),
            "bad_message",
        ),
        ('{"type": "session.updatex"}', "unknown_event"),
        ('{"type": "response.animation_blendshapes.delta", "frames": []}', "unknown_event"),
    ],
)
def test_what_cannot_be_read_is_named(message: str | bytes, kind: str) -> None:
    """Each kind of nonsense has its own name, and a short detail."""
    (event,) = RealtimeProtocol("ga").receive(message)

    assert isinstance(event, MessageRejected)
    assert event.kind == kind
    assert len(event.detail) <= 120


def test_deep_nesting_inside_a_known_message() -> None:
    """A tower of brackets in a member nobody reads is survived."""
    tower = "[" * 100_000 + "]" * 100_000

    (event,) = RealtimeProtocol("ga").receive(f'{{"type": "session.updated", "x": {tower}}}')

    assert isinstance(event, MessageRejected)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_TYPES = sorted(
    {
        line["event"]["type"]
        for name in ("azure-text", "openai-audio")
        for line in _recorded(name)
        if line["dir"] == "server"
    }
    | {"error", "rate_limits.updated", "input_audio_buffer.speech_started", "response.text.done"}
)
_MEMBERS = ("item_id", "response_id", "delta", "item", "response", "session", "error", "text")


@given(message=st.text() | st.binary() | _json.map(json.dumps))
def test_receive_never_raises(message: str | bytes) -> None:
    """Text, bytes and JSON of any shape become at most one rejection."""
    for dialect in DIALECTS:
        events = RealtimeProtocol(dialect).receive(message)

        assert all(isinstance(event, MessageRejected) for event in events)


@given(kind=st.sampled_from(_TYPES), members=st.dictionaries(st.sampled_from(_MEMBERS), _json))
def test_known_events_with_any_members_never_raise(kind: str, members: dict[str, Any]) -> None:
    """A known type does not make us trust what stands beside it."""
    for event in _receive({**members, "type": kind}):
        assert not isinstance(event, MessageRejected) or event.kind != "unknown_event"


# ------------------------------------------------------------- send

TURNS = (
    TurnDetection(),
    TurnDetection(idle_timeout_ms=6000, create_response=False),
    TurnDetection("semantic_vad", eagerness="low", interrupt_response=False),
    TurnDetection("none"),
)
EXTRAS = (
    SessionOptions(instructions='Be "brief".\n\N{GRINNING FACE}'),
    SessionOptions(
        transcription_model="whisper-1", noise_reduction="near_field", max_output_tokens=1
    ),
    SessionOptions(
        transcription_model="m", transcription_language="de", noise_reduction="far_field"
    ),
)
SESSIONS = [
    replace(extras, audio=audio, turn_detection=turns)
    for audio, turns, extras in product((PCM_24K, ULAW_8K, ALAW_8K), TURNS, EXTRAS)
]
COMMANDS: list[RealtimeCommand] = [
    CommitInput(),
    AppendAudio(b"\xff" * 160),
    AddMessage("user", "Pressed 5"),
    AddMessage("assistant", "Hello."),
    AddMessage("system", "Be brief."),
    CreateResponse(),
    CreateResponse("Say goodbye."),
    CancelResponse("resp_1"),
    CancelResponse(""),
    TruncateItem("item_1", 0, 840),
    SendFunctionOutput("call_1", '{"ok": true}'),
    *map(ConfigureSession, SESSIONS),
]


@both
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_the_referee_accepts_all_we_send(dialect: Dialect, command: RealtimeCommand) -> None:
    """Each command, in every variant, is one message the dialect's own types allow."""
    assert _send(dialect, command)["type"]


def test_a_ga_session_sets_everything() -> None:
    """All options are written out, nested as GA wants them, with no temperature."""
    turns = TurnDetection(threshold=0.6, idle_timeout_ms=6000)
    options = SessionOptions(
        "Hi.", "cedar", 0.7, 1.1, ULAW_8K, turns, "whisper-1", "de", "near_field", 99
    )

    assert _session("ga", options) == {
        "type": "realtime",
        "instructions": "Hi.",
        "output_modalities": ["audio"],
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "whisper-1", "language": "de"},
                "noise_reduction": {"type": "near_field"},
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.6,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                    "create_response": True,
                    "interrupt_response": True,
                    "idle_timeout_ms": 6000,
                },
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.1},
        },
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": 99,
        "truncation": "auto",
        "tracing": None,
    }


def test_a_preview_session_sets_everything() -> None:
    """All options are written out flat, with no speed and no idle timeout."""
    turns = TurnDetection("semantic_vad", idle_timeout_ms=6000, eagerness="high")
    options = SessionOptions("Hi.", "alloy", 0.7, 1.1, ALAW_8K, turns)

    assert _session("preview", options) == {
        "modalities": ["audio", "text"],
        "instructions": "Hi.",
        "voice": "alloy",
        "input_audio_format": "g711_alaw",
        "output_audio_format": "g711_alaw",
        "input_audio_transcription": None,
        "input_audio_noise_reduction": None,
        "turn_detection": {
            "type": "semantic_vad",
            "eagerness": "high",
            "create_response": True,
            "interrupt_response": True,
        },
        "tools": [],
        "tool_choice": "auto",
        "temperature": 0.7,
        "max_response_output_tokens": "inf",
    }


def test_what_is_off_is_said_to_be_off() -> None:
    """Options that are off are sent as null, so that no server default comes through."""
    off = SessionOptions(turn_detection=TurnDetection("none"))

    ga, preview = _session("ga", off), _session("preview", off)

    nothing = {"transcription": None, "noise_reduction": None, "turn_detection": None}
    assert ga["audio"]["input"] == {"format": {"type": "audio/pcm", "rate": 24000}, **nothing}
    assert preview["turn_detection"] is None


@both
def test_a_format_the_model_cannot_speak(dialect: Dialect) -> None:
    """Audio that no session carries is our own mistake, and is called that."""
    wideband = SessionOptions(audio=AudioFormat("pcm", 16000))

    with pytest.raises(LocalProtocolError, match="16000"):
        RealtimeProtocol(dialect).send(ConfigureSession(wideband))


@given(payload=st.binary(min_size=1))
def test_an_append_carries_any_payload(payload: bytes) -> None:
    """The spliced message is the JSON that an encoder would have made."""
    (message,) = RealtimeProtocol("ga").send(AppendAudio(payload))

    event = json.loads(message)
    assert event.keys() == {"type", "audio"}
    assert binascii.a2b_base64(event["audio"], strict_mode=True) == payload


@both
@pytest.mark.parametrize(
    "command", [DialRealtime(0.0, 5.0), CloseRealtime(), AppendAudio(b"")], ids=repr
)
def test_what_is_no_message(dialect: Dialect, command: RealtimeCommand) -> None:
    """Dialling, closing and an append of nothing put nothing on the wire."""
    assert RealtimeProtocol(dialect).send(command) == []


def test_event_ids_count() -> None:
    """Ids are counters, so that two runs of one call are the same to the byte."""
    protocol = RealtimeProtocol("ga")

    sent = [json.loads(protocol.send(CreateResponse())[0])["event_id"] for _ in range(3)]

    assert [name.rpartition("_")[2] for name in sent] == ["1", "2", "3"]


@pytest.mark.parametrize(("dialect", "kind"), [("ga", "output_text"), ("preview", "text")])
def test_what_the_agent_said_before(dialect: Dialect, kind: str) -> None:
    """History of the agent has another content type than the caller's, one for each dialect."""
    item = _send(dialect, AddMessage("assistant", "Hello."))["item"]

    assert item["content"] == [{"type": kind, "text": "Hello."}]
