"""Sums, and the verdict on them."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.figures import Calls, Spread, Usage, figures, judge, judge_set_up, spread
from gateway.bench.tally import Tally
from tests.bench.samples import GOOD, measured

FAILING: list[tuple[dict[str, Any], str]] = [
    ({"set_up": 98, "failures": ("HTTP/1.1 503 no",)}, "calls not set up: 2 of 100 (HTTP/1.1 503"),
    ({"lost": 3}, "calls lost: 3"),
    ({"bursts_lost": 4}, "audio lost towards the model: 4 of 800 bursts, 0 ms"),
    ({"lost_up_ms": 80.0}, "audio lost towards the model: 0 of 800 bursts, 80 ms"),
    ({"answers_short": 2, "lost_down_ms": 240.0}, "audio lost towards callers: 2 of 60"),
    ({"answers_unheard": 1}, "1 never begun"),
    ({"barge_ins_unanswered": 7}, "barge-ins unanswered: 7 of 100"),
    ({"stale_messages": 5}, "audio after clear: 5 messages"),
    ({"uplink": Spread(9, 1, 20.1, 30)}, "uplink p99 20.1 ms"),
    ({"first_audio": Spread(9, 1, 33, 34)}, "first audio p99 33.0 ms"),
    ({"bursts": 0, "answers": 0}, "nothing was measured"),
]
DOUBTFUL: list[tuple[dict[str, Any], str]] = [
    ({"lateness": Spread(9, 1, 5.1, 6)}, "the load was late: p99 5.1 ms"),
    ({"load_cpu_share": 0.9}, "the load took 90% of its core"),
    ({"foreign_cpu_share": 0.4}, "other programs took 40% of the gateway's core"),
]


def test_a_good_step_passes() -> None:
    """Up to and with the limits."""
    at_the_limit = measured(uplink=Spread(9, 1, 20.0, 90), first_audio=Spread(9, 1, 20.0, 90))

    assert judge(GOOD).outcome == at_the_limit.verdict.outcome == "passed"


@pytest.mark.parametrize(("changes", "words"), FAILING)
def test_a_failing_step_says_why(changes: dict[str, Any], words: str) -> None:
    """One reason for one fault, with its numbers."""
    verdict = measured(**changes).verdict

    assert verdict.outcome == "failed"
    assert [words in reason for reason in verdict.reasons] == [True]


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.combinations([FAILING[0], FAILING[4], FAILING[6], FAILING[8]], 2)),
)
def test_every_reason_is_named(one: tuple[Any, str], other: tuple[Any, str]) -> None:
    """The first one does not hide the next."""
    assert len(measured(**one[0], **other[0]).verdict.reasons) == 2


def test_of_a_set_up_only_the_calls_are_judged() -> None:
    """Who hangs up in mid-answer leaves half a burst and half an answer behind."""
    coming_and_going = replace(GOOD, bursts_lost=4, answers_short=9, barge_ins_unanswered=1)

    assert judge_set_up(coming_and_going).outcome == "passed"
    assert judge_set_up(replace(GOOD, lost=1)).reasons == ("calls lost: 1",)
    assert judge_set_up(replace(GOOD, load_cpu_share=0.9)).outcome == "inconclusive"


@pytest.mark.parametrize(("changes", "words"), DOUBTFUL)
def test_a_load_in_doubt_proves_nothing(changes: dict[str, Any], words: str) -> None:
    """Not even that the gateway failed."""
    verdict = measured(lost=3, **changes).verdict

    assert verdict.outcome == "inconclusive"
    assert [words in reason for reason in verdict.reasons] == [True]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_occurred(values: list[float]) -> None:
    """Half are at most the median, all are at most the largest."""
    found = spread(values)

    assert found.count == len(values)
    assert sum(value <= found.p50_ms for value in values) * 2 >= len(values)
    assert sum(value <= found.p99_ms for value in values) * 100 >= len(values) * 99
    assert found.p50_ms in values
    assert found.p50_ms <= found.p99_ms <= found.max_ms == max(values)


def test_of_nothing_there_are_no_percentiles() -> None:
    """Zeros, and a count that says so."""
    assert spread([]) == Spread()


def test_a_window_is_summed_up() -> None:
    """Time divides CPU; what began and did not end is lost."""
    tally = Tally(began_s=100.0, ended_s=108.0, bursts=10, first_deltas=5, barge_ins=3)
    tally.uplink_ms += [1.0] * 9
    tally.downlink_ms += [2.0] * 4
    tally.barge_in_ms += [0.5] * 2
    usage = Usage(1.6, 2.0, 0.8, 50_000, 51_000)

    step = figures(tally, Calls(20, 20, 0, ()), usage, 40.0)

    assert (step.bursts_lost, step.answers_unheard, step.barge_ins_unanswered) == (1, 1, 1)
    assert step.cpu_ms_per_call_s == pytest.approx(10.0)
    assert step.cpu_share == pytest.approx(0.2)
    assert step.foreign_cpu_share == pytest.approx(0.05)
    assert step.load_cpu_share == pytest.approx(0.1)
    assert step.memory_per_call_kib == pytest.approx(50.0)


def test_a_process_nobody_may_look_at_has_no_cpu_and_no_memory() -> None:
    """None is not zero."""
    tally = Tally(began_s=0.0, ended_s=8.0)
    step = figures(tally, Calls(1, 1, 0, ()), Usage(None, 3.0, 0.1, None, None), 0.0)

    assert step.cpu_ms_per_call_s is step.foreign_cpu_share is step.memory_per_call_kib is None
