"""The whole bench: against relays that misbehave, and against our own gateway."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.bench import run
from gateway.bench.encryption import throw_away
from gateway.bench.figures import Figures, Spread, judge
from gateway.bench.findings import Findings
from gateway.bench.run import Bench, Plan, bench
from gateway.bench.subject import Other, OwnGateway
from gateway.tape import SUFFIXES
from tests.bench.relay import Vices, open_relay
from tests.running import free_port

CORE = max(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to measure again: timing is not what is tested."""
    monkeypatch.setattr(run, "_ATTEMPTS", 1)


async def measured(vices: Vices, calls: int = 2) -> Figures:
    """One step of four seconds through a relay, with everything in this process."""
    port, model_port = free_port(), free_port()
    plan = Plan(step_s=4.0, calls=calls, realtime_port=model_port)
    async with open_relay(port, model_port, vices):
        subject = Other(f"ws://127.0.0.1:{port}/media", None, CORE)
        findings = await Bench(subject, CORE, plan, lambda _text: None).run()
    return findings.steps[0].figures


def reasons(step: Figures, *, heeds_delay: bool = False) -> str:
    """Why it fails, the load's own troubles left out: this process is its own load."""
    calm = replace(step, lateness=Spread(), load_cpu_share=0.0)
    if not heeds_delay:
        calm = replace(calm, uplink=Spread(), first_audio=Spread())
    return "; ".join(judge(calm).reasons)


async def test_every_vice_is_found_and_named() -> None:
    """A relay without one passes; each of the others fails for its own reason only."""
    kinds = {
        "": Vices(),
        "audio lost towards the model": Vices(drops_every=100),
        "barge-ins unanswered": Vices(ignores_barge_in=True),
        "audio lost towards callers": Vices(drops_deltas_every=7),
        "audio after clear": Vices(plays_on=True),
        "calls lost": Vices(hangs_up_after=250),
    }

    steps = await asyncio.gather(*(measured(vices) for vices in kinds.values()))
    found = [reasons(step) for step in steps]

    assert found[0] == ""
    for words, why in zip(list(kinds)[1:-1], found[1:-1], strict=True):
        assert why.startswith(words)
        assert ";" not in why.replace("ms; 0 never", "")
    assert "calls lost: 2" in found[-1]
    # Every hundredth frame of 20 ms, two or three in the window of each of two calls.
    assert 80 <= steps[1].lost_up_ms <= 180


async def test_a_delay_shows_as_such() -> None:
    """50 ms on every append, and nothing is lost."""
    step = await measured(Vices(delay_s=0.05))

    assert step.uplink.p50_ms >= 50.0
    assert reasons(step, heeds_delay=True).startswith("uplink p99")
    assert (step.lost_up_ms, step.bursts_lost) == (0.0, 0)


async def test_a_search_begins_with_a_single_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chart has a point where cost begins; that it failed there does not end the search."""
    for wait in ("WARM_UP_S", "SETTLE_S", "_LAG_S", "GROWTH_STEP_S"):
        monkeypatch.setattr(run, wait, 0.0)
    plan = Plan(step_s=0.1, max_calls=2, realtime_port=free_port())
    nobody = Other(f"ws://127.0.0.1:{free_port()}/media", None, CORE)
    findings = await Bench(nobody, CORE, plan, lambda _text: None).run()

    tried = [(step.name, step.figures.calls) for step in findings.steps]
    assert tried == [("growth", 1), ("ramp", 2), ("ramp", 1)]
    assert findings.capacity is None
    assert findings.refusal


@pytest.mark.parametrize(
    ("has_tls", "has_tapes"),
    [(False, False), (True, False), (False, True)],
    ids=["plain", "tls", "taped"],
)
async def test_everything_is_accounted_for_with_our_own_gateway(
    tmp_path: Path, *, has_tls: bool, has_tapes: bool
) -> None:
    """Five calls for two seconds: each burst, answer and barge-in is counted once."""
    before = os.sched_getaffinity(0)
    encryption = throw_away(tmp_path) if has_tls else None
    tapes = tmp_path / "tapes"
    subject = OwnGateway(CORE, os.environ, encryption, tapes if has_tapes else None)
    findings = await Bench(subject, CORE, Plan(step_s=2.0, calls=5), lambda _text: None).run()
    step = findings.steps[0].figures

    assert findings.has_tls == subject.url.startswith("wss:") == has_tls
    assert findings.has_tapes == has_tapes
    assert sum(file.name.endswith(SUFFIXES) for file in tapes.rglob("*")) == 5 * has_tapes
    assert (step.set_up, step.lost, step.failures) == (5, 0, ())
    assert 5 <= step.bursts <= 15
    assert step.bursts == step.uplink.count + step.bursts_lost
    assert step.barge_ins == step.barge_in.count + step.barge_ins_unanswered
    assert (step.lost_up_ms, step.answers_short, step.stale_messages) == (0.0, 0, 0)
    assert step.cpu_ms_per_call_s is not None
    assert step.cpu_ms_per_call_s > 0
    assert step.memory_idle_kib is not None
    assert step.memory_idle_kib > 10_000
    assert subject.pid is None
    assert os.sched_getaffinity(0) == before


async def test_with_one_core_nothing_is_concluded() -> None:
    """The load would take what the gateway is to be measured by."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORE})
    try:
        findings: Findings = await bench(Plan(), lambda _text: None)
    finally:
        os.sched_setaffinity(0, before)

    assert findings.capacity is None
    assert "only one core" in findings.refusal
