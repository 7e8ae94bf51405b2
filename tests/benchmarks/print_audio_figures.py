"""Print the measured figures of every resampling ratio, as a Markdown table.

Run it from the checkout: ``python -m tests.benchmarks.print_audio_figures``.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from timeit import repeat

from gateway.audio.resample import RATES_HZ, Resampler
from tests.audio.figures import measured, tone
from tests.benchmarks.test_audio_benchmark import reference_loop

_RUNS = 2000
_HEAD = """\
| kHz | strongest image or alias | gain in the band | delay | held back | us a frame | loops |
|---|---|---|---|---|---|---|
"""


def lines() -> Iterator[str]:
    """One row for each ratio; "loops" = time in units of the benchmark's reference loop."""
    loop_us = best_us(reference_loop)
    for source_hz, target_hz in permutations(RATES_HZ, 2):
        figures = measured(source_hz, target_hz)
        frame = tone(440, source_hz, 1)[: source_hz // 50 * 2]
        resampler = Resampler(source_hz, target_hz)
        held_ms = 20 - len(resampler.resample(frame)) / 2 / target_hz * 1000
        frame_us = best_us(partial(resampler.resample, frame))
        gain_db = max(figures.most_gain_db, -figures.least_gain_db)
        yield (
            f"| {source_hz // 1000} -> {target_hz // 1000} | {figures.unwanted_db:.0f} dB "
            f"| within {gain_db:.4f} dB | {figures.delay_ms:.2f} ms | {held_ms:.0f} ms "
            f"| {frame_us:.1f} | {frame_us / loop_us:.2f} |\n"
        )


def best_us(action: Callable[[], object]) -> float:
    """The best of seven rounds, in microseconds a run."""
    return min(repeat(action, number=_RUNS, repeat=7)) / _RUNS * 1e6


if __name__ == "__main__":
    sys.stdout.write(_HEAD)
    sys.stdout.writelines(lines())
