"""Measure a resampler from outside, by tones through the integer samples it takes."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.audio.convert import Converter

# At the slower rate of 8000 Hz: the telephone band, and the least that may fold into it.
BAND: Final = (300 / 8000, 3400 / 8000)
_AMPLITUDE: Final = 30000
_SETTLED_S: Final = 1  # the second that is looked at comes after one of settling

Levels = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figures:
    """What ``measured`` found for one ratio; levels in dB, relative to the wanted tone."""

    unwanted_db: float
    least_gain_db: float
    most_gain_db: float
    delay_ms: float


def tone(frequency_hz: float, rate_hz: int, duration_s: int) -> bytes:
    """Samples of one sine."""
    at = np.arange(rate_hz * duration_s) / rate_hz
    wave: Levels = _AMPLITUDE * np.sin(2 * np.pi * frequency_hz * at)
    return bytes(np.rint(wave).astype("<i2"))


def spectrum(source_hz: int, target_hz: int, frequency_hz: int) -> NDArray[np.complex128]:
    """What comes out of one tone, one bin a hertz, 1.0 = as loud as it went in."""
    converter = Converter("pcm", source_hz, "pcm", target_hz)
    pcm = converter.convert(tone(frequency_hz, source_hz, _SETTLED_S + 1))
    second = np.frombuffer(pcm, "<i2")[target_hz * _SETTLED_S :].astype(np.float64)
    return np.fft.rfft(second) / (target_hz / 2 * _AMPLITUDE)


@cache
def measured(source_hz: int, target_hz: int) -> Figures:
    """The figures of one ratio: images going up, aliases going down."""
    slower_hz = min(source_hz, target_hz)
    gains_db, strays_db = [], []
    for frequency_hz in band_hz(slower_hz):
        levels = np.abs(spectrum(source_hz, target_hz, frequency_hz))
        gains_db.append(_db(levels[frequency_hz]))
        levels[frequency_hz] = 0
        strays_db.append(_db(levels.max()))
    for frequency_hz in _folding_hz(source_hz, target_hz):
        levels = np.abs(spectrum(source_hz, target_hz, frequency_hz))
        strays_db.append(_db(levels.max()))
    return Figures(max(strays_db), min(gains_db), max(gains_db), _delay_ms(source_hz, target_hz))


def band_hz(slower_hz: int) -> list[int]:
    """Frequencies all over the band, odd ones: rounding errors then spread over all bins."""
    low_hz, high_hz = (edge * slower_hz for edge in BAND)
    return [int(hz) | 1 for hz in np.linspace(low_hz, high_hz - 1, 24)]


def _folding_hz(source_hz: int, target_hz: int) -> list[int]:
    """Frequencies of the source that a bad filter would fold into the band."""
    image_of = (
        around_hz + sign * hz
        for around_hz in range(target_hz, source_hz, target_hz)
        for sign in (-1, 1)
        for hz in band_hz(target_hz)
    )
    return [hz for hz in image_of if hz < source_hz / 2]


def _delay_ms(source_hz: int, target_hz: int) -> float:
    """Group delay at 1 kHz, from the phases of two tones."""
    low_hz, high_hz = 990, 1010
    low, high = (spectrum(source_hz, target_hz, hz)[hz] for hz in (low_hz, high_hz))
    turn = -np.angle(high / low)
    return float(turn / (2 * np.pi * (high_hz - low_hz)) * 1000)


def _db(level: float) -> float:
    return float(20 * np.log10(max(level, 1e-12)))
