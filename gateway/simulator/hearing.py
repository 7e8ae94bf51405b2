"""The caller's audio as the service hears it: decoded, recorded, cut into turns."""

import binascii
from collections.abc import Mapping
from typing import Any

from gateway.audio.convert import Converter
from gateway.events import PCM_24K, AudioFormat
from gateway.simulator import refusals
from gateway.simulator.vad import BYTES_PER_MS, RATE_HZ, SpeechEdge, Vad

MAX_APPEND_BYTES = 15 * 1024 * 1024
MIN_COMMIT_MS = 100
# How long a semantic detector waits when it cannot know whether a sentence is over.
_SEMANTIC_SILENCE_MS: Mapping[str, int] = {"low": 1200, "medium": 700, "auto": 700, "high": 400}


class Recording:
    """The last ``limit_ms`` of an audio stream: 16-bit PCM at 24 kHz, addressed from its start."""

    def __init__(self, limit_ms: int) -> None:
        self.pcm = bytearray()
        self.dropped_bytes = 0
        self._limit_bytes = limit_ms * BYTES_PER_MS

    def append(self, pcm: bytes) -> None:
        """Add audio; the oldest goes when there is too much, a quarter of the limit at once."""
        self.pcm += pcm
        if len(self.pcm) > self._limit_bytes * 5 // 4:
            excess = (len(self.pcm) - self._limit_bytes) & ~1
            del self.pcm[:excess]
            self.dropped_bytes += excess

    def between(self, start_ms: int, end_ms: int) -> bytes:
        """The part of this stretch that is still there."""
        start = max(0, start_ms * BYTES_PER_MS - self.dropped_bytes)
        end = max(0, end_ms * BYTES_PER_MS - self.dropped_bytes)
        return bytes(self.pcm[start:end])

    @property
    def end_ms(self) -> float:
        """How much was ever added."""
        return (self.dropped_bytes + len(self.pcm)) / BYTES_PER_MS


class Hearing:
    """Input buffer with turn detection."""

    def __init__(self, limit_ms: int) -> None:
        self.heard = Recording(limit_ms)
        self._vad = Vad()
        self._is_detecting = True
        self._format = PCM_24K
        self._converter = _converter(PCM_24K)
        self._buffer_start_ms = 0.0

    @property
    def clock_ms(self) -> int:
        """How much audio was appended since the session began."""
        return int(self.heard.end_ms)

    @property
    def is_in_speech(self) -> bool:
        """Whether a talkspurt is under way."""
        return self._vad.is_speaking

    def configure(self, audio: AudioFormat, turn_detection: dict[str, Any] | None) -> None:
        """Take over the session's input options, from the next append on."""
        if audio != self._format:
            self._format, self._converter = audio, _converter(audio)
        self._is_detecting = turn_detection is not None
        if turn_detection is not None:
            self._vad.configure(**_sensitivity(turn_detection))

    def append(self, audio: Any) -> list[SpeechEdge]:
        """Take one append's base64; say where speech began and ended.

        Raises:
            RequestRefused: not text, not base64 or too big.
        """
        pcm = self._converter.convert(_decoded(audio))
        self.heard.append(pcm)
        edges = self._vad.feed(pcm)
        return edges if self._is_detecting else []

    def commit(self) -> bytes:
        """End the turn by hand: its audio.

        Raises:
            RequestRefused: there is less than 100 ms of it.
        """
        buffered_ms = self.heard.end_ms - self._buffer_start_ms
        if buffered_ms < MIN_COMMIT_MS:
            raise refusals.commit_empty(buffered_ms)
        return self.cut(int(self._buffer_start_ms), self.clock_ms)

    def cut(self, start_ms: int, end_ms: int) -> bytes:
        """Take a turn out of the buffer: its audio."""
        self._buffer_start_ms = self.heard.end_ms
        return self.heard.between(start_ms, end_ms)

    def clear(self) -> None:
        """Forget what is in the buffer; the record and the clock stay."""
        self._buffer_start_ms = self.heard.end_ms
        self._vad.forget()


def _sensitivity(turn_detection: dict[str, Any]) -> dict[str, Any]:
    if turn_detection["type"] == "semantic_vad":
        silence_ms = _SEMANTIC_SILENCE_MS[turn_detection["eagerness"]]
        return {"threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": silence_ms}
    return {
        "threshold": turn_detection["threshold"],
        "prefix_padding_ms": int(turn_detection["prefix_padding_ms"]),
        "silence_duration_ms": int(turn_detection["silence_duration_ms"]),
    }


def _converter(audio: AudioFormat) -> Converter:
    return Converter(audio.encoding, audio.rate_hz, "pcm", RATE_HZ)


def _decoded(audio: Any) -> bytes:
    if audio is None:
        raise refusals.missing_parameter("audio")
    try:
        payload = binascii.a2b_base64(audio, strict_mode=True)
    except (TypeError, ValueError):
        raise refusals.invalid_value("audio", audio) from None
    if len(payload) > MAX_APPEND_BYTES:
        raise refusals.invalid_value("audio", f"{len(payload)} bytes")
    return payload
