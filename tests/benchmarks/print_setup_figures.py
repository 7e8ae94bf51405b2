"""Print what setting a call up and ending it costs the gateway, without and with TLS by turns.

Run it from the checkout: ``python -m tests.benchmarks.print_setup_figures``. One call after the
other is set up and hung up at once, so that next to nothing is spoken; CPU is that of the gateway's
process on a core of its own, with the first calls, which warm it up, left out.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

from gateway.bench import process
from gateway.bench.encryption import Encryption, throw_away
from gateway.bench.load import Load
from gateway.bench.subject import OwnGateway

_RUNS = 5
_WARM_UP = 5
_CALLS = 30
_FAST = 1000.0


async def cpu_ms(core: int, encryption: Encryption | None) -> float:
    """CPU of one call that is set up and hung up, the mean of many."""
    subject = OwnGateway(core, os.environ, encryption)
    load = Load("", encryption=encryption)
    await load.open()
    try:
        await subject.start(load.realtime_port)
        load.url = subject.url
        await _calls(load, _WARM_UP)
        assert subject.pid is not None
        before_s = process.cpu_s(subject.pid)
        await _calls(load, _CALLS)
        return (process.cpu_s(subject.pid) - before_s) * 1000 / _CALLS
    finally:
        await load.close()
        await subject.stop()


async def _calls(load: Load, count: int) -> None:
    for _ in range(count):
        if not await load.grow(1, _FAST):
            raise SystemExit(f"no call: {load.failures[-1]}")
        await load.hang_up_all()


async def _measure(folder: Path) -> None:
    load_core, core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})
    kinds = {"plain": None, "TLS on both sides": throw_away(folder)}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_RUNS):
        for kind, encryption in kinds.items():
            found[kind].append(await cpu_ms(core, encryption))
    for kind, values in found.items():
        every = " ".join(f"{value:.1f}" for value in sorted(values))
        sys.stdout.write(f"{kind:<18} {statistics.median(values):5.1f} ms a call ({every})\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(_measure(Path(temporary)))
