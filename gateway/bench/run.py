"""Measures one gateway from the first call to its limit."""

import asyncio
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.bench import process
from gateway.bench.caller import BURST_LIFE_S
from gateway.bench.encryption import throw_away
from gateway.bench.figures import Calls, Figures, Usage, Verdict, figures, judge, judge_set_up
from gateway.bench.findings import Findings, Measured
from gateway.bench.load import Load, clock
from gateway.bench.ramp import Ramp, few_calls
from gateway.bench.report import line
from gateway.bench.subject import Other, OwnGateway, Subject
from gateway.bench.tally import Tally
from gateway.bench.tones import FRAME_MS

CONNECT_PER_S = 60.0
WARM_UP_S = 3.0
# With an answer every 4 s, a single call has one from its beginning to its end in it.
GROWTH_STEP_S = 9.0
# Until what began in the window has come or is lost.
SETTLE_S = BURST_LIFE_S + 0.2
# An inconclusive step is measured so often before it is believed.
_ATTEMPTS = 3
# How long the least lag is looked for, at either end of a window.
_LAG_S = 1.0
# Lags at both ends differ by less where nothing is lost: a resampler's rounding.
_LAG_NOISE_MS = FRAME_MS * 0.75


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, how long."""

    step_s: float = 8.0
    calls: int | None = None
    max_calls: int = 2000
    latency_step_s: float = 15.0
    setup_per_s: float = 10.0
    setup_s: float = 20.0
    realtime_port: int = 0
    against: str = ""
    pid: int | None = None
    has_tls: bool = False
    has_tapes: bool = False


Tell = Callable[[str], None]


class Bench:
    """One gateway, one load, step after step."""

    def __init__(self, subject: Subject, core: int, plan: Plan, tell: Tell) -> None:
        self.findings = Findings(
            has_tls=subject.encryption is not None, has_tapes=subject.tapes is not None
        )
        self._core = core
        self._subject = subject
        self._plan = plan
        self._tell = tell
        self._load: Load | None = None
        self._idle_kib: int | None = None

    async def run(self) -> Findings:
        """Measure as planned.

        Raises:
            PeerRefused: the gateway does not start.
            OSError: a port is taken.
        """
        try:
            if self._plan.calls is not None:
                await self._fixed(self._plan.calls)
            else:
                await self._search()
        finally:
            await self._leave()
        return self.findings

    # -- the parts of a run

    async def _fixed(self, calls: int) -> None:
        step = await self._step("fixed", calls, self._plan.step_s)
        if step.verdict.outcome == "inconclusive":
            self.findings.refusal = "; ".join(step.verdict.reasons)
        elif step.verdict.outcome == "passed":
            self.findings.capacity = calls

    async def _search(self) -> None:
        for few in few_calls(self._plan.max_calls):
            step = await self._step("growth", few, max(self._plan.step_s, GROWTH_STEP_S))
            if step.verdict.outcome != "passed":
                await self._leave()
        ramp = Ramp(self._plan.max_calls)
        while (calls := ramp.next_calls()) is not None:
            step = await self._step("ramp", calls, self._plan.step_s)
            ramp.record(calls, step.verdict.outcome)
            if step.verdict.outcome != "passed":
                await self._leave()
        if ramp.is_load_the_limit:
            self.findings.refusal = (
                f"the load side gave out at {ramp.stopped} calls; the gateway carried "
                f"{ramp.passed}, perhaps more"
            )
        elif not ramp.passed:
            self.findings.refusal = "not even one call passed"
        if ramp.passed:
            await self._confirm(ramp.passed)
            await self._look_closer()

    async def _confirm(self, calls: int) -> None:
        """The number found stands only if a fresh gateway carries it too."""
        for _ in range(4):
            await self._leave()
            step = await self._step("confirm", calls, self._plan.step_s)
            if step.verdict.outcome == "passed":
                if not self.findings.refusal:
                    self.findings.capacity = calls
                return
            calls = max(1, int(calls * 0.95))
        self.findings.refusal = self.findings.refusal or "no number of calls passed twice"

    async def _look_closer(self) -> None:
        passed = max(s.figures.calls for s in self.findings.steps if s.verdict.outcome == "passed")
        half = max(1, (self.findings.capacity or passed) // 2)
        await self._leave()
        self.findings.latency = await self._step("half", half, self._plan.latency_step_s)
        await self._leave()
        self.findings.setup = await self._setup_step(half)

    # -- one step

    async def _ready(self) -> Load:
        if self._load is None:
            subject = self._subject
            load = Load(subject.url, self._plan.realtime_port, subject.encryption)
            await load.open()
            self._load = load
            await subject.start(load.realtime_port)
            load.url = subject.url
            await asyncio.sleep(0.5)
            self._idle_kib = self._memory_kib()
        return self._load

    async def _leave(self) -> None:
        """Everybody hangs up; our own gateway stops, so that the next one is fresh."""
        if self._load is not None:
            load, self._load = self._load, None
            await load.close()
            await self._subject.stop()
            if not self._subject.can_restart:
                await asyncio.sleep(1.0)

    async def _step(self, name: str, calls: int, window_s: float) -> Measured:
        """A step, again while it is inconclusive: what disturbed it may be over."""
        for _ in range(_ATTEMPTS):
            measured = await self._attempt(name, calls, window_s)
            if measured.verdict.outcome != "inconclusive":
                break
        return measured

    async def _attempt(self, name: str, calls: int, window_s: float) -> Measured:
        load = await self._ready()
        lost_before, failures_before = load.lost, len(load.failures)
        self._tell(f"{name}: {calls} calls ...")
        await load.grow(calls - load.calls, CONNECT_PER_S)
        set_up = load.calls
        await asyncio.sleep(WARM_UP_S)
        tally, usage, lost_up_ms = await self._window(load, window_s)
        became = Calls(
            calls, set_up, load.lost - lost_before, tuple(load.failures[failures_before:])
        )
        return self._conclude(name, figures(tally, became, usage, lost_up_ms))

    async def _setup_step(self, at_once: int) -> Measured:
        """Callers come and go; half-said answers are not counted, so only set-ups are judged."""
        load = await self._ready()
        plan = self._plan
        calls = round(plan.setup_per_s * plan.setup_s)
        self._tell(f"set-up: {plan.setup_per_s:g} new calls a second, {at_once} at once ...")
        meter = Meter(self._subject.pid, self._core)
        tally = load.books.open(clock())
        came = await load.grow(calls, plan.setup_per_s, at_once)
        tally.ended_s = clock()
        usage = meter.read(self._idle_kib)
        became = Calls(calls, came, load.lost, tuple(load.failures))
        # A call is there for a part of the window only: no cost of a call can be told.
        step = replace(figures(tally, became, usage, 0.0), cpu_ms_per_call_s=None, memory_kib=None)
        return self._keep("set-up", step, judge_set_up(step))

    async def _window(self, load: Load, window_s: float) -> tuple[Tally, Usage, float]:
        load.lags_ms()
        await asyncio.sleep(_LAG_S)
        before = load.lags_ms()
        meter = Meter(self._subject.pid, self._core)
        tally = load.books.open(clock())
        await asyncio.sleep(window_s)
        tally.ended_s = clock()
        usage = meter.read(self._idle_kib)
        await asyncio.sleep(SETTLE_S - _LAG_S)
        load.lags_ms()
        await asyncio.sleep(_LAG_S)
        after = load.lags_ms()
        grown = [lag - before.get(session, lag) for session, lag in after.items()]
        return tally, usage, sum(ms for ms in grown if ms > _LAG_NOISE_MS)

    def _conclude(self, name: str, step: Figures) -> Measured:
        return self._keep(name, step, judge(step))

    def _keep(self, name: str, step: Figures, verdict: Verdict) -> Measured:
        measured = Measured(name, step, verdict)
        self.findings.steps.append(measured)
        self._tell(line(measured))
        return measured

    def _memory_kib(self) -> int | None:
        return None if self._subject.pid is None else process.memory_kib(self._subject.pid)


class Meter:
    """What is used from now on; ``pid`` None = nobody may look at the gateway's process."""

    def __init__(self, pid: int | None, core: int) -> None:
        self._pid = pid
        self._core = core
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        gateway_s = 0.0 if self._pid is None else process.cpu_s(self._pid)
        return gateway_s, process.core_busy_s(self._core), process.own_cpu_s()

    def read(self, idle_kib: int | None) -> Usage:
        """The use since the beginning, and the memory there is now."""
        gateway_s, core_s, own_s = (
            now - before for now, before in zip(self._now(), self._began, strict=True)
        )
        if self._pid is None:
            return Usage(None, core_s, own_s, None, None)
        return Usage(gateway_s, core_s, own_s, idle_kib, process.memory_kib(self._pid))


def raise_file_limit() -> None:
    """Each call needs two sockets on either side."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def bench(plan: Plan, tell: Tell) -> Findings:
    """Pin both sides to cores of their own and measure.

    Raises:
        PeerRefused: the gateway does not start.
        OSError: a port is taken.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # noqa: PLR2004  one for each side
        return Findings(refusal="only one core to run on: load and gateway would share it")
    raise_file_limit()
    load_core, gateway_core = cores[0], cores[1]
    os.sched_setaffinity(0, {load_core})
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
            subject = _subject(plan, gateway_core, Path(folder))
            return await Bench(subject, gateway_core, plan, tell).run()
    finally:
        os.sched_setaffinity(0, set(cores))


def _subject(plan: Plan, core: int, folder: Path) -> Subject:
    if plan.against:
        return Other(plan.against, plan.pid, core)
    encryption = throw_away(folder) if plan.has_tls else None
    return OwnGateway(core, os.environ, encryption, folder / "tapes" if plan.has_tapes else None)
