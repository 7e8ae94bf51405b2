"""Writes a taped call as a stereo WAV file: left the caller, right the agent as it was heard."""

import wave
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np

from gateway.tape.story import Story
from gateway.tape.tracks import Channel, agent_sound, caller_sound

_STEREO: Final = 2
_SAMPLE_BYTES: Final = 2


def stereo_blocks(path: str | Path, story: Story, rate_hz: int) -> Iterator[bytes]:
    """Interleaved 16-bit samples from the tape's time 0 on, a second at a time.

    Raises:
        TapeError: the tape cannot be read.
    """
    caller = Channel(story.audio_in, rate_hz).blocks(caller_sound(path, story.audio_in))
    agent = Channel(story.audio_out, rate_hz).blocks(agent_sound(path, story.ear))
    for left, right in zip_longest(caller, agent, fillvalue=b""):
        size = max(len(left), len(right))
        both = [np.frombuffer(pcm.ljust(size, b"\0"), "<i2") for pcm in (left, right)]
        yield np.column_stack(both).tobytes()


def write_call(path: str | Path, story: Story, out: str | Path) -> float:
    """Write both voices of a tape; returns how long the file is in seconds.

    8 kHz where both lines of the call are, else 24 kHz.

    Raises:
        TapeError: the tape cannot be read.
        OSError: the file cannot be written.
    """
    written = 0
    with wave.open(str(out), "wb") as file:
        file.setnchannels(_STEREO)
        file.setsampwidth(_SAMPLE_BYTES)
        file.setframerate(story.rate_hz)
        for block in stereo_blocks(path, story, story.rate_hz):
            file.writeframes(block)
            written += len(block)
    return written / _STEREO / _SAMPLE_BYTES / story.rate_hz
