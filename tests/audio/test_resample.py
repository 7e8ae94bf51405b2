"""The resampler against its bar, against plain integer arithmetic, and however it is fed."""

import hashlib
from fractions import Fraction
from itertools import pairwise, permutations
from math import floor, gcd
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.audio import resample
from gateway.audio.convert import Converter
from gateway.audio.resample import RATES_HZ, Resampler
from gateway.audio.wav import read_wav
from tests.audio.figures import band_hz, measured, tone

RATIOS = list(permutations(RATES_HZ, 2))
CALLER = Path(resample.__file__).parents[1] / "prompts" / "caller.wav"

pytestmark = pytest.mark.usefixtures("each_converter")
every_ratio = pytest.mark.parametrize(("source_hz", "target_hz"), RATIOS)


def resampler(source_hz: int, target_hz: int) -> Converter:
    """One stream of PCM from one rate to another, by the converter whose turn it is."""
    return Converter("pcm", source_hz, "pcm", target_hz)


def noise(samples: int) -> bytes:
    """Full-scale noise that is the same everywhere: a linear congruential generator's high bits."""
    state, pcm = 1, bytearray()
    for _ in range(samples):
        state = (state * 1664525 + 1013904223) % 2**32
        pcm += (state >> 16).to_bytes(2, "little")
    return bytes(pcm)


