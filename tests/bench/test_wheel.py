"""Slots of a millisecond."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bench.wheel import Wheel


@settings(max_examples=25)  # a wheel has 16,384 slots
@given(st.lists(st.integers(-50, 16_000), max_size=50), st.lists(st.integers(1, 9000), max_size=9))
def test_everything_comes_out_once_in_order_and_never_early(
    delays: list[int], steps: list[int]
) -> None:
    """What is overdue comes at once; however time jumps, nothing is left behind."""
    wheel: Wheel[int] = Wheel(1000)
    for delay in delays:
        wheel.put(1000 + delay, 1000 + delay)
    now, out = 1000, []
    for step in [*steps, 16_100]:
        now += step
        for due_ms, items in wheel.turn(now):
            assert all(item == due_ms or item <= 1001 == due_ms for item in items)
            out += items

    assert sorted(out) == sorted(1000 + delay for delay in delays)


def test_what_is_too_far_ahead_is_refused() -> None:
    """It would come out a turn too early."""
    with pytest.raises(ValueError, match="too far"):
        Wheel[int](0).put(1, 20_000)
