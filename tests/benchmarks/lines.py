"""Say of measured points whether they are flat or on a line, and how far off the worst is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Shape = Literal["flat", "linear", "neither"]
Point = tuple[float, float]

# What differs no more than this from the mean is flat; from the line, linear.
FLAT_WITHIN, LINEAR_WITHIN = 0.15, 0.35


@dataclass(frozen=True, slots=True)
class Line:
    """``start + slope * x``, fitted so that every point counts by its relative deviation."""

    start: float
    slope: float
    worst: float
    shape: Shape

    def __str__(self) -> str:
        return f"{self.shape}: {self.start:.4g} + {self.slope:.4g} x, worst {self.worst:.0%} off"


def fitted(points: Sequence[Point]) -> Line:
    """The flat line where that will do, else the sloping one; ``y`` must be above 0."""
    level, sloping = _level(points), _sloping(points)
    # What falls as the size rises does not grow: noise, or what is paid once.
    return level if level.worst <= FLAT_WITHIN or sloping.slope <= 0 else sloping


def _level(points: Sequence[Point]) -> Line:
    middle = sum(y for _, y in points) / len(points)
    return Line(middle, 0.0, max(abs(y / middle - 1) for _, y in points), "flat")


def _sloping(points: Sequence[Point]) -> Line:
    """Least squares, each point weighed by 1 / y squared: else only the largest would count."""
    weighed = [(1 / (y * y), x, y) for x, y in points]
    total = sum(w for w, _, _ in weighed)
    mean_x = sum(w * x for w, x, _ in weighed) / total
    mean_y = sum(w * y for w, _, y in weighed) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x, _ in weighed)
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in weighed) / spread
    start = mean_y - slope * mean_x
    worst = max(abs((start + slope * x) / y - 1) for x, y in points)
    return Line(start, slope, worst, "linear" if worst <= LINEAR_WITHIN else "neither")
