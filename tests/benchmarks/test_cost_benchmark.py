"""No subject costs over 10 % more than it did; the gate sees what does."""

import json
from collections.abc import Callable
from functools import reduce
from operator import or_
from time import process_time_ns
from typing import Any

import pytest

from tests.benchmarks import gate
from tests.benchmarks.gate import Finding, Timing, Work, judged, measured
from tests.benchmarks.references import REFERENCES
from tests.benchmarks.subjects import SUBJECTS

Benchmark = Callable[..., Any]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SUBJECTS)
def test_cost(benchmark: Any, findings: dict[str, Finding], name: str) -> None:
    """The subject is no slower than its baseline allows."""
    finding = findings[name]
    with SUBJECTS[name].ready() as work:
        benchmark.pedantic(work.run, setup=work.refill, rounds=20)
    benchmark.extra_info["ratio"] = finding.timing.ratio
    assert finding.verdict not in {"slower", "new"}, str(finding)


def _wasting(work: Work, share: float) -> Work:
    """The same work, made slower by a share of its own time."""

    def run() -> None:
        began = process_time_ns()
        work.run()
        until = process_time_ns()
        until += int((until - began) * share)
        while process_time_ns() < until:
            pass

    return Work(run, work.units, work.refill)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_slow_down_is_caught(name: str) -> None:
    """A subject that wastes 15 % is found slower than itself."""
    subject = SUBJECTS[name]

    def slowed() -> Timing:
        with subject.ready() as work:
            return measured(_wasting(work, 0.15), REFERENCES[subject.kind]())

    # By turns: a control from a quieter or a noisier moment would prove nothing.
    rounds = [(subject.race(), slowed()) for _ in range(gate.MOST_ROUNDS)]
    honest, slow = (reduce(or_, column) for column in zip(*rounds, strict=True))
    finding = Finding(name, slow, honest.ratio)

    assert finding.verdict == "slower", str(finding)


def _found(*own_us: float) -> Finding:
    """The finding about a subject that took these times, of a baseline of 1."""
    times = iter(own_us)
    return judged({"it": lambda: Timing(next(times), 1.0)}, {"it": 1.0})["it"]


def test_noise_is_measured_away() -> None:
    """One quiet round of five is enough to be let off, and no more are spent then."""
    finding = _found(1.5, 1.5, 1.5, 1.05)

    assert (finding.verdict, finding.rounds) == ("ok", 4)


def test_what_stays_slow_is_slower() -> None:
    """Five rounds above the limit are a regression."""
    finding = _found(1.11, 1.12, 1.2, 1.11, 1.3)

    assert (finding.verdict, finding.rounds) == ("slower", gate.MOST_ROUNDS)


def test_a_gain_is_told() -> None:
    """Who made it faster is told to keep the gain."""
    assert _found(0.8, 0.8).verdict == "faster"


def test_a_subject_without_a_baseline_is_new() -> None:
    """It cannot pass unseen."""
    assert judged({"it": lambda: Timing(1.0, 1.0)}, {})["it"].verdict == "new"


def test_measured_takes_the_fastest_of_both() -> None:
    """Each batch is timed on its own; the fastest counts, for one unit."""
    moments = iter([0, 9000, 0, 9000] * gate.WARM_UP + [0, 400, 0, 200, 0, 300, 0, 500])

    timing = measured(Work(int, 3), Work(int, 1), 2, lambda: next(moments))

    assert timing == Timing(0.1, 0.2)


def test_other_pythons_keep_their_baseline(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewriting changes the ratios of the running Python only."""
    path = tmp_path / "baseline.json"
    path.write_text('{"2.7": {"it": 3.0}}')
    monkeypatch.setattr(gate, "BASELINE", path)

    gate.store({"it": 1.23456})

    assert json.loads(path.read_text()) == {"2.7": {"it": 3.0}, gate.PYTHON: {"it": 1.2346}}
    assert gate.stored() == {"it": 1.2346}
