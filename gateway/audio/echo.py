"""The agent's voice in the caller's audio: what the phone plays when, and how much comes back.

``Played`` is written by whoever hands audio to the phone; ``Echo`` compares it with what the caller
sends. Both sounds are brought to 4 kHz and differenced, which takes away most of what any two
voices have in common; then they are correlated at every delay of 0 to 500 ms. An echo is there in
one second after the other at the same delay, chance is not: so the correlations of several seconds
are added up, each weighed by how quiet the caller was, since double talk says little about echo.
"""

from collections import deque
from collections.abc import Sequence
from math import inf, log10
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.audio.convert import Encoding
from gateway.audio.g711 import DECODE

Samples = NDArray[np.float32]

MOST_DELAY_S: Final = 0.5
_RATE_HZ: Final = 4000
_LAGS: Final = int(MOST_DELAY_S * _RATE_HZ)
_PCM: Final = np.dtype("<i2")
# What was played is kept this long, and no more than so many pieces of it.
_KEPT_S: Final = 3.0
_MOST_PIECES: Final = 600
# Two pieces this close follow each other: the ledger reckons in whole bytes, clocks do not.
_SEAM_S: Final = 0.0005
# Less of the agent's voice than this (full scale is 1.0) says nothing about its echo.
_LEAST_POWER: Final = 1e-5
# Below this the caller's side is silent; there is always some noise, if only of the codec.
_FLOOR_POWER: Final = 1e-8
# What a second counts after each further one.
_MEMORY: Final = 0.75
# A likeness below this is chance: no delay and no loss can be told from it.
LEAST_LIKENESS: Final = 0.25


