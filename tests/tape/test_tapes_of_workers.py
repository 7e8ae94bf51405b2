"""What becomes of the tapes of several workers stands on their one metrics page, each tape once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.simulator.server import Simulator
from gateway.workers import Crew, open_workers
from tests.running import Stream, metric, settings_for, twilio_stream, url_of

pytestmark = pytest.mark.xdist_group("workers")

# So many calls that neither worker has none: see ``listener.SLACK``.
BOTH = 6
OLD = 12
WHOLE, CUT, FAILED = (f'gateway_tapes_total{{result="{how}"}}' for how in ("ok", "cut", "failed"))
# Speech that makes a tape of more than a megabyte.
MAX_BYTES, LONG = 1_000_000, 700


@asynccontextmanager
async def two_workers(simulator: Simulator, folder: Path, **changes: str) -> AsyncIterator[Crew]:
    """Both tape every call into this folder."""
    taped = {"GATEWAY_TAPE_DIR": str(folder), "GATEWAY_TAPE_SHARE": "1", "GATEWAY_WORKERS": "2"}
    with capture_logs():
        async with open_workers(settings_for(simulator, **(taped | changes))) as crew:
            yield crew


async def begin_calls(crew: Crew, stack: AsyncExitStack) -> list[Stream]:
    """All at the same time."""
    streams = []
    for number in range(BOTH):
        stream = await stack.enter_async_context(twilio_stream(url_of(crew), f"CA{number:032d}"))
        await stream.start()
        await stream.socket.receive(timeout=10)
        streams.append(stream)
    return streams


async def place_calls(crew: Crew, frames: int = 0) -> set[int]:
    """Callers who say so much at once; how many each worker had, once the last has ended."""
    async with AsyncExitStack() as stack:
        streams = await begin_calls(crew, stack)
        shares = {crew._desk.calls_of(pid) for pid in crew._pids()}
        for stream in streams:
            for _ in range(frames):
                await stream.speak(b"\xff" * 160)
            await stream.stop()
            await stream.closed()
    return shares


async def becomes(crew: Crew, series: str, value: float) -> float:
    """What it is when it is that, or after a while that it is not."""
    for _ in range(100):
        if await metric(crew, series) == value:
            break
        await asyncio.sleep(0.05)
    return await metric(crew, series)


def leave_old_tapes(folder: Path) -> None:
    """Both workers will want to remove them, at the same moment."""
    folder.mkdir()
    for number in range(OLD):
        (folder / f"20200101T0000{number:02d}.000000Z-b-{number}.jsonl.gz").touch()


def put_a_file_in_place_of(folder: Path) -> None:
    """From now on no tape can be written."""
    folder.rename(folder.with_name("whole"))
    folder.touch()


async def test_tapes_of_all_workers_are_counted_once(simulator: Simulator, tmp_path: Path) -> None:
    """Whole, removed, cut and failed ones; what a dead worker has counted stays."""
    folder = tmp_path / "tapes"
    leave_old_tapes(folder)
    async with two_workers(simulator, folder, GATEWAY_TAPE_MAX_BYTES=str(MAX_BYTES)) as crew:
        shares = await place_calls(crew)
        counted = await becomes(crew, WHOLE, BOTH)
        await place_calls(crew, LONG)
        cut = await becomes(crew, CUT, BOTH)
        removed = await becomes(crew, 'gateway_tapes_removed_total{reason="age"}', OLD)
        os.kill(next(iter(crew._pids())), signal.SIGKILL)
        assert await becomes(crew, "gateway_worker_restarts_total", 1) == 1
        assert await becomes(crew, "gateway_workers", 2) == 2
        put_a_file_in_place_of(folder)
        await place_calls(crew)
        failed = await becomes(crew, FAILED, BOTH)
        after = [await metric(crew, series) for series in (WHOLE, CUT)]
        lost = await metric(crew, "gateway_tape_lost_messages_total")

    assert 0 not in shares
    assert (counted, cut, removed, failed, lost) == (BOTH, BOTH, OLD, BOTH, 0)
    assert after == [BOTH, BOTH]
    assert len(list((tmp_path / "whole").iterdir())) == 2 * BOTH


async def test_tapes_that_end_with_the_drain_are_counted(
    simulator: Simulator, tmp_path: Path
) -> None:
    """The last thing a worker does is to write them, and the page outlives it."""
    folder = tmp_path / "tapes"
    async with two_workers(simulator, folder) as crew, AsyncExitStack() as stack:
        await begin_calls(crew, stack)
        await asyncio.wait_for(crew.drain(0.0), 30)
        counted = await becomes(crew, WHOLE, BOTH)

    assert counted == BOTH
    assert len([path for path in folder.iterdir() if ".part" not in path.name]) == BOTH
