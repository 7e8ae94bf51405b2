"""Looks after the sound of one call: frames and what the phone plays in, ``AudioAssessed`` out.

An assessment is told and nothing more: no message depends on it, and the alarm is the same without.
"""

from collections import deque
from dataclasses import fields
from math import inf
from typing import Final

from gateway.audio.echo import Played
from gateway.audio.health import NO_AUDIO_S, Assessment, Health
from gateway.desk import Desk
from gateway.events import AudioAssessed, CallStarted

# The alarm that rings when no frames come: as long as they do, it is put off once a second.
ALARM: Final = "no audio"
_ALARM_S: Final = NO_AUDIO_S + 0.1
_NAMES: Final = tuple(each.name for each in fields(Assessment))


class Checkup:
    """``heard`` takes ``(now, payload)`` of each frame; ``look`` is called about once a second.

    Args:
        desk: where it is told.
        started: which sound comes in.
        played: what the phone plays of the agent.
        now: the call begins.
        is_assessed: whether anybody wants to know; else nothing is looked at, nor told.
    """

    __slots__ = ("_desk", "_health", "_is_over", "heard")

    def __init__(
        self,
        desk: Desk,
        started: CallStarted,
        played: Played,
        now: float,
        *,
        is_assessed: bool = True,
    ) -> None:
        self._desk = desk
        self._health: Health | None = None
        self.heard: list[tuple[float, bytes]] | deque[tuple[float, bytes]] = deque(maxlen=0)
        if is_assessed:
            audio = started.audio_in
            self._health = Health(audio.encoding, audio.rate_hz, played, now)
            self.heard = self._health.heard
        else:
            played.forget(now, inf)
        self._is_over = False
        self._put_off(now)

    def _put_off(self, now: float) -> None:
        self._desk.alarms[ALARM] = now + _ALARM_S

    def lose(self, duration_ms: float) -> None:
        """So much of the caller's audio never arrived."""
        if self._health is not None:
            self._health.lose(duration_ms)

    def look(self, now: float) -> None:
        """About a second of audio has come, or none for too long."""
        assessment = self._health.listen(now) if self._health is not None else None
        if assessment is not None:
            self._desk.tell(_fact(assessment))
        self._put_off(now)

    def finish(self, now: float) -> None:
        """Nobody listens to the caller any more: tell of all of the call, once."""
        if self._health is not None and not self._is_over:
            self._is_over = True
            self._desk.tell(_fact(self._health.finish(now)))


def _fact(assessment: Assessment) -> AudioAssessed:
    return AudioAssessed(**{name: getattr(assessment, name) for name in _NAMES})
