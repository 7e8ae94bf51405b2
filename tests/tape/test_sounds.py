"""An operator's recordings come back from a tape as they were, or not at all."""

import base64

from gateway.tape.sounds import Sound, packed, unpacked

PCM = bytes(range(256)) * 100


def _sound(prompts: dict[str, bytes], name: str) -> Sound:
    return Sound(base64.b64decode(packed(prompts)[name]["audio"]))


def test_a_recording_comes_back_as_it_was() -> None:
    """Byte by byte."""
    assert unpacked(_sound({"announcement": PCM}, "announcement"), len(PCM)) == PCM


def test_a_recording_that_is_not_what_the_tape_says_is_none() -> None:
    """Too long, too short, no zlib: a bomb is unpacked no further than its size says."""
    sound = _sound({"x": bytes(10**7)}, "x")

    assert unpacked(sound, 100) == b""
    assert unpacked(sound, 10**7 + 1) == b""
    assert unpacked(Sound(b"none"), 100) == b""
