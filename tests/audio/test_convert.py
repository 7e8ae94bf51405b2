"""The converter: every pair of formats, untouched where they are equal, whole samples only."""

from itertools import pairwise, product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.convert import Converter, Encoding, silence
from gateway.audio.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw
from gateway.audio.resample import RATES_HZ, Resampler
from tests.audio.figures import tone

FORMATS = list(product(get_args(Encoding), RATES_HZ))
VOICE = tone(440, 8000, 1)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_silence_becomes_silence(
    source: tuple[Encoding, int], target: tuple[Encoding, int]
) -> None:
    """20 ms of silence in any format is 20 ms of near silence in any other: A-law has no zero."""
    converted = Converter(*source, *target).convert(silence(*source, 20))
    assert len(converted) == len(silence(*target, 20))
    pcm = Converter(*target, "pcm", target[1]).convert(converted)
    assert set(memoryview(pcm).cast("h")) <= set(range(-8, 10))


def test_ulaw_to_24_khz_is_decoded_then_resampled() -> None:
    """The caller's way up: what the codec and the resampler give one after the other."""
    payload = encode_ulaw(VOICE)
    expected = Resampler(8000, 24000).resample(decode_ulaw(payload))
    assert Converter("ulaw", 8000, "pcm", 24000).convert(payload) == expected


def test_24_khz_to_alaw_is_resampled_then_encoded() -> None:
    """The agent's way down: what the resampler and the codec give one after the other."""
    pcm = tone(440, 24000, 1)
    expected = encode_alaw(Resampler(24000, 8000).resample(pcm))
    assert Converter("pcm", 24000, "alaw", 8000).convert(pcm) == expected


def test_between_the_laws_no_filter_is_used() -> None:
    """At one rate mu-law becomes A-law sample by sample, without delay."""
    converter = Converter("ulaw", 8000, "alaw", 8000)
    payload = encode_ulaw(VOICE)
    assert converter.convert(payload) == encode_alaw(decode_ulaw(payload))
    assert converter.delay_ms == 0


@given(payload=st.binary(max_size=400))
def test_equal_formats_pass_untouched(payload: bytes) -> None:
    """The same object comes back; there is no tail."""
    for encoding, rate_hz in FORMATS:
        converter = Converter(encoding, rate_hz, encoding, rate_hz)
        assert converter.convert(payload) is payload
        assert converter.flush() == b""


@given(cuts=st.lists(st.integers(0, 1920), max_size=8))
@pytest.mark.parametrize("target_hz", [8000, 24000])
def test_half_samples_wait_for_their_other_half(target_hz: int, cuts: list[int]) -> None:
    """PCM cut anywhere converts as if it had come whole."""
    whole, cut = (Converter("pcm", 24000, "ulaw", target_hz) for _ in range(2))
    pcm = tone(440, 24000, 1)[:1920]
    edges = [0, *sorted(cuts), len(pcm)]
    pieces = [cut.convert(pcm[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) == whole.convert(pcm)


@pytest.mark.parametrize("target_hz", [8000, 24000])
def test_flush_and_reset_begin_anew(target_hz: int) -> None:
    """After either, half a sample and all earlier sound are forgotten."""
    converter = Converter("pcm", 24000, "ulaw", target_hz)
    first = converter.convert(VOICE)
    converter.convert(b"\x55")
    converter.flush()
    assert converter.convert(VOICE) == first
    converter.convert(b"\x55")
    converter.reset()
    assert converter.convert(VOICE) == first


def test_flush_brings_the_tail() -> None:
    """A flush gives as much sound as the filter delays, encoded."""
    converter = Converter("pcm", 24000, "alaw", 8000)
    converter.convert(tone(440, 24000, 1))
    tail = converter.flush()
    assert len(tail) == converter.delay_ms * 8
    assert max(map(abs, memoryview(decode_alaw(tail)).cast("h"))) > 1000


@pytest.mark.parametrize("payload_type", [bytearray, memoryview])
def test_any_bytes_will_do(payload_type: type) -> None:
    """A bytearray or memoryview converts as bytes do."""
    payload = payload_type(tone(440, 24000, 1))
    converted = Converter("pcm", 24000, "ulaw", 8000).convert(payload)
    assert converted == Converter("pcm", 24000, "ulaw", 8000).convert(bytes(payload))


@pytest.mark.parametrize(("encoding", "rate_hz"), [("opus", 8000), ("pcm", 44100)])
def test_unknown_formats_are_refused(encoding: Encoding, rate_hz: int) -> None:
    """A format it cannot convert is an error that names it, on either side."""
    with pytest.raises(ValueError, match=f"{encoding}.*{rate_hz}"):
        Converter(encoding, rate_hz, "pcm", 8000)
    with pytest.raises(ValueError, match=f"{encoding}.*{rate_hz}"):
        Converter("pcm", 8000, encoding, rate_hz)


def test_silence_lasts_as_long_as_asked() -> None:
    """One byte a sample for G.711, two for PCM, each its own zero."""
    assert silence("pcm", 24000, 20) == bytes(960)
    assert silence("ulaw", 8000, 20) == b"\xff" * 160
    assert silence("alaw", 16000, 5) == b"\xd5" * 80
