"""What is counted while one step is measured."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Everything that began within one window, in milliseconds unless the name says otherwise.

    A thing is counted by the moment it began; what is under way when the window closes may still
    come to its end.
    """

    began_s: float = math.inf
    ended_s: float = math.inf
    bursts: int = 0
    uplink_ms: list[float] = field(default_factory=list)
    first_deltas: int = 0
    downlink_ms: list[float] = field(default_factory=list)
    barge_ins: int = 0
    barge_in_ms: list[float] = field(default_factory=list)
    stale_messages: int = 0
    answers: int = 0
    answers_short: int = 0
    answers_long: int = 0
    lost_down_ms: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)
    setup_ms: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)

    def covers(self, begun_s: float) -> bool:
        """Whether something that began then belongs to this window."""
        return self.began_s <= begun_s < self.ended_s


class Books:
    """The tally that is being written; another one is put in its place for each window."""

    def __init__(self) -> None:
        self.tally = Tally()

    def open(self, now: float) -> Tally:
        """Begin a window."""
        self.tally = Tally(began_s=now)
        return self.tally
