"""Asterisk's chan_websocket: binary audio frames, control words in JSON or plain text.

Facts from asterisk/asterisk ``channels/chan_websocket.c`` (branch 22, read 2026-11) and from calls
recorded with 22.10.1; versions are named where they matter.
"""

import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

import msgspec

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
from gateway.providers import Capabilities, HttpReply, HttpRequest, IncomingCall, StatusReport
from gateway.providers.wire import Reader, clean, rejected

_RESERVED = frozenset({"token", "from", "to"})
_MAX_PARAMETERS = 64
_MAX_PARAMETER_CHARS = 500
_MAX_TEXT_CHARS = 128
_MAX_ID_CHARS = 64
# A frame that trickles through a proxy in more than ten reads ends the call: keep them small.
_MAX_MESSAGE_BYTES = 8000
# The PBX holds 1000 frames, one message more may overshoot that.
_MAX_QUEUE_FRAMES = 10_000
_MAX_FRAME_MS = 60
_EARLY_MESSAGES = 50
_EARLY_MS = 1000

_MARK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,16}")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_DIGITS = frozenset("0123456789*#ABCD")

_FORMATS: Mapping[str, AudioFormat] = {
    "ulaw": AudioFormat("ulaw", 8000),
    "alaw": AudioFormat("alaw", 8000),
    "slin": AudioFormat("pcm", 8000),
    "slin16": AudioFormat("pcm", 16000),
    "slin24": AudioFormat("pcm", 24000),
    "slin48": AudioFormat("pcm", 48000),
}
_SILENCE = {"pcm": b"\x00", "ulaw": b"\xff", "alaw": b"\xd5"}


# ------------------------------------------------------------- the door


class AsteriskDoor:
    """Lets in who knows the password of ``websocket_client.conf``.

    Args:
        username: the section's ``username``.
        password: the section's ``password``; with an empty one nobody is let in.
        insecure: take every upgrade unchecked (loopback and tests).
    """

    name: ClassVar[str] = "asterisk"
    is_public: ClassVar[bool] = True

    def __init__(self, username: str, password: str, *, insecure: bool = False) -> None:
        self.subprotocols: tuple[str, ...] = ("media",)
        self.needs_token = False
        self._is_insecure = insecure
        self._credentials = f"{username}:{password}".encode() if password else None

    def verify(self, request: HttpRequest) -> None:
        """Check the upgrade's HTTP Basic credentials (RFC 7617).

        Raises:
            AuthRejected: kind "missing" or "signature".
        """
        if self._is_insecure:
            return
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            raise AuthRejected("missing", "no Basic credentials")
        if not self._is_known(_credentials(encoded.strip())):
            raise AuthRejected("signature", "wrong username or password")

    def _is_known(self, credentials: bytes) -> bool:
        return self._credentials is not None and hmac.compare_digest(credentials, self._credentials)

    def incoming_call(self, request: HttpRequest) -> IncomingCall | None:  # noqa: ARG002 - contract
        """Asterisk has no answer webhook: the dialplan answers."""
        return None

    def answer(
        self,
        call: IncomingCall,  # noqa: ARG002 - contract
        media_url: str,  # noqa: ARG002 - contract
        status_url: str,  # noqa: ARG002 - contract
        token: str,  # noqa: ARG002 - contract
    ) -> HttpReply:
        """There is nothing to answer."""
        return HttpReply(404, "text/plain", "Asterisk connects to the media address itself.\n")

    def refuse(self, reason: str) -> HttpReply:
        """Refuse the upgrade; the dialplan sees CHANUNAVAIL."""
        return HttpReply(404 if reason == "unknown_number" else 503, "text/plain", f"{reason}\n")

    def status(self, request: HttpRequest) -> StatusReport | None:  # noqa: ARG002 - contract
        """Asterisk has no status callback."""
        return None

    def connect(self, upgrade: HttpRequest) -> "AsteriskStream":
        """A new stream; the upgrade's query (dial option ``v(...)``) becomes parameters."""
        query = parse_qsl(upgrade.url.partition("?")[2], keep_blank_values=True)
        return AsteriskStream(dict(query))


def _credentials(encoded: str) -> bytes:
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        return b""


# ------------------------------------------------------------- messages on the wire


class _Message(msgspec.Struct):
    """The fields of all control events; each event has its own few."""

    event: str
    channel: str = ""
    channel_id: str = ""
    format: str = ""
    optimal_frame_size: int | None = None
    ptime: int | None = None
    channel_variables: dict[str, Any] | None = None
    digit: str = ""
    queue_length: int = -1
    correlation_id: str = ""
    error_text: str = ""


_DECODER = msgspec.json.Decoder(_Message, strict=False)
# Events with free text behind the word, and the field it becomes.
_FREE_TEXT = {
    "MEDIA_MARK_PROCESSED": "correlation_id",
    "MEDIA_BUFFERING_COMPLETED": "correlation_id",
}


