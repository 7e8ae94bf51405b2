"""What the caller's microphone picks up: utterances at their moments, silence between them."""

from dataclasses import dataclass

from gateway.audio.convert import Converter, silence
from gateway.events import AudioFormat
from gateway.simulator.callplan import Utterance, When
from gateway.simulator.phone import Phone

FRAME_MS = 20
_TOLERANCE_S = 1e-6


@dataclass(slots=True)
class Turn:
    """One utterance of the caller: when it was begun and when its last frame had been spoken."""

    starts_at_s: float
    ends_at_s: float


class Speech:
    """Gives the next frame of the caller's line each time it is asked.

    Args:
        says: The utterances, in order.
        audio: The format of the line.
        phone: What the caller hears; moments may depend on it.
        started_at_s: When the stream began.
    """

    def __init__(
        self, says: tuple[Utterance, ...], audio: AudioFormat, phone: Phone, started_at_s: float
    ) -> None:
        self.turns: list[Turn] = []
        self._waiting = [(each.when, _encode(each, audio)) for each in reversed(says)]
        self._phone = phone
        self._started_at_s = started_at_s
        self._last_end_s = started_at_s
        self._frame_bytes = FRAME_MS * audio.bytes_per_ms
        self._silence = silence(audio.encoding, audio.rate_hz, FRAME_MS)
        self._speaking = b""

    @property
    def is_done(self) -> bool:
        """True when everything has been said."""
        return not self._waiting and not self._speaking

    def next_frame(self, now: float) -> bytes:
        """The 20 ms that begin at ``now``."""
        if not self._speaking and self._waiting and self._is_time(self._waiting[-1][0], now):
            self._speaking = self._waiting.pop()[1]
            duration_s = len(self._speaking) / self._frame_bytes * FRAME_MS / 1000
            self._last_end_s = now + duration_s
            self.turns.append(Turn(now, self._last_end_s))
        if not self._speaking:
            return self._silence
        frame = self._speaking[: self._frame_bytes]
        self._speaking = self._speaking[self._frame_bytes :]
        return frame + self._silence[len(frame) :]

    def is_quiet(self, quiet_s: float, now: float) -> bool:
        """True when all is said and the agent answered, then was silent for ``quiet_s``."""
        return self.is_done and self._has_agent_stopped(quiet_s, now)

    def _is_time(self, when: When, now: float) -> bool:
        match when.kind:
            case "call_start":
                return _is_past(self._started_at_s + when.after_s, now)
            case "pause":
                return _is_past(self._last_end_s + when.after_s, now)
            case "agent_starts":
                heard_at_s = self._agent_heard_at_s()
                return heard_at_s is not None and _is_past(heard_at_s + when.after_s, now)
            case "agent_stops":
                return self._has_agent_stopped(when.after_s, now)

    def _agent_heard_at_s(self) -> float | None:
        """When the agent was first heard since the last utterance ended."""
        first_s = None
        for span in reversed(self._phone.spans):
            if self._phone.ends_at_s(span) <= self._last_end_s:
                break
            first_s = max(span.starts_at_s, self._last_end_s)
        return first_s

    def _has_agent_stopped(self, quiet_s: float, now: float) -> bool:
        if self._phone.status(now) > 0 or not self._phone.spans:
            return False
        ends_at_s = self._phone.ends_at_s(self._phone.spans[-1])
        return ends_at_s > self._last_end_s and _is_past(ends_at_s + quiet_s, now)


def _is_past(moment_s: float, now: float) -> bool:
    # Sums of floating-point seconds must not cost a frame.
    return now + _TOLERANCE_S >= moment_s


def _encode(utterance: Utterance, audio: AudioFormat) -> bytes:
    converter = Converter("pcm", utterance.rate_hz, audio.encoding, audio.rate_hz)
    return converter.convert(utterance.pcm) + converter.flush()
