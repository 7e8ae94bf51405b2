"""How alike two recordings are, second by second, wherever in time the second one begins."""

import numpy as np
from numpy.typing import NDArray

_Samples = NDArray[np.float64]

# A pause this long ends an utterance: what comes after it may come later on the other side.
_PAUSE_MS = 200
# Quieter than this (of 32,768) is line noise; speech is ten times louder and more.
_NOISE_RMS = 60.0
_FRAME_MS = 20
# A jitter buffer may move the sound by a few frames between two seconds; the ear does not mind.
_DRIFT_MS = 100
# Two filters may delay the sound by a part of a sample, which no ear hears; so there are this many
# positions to a sample (a third of one costs speech at 8 kHz two hundredths).
_FINE = 6
# Less than this much sound says little about a second.
_SHORTEST_MS = 300


def correlation_per_second(reference_pcm: bytes, heard_pcm: bytes, rate_hz: int) -> list[float]:
    """Compare what was heard with what was said.

    Both are 16-bit little-endian mono. Each utterance of the reference is looked for in the whole
    of what was heard, then each of its seconds is compared around the place found.

    Returns:
        One normalised correlation (1.0 is equal but for loudness) for each second of the reference
        that holds speech; 0.0 where nothing was heard.
    """
    reference, heard = _samples(reference_pcm), _samples(heard_pcm)
    if not heard.size:
        heard = np.zeros(1)
    found = []
    for start, end in _utterances(reference, rate_hz):
        lag = _best_lag(reference[start:end], heard)
        for first in range(start, end, rate_hz):
            piece = reference[first : min(first + rate_hz, end)]
            if piece.size * 1000 >= _SHORTEST_MS * rate_hz:
                found.append(_near(piece, heard, lag + first - start, rate_hz))
    return found


def _samples(pcm: bytes) -> _Samples:
    return np.frombuffer(pcm[: len(pcm) // 2 * 2], dtype="<i2").astype(np.float64)


def _utterances(samples: _Samples, rate_hz: int) -> list[tuple[int, int]]:
    """First and last sample of each stretch of speech between pauses."""
    frame = rate_hz * _FRAME_MS // 1000
    frames = samples[: samples.size // frame * frame].reshape(-1, frame)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > _NOISE_RMS)
    if not loud.size:
        return []
    breaks = np.flatnonzero(np.diff(loud) > _PAUSE_MS // _FRAME_MS)
    starts = np.concatenate((loud[:1], loud[breaks + 1]))
    ends = np.concatenate((loud[breaks], loud[-1:])) + 1
    return [(int(a) * frame, int(b) * frame) for a, b in zip(starts, ends, strict=True)]


def _best_lag(piece: _Samples, heard: _Samples) -> int:
    return int(np.argmax(_correlations(piece, heard))) - piece.size + 1


def _near(piece: _Samples, heard: _Samples, lag: int, rate_hz: int) -> float:
    """The best correlation of a piece with what was heard around the expected place."""
    slack = rate_hz * _DRIFT_MS // 1000
    padded = np.pad(heard, (slack + piece.size, slack + piece.size))
    first = max(lag + piece.size, 0)
    window = padded[first : first + piece.size + 2 * slack]
    if window.size < piece.size:
        return 0.0
    # Only positions where the piece lies wholly inside.
    inside = slice((piece.size - 1) * _FINE, window.size * _FINE)
    return float(_correlations(piece, window, _FINE)[inside].max())


def _correlations(piece: _Samples, heard: _Samples, fine: int = 1) -> _Samples:
    """Normalised correlation at every lag, ``fine`` of them a sample, from one of overlap on."""
    size = piece.size + heard.size - 1
    spectrum = np.fft.rfft(heard, size) * np.fft.rfft(piece[::-1], size)
    # A longer inverse transform is the same function, read between its samples.
    products = np.fft.irfft(spectrum, size * fine) * fine
    squares = np.concatenate(([0.0], np.cumsum(np.pad(heard**2, (piece.size - 1, piece.size - 1)))))
    energy = np.repeat(squares[piece.size :] - squares[: -piece.size], fine)
    # Where hardly anything was heard, rounding errors would look like likeness.
    floor = piece.size * _NOISE_RMS**2 / 100
    scale = np.sqrt(np.maximum(energy, floor) * max(float((piece**2).sum()), 1e-9))
    return np.asarray(products / scale, dtype=np.float64)