def plainly_resampled(source_hz: int, target_hz: int, pcm: bytes) -> bytes:
    """The same filter as a sum of fractions for each output sample, without any matrix."""
    up, down = (hz // gcd(source_hz, target_hz) for hz in (target_hz, source_hz))
    taps = [Fraction(float(tap)) for tap in resample._prototype(up, down)]
    samples = np.frombuffer(pcm, "<i2").tolist()
    out = []
    for at in range(len(samples) // down * up):
        newest = at * down + down - 1
        level = sum(
            taps[newest - up * index] * sample
            for index, sample in enumerate(samples)
            if 0 <= newest - up * index < len(taps)
        )
        out.append(min(max(floor(level + Fraction(1, 2)), -32768), 32767))
    return np.array(out, "<i2").tobytes()


@every_ratio
def test_meets_its_bar(source_hz: int, target_hz: int) -> None:
    """Images and aliases, pass band and delay are what the design asks for, at every ratio."""
    figures = measured(source_hz, target_hz)
    assert figures.unwanted_db <= -90
    assert -0.01 <= figures.least_gain_db <= figures.most_gain_db <= 0.01
    assert figures.delay_ms <= 3


@every_ratio
def test_says_its_delay(source_hz: int, target_hz: int) -> None:
    """The delay it tells is the delay that tones show."""
    delay_ms = resampler(source_hz, target_hz).delay_ms
    assert delay_ms == pytest.approx(measured(source_hz, target_hz).delay_ms, abs=0.001)


@every_ratio
def test_a_frame_in_is_a_frame_out(source_hz: int, target_hz: int) -> None:
    """Nothing of a 20 ms frame is held back, not even of the first one."""
    stream = resampler(source_hz, target_hz)
    frame_bytes = source_hz // 50 * 2
    for start in range(0, 3 * frame_bytes, frame_bytes):
        frame = noise(3 * frame_bytes // 2)[start : start + frame_bytes]
        assert len(stream.convert(frame)) == target_hz // 50 * 2


@every_ratio
def test_equals_plain_exact_arithmetic(source_hz: int, target_hz: int) -> None:
    """The matrix gives what fractions give, for full-scale noise that also saturates."""
    pcm = noise(120)
    assert resampler(source_hz, target_hz).convert(pcm) == plainly_resampled(
        source_hz, target_hz, pcm
    )


def delayed(samples: NDArray[np.int16], by_samples: float) -> NDArray[np.float64]:
    """The same sound later, by a part of a sample too: each frequency turned by its share."""
    bins = np.fft.rfft(samples)
    turns = np.fft.rfftfreq(len(samples)) * by_samples
    return np.fft.irfft(bins * np.exp(-2j * np.pi * turns), len(samples))


@pytest.mark.parametrize("sample", [-16384, 16384])
@pytest.mark.parametrize("late", [0, 1, 2])
def test_half_a_step_is_rounded_up(sample: int, late: int) -> None:
    """The one loudness of which a tap makes an odd number of halves: 14.5 is 15, -14.5 is -14."""
    halves = {Fraction(float(tap)) * sample for tap in resample._prototype(1, 3)}
    assert Fraction(-29 * sample, 2 * 16384) in halves
    pcm = np.array([*[0] * late, sample, *[0] * 150], "<i2").tobytes()
    assert resampler(24000, 8000).convert(pcm) == plainly_resampled(24000, 8000, pcm)


GOLDEN = {
    (8000, 16000): "0baa69a1d7ac7b14",
    (8000, 24000): "19cf04fce796c513",
    (8000, 48000): "49682b638e9392a5",
    (16000, 8000): "bd5cc96995aa3848",
    (16000, 24000): "353d396e577fdb87",
    (16000, 48000): "5165a3cf75016576",
    (24000, 8000): "8623dc9cb40e04fa",
    (24000, 16000): "1ffcd225aa0d7fe0",
    (24000, 48000): "a548355aa147ba7a",
    (48000, 8000): "21c328b106a12cec",
    (48000, 16000): "0b18eb5341b6e586",
    (48000, 24000): "74c3ea6b2556303f",
}


@every_ratio
def test_bytes_are_the_same_everywhere(source_hz: int, target_hz: int) -> None:
    """One second of noise gives the bytes it gave on every Python, numpy and processor so far."""
    stream = resampler(source_hz, target_hz)
    pcm = stream.convert(noise(source_hz)) + stream.flush()
    assert hashlib.sha256(pcm).hexdigest()[:16] == GOLDEN[source_hz, target_hz]


@given(
    ratio=st.sampled_from(RATIOS),
    pcm=st.binary(max_size=3000),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_cutting_the_stream_changes_no_bit(
    ratio: tuple[int, int], pcm: bytes, cuts: list[int]
) -> None:
    """Any cutting, even through samples, gives the same bytes, before and after a flush."""
    whole, cut = resampler(*ratio), resampler(*ratio)
    edges = [0, *sorted(cuts), len(pcm)]
    expected = whole.convert(pcm) + whole.flush()
    pieces = [cut.convert(pcm[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) + cut.flush() == expected
    assert cut.convert(pcm) + cut.flush() == expected


def test_long_input_equals_short_pieces() -> None:
    """A whole recording at once gives what its frames give, though it is worked on in pieces."""
    at_once, framed = resampler(8000, 24000), resampler(8000, 24000)
    pcm = noise(40_001)
    frames = [framed.convert(pcm[start : start + 320]) for start in range(0, len(pcm), 320)]
    assert at_once.convert(pcm) == b"".join(frames)


@every_ratio
def test_flush_gives_the_end_of_the_sound(source_hz: int, target_hz: int) -> None:
    """After a flush everything that went in has come out, the delay later."""
    stream = resampler(source_hz, target_hz)
    out = stream.convert(noise(source_hz // 50 + 1)) + stream.flush()
    out_ms = len(out) / 2 / target_hz * 1000
    in_ms = 20 + 1000 / source_hz
    assert 0 <= out_ms - in_ms - stream.delay_ms < 2 * 1000 / 8000


def test_reset_forgets() -> None:
    """After a reset silence is silent again."""
    stream = resampler(24000, 8000)
    stream.convert(noise(481) + b"\x01")
    stream.reset()
    assert not any(stream.convert(bytes(960)))


@every_ratio
def test_full_scale_saturates(source_hz: int, target_hz: int) -> None:
    """A full-scale square wave overshoots into the limit and never wraps to the other sign."""
    half = source_hz // 500
    square = np.where(np.arange(source_hz // 10) // half % 2, -32768, 32767).astype("<i2")
    out = np.frombuffer(resampler(source_hz, target_hz).convert(square.tobytes()), "<i2")
    period = np.abs(out[target_hz // 25 :].astype(int)).reshape(-1, target_hz // 500)
    assert {out.min(), out.max()} == {-32768, 32767}
    # Each half wave is loud but for the filter's slope at its two ends.
    assert (np.sort(period, axis=1)[:, period.shape[1] // 3 :] > 25000).all()


def test_streams_share_nothing() -> None:
    """What one stream hears does not reach another of the same ratio."""
    loud, quiet = resampler(8000, 24000), resampler(8000, 24000)
    loud.convert(tone(440, 8000, 1))
    assert not any(quiet.convert(bytes(320)))


def test_unknown_rate_is_refused() -> None:
    """A rate it was not made for is an error that names the rate."""
    with pytest.raises(ValueError, match="44100"):
        Resampler(44100, 8000)


def test_speech_survives_the_way_there_and_back() -> None:
    """A voice taken from 8 to 24 kHz and back is the same voice, in every second of it."""
    pcm = read_wav(CALLER, 8000)
    up, down = resampler(8000, 24000), resampler(24000, 8000)
    back = np.frombuffer(down.convert(up.convert(pcm)), "<i2").astype(float)
    voice = delayed(np.frombuffer(pcm, "<i2"), (up.delay_ms + down.delay_ms) * 8)
    for start in range(0, len(voice) - 7999, 8000):
        second = slice(start, start + 8000)
        assert np.corrcoef(voice[second], back[second])[0, 1] > 0.999


def test_band_is_probed_in_full() -> None:
    """The probing tones reach from 300 to 3400 Hz at a telephone's rate."""
    probed = band_hz(8000)
    assert (min(probed), max(probed)) == (301, 3399)
