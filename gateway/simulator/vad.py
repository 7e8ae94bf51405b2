"""Voice-activity detection by loudness, on the clock of the audio it is fed.

The service measures time in audio it was sent, not in seconds that passed: a client that stops
sending stops this clock too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 24_000
BYTES_PER_MS = RATE_HZ // 1000 * 2
HOP_MS = 20
MIN_SPEECH_MS = 60
_HOP_BYTES = HOP_MS * BYTES_PER_MS
# A threshold of 0.5 listens from -40 dBFS: above a telephone line's noise, below quiet speech.
_QUIETEST_DBFS = -55.0
_DBFS_PER_THRESHOLD = 30.0


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """A talkspurt began; its audio, prefix padding included, starts here."""

    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """A talkspurt ended; its audio, the closing silence included, spans this much."""

    audio_start_ms: int
    audio_end_ms: int


SpeechEdge = SpeechBegan | SpeechEnded


class Vad:
    """Finds talkspurts in 16-bit mono PCM at 24 kHz, in hops of 20 ms."""

    def __init__(self) -> None:
        self.clock_ms = 0
        self.is_speaking = False
        self._carried = b""
        self._loud_ms = 0
        self._quiet_ms = 0
        self._start_ms = 0
        self._last_end_ms = 0
        self.configure(threshold=0.5, prefix_padding_ms=300, silence_duration_ms=200)

    def configure(
        self, *, threshold: float, prefix_padding_ms: int, silence_duration_ms: int
    ) -> None:
        """Change the sensitivity from here on; the clock goes on."""
        self._gate = 32768 * 10 ** ((_QUIETEST_DBFS + _DBFS_PER_THRESHOLD * threshold) / 20)
        self._prefix_ms = prefix_padding_ms
        self._silence_ms = silence_duration_ms

    def feed(self, pcm: bytes) -> list[SpeechEdge]:
        """Move the clock on by this audio (any length); say where speech began and ended."""
        pending = self._carried + pcm
        whole = len(pending) // _HOP_BYTES * _HOP_BYTES
        self._carried = pending[whole:]
        edges = [self._step(is_loud=loud) for loud in self._loudness(pending[:whole])]
        return [edge for edge in edges if edge is not None]

    def forget(self) -> None:
        """Drop a talkspurt under way, as clearing the input buffer does."""
        self.is_speaking = False
        self._loud_ms = 0
        self._last_end_ms = self.clock_ms

    def _loudness(self, pcm: bytes) -> list[bool]:
        if not pcm:
            return []
        hops: NDArray[np.float32] = np.frombuffer(pcm, "<i2").reshape(-1, _HOP_BYTES // 2)
        power = np.square(hops, dtype=np.float32).mean(axis=1)
        return [bool(loud) for loud in power > self._gate**2]

    def _step(self, *, is_loud: bool) -> SpeechEdge | None:
        self.clock_ms += HOP_MS
        step = self._while_speaking if self.is_speaking else self._while_quiet
        return step(is_loud=is_loud)

    def _while_quiet(self, *, is_loud: bool) -> SpeechBegan | None:
        self._loud_ms = self._loud_ms + HOP_MS if is_loud else 0
        if self._loud_ms < MIN_SPEECH_MS:
            return None
        self.is_speaking = True
        self._quiet_ms = 0
        detected_ms = self.clock_ms - self._loud_ms
        self._start_ms = max(self._last_end_ms, detected_ms - self._prefix_ms)
        return SpeechBegan(self._start_ms)

    def _while_speaking(self, *, is_loud: bool) -> SpeechEnded | None:
        self._quiet_ms = 0 if is_loud else self._quiet_ms + HOP_MS
        if self._quiet_ms < self._silence_ms:
            return None
        self.is_speaking = False
        self._loud_ms = 0
        self._last_end_ms = self.clock_ms
        return SpeechEnded(self._start_ms, self.clock_ms)
