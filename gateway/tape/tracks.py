"""Both voices of a taped call as sound on the call's clock, a second at a time.

Nothing is added up that could drift: each stretch of sound is put where its own time says, and its
length is that of its samples. Memory is bounded by the seconds that are looked ahead.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audio.convert import Converter
from gateway.events import AudioFormat, AudioLost, AudioReceived
from gateway.tape.ear import Ear, Stretch
from gateway.tape.reading import Tape
from gateway.tape.wire import Sound, Translator, to_provider

# A frame that is this late on the call's clock may still have been spoken in time: the network
# held it up, and what comes behind it will tell.
LOOK_AHEAD_S: Final = 2.0
# A caller's sound is moved where it is off by more than this.
TOLERANCE_S: Final = 0.005
_SAMPLE_BYTES: Final = 2
_BLOCK_S: Final = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """Sound as it was on the wire, and where it stands on the call's clock."""

    at_s: float
    payload: bytes


class Channel:
    """Placed sound in, samples on one grid out (16-bit PCM at ``rate_hz``)."""

    def __init__(self, audio: AudioFormat, rate_hz: int) -> None:
        self._bytes_per_s = audio.bytes_per_ms * 1000
        self._rate_hz = rate_hz
        self._converter = Converter(audio.encoding, audio.rate_hz, "pcm", rate_hz)
        self._late_bytes = round(self._converter.delay_ms * rate_hz / 1000) * _SAMPLE_BYTES
        self._head_bytes = self._late_bytes
        self._pcm = bytearray()
        self._taken_bytes = 0
        self._next_s = -1.0

    def put(self, placed: Placed) -> None:
        """Add a piece; what lies before the end of the one before is left out."""
        if abs(placed.at_s - self._next_s) > 0.5 / self._rate_hz:
            self._close()
            self._stand_at(placed.at_s)
        self._add(self._converter.convert(placed.payload))
        self._next_s = placed.at_s + len(placed.payload) / self._bytes_per_s

    def _stand_at(self, at_s: float) -> None:
        start_bytes = round(at_s * self._rate_hz) * _SAMPLE_BYTES
        short_bytes = start_bytes - self._taken_bytes - len(self._pcm)
        self._pcm += bytes(max(0, short_bytes))
        # The filter's delay, and what would lie under the sound that stands there already.
        self._head_bytes = self._late_bytes + max(0, -short_bytes)

    def _add(self, pcm: bytes) -> None:
        skipped = min(self._head_bytes, len(pcm))
        self._head_bytes -= skipped
        self._pcm += pcm[skipped:]

    def _close(self) -> None:
        self._add(self._converter.flush())
        self._converter.reset()

    def blocks(self, placed: Iterable[Placed]) -> Iterator[bytes]:
        """All of it in blocks of a second; the last one may be shorter."""
        size = self._rate_hz * _SAMPLE_BYTES * _BLOCK_S
        for piece in placed:
            for at_s in self._on_the_way_to(piece.at_s):
                self._stand_at(at_s)
                yield from self._whole(size)
            self.put(piece)
            yield from self._whole(size)
        self._close()
        yield from self._whole(size)
        yield bytes(self._pcm)

    def _on_the_way_to(self, at_s: float) -> Iterator[float]:
        """Stops in a long silence, which is not to be held in memory."""
        if at_s - self._next_s <= 2 * _BLOCK_S:
            return
        self._close()
        for second in range(int(max(0.0, self._next_s)) + 1, int(at_s)):
            self._next_s = float(second)
            yield self._next_s

    def _whole(self, size: int) -> Iterator[bytes]:
        while len(self._pcm) >= size:
            block = bytes(self._pcm[:size])
            del self._pcm[:size]
            self._taken_bytes += size
            yield block


@dataclass(slots=True)
class _Frame:
    number: int
    t: float
    start_s: float
    payload: bytes


class Arrivals:
    """Puts the caller's frames where they were spoken, as far as their arrival tells.

    A frame begins when it came. Frames follow each other without a gap; their delay is the least
    that any frame of the next ``LOOK_AHEAD_S`` had. A frame that was lost leaves its time as a gap,
    and so does a pause in sending.
    """

    def __init__(self, bytes_per_ms: int) -> None:
        self._bytes_per_s = bytes_per_ms * 1000
        self._frames: deque[_Frame] = deque()
        # Numbers and delays of frames that wait; each delay is less than those before it.
        self._least: deque[tuple[int, float]] = deque()
        self._count = 0
        self._end_s = 0.0
        self._delay_s: float | None = None

    def lost(self, duration_ms: int) -> None:
        """So much never came."""
        self._end_s += duration_ms / 1000

    def came(self, payload: bytes, t: float) -> Iterator[Placed]:
        """A frame; gives those whose place is known by now."""
        delay_s = t - self._end_s
        while self._least and self._least[-1][1] >= delay_s:
            self._least.pop()
        self._count += 1
        self._least.append((self._count, delay_s))
        self._frames.append(_Frame(self._count, t, self._end_s, payload))
        self._end_s += len(payload) / self._bytes_per_s
        yield from self._settled(t - LOOK_AHEAD_S)

    def rest(self) -> Iterator[Placed]:
        """Those that still wait."""
        yield from self._settled(float("inf"))

    def _settled(self, until: float) -> Iterator[Placed]:
        while self._frames and self._frames[0].t < until:
            frame = self._frames.popleft()
            yield Placed(frame.start_s + self._delay_of(frame), frame.payload)
            if self._least and self._least[0][0] <= frame.number and self._frames:
                self._least.popleft()

    def _delay_of(self, frame: _Frame) -> float:
        least_s = self._least[0][1] if self._least else frame.t - frame.start_s
        if self._delay_s is None or abs(least_s - self._delay_s) > TOLERANCE_S:
            self._delay_s = least_s
        return self._delay_s


def caller_sound(path: str | Path, audio: AudioFormat) -> Iterator[Placed]:
    """What the caller said, where it was spoken.

    Raises:
        TapeError: the tape cannot be read.
    """
    arrivals = Arrivals(audio.bytes_per_ms)
    with Tape(path) as tape:
        translator = Translator(tape.head)
        for line in tape:
            if line.link != "provider" or line.dir != "in":
                continue
            for event in translator.from_provider(line):
                if isinstance(event, AudioReceived):
                    yield from arrivals.came(event.payload, line.t)
                elif isinstance(event, AudioLost):
                    arrivals.lost(event.duration_ms)
    yield from arrivals.rest()


def agent_sound(path: str | Path, ear: Ear) -> Iterator[Placed]:
    """What the caller heard of the agent, where it was heard.

    Raises:
        TapeError: the tape cannot be read.
    """
    position = 0
    with Tape(path) as tape:
        for line in tape:
            if line.link != "provider" or line.dir != "out" or line.data is None:
                continue
            meaning = to_provider(line.message)
            if isinstance(meaning, Sound):
                yield from _heard(ear, position, meaning.payload)
                position += len(meaning.payload)


def _heard(ear: Ear, position: int, payload: bytes) -> Iterator[Placed]:
    part: Stretch
    for part in ear.parts(position, position + len(payload)):
        yield Placed(part.at_s, payload[part.start - position : part.end - position])