def samples(payload: bytes, encoding: Encoding) -> Samples:
    """The samples of a payload (full scale is 1.0); a part of a sample at its end is left out."""
    decode = DECODE.get(encoding)
    pcm = payload[: len(payload) // 2 * 2] if decode is None else decode(payload)
    return np.frombuffer(pcm, _PCM) * np.float32(1 / 32768)


def slowed(sound: Samples, rate_hz: int) -> Samples:
    """The same at the rate that echoes are looked for at."""
    step = rate_hz // _RATE_HZ
    return sound[: sound.size // step * step].reshape(-1, step) @ np.full(
        step, 1 / step, np.float32
    )


class Played:
    """What the phone plays of what it was handed, and when; seconds of the call's clock."""

    def __init__(self, encoding: Encoding, rate_hz: int) -> None:
        self._encoding = encoding
        self._rate_hz = rate_hz
        self._bytes_per_s = rate_hz * (2 if encoding == "pcm" else 1)
        self._pieces: deque[tuple[float, float, bytes]] = deque(maxlen=_MOST_PIECES)

    def add(self, payloads: Sequence[bytes], now: float, *, follows: bool) -> None:
        """The phone was handed these; they follow what it holds, else it plays them at once."""
        pieces = self._pieces
        while pieces and pieces[0][1] < now - _KEPT_S:
            pieces.popleft()
        start = pieces[-1][1] if follows and pieces else now
        for payload in payloads:
            end = start + len(payload) / self._bytes_per_s
            pieces.append((start, end, payload))
            start = end

    def cut(self, now: float) -> None:
        """The phone was told to drop what it has not played yet."""
        pieces = self._pieces
        while pieces and pieces[-1][0] >= now:
            pieces.pop()
        if pieces and pieces[-1][1] > now:
            start, _, payload = pieces.pop()
            left = int((now - start) * self._bytes_per_s) // 2 * 2
            pieces.append((start, now, payload[:left]))

    def stretches(self, start: float, end: float) -> list[tuple[float, float]]:
        """From when to when something was playing between two moments."""
        found: list[tuple[float, float]] = []
        for first, last, _ in self._pieces:
            if last > start and first < end:
                is_next = found and first - found[-1][1] < _SEAM_S
                found.append((found.pop()[0] if is_next else first, last))
        return found

    def sound(self, start: float, size: int) -> Samples:
        """So many samples from that moment on, slowed; silence where nothing was playing."""
        sound = np.zeros(size, np.float32)
        for first, payload in self._joined(start, start + size / _RATE_HZ):
            piece = slowed(samples(payload, self._encoding), self._rate_hz)
            at = round((first - start) * _RATE_HZ)
            kept = piece[max(0, -at) : max(0, size - at)]
            sound[max(0, at) : max(0, at) + kept.size] = kept
        return sound

    def _joined(self, start: float, end: float) -> list[tuple[float, bytes]]:
        """What was playing between two moments: many small pieces cost more than a long one."""
        runs: list[tuple[float, list[bytes]]] = []
        ended = -inf
        for first, last, payload in self._pieces:
            if last > start and first < end:
                if first - ended < _SEAM_S:
                    runs[-1][1].append(payload)
                else:
                    runs.append((first, [payload]))
                ended = last
        return [(first, b"".join(payloads)) for first, payloads in runs]


class Echo:
    """How much of what the phone plays comes back.

    ``likeness``: 0 to 1, the share of the caller's audio that is the agent's. ``loss_db``: the
    echo's level below what was played (echo return loss), and ``delay_ms`` how much later it comes;
    None where the likeness is no more than chance.
    """

    def __init__(self, played: Played) -> None:
        self._played = played
        self._products: Samples = np.zeros(_LAGS + 1, np.float32)
        self._powers: Samples = np.zeros(_LAGS + 1, np.float32)
        self._least = self._weight = 0.0
        self.likeness = 0.0
        self.loss_db: float | None = None
        self.delay_ms: float | None = None

    def hear(self, caller: Samples, rate_hz: int, start: float) -> None:
        """A second or so of the caller that began at that moment."""
        heard = np.diff(slowed(caller, rate_hz))
        played = np.diff(self._played.sound(start - MOST_DELAY_S, heard.size + _LAGS + 1))
        sums = np.concatenate((np.zeros(1), np.cumsum(played * played, dtype=np.float64)))
        # How loud the agent was in what each delay makes the echo of it.
        found = (sums[heard.size :] - sums[: -heard.size])[::-1] / heard.size
        powers: Samples = found.astype(np.float32)
        if powers.max() < _LEAST_POWER:
            return
        products = _products(heard, played) / heard.size
        power = max(float(heard @ heard) / heard.size, _FLOOR_POWER)
        self._products = (self._products * _MEMORY + products / power).astype(np.float32)
        self._powers = (self._powers * _MEMORY + powers / power).astype(np.float32)
        self._least = self._least * _MEMORY + _LEAST_POWER / power
        self._weight = self._weight * _MEMORY + 1.0
        self._conclude()

    def _conclude(self) -> None:
        # A delay at which hardly anything was playing is judged as if a little had been.
        powers = np.maximum(self._powers, self._least)
        likenesses = np.abs(self._products) / np.sqrt(powers * self._weight)
        lag = int(np.argmax(likenesses))
        self.likeness = min(1.0, float(likenesses[lag]))
        self.loss_db = self.delay_ms = None
        if self.likeness >= LEAST_LIKENESS:
            self.loss_db = -20 * log10(abs(self._products[lag]) / self._powers[lag])
            self.delay_ms = lag * 1000 / _RATE_HZ


def _products(heard: Samples, played: Samples) -> Samples:
    """The correlation at each delay from 0 on; ``played`` begins the longest delay earlier."""
    size = _fast(played.size)
    spectrum = np.fft.rfft(played, size) * np.conj(np.fft.rfft(heard, size))
    # Wrapped around are only delays beyond the range.
    return np.asarray(np.fft.irfft(spectrum, size)[: _LAGS + 1][::-1], np.float32)


def _fast(size: int) -> int:
    """The next whole number of half kilo-samples: transforms of such sizes are quick."""
    return -(-size // 500) * 500
