"""Twilio Media Streams: signed webhooks, TwiML answers, JSON messages with mu-law audio.

Facts from the vendor's pages below twilio.com/docs, read 2026-11: usage/webhooks/webhooks-security,
voice/twiml/stream, voice/media-streams/websocket-messages, voice/api/call-resource.
"""

import base64
import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree as ET

import msgspec

from gateway.errors import AuthRejected
from gateway.events import (
    ULAW_8K,
    AudioLost,
    AudioReceived,
    CallStarted,
    CallStopped,
    ClearAudio,
    DtmfReceived,
    MarkReached,
    MessageRejected,
    PlayAudio,
    ProviderCommand,
    ProviderEvent,
    SendMark,
)
from gateway.providers import Capabilities, HttpReply, HttpRequest, IncomingCall, StatusReport
from gateway.providers.wire import Reader, clean, rejected

_RESERVED = frozenset({"token", "from", "to"})
_FRAME_MS = 20
# A counter is believed this far either way (2 s of frames); beyond, it has started afresh.
_MAX_STEP = 100
_MAX_PARAMETERS = 32
# Vendor's limit on name plus value of one <Parameter>.
_MAX_PARAMETER_CHARS = 500
_MAX_TEXT_CHARS = 128

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MARK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,16}")
_DIGITS = frozenset("0123456789*#ABCD")
# C0 and C1 controls, and what XML 1.0 (section 2.2) has no place for.
_DEFAULT_PORTS = {"https": 443, "http": 80}
_SOCKET_SCHEMES = {"https": "wss", "http": "ws"}


# ------------------------------------------------------------- the door


class TwilioDoor:
    """Checks what Twilio signed, answers its webhooks in TwiML.

    Args:
        public_url: base URL under which Twilio reaches us; never taken from a request.
        auth_tokens: secrets that may have signed, the account's auth token first: that one also
            hangs up. More than one while a token is being rotated.
        insecure: take every request unchecked (loopback and tests).
        api_url: base URL of Twilio's REST interface, a regional one where the account is.
    """

    name: ClassVar[str] = "twilio"
    is_public: ClassVar[bool] = True

    def __init__(
        self,
        public_url: str,
        auth_tokens: tuple[str, ...],
        *,
        insecure: bool = False,
        api_url: str = "https://api.twilio.com",
    ) -> None:
        self.subprotocols: tuple[str, ...] = ()
        self.needs_token = not insecure
        self._is_insecure = insecure
        self._public_url = public_url.rstrip("/")
        self._bases = _with_and_without_port(self._public_url)
        self._keys = tuple(token.encode() for token in auth_tokens if token)
        self._auth_token = auth_tokens[0] if auth_tokens else ""
        self._api_url = api_url.rstrip("/")

    def verify(self, request: HttpRequest) -> None:
        """Check ``X-Twilio-Signature``: HMAC-SHA1 over URL then sorted form fields, in base64.

        The URL is accepted with the port and without, that of an upgrade also with ``wss`` for
        ``https`` and with the trailing slash added or taken away.

        Raises:
            AuthRejected: kind "missing" or "signature".
        """
        if self._is_insecure:
            return
        signature = request.headers.get("x-twilio-signature", "")
        if not signature:
            raise AuthRejected("missing", "no X-Twilio-Signature header")
        if not (_body_matches(request) and self._is_signed(request, signature)):
            raise AuthRejected("signature", "X-Twilio-Signature does not match")

    def _is_signed(self, request: HttpRequest, signature: str) -> bool:
        """Whether any live secret signed any accepted form of the URL."""
        received = _raw(signature)
        fields = "".join(name + value for name, value in sorted(set(request.form)))
        return any(
            hmac.compare_digest(_signature(key, _raw(url + fields)), received)
            for url in self._signed_urls(request)
            for key in self._keys
        )

    def _signed_urls(self, request: HttpRequest) -> Iterator[str]:
        """Every form of the request's URL that Twilio may have signed."""
        if not request.url.startswith(self._public_url):
            return
        tail = request.url[len(self._public_url) :]
        is_upgrade = request.headers.get("upgrade", "").lower() == "websocket"
        tails = _with_and_without_slash(tail) if is_upgrade else (tail,)
        for base in self._bases:
            yield from (base + tail for tail in tails)
            if is_upgrade:
                yield from (_socket_url(base) + tail for tail in tails)

    def incoming_call(self, request: HttpRequest) -> IncomingCall | None:
        """Read the answer webhook, a form (POST) or a query (GET).

        The query of a POST is what the operator wrote behind the webhook's URL; it becomes the
        call's ``parameters``.
        """
        query = _query(request.url)
        fields = dict(request.form) if request.method == "POST" else query
        call_id = fields.get("CallSid", "")
        if not _ID.fullmatch(call_id):
            return None
        return IncomingCall(
            call_id,
            _text(fields.get("From", "")),
            _text(fields.get("To", "")),
            _free_parameters(query) if request.method == "POST" else {},
        )

    def answer(self, call: IncomingCall, media_url: str, status_url: str, token: str) -> HttpReply:
        """Connect the call to our media WebSocket; hang up once that is over.

        The stream's URL must not have a query (error 31920), so the token travels as a parameter.
        """
        response = ET.Element("Response")
        stream = ET.SubElement(ET.SubElement(response, "Connect"), "Stream", url=clean(media_url))
        if status_url:
            stream.set("statusCallback", clean(status_url))
        for name, value in _answer_parameters(call, token):
            ET.SubElement(stream, "Parameter", name=name, value=value)
        ET.SubElement(response, "Hangup")
        return _twiml(response)

    def refuse(self, reason: str) -> HttpReply:
        """Turn the call away before it is answered: busy, or no such number."""
        response = ET.Element("Response")
        reject = ET.SubElement(response, "Reject")
        if reason != "unknown_number":
            reject.set("reason", "busy")
        return _twiml(response)

    def status(self, request: HttpRequest) -> StatusReport | None:
        """Read a stream's status callback (``StreamEvent``) or a call's (``CallStatus``)."""
        fields = dict(request.form)
        call_id = fields.get("CallSid", "")
        if not _ID.fullmatch(call_id):
            return None
        kind = _STATUS_KINDS.get(fields.get("StreamEvent", ""), "other")
        detail = fields.get("StreamError") or fields.get("CallStatus") or ""
        return StatusReport(call_id, kind, _text(detail))

    def connect(self, upgrade: HttpRequest) -> "TwilioStream":  # noqa: ARG002 - nothing in it is needed
        """A new stream for one media WebSocket."""
        return TwilioStream(self._auth_token, self._api_url)


