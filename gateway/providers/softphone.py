"""The softphone page: a browser that speaks like a carrier, in JSON with mu-law audio.

The page's script is ``gateway/web/static/softphone.js``. Its calls come over the operations
listener, behind the login there; the public listener does not know this door.

Page to gateway, one JSON object a message, ``event`` says which:
    start    ``{"start": {"callId", "agent", "overrides": {...}}}``, once, first
    media    ``{"media": {"payload": base64 of 8 kHz mu-law, 20 ms as a rule}}``
    mark     ``{"mark": {"name"}}``: everything sent before this mark was played, or cleared
    dtmf     ``{"dtmf": {"digit"}}``
    stop     the caller hangs up
Gateway to page: ``media``, ``mark`` (same members), ``clear`` (drop what was not played, and send
back the marks that are out), ``hangup``.
"""

import base64
import re
from typing import ClassVar

import msgspec

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
    ProviderEvent,
    SendMark,
)
from gateway.providers import Capabilities, HttpReply, HttpRequest, IncomingCall, StatusReport
from gateway.providers.wire import Reader, clean, rejected

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AGENT = re.compile(r"[a-z0-9_-]{0,32}")
_MARK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,16}")
_DIGITS = frozenset("0123456789*#ABCD")
_CLEAR = '{"event":"clear"}'
_HANG_UP = '{"event":"hangup"}'


# ------------------------------------------------------------- the door


class SoftphoneDoor:
    """Makes streams for the operations listener; on the public one nothing opens it."""

    name: ClassVar[str] = "softphone"
    is_public: ClassVar[bool] = False

    def __init__(self) -> None:
        self.subprotocols: tuple[str, ...] = ()
        self.needs_token = False

    def verify(self, request: HttpRequest) -> None:  # noqa: ARG002  # nothing in it would help
        """Let nobody in: there is no proof that a public request could bring.

        Raises:
            AuthRejected: kind "missing", always.
        """
        raise AuthRejected("missing", "the softphone has no public entrance")

    def incoming_call(self, request: HttpRequest) -> IncomingCall | None:  # noqa: ARG002  # as above
        """There is no webhook."""
        return None

    def answer(
        self,
        call: IncomingCall,  # noqa: ARG002  # as above
        media_url: str,  # noqa: ARG002
        status_url: str,  # noqa: ARG002
        token: str,  # noqa: ARG002
    ) -> HttpReply:
        """Nothing to answer with."""
        return HttpReply(404, "text/plain", "no webhook\n")

    def refuse(self, reason: str) -> HttpReply:
        """The words for a call that is turned away; reason as in ``Door.refuse``."""
        return HttpReply(503, "text/plain", f"{reason}\n")

    def status(self, request: HttpRequest) -> StatusReport | None:  # noqa: ARG002  # as above
        """There are no callbacks."""
        return None

    def connect(self, upgrade: HttpRequest) -> "SoftphoneStream":  # noqa: ARG002  # as above
        """A new stream for one page."""
        return SoftphoneStream()


# ------------------------------------------------------------- messages on the wire


_Value = str | int | float | bool | None


class _StartBody(msgspec.Struct, rename="camel"):
    call_id: str
    agent: str = ""
    # Checked where agents are known; here it is any object of values and of tables of values.
    overrides: dict[str, _Value | dict[str, _Value]] = {}


class _Start(msgspec.Struct, tag_field="event", tag="start"):
    start: _StartBody


class _MediaBody(msgspec.Struct):
    payload: bytes


class _Media(msgspec.Struct, tag_field="event", tag="media"):
    media: _MediaBody


class _MarkBody(msgspec.Struct):
    name: str


class _Mark(msgspec.Struct, tag_field="event", tag="mark"):
    mark: _MarkBody


class _DtmfBody(msgspec.Struct):
    digit: str


class _Dtmf(msgspec.Struct, tag_field="event", tag="dtmf"):
    dtmf: _DtmfBody


class _Stop(msgspec.Struct, tag_field="event", tag="stop"):
    """The caller hangs up."""


_Message = _Start | _Media | _Mark | _Dtmf | _Stop
_READER: Reader[_Message] = Reader(
    msgspec.json.Decoder(_Message), frozenset({"start", "media", "mark", "dtmf", "stop"})
)
_encode = msgspec.json.Encoder(order="deterministic").encode


# ------------------------------------------------------------- the stream


class SoftphoneStream:
    """One page's call; audio is 8 kHz mu-law both ways."""

    name: ClassVar[str] = "softphone"
    caps = Capabilities(
        mark=True,
        clear=True,
        status=False,
        clear_echoes_marks=True,
        lead_ms=5000,
        frame_ms=20,
        max_message_bytes=8000,
    )

    def __init__(self) -> None:
        self._has_started = False
        self._is_open = False

    def receive(self, message: str | bytes) -> list[ProviderEvent]:
        """Turn one message into events."""
        if isinstance(message, bytes):
            return [rejected("bad_message", "binary message")]
        wire = _READER.read(message)
        if isinstance(wire, MessageRejected):
            return [wire]
        if isinstance(wire, _Start):
            return [self._start(wire.start)]
        if not self._is_open:
            return [rejected("out_of_state", str(wire.__struct_config__.tag))]
        return [self._receive_open(wire)]

    def _receive_open(self, wire: _Media | _Mark | _Dtmf | _Stop) -> ProviderEvent:
        if isinstance(wire, _Media):
            payload = wire.media.payload
            return AudioReceived(payload) if payload else rejected("empty", "media")
        if isinstance(wire, _Mark):
            return _mark(wire.mark.name)
        if isinstance(wire, _Dtmf):
            return _dtmf(wire.dtmf.digit)
        self._is_open = False
        return CallStopped()

    def _start(self, body: _StartBody) -> ProviderEvent:
        if self._has_started:
            return rejected("duplicate_start", "start")
        if not _ID.fullmatch(body.call_id):
            return rejected("bad_message", "start: callId")
        if not _AGENT.fullmatch(body.agent):
            return rejected("bad_message", "start: agent")
        self._has_started = self._is_open = True
        return CallStarted(
            provider_call_id=body.call_id,
            stream_id=body.call_id,
            audio_in=ULAW_8K,
            audio_out=ULAW_8K,
            parameters={"agent": body.agent, "overrides": clean(_encode(body.overrides).decode())},
        )

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """Turn one command into messages; nothing before the start or after the stop."""
        if not self._is_open:
            return []
        if type(command) is PlayAudio:
            return _media(command.payload, self.caps.max_message_bytes)
        if type(command) is SendMark and _MARK_NAME.fullmatch(command.name):
            return [f'{{"event":"mark","mark":{{"name":"{command.name}"}}}}']
        if isinstance(command, ClearAudio):
            return [_CLEAR]
        return [_HANG_UP] if isinstance(command, HangUp) else []

    def hang_up(self) -> HttpRequest | None:
        """The page is told in band."""
        return None


def _media(payload: bytes, step: int) -> list[str | bytes]:
    # Spliced, not serialised: base64 needs no escapes.
    return [
        '{"event":"media","media":{"payload":"'
        + base64.b64encode(payload[start : start + step]).decode("ascii")
        + '"}}'
        for start in range(0, len(payload), step)
    ]


def _mark(name: str) -> MarkReached | MessageRejected:
    if not _MARK_NAME.fullmatch(name):
        return rejected("bad_message", "mark: not a name of ours")
    return MarkReached(name)


def _dtmf(digit: str) -> DtmfReceived | MessageRejected:
    return DtmfReceived(digit) if digit in _DIGITS else rejected("bad_message", "dtmf: no key")
