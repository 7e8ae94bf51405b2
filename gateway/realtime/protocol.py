"""A translator between both dialects of the Realtime API and our vocabulary.

Facts come from the types of the ``openai`` package (``openai.types.realtime`` is GA,
``openai.types.beta.realtime`` is preview) and from recordings of real sessions. The two dialects
name their server events differently and mean the same, so both names are taken in either dialect.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

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
    Severity,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    TurnDetection,
    Usage,
)
from gateway.realtime import Dialect

# What a double holds exactly: larger numbers of a peer would overflow arithmetic further in.
_EXACT = 2**53
_Int = Annotated[int, Meta(ge=-_EXACT, le=_EXACT)]
_Number = Annotated[float, Meta(ge=-_EXACT, le=_EXACT)]
_Count = Annotated[int, Meta(ge=0, le=_EXACT)] | None

_DETAIL_CHARS = 120
_MESSAGE_CHARS = 300
_STATUSES = frozenset({"completed", "cancelled", "failed", "incomplete"})
_REASONS = frozenset(
    {"turn_detected", "client_cancelled", "max_output_tokens", "content_filter", ""}
)

# ------------------------------------------------------------- errors, by code and by message

_SEVERITIES: Mapping[str, Severity] = {
    "conversation_already_has_active_response": "busy",
    "response_cancel_not_active": "ignore",
    "input_audio_buffer_commit_empty": "ignore",
    "item_retrieve_invalid_item_id": "ignore",
    "item_truncate_invalid_item_id": "ignore",
    "item_delete_invalid_item_id": "ignore",
    "truncate_beyond_audio": "warn",
    "integer_below_min_value": "warn",
    "invalid_event": "warn",
    "invalid_value": "warn",
    "invalid_type": "warn",
    "unknown_parameter": "warn",
    "missing_required_parameter": "warn",
    "transcription_failed": "warn",
    "session_expired": "expired",
    "rate_limit_exceeded": "retry",
    "inference_rate_limit_exceeded": "retry",
    "server_error": "retry",
    "insufficient_quota": "fatal",
    "invalid_api_key": "fatal",
    "account_deactivated": "fatal",
    "billing_hard_limit_reached": "fatal",
    "model_not_found": "fatal",
    "beta_api_shape_disabled": "fatal",
    "other": "warn",
}

# The code was null for these in 2024, and the code of the third is still not known for certain.
_PREFIXES = (
    ("Cancellation failed", "response_cancel_not_active"),
    ("Conversation already has an active response", "conversation_already_has_active_response"),
    ("Audio content of", "truncate_beyond_audio"),
    ("Error committing input audio buffer: buffer too small", "input_audio_buffer_commit_empty"),
    ("Your session hit the maximum duration", "session_expired"),
)

# "Please try again in 1m26.4s." as the service writes it; also 20s, 250ms, 1h2m3s.
_TRY_AGAIN = re.compile(
    r"try again in (?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?"
    r"(?:(\d{1,6}(?:\.\d{1,6})?)s)?(?:(\d{1,9}(?:\.\d{1,6})?)ms)?"
)


def _label(code: str | None, kind: str | None, message: str | None) -> str:
    """The closed-set name of an error: by message first, since codes changed over the years."""
    for prefix, label in _PREFIXES:
        if (message or "").startswith(prefix):
            return label
    # OpenAI writes some codes as "invalid_request_error.beta_api_shape_disabled".
    words = ((code or "").rpartition(".")[2], kind or "")
    return next((word for word in words if word in _SEVERITIES), "other")


def _retry_after_s(message: str) -> float:
    """Seconds to wait that an error message names, 0.0 when it names none."""
    found = _TRY_AGAIN.search(message)
    if found is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


# ------------------------------------------------------------- server events on the wire


class _Frame(Struct, frozen=True, tag_field="type"):
    """One server event; a subclass per type lists the members we read, and has ``events``."""


class _AudioDelta(_Frame, frozen=True, gc=False, tag="response.output_audio.delta"):
    item_id: str
    # Decoded with the JSON in one pass: as strict as binascii and more than twice as fast.
    delta: bytes
    response_id: str = ""
    content_index: _Int = 0

    def events(self) -> list[RealtimeEvent]:
        if not self.delta:
            return [MessageRejected("empty", "audio delta")]
        return [AudioDelta(self.response_id, self.item_id, self.content_index, self.delta)]


class _PreviewAudioDelta(_AudioDelta, frozen=True, gc=False, tag="response.audio.delta"):
    pass


class _AudioDone(_Frame, frozen=True, tag="response.output_audio.done"):
    item_id: str
    response_id: str = ""
    content_index: _Int = 0

    def events(self) -> list[RealtimeEvent]:
        return [AudioDone(self.response_id, self.item_id, self.content_index)]


class _PreviewAudioDone(_AudioDone, frozen=True, tag="response.audio.done"):
    pass


class _TranscriptDelta(_Frame, frozen=True, tag="response.output_audio_transcript.delta"):
    item_id: str
    delta: str
    response_id: str = ""

    def events(self) -> list[RealtimeEvent]:
        return [AgentTranscriptDelta(self.response_id, self.item_id, self.delta)]


class _PreviewTranscriptDelta(_TranscriptDelta, frozen=True, tag="response.audio_transcript.delta"):
    pass


class _TranscriptDone(_Frame, frozen=True, tag="response.output_audio_transcript.done"):
    item_id: str
    transcript: str
    response_id: str = ""

    def events(self) -> list[RealtimeEvent]:
        return [AgentTranscribed(self.response_id, self.item_id, self.transcript)]


class _PreviewTranscriptDone(_TranscriptDone, frozen=True, tag="response.audio_transcript.done"):
    pass


class _TextDelta(_Frame, frozen=True, tag="response.output_text.delta"):
    item_id: str
    delta: str
    response_id: str = ""

    def events(self) -> list[RealtimeEvent]:
        return [AgentTranscriptDelta(self.response_id, self.item_id, self.delta, is_text=True)]


class _PreviewTextDelta(_TextDelta, frozen=True, tag="response.text.delta"):
    pass


class _TextDone(_Frame, frozen=True, tag="response.output_text.done"):
    item_id: str
    text: str
    response_id: str = ""

    def events(self) -> list[RealtimeEvent]:
        return [AgentTranscribed(self.response_id, self.item_id, self.text, is_text=True)]


class _PreviewTextDone(_TextDone, frozen=True, tag="response.text.done"):
    pass


class _Session(Struct, frozen=True):
    id: str | None = None
    expires_at: _Number | None = None
    model: str | None = None


class _SessionCreated(_Frame, frozen=True, tag="session.created"):
    session: _Session

    def events(self) -> list[RealtimeEvent]:
        session = self.session
        return [SessionCreated(session.id or "", session.expires_at or 0.0, session.model or "")]


class _SessionUpdated(_Frame, frozen=True, tag="session.updated"):
    def events(self) -> list[RealtimeEvent]:
        return [SessionUpdated()]


class _SpeechStarted(_Frame, frozen=True, tag="input_audio_buffer.speech_started"):
    item_id: str = ""
    audio_start_ms: _Int = 0

    def events(self) -> list[RealtimeEvent]:
        return [SpeechStarted(self.item_id, self.audio_start_ms)]


class _SpeechStopped(_Frame, frozen=True, tag="input_audio_buffer.speech_stopped"):
    item_id: str = ""
    audio_end_ms: _Int = 0

    def events(self) -> list[RealtimeEvent]:
        return [SpeechStopped(self.item_id, self.audio_end_ms)]


class _CallerTranscribed(
    _Frame, frozen=True, tag="conversation.item.input_audio_transcription.completed"
):
    item_id: str
    transcript: str

    def events(self) -> list[RealtimeEvent]:
        return [CallerTranscribed(self.item_id, self.transcript)]


class _ItemTruncated(_Frame, frozen=True, tag="conversation.item.truncated"):
    item_id: str
    audio_end_ms: _Int = 0

    def events(self) -> list[RealtimeEvent]:
        return [ItemTruncated(self.item_id, self.audio_end_ms)]


class _Item(Struct, frozen=True):
    type: str | None = None
    id: str | None = None
    status: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class _OutputItemDone(_Frame, frozen=True, tag="response.output_item.done"):
    item: _Item
    response_id: str = ""

    def events(self) -> list[RealtimeEvent]:
        item = self.item
        # An incomplete call was cut off while its arguments were written: nobody meant it.
        if item.type != "function_call" or item.status == "incomplete":
            return []
        if not item.call_id:
            return [MessageRejected("bad_message", "function_call without call_id")]
        return [
            FunctionCalled(
                self.response_id,
                item.id or "",
                item.call_id,
                item.name or "",
                item.arguments or "",
            )
        ]


class _CachedDetails(Struct, frozen=True):
    text_tokens: _Count = None
    audio_tokens: _Count = None


class _InputDetails(Struct, frozen=True):
    text_tokens: _Count = None
    audio_tokens: _Count = None
    cached_tokens: _Count = None
    cached_tokens_details: _CachedDetails | None = None


class _OutputDetails(Struct, frozen=True):
    text_tokens: _Count = None
    audio_tokens: _Count = None


class _Usage(Struct, frozen=True):
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_token_details: _InputDetails | None = None
    output_token_details: _OutputDetails | None = None


_decode_usage = msgspec.json.Decoder(_Usage | None).decode


def _usage(raw: Raw) -> Usage:
    """Token counts; without their split all tokens are taken for text."""
    try:
        usage = _decode_usage(raw) or _Usage()
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        # Accounting must not cost us the end of the response.
        return Usage()
    heard = usage.input_token_details or _InputDetails(text_tokens=usage.input_tokens)
    said = usage.output_token_details or _OutputDetails(text_tokens=usage.output_tokens)
    cached = heard.cached_tokens_details or _CachedDetails(text_tokens=heard.cached_tokens)
    return Usage(
        input_text=heard.text_tokens or 0,
        input_audio=heard.audio_tokens or 0,
        input_cached_text=cached.text_tokens or 0,
        input_cached_audio=cached.audio_tokens or 0,
        output_text=said.text_tokens or 0,
        output_audio=said.audio_tokens or 0,
    )


class _ErrorBody(Struct, frozen=True):
    type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    event_id: str | None = None

    @property
    def label(self) -> str:
        return _label(self.code, self.type, self.message)

    @property
    def detail(self) -> str:
        return (self.message or "")[:_MESSAGE_CHARS]


class _StatusDetails(Struct, frozen=True):
    reason: str | None = None
    error: _ErrorBody | None = None


class _Response(Struct, frozen=True):
    id: str | None = None
    status: str | None = None
    status_details: _StatusDetails | None = None
    usage: Raw = Raw(b"null")


class _ResponseCreated(_Frame, frozen=True, tag="response.created"):
    response: _Response

    def events(self) -> list[RealtimeEvent]:
        return [ResponseStarted(self.response.id or "")]


class _ResponseDone(_Frame, frozen=True, tag="response.done"):
    response: _Response

    def events(self) -> list[RealtimeEvent]:
        response = self.response
        details = response.status_details or _StatusDetails()
        error = details.error or _ErrorBody()
        status = response.status if response.status in _STATUSES else "incomplete"
        is_known = response.status == status and (details.reason or "") in _REASONS
        reason = (details.reason or "") if is_known else "other"
        return [
            ResponseDone(
                response.id or "",
                status,
                reason=error.label if status == "failed" else reason,
                detail=error.detail,
                retry_after_s=_retry_after_s(error.detail),
                usage=_usage(response.usage),
            )
        ]


class _TranscriptionFailed(
    _Frame, frozen=True, tag="conversation.item.input_audio_transcription.failed"
):
    error: _ErrorBody | None = None

    def events(self) -> list[RealtimeEvent]:
        message = self.error.detail if self.error else ""
        return [RealtimeError("transcription_failed", "warn", message)]


class _RateLimit(Struct, frozen=True):
    name: str
    limit: _Number | None = None
    remaining: _Number | None = None
    reset_seconds: _Number | None = None


class _RateLimits(_Frame, frozen=True, tag="rate_limits.updated"):
    rate_limits: list[_RateLimit] = []

    def events(self) -> list[RealtimeEvent]:
        return [
            RateLimitReported(
                entry.name,
                int(entry.limit or 0),
                int(entry.remaining or 0),
                entry.reset_seconds or 0.0,
            )
            for entry in self.rate_limits
        ]


class _Error(_Frame, frozen=True, tag="error"):
    error: _ErrorBody

    def events(self) -> list[RealtimeEvent]:
        return [self.event(is_about_session=False)]

    def event(self, *, is_about_session: bool) -> RealtimeError:
        """A refused ``session.update`` is fatal: the call would talk with the wrong options."""
        error = self.error
        severity = _SEVERITIES[error.label]
        if severity == "warn" and is_about_session:
            severity = "fatal"
        return RealtimeError(
            error.label,
            severity,
            error.detail,
            (error.event_id or "")[:_DETAIL_CHARS],
            (error.param or "")[:_DETAIL_CHARS],
            _about(error.event_id or ""),
            _retry_after_s(error.detail),
        )


def _about(event_id: str) -> Literal["", "create", "other"]:
    """Our event ids begin with the type of the event."""
    if not event_id:
        return ""
    return "create" if event_id.startswith("response.create_") else "other"


_AnyFrame = (
    _AudioDelta
    | _PreviewAudioDelta
    | _AudioDone
    | _PreviewAudioDone
    | _TranscriptDelta
    | _PreviewTranscriptDelta
    | _TranscriptDone
    | _PreviewTranscriptDone
    | _TextDelta
    | _PreviewTextDelta
    | _TextDone
    | _PreviewTextDone
    | _SessionCreated
    | _SessionUpdated
    | _SpeechStarted
    | _SpeechStopped
    | _CallerTranscribed
    | _TranscriptionFailed
    | _ItemTruncated
    | _OutputItemDone
    | _ResponseCreated
    | _ResponseDone
    | _RateLimits
    | _Error
)

_READ = frozenset(str(struct.__struct_config__.tag) for struct in _AnyFrame.__args__)

# Known events that tell us nothing we act on.
_IGNORED = frozenset(
    {
        "conversation.created",
        "conversation.item.added",
        "conversation.item.created",
        "conversation.item.deleted",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.segment",
        "conversation.item.retrieved",
        "input_audio_buffer.cleared",
        "input_audio_buffer.committed",
        "input_audio_buffer.dtmf_event_received",
        "input_audio_buffer.timeout_triggered",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "mcp_list_tools.in_progress",
        "output_audio_buffer.cleared",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
        "response.content_part.added",
        "response.content_part.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.output_item.added",
    }
)


class _Head(Struct, frozen=True):
    type: str


_decode_frame: Callable[[str | bytes], _AnyFrame] = msgspec.json.Decoder(_AnyFrame).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)


def _set_aside(message: str | bytes, error: msgspec.ValidationError) -> list[RealtimeEvent]:
    """What to make of well-formed JSON that is none of the frames we read."""
    try:
        kind = _decode_head(message).type
    except _UNREADABLE as no_type:
        return [MessageRejected("bad_message", str(no_type)[:_DETAIL_CHARS])]
    if kind in _IGNORED:
        return []
    if kind in _READ:
        # Audio deltas are the only frames with a member that has to be base64.
        blame = "bad_base64" if "base64" in str(error) else "bad_message"
        return [MessageRejected(blame, f"{kind}: {error}"[:_DETAIL_CHARS])]
    return [MessageRejected("unknown_event", kind[:_DETAIL_CHARS])]


# ------------------------------------------------------------- client events on the wire

_APPEND = b'{"type":"input_audio_buffer.append","audio":"'

_GA_FORMATS: Mapping[AudioFormat, Mapping[str, object]] = {
    PCM_24K: {"type": "audio/pcm", "rate": 24000},
    ULAW_8K: {"type": "audio/pcmu"},
    ALAW_8K: {"type": "audio/pcma"},
}
_PREVIEW_FORMATS: Mapping[AudioFormat, str] = {
    PCM_24K: "pcm16",
    ULAW_8K: "g711_ulaw",
    ALAW_8K: "g711_alaw",
}


def _turn_detection(turns: TurnDetection) -> dict[str, object] | None:
    """The members both dialects have for this kind."""
    if turns.kind == "none":
        return None
    common = {
        "type": turns.kind,
        "create_response": turns.create_response,
        "interrupt_response": turns.interrupt_response,
    }
    if turns.kind == "semantic_vad":
        return {**common, "eagerness": turns.eagerness}
    return {
        **common,
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_padding_ms,
        "silence_duration_ms": turns.silence_duration_ms,
    }


def _ga_turn_detection(turns: TurnDetection) -> dict[str, object] | None:
    members = _turn_detection(turns)
    if members is not None and turns.kind == "server_vad":
        members["idle_timeout_ms"] = turns.idle_timeout_ms
    return members


def _transcription(options: SessionOptions) -> dict[str, str] | None:
    if not options.transcription_model:
        return None
    members = {"model": options.transcription_model}
    if options.transcription_language:
        members["language"] = options.transcription_language
    return members


def _tools(options: SessionOptions) -> list[dict[str, object]]:
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        for tool in options.tools
    ]


def _noise_reduction(options: SessionOptions) -> dict[str, str] | None:
    return {"type": options.noise_reduction} if options.noise_reduction else None


def _ga_session(options: SessionOptions) -> dict[str, object]:
    """The whole session, nested; ``speed`` exists here, ``temperature`` does not."""
    audio_format = _GA_FORMATS[options.audio]
    return {
        "type": "realtime",
        "instructions": options.instructions,
        "output_modalities": ["audio"],
        "audio": {
            "input": {
                "format": audio_format,
                "transcription": _transcription(options),
                "noise_reduction": _noise_reduction(options),
                "turn_detection": _ga_turn_detection(options.turn_detection),
            },
            "output": {"format": audio_format, "voice": options.voice, "speed": options.speed},
        },
        "tools": _tools(options),
        "tool_choice": "auto",
        "max_output_tokens": options.max_output_tokens or "inf",
        "truncation": "auto",
        "tracing": None,
    }


def _preview_session(options: SessionOptions) -> dict[str, object]:
    """The whole session, flat; the 2024 models know no ``speed``."""
    audio_format = _PREVIEW_FORMATS[options.audio]
    return {
        # "audio" alone is refused in this dialect.
        "modalities": ["audio", "text"],
        "instructions": options.instructions,
        "voice": options.voice,
        "input_audio_format": audio_format,
        "output_audio_format": audio_format,
        "input_audio_transcription": _transcription(options),
        "input_audio_noise_reduction": _noise_reduction(options),
        "turn_detection": _turn_detection(options.turn_detection),
        "tools": _tools(options),
        "tool_choice": "auto",
        "temperature": options.temperature,
        "max_response_output_tokens": options.max_output_tokens or "inf",
    }


_SESSIONS: Mapping[Dialect, Callable[[SessionOptions], dict[str, object]]] = {
    "ga": _ga_session,
    "preview": _preview_session,
}


# ------------------------------------------------------------- one writer a command


def _configure(dialect: Dialect, command: ConfigureSession) -> dict[str, object]:
    try:
        session = _SESSIONS[dialect](command.options)
    except KeyError:
        raise LocalProtocolError(
            f"realtime protocol: no session carries {command.options.audio}"
        ) from None
    return {"type": "session.update", "session": session}


def _commit(_dialect: Dialect, _command: CommitInput) -> dict[str, object]:
    return {"type": "input_audio_buffer.commit"}


def _add_message(dialect: Dialect, command: AddMessage) -> dict[str, object]:
    kind = "input_text"
    if command.role == "assistant":
        kind = "output_text" if dialect == "ga" else "text"
    content = [{"type": kind, "text": command.text}]
    item = {"type": "message", "role": command.role, "content": content}
    return {"type": "conversation.item.create", "item": item}


def _create_response(_dialect: Dialect, command: CreateResponse) -> dict[str, object]:
    if not command.instructions:
        return {"type": "response.create"}
    return {"type": "response.create", "response": {"instructions": command.instructions}}


def _cancel(_dialect: Dialect, command: CancelResponse) -> dict[str, object]:
    if not command.response_id:
        return {"type": "response.cancel"}
    return {"type": "response.cancel", "response_id": command.response_id}


def _truncate(_dialect: Dialect, command: TruncateItem) -> dict[str, object]:
    return {
        "type": "conversation.item.truncate",
        "item_id": command.item_id,
        "content_index": command.content_index,
        "audio_end_ms": command.audio_end_ms,
    }


def _answer_function(_dialect: Dialect, command: SendFunctionOutput) -> dict[str, object]:
    item = {
        "type": "function_call_output",
        "call_id": command.call_id,
        "output": command.output,
    }
    return {"type": "conversation.item.create", "item": item}


_WRITERS: Mapping[type[Any], Callable[[Dialect, Any], dict[str, object]]] = {
    ConfigureSession: _configure,
    CommitInput: _commit,
    AddMessage: _add_message,
    CreateResponse: _create_response,
    CancelResponse: _cancel,
    TruncateItem: _truncate,
    SendFunctionOutput: _answer_function,
}


class RealtimeProtocol:
    """One session's translator; it opens no socket and reads no clock.

    Args:
        dialect: "ga" (``/openai/v1/realtime``, OpenAI) or "preview" (``api-version=...``).
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect = dialect
        self._sent = 0
        self._session_update = ""

    def receive(self, message: str | bytes) -> list[RealtimeEvent]:
        """Turn one server message into events; never raises, whatever the message holds.

        Returns:
            The events in order; [] for known events that tell us nothing. What cannot be read
            is one ``MessageRejected`` of kind bad_json, bad_message, bad_base64, empty or
            unknown_event. A delta's odd byte is passed on as it is.
        """
        try:
            frame = _decode_frame(message)
        except msgspec.ValidationError as error:
            return _set_aside(message, error)
        except _UNREADABLE as error:
            return [MessageRejected("bad_json", str(error)[:_DETAIL_CHARS])]
        if isinstance(frame, _Error):
            return [frame.event(is_about_session=self._is_about_session(frame.error))]
        return frame.events()

    def send(self, command: RealtimeCommand) -> list[bytes]:
        """Turn one command into client messages, each JSON text in UTF-8.

        Returns:
            [] for what is no message: dialling, closing, an append of nothing.

        Raises:
            LocalProtocolError: the API cannot carry the session's audio format.
        """
        # The hot path: fifty of these a second, spliced rather than encoded.
        if isinstance(command, AppendAudio):
            audio = binascii.b2a_base64(command.payload, newline=False)
            return [b"".join((_APPEND, audio, b'"}'))] if audio else []
        if isinstance(command, DialRealtime | CloseRealtime):
            return []
        return [self._encode(_WRITERS[type(command)](self._dialect, command))]

    def _encode(self, members: dict[str, object]) -> bytes:
        self._sent += 1
        event_id = f"{members['type']}_{self._sent}"
        if members["type"] == "session.update":
            self._session_update = event_id
        return msgspec.json.encode({**members, "event_id": event_id})

    def _is_about_session(self, error: _ErrorBody) -> bool:
        is_answer = bool(error.event_id) and error.event_id == self._session_update
        return is_answer or (error.param or "").partition(".")[0] == "session"
