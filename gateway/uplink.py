"""The caller's audio on its way to the model: converted, complete, in order.

It is kept from its first frame and handed over when the model is ready to listen, so that nobody
has to repeat the first word. What was lost before us becomes silence: the model's clock is the
amount of audio it was sent, and must not fall behind the caller's.
"""

from collections import deque
from collections.abc import Sequence

from gateway.audio.convert import Converter, silence
from gateway.events import AudioFormat

# Longer than every connect budget; at 24 kHz PCM this is 480 kB a call.
HOLD_LIMIT_MS = 10_000
# Kept from before the model reports speech: it takes that long to notice.
LEAD_IN_MS = 500
# One append carries at most this much of what was kept.
APPEND_LIMIT_MS = 500


class Uplink:
    """Converts caller audio and keeps it while the model cannot take it."""

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self._source = source
        self._target = target
        self._converter = Converter(
            source.encoding, source.rate_hz, target.encoding, target.rate_hz
        )
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._is_open = False
        self._dropped_bytes = 0
        self._turn: deque[bytes] = deque()
        self._turn_bytes = 0
        self._is_in_turn = False

    def accept(self, payload: bytes) -> bytes:
        """Convert; returns what can be sent now, b"" while audio is being kept."""
        converted = self._converter.convert(payload)
        if self._is_open:
            self._remember(converted)
            return converted
        self._keep(converted)
        return b""

    def lose(self, duration_ms: int) -> bytes:
        """Stand in silence for audio that never arrived."""
        return self.accept(silence(self._source.encoding, self._source.rate_hz, duration_ms))

    def duration_ms(self, payload: bytes) -> float:
        """How long a payload of the caller is."""
        return len(payload) / self._source.bytes_per_ms

    def open(self) -> list[bytes]:
        """The model listens: everything that was kept, oldest first, in handy pieces."""
        self._is_open = True
        kept = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        size = APPEND_LIMIT_MS * self._target.bytes_per_ms
        return [kept[at : at + size] for at in range(0, len(kept), size)]

    def begin_turn(self) -> None:
        """The caller speaks: these words are kept until they are answered."""
        self._is_in_turn = True

    def end_turn(self) -> None:
        """The caller's words have been answered."""
        self._is_in_turn = False

    def _remember(self, converted: bytes) -> None:
        self._turn.append(converted)
        self._turn_bytes += len(converted)
        limit_ms = HOLD_LIMIT_MS if self._is_in_turn else LEAD_IN_MS
        while self._turn_bytes > limit_ms * self._target.bytes_per_ms:
            self._turn_bytes -= len(self._turn.popleft())

    def hold(self, unsent: Sequence[bytes] = ()) -> bool:
        """The model is gone for a while: keep what comes, behind what was handed over in vain.

        Words that were heard and not answered are said again; returns whether there are any.
        """
        self._is_open = False
        is_in_turn, again = self._is_in_turn, list(self._turn)
        self._turn.clear()
        self._turn_bytes = 0
        # What was not sent is the end of what is remembered.
        kept = again if is_in_turn else list(unsent)
        self._held.extendleft(reversed(kept))
        self._held_bytes += sum(len(payload) for payload in kept)
        return is_in_turn

    def leave(self, unsent: Sequence[bytes] = ()) -> float:
        """Nobody will ever listen: returns the ms that were kept or handed over in vain."""
        self._is_open = False
        lost_bytes = self._held_bytes + sum(len(payload) for payload in unsent)
        self._held.clear()
        self._held_bytes = 0
        return lost_bytes / self._target.bytes_per_ms

    def take_dropped_ms(self) -> float:
        """Audio that was kept too long and dropped since the last call of this."""
        dropped, self._dropped_bytes = self._dropped_bytes, 0
        return dropped / self._target.bytes_per_ms

    def _keep(self, converted: bytes) -> None:
        self._held.append(converted)
        self._held_bytes += len(converted)
        while self._held_bytes > HOLD_LIMIT_MS * self._target.bytes_per_ms:
            oldest = self._held.popleft()
            self._held_bytes -= len(oldest)
            self._dropped_bytes += len(oldest)
