"""What one step came to, and whether it passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.bench.tally import Tally

Outcome = Literal["passed", "failed", "inconclusive"]

LATENCY_LIMIT_MS = 20.0
LATENESS_LIMIT_MS = 5.0
LOAD_CPU_LIMIT = 0.85
# Of the gateway's core, by programs that have no part in this.
FOREIGN_CPU_LIMIT = 0.10


@dataclass(frozen=True, slots=True)
class Spread:
    """Of so many values, in ms; all 0 where there are none."""

    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


def spread(values: Sequence[float]) -> Spread:
    """Nearest-rank percentiles."""
    if not values:
        return Spread()
    ordered = sorted(values)
    return Spread(len(ordered), _rank(ordered, 50), _rank(ordered, 99), ordered[-1])


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


@dataclass(frozen=True, slots=True)
class Figures:
    """One step. Without a process to look at, CPU and memory are None."""

    calls: int
    window_s: float
    set_up: int
    lost: int
    failures: tuple[str, ...]
    setup: Spread
    uplink: Spread
    first_audio: Spread
    barge_in: Spread
    bursts: int
    bursts_lost: int
    lost_up_ms: float
    answers: int
    answers_short: int
    answers_long: int
    answers_unheard: int
    lost_down_ms: float
    barge_ins: int
    barge_ins_unanswered: int
    stale_messages: int
    gaps: Spread
    cpu_ms_per_call_s: float | None
    cpu_share: float | None
    foreign_cpu_share: float | None
    memory_idle_kib: int | None
    memory_kib: int | None
    lateness: Spread
    load_cpu_share: float

    @property
    def memory_per_call_kib(self) -> float | None:
        """What a call adds to the idle process."""
        if self.memory_kib is None or self.memory_idle_kib is None or not self.calls:
            return None
        return (self.memory_kib - self.memory_idle_kib) / self.calls


@dataclass(frozen=True, slots=True)
class Usage:
    """What a window cost: seconds of CPU, KiB; None where nobody could look."""

    gateway_cpu_s: float | None
    core_busy_s: float
    load_cpu_s: float
    memory_idle_kib: int | None
    memory_kib: int | None


@dataclass(frozen=True, slots=True)
class Calls:
    """What became of the calls of a step."""

    wanted: int
    set_up: int
    lost: int
    failures: tuple[str, ...]


def figures(tally: Tally, calls: Calls, usage: Usage, lost_up_ms: float) -> Figures:
    """Sum up one window."""
    window_s = tally.ended_s - tally.began_s
    cpu_s = usage.gateway_cpu_s
    call_s = max(1, calls.set_up) * window_s
    return Figures(
        calls=calls.wanted,
        window_s=window_s,
        set_up=calls.set_up,
        lost=calls.lost,
        failures=calls.failures,
        setup=spread(tally.setup_ms),
        uplink=spread(tally.uplink_ms),
        first_audio=spread(tally.downlink_ms),
        barge_in=spread(tally.barge_in_ms),
        bursts=tally.bursts,
        bursts_lost=tally.bursts - len(tally.uplink_ms),
        lost_up_ms=lost_up_ms,
        answers=tally.answers,
        answers_short=tally.answers_short,
        answers_long=tally.answers_long,
        answers_unheard=tally.first_deltas - len(tally.downlink_ms),
        lost_down_ms=tally.lost_down_ms,
        barge_ins=tally.barge_ins,
        barge_ins_unanswered=tally.barge_ins - len(tally.barge_in_ms),
        stale_messages=tally.stale_messages,
        gaps=spread(tally.gaps_ms),
        cpu_ms_per_call_s=None if cpu_s is None else cpu_s * 1000 / call_s,
        cpu_share=None if cpu_s is None else cpu_s / window_s,
        foreign_cpu_share=_foreign_share(usage, window_s),
        memory_idle_kib=usage.memory_idle_kib,
        memory_kib=usage.memory_kib,
        lateness=spread(tally.lateness_ms),
        load_cpu_share=usage.load_cpu_s / window_s,
    )


def _foreign_share(usage: Usage, window_s: float) -> float | None:
    if usage.gateway_cpu_s is None:
        return None
    return max(0.0, usage.core_busy_s - usage.gateway_cpu_s) / window_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a step passes, and every reason why not."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


def judge(step: Figures) -> Verdict:
    """Hold a step against what callers notice; a late load or a shared core proves nothing."""
    reasons = [*_lost_calls(step), *_lost_audio(step), *_bad_turns(step), *_delays(step)]
    return _verdict(step, reasons)


def judge_set_up(step: Figures) -> Verdict:
    """As ``judge``, where calls come and go: whoever wanted one has one, and none breaks."""
    return _verdict(step, _lost_calls(step))


def _verdict(step: Figures, reasons: Sequence[str]) -> Verdict:
    doubts = _doubts(step)
    if doubts:
        return Verdict("inconclusive", tuple(doubts))
    return Verdict("failed" if reasons else "passed", tuple(reasons))


def _doubts(step: Figures) -> list[str]:
    reasons = []
    if step.lateness.p99_ms > LATENESS_LIMIT_MS:
        reasons.append(
            f"the load was late: p99 {step.lateness.p99_ms:.1f} ms > {LATENESS_LIMIT_MS:g} ms"
        )
    if step.load_cpu_share > LOAD_CPU_LIMIT:
        reasons.append(
            f"the load took {step.load_cpu_share:.0%} of its core, more than {LOAD_CPU_LIMIT:.0%}"
        )
    if (step.foreign_cpu_share or 0.0) > FOREIGN_CPU_LIMIT:
        reasons.append(
            f"other programs took {step.foreign_cpu_share:.0%} of the gateway's core, "
            f"more than {FOREIGN_CPU_LIMIT:.0%}"
        )
    return reasons


def _lost_calls(step: Figures) -> list[str]:
    reasons = []
    if step.set_up < step.calls:
        why = f" ({step.failures[0]})" if step.failures else ""
        reasons.append(f"calls not set up: {step.calls - step.set_up} of {step.calls}{why}")
    if step.lost:
        reasons.append(f"calls lost: {step.lost}")
    return reasons


def _lost_audio(step: Figures) -> list[str]:
    reasons = []
    if step.bursts_lost or step.lost_up_ms:
        reasons.append(
            f"audio lost towards the model: {step.bursts_lost} of {step.bursts} bursts, "
            f"{step.lost_up_ms:.0f} ms"
        )
    if step.answers_short or step.answers_unheard:
        reasons.append(
            f"audio lost towards callers: {step.answers_short} of {step.answers} answers short, "
            f"{step.lost_down_ms:.0f} ms; {step.answers_unheard} never begun"
        )
    if not step.bursts or not step.answers:
        reasons.append("nothing was measured: no burst or no answer within the step")
    return reasons


def _bad_turns(step: Figures) -> list[str]:
    reasons = []
    if step.barge_ins_unanswered:
        reasons.append(f"barge-ins unanswered: {step.barge_ins_unanswered} of {step.barge_ins}")
    if step.stale_messages:
        reasons.append(f"audio after clear: {step.stale_messages} messages")
    return reasons


def _delays(step: Figures) -> list[str]:
    delays = (("uplink", step.uplink), ("first audio", step.first_audio))
    return [
        f"{name} p99 {values.p99_ms:.1f} ms > {LATENCY_LIMIT_MS:g} ms"
        for name, values in delays
        if values.p99_ms > LATENCY_LIMIT_MS
    ]