_STATUS_KINDS = {"stream-started": "started", "stream-stopped": "stopped", "stream-error": "error"}


def _raw(text: str) -> bytes:
    # A peer's text may hold half a surrogate pair: it must compare as unequal, not raise.
    return text.encode("utf-8", "surrogatepass")


def _signature(key: bytes, signed: bytes) -> bytes:
    return base64.b64encode(hmac.digest(key, signed, "sha1"))


def _with_and_without_port(base_url: str) -> tuple[str, ...]:
    """Twilio signs sometimes with the port, sometimes without."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 443)
    netlocs = dict.fromkeys((parts.netloc, host, f"{host}:{port}"))
    return tuple(f"{parts.scheme}://{netloc}{parts.path}" for netloc in netlocs)


def _with_and_without_slash(tail: str) -> tuple[str, str]:
    """Both spellings of a path: which of them an upgrade is signed with is not documented."""
    path, mark, query = tail.partition("?")
    bare = path.removesuffix("/")
    return bare + mark + query, bare + "/" + mark + query


def _socket_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return _SOCKET_SCHEMES.get(scheme, scheme) + separator + rest


def _body_matches(request: HttpRequest) -> bool:
    """A body that is no form is covered by its SHA-256, which stands in the signed URL."""
    expected = _query(request.url).get("bodySHA256")
    if expected is None or request.form:
        return True
    digest = hashlib.sha256(request.body).hexdigest()
    return hmac.compare_digest(digest.encode(), _raw(expected.lower()))


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))


def _text(text: str) -> str:
    """A peer's short text, safe to log or to say."""
    return clean(text)[:_MAX_TEXT_CHARS]


