"""The search for the largest number of calls that passes; no I/O."""

from dataclasses import dataclass, field

from gateway.bench.figures import Outcome

FIRST_CALLS = 50
# What so few cost is shown, and decides nothing: a moment's disturbance is a large part of it.
FEW_CALLS = (1, 5, 10, 25)
GROWTH = 1.5
PRECISION = 0.05


def few_calls(max_calls: int) -> tuple[int, ...]:
    """How many calls to look at on the way to the first step of the search."""
    return tuple(calls for calls in FEW_CALLS if calls < min(FIRST_CALLS, max_calls))


@dataclass(slots=True)
class Ramp:
    """Grows by half from ``first``, then halves the distance until it is within 5 %.

    Ask ``next_calls``, measure, tell ``record``, until ``next_calls`` is None.
    """

    max_calls: int
    first: int = FIRST_CALLS
    passed: int = 0
    # The smallest number that did not pass, and whether the load itself was the reason.
    stopped: int | None = None
    is_load_the_limit: bool = False
    _tried: set[int] = field(default_factory=set)

    def next_calls(self) -> int | None:
        """How many calls to try next."""
        calls = self._candidate()
        return None if calls is None or calls in self._tried or calls < 1 else calls

    def _candidate(self) -> int | None:
        if self.stopped is None:
            if self.passed >= self.max_calls:
                return None
            return min(
                self.max_calls, round(self.passed * GROWTH) or min(self.first, self.max_calls)
            )
        if self.stopped - self.passed <= max(1, self.passed * PRECISION):
            return None
        return (self.passed + self.stopped) // 2

    def record(self, calls: int, outcome: Outcome) -> None:
        """What a step with so many calls came to."""
        self._tried.add(calls)
        if outcome == "passed":
            self.passed = max(self.passed, calls)
        elif self.stopped is None or calls < self.stopped:
            self.stopped = calls
            self.is_load_the_limit = outcome == "inconclusive"
