"""Punctuality of frames: late is not lost, lost is not late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.audio.arrival import Arrival, Punctuality, percentile

FRAME_MS = 20.0


def followed(arrivals_ms: list[float], stretch: int = 250) -> list[Punctuality]:
    """20 ms frames, a second of them at a time, assessed every few seconds and at the end."""
    arrival, found = Arrival(), []
    for first in range(0, len(arrivals_ms), 50):
        batch = np.array(arrivals_ms[first : first + 50])
        arrival.take(batch, np.full(batch.size, FRAME_MS))
        if (first + 50) % stretch == 0:
            found.append(arrival.assess())
    return [*found, arrival.assess(is_final=True)]


def test_punctual_frames_are_neither_late_nor_lost() -> None:
    """Twenty seconds at the pace of a clock."""
    assert set(followed([n * FRAME_MS for n in range(1000)])) == {Punctuality(0.0, 0.0)}


@given(seed=st.integers(0, 2**32), lost=st.sets(st.integers(60, 480), min_size=1, max_size=40))
def test_what_is_missing_is_found_beneath_any_jitter(seed: int, lost: set[int]) -> None:
    """Frames that never come add up to their length; jitter hides as much as all wait for."""
    waits_ms = np.random.default_rng(seed).uniform(0, 150, 600)
    kept = np.array([n for n in range(600) if n not in lost])
    punctual_ms = (kept + 1) * FRAME_MS
    late_ms = np.maximum.accumulate(punctual_ms + waits_ms[kept])

    exact, jittered = _at_once(punctual_ms), _at_once(late_ms)

    assert exact == Punctuality(0.0, len(lost) * FRAME_MS)
    assert jittered.missing_ms == pytest.approx(len(lost) * FRAME_MS, abs=100)
    assert 50 < jittered.jitter_ms <= 150


def _at_once(arrivals_ms: NDArray[np.float64]) -> Punctuality:
    """The first second, then all the rest, of a call."""
    arrival = Arrival()
    for batch in (arrivals_ms[:50], arrivals_ms[50:]):
        arrival.take(batch, np.full(batch.size, FRAME_MS))
    return arrival.assess(is_final=True)


def test_jitter_is_what_frames_wait_for() -> None:
    """Every tenth frame waits 80 ms: 95 % of them are late by less than that, and by no less."""
    arrivals_ms = [n * FRAME_MS + (80 if n % 10 == 0 else 0) for n in range(500)]

    found = followed(list(np.maximum.accumulate(arrivals_ms)))

    assert all(40 <= one.jitter_ms <= 80 for one in found[:-1])
    assert {one.missing_ms for one in found} == {0.0}


def test_a_loss_is_told_when_it_is_sure() -> None:
    """A second that is missing is not made up for: told at the assessment after the next."""
    arrivals_ms = [n * FRAME_MS + (1000 if n >= 300 else 0) for n in range(1000)]

    missing_ms = [one.missing_ms for one in followed(arrivals_ms)]

    assert sum(missing_ms) == 1000
    assert missing_ms.index(1000) == 2


def test_the_end_waits_for_nobody() -> None:
    """A loss in the last seconds of a call counts too."""
    arrivals_ms = [n * FRAME_MS + (300 if n >= 240 else 0) for n in range(320)]

    assert sum(one.missing_ms for one in followed(arrivals_ms)) == 300


def test_when_a_frame_began_is_told_as_if_none_were_late() -> None:
    """The first of a batch was late: the others tell when its sound began."""
    arrival = Arrival()

    began_ms = arrival.take(np.array([5055.0, 5056.0, 5060.0]), np.full(3, FRAME_MS))

    assert began_ms == 5000.0


def test_without_frames_there_is_nothing_to_say() -> None:
    """No frame, no jitter."""
    assert Arrival().assess(is_final=True) == Punctuality(0.0, 0.0)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    st.sampled_from([0, 10, 50, 95, 100]),
)
def test_percentiles_are_numpys(values: list[float], percent: int) -> None:
    """The quick one says what the slow one says."""
    found = percentile(np.array(values), percent)

    assert found == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)
