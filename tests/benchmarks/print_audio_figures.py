"""Print the measured figures of every resampling ratio, as a Markdown table.

Run it from the checkout: ``python -m tests.benchmarks.print_audio_figures``.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from timeit import repeat

from gateway.audio import compiled
from gateway.audio.compiled import compiled_stream
from gateway.audio.convert import _NumpyStream, _Stream
from gateway.audio.resample import RATES_HZ
from tests.audio.figures import measured, tone
from tests.benchmarks.test_audio_benchmark import reference_loop

_RUNS = 200
_HEAD = (
    "| kHz | strongest image or alias | gain in the band | delay | held back "
    "| numpy: us a frame | loops | compiled: us a frame | loops |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def lines() -> Iterator[str]:
    """One row for each ratio; "loops" = time in units of the benchmark's reference loop."""
    loop_us = best_us(reference_loop)
    for source_hz, target_hz in permutations(RATES_HZ, 2):
        figures = measured(source_hz, target_hz)
        numpys = _NumpyStream("pcm", source_hz, "pcm", target_hz)
        held_ms = 20 - len(numpys.convert(bytes(source_hz // 50 * 2))) / 2 / target_hz * 1000
        ours_cost = "| "
        if compiled.IS_BUILT:
            ours_cost = _cost(
                compiled_stream("pcm", source_hz, "pcm", target_hz), source_hz, loop_us
            )
        gain_db = max(figures.most_gain_db, -figures.least_gain_db)
        yield (
            f"| {source_hz // 1000} -> {target_hz // 1000} | {figures.unwanted_db:.0f} dB "
            f"| within {gain_db:.4f} dB | {figures.delay_ms:.2f} ms | {held_ms:.0f} ms "
            f"| {_cost(numpys, source_hz, loop_us)} | {ours_cost} |\n"
        )


def _cost(stream: _Stream, source_hz: int, loop_us: float) -> str:
    """Two frames by turns: numpy's stream knows one that is repeated."""
    size = source_hz // 50 * 2
    frames = [tone(hz, source_hz, 1)[:size] for hz in (440, 660)]
    frame_us = best_us(lambda: [stream.convert(frame) for frame in frames]) / 2
    return f"{frame_us:.1f} | {frame_us / loop_us:.2f}"


def best_us(action: Callable[[], object]) -> float:
    """The best of seventy short rounds, in microseconds a run."""
    return min(repeat(action, number=_RUNS, repeat=70)) / _RUNS * 1e6


if __name__ == "__main__":
    sys.stdout.write(_HEAD)
    sys.stdout.writelines(lines())
