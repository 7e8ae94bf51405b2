"""The caller's audio on its way to the model: converted, complete, in order.

It is kept from its first frame and handed over when the model is ready to listen, so that nobody
has to repeat the first word. What was lost before us becomes silence: the model's clock is the
amount of audio it was sent, and must not fall behind the caller's.

What was sent and may have to be said again is kept as it came where that is a byte a sample: 20 ms
are 160 bytes then, and 960 as the model has them. Each frame is kept with the one before it. That
is longer than the converter's filter (44 samples, 5.5 ms at 8 kHz) where a frame is 20 ms, as all
providers send them: so converting it again gives the same bytes, wherever the words begin. After
frames of 5 ms or less the first samples would differ, by what the filter no longer knows.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from gateway.audio.convert import Converter, silence
from gateway.events import AudioFormat

# Longer than every connect budget; at 24 kHz PCM this is 480 kB a call.
HOLD_LIMIT_MS = 10_000
# Kept from before the model reports speech: it takes that long to notice.
LEAD_IN_MS = 500
# One append carries at most this much of what was kept.
APPEND_LIMIT_MS = 500

# As the model has it; or the frame before and this one, as they came.
_Piece = bytes | tuple[bytes, bytes]


class Uplink:
    """Converts caller audio and keeps it while the model cannot take it."""

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self._source = source
        self._source_bytes_per_ms = source.bytes_per_ms
        self._target = target
        self._converter = _converter(source, target)
        self._before = b""
        # How many bytes become of one, where frames are kept as they came: no frame of a byte a
        # sample ends in the middle of one.
        growth = target.bytes_per_ms // source.bytes_per_ms
        self._growth = 1 if source.encoding == "pcm" else growth
        self._held = self._tail(HOLD_LIMIT_MS)
        self._dropped_bytes = 0
        self._is_open = False
        self._words = self._tail(HOLD_LIMIT_MS)
        self._recent = self._tail(LEAD_IN_MS)
        self._caller_speaks = False

    def _tail(self, limit_ms: int) -> "_Tail":
        return _Tail(limit_ms * self._target.bytes_per_ms, self._growth)

    def accept(self, payload: bytes) -> bytes:
        """Convert; returns what can be sent now, b"" while audio is being kept."""
        before, self._before = self._before, payload
        converted = self._converter.convert(payload)
        if self._is_open:
            memory = self._words if self._caller_speaks else self._recent
            memory.add((before, payload) if self._growth > 1 else converted)
            return converted
        self._dropped_bytes += self._held.add(converted)
        return b""

    def lose(self, duration_ms: int) -> bytes:
        """Stand in silence for audio that never arrived."""
        return self.accept(silence(self._source.encoding, self._source.rate_hz, duration_ms))

    def duration_ms(self, payload: bytes) -> float:
        """How long a payload of the caller is."""
        return len(payload) / self._source_bytes_per_ms

    def open(self) -> list[bytes]:
        """The model listens: everything that was kept, oldest first, in handy pieces."""
        self._is_open = True
        held = self._as_sent(self._held.take())
        self._remember(held)
        kept = b"".join(held)
        size = APPEND_LIMIT_MS * self._target.bytes_per_ms
        return [kept[at : at + size] for at in range(0, len(kept), size)]

    # ------------------------------------------------------------------ unanswered words

    def begin_turn(self) -> None:
        """The caller speaks: these words are kept until they are answered."""
        self._caller_speaks = True
        self._words.extend(self._recent.take())

    def wait_for_answer(self) -> None:
        """The caller has said it: no silence, however long, pushes these words out."""
        self._caller_speaks = False

    def end_turn(self) -> None:
        """The caller's words have been answered, or ask for no answer."""
        self._caller_speaks = False
        self._words.take()

    def _remember(self, sent: Iterable[bytes]) -> None:
        memory = self._words if self._caller_speaks else self._recent
        memory.extend(sent)

    def hold(self, unsent: Sequence[bytes] = ()) -> bool:
        """The model is gone for a while: keep what comes, behind what was handed over in vain.

        Words that were heard and not answered are said again; returns whether there are any.
        """
        self._is_open = False
        words, recent = self._as_sent(self._words.take()), self._as_sent(self._recent.take())
        kept = list(unsent)
        if self._caller_speaks:
            # What was not sent is the end of these words.
            kept = max(words, kept, key=_size)
        elif words:
            # The model heard these words to their end: what was not sent came after them.
            kept = words + max(recent, kept, key=_size)
        self._caller_speaks = bool(words)
        self._dropped_bytes += self._held.extend([*kept, *self._held.take()])
        return bool(words)

    def _as_sent(self, pieces: Iterable[_Piece]) -> list[bytes]:
        """As the model has or had them."""
        sent: list[bytes] = []
        converter, last = _converter(self._source, self._target), None
        for piece in pieces:
            if isinstance(piece, bytes):
                sent.append(piece)
                last = None
                continue
            before, payload = piece
            if before is not last:
                converter.reset()
                converter.convert(before)
            sent.append(converter.convert(payload))
            last = payload
        return sent

    def leave(self, unsent: Sequence[bytes] = ()) -> float:
        """Nobody will ever listen: returns the ms that were kept or handed over in vain."""
        self._is_open = False
        return (_size(self._as_sent(self._held.take())) + _size(unsent)) / self._target.bytes_per_ms

    @property
    def has_dropped(self) -> bool:
        """Audio was kept too long."""
        return self._dropped_bytes > 0

    def take_dropped_ms(self) -> float:
        """Audio that was kept too long and dropped since the last call of this."""
        dropped, self._dropped_bytes = self._dropped_bytes, 0
        return dropped / self._target.bytes_per_ms


class _Tail:
    """The last so many bytes of audio, in the pieces it came in; bytes are those of the model."""

    __slots__ = ("_growth", "_kept_bytes", "_limit_bytes", "_pieces")

    def __init__(self, limit_bytes: int, growth: int) -> None:
        self._limit_bytes = limit_bytes
        self._growth = growth
        self._pieces: deque[_Piece] = deque()
        self._kept_bytes = 0

    def extend(self, pieces: Iterable[_Piece]) -> int:
        """Add at the end; returns how many bytes were dropped at the beginning."""
        return sum(map(self.add, pieces))

    def add(self, piece: _Piece) -> int:
        """Add one; returns how many bytes were dropped at the beginning."""
        pieces, growth, limit_bytes = self._pieces, self._growth, self._limit_bytes
        pieces.append(piece)
        size_bytes = len(piece) if isinstance(piece, bytes) else len(piece[1]) * growth
        before = kept_bytes = self._kept_bytes + size_bytes
        while kept_bytes > limit_bytes:
            gone = pieces.popleft()
            kept_bytes -= len(gone) if isinstance(gone, bytes) else len(gone[1]) * growth
        self._kept_bytes = kept_bytes
        return before - kept_bytes

    def take(self) -> list[_Piece]:
        """Everything, oldest first; nothing is kept afterwards."""
        pieces = list(self._pieces)
        self._pieces.clear()
        self._kept_bytes = 0
        return pieces


def _size(pieces: Iterable[bytes]) -> int:
    return sum(map(len, pieces))


def _converter(source: AudioFormat, target: AudioFormat) -> Converter:
    return Converter(source.encoding, source.rate_hz, target.encoding, target.rate_hz)
