"""When each piece of a reply is sent.

Audio comes faster than real time, and words before the audio they belong to.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.audio.convert import Converter
from gateway.events import AudioFormat
from gateway.simulator.agents import Part, Reply, Speech, Writing, spoken_ms
from gateway.simulator.faults import Faults
from gateway.simulator.vad import BYTES_PER_MS, RATE_HZ

_ARGUMENT_PIECE = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a response comes.

    ``speed`` times real time (``math.inf``: all at once), the first audio ``first_delta_s`` after
    the response began, in deltas of ``delta_ms`` (the first ``first_delta_ms``), each up to
    ``jitter_s`` late.
    """

    speed: float = 5.0
    first_delta_s: float = 0.3
    delta_ms: int = 200
    first_delta_ms: int = 400
    jitter_s: float = 0.02


@dataclass(frozen=True, slots=True)
class Open:
    """An item begins."""

    part: Part


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of text, transcript or arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class Sound:
    """One audio delta: as sent, as 16-bit PCM at 24 kHz."""

    payload: bytes
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The item ends, with this status."""

    status: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The response ends."""


Step = Open | Words | Sound | Close | Finish


class Planner:
    """Lays out replies in time, at one pace, in one audio format."""

    def __init__(
        self, pace: Pace, faults: Faults, audio: AudioFormat, chance: random.Random
    ) -> None:
        self._pace = pace
        self._faults = faults
        self._audio = audio
        self._chance = chance

    def steps(self, reply: Reply, now: float) -> Iterator[tuple[float, Step]]:
        """All steps in order, with the times before which they do not happen."""
        pace = self._pace
        due_s = now + (pace.first_delta_s if reply.latency_s is None else reply.latency_s)
        for part in reply.parts:
            yield due_s, Open(part)
            for position_ms, step in self._contents(part):
                late_s = position_ms / 1000 / pace.speed
                yield due_s + late_s + self._chance.uniform(0, pace.jitter_s), step
            due_s += _part_ms(part) / 1000 / pace.speed + pace.jitter_s
            yield due_s, Close("incomplete" if reply.incomplete else "completed")
        yield due_s + self._faults.late_done_s, Finish()

    def _contents(self, part: Part) -> Iterator[tuple[int, Step]]:
        if isinstance(part, Speech):
            yield from self._speech(part)
        elif isinstance(part, Writing):
            yield from ((0, Words(word)) for word in _words(part.text))
        else:
            yield from ((0, Words(piece)) for piece in pieces(part.arguments, _ARGUMENT_PIECE))

    def _speech(self, speech: Speech) -> Iterator[tuple[int, Step]]:
        payload = self._converted(speech.pcm)
        words = deque(_words(speech.text))
        count = len(words)
        for start_ms, end_ms, start, end in self._cuts(len(payload)):
            while words and 1 - len(words) / count < end / len(payload):
                yield start_ms, Words(words.popleft())
            pcm_end = len(speech.pcm) if end == len(payload) else end_ms * BYTES_PER_MS
            pcm = speech.pcm[start_ms * BYTES_PER_MS : pcm_end]
            yield start_ms, Sound(payload[start:end], pcm)

    def _converted(self, pcm: bytes) -> bytes:
        converter = Converter("pcm", RATE_HZ, self._audio.encoding, self._audio.rate_hz)
        return converter.convert(pcm) + converter.flush()

    def _cuts(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Where deltas begin and end, in milliseconds and in bytes."""
        per_ms = self._audio.bytes_per_ms
        odd = 1 if self._faults.odd_deltas else 0
        start_ms, start, length_ms = 0, 0, self._faults.delta_ms or self._pace.first_delta_ms
        while start < size:
            end_ms = start_ms + length_ms
            end = min(end_ms * per_ms + odd, size)
            # A rest of less than a millisecond (the filter's tail) goes with the last delta.
            end = size if size - end < per_ms else end
            yield start_ms, end_ms, start, end
            start_ms, start = end_ms, end
            length_ms = self._faults.delta_ms or self._pace.delta_ms


def pieces(text: str, length: int) -> list[str]:
    """The text in pieces of this length, the last one shorter."""
    return [text[start : start + length] for start in range(0, len(text), length)]


def _words(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def _part_ms(part: Part) -> int:
    return spoken_ms(part.pcm) if isinstance(part, Speech) else 0
