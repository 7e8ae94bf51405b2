"""The recordings that come with the gateway can be used, and are credited."""

from pathlib import Path

import pytest

from gateway.audio import resample
from gateway.audio.wav import read_wav

PROMPTS = Path(resample.__file__).parents[1] / "prompts"
SOUNDS = Path(__file__).parents[1] / "sounds"

# What each must fit into: a prompt that drags on is a defect.
LONGEST_S = {
    "answer.wav": 7,
    "apology.wav": 5,
    "caller-short.wav": 3,
    "caller.wav": 12,
    "goodbye.wav": 2,
    "hello.wav": 4,
    "one-moment-please.wav": 2,
}


def recordings() -> list[Path]:
    """Every sound file of the package and its tests."""
    return sorted([*PROMPTS.glob("*.wav"), *SOUNDS.glob("*.wav")], key=lambda path: path.name)


def test_every_recording_is_known() -> None:
    """No recording is missing, none came along by accident."""
    assert [path.name for path in recordings()] == sorted(LONGEST_S)


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_recording_is_audible_and_short(path: Path) -> None:
    """Each is whole 20 ms frames at a telephone's rate, loud enough, and within its length."""
    pcm = read_wav(path, 8000)
    assert len(pcm) % 320 == 0
    assert 0.5 <= len(pcm) / 16000 <= LONGEST_S[path.name]
    assert max(map(abs, memoryview(pcm).cast("h"))) > 10_000


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_recording_is_credited(path: Path) -> None:
    """The credits name each file beside the licence."""
    credits_text = (PROMPTS / "CREDITS.md").read_text(encoding="utf-8")
    assert "CC BY-SA 3.0" in credits_text
    assert f"{path.name}`" in credits_text
