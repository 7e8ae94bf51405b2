"""The search, on systems made up."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.figures import Outcome
from gateway.bench.ramp import FIRST_CALLS, PRECISION, Ramp, few_calls


def search(ramp: Ramp, capacity: int, load_limit: int = 10**9) -> list[int]:
    """Every number tried on a gateway that carries ``capacity``."""
    tried = []
    while (calls := ramp.next_calls()) is not None:
        tried.append(calls)
        outcome: Outcome = "passed" if calls <= capacity else "failed"
        ramp.record(calls, "inconclusive" if calls > load_limit else outcome)
    return tried


@given(st.integers(1, 3000))
def test_the_limit_is_found_within_five_percent(capacity: int) -> None:
    """Never above it, and in a number of steps one can wait for."""
    ramp = Ramp(max_calls=4000)
    tried = search(ramp, capacity)

    assert ramp.passed <= capacity
    assert capacity - ramp.passed <= max(1, ramp.passed * PRECISION)
    assert len(tried) == len(set(tried)) <= 20
    assert not ramp.is_load_the_limit


@given(st.integers(1, 500))
def test_no_more_is_tried_than_allowed(most: int) -> None:
    """A gateway better than the limit is measured up to it."""
    ramp = Ramp(max_calls=most)
    tried = search(ramp, 10_000)

    assert max(tried) == ramp.passed == most


def test_a_gateway_that_carries_nothing_ends_the_search() -> None:
    """One call was tried."""
    ramp = Ramp(max_calls=1000)

    assert search(ramp, 0)[-1] == 1
    assert ramp.passed == 0


@given(st.integers(51, 900))
def test_a_load_that_gives_out_first_is_named(load_limit: int) -> None:
    """What lies beyond it was not measured."""
    ramp = Ramp(max_calls=2000)
    search(ramp, 1000, load_limit)

    assert ramp.is_load_the_limit
    assert ramp.passed <= load_limit


@given(st.integers(1, 4000))
def test_few_calls_lead_up_to_the_search(most: int) -> None:
    """From one on, growing, and never as many as the search begins with."""
    few = few_calls(most)

    assert few[:1] == ((1,) if most > 1 else ())
    assert list(few) == sorted(set(few))
    assert all(calls < min(most, FIRST_CALLS) for calls in few)
