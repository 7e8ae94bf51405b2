"""How punctually a stream of frames arrives: jitter, and audio that never came.

A frame's *delay* is its time of arrival less the audio received up to its end. A late frame is
followed by others that are less late, while audio that is missing delays all that come after it for
ever. So lateness is counted against the least delay that is still to come (the *floor*), and what
the floor itself has risen by is missing. A clock that is off by a few parts in ten thousand moves
the floor too slowly to count.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_Milliseconds = NDArray[np.float64]

# The floor of a stretch of time is the least delay of its last second, in 20 ms frames.
_FLOOR_FRAMES: Final = 50
# The floor of a steady stream rises less than this in a few seconds, whatever the clocks.
_LEAST_MISSING_MS: Final = 10.0
_JITTER_PERCENTILE: Final = 95


@dataclass(frozen=True, slots=True)
class Punctuality:
    """What a stretch of time was like.

    ``jitter_ms``: how late 95 % of the frames were at most. ``missing_ms``: audio that never came,
    beside what was reported as lost.
    """

    jitter_ms: float = 0.0
    missing_ms: float = 0.0


def percentile(values: NDArray[np.floating[Any]], percent: float) -> float:
    """What so many percent of at least one value are at most; between two, as numpy has it.

    numpy's own takes 60 us for a few hundred values, this 4.
    """
    ordered = np.sort(values)
    place = (ordered.size - 1) * percent / 100
    low = int(place)
    below, above = float(ordered[low]), float(ordered[min(low + 1, ordered.size - 1)])
    return below + (above - below) * (place - low)


class Arrival:
    """Follows one stream of frames; times are milliseconds of any clock that goes forward only."""

    __slots__ = ("_clock_ms", "_delays", "_floor_ms", "_sure_ms")

    def __init__(self) -> None:
        self._clock_ms = 0.0
        self._delays: list[_Milliseconds] = []
        self._floor_ms: float | None = None
        self._sure_ms: float | None = None

    def take(self, arrivals_ms: _Milliseconds, durations_ms: _Milliseconds) -> float:
        """Some frames, at least one; returns when the first of them began, had none been late.

        What is known to be lost is part of the duration of the frame behind it.
        """
        ends_ms = np.cumsum(durations_ms)
        delays = arrivals_ms - self._clock_ms - ends_ms
        least_ms = float(delays.min())
        began_ms = least_ms + self._clock_ms
        self._clock_ms += float(ends_ms[-1])
        self._delays.append(delays)
        if self._sure_ms is None:
            self._sure_ms = self._floor_ms = least_ms
        return began_ms

    def assess(self, *, is_final: bool = False) -> Punctuality:
        """What it was like since the last time.

        Audio counts as missing when the next stretch has not brought it either; the last one of a
        call has nobody to wait for.
        """
        if not self._delays:
            return Punctuality()
        delays = np.concatenate(self._delays)
        self._delays.clear()
        least_to_come = np.minimum.accumulate(delays[::-1])[::-1]
        jitter_ms = percentile(delays - least_to_come, _JITTER_PERCENTILE)
        return Punctuality(jitter_ms, self._missing(float(delays[-_FLOOR_FRAMES:].min()), is_final))

    def _missing(self, floor_ms: float, is_final: bool) -> float:  # noqa: FBT001  # private
        before_ms, self._floor_ms = self._floor_ms or 0.0, floor_ms
        sure_ms = floor_ms if is_final else min(before_ms, floor_ms)
        missing_ms = sure_ms - (self._sure_ms or 0.0)
        self._sure_ms = sure_ms
        return missing_ms if missing_ms >= _LEAST_MISSING_MS else 0.0
