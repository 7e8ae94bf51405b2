"""Figures for tests of what is made of them."""

from dataclasses import replace
from typing import Any

from gateway.bench.figures import Figures, Spread, judge
from gateway.bench.findings import Findings, Measured

GOOD = Figures(
    calls=100,
    window_s=8.0,
    set_up=100,
    lost=0,
    failures=(),
    setup=Spread(),
    uplink=Spread(800, 0.2, 1.5, 3.0),
    first_audio=Spread(200, 0.3, 1.7, 2.0),
    barge_in=Spread(100, 0.3, 0.9, 1.0),
    bursts=800,
    bursts_lost=0,
    lost_up_ms=0.0,
    answers=60,
    answers_short=0,
    answers_long=0,
    answers_unheard=0,
    lost_down_ms=0.0,
    barge_ins=100,
    barge_ins_unanswered=0,
    stale_messages=0,
    gaps=Spread(),
    cpu_ms_per_call_s=3.0,
    cpu_share=0.3,
    foreign_cpu_share=0.01,
    memory_idle_kib=50_000,
    memory_kib=70_000,
    lateness=Spread(8000, 0.5, 1.0, 2.0),
    load_cpu_share=0.2,
)


def measured(name: str = "ramp", **changes: Any) -> Measured:
    """One step, good but for the changes."""
    figures = replace(GOOD, **changes)
    return Measured(name, figures, judge(figures))


def findings() -> Findings:
    """A short search that came to its end."""
    failing = measured(calls=200, set_up=200, uplink=Spread(1600, 5.0, 44.0, 90.0))
    half = measured("half", calls=50, set_up=50)
    setup = measured("set-up", setup=Spread(100, 4.0, 9.0, 12.0))
    steps = [measured(), failing, measured("confirm"), half, setup]
    return Findings(steps, 100, "", half, setup)
