"""The yardstick of the call tests: it finds what is there, and notices what is not."""

import numpy as np
import pytest

from gateway.audio.compare import correlation_per_second

_RATE_HZ = 8000


def _speech(seconds: int, seed: int) -> bytes:
    """Noise as loud as speech; no two stretches of it are alike."""
    samples = np.random.default_rng(seed).normal(0, 3000, seconds * _RATE_HZ)
    return samples.astype("<i2").tobytes()


def _silence(seconds: float) -> bytes:
    return bytes(2 * int(seconds * _RATE_HZ))


@pytest.mark.parametrize("delay_s", [0, 0.013, 1.7])
def test_the_same_sound_later_is_the_same(delay_s: float) -> None:
    """A delay costs nothing, a change of loudness neither."""
    said = _speech(3, seed=1)
    quieter = (np.frombuffer(said, "<i2") // 2).astype("<i2").tobytes()

    assert correlation_per_second(said, _silence(delay_s) + said, _RATE_HZ) == pytest.approx(
        [1.0] * 3
    )
    assert min(correlation_per_second(said, _silence(delay_s) + quieter, _RATE_HZ)) > 0.999


def test_part_of_a_sample_does_not_matter() -> None:
    """Sound moved by a third of a sample is the same sound."""
    spectrum = np.fft.rfft(np.frombuffer(_speech(2, seed=1), "<i2"))
    band = np.linspace(0, _RATE_HZ / 2, spectrum.size)
    spectrum[band > 3400] = 0
    said = np.fft.irfft(spectrum)
    heard = np.fft.irfft(spectrum * np.exp(-2j * np.pi * band / _RATE_HZ / 3))

    alike = correlation_per_second(
        said.astype("<i2").tobytes(), heard.astype("<i2").tobytes(), _RATE_HZ
    )

    assert min(alike) > 0.999


def test_utterances_may_move_apart() -> None:
    """A pause that lasts longer on the other side does not matter."""
    first, second = _speech(1, seed=1), _speech(2, seed=2)

    alike = correlation_per_second(
        first + _silence(0.5) + second, first + _silence(4) + second, _RATE_HZ
    )

    assert alike == pytest.approx([1.0] * 3)


def test_a_lost_second_is_seen() -> None:
    """One second replaced by other sound is the one that stands out."""
    said = _speech(3, seed=1)
    second_bytes = 2 * _RATE_HZ
    heard = said[:second_bytes] + _speech(1, seed=2) + said[2 * second_bytes :]

    alike = correlation_per_second(said, heard, _RATE_HZ)

    assert [value > 0.9 for value in alike] == [True, False, True]


def test_a_lost_frame_is_seen() -> None:
    """Twenty milliseconds gone from the middle of a second break its likeness."""
    said = _speech(3, seed=1)
    hole = 2 * (_RATE_HZ + _RATE_HZ // 2)

    alike = correlation_per_second(said, said[:hole] + said[hole + 320 :], _RATE_HZ)

    assert alike[0] > 0.99
    assert alike[1] < 0.9
    assert alike[2] > 0.99


@pytest.mark.parametrize("heard", [b"", _silence(3), _speech(3, seed=9)])
def test_other_sound_is_not_alike(heard: bytes) -> None:
    """Nothing, silence and somebody else's words are not what was said."""
    alike = correlation_per_second(_speech(3, seed=1), heard, _RATE_HZ)

    assert len(alike) == 3
    assert max(alike) < 0.2


def test_silence_is_not_compared() -> None:
    """Seconds without speech say nothing, so they do not count."""
    assert correlation_per_second(_silence(3), _speech(3, seed=1), _RATE_HZ) == []
