"""Plans of calls."""

from pathlib import Path

import pytest

from gateway.audio.wav import write_wav
from gateway.errors import AudioFileError
from gateway.simulator.callplan import PLAN_RATE_HZ, Utterance, When


def test_an_utterance_from_a_file(tmp_path: Path) -> None:
    """A file of another rate becomes PCM at the plan's rate, as long as it was."""
    path = tmp_path / "a.wav"
    write_wav(path, b"\x01\x00" * 8000, 8000)
    utterance = Utterance.from_wav(str(path), When("pause", 1.0))
    assert utterance.rate_hz == PLAN_RATE_HZ
    assert len(utterance.pcm) == pytest.approx(2 * PLAN_RATE_HZ, abs=200)
    assert utterance.when == When("pause", 1.0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(AudioFileError, match=r"none\.wav"):
        Utterance.from_wav(str(tmp_path / "none.wav"))
