"""The agent's voice in the caller's audio: what the phone plays when, and how much comes back.

``Played`` is written by whoever hands audio to the phone; ``Echo`` compares it with what the caller
sends. Both sounds are brought to 4 kHz and differenced, which takes away most of what any two
voices have in common; then they are correlated at every delay below 500 ms. An echo is there in
one second after the other at the same delay, chance is not: so the correlations of several seconds
are averaged, each weighed by how quiet the caller was, since double talk says little about echo.

What was played is kept at 4 kHz in mu-law: half of what Twilio is sent, a twelfth of 24 kHz PCM,
and its noise is 38 dB below it. It is slowed seconds at a time: numpy takes as long for less.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, log10
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.audio.convert import Encoding
from gateway.audio.g711 import DECODE, ULAW_SILENCE, encode_ulaw

Samples = NDArray[np.float32]

MOST_DELAY_S: Final = 0.5
_RATE_HZ: Final = 4000
_LAGS: Final = int(MOST_DELAY_S * _RATE_HZ)
_PCM: Final = np.dtype("<i2")
_PAIR: Final = np.dtype("<u2")
# What was played is forgotten after this long, and there are no more than so many pieces of it.
_KEPT_S: Final = 3.0
_MOST_PIECES: Final = 600
# So much is slowed at once, or when it is asked for: two seconds of G.711, a third of 24 kHz PCM.
_MOST_FRESH_BYTES: Final = 16_000
# So many slowed samples are forgotten at once.
_PIECE_SAMPLES: Final = 2000
# Two stretches this close are one: the ledger reckons in whole bytes, clocks do not.
_SEAM_S: Final = 0.0005
# Less of the agent's voice than this (full scale is 1.0) says nothing about its echo.
_LEAST_POWER: Final = 1e-5
# Below this the caller's side is silent; there is always some noise, if only of the codec.
_FLOOR_POWER: Final = 1e-8
# What the seconds before count beside the present one.
_MEMORY: Final = 0.75
# A likeness below this is chance: no delay and no loss can be told from it.
LEAST_LIKENESS: Final = 0.25
# How loud the agent was hardly differs from one delay to the next: it is kept for each so many.
_BLOCK: Final = 8
# The largest product is so many units of those kept: far finer than chance.
_MOST_UNITS: Final = 32000
_LEAST_PRODUCT: Final = np.float32(1e-12)
_NOTHING: Final = np.zeros(_LAGS, np.int16)


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


@dataclass(slots=True)
class _Stretch:
    """Something plays without a break; ``origin`` is its start, before any of it was forgotten."""

    start: float
    end: float
    origin: float


@dataclass(frozen=True, slots=True)
class _Piece:
    """Slowed mu-law, ``at`` samples after the origin of its stretch."""

    origin: float
    at: int
    sound: bytes

    @property
    def start(self) -> float:
        return self.origin + self.at / _RATE_HZ

    @property
    def end(self) -> float:
        return self.start + len(self.sound) / _RATE_HZ

    def until(self, end: float) -> "_Piece":
        """What of it is played before that moment."""
        size = max(0, round((end - self.start) * _RATE_HZ))
        return _Piece(self.origin, self.at, self.sound[:size])


class Played:
    """What the phone plays of what it was handed, and when; seconds of the call's clock."""

    __slots__ = (
        "_bytes_per_s",
        "_encoding",
        "_fresh",
        "_fresh_at",
        "_fresh_bytes",
        "_pieces",
        "_rate_hz",
        "_stretches",
        "_wanted_from",
    )

    def __init__(self, encoding: Encoding, rate_hz: int) -> None:
        self._encoding: Encoding = encoding
        self._rate_hz = rate_hz
        self._bytes_per_s = rate_hz * (2 if encoding == "pcm" else 1)
        self._stretches: deque[_Stretch] = deque(maxlen=_MOST_PIECES)
        self._pieces: deque[_Piece] = deque(maxlen=_MOST_PIECES)
        # The end of the last stretch, as it was handed over.
        self._fresh: list[bytes] = []
        self._fresh_at = 0.0
        self._fresh_bytes = 0
        self._wanted_from = -inf

    def add(self, payloads: Sequence[bytes], now: float, *, follows: bool) -> None:
        """The phone was handed these; they follow what it holds, else it plays them at once."""
        size_bytes = sum(map(len, payloads))
        if not size_bytes:
            return
        stretches, oldest = self._stretches, now - _KEPT_S
        if stretches and stretches[0].start < oldest:
            self._prune(oldest, max(oldest, self._wanted_from))
        if not (follows and stretches and stretches[-1].end >= oldest):
            self._slow_down()
            stretches.append(_Stretch(now, now, now))
        last = stretches[-1]
        start, last.end = last.end, last.end + size_bytes / self._bytes_per_s
        if last.end > self._wanted_from:
            self._keep(payloads, size_bytes, start)

    def _keep(self, payloads: Sequence[bytes], size_bytes: int, start: float) -> None:
        if not self._fresh:
            self._fresh_at = start
        self._fresh += payloads
        self._fresh_bytes += size_bytes
        if self._fresh_bytes >= _MOST_FRESH_BYTES:
            self._slow_down()

    def _slow_down(self) -> None:
        """What is fresh becomes pieces, without what nobody wants any more."""
        if not self._fresh:
            return
        payload, origin = b"".join(self._fresh), self._stretches[-1].origin
        self._fresh.clear()
        self._fresh_bytes = 0
        unwanted = int(max(0.0, self._wanted_from - self._fresh_at) * _RATE_HZ)
        wanted = payload[unwanted * (self._bytes_per_s // _RATE_HZ) :]
        sound = _slow_ulaw(wanted, self._encoding, self._rate_hz)
        at = round((self._fresh_at - origin) * _RATE_HZ) + unwanted
        for first in range(0, len(sound), _PIECE_SAMPLES):
            self._pieces.append(_Piece(origin, at + first, sound[first : first + _PIECE_SAMPLES]))

    def forget(self, before: float, sound_before: float) -> None:
        """Nobody will ask for what was before that moment, nor for the sound before the other."""
        self._wanted_from = sound_before
        if self._fresh and self._stretches[-1].end <= sound_before:
            self._fresh.clear()
            self._fresh_bytes = 0
        self._prune(before, sound_before)

    def _prune(self, before: float, sound_before: float) -> None:
        """The last stretch stays: what is handed over next may follow it."""
        stretches, pieces = self._stretches, self._pieces
        while len(stretches) > 1 and stretches[0].end <= before:
            stretches.popleft()
        if stretches and stretches[0].start < before:
            stretches[0].start = min(before, stretches[0].end)
        while pieces and pieces[0].end <= sound_before:
            pieces.popleft()

    def cut(self, now: float) -> None:
        """The phone was told to drop what it has not played yet."""
        self._cut_fresh(now)
        stretches, pieces = self._stretches, self._pieces
        while stretches and stretches[-1].start >= now:
            stretches.pop()
        if stretches:
            stretches[-1].end = min(stretches[-1].end, now)
        while pieces and pieces[-1].start >= now:
            pieces.pop()
        if pieces:
            pieces.append(pieces.pop().until(now))

    def _cut_fresh(self, now: float) -> None:
        """A barge-in is in a hurry: nothing is slowed down for it."""
        played = max(0, round((now - self._fresh_at) * _RATE_HZ))
        kept = b"".join(self._fresh)[: played * (self._bytes_per_s // _RATE_HZ)]
        self._fresh = [kept] if kept else []
        self._fresh_bytes = len(kept)

    def stretches(self, start: float, end: float) -> list[tuple[float, float]]:
        """From when to when something is playing, of what plays between two moments."""
        found: list[tuple[float, float]] = []
        for one in self._stretches:
            if one.end > start and one.start < end:
                is_next = found and one.start - found[-1][1] < _SEAM_S
                found.append((found.pop()[0] if is_next else one.start, one.end))
        return found

    def sound(self, start: float, size: int) -> Samples:
        """So many samples from that moment on, slowed; silence where nothing was playing."""
        self._slow_down()
        sound = bytearray(ULAW_SILENCE * size)
        for piece in self._pieces:
            at = round((piece.origin - start) * _RATE_HZ) + piece.at
            kept = piece.sound[max(0, -at) : max(0, size - at)]
            sound[max(0, at) : max(0, at) + len(kept)] = kept
        return samples(bytes(sound), "ulaw")


class Echo:
    """How much of what the phone plays comes back.

    ``likeness``: 0 to 1, the share of the caller's audio that is the agent's. ``loss_db``: the
    echo's level below what was played (echo return loss), and ``delay_ms`` how much later it comes;
    None where the likeness is no more than chance.
    """

    __slots__ = (
        "_least",
        "_played",
        "_powers",
        "_products",
        "_unit",
        "_weight",
        "delay_ms",
        "likeness",
        "loss_db",
    )

    def __init__(self, played: Played) -> None:
        self._played = played
        # Averages of seconds: whole numbers of ``_unit``, at each delay; at each block of delays.
        self._products: NDArray[np.int16] = _NOTHING
        self._unit = np.float32(0)
        self._powers: Samples = np.zeros(1 + _LAGS // _BLOCK, np.float32)
        self._least = self._weight = 0.0
        self.likeness = 0.0
        self.loss_db: float | None = None
        self.delay_ms: float | None = None

    def hear(self, caller: Samples, rate_hz: int, start: float) -> None:
        """A second or so of the caller that began at that moment."""
        heard = _differences(slowed(caller, rate_hz))
        heard = heard[: heard.size // _BLOCK * _BLOCK]
        if not heard.size:
            return
        played = _differences(self._played.sound(start - MOST_DELAY_S, heard.size + _LAGS + 1))
        powers = _powers(heard.size, played)
        if powers.max() >= _LEAST_POWER:
            power = max(float(heard @ heard) / heard.size, _FLOOR_POWER)
            products = _products(heard, played) * np.float32(1 / (heard.size * power))
            self._conclude(self._average(products, powers, power))

    def _average(self, products: Samples, powers: Samples, power: float) -> Samples:
        """A second more, of a caller who is so loud; returns the size of each product."""
        new = 1 - _MEMORY
        products *= np.float32(new)
        products += self._products * (self._unit * np.float32(_MEMORY))
        sizes = np.abs(products)
        self._unit = max(sizes.max(), _LEAST_PRODUCT) / np.float32(_MOST_UNITS)
        self._products = (products / self._unit).astype(np.int16)
        self._powers = self._powers * np.float32(_MEMORY) + powers * np.float32(new / power)
        self._least = self._least * _MEMORY + _LEAST_POWER / power * new
        self._weight = self._weight * _MEMORY + new
        return sizes

    def _conclude(self, sizes: Samples) -> None:
        # A delay at which hardly anything was playing is judged as if a little had been.
        powers = np.maximum((self._powers[:-1] + self._powers[1:]) / 2, self._least)
        likenesses = sizes * np.repeat(1 / np.sqrt(powers * self._weight), _BLOCK)
        lag = int(likenesses.argmax())
        self.likeness = min(1.0, float(likenesses[lag]))
        self.loss_db = self.delay_ms = None
        if self.likeness >= LEAST_LIKENESS:
            self.loss_db = -20 * log10(sizes[lag] / self._power_at(lag))
            self.delay_ms = lag * 1000 / _RATE_HZ

    def _power_at(self, lag: int) -> float:
        """How loud the agent was in what this delay makes the echo of it."""
        block, within = divmod(lag, _BLOCK)
        before, after = float(self._powers[block]), float(self._powers[block + 1])
        return before + (after - before) * within / _BLOCK


def _differences(sound: Samples) -> Samples:
    """Each sample less the one before it; numpy's own checks take as long again."""
    return sound[1:] - sound[:-1]


def _powers(size: int, played: Samples) -> Samples:
    """How loud the agent was in what the first delay of each block makes the echo of it."""
    blocks = played.reshape(-1, _BLOCK)
    sums = np.zeros(len(blocks) + 1)
    np.vecdot(blocks, blocks).cumsum(dtype=np.float64, out=sums[1:])
    found = (sums[size // _BLOCK :] - sums[: -(size // _BLOCK)])[::-1] / size
    return found.astype(np.float32)


def _products(heard: Samples, played: Samples) -> Samples:
    """The correlation at each delay from 0 on; ``played`` begins the longest delay earlier."""
    size = _fast(played.size)
    spectrum = np.fft.rfft(played, size) * np.fft.rfft(heard, size).conj()
    # Wrapped around are only delays beyond the range.
    return np.asarray(np.fft.irfft(spectrum, size)[_LAGS:0:-1], np.float32)


def _fast(size: int) -> int:
    """The next whole number of half kilo-samples: transforms of such sizes are quick."""
    return -(-size // 500) * 500


def _slow_ulaw(payload: bytes, encoding: Encoding, rate_hz: int) -> bytes:
    """The payload, slowed, as mu-law; a part of a sample at its end is left out."""
    if encoding != "pcm" and rate_hz == 2 * _RATE_HZ:
        return _of_pairs(encoding).take(np.frombuffer(payload, _PAIR, len(payload) // 2)).tobytes()
    slow = slowed(samples(payload, encoding), rate_hz)
    return encode_ulaw((slow * np.float32(32768)).astype(_PCM).tobytes())


@cache
def _of_pairs(encoding: Encoding) -> NDArray[np.uint8]:
    """What becomes of each two bytes of G.711 at 8 kHz: a table is five times as quick."""
    pairs = np.arange(1 << 16, dtype=_PAIR).tobytes()
    slow = slowed(samples(pairs, encoding), 2 * _RATE_HZ)
    return np.frombuffer(encode_ulaw((slow * np.float32(32768)).astype(_PCM).tobytes()), np.uint8)
