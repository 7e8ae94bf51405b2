"""Twilio's end of a bidirectional media stream.

Message shapes: twilio.com/docs/voice/media-streams/websocket-messages. What Twilio would warn about
(error 31951: bad JSON, unknown event, extra member, another ``streamSid``) is ignored as it does
and noted in the log as rejected.
"""

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.events import ULAW_8K
from gateway.simulator.line import Log
from gateway.simulator.phone import TWILIO, Phone

# Captured streams number their first frame 155 ms or so, never 0.
_FIRST_TIMESTAMP_MS = 155


@dataclass(frozen=True, slots=True)
class TwilioCall:
    """The identifiers of one call, and the ``<Parameter>`` values that its stream carries."""

    call_sid: str = "CA" + "0" * 32
    stream_sid: str = "MZ" + "0" * 32
    account_sid: str = "AC" + "0" * 32
    parameters: Mapping[str, str] = field(default_factory=dict)


class _Media(msgspec.Struct, forbid_unknown_fields=True):
    payload: str


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _MediaMessage(
    msgspec.Struct, rename="camel", tag_field="event", tag="media", forbid_unknown_fields=True
):
    stream_sid: str
    media: _Media


class _MarkMessage(
    msgspec.Struct, rename="camel", tag_field="event", tag="mark", forbid_unknown_fields=True
):
    stream_sid: str
    mark: _Mark


class _ClearMessage(
    msgspec.Struct, rename="camel", tag_field="event", tag="clear", forbid_unknown_fields=True
):
    stream_sid: str


_Message = _MediaMessage | _MarkMessage | _ClearMessage
_DECODER: msgspec.json.Decoder[_Message] = msgspec.json.Decoder(_Message)


class TwilioLine:
    """One stream, from ``connected`` to ``stop``.

    Args:
        call: Who calls; the identifiers the messages carry.
        jitter_ms: How much audio the phone buffers before it plays.
        started_at_s: The moment the stream begins, on the clock of every ``now``.
    """

    def __init__(self, call: TwilioCall, jitter_ms: float = 0.0, started_at_s: float = 0.0) -> None:
        self.call = call
        self.phone = Phone(TWILIO, jitter_ms, ULAW_8K, started_at_s)
        self.log = Log()
        self.close_code: int | None = None
        self._started_at_s = started_at_s
        self._sequence_number = 0
        self._chunk = 0

    def start(self, now: float) -> list[str | bytes]:
        """``connected``, which has no number, then ``start``, which is number 1."""
        self._started_at_s = now
        connected = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
        return [json.dumps(connected), self._numbered("start", self._start_member())]

    def send_audio(self, payload: bytes, now: float) -> list[str | bytes]:
        """One ``media`` message; ``payload`` is mu-law, normally 160 bytes."""
        self._chunk += 1
        timestamp_ms = int((now - self._started_at_s) * 1000) + _FIRST_TIMESTAMP_MS
        media = {
            "track": "inbound",
            "chunk": str(self._chunk),
            "timestamp": str(timestamp_ms),
            "payload": binascii.b2a_base64(payload, newline=False).decode(),
        }
        return [self._numbered("media", media)]

    def send_dtmf(self, digit: str, now: float) -> list[str | bytes]:
        """One ``dtmf`` message; its track has a name of its own."""
        del now
        return [self._numbered("dtmf", {"track": "inbound_track", "digit": digit})]

    def stop(self, now: float) -> list[str | bytes]:
        """The ``stop`` message."""
        del now
        stop = {"accountSid": self.call.account_sid, "callSid": self.call.call_sid}
        return [self._numbered("stop", stop)]

    def receive(self, message: str | bytes, now: float) -> list[str | bytes]:
        """Take one message of the gateway; gives marks that come back at once."""
        decoded = self._decode(message, now)
        if decoded is not None and decoded.stream_sid != self.call.stream_sid:
            self.log.add(now, "rejected", f"31951 another streamSid: {decoded.stream_sid}")
        elif decoded is not None:
            self._obey(decoded, now)
        return self.advance(now)

    def advance(self, now: float) -> list[str | bytes]:
        """The ``mark`` messages that have become due."""
        messages: list[str | bytes] = []
        for echo in self.phone.advance(now):
            self.log.add(echo.at_s, "echo", echo.name)
            messages.append(self._numbered("mark", {"name": echo.name}))
        return messages

    def next_timer(self) -> float | None:
        """When the next mark comes back by itself."""
        return self.phone.next_timer()

    def _start_member(self) -> dict[str, Any]:
        return {
            "accountSid": self.call.account_sid,
            "streamSid": self.call.stream_sid,
            "callSid": self.call.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": dict(self.call.parameters),
        }

    def _numbered(self, event: str, member: Mapping[str, Any]) -> str:
        self._sequence_number += 1
        return json.dumps(
            {
                "event": event,
                "sequenceNumber": str(self._sequence_number),
                event: member,
                "streamSid": self.call.stream_sid,
            }
        )

    def _decode(self, message: str | bytes, now: float) -> _Message | None:
        if isinstance(message, bytes):
            self.log.add(now, "rejected", "31924 binary message")
            return None
        try:
            return _DECODER.decode(message)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            self.log.add(now, "rejected", f"31951 {error}")
            return None

    def _obey(self, message: _Message, now: float) -> None:
        match message:
            case _MediaMessage(media=media):
                self._play(media.payload, now)
            case _MarkMessage(mark=mark):
                self.log.add(now, "mark", mark.name)
                self.phone.receive_mark(mark.name, now)
            case _ClearMessage():
                self.log.add(now, "clear", amount_ms=self.phone.clear(now))

    def _play(self, payload: str, now: float) -> None:
        try:
            audio = binascii.a2b_base64(payload, strict_mode=True)
        except ValueError as error:
            self.log.add(now, "rejected", f"31951 payload: {error}")
            return
        dropped_ms = self.phone.dropped_ms
        self.log.add(now, "audio", amount_ms=len(audio) / ULAW_8K.bytes_per_ms)
        self.phone.receive_audio(audio, now)
        if self.phone.dropped_ms > dropped_ms:
            self.log.add(now, "rejected", "31931 more than ten minutes queued")
