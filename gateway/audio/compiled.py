"""The compiled converter, where it could be built: the same bytes as numpy's, sooner.

numpy spends most of a frame on itself, the more so in a busy process whose caches hold something
else by the time the next frame comes. ``_native.c`` does a whole frame in one call. It is optional:
an installation without a C compiler goes on without it, and only costs more.
"""

from functools import cache
from typing import Final

import numpy as np

from gateway.audio.g711 import DECODE, ENCODE
from gateway.audio.resample import COEFFICIENT_STEP, low_pass

try:
    from gateway.audio._native import Stream
except ImportError:
    IS_BUILT = False
else:
    IS_BUILT = True

__all__ = ["IS_BUILT", "Stream", "compiled_stream"]

_WINDOW_STEP: Final = 16  # a window is a multiple of so many samples; older ones weigh nothing
_LOW_HALF: Final = 1024  # a weight is high * _LOW_HALF + low


def compiled_stream(
    source_encoding: str, source_hz: int, target_encoding: str, target_hz: int
) -> "Stream":
    """A stream between two different rates; call it only if ``IS_BUILT``."""
    weights, up, down, tail = _filter(source_hz, target_hz)
    return Stream(weights, up, down, tail, _decoder(source_encoding), _encoder(target_encoding))


@cache
def _filter(source_hz: int, target_hz: int) -> tuple[bytes, int, int, int]:
    """Weights as ``_native.c`` reads them, ``up``, ``down`` and ``tail`` of a low-pass."""
    design = low_pass(source_hz, target_hz)
    steps = design.weights(groups=1) / COEFFICIENT_STEP
    return _halves(steps.T), design.up, design.down, design.tail


def _halves(steps: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> bytes:
    """For each output (row) the high halves of what each sample weighs, then the low halves."""
    whole = np.pad(steps.astype(np.int64), ((0, 0), (-steps.shape[1] % _WINDOW_STEP, 0)))
    high = (whole + _LOW_HALF // 2) // _LOW_HALF
    return np.stack((high, whole - high * _LOW_HALF), axis=1).astype("<i2").tobytes()


@cache
def _decoder(encoding: str) -> bytes | None:
    """The sample of each byte; None for PCM."""
    return DECODE[encoding](bytes(range(256))) if encoding in DECODE else None


@cache
def _encoder(encoding: str) -> bytes | None:
    """The byte of each sample without its two lowest bits, the lowest first; None for PCM."""
    samples = np.arange(-32768, 32768, 4).astype("<i2").tobytes()
    return ENCODE[encoding](samples) if encoding in ENCODE else None
