"""G.711: 16-bit linear samples to one byte a sample, mu-law or A-law.

Source of facts: ITU-T G.711 (11/1988), tables 1 (A-law) and 2 (mu-law). The tables know 13 bits
(A-law) or 14 bits (mu-law); the lower bits of a 16-bit sample are dropped, rounding towards minus
infinity.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Final

with warnings.catch_warnings():
    # 3.11 and 3.12 warn that 3.13 has no audioop; there audioop-lts has it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

_SAMPLE_BYTES: Final = 2

ULAW_SILENCE: Final = b"\xff"
ALAW_SILENCE: Final = b"\xd5"


def encode_ulaw(pcm: bytes) -> bytes:
    """Mu-law payload, one byte for each sample of ``pcm`` (a whole number of samples)."""
    return audioop.lin2ulaw(pcm, _SAMPLE_BYTES)


def decode_ulaw(payload: bytes) -> bytes:
    """Linear samples of a mu-law payload, two bytes for each byte."""
    return audioop.ulaw2lin(payload, _SAMPLE_BYTES)


def encode_alaw(pcm: bytes) -> bytes:
    """A-law payload, one byte for each sample of ``pcm`` (a whole number of samples)."""
    return audioop.lin2alaw(pcm, _SAMPLE_BYTES)


def decode_alaw(payload: bytes) -> bytes:
    """Linear samples of an A-law payload, two bytes for each byte."""
    return audioop.alaw2lin(payload, _SAMPLE_BYTES)


ENCODE: Final[Mapping[str, Callable[[bytes], bytes]]] = {"ulaw": encode_ulaw, "alaw": encode_alaw}
DECODE: Final[Mapping[str, Callable[[bytes], bytes]]] = {"ulaw": decode_ulaw, "alaw": decode_alaw}
