"""What the parts of a call share: the way out, what is told, and the alarms that are set."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.events import (
    AudioCounted,
    AudioDropped,
    Direction,
    Fact,
    ProviderCommand,
    RealtimeCommand,
    SessionOptions,
)

# Carried audio is told about once in this time: a fact a frame would cost more than the frame.
COUNT_EVERY_MS = 1000


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What one call shall be like.

    ``prompts``: name -> 24 kHz PCM (apology, filler, goodbye). Where there is an ``announcement``
    the caller hears that first, and until it was heard nobody hears the caller.
    """

    provider: str
    agent: str
    session: SessionOptions
    lead_ms: int
    greeting: str = ""
    allow_barge_in: bool = True
    frame_ms: int = 20
    mark_interval_ms: int = 100
    max_message_bytes: int = 8000
    has_marks: bool = True
    has_status: bool = False
    connect_budget_s: float = 5.0
    reconnect_budget_s: float = 3.0
    answer_s: float = 6.0
    give_up_s: float = 15.0
    idle_s: float = 60.0
    max_call_s: float = 3600.0
    last_words_s: float = 30.0
    prompts: Mapping[str, bytes] = field(default_factory=dict)


class Alarms(dict[str, float]):
    """Named times. Which is the first is asked after every frame, and changes now and then."""

    _earliest: float | None = None
    _is_known = True

    def earliest(self) -> float | None:
        """The first of them, None when there is none."""
        if not self._is_known:
            self._earliest = min(self.values(), default=None)
            self._is_known = True
        return self._earliest

    def __setitem__(self, name: str, at: float) -> None:
        self._is_known = False
        super().__setitem__(name, at)

    def take(self, name: str) -> bool:
        """Take one back; false when it was not set."""
        self._is_known = False
        return self.pop(name, None) is not None

    def clear(self) -> None:
        """Take all back."""
        self._is_known = False
        super().clear()


@dataclass(slots=True)
class Desk:
    """Two outgoing queues, the facts, and named alarms (name -> when)."""

    to_provider: deque[ProviderCommand] = field(default_factory=deque)
    to_realtime: deque[RealtimeCommand] = field(default_factory=deque)
    facts: list[Fact] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    _carried_ms: dict[Direction, float] = field(default_factory=dict)
    _told_ms: dict[Direction, float] = field(default_factory=dict)

    def tell(self, fact: Fact) -> None:
        """Report what happened."""
        self.facts.append(fact)

    def silence(self, *names: str) -> None:
        """Take alarms back; harmless when they were not set."""
        for name in names:
            if name in self.alarms:
                self.alarms.take(name)

    def take_due(self, now: float) -> str | None:
        """The earliest alarm whose time has come; it is set no more."""
        name = min(self.alarms, key=self.alarms.__getitem__, default=None)
        if name is None or self.alarms[name] > now:
            return None
        self.silence(name)
        return name

    def drop(self, direction: Direction, reason: str, duration_ms: float) -> None:
        """Account for audio that does not get through."""
        if duration_ms > 0:
            self.tell(AudioDropped(direction, reason, duration_ms))

    def count(self, direction: Direction, duration_ms: float) -> bool:
        """Account for audio that was carried; true once in a second of it, when it is told."""
        carried_ms = self._carried_ms.get(direction, 0.0) + duration_ms
        self._carried_ms[direction] = carried_ms
        if carried_ms < COUNT_EVERY_MS:
            return False
        self._tell_count(direction)
        return True

    def carried_ms(self, direction: Direction) -> float:
        """All audio that was carried so far."""
        return self._told_ms.get(direction, 0.0) + self._carried_ms.get(direction, 0.0)

    def tell_counts(self) -> None:
        """Report what was carried since the last time."""
        for direction in list(self._carried_ms):
            self._tell_count(direction)

    def _tell_count(self, direction: Direction) -> None:
        duration_ms = self._carried_ms.pop(direction)
        self._told_ms[direction] = self._told_ms.get(direction, 0.0) + duration_ms
        if duration_ms > 0:
            self.tell(AudioCounted(direction, duration_ms))
