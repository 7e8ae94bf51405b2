"""Sound files: what is read and written, and what is refused, by name."""

import io
import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio import wav
from gateway.audio.wav import read_wav, write_stereo_wav, write_wav
from gateway.errors import AudioFileError
from tests.audio.figures import tone

PCM = tone(440, 8000, 1)


def wav_bytes(
    pcm: bytes, *, channels: int = 1, sample_bytes: int = 2, rate_hz: int = 8000
) -> bytes:
    """A WAV file of any shape."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, sample_bytes, rate_hz, 0, "NONE", ""))
        writer.writeframes(pcm)
    return file.getvalue()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Samples survive a file, named by a path or by a string."""
    write_wav(tmp_path / "tone.wav", PCM, 8000)
    assert read_wav(tmp_path / "tone.wav", 8000) == PCM
    assert read_wav(str(tmp_path / "tone.wav"), 8000) == PCM


def test_an_open_stream_is_read() -> None:
    """A stream that cannot seek or tell its length will do."""
    assert read_wav(io.BytesIO(wav_bytes(PCM)), 8000) == PCM


@pytest.mark.parametrize("rate_hz", [16000, 24000, 48000])
def test_other_rates_stay_aligned(rate_hz: int) -> None:
    """A tone read at another rate is that tone, of the same length and in step with it."""
    read = np.frombuffer(read_wav(io.BytesIO(wav_bytes(PCM)), rate_hz), "<i2").astype(float)
    expected = np.frombuffer(tone(440, rate_hz, 1), "<i2").astype(float)
    assert len(read) == rate_hz
    middle = slice(rate_hz // 10, -rate_hz // 10)
    assert np.abs(read[middle] - expected[middle]).max() < 4


def test_down_to_a_telephone_stays_aligned() -> None:
    """A 24 kHz file read at 8 kHz begins and ends where it did."""
    read = np.frombuffer(
        read_wav(io.BytesIO(wav_bytes(tone(440, 24000, 1), rate_hz=24000)), 8000), "<i2"
    )
    expected = np.frombuffer(PCM, "<i2")
    assert len(read) == 8000
    assert np.abs(read[800:-800].astype(float) - expected[800:-800]).max() < 4


def test_two_tracks_make_two_channels(tmp_path: Path) -> None:
    """The caller is left, the agent right; silence fills up the shorter one."""
    path = tmp_path / "call.wav"
    write_stereo_wav(path, b"\1\0\2", b"\3\0", 24000)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (2, 2, 24000, 2)
        assert file.readframes(9) == b"\1\0\3\0\2\0\0\0"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (wav_bytes(PCM, channels=2), "2 channel"),
        (wav_bytes(PCM, sample_bytes=1), "8 bits"),
        (wav_bytes(PCM[:15999], sample_bytes=3), "24 bits"),
        (wav_bytes(PCM, rate_hz=44100), "44100 Hz"),
        (wav_bytes(b""), "holds no sound"),
        (b"", "no WAV file"),
        (b"ID3" + bytes(100), "no WAV file"),
        (wav_bytes(PCM)[:20] + b"\x07" + wav_bytes(PCM)[21:], "no WAV file"),
    ],
    ids=["stereo", "8-bit", "24-bit", "44.1 kHz", "no samples", "no bytes", "mp3", "mu-law"],
)
def test_unusable_files_are_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    """Each refusal names the file and what is wrong with it."""
    path = tmp_path / "greeting.wav"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=rf"greeting\.wav: .*{complaint}"):
        read_wav(path, 8000)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """So is one that is not there, and one that is a folder."""
    with pytest.raises(AudioFileError, match=r"none\.wav: No such file"):
        read_wav(tmp_path / "none.wav", 8000)
    with pytest.raises(AudioFileError, match="directory"):
        read_wav(tmp_path, 8000)


def test_no_more_than_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless stream is given up one byte after the limit."""
    monkeypatch.setattr(wav, "MAX_FILE_BYTES", 1000)
    stream = io.BytesIO(wav_bytes(PCM))
    with pytest.raises(AudioFileError, match="longer than 1000 bytes"):
        read_wav(stream, 8000)
    assert stream.tell() == 1001


def test_a_cut_off_file_gives_what_is_there() -> None:
    """A recorder that died leaves a header that promises more; whole samples of it are read."""
    assert read_wav(io.BytesIO(wav_bytes(PCM)[:-3]), 8000) == PCM[:-4]


@given(st.binary(max_size=80), st.integers(0, 60), st.binary(max_size=8))
def test_no_file_can_crash_us(noise: bytes, at: int, patch: bytes) -> None:
    """Any bytes, and any damage to a good file, are read or refused in our own words."""
    good = wav_bytes(PCM[:32])
    for content in (noise, good[:at] + patch + good[at + len(patch) :], good[:at] + noise):
        with suppress(AudioFileError):
            assert len(read_wav(io.BytesIO(content), 8000)) % 2 == 0
