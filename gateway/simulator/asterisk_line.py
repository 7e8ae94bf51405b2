"""Asterisk's end of a chan_websocket media connection.

Read from asterisk/asterisk channels/chan_websocket.c (release 22.10): what it ignores without an
answer (text over 128 bytes, unknown commands) is noted in the log as rejected.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.audio.convert import silence
from gateway.events import AudioFormat
from gateway.simulator.line import Log
from gateway.simulator.phone import ASTERISK, Echo, EchoKind, Phone

CODECS: Mapping[str, AudioFormat] = {
    "ulaw": AudioFormat("ulaw", 8000),
    "alaw": AudioFormat("alaw", 8000),
    "slin": AudioFormat("pcm", 8000),
    "slin16": AudioFormat("pcm", 16000),
    "slin24": AudioFormat("pcm", 24000),
    "slin48": AudioFormat("pcm", 48000),
}
_EVENTS: Mapping[EchoKind, str] = {
    "mark": "MEDIA_MARK_PROCESSED",
    "buffered": "MEDIA_BUFFERING_COMPLETED",
    "xoff": "MEDIA_XOFF",
    "xon": "MEDIA_XON",
    "drained": "QUEUE_DRAINED",
}
_PTIME_MS = 20
_MAX_TEXT_BYTES = 128
# Header and payload of a frame must fit 65,535 bytes; a frame of that size has a 4-byte header.
_MAX_BINARY_BYTES = 65_535 - 4
# Commands that need the direction towards the caller to be open.
_NEED_DIRECTION = frozenset(
    {"START_MEDIA_BUFFERING", "STOP_MEDIA_BUFFERING", "MARK_MEDIA", "PAUSE_MEDIA", "CONTINUE_MEDIA"}
)
_JSON_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class AsteriskCall:
    """What one dial string decides, and what the channel carries.

    ``codec`` is a key of ``CODECS``; ``is_json`` the option ``f(json)``; ``is_answered`` False the
    option ``n`` (no caller audio before ANSWER).
    """

    codec: str = "ulaw"
    is_json: bool = True
    is_answered: bool = True
    connection_id: str = "gateway"
    channel: str = "WebSocket/gateway/0x7f0000000000"
    channel_id: str = "1700000000.1"
    variables: Mapping[str, str] = field(default_factory=dict)


class AsteriskLine:
    """One media connection, from MEDIA_START on.

    Args:
        call: What the dial string says.
        jitter_ms: How much audio the phone buffers before it plays.
        started_at_s: The moment the channel's 20 ms timer starts, on the clock of every ``now``.
    """

    def __init__(
        self, call: AsteriskCall, jitter_ms: float = 0.0, started_at_s: float = 0.0
    ) -> None:
        self.call = call
        self.phone = Phone(ASTERISK, jitter_ms, CODECS[call.codec], started_at_s)
        self.log = Log()
        self.close_code: int | None = None
        self.direction = "both"
        self.is_answered = call.is_answered
        self._frame_bytes = _PTIME_MS * self.phone.audio.bytes_per_ms
        self._is_buffering = False
        self._remainder = b""
        self._commands: Mapping[str, Callable[[str, float], None]] = {
            "ANSWER": self._answer,
            "HANGUP": self._hang_up,
            "START_MEDIA_BUFFERING": self._start_buffering,
            "STOP_MEDIA_BUFFERING": self._stop_buffering,
            "MARK_MEDIA": self._mark,
            "FLUSH_MEDIA": self._flush,
            "REPORT_QUEUE_DRAINED": self._report_drained,
            "GET_STATUS": self._status,
            "PAUSE_MEDIA": self._pause,
            "CONTINUE_MEDIA": self._continue,
        }
        self._outbox: list[str | bytes] = []

    def start(self, now: float) -> list[str | bytes]:
        """The MEDIA_START event; the plain form has no channel variables."""
        del now
        members: dict[str, Any] = {
            "connection_id": self.call.connection_id,
            "channel": self.call.channel,
            "channel_id": self.call.channel_id,
            "format": self.call.codec,
            "optimal_frame_size": self._frame_bytes,
            "ptime": _PTIME_MS,
        }
        if self.call.is_json:
            members["channel_variables"] = dict(self.call.variables)
        return [self._event("MEDIA_START", members)]

    def send_audio(self, payload: bytes, now: float) -> list[str | bytes]:
        """One binary message; nothing before the answer or when only output is wanted."""
        del now
        return [payload] if self.is_answered and self.direction != "out" else []

    def send_dtmf(self, digit: str, now: float) -> list[str | bytes]:
        """One DTMF_END event."""
        del now
        return [self._event("DTMF_END", {"digit": digit, **self._channel_member()})]

    def stop(self, now: float) -> list[str | bytes]:
        """Nothing: Asterisk just closes the socket."""
        del now
        return []

    def receive(self, message: str | bytes, now: float) -> list[str | bytes]:
        """Take one message of the gateway; gives events that are sent at once."""
        if isinstance(message, bytes):
            self._play(message, now)
        else:
            self._read_text(message, now)
        messages, self._outbox = self._outbox, []
        return messages + self.advance(now)

    def advance(self, now: float) -> list[str | bytes]:
        """The events about the queue that have become due."""
        return [self._echo(echo) for echo in self.phone.advance(now)]

    def next_timer(self) -> float | None:
        """When the next event about the queue comes by itself."""
        return self.phone.next_timer()

    # ------------------------------------------------------------- audio

    def _play(self, payload: bytes, now: float) -> None:
        if len(payload) > _MAX_BINARY_BYTES:
            self.log.add(now, "rejected", f"1009 message of {len(payload)} bytes")
            self.close_code = 1009
        elif self.direction == "in":
            self.log.add(now, "rejected", "audio while direction is in")
        else:
            self._queue(self._whole_frames(payload), now)

    def _queue(self, payload: bytes, now: float) -> None:
        dropped_ms = self.phone.dropped_ms
        self.log.add(now, "audio", amount_ms=len(payload) / self.phone.audio.bytes_per_ms)
        self.phone.receive_audio(payload, now)
        if self.phone.dropped_ms > dropped_ms:
            self.log.add(now, "rejected", f"dropped {self.phone.dropped_ms - dropped_ms:g} ms")

    def _whole_frames(self, payload: bytes) -> bytes:
        if not self._is_buffering:
            return payload
        payload = self._remainder + payload
        whole_bytes = len(payload) - len(payload) % self._frame_bytes
        self._remainder = payload[whole_bytes:]
        return payload[:whole_bytes]

    # ------------------------------------------------------------- commands

    def _read_text(self, text: str, now: float) -> None:
        size_bytes = len(text.encode("utf-8", "surrogatepass"))
        if not 0 < size_bytes <= _MAX_TEXT_BYTES:
            self.log.add(now, "rejected", f"text of {size_bytes} bytes")
            return
        if not self.call.is_json:
            name, _, argument = text.strip().partition(" ")
            self._obey(name, argument, now)
            return
        try:
            self._read_json(msgspec.json.decode(text), now)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            self._refuse("Unable to parse JSON command", now)

    def _read_json(self, value: Any, now: float) -> None:
        members = value if isinstance(value, dict) else {}
        name = str(members.get("command", ""))
        if name == "SET_MEDIA_DIRECTION":
            self.direction = str(members.get("direction", ""))
        else:
            self._obey(name, str(members.get("correlation_id", "")), now)

    def _obey(self, name: str, argument: str, now: float) -> None:
        command = self._commands.get(name)
        if command is None:
            self.log.add(now, "rejected", f"unknown command {name}")
        elif name in _NEED_DIRECTION and self.direction == "in":
            self._refuse(f"{name} not supported while direction is in", now)
        else:
            command(argument, now)

    def _refuse(self, error_text: str, now: float) -> None:
        self.log.add(now, "rejected", error_text)
        self._outbox.append(
            self._event("ERROR", {**self._channel_member(), "error_text": error_text})
        )

    def _answer(self, _argument: str, _now: float) -> None:
        self.is_answered = True

    def _hang_up(self, _argument: str, now: float) -> None:
        self.log.add(now, "hangup")
        self.close_code = 1000

    def _start_buffering(self, _argument: str, _now: float) -> None:
        self._is_buffering = True

    def _stop_buffering(self, argument: str, now: float) -> None:
        missing_bytes = -len(self._remainder) % self._frame_bytes
        audio = self.phone.audio
        padding = silence(audio.encoding, audio.rate_hz, _PTIME_MS)[:missing_bytes]
        remainder, self._remainder, self._is_buffering = self._remainder, b"", False
        if remainder:
            self._queue(remainder + padding, now)
        self.phone.receive_mark(argument, now, "buffered")

    def _mark(self, argument: str, now: float) -> None:
        self.log.add(now, "mark", argument)
        self.phone.receive_mark(argument, now)

    def _flush(self, _argument: str, now: float) -> None:
        self._is_buffering = False
        self._remainder = b""
        self.log.add(now, "clear", amount_ms=self.phone.clear(now))

    def _report_drained(self, _argument: str, now: float) -> None:
        self.phone.report_drained(now)

    def _pause(self, _argument: str, now: float) -> None:
        self.phone.pause(now)

    def _continue(self, _argument: str, now: float) -> None:
        self.phone.resume(now)

    def _status(self, _argument: str, now: float) -> None:
        self.log.add(now, "status")
        members = {
            **self._channel_member(),
            "queue_length": round(self.phone.status(now) / _PTIME_MS),
            "xon_level": ASTERISK.xon_ms // _PTIME_MS,
            "xoff_level": ASTERISK.xoff_ms // _PTIME_MS,
            "queue_full": self.phone.is_full,
            "bulk_media": self._is_buffering,
            "media_paused": self.phone.is_paused,
        }
        self._outbox.append(self._event("STATUS", members))

    # ------------------------------------------------------------- events

    def _channel_member(self) -> dict[str, Any]:
        return {"channel_id": self.call.channel_id}

    def _echo(self, echo: Echo) -> str:
        name = _EVENTS[echo.kind]
        if echo.kind not in ("mark", "buffered"):
            return self._event(name, self._channel_member()) if self.call.is_json else name
        self.log.add(echo.at_s, "echo", echo.name)
        if self.call.is_json:
            return self._event(name, {**self._channel_member(), "correlation_id": echo.name})
        return f"{name} {echo.name}".rstrip()

    def _event(self, name: str, members: Mapping[str, Any]) -> str:
        if self.call.is_json:
            return _JSON_ENCODER.encode({"event": name, **members}).decode()
        return " ".join([name, *(f"{key}:{_plain(value)}" for key, value in members.items())])


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