def _decode_plain(message: str) -> _Message | MessageRejected:
    """``EVENT key:value ...``: a value may hold colons, the last one of ERROR also spaces."""
    event, _, rest = message.strip().partition(" ")
    rest, _, error_text = rest.partition("error_text:")
    fields = dict(_plain_field(event, word) for word in rest.split())
    fields |= {"event": event, "error_text": error_text}
    try:
        return msgspec.convert(fields, _Message, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:
        return rejected("bad_message", str(error))


def _plain_field(event: str, word: str) -> tuple[str, str]:
    key, colon, value = word.partition(":")
    return (key, value) if colon else (_FREE_TEXT.get(event, ""), word)


def _safe_id(text: str) -> str:
    """A name of the PBX that may stand in logs and file names."""
    return _NOT_IN_ID.sub("-", text).lstrip(".-")[:_MAX_ID_CHARS]


def _parameters(variables: Mapping[str, Any]) -> dict[str, str]:
    """Text parameters that are not too long and not too many; ``__`` marks an inherited one."""
    kept = (
        (clean(name.removeprefix("__")), clean(value))
        for name, value in variables.items()
        if isinstance(value, str) and len(name) + len(value) <= _MAX_PARAMETER_CHARS
    )
    return dict([pair for pair in kept if pair[0]][:_MAX_PARAMETERS])


@dataclass(frozen=True, slots=True)
class _Frames:
    """How the channel cuts its audio."""

    format: AudioFormat
    size_bytes: int

    @property
    def duration_ms(self) -> int:
        """One frame's time."""
        return self.size_bytes // self.format.bytes_per_ms

    def pad(self, payload: bytes) -> bytes:
        """Whole frames only: the PBX drops a tail (22.10 and before) unless told to buffer."""
        return payload + _SILENCE[self.format.encoding] * (-len(payload) % self.size_bytes)

    @property
    def message_bytes(self) -> int:
        """The largest message of whole frames."""
        return _MAX_MESSAGE_BYTES // self.size_bytes * self.size_bytes


def _frames(message: _Message) -> _Frames | MessageRejected:
    """Read the audio format of a MEDIA_START; ``ptime`` is said since 20.18, 22.8, 23.2."""
    audio = _FORMATS.get(message.format)
    if audio is None:
        return rejected("media_format", message.format)
    ptime_ms = 20 if message.ptime is None else message.ptime
    size_bytes = message.optimal_frame_size
    if size_bytes is None:
        size_bytes = ptime_ms * audio.bytes_per_ms
    if not 1 <= ptime_ms <= _MAX_FRAME_MS or size_bytes != ptime_ms * audio.bytes_per_ms:
        return rejected("bad_message", f"MEDIA_START: {size_bytes} bytes in {ptime_ms} ms")
    return _Frames(audio, size_bytes)


# ------------------------------------------------------------- the stream


class AsteriskStream:
    """One channel's media WebSocket; ``caps`` are final once ``CallStarted`` is out.

    Args:
        query: the upgrade's query parameters.
    """

    name: ClassVar[str] = "asterisk"

    def __init__(self, query: Mapping[str, str] | None = None) -> None:
        self.caps = Capabilities(
            mark=True,
            clear=True,
            status=True,
            clear_echoes_marks=False,
            lead_ms=2000,
            frame_ms=20,
            max_message_bytes=_MAX_MESSAGE_BYTES,
        )
        self._query = dict(query or {})
        self._style: Literal["json", "plain"] | None = None
        self._frames: _Frames | None = None
        self._early: list[bytes] = []

    # ---- from the PBX

    def receive(self, message: str | bytes) -> list[ProviderEvent]:
        """Turn one message into events: binary is caller audio, text is control."""
        if isinstance(message, bytes):
            return self._receive_audio(message)
        wire = self._decode(message)
        if isinstance(wire, MessageRejected):
            return [wire]
        if wire.event == "MEDIA_START":
            return self._start(wire)
        return self._receive_control(wire)

    def _decode(self, message: str) -> _Message | MessageRejected:
        """Decode in the style of the first message; which it is, the dialplan decides."""
        style = self._style or ("plain" if message.startswith("MEDIA_START") else "json")
        wire = _READER.read(message) if style == "json" else _decode_plain(message)
        if not isinstance(wire, MessageRejected):
            self._style = style
        return wire

    def _receive_audio(self, payload: bytes) -> list[ProviderEvent]:
        if self._frames is None:
            return self._keep_early(payload)
        if not payload:
            # The PBX's jitter buffer marks a lost frame with an empty message.
            return [AudioLost(self._frames.duration_ms)]
        return [AudioReceived(payload)]

    def _keep_early(self, payload: bytes) -> list[ProviderEvent]:
        """Audio can overtake MEDIA_START (asterisk#1712); keep a second of it."""
        if len(self._early) >= _EARLY_MESSAGES or len(payload) > _MAX_MESSAGE_BYTES:
            return [rejected("out_of_state", "audio before MEDIA_START")]
        self._early.append(payload)
        return []

    def _start(self, wire: _Message) -> list[ProviderEvent]:
        if self._frames is not None:
            return [rejected("duplicate_start", "MEDIA_START")]
        frames = _frames(wire)
        if isinstance(frames, MessageRejected):
            return [frames]
        call_id = _safe_id(wire.channel_id) or _safe_id(wire.channel)
        if not call_id:
            return [rejected("bad_message", "MEDIA_START: no channel")]
        self._frames = frames
        # MARK_MEDIA came with the same releases as channel_id; older ones never answer a mark.
        self.caps = replace(
            self.caps,
            mark=bool(wire.channel_id),
            frame_ms=frames.duration_ms,
            max_message_bytes=frames.message_bytes,
        )
        return [self._call_started(wire, call_id, frames.format), *self._early_audio(frames)]

    def _call_started(self, wire: _Message, call_id: str, audio: AudioFormat) -> CallStarted:
        parameters = _parameters(wire.channel_variables or {}) | _parameters(self._query)
        reserved = {name: parameters.pop(name, "") for name in _RESERVED}
        return CallStarted(
            provider_call_id=call_id,
            stream_id=_safe_id(wire.channel) or call_id,
            audio_in=audio,
            audio_out=audio,
            from_number=reserved["from"][:_MAX_TEXT_CHARS],
            to_number=reserved["to"][:_MAX_TEXT_CHARS],
            token=reserved["token"],
            parameters=parameters,
        )

    def _early_audio(self, frames: _Frames) -> list[ProviderEvent]:
        payload = b"".join(self._early)[: _EARLY_MS * frames.format.bytes_per_ms]
        self._early.clear()
        return [AudioReceived(payload)] if payload else []

    def _receive_control(self, wire: _Message) -> list[ProviderEvent]:
        if wire.event not in _KNOWN_EVENTS:
            return [rejected("unknown_event", wire.event)]
        if wire.event == "ERROR":
            return [rejected("bad_message", wire.error_text)]
        if self._frames is None:
            return [rejected("out_of_state", wire.event)]
        translate = _CONTROL.get(wire.event)
        return [translate(wire, self._frames)] if translate else []

    # ---- to the PBX

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """Turn one command into messages.

        Audio leaves in whole frames, the last one filled up with silence. Control text stays under
        the 128 bytes beyond which Asterisk ignores it: words are fixed, mark names short.
        """
        if isinstance(command, PlayAudio):
            return self._audio_messages(command.payload)
        word = _WORDS.get(type(command))
        if self._style is None or word is None:
            return []
        if isinstance(command, SendMark):
            return self._mark_messages(command.name)
        return [f'{{"command":"{word}"}}' if self._style == "json" else word]

    def _audio_messages(self, payload: bytes) -> list[str | bytes]:
        frames = self._frames
        if frames is None:
            return []
        padded, step = frames.pad(payload), frames.message_bytes
        return [padded[start : start + step] for start in range(0, len(padded), step)]

    def _mark_messages(self, name: str) -> list[str | bytes]:
        if not (self.caps.mark and _MARK_NAME.fullmatch(name)):
            return []
        if self._style == "json":
            return [f'{{"command":"MARK_MEDIA","correlation_id":"{name}"}}']
        return [f"MARK_MEDIA {name}"]

    def hang_up(self) -> HttpRequest | None:
        """None: a hang-up goes in band."""
        return None


_WORDS: Mapping[type[ProviderCommand], str] = {
    SendMark: "MARK_MEDIA",
    ClearAudio: "FLUSH_MEDIA",
    QueryPlayout: "GET_STATUS",
    HangUp: "HANGUP",
}


def _dtmf(wire: _Message, _frames: _Frames) -> ProviderEvent:
    if wire.digit.upper() not in _DIGITS:
        return rejected("bad_message", "DTMF_END: no key")
    return DtmfReceived(wire.digit.upper())


def _mark(wire: _Message, _frames: _Frames) -> ProviderEvent:
    if not _MARK_NAME.fullmatch(wire.correlation_id):
        return rejected("bad_message", "MEDIA_MARK_PROCESSED: not a name of ours")
    return MarkReached(wire.correlation_id)


def _status(wire: _Message, frames: _Frames) -> ProviderEvent:
    if not 0 <= wire.queue_length <= _MAX_QUEUE_FRAMES:
        return rejected("bad_message", "STATUS: queue_length")
    return PlayoutReported(wire.queue_length * frames.duration_ms)


_CONTROL: Mapping[str, Callable[[_Message, _Frames], ProviderEvent]] = {
    "DTMF_END": _dtmf,
    "MEDIA_MARK_PROCESSED": _mark,
    "STATUS": _status,
    "MEDIA_XOFF": lambda _wire, _frames: PlayoutPaused(),
    "MEDIA_XON": lambda _wire, _frames: PlayoutResumed(),
}
# We neither buffer nor ask for a drain report; a PBX that says so all the same is no fault.
_SILENT_EVENTS = frozenset({"QUEUE_DRAINED", "MEDIA_BUFFERING_COMPLETED"})
_KNOWN_EVENTS = frozenset({"MEDIA_START", "ERROR", *_CONTROL, *_SILENT_EVENTS})
_READER = Reader(_DECODER, _KNOWN_EVENTS)
