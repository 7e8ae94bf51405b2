"""Sound a measuring caller makes: the noise of a line, bursts, and its own number.

A burst is what the model side recognises, whatever codec and filter lie between. The number tells
which model session belongs to which caller: nothing else that a gateway passes on does. It is said
in Manchester code, a bit as loud-silent or silent-loud blocks of one frame each, so that a filter's
delay and a gateway's batches do not matter, and five silent frames stand before it only.
"""

import binascii
import random

from gateway.audio.g711 import DECODE, encode_ulaw
from gateway.events import AudioFormat

FRAME_MS = 20
NUMBERS = 4096
LOUD = 4000

_BITS = 12
_GAP = (False,) * 6
_AMPLITUDE = 16000
_NOISE = 300
_RATE_PER_MS = 8
_BURST_MS = 5
# Half a cycle of 1 kHz, well inside every telephone band.
_HALF_CYCLE = 4
_SLOT_MS = 5
_SLOTS = FRAME_MS // _SLOT_MS
_GAP_SLOTS = 4 * _SLOTS
# The third quarter of a block: past a filter's ringing, before the next block.
_MIDDLE = 2


def _tone(duration_ms: int) -> bytes:
    high = _AMPLITUDE.to_bytes(2, "little", signed=True) * _HALF_CYCLE
    low = (-_AMPLITUDE).to_bytes(2, "little", signed=True) * _HALF_CYCLE
    return encode_ulaw((high + low) * (duration_ms * _RATE_PER_MS // (2 * _HALF_CYCLE)))


def _frame(loud_ms: int) -> bytes:
    return binascii.b2a_base64(_tone(loud_ms) + _noise(loud_ms, FRAME_MS - loud_ms), newline=False)


def _noise(seed: int, duration_ms: int) -> bytes:
    """Mu-law noise far below a burst, as lines have it: silence would flatter converters."""
    dice = random.Random(seed)  # noqa: S311  # noise, no secret
    samples = (dice.randint(-_NOISE, _NOISE) for _ in range(duration_ms * _RATE_PER_MS))
    return encode_ulaw(b"".join(s.to_bytes(2, "little", signed=True) for s in samples))


# Enough that no two frames in a row are the same.
QUIET_FRAMES = tuple(
    binascii.b2a_base64(_noise(seed, FRAME_MS), newline=False) for seed in range(50, 100)
)
BURST_FRAME = _frame(_BURST_MS)
LOUD_FRAME = _frame(FRAME_MS)


def joined(*frames: bytes) -> bytes:
    """Frames of base64 as one payload, in base64 too."""
    return binascii.b2a_base64(b"".join(map(binascii.a2b_base64, frames)), newline=False)


def number_frames(number: int) -> list[bytes]:
    """The frames (mu-law in base64) that say a number below ``NUMBERS``."""
    blocks = [*_GAP, True]
    for place in range(_BITS):
        bit = bool(number >> place & 1)
        blocks += [bit, not bit]
    return [
        LOUD_FRAME if is_loud else QUIET_FRAMES[place % len(QUIET_FRAMES)]
        for place, is_loud in enumerate(blocks)
    ]


def decoded(audio: bytes, audio_format: AudioFormat) -> bytes:
    """16-bit samples of an append's base64, b"" where it is none."""
    try:
        payload = binascii.a2b_base64(audio)
    except ValueError:
        return b""
    decode = DECODE.get(audio_format.encoding)
    return decode(payload) if decode else payload[: len(payload) & ~1]


def is_loud(pcm: bytes) -> bool:
    """Whether any sample stands out of silence."""
    samples = memoryview(pcm).cast("h")
    return len(samples) > 0 and (max(samples) > LOUD or min(samples) < -LOUD)


class Ear:
    """Listens to one stream of appends for a number."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._slot_bytes = audio_format.rate_hz * 2 * _SLOT_MS // 1000
        self._pcm = bytearray()
        self._slots: list[bool] = []

    def hear(self, audio: bytes) -> int | None:
        """The number, once it has been said in full after a gap."""
        self._pcm += decoded(audio, self._format)
        while len(self._pcm) >= self._slot_bytes:
            self._slots.append(is_loud(bytes(self._pcm[: self._slot_bytes])))
            del self._pcm[: self._slot_bytes]
        return self._read()

    def _read(self) -> int | None:
        onset = self._onset()
        if onset is None:
            del self._slots[:-_GAP_SLOTS]
            return None
        blocks = self._slots[onset + _MIDDLE :: _SLOTS][: 1 + 2 * _BITS]
        if len(blocks) < 1 + 2 * _BITS:
            return None
        del self._slots[: onset + 1]
        return _number(blocks[1:])

    def _onset(self) -> int | None:
        """Where sound begins after a gap."""
        quiet = 0
        for place, is_sound in enumerate(self._slots):
            if is_sound and quiet >= _GAP_SLOTS:
                return place
            quiet = 0 if is_sound else quiet + 1
        return None


def _number(blocks: list[bool]) -> int | None:
    pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
    if any(first == second for first, second in pairs):
        return None
    return sum(first << place for place, (first, _) in enumerate(pairs))
