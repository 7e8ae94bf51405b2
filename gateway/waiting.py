"""How long the caller waits: a turn by its stages, and silence that is owed to nobody.

A turn is one line of moments, and its stages lie between them: the caller falls silent, we hear of
it (endpointing), the first sound of the answer comes (model), the caller hears it (provider
buffer). What of the last stage is our own doing, conversion and send, is measured by the driver,
which has a clock. So the stages add up to the turn because there is nothing else in it.
"""

from typing import Final

from gateway.events import DeadAir, Fact, TurnDetection, TurnLost, TurnOutcome, TurnTimed

# Silence the agent owes an end to; shorter pauses are a part of talking.
DEAD_AIR_S: Final = 3.0


class CallerClock:
    """Where a moment of the model's audio clock lies on ours.

    The model counts the audio it was given since its session began, and callers talk in real time:
    so much audio ago is so much time ago. What was carried is counted by the call anyway.
    """

    def __init__(self) -> None:
        self._ahead_ms = 0.0

    def session_began(self, held_ms: float, carried_ms: float) -> None:
        """A session was given what had been kept, when so much had been carried in all."""
        self._ahead_ms = held_ms - carried_ms

    def silence_added(self, duration_ms: float) -> None:
        """Silence stands in for audio that was never carried."""
        self._ahead_ms += duration_ms

    def moment(self, position_ms: float, carried_ms: float, now: float) -> float | None:
        """When we got that audio, the last of all at ``now``; None if there is no such audio."""
        ago_ms = carried_ms + self._ahead_ms - position_ms
        return now - ago_ms / 1000 if position_ms > 0 and ago_ms >= 0 else None


def closing_silence_ms(detection: TurnDetection) -> int:
    """How much silence the model has heard when it says that a turn is over, as far as known."""
    return detection.silence_duration_ms if detection.kind == "server_vad" else 0


class TurnTimer:
    """Times one turn at a time."""

    def __init__(self) -> None:
        self._spoke_at = self._told_at = self._came_at = 0.0
        # The caller has spoken and no sound of an answer has come.
        self.is_waiting = False
        # The sound is on its way to the caller.
        self.is_sent = False

    def began(self, spoke_at: float, now: float) -> list[Fact]:
        """The caller fell silent then, and we hear of it now."""
        lost = self.lost("interrupted")
        self._spoke_at, self._told_at = min(spoke_at, now), now
        self.is_waiting = True
        return lost

    def sounded(self, now: float) -> None:
        """The first sound of the answer is here, and goes out."""
        self._came_at = now
        self.is_waiting, self.is_sent = False, True

    def heard(self, at: float) -> TurnTimed:
        """The caller began to hear it then."""
        self.is_sent = False
        return TurnTimed(
            endpointing_s=self._told_at - self._spoke_at,
            model_s=self._came_at - self._told_at,
            conversion_s=0.0,
            send_s=0.0,
            provider_buffer_s=max(0.0, at - self._came_at),
        )

    def lost(self, outcome: TurnOutcome) -> list[Fact]:
        """Nobody will hear this answer, or say that it was heard; nothing if none is awaited."""
        was_running = self.is_waiting or self.is_sent
        self.is_waiting = self.is_sent = False
        return [TurnLost(outcome)] if was_running else []


class OwedSilence:
    """Measures how long the caller hears nothing while it is the agent's turn."""

    def __init__(self) -> None:
        self.since: float | None = None

    def begins(self, now: float) -> None:
        """The caller waits from now on, if not already."""
        if self.since is None:
            self.since = now

    def ends(self, now: float) -> list[Fact]:
        """Somebody is heard, or nobody waits any more; a fact if it took long."""
        since, self.since = self.since, None
        if since is None or now - since < DEAD_AIR_S:
            return []
        return [DeadAir(now - since)]
