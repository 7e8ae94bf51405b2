"""Recordings on a tape: those of an operator are in its first line, for a replay plays them too."""

import zlib
from binascii import b2a_base64
from collections.abc import Mapping

import msgspec


class Sound(msgspec.Struct, frozen=True):
    """One of them; ``audio`` is zlib's of 24 kHz PCM, in JSON as base64."""

    audio: bytes


def packed(prompts: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Recordings (24 kHz PCM) as a member of the first line."""
    return {
        name: {"audio": b2a_base64(zlib.compress(pcm), newline=False).decode()}
        for name, pcm in prompts.items()
    }


def unpacked(sound: Sound, size_bytes: int) -> bytes:
    """The recording, which is so long; b"" where it is not, or cannot be read."""
    unpacker = zlib.decompressobj()
    try:
        pcm = unpacker.decompress(sound.audio, size_bytes + 1)
    except zlib.error:
        return b""
    return pcm if len(pcm) == size_bytes else b""
