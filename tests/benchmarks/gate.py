"""Tells a slower gateway from a slower machine: a ratio to a reference measured in between.

Small batches of the subject and of a loop that does the same kind of work take turns. Neighbours
only ever slow a batch down, so the fastest of each tells what the machine can do, and the ratio of
the two is what the baseline keeps. All subjects have their turn before one has its second: a noisy
moment is over by then. A subject that is too slow by more than ``MOST_SLOWER`` gets more rounds:
noise goes, and a slower gateway stays slower.
"""

import gc
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import process_time_ns
from typing import Literal

BASELINE = Path(__file__).with_name("baseline.json")
MOST_SLOWER = 0.10
ROUNDS = 2
MOST_ROUNDS = 5
PAIRS = 150
WARM_UP = 5
# Ratios hold for one Python: another interpreter has other strengths.
PYTHON = ".".join(platform.python_version_tuple()[:2])

Verdict = Literal["ok", "slower", "faster", "new"]
Clock = Callable[[], int]


def _nothing() -> None:
    """For work that needs no preparation."""


@dataclass(frozen=True, slots=True)
class Work:
    """A batch to be timed: ``run`` does ``units`` of it, ``refill`` comes before, untimed."""

    run: Callable[[], object]
    units: int
    refill: Callable[[], object] = _nothing


@dataclass(frozen=True, slots=True)
class Timing:
    """The fastest batches of a subject and of its reference, in us a unit."""

    own_us: float = inf
    reference_us: float = inf

    @property
    def ratio(self) -> float:
        """What does not depend on the machine."""
        return self.own_us / self.reference_us

    def __or__(self, other: "Timing") -> "Timing":
        """The fastest of both."""
        return Timing(min(self.own_us, other.own_us), min(self.reference_us, other.reference_us))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    timing: Timing
    baseline: float | None
    rounds: int = ROUNDS

    @property
    def change(self) -> float:
        """By how much it is slower than the baseline: 0.1 is 10 %."""
        return 0.0 if self.baseline is None else self.timing.ratio / self.baseline - 1

    @property
    def verdict(self) -> Verdict:
        """Whether this is a regression, or so good that the baseline wants to be written anew."""
        if self.baseline is None:
            return "new"
        if self.change > MOST_SLOWER:
            return "slower"
        return "faster" if self.change < -MOST_SLOWER else "ok"

    def __str__(self) -> str:
        stored = "-" if self.baseline is None else f"{self.baseline:.4f}"
        return (
            f"{self.name:<42} {self.timing.own_us:>9.2f} us  ratio {self.timing.ratio:>8.4f}  "
            f"baseline {stored:>8}  {self.change:>+7.1%}  {self.verdict}"
            + (f" ({self.rounds} rounds)" if self.rounds > ROUNDS else "")
        )


def measured(
    work: Work, reference: Work, pairs: int = PAIRS, clock: Clock = process_time_ns
) -> Timing:
    """Time both by turns, without the collector of garbage between."""
    with _uncollected():
        turns = [(_timed(work, clock), _timed(reference, clock)) for _ in range(WARM_UP + pairs)]
    own_ns, reference_ns = (min(column) for column in zip(*turns[WARM_UP:], strict=True))
    return Timing(own_ns / work.units / 1000, reference_ns / reference.units / 1000)


def _timed(work: Work, clock: Clock) -> int:
    work.refill()
    began = clock()
    work.run()
    return max(1, clock() - began)


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def judged(
    races: Mapping[str, Callable[[], Timing]], baseline: Mapping[str, float]
) -> dict[str, Finding]:
    """Every subject in ``ROUNDS`` rounds; those that look slower in up to ``MOST_ROUNDS``."""
    findings = {name: Finding(name, Timing(), baseline.get(name), 0) for name in races}
    for number in range(1, MOST_ROUNDS + 1):
        for name, race in races.items():
            before = findings[name]
            if number <= ROUNDS or before.verdict == "slower":
                timing = before.timing | race()
                findings[name] = Finding(name, timing, before.baseline, number)
    return findings


def stored() -> Mapping[str, float]:
    """The ratios of this Python, by subject; none where it was never measured."""
    ratios: dict[str, dict[str, float]] = json.loads(BASELINE.read_text("utf-8"))
    return ratios.get(PYTHON, {})


def store(ratios: Mapping[str, float]) -> None:
    """Write the ratios of this Python; those of others stay."""
    known = json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {}
    known[PYTHON] = {name: round(ratio, 4) for name, ratio in ratios.items()}
    BASELINE.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", "utf-8")
