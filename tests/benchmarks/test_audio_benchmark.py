"""What converting one 20 ms frame costs, beside a loop every machine can be measured by."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from gateway.audio.convert import Converter, Encoding, silence
from tests.audio.figures import tone

Benchmark = Callable[..., Any]

WAYS: list[tuple[Encoding, int, Encoding, int]] = [
    ("ulaw", 8000, "pcm", 24000),
    ("pcm", 24000, "ulaw", 8000),
    ("pcm", 16000, "pcm", 24000),
    ("pcm", 24000, "pcm", 16000),
    ("ulaw", 8000, "alaw", 8000),
]


def one_frame(encoding: Encoding, rate_hz: int, frequency_hz: int = 440) -> bytes:
    """20 ms of a tone in any format."""
    pcm = tone(frequency_hz, rate_hz, 1)[: rate_hz // 50 * 2]
    return Converter("pcm", rate_hz, encoding, rate_hz).convert(pcm)


def reference_loop() -> int:
    """A thousand additions: divide by its time to compare machines."""
    total = 0
    for number in range(1000):
        total += number
    return total


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "{}-{}-to-{}-{}".format(*way))
def test_frame(benchmark: Benchmark, way: tuple[Encoding, int, Encoding, int]) -> None:
    """One frame through one converter; two by turns, for a repeated one costs nothing."""
    converter = Converter(*way)
    frames = cycle([one_frame(*way[:2]), one_frame(*way[:2], 660)])
    converted = benchmark(lambda: converter.convert(next(frames)))
    assert len(converted) == len(one_frame(*way[2:]))


def test_silence(benchmark: Benchmark) -> None:
    """A frame of a caller who says nothing."""
    converter, frame = Converter("ulaw", 8000, "pcm", 24000), silence("ulaw", 8000, 20)
    assert not any(benchmark(converter.convert, frame))


def test_reference(benchmark: Benchmark) -> None:
    """The loop the frames are compared with."""
    assert benchmark(reference_loop) == 499500