def _free_parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that are ours to pass on: not reserved, not too long, not too many."""
    kept = (
        (clean(name), clean(value)) for name, value in parameters.items() if isinstance(value, str)
    )
    fitting = [pair for pair in kept if _fits(*pair)]
    return dict(fitting[:_MAX_PARAMETERS])


def _fits(name: str, value: str) -> bool:
    return bool(name) and name not in _RESERVED and len(name) + len(value) <= _MAX_PARAMETER_CHARS


def _answer_parameters(call: IncomingCall, token: str) -> Iterable[tuple[str, str]]:
    reserved = {"token": token, "from": call.from_number, "to": call.to_number}
    for name, value in reserved.items():
        text = clean(value)
        if text and len(name) + len(text) <= _MAX_PARAMETER_CHARS:
            yield name, text
    yield from _free_parameters(call.parameters).items()


def _twiml(response: ET.Element) -> HttpReply:
    body = ET.tostring(response, encoding="utf-8", xml_declaration=True)
    return HttpReply(200, "application/xml", body.decode())


# ------------------------------------------------------------- messages on the wire
#
# Numbers come as decimal strings, here and there as numbers; the decoder takes both.


class _Wire(msgspec.Struct, tag_field="event", rename="camel"):
    """What every message may carry."""

    stream_sid: str = ""
    sequence_number: int | None = None


class _Connected(_Wire, tag="connected"):
    """The socket is open; says nothing we need."""


class _MediaBody(msgspec.Struct):
    # Decoded with the JSON in one pass: as strict as binascii and more than twice as fast.
    payload: bytes
    chunk: int | None = None
    track: str = "inbound"


class _Media(_Wire, tag="media", kw_only=True):
    media: _MediaBody


class _MediaFormat(msgspec.Struct, rename="camel"):
    encoding: str = "audio/x-mulaw"
    sample_rate: int = 8000
    channels: int = 1

    def describe(self) -> str:
        """The offending values, for a log."""
        return f"{self.encoding[:40]} {self.sample_rate} Hz, {self.channels} channels"


class _StartBody(msgspec.Struct, rename="camel"):
    call_sid: str
    stream_sid: str = ""
    account_sid: str = ""
    media_format: _MediaFormat = msgspec.field(default_factory=_MediaFormat)
    custom_parameters: dict[str, Any] | None = None


class _Start(_Wire, tag="start", kw_only=True):
    start: _StartBody


class _MarkBody(msgspec.Struct):
    name: str


class _Mark(_Wire, tag="mark", kw_only=True):
    mark: _MarkBody


class _DtmfBody(msgspec.Struct):
    digit: str


class _Dtmf(_Wire, tag="dtmf", kw_only=True):
    dtmf: _DtmfBody


class _Stop(_Wire, tag="stop"):
    """The stream is over."""


_Message = _Connected | _Media | _Start | _Mark | _Dtmf | _Stop
_DECODER: msgspec.json.Decoder[_Message] = msgspec.json.Decoder(_Message, strict=False)
_READER = Reader(_DECODER, frozenset({"connected", "media", "start", "mark", "dtmf", "stop"}))
_SUPPORTED_FORMAT = _MediaFormat()


# ------------------------------------------------------------- the stream


@dataclass(slots=True)
class _Counter:
    """The last value seen of a number that Twilio counts up."""

    last: int | None = None

    def step(self, number: int | None) -> int | None:
        """How far ``number`` is ahead: 1 is the next, below 1 was seen, None tells nothing."""
        last = self.last
        if number is None:
            return None
        step = 1 if last is None else number - last
        if step < -_MAX_STEP:
            step = 1
        if step > 0:
            self.last = number
        return step


class TwilioStream:
    """One call's media stream.

    Args:
        auth_token: the account's auth token, for the hang-up; "" = there is none.
        api_url: base URL of Twilio's REST interface.
    """

    name: ClassVar[str] = "twilio"
    caps = Capabilities(
        mark=True,
        clear=True,
        status=False,
        clear_echoes_marks=True,
        lead_ms=5000,
        frame_ms=_FRAME_MS,
        max_message_bytes=8000,
    )

    def __init__(self, auth_token: str = "", api_url: str = "https://api.twilio.com") -> None:
        self._auth_token = auth_token
        self._api_url = api_url
        self._stream_id = ""
        self._media_head = self._mark_head = ""
        self._call_id = ""
        self._account_id = ""
        # The stream's id, from its start to its stop.
        self._open_stream = ""
        self._chunk = _Counter()
        self._sequence = _Counter()

    def receive(self, message: str | bytes) -> list[ProviderEvent]:
        """Turn one message into events; audio is 8 kHz mu-law, 20 ms a message as a rule."""
        if isinstance(message, bytes):
            return [rejected("bad_message", "binary message")]
        wire = _READER.read(message)
        if isinstance(wire, _Media):
            return self._receive_media(wire)
        if isinstance(wire, MessageRejected):
            return [wire]
        if isinstance(wire, _Connected):
            return []
        if isinstance(wire, _Start):
            return [self._start(wire)]
        return [self._receive_other(wire)]

    def _is_open(self, stream_id: str) -> bool:
        """Whether a message of this stream has its place now."""
        return bool(self._open_stream) and stream_id in {"", self._open_stream}

    def _receive_media(self, wire: _Media) -> list[ProviderEvent]:
        if not wire.stream_sid == self._open_stream != "" and not self._is_open(wire.stream_sid):
            return [rejected("out_of_state", "media")]
        body = wire.media
        if body.track != "inbound":
            return []
        if not body.payload:
            return [rejected("empty", "media")]
        chunk_step = self._chunk.step(body.chunk)
        sequence_step = self._sequence.step(wire.sequence_number)
        if chunk_step == 1:
            # The usual case; whatever else counts in the sequence, no frame is missing.
            return [AudioReceived(body.payload)]
        return self._out_of_order(wire, chunk_step, sequence_step)

    def _out_of_order(
        self, wire: _Media, chunk_step: int | None, sequence_step: int | None
    ) -> list[ProviderEvent]:
        """Hold a frame against both counters: one alone must neither mute nor stretch a call."""
        payload = wire.media.payload
        steps = [step for step in (chunk_step, sequence_step) if step is not None]
        if max(steps, default=1) < 1:
            return [rejected("duplicate", f"chunk {wire.media.chunk}")]
        # Messages other than media count in the sequence, so only a chunk can be missed.
        lost = min(min(steps) - 1, _MAX_STEP) if chunk_step is not None else 0
        if lost > 0:
            return [AudioLost(lost * _FRAME_MS), AudioReceived(payload)]
        return [AudioReceived(payload)]

    def _start(self, wire: _Start) -> ProviderEvent:
        body = wire.start
        stream_id = wire.stream_sid or body.stream_sid
        if self._stream_id:
            return rejected("duplicate_start", "start")
        if not (_ID.fullmatch(stream_id) and _ID.fullmatch(body.call_sid)):
            return rejected("bad_message", "start: streamSid or callSid")
        if body.stream_sid not in {"", stream_id}:
            return rejected("bad_message", "start: two streamSids")
        if body.media_format != _SUPPORTED_FORMAT:
            return rejected("media_format", body.media_format.describe())
        self._stream_id = self._open_stream = stream_id
        # Spliced, not serialised: the stream id is checked, base64 and mark names need no escapes.
        self._media_head = f'{{"event":"media","streamSid":"{stream_id}","media":{{"payload":"'
        self._mark_head = f'{{"event":"mark","streamSid":"{stream_id}","mark":{{"name":"'
        self._call_id = body.call_sid
        self._account_id = body.account_sid if _ID.fullmatch(body.account_sid) else ""
        return self._call_started(body.custom_parameters or {})

    def _call_started(self, parameters: Mapping[str, Any]) -> CallStarted:
        reserved = {
            name: clean(value)[:_MAX_PARAMETER_CHARS]
            for name in _RESERVED
            if isinstance(value := parameters.get(name), str)
        }
        return CallStarted(
            provider_call_id=self._call_id,
            stream_id=self._stream_id,
            audio_in=ULAW_8K,
            audio_out=ULAW_8K,
            from_number=_text(reserved.get("from", "")),
            to_number=_text(reserved.get("to", "")),
            token=reserved.get("token", ""),
            parameters=_free_parameters(parameters),
        )

    def _receive_other(self, wire: _Mark | _Dtmf | _Stop) -> ProviderEvent:
        if not self._is_open(wire.stream_sid):
            return rejected("out_of_state", str(wire.__struct_config__.tag))
        if isinstance(wire, _Mark):
            return _mark(wire.mark.name)
        if isinstance(wire, _Dtmf):
            return _dtmf(wire.dtmf.digit)
        self._open_stream = ""
        return CallStopped()

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """Turn one command into messages; nothing before the start or after the stop."""
        if not self._open_stream:
            return []
        if type(command) is PlayAudio:
            return self._media_messages(command.payload)
        if type(command) is SendMark and _MARK_NAME.fullmatch(command.name):
            return [f'{self._mark_head}{command.name}"}}}}']
        if isinstance(command, ClearAudio):
            return [f'{{"event":"clear","streamSid":"{self._stream_id}"}}']
        return []

    def _media_messages(self, payload: bytes) -> list[str | bytes]:
        step = self.caps.max_message_bytes
        return [
            self._media_head
            + b2a_base64(payload[start : start + step], newline=False).decode("ascii")
            + '"}}'
            for start in range(0, len(payload), step)
        ]

    def hang_up(self) -> HttpRequest | None:
        """``POST Calls/{CallSid}.json`` with ``Status=completed``; a 404 means it had ended.

        None before the start and without an auth token or account id. The request carries the
        auth token: not for any log.
        """
        if not (self._call_id and self._account_id and self._auth_token):
            return None
        credentials = base64.b64encode(f"{self._account_id}:{self._auth_token}".encode())
        calls = f"{self._api_url}/2010-04-01/Accounts/{self._account_id}/Calls"
        return HttpRequest(
            "POST",
            f"{calls}/{self._call_id}.json",
            {"authorization": f"Basic {credentials.decode()}"},
            (("Status", "completed"),),
        )


def _mark(name: str) -> MarkReached | MessageRejected:
    if not _MARK_NAME.fullmatch(name):
        return rejected("bad_message", "mark: not a name of ours")
    return MarkReached(name)


def _dtmf(digit: str) -> DtmfReceived | MessageRejected:
    if digit.upper() not in _DIGITS:
        return rejected("bad_message", "dtmf: no key")
    return DtmfReceived(digit.upper())
