"""Prints what short calls leave behind in this interpreter, as JSON; see ``tests.test_memory``."""

import asyncio
import gc
import json
import os
import sys
from collections import deque
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from gateway.logs import configure
from gateway.metrics import Metrics
from tests.timeless import TimelessLoop
from tests.wire import DELTA_BYTES, FRAME_BYTES, MemoryCall, noise

# By then the log's memory of texts, which is bounded, is full.
SETTLED, CALLS = 1_500, 4_000

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


async def _short_call(metrics: Metrics, number: int) -> None:
    """A few frames, an answer, every other time cut off by the caller, and a hang-up."""
    call = MemoryCall(metrics, number=number)
    await call.open()
    call.caller_says(*_FRAMES)
    call.model_says(*call.model.answer(*_SOUNDS))
    if number % 2:
        call.model_says(call.model.speech_started(), call.model.speech_stopped())
        call.model_says(call.model.caller_transcribed("stop"))
    await asyncio.sleep(1.0)  # on a loop whose clock jumps: takes no time
    assert (await call.close()).reason == "caller_hangup"


async def _place(metrics: Metrics, numbers: range) -> None:
    for number in numbers:
        await _short_call(metrics, number)


def after_calls() -> _Kept:
    """What is alive after 4,000 calls and was not after 1,500."""
    metrics = Metrics(CollectorRegistry())
    # Not in asyncio's debug mode, as run_timeless is: that keeps a traceback for each callback.
    with asyncio.Runner(loop_factory=TimelessLoop, debug=False) as runner:
        runner.run(_place(metrics, range(SETTLED)))
        began = _kept()
        runner.run(_place(metrics, range(SETTLED, CALLS)))
        return _kept().since(began)


def after_leaving(size_bytes: int, count: int) -> _Kept:
    """What the same measure says of payloads that a list keeps."""
    began = _kept()
    left = [bytes(size_bytes) for _ in range(count)]
    more = _kept().since(began)
    del left
    return more


if __name__ == "__main__":
    # Lines are made as they are in service, and go nowhere.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # a device, no file
        configure("info", "json", nowhere)
        sizes = [int(size) for size in sys.argv[1:]]
        kept = after_leaving(*sizes) if sizes else after_calls()
    sys.stdout.write(json.dumps(kept._asdict()))
