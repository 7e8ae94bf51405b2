"""Change the sample rate of a stream by one small linear-phase filter.

The filter of each ratio is designed here; numpy applies it here, and where it could be built the
compiled converter does, to the same bytes (``compiled.py``).

A frame becomes one matrix product. The filter is laid out as a matrix that turns a row of input
(some history, then a few groups of new samples) into a row of output; every row of a frame overlaps
the one before it. A *group* is the smallest number of input samples that makes a whole number of
output samples: 1 -> 3 for 8 to 24 kHz, 2 -> 3 for 16 to 24 kHz.

What comes out of the product is not the sample but its *place* in a table of all 65,536 samples.
Every row of input ends in a constant one, and the matrix gives it the weight 32,768.5: so -32,768
is at place 0, and dropping the fraction rounds to the nearest. Reading the table saturates, since
places beyond its ends are taken for the ends, and encodes, since the table may hold mu-law as well.

Why cutting the stream differently cannot change one bit of the result: samples are integers,
coefficients are integers times ``2**-24``, so every product and every partial sum is exact in
float64 (at most ``2**15 * 2**24 * 4``, far below ``2**53``). No order of summation, vector width or
BLAS build can round them differently.

numpy's overhead on arrays this small is as large as the arithmetic. So all streams of a ratio work
in the same memory, whose views are made once; a stream keeps its history and nothing else.

Measured between 8 and 24 kHz: images and aliases of the telephone band are 95 dB down, 300-3400 Hz
is flat to 0.001 dB, sound comes out 2.7 ms late, and a 20 ms frame costs about 6 us. The table of
all ratios: ``python -m tests.benchmarks.print_audio_figures``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil, gcd
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RATES_HZ: Final = (8000, 16000, 24000, 48000)

_PCM: Final = np.dtype("<i2")
_SAMPLE_BYTES: Final = 2
_PLACE_OF_ZERO: Final = 32768.5  # the half makes dropping the fraction a rounding
_Samples = NDArray[np.int16]
_Levels = NDArray[np.float64]
_Places = NDArray[np.intp]
_Table = NDArray[np.unsignedinteger]

_TAPS_A_PHASE: Final = 44  # counted at the slower rate: 22 samples of delay, 2.7 ms at 8 kHz
_KAISER_BETA: Final = 9.0  # side lobes near -90 dB
_CUTOFF: Final = 0.98  # of the slower rate's Nyquist: flat to 3400 Hz, quiet from 4460 Hz
COEFFICIENT_STEP: Final = 2.0**-24  # see above: keeps every sum exact
# How many groups make a row, by what a group gives: 20 to 30 outputs are fastest when measured.
_ROW_GROUPS: Final = {1: 20, 2: 10, 3: 10, 6: 5}
_MOST_ROWS: Final = 80  # longer input is worked on in pieces: bounds memory, stays in the cache


class _Views(NamedTuple):
    """Scratch memory as the so many rows of one product.

    ``windows`` are the overlapping rows of the sound; ``levels`` takes them as float64, and is all
    of ``weighed`` but its last column of ones; ``out`` takes the product and ``places`` the same as
    whole numbers.
    """

    windows: _Samples
    levels: _Levels
    weighed: _Levels
    out: _Levels
    places: _Places


class _Scratch:
    """Memory that the streams of one ratio work in, one after the other.

    What a stream leaves there reaches no other: a product that sees more than the present sound
    only does so in outputs beyond the last whole group, and these are cut off.
    """

    def __init__(self, width: int, row_samples: int, row_outputs: int) -> None:
        # One row longer than the rows are: room for the begun group that is held back.
        memory = bytearray((width + _MOST_ROWS * row_samples) * _SAMPLE_BYTES)
        self.sound: Final = memoryview(memory)
        strides = (row_samples * _SAMPLE_BYTES, _SAMPLE_BYTES)
        windows: _Samples = np.ndarray((_MOST_ROWS, width), _PCM, memory, 0, strides)
        weighed = np.ones((_MOST_ROWS, width + 1))
        out = np.empty((_MOST_ROWS, row_outputs))
        places = np.empty(out.shape, np.intp)
        self.views: Final = [
            _Views(windows[:rows], weighed[:rows, :-1], weighed[:rows], out[:rows], places[:rows])
            for rows in range(_MOST_ROWS + 1)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class LowPass:
    """The filter of one ratio: ``down`` input samples make ``up`` output samples, a group.

    ``taps`` are whole numbers of ``COEFFICIENT_STEP``, at ``up`` times the source rate. An output
    depends on its own group of input and ``history`` samples before it. A sound comes out
    ``delay_ms`` late; ``tail`` more samples bring out all of it and complete a group that has
    begun, if one has.
    """

    taps: _Levels
    up: int
    down: int
    history: int
    tail: int
    delay_ms: float

    def weights(self, groups: int) -> _Levels:
        """What each input sample (row) of so many groups weighs in each output sample (column)."""
        # An output may use every sample of its own group: hence "down - 1".
        outputs = np.arange(groups * self.up) * self.down + self.down - 1
        inputs = (np.arange(self.history + groups * self.down) - self.history) * self.up
        late = outputs[np.newaxis, :] - inputs[:, np.newaxis]
        is_inside = (late >= 0) & (late < len(self.taps))
        return np.where(is_inside, self.taps[late % len(self.taps)], 0.0)


@dataclass(frozen=True, slots=True)
class _Bank:
    """The filter of one ratio laid out as a matrix; read-only, shared by all streams.

    ``matrix`` has one row for each input sample of a row, one for the constant, and one column for
    each output sample of ``row_groups`` groups. ``history_bytes`` of earlier input come first in
    every row. No more than ``most_bytes`` are worked on at once. ``spare`` scratch memory is taken
    out while in use: one, or as many as there are threads.
    """

    matrix: _Levels
    spare: list[_Scratch]
    row_groups: int
    history_bytes: int
    most_bytes: int
    group_bytes: int
    group_out: int


def _prototype(up: int, down: int) -> _Levels:
    """Symmetric low-pass at ``up`` times the source rate, of gain ``up``, in whole steps."""
    phases = max(up, down)
    length = _TAPS_A_PHASE * phases - 1
    from_centre = np.arange(length) - (length - 1) / 2
    taps = np.sinc(from_centre * _CUTOFF / phases) * np.kaiser(length, _KAISER_BETA)
    steps: _Levels = np.rint(taps * (up / taps.sum()) / COEFFICIENT_STEP)
    return steps * COEFFICIENT_STEP


@cache
def low_pass(source_hz: int, target_hz: int) -> LowPass:
    """The filter between two of ``RATES_HZ``; ``ValueError`` names a rate that is none of them."""
    for rate_hz in (source_hz, target_hz):
        if rate_hz not in RATES_HZ:
            raise ValueError(f"{rate_hz} Hz is none of {RATES_HZ}")
    common = gcd(source_hz, target_hz)
    up, down = target_hz // common, source_hz // common
    taps = _prototype(up, down)
    taps.setflags(write=False)
    delay = (len(taps) - 1) // 2 - (down - 1)  # in steps of the rate that both rates divide
    return LowPass(
        taps=taps,
        up=up,
        down=down,
        history=(len(taps) - down) // up,
        tail=(ceil(delay / (up * down)) + 1) * down - 1,
        delay_ms=delay / (up * source_hz) * 1000,
    )


@cache
def _bank(low_pass: LowPass) -> _Bank:
    row_groups = _ROW_GROUPS[low_pass.up]
    weights = low_pass.weights(row_groups)
    matrix = np.vstack((weights, np.full(weights.shape[1], _PLACE_OF_ZERO)))
    matrix.setflags(write=False)
    return _Bank(
        matrix=matrix,
        spare=[],
        row_groups=row_groups,
        history_bytes=low_pass.history * _SAMPLE_BYTES,
        most_bytes=_MOST_ROWS * row_groups * low_pass.down * _SAMPLE_BYTES,
        group_bytes=low_pass.down * _SAMPLE_BYTES,
        group_out=low_pass.up,
    )


@cache
def _table(encode: Callable[[bytes], bytes]) -> _Table:
    """What becomes of each sample, the lowest first."""
    encoded = encode(np.arange(-32768, 32768).astype(_PCM).tobytes())
    return np.frombuffer(encoded, f"<u{len(encoded) // 65536}")


class Resampler:
    """One stream of 16-bit little-endian mono samples from one rate to another.

    Both rates are of ``RATES_HZ``; ``ValueError`` says so otherwise. Input of any length is taken,
    even half a sample; less than one group is held back, so a 20 ms frame gives 20 ms at once.
    Output beyond full scale saturates, then ``encode`` (of ``g711``) says what becomes of a sample.
    ``kept`` is the input that later output depends on: all that it remembers.
    """

    def __init__(
        self, source_hz: int, target_hz: int, encode: Callable[[bytes], bytes] = bytes
    ) -> None:
        self._low_pass = low_pass(source_hz, target_hz)
        self._bank = _bank(self._low_pass)
        self._table = _table(encode)
        self.kept = bytes(self._bank.history_bytes)

    @property
    def delay_ms(self) -> float:
        """How much later a sound comes out than it went in."""
        return self._low_pass.delay_ms

    def resample(self, pcm: bytes) -> bytes:
        """Output of every whole group so far."""
        most_bytes = self._bank.most_bytes
        if len(pcm) <= most_bytes:
            return self._resample_piece(pcm)
        starts = range(0, len(pcm), most_bytes)
        return b"".join(self._resample_piece(pcm[at : at + most_bytes]) for at in starts)

    def flush(self) -> bytes:
        """The sound still inside the filter; afterwards the stream is as new."""
        self.kept = self.kept[: len(self.kept) // _SAMPLE_BYTES * _SAMPLE_BYTES]
        tail = self.resample(bytes(self._low_pass.tail * _SAMPLE_BYTES))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget everything heard so far."""
        self.kept = bytes(self._bank.history_bytes)

    def _resample_piece(self, pcm: bytes) -> bytes:
        bank = self._bank
        sound = self.kept + pcm
        groups = (len(sound) - bank.history_bytes) // bank.group_bytes
        self.kept = sound[groups * bank.group_bytes :]
        encoded = _product(bank, sound, -(-groups // bank.row_groups), self._table)
        return encoded[: groups * bank.group_out * self._table.itemsize]


def _product(bank: _Bank, sound: bytes, rows: int, table: _Table) -> bytes:
    scratch = _spare(bank)
    scratch.sound[: len(sound)] = sound
    windows, levels, weighed, out, places = scratch.views[rows]
    levels[...] = windows
    weighed.dot(bank.matrix, out)
    places[...] = out
    encoded = table.take(places, None, None, "clip").tobytes()
    bank.spare.append(scratch)
    return encoded


def _spare(bank: _Bank) -> _Scratch:
    try:
        return bank.spare.pop()
    except IndexError:
        row_samples = bank.row_groups * bank.group_bytes // _SAMPLE_BYTES
        return _Scratch(len(bank.matrix) - 1, row_samples, bank.row_groups * bank.group_out)
