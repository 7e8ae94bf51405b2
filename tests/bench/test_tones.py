"""The caller's number and bursts survive what gateways do to sound."""

import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.convert import Converter
from gateway.bench.tones import (
    BURST_FRAME,
    NUMBERS,
    QUIET_FRAMES,
    Ear,
    decoded,
    is_loud,
    number_frames,
)
from gateway.events import ALAW_8K, PCM_24K, ULAW_8K, AudioFormat

FORMATS = (ULAW_8K, ALAW_8K, PCM_24K)


def appends(frames: list[bytes], audio: AudioFormat, batch: int = 1) -> list[bytes]:
    """What a gateway sends on: converted, so many frames at once, in base64."""
    converter = Converter("ulaw", 8000, audio.encoding, audio.rate_hz)
    payloads = [converter.convert(binascii.a2b_base64(frame)) for frame in frames]
    return [
        binascii.b2a_base64(b"".join(payloads[start : start + batch]), newline=False)
        for start in range(0, len(payloads), batch)
    ]


@given(
    st.integers(0, NUMBERS - 1),
    st.sampled_from(FORMATS),
    st.integers(1, 7),
    st.integers(0, 31),
)
def test_a_number_is_understood_through_any_codec_batch_and_late_start(
    number: int, audio: AudioFormat, batch: int, dropped: int
) -> None:
    """Said twice it is heard once, even if its beginning never came; and never as another one."""
    ear = Ear(audio)

    heard = [ear.hear(a) for a in appends((number_frames(number) * 2)[dropped:], audio, batch)]

    assert {value for value in heard if value is not None} == {number}


@pytest.mark.parametrize("audio", FORMATS)
def test_a_burst_stands_out_and_silence_does_not(audio: AudioFormat) -> None:
    """In every format, filtered or not."""
    silent, burst = appends([QUIET_FRAMES[0], BURST_FRAME], audio)

    assert is_loud(decoded(burst, audio))
    assert not is_loud(decoded(silent, audio))


def test_what_is_no_base64_is_no_sound() -> None:
    """A broken gateway does not break the measurement."""
    assert not is_loud(decoded(b"a", PCM_24K))
