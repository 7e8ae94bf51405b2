"""G.711 against the formulas of the recommendation, for every sample and every code."""

import struct
import subprocess
import sys
from bisect import bisect_right

from gateway.audio.g711 import (
    ALAW_SILENCE,
    ULAW_SILENCE,
    decode_alaw,
    decode_ulaw,
    encode_alaw,
    encode_ulaw,
)

SAMPLES = range(-32768, 32768)
CODES = bytes(range(256))

# Decision values of ITU-T G.711: eight segments of sixteen steps, each segment's step twice the
# last one's (but for A-law's first two); in units of 1/8192 (mu-law) or 1/4096 (A-law).
ULAW_DECISIONS = [((2 * step + 32) << segment) - 33 for segment in range(8) for step in range(16)]
ALAW_DECISIONS = [2 * step for step in range(16)] + [
    (2 * step + 32) << (segment - 1) for segment in range(1, 8) for step in range(16)
]


def ulaw_code(sample: int) -> int:
    """The mu-law byte of a 16-bit sample: 14 bits count, all bits are sent inverted."""
    level = sample // 4
    step = bisect_right(ULAW_DECISIONS, abs(level)) - 1
    return (step | (0x80 if level < 0 else 0)) ^ 0xFF


def alaw_code(sample: int) -> int:
    """The A-law byte of a 16-bit sample: 13 bits count, even bits are sent inverted."""
    level = sample // 8
    step = bisect_right(ALAW_DECISIONS, level if level >= 0 else -level - 1) - 1
    return (step | (0x80 if level >= 0 else 0)) ^ 0x55


def ulaw_sample(code: int) -> int:
    """The 16-bit sample of a mu-law byte: the middle of its step."""
    bits = code ^ 0xFF
    segment, step = bits >> 4 & 7, bits & 15
    level = ((2 * step + 33) << segment) - 33
    return 4 * (-level if bits & 0x80 else level)


def alaw_sample(code: int) -> int:
    """The 16-bit sample of an A-law byte: the middle of its step."""
    bits = code ^ 0x55
    segment, step = bits >> 4 & 7, bits & 15
    level = (2 * step + 33) << (segment - 1) if segment else 2 * step + 1
    return 8 * (level if bits & 0x80 else -level)


def sweep() -> bytes:
    """All 65,536 samples."""
    return struct.pack("<65536h", *SAMPLES)


def test_every_sample_has_its_ulaw_code() -> None:
    """Mu-law encoding is byte for byte what the decision values say."""
    assert encode_ulaw(sweep()) == bytes(map(ulaw_code, SAMPLES))


def test_every_sample_has_its_alaw_code() -> None:
    """A-law encoding is byte for byte what the decision values say."""
    assert encode_alaw(sweep()) == bytes(map(alaw_code, SAMPLES))


def test_every_ulaw_code_has_its_sample() -> None:
    """Mu-law decoding gives the middle of each code's step."""
    assert decode_ulaw(CODES) == struct.pack("<256h", *map(ulaw_sample, CODES))


def test_every_alaw_code_has_its_sample() -> None:
    """A-law decoding gives the middle of each code's step."""
    assert decode_alaw(CODES) == struct.pack("<256h", *map(alaw_sample, CODES))


def test_codes_survive_a_round_trip() -> None:
    """Decoding and encoding again changes no A-law byte, and no mu-law byte but negative zero."""
    assert encode_alaw(decode_alaw(CODES)) == CODES
    assert encode_ulaw(decode_ulaw(CODES)) == CODES.replace(b"\x7f", ULAW_SILENCE)


def test_silence_is_the_quietest_code() -> None:
    """The silence bytes are what a zero sample becomes."""
    assert (encode_ulaw(b"\0\0"), encode_alaw(b"\0\0")) == (ULAW_SILENCE, ALAW_SILENCE)


def test_import_warns_nobody() -> None:
    """The deprecation of the standard library's module does not reach the people who use ours."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import gateway.audio.g711"],
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
