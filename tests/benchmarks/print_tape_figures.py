"""Print what a tape costs a message on the event loop, and a second of a call altogether.

Run it from the checkout: ``python -m tests.benchmarks.print_tape_figures [FOLDER]``.
"""

import base64
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from gateway.events import Termination
from gateway.realtime import Link, Listener
from gateway.tape.record import BATCH_S, Tape, TapedLink, Tapes
from tests.tape.test_record import MemoryLink

_RUNS = 15
_MESSAGES = 10_000
_CALLS, _SECONDS = 20, 10


def _media(payload_bytes: int) -> str:
    payload = base64.b64encode(os.urandom(payload_bytes)).decode()
    return f'{{"event":"media","streamSid":"MZ{"1" * 32}","media":{{"payload":"{payload}"}}}}'


def _audio(kind: str, pcm_bytes: int) -> bytes:
    pcm = base64.b64encode(os.urandom(pcm_bytes)).decode()
    return f'{{"type":"{kind}","event_id":"event_1","item_id":"item_1","audio":"{pcm}"}}'.encode()


# One second of a call: way, messages, one of them.
_SECOND: Sequence[tuple[str, int, str | bytes]] = (
    ("provider in", 50, _media(180)),
    ("realtime out", 50, _audio("input_audio_buffer.append", 1260)),
    ("realtime in", 8, _audio("response.output_audio.delta", 4880)),
    ("provider out", 16, _media(500)),
)


def loop_us(message: str | bytes, *, is_in: bool, folder: Path) -> tuple[float, float]:
    """Microseconds a message on an in-memory link: without a tape, and what one adds."""
    bare: list[float] = []
    taped: list[float] = []
    for _ in range(_RUNS):
        bare.append(_timed(_step(None, message, is_in=is_in)))
        tape = _tapes(folder).tape("bench")
        tape.begin({})
        taped.append(_timed(_step(tape, message, is_in=is_in)))
    without = statistics.median(bare)
    return without, statistics.median(taped) - without


def _step(tape: Tape | None, message: str | bytes, *, is_in: bool) -> Callable[[], None]:
    """One message through a link; the clock is read once for one that comes in, as a call does."""
    memory = _Nowhere()
    link = cast("Link", memory)
    clock = tape.clock if tape else time.monotonic
    if tape is not None:
        link = TapedLink(link, "provider", tape)

    def receive(_: str | bytes) -> None:
        clock()

    link.listen(Listener(receive, lambda: None, lambda: None))
    assert memory.listener is not None
    came, send = memory.listener.message_came, link.send
    return (lambda: came(message)) if is_in else (lambda: send(message))


class _Nowhere(MemoryLink):
    """A socket that keeps nothing."""

    def send(self, *messages: str | bytes) -> None:
        """Take them."""


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(_MESSAGES):
        step()
    return (time.perf_counter() - began) / _MESSAGES * 1e6


def _tapes(folder: Path) -> Tapes:
    return Tapes(folder, 10**10, lambda _: None, lambda _: None)


def writer_us(folder: Path) -> tuple[float, float, float]:
    """Processor microseconds a call-second: noting, writing; and bytes a call-second."""
    tapes = _tapes(folder)
    calls = [tapes.tape(f"c{number}") for number in range(_CALLS)]
    noting_s = writing_s = 0.0
    for call in calls:
        call.begin({})
    for _ in range(_SECONDS):
        noting_s += _cpu_s(partial(_a_second_of, calls))
        writing_s += _cpu_s(tapes.write_waiting)
    for call in calls:
        call.end(Termination("caller_hangup"))
    writing_s += _cpu_s(tapes.write_waiting)
    size = sum(path.stat().st_size for path in folder.iterdir())
    call_seconds = _CALLS * _SECONDS
    return noting_s / call_seconds * 1e6, writing_s / call_seconds * 1e6, size / call_seconds


def _a_second_of(tapes: Sequence[Tape]) -> None:
    for tape in tapes:
        _a_second(tape)


def _a_second(tape: Tape) -> None:
    """Note a second's messages, interleaved as they come."""
    ways = {"provider in": 0, "provider out": 1, "realtime in": 2, "realtime out": 3}
    for tick in range(50):
        for way, count, message in _SECOND:
            if (tick + 1) * count // 50 > tick * count // 50:
                if way.endswith("in"):
                    tape.hear(ways[way], message)
                    tape.clock()
                else:
                    tape.note(ways[way], message)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main(where: str | None) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        on_loop_us = 0.0
        for way, count, message in _SECOND:
            without, added = loop_us(
                message, is_in=way.endswith("in"), folder=Path(folder) / "loop"
            )
            on_loop_us += count * added
            sys.stdout.write(
                f"{way}: {len(message)} B, {without:.2f} us without, a tape adds {added:.2f} us\n"
            )
        runs = [writer_us(Path(folder) / str(run)) for run in range(_RUNS // 3)]
        noting, writing, size = (statistics.median(column) for column in zip(*runs, strict=True))
        sys.stdout.write(
            f"a call-second ({sum(count for _, count, _ in _SECOND)} messages, {size / 1e3:.0f} kB "
            f"on disk, batches of at most {BATCH_S:g} s): {on_loop_us:.0f} us on the loop (noting "
            f"alone {noting:.0f}), {writing:.0f} us in the writer\n"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
