"""Thousands of short calls leave nothing behind."""

import asyncio
import gc
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import structlog
from prometheus_client import CollectorRegistry

from gateway.logs import configure
from gateway.metrics import Metrics
from tests.timeless import TimelessLoop
from tests.wire import DELTA_BYTES, FRAME_BYTES, MemoryCall, noise

# By then the log's memory of texts, which is bounded, is full.
SETTLED, CALLS = 1_500, 4_000
# A thing left behind by each call would be 2,500; this is what Python itself keeps for a while.
SPARE_OBJECTS, SPARE_ENTRIES, SPARE_BLOCKS = 20, 50, 500

_FRAMES = [noise(seed, FRAME_BYTES) for seed in range(3)]
_SOUNDS = [noise(seed, DELTA_BYTES) for seed in range(2)]


class _Kept(NamedTuple):
    """What is alive.

    ``objects`` are those that the collector knows; ``entries`` what stands in collections, which
    finds sound too, for that is no such object; ``blocks`` is everything of at most 512 bytes.
    """

    objects: int
    entries: int
    blocks: int

    def since(self, before: "_Kept") -> "_Kept":
        """How much more of each there is."""
        return _Kept(*(mine - its for mine, its in zip(self, before, strict=True)))


def _kept() -> _Kept:
    gc.collect()
    alive = gc.get_objects()
    entries = sum(len(each) for each in alive if isinstance(each, list | dict | set | deque))
    return _Kept(len(alive), entries, sys.getallocatedblocks())


@pytest.fixture
def _quiet_log() -> Iterator[None]:
    """Lines are made as they are in service, and go nowhere."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # a device, no file
        configure("info", "json", nowhere)
        yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def _short_call(metrics: Metrics, number: int) -> None:
    """A few frames, an answer, every other time cut off by the caller, and a hang-up."""
    call = MemoryCall(metrics, number=number)
    await call.open()
    call.caller_says(*_FRAMES)
    call.model_says(*call.model.answer(*_SOUNDS))
    if number % 2:
        call.model_says(call.model.speech_started(), call.model.speech_stopped())
        call.model_says(call.model.caller_transcribed("stop"))
    await asyncio.sleep(1.0)
    assert (await call.close()).reason == "caller_hangup"


async def _place(metrics: Metrics, numbers: range) -> None:
    for number in numbers:
        await _short_call(metrics, number)


@pytest.mark.usefixtures("_quiet_log")
def test_memory_is_flat_over_many_short_calls() -> None:
    """What is alive after 1,500 calls is what is alive after 4,000."""
    metrics = Metrics(CollectorRegistry())
    # Not in asyncio's debug mode, as run_timeless is: that keeps a traceback for each callback.
    with asyncio.Runner(loop_factory=TimelessLoop, debug=False) as runner:
        runner.run(_place(metrics, range(SETTLED)))
        began = _kept()
        runner.run(_place(metrics, range(SETTLED, CALLS)))
        more = _kept().since(began)

    assert more.objects <= SPARE_OBJECTS, more
    assert more.entries <= SPARE_ENTRIES, more
    assert more.blocks <= SPARE_BLOCKS, more


@pytest.mark.parametrize("size_bytes", [FRAME_BYTES, DELTA_BYTES])
def test_sound_that_is_left_behind_is_noticed(size_bytes: int) -> None:
    """The measure above sees a payload that a list keeps, large or small."""
    began = _kept()
    left = [bytes(size_bytes) for _ in range(2 * SPARE_ENTRIES)]
    more = _kept().since(began)

    assert len(left) <= more.entries < len(left) + SPARE_ENTRIES
