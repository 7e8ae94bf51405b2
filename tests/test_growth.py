"""What is said of growth is true, and a long call's figures come from a call that lives."""

import pytest

from tests.benchmarks.lines import fitted
from tests.benchmarks.long_call import reach, samples

SIZES = (1, 10, 100, 1000)


def test_points_that_hardly_differ_are_flat() -> None:
    """Noise of a tenth is no growth."""
    line = fitted([(1, 100), (10, 109), (100, 95), (1000, 104)])

    assert (line.shape, line.slope) == ("flat", 0.0)
    assert line.start == pytest.approx(102)


def test_a_line_is_found_whatever_its_start() -> None:
    """Start and slope come out, though the sizes lie far apart."""
    line = fitted([(x, 90 + 3 * x) for x in SIZES])

    assert line.shape == "linear"
    assert line.start == pytest.approx(90)
    assert line.slope == pytest.approx(3)
    assert line.worst < 0.001


def test_what_falls_does_not_grow() -> None:
    """It is called flat, and how far off that is stands beside it."""
    line = fitted([(1, 200), (60, 150), (120, 100)])

    assert line.shape == "flat"
    assert line.worst == pytest.approx(1 / 3)


def test_a_square_is_neither() -> None:
    """The worst point is far off every line."""
    assert fitted([(x, x * x) for x in SIZES]).shape == "neither"


def test_what_a_thing_holds_is_counted_once() -> None:
    """Sound below a call counts, however deep, and twice the same does not."""
    sound = bytes(5000)
    alone, _ = reach({"a": [sound]})
    twice, _ = reach({"a": [sound, sound]})

    assert 5000 < alone < 6000
    assert twice - alone < 100


def test_a_long_call_lives_and_is_looked_at_when_asked() -> None:
    """Two moments of one call, each with what it cost and held."""
    first, second = samples((1, 2))

    assert (first.minutes, second.minutes) == (1, 2)
    assert min(first.us_a_second, second.us_a_second) > 0
    assert second.size_bytes > 20_000
