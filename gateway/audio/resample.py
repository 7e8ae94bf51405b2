"""Change the sample rate of a stream by one small linear-phase filter.

A frame becomes one matrix product. The filter is laid out as a matrix that turns a row of input
(some history, then a few groups of new samples) into a row of output; every row of a frame overlaps
the one before it. A *group* is the smallest number of input samples that makes a whole number of
output samples: 1 -> 3 for 8 to 24 kHz, 2 -> 3 for 16 to 24 kHz.

Why cutting the stream differently cannot change one bit of the result: samples are integers,
coefficients are integers times ``2**-24``, so every product and every partial sum is exact in
float64 (at most ``2**15 * 2**24 * 2``, far below ``2**53``). No order of summation, vector width or
BLAS build can round them differently.

Measured between 8 and 24 kHz: images and aliases of the telephone band are 95 dB down, 300-3400 Hz
is flat to 0.001 dB, sound comes out 2.7 ms late, and a 20 ms frame costs about 10 us. The table of
all ratios: ``python -m tests.benchmarks.print_audio_figures``.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATES_HZ: Final = (8000, 16000, 24000, 48000)

_PCM: Final = np.dtype("<i2")
_SAMPLE_BYTES: Final = 2
_LOWEST: Final = np.array(-32768.0)
_HIGHEST: Final = np.array(32767.0)
_Samples = NDArray[np.int16]
_Levels = NDArray[np.float64]

_TAPS_A_PHASE: Final = 44  # counted at the slower rate: 22 samples of delay, 2.7 ms at 8 kHz
_KAISER_BETA: Final = 9.0  # side lobes near -90 dB
_CUTOFF: Final = 0.98  # of the slower rate's Nyquist: flat to 3400 Hz, quiet from 4460 Hz
_COEFFICIENT_STEP: Final = 2.0**-24  # see above: keeps every sum exact
_ROW_SAMPLES: Final = 48  # output of one matrix row at the faster rate: fastest when measured
_MOST_BYTES: Final = 9600  # work in pieces: bounds memory, stays in the cache


@dataclass(frozen=True, slots=True)
class _Bank:
    """The filter of one ratio laid out as a matrix; read-only, shared by all streams.

    ``matrix`` has one row for each input sample of ``width`` and one column for each output sample
    of ``row_groups`` groups. ``history_bytes`` of earlier input come first in every row. A sound
    comes out ``delay_ms`` late, which is ``delay_groups`` rounded up.
    """

    matrix: _Levels
    width: int
    row_groups: int
    history_bytes: int
    group_bytes: int
    group_out_bytes: int
    delay_groups: int
    delay_ms: float


def _prototype(up: int, down: int) -> _Levels:
    """Symmetric low-pass at ``up`` times the source rate, of gain ``up``, in whole steps."""
    phases = max(up, down)
    length = _TAPS_A_PHASE * phases - 1
    from_centre = np.arange(length) - (length - 1) / 2
    taps = np.sinc(from_centre * _CUTOFF / phases) * np.kaiser(length, _KAISER_BETA)
    steps: _Levels = np.rint(taps * (up / taps.sum()) / _COEFFICIENT_STEP)
    return steps * _COEFFICIENT_STEP


def _matrix(taps: _Levels, up: int, down: int, history: int, row_groups: int) -> _Levels:
    """The taps laid out: the place of each in a column follows from how late its input is."""
    # An output may use every sample of its own group: hence "down - 1".
    outputs = np.arange(row_groups * up) * down + down - 1
    inputs = (np.arange(history + row_groups * down) - history) * up
    late = outputs[np.newaxis, :] - inputs[:, np.newaxis]
    matrix = np.where((late >= 0) & (late < len(taps)), taps[late % len(taps)], 0.0)
    matrix.setflags(write=False)
    return matrix


@cache
def _bank(source_hz: int, target_hz: int) -> _Bank:
    common = gcd(source_hz, target_hz)
    up, down = target_hz // common, source_hz // common
    taps = _prototype(up, down)
    delay = (len(taps) - 1) // 2 - (down - 1)  # in steps of the rate that both rates divide
    history = (len(taps) - down) // up
    row_groups = _ROW_SAMPLES // max(up, down)
    return _Bank(
        matrix=_matrix(taps, up, down, history, row_groups),
        width=history + row_groups * down,
        row_groups=row_groups,
        history_bytes=history * _SAMPLE_BYTES,
        group_bytes=down * _SAMPLE_BYTES,
        group_out_bytes=up * _SAMPLE_BYTES,
        delay_groups=ceil(delay / (up * down)),
        delay_ms=delay / (up * source_hz) * 1000,
    )


class Resampler:
    """One stream of 16-bit little-endian mono samples from one rate to another.

    Both rates are of ``RATES_HZ``; ``ValueError`` says so otherwise. Input of any length is taken,
    even half a sample; less than one group is held back, so a 20 ms frame gives 20 ms at once.
    Output beyond full scale saturates.
    """

    def __init__(self, source_hz: int, target_hz: int) -> None:
        for rate_hz in (source_hz, target_hz):
            if rate_hz not in RATES_HZ:
                raise ValueError(f"{rate_hz} Hz is none of {RATES_HZ}")
        self._bank = _bank(source_hz, target_hz)
        self._kept = bytes(self._bank.history_bytes)

    @property
    def delay_ms(self) -> float:
        """How much later a sound comes out than it went in."""
        return self._bank.delay_ms

    def resample(self, pcm: bytes) -> bytes:
        """Output of every whole group so far."""
        if len(pcm) <= _MOST_BYTES:
            return self._resample_piece(pcm)
        starts = range(0, len(pcm), _MOST_BYTES)
        return b"".join(self._resample_piece(pcm[at : at + _MOST_BYTES]) for at in starts)

    def flush(self) -> bytes:
        """The sound still inside the filter; afterwards the stream is as new."""
        bank = self._bank
        self._kept = self._kept[: len(self._kept) // _SAMPLE_BYTES * _SAMPLE_BYTES]
        # One sample short of a group more: enough to complete a group that has begun, if one has.
        tail = self.resample(bytes((bank.delay_groups + 1) * bank.group_bytes - _SAMPLE_BYTES))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._kept = bytes(self._bank.history_bytes)

    def _resample_piece(self, pcm: bytes) -> bytes:
        bank = self._bank
        sound = self._kept + pcm
        groups = (len(sound) - bank.history_bytes) // bank.group_bytes
        used_bytes = groups * bank.group_bytes
        self._kept = sound[used_bytes:]
        rows = -(-groups // bank.row_groups)
        return _product(bank, sound, rows)[: groups * bank.group_out_bytes]


def _product(bank: _Bank, sound: bytes, rows: int) -> bytes:
    row_bytes = bank.row_groups * bank.group_bytes
    missing_bytes = bank.history_bytes + rows * row_bytes - len(sound)
    if missing_bytes > 0:  # what comes of the padding is beyond the last whole group
        sound += bytes(missing_bytes)
    windows: _Samples = np.ndarray((rows, bank.width), _PCM, sound, 0, (row_bytes, _SAMPLE_BYTES))
    out: _Levels = windows.astype(np.float64).dot(bank.matrix)
    np.rint(out, out)
    # The method with ready-made limits costs a third of numpy.clip with plain numbers.
    out.clip(_LOWEST, _HIGHEST, out)
    return out.astype(_PCM).tobytes()
