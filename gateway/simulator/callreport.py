"""What a simulated call was like, for tests, the demo and the load generator."""

from dataclasses import dataclass, field

from gateway.audio.convert import Converter, silence
from gateway.events import AudioFormat
from gateway.simulator.line import Moment
from gateway.simulator.phone import Span


@dataclass(frozen=True, slots=True)
class TurnReport:
    """One utterance of the caller and how the agent took it; times as in ``CallReport``.

    ``answered_after_s``: from the utterance's end to the next sound of the agent, None when none
    came before the next utterance. ``is_barge_in``: the agent was being heard when it began; then
    ``silenced_after_s`` tells how long the agent was still heard, None when it never stopped before
    the utterance was over.
    """

    starts_at_s: float
    ends_at_s: float
    answered_after_s: float | None
    is_barge_in: bool
    silenced_after_s: float | None


@dataclass(frozen=True, slots=True)
class CallReport:
    """Everything that can be told of one call; all ``_at_s`` count from the stream's start.

    Attributes:
        audio: The line's format, of ``sent`` and ``played``.
        sent: What the caller's side sent, without gaps from the start; ten minutes at most.
        played: What the caller heard, without the gaps between; ``spans`` tell where it lies.
        first_audio_s: From the stream's start to the arrival of the first sound of the agent; it is
            heard at the start of the first span.
        moments: What the gateway sent but audio: marks, clears, status, hang-up, rejected; also
            the marks that were sent back.
        close_code: The WebSocket's; 1006 when the connection just broke.
        ended_by: "caller", "gateway" or "provider" (a violation made it close).
        lateness_ms: The worst delay of a frame behind its schedule: the load generator's own doing.
    """

    provider: str
    audio: AudioFormat
    duration_s: float
    sent: bytes
    sent_ms: float
    played: bytes
    played_ms: float
    received_ms: float
    cleared_ms: float
    dropped_ms: float
    spans: tuple[Span, ...]
    turns: tuple[TurnReport, ...]
    moments: tuple[Moment, ...]
    dtmf: tuple[str, ...]
    first_audio_s: float | None
    close_code: int
    ended_by: str
    lateness_ms: float
    errors: tuple[str, ...] = field(default=())

    @property
    def barge_in_s(self) -> tuple[float, ...]:
        """How long the agent was still heard after each barge-in that silenced it."""
        return tuple(
            turn.silenced_after_s for turn in self.turns if turn.silenced_after_s is not None
        )

    def tracks(self, rate_hz: int) -> tuple[bytes, bytes]:
        """Caller and agent as two PCM tracks at ``rate_hz`` that run from the stream's start."""
        return (
            _to_pcm(self.sent, self.audio, rate_hz),
            _to_pcm(self._heard_track(), self.audio, rate_hz),
        )

    def _heard_track(self) -> bytes:
        track = bytearray()
        sample_bytes = 2 if self.audio.encoding == "pcm" else 1
        for span in self.spans:
            samples = round(span.starts_at_s * self.audio.rate_hz)
            track += self._silence(samples * sample_bytes - len(track))
            track += self.played[span.offset_bytes : span.offset_bytes + span.size_bytes]
        return bytes(track)

    def _silence(self, size_bytes: int) -> bytes:
        a_second = silence(self.audio.encoding, self.audio.rate_hz, 1000)
        return (a_second * (max(0, size_bytes) // len(a_second) + 1))[: max(0, size_bytes)]


def turn_reports(
    turns: list[tuple[float, float]], heard: list[tuple[float, float]]
) -> tuple[TurnReport, ...]:
    """Set what the caller said against what was heard of the agent.

    Args:
        turns: Start and end of each utterance, in order.
        heard: Start and end of each stretch of agent sound, in order.
    """
    next_starts = [start for start, _ in turns[1:]] + [float("inf")]
    return tuple(
        _turn_report(turn, until_s, heard)
        for turn, until_s in zip(turns, next_starts, strict=False)
    )


def _turn_report(
    turn: tuple[float, float], until_s: float, heard: list[tuple[float, float]]
) -> TurnReport:
    starts_at_s, ends_at_s = turn
    answers = [start - ends_at_s for start, _ in heard if ends_at_s <= start < until_s]
    # A stretch that goes on after the utterance was not silenced by it.
    ongoing = [end for start, end in heard if start < starts_at_s < end]
    silenced = [end - starts_at_s for end in ongoing if end <= ends_at_s]
    return TurnReport(
        starts_at_s,
        ends_at_s,
        answered_after_s=min(answers, default=None),
        is_barge_in=bool(ongoing),
        silenced_after_s=min(silenced, default=None),
    )


def _to_pcm(payload: bytes, audio: AudioFormat, rate_hz: int) -> bytes:
    converter = Converter(audio.encoding, audio.rate_hz, "pcm", rate_hz)
    return converter.convert(payload) + converter.flush()
