"""The recordings that come with the package are there, and fit for use."""

from gateway.audio.wav import read_wav
from gateway.shipped import PROMPT_HZ, PROMPTS, shipped_sound


def test_every_prompt_is_a_recording_of_a_few_seconds() -> None:
    """At the rate in which calls keep them."""
    for file in PROMPTS.values():
        pcm = read_wav(shipped_sound(file), PROMPT_HZ)
        assert 0.5 < len(pcm) / 2 / PROMPT_HZ < 15
        assert any(pcm)
