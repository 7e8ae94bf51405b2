"""The truth about what a caller hears of the audio that a provider is sent.

A provider puts audio into a play queue and a phone plays it in real time. ``Phone`` is both of
them, without a clock of its own: every method is told ``now`` (seconds on any clock), and equal
calls give equal results. Asking about a moment that has passed is allowed and answered exactly.

Two kinds of queue exist (``Semantics``):

* ``TWILIO`` plays sample by sample. Audio that finds the queue empty starts ``jitter_ms`` later
  (the phone fills its buffer first). A mark comes back at the moment the last sample before it has
  been *heard*, or at once when the queue is empty. A clear silences the phone at once and makes
  every outstanding mark come back, in order. More than ten minutes of queued audio is dropped.
  (twilio.com/docs/voice/media-streams/websocket-messages, error 31931)
* ``ASTERISK`` takes one frame off its queue at every tick of a 20 ms timer that never stops
  (``started_at_s`` sets its phase). A mark comes back at the tick that finds it at the FRONT of
  the queue: the frame before it left one tick earlier and is heard ``jitter_ms`` after it left. A
  clear drops queue and marks, and nothing comes back; frames that left before are still heard. The
  tail of a message that is no whole frame is dropped, a message that meets 1000 queued frames is
  dropped whole, XOFF is reported at 900 frames and XON at the first tick below 800.
  (asterisk/asterisk channels/chan_websocket.c, ``dequeue_frame``, release 22.10)
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from gateway.events import AudioFormat

EchoKind = Literal["mark", "buffered", "xoff", "xon", "drained"]

# Sums of floating-point seconds differ by less than this; no audio is this short.
_TOLERANCE_S = 1e-6
_RECORD_LIMIT_MS = 600_000
_MAX_SPANS = 20_000
_MAX_QUEUE_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Semantics:
    """How a provider's play queue behaves.

    ``frame_ms`` is what leaves the queue at a time (0: one sample), ``limit_ms`` how much it
    holds, ``xoff_ms`` and ``xon_ms`` where it reports full and free again (0: never).
    """

    frame_ms: int
    limit_ms: int
    xoff_ms: int
    xon_ms: int
    clear_echoes_marks: bool


TWILIO = Semantics(0, 600_000, 0, 0, clear_echoes_marks=True)
ASTERISK = Semantics(20, 20_000, 18_000, 16_000, clear_echoes_marks=False)


@dataclass(frozen=True, slots=True)
class Echo:
    """What the provider reports about its queue, and when.

    ``kind`` is "mark" for a mark that came back; the others exist for Asterisk only: "buffered" (a
    mark of the kind that ends buffering), "xoff" and "xon" (queue full, free again), "drained".
    """

    name: str
    at_s: float
    kind: EchoKind = "mark"


@dataclass(slots=True)
class Span:
    """A stretch of sound without a gap: ``size_bytes`` of ``played`` from ``offset_bytes`` on."""

    starts_at_s: float
    offset_bytes: int
    size_bytes: int


class Phone:
    """One phone at the far end of one provider's play queue.

    Args:
        semantics: ``TWILIO`` or ``ASTERISK``.
        jitter_ms: How much the phone buffers before it plays; see the module for its place.
        audio: The format of the audio that is sent.
        started_at_s: When the call began; the phase of Asterisk's timer.
    """

    def __init__(
        self, semantics: Semantics, jitter_ms: float, audio: AudioFormat, started_at_s: float = 0.0
    ) -> None:
        self.semantics = semantics
        self.audio = audio
        self.dropped_ms = 0.0
        self.cleared_ms = 0.0
        self.spans: deque[Span] = deque()
        self._bytes_per_s = audio.bytes_per_ms * 1000
        self._step_bytes = _step_bytes(semantics, audio)
        self._step_s = self._step_bytes / self._bytes_per_s
        # A frame counts as gone when its tick comes, a sample when it has been heard.
        self._has_ticks = semantics.frame_ms > 0
        self._start_delay_s = 0.0 if self._has_ticks else jitter_ms / 1000
        self._heard_delay_s = jitter_ms / 1000 if self._has_ticks else 0.0
        # Step number n leaves the queue at _anchor_s + n * _step_s; _cursor is the next one.
        self._anchor_s = started_at_s
        self._cursor = 0
        self._now = started_at_s
        # Stretches of audio and marks, in order; two stretches are never neighbours.
        self._queue: deque[bytearray | tuple[str, EchoKind]] = deque()
        self._queued_bytes = 0
        self._echoes: list[Echo] = []
        self._is_paused = False
        self._is_full = False
        self._wants_drained = False
        self._record = bytearray()
        self._left_bytes = 0

    # ------------------------------------------------------------- what the gateway sends

    def receive_audio(self, payload: bytes, now: float) -> None:
        """Queue audio; what does not fit or is no whole frame is dropped and counted."""
        self._run(now)
        accepted = payload[: self._room_bytes(len(payload))]
        self.dropped_ms += (len(payload) - len(accepted)) / self.audio.bytes_per_ms
        if not accepted:
            return
        if not self._queue:
            self._anchor_idle(self._start_delay_s)
        self._append(accepted)
        self._report_full()
        self._run(now)

    def receive_mark(self, name: str, now: float, kind: EchoKind = "mark") -> None:
        """Queue a mark behind everything sent so far; ``advance`` tells when it comes back."""
        self._run(now)
        if not self._queue:
            self._anchor_idle(0.0)
        if len(self._queue) < _MAX_QUEUE_ENTRIES:
            self._queue.append((name, kind))
        self._run(now)

    def clear(self, now: float) -> float:
        """Drop everything queued.

        Returns:
            How many milliseconds of audio were dropped, which the caller will never hear.
        """
        self._run(now)
        marks = [entry for entry in self._queue if isinstance(entry, tuple)]
        dropped_ms = self._queued_bytes / self.audio.bytes_per_ms
        self.cleared_ms += dropped_ms
        self._queue.clear()
        self._queued_bytes = 0
        if self.semantics.clear_echoes_marks:
            self._echoes += [Echo(name, self._now, kind) for name, kind in marks]
        return dropped_ms

    def pause(self, now: float) -> None:
        """Take nothing off the queue until ``resume`` (Asterisk's PAUSE_MEDIA)."""
        self._run(now)
        self._is_paused = True

    def resume(self, now: float) -> None:
        """Go on after ``pause``."""
        self._run(now)
        self._is_paused = False

    def report_drained(self, now: float) -> None:
        """Report once when a tick finds the queue empty (Asterisk's REPORT_QUEUE_DRAINED)."""
        self._run(now)
        self._wants_drained = True

    # ------------------------------------------------------------- what can be asked

    def status(self, now: float) -> float:
        """Milliseconds of audio that have not left the queue yet."""
        self._run(now)
        return self._queued_bytes / self.audio.bytes_per_ms

    @property
    def is_full(self) -> bool:
        """True from XOFF to XON."""
        return self._is_full

    @property
    def is_paused(self) -> bool:
        """True from ``pause`` to ``resume``."""
        return self._is_paused

    def advance(self, now: float) -> list[Echo]:
        """Let time pass.

        Returns:
            What the provider reports since the last such call, in order, each with its moment.
        """
        self._run(now)
        echoes, self._echoes = self._echoes, []
        return echoes

    def next_timer(self) -> float | None:
        """When ``advance`` will next have something to report; None for not by itself.

        After ``advance(t)`` this is None or later than ``t``.
        """
        if self._echoes:
            return self._now
        steps = [] if self._is_paused else self._steps_to_echo()
        return self._time_of(self._cursor + min(steps)) if steps else None

    def played_ms(self, now: float) -> float:
        """Milliseconds of agent audio that the caller has heard by ``now``; grows evenly."""
        self._run(now)
        unheard_bytes = 0.0
        for span in reversed(self.spans):
            heard_bytes = (now - span.starts_at_s) * self._bytes_per_s
            if heard_bytes >= span.size_bytes:
                break
            unheard_bytes += span.size_bytes - max(heard_bytes, 0.0)
        return (self._left_bytes - unheard_bytes) / self.audio.bytes_per_ms

    def ends_at_s(self, span: Span) -> float:
        """When the last sound of a span has been heard, as far as audio has left the queue."""
        return span.starts_at_s + span.size_bytes / self._bytes_per_s

    @property
    def played(self) -> bytes:
        """All audio that left the queue, without gaps: heard, or sure to be within ``jitter_ms``.

        The first ten minutes of it; ``played_ms`` goes on counting.
        """
        return bytes(self._record)

    # ------------------------------------------------------------- the play queue

    def _room_bytes(self, size_bytes: int) -> int:
        room_bytes = self.semantics.limit_ms * self.audio.bytes_per_ms - self._queued_bytes
        if not self._has_ticks:
            size_bytes = min(size_bytes, room_bytes)
        elif room_bytes <= 0:
            return 0
        return size_bytes - size_bytes % self._step_bytes

    def _anchor_idle(self, delay_s: float) -> None:
        if not self._has_ticks:
            self._anchor_s = self._now + delay_s
            self._cursor = 0

    def _append(self, payload: bytes) -> None:
        self._queued_bytes += len(payload)
        tail = self._queue[-1] if self._queue else None
        if isinstance(tail, bytearray):
            tail += payload
        else:
            self._queue.append(bytearray(payload))

    def _report_full(self) -> None:
        xoff_bytes = self.semantics.xoff_ms * self.audio.bytes_per_ms
        if xoff_bytes and not self._is_full and self._queued_bytes >= xoff_bytes:
            self._is_full = True
            self._echoes.append(Echo("", self._now, "xoff"))

    def _excess_steps(self) -> int:
        """How many frames must leave before the queue is below the XON level."""
        xon_bytes = self.semantics.xon_ms * self.audio.bytes_per_ms
        return max(0, (self._queued_bytes - xon_bytes) // self._step_bytes + 1)

    # ------------------------------------------------------------- time

    def _time_of(self, step: int) -> float:
        return self._anchor_s + step * self._step_s

    def _run(self, now: float) -> None:
        self._now = max(self._now, now)
        last = math.floor((self._now - self._anchor_s + _TOLERANCE_S) / self._step_s)
        if not self._is_paused:
            while self._cursor <= last and self._tick(last):
                pass
        if self._has_ticks and (self._is_paused or not self._queue):
            self._cursor = max(self._cursor, last + 1)

    def _tick(self, last: int) -> bool:
        """Do what is due at the cursor; False when nothing more happens by step ``last``."""
        self._report_flow()
        if not self._queue:
            return False
        front = self._queue[0]
        if isinstance(front, bytearray):
            return self._play(front, last)
        self._queue.popleft()
        self._echoes.append(Echo(front[0], self._time_of(self._cursor), front[1]))
        if not self._queue:
            # The tick is used up: an empty queue is only noticed at the next one.
            self._cursor += 1
        return True

    def _report_flow(self) -> None:
        at_s = self._time_of(self._cursor)
        if self._is_full and self._excess_steps() == 0:
            self._is_full = False
            self._echoes.append(Echo("", at_s, "xon"))
        if self._wants_drained and not self._queue:
            self._wants_drained = False
            self._echoes.append(Echo("", at_s, "drained"))

    def _play(self, stretch: bytearray, last: int) -> bool:
        steps = min(last + self._has_ticks - self._cursor, len(stretch) // self._step_bytes)
        if self._is_full:
            steps = min(steps, self._excess_steps())
        if steps <= 0:
            return False
        size_bytes = steps * self._step_bytes
        self._hear(bytes(stretch[:size_bytes]), self._time_of(self._cursor) + self._heard_delay_s)
        del stretch[:size_bytes]
        self._queued_bytes -= size_bytes
        self._cursor += steps
        if not stretch:
            self._queue.popleft()
        return True

    def _steps_to_echo(self) -> list[int]:
        steps = []
        if self._is_full:
            steps.append(self._excess_steps())
        if self._wants_drained and all(isinstance(entry, bytearray) for entry in self._queue):
            steps.append(self._queued_bytes // self._step_bytes)
        ahead_bytes = 0
        for entry in self._queue:
            if isinstance(entry, tuple):
                return [*steps, ahead_bytes // self._step_bytes]
            ahead_bytes += len(entry)
        return steps

    # ------------------------------------------------------------- the ear

    def _hear(self, payload: bytes, at_s: float) -> None:
        last = self.spans[-1] if self.spans else None
        if (
            last
            and abs(last.starts_at_s + last.size_bytes / self._bytes_per_s - at_s) < _TOLERANCE_S
        ):
            last.size_bytes += len(payload)
        else:
            self.spans.append(Span(at_s, self._left_bytes, len(payload)))
        if len(self.spans) > _MAX_SPANS:
            self.spans.popleft()
        self._left_bytes += len(payload)
        room_bytes = _RECORD_LIMIT_MS * self.audio.bytes_per_ms - len(self._record)
        self._record += payload[:room_bytes]


def _step_bytes(semantics: Semantics, audio: AudioFormat) -> int:
    if semantics.frame_ms:
        return semantics.frame_ms * audio.bytes_per_ms
    return 2 if audio.encoding == "pcm" else 1
