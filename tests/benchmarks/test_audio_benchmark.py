"""What converting one 20 ms frame costs, beside a loop every machine can be measured by."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.audio.convert import Converter, Encoding
from tests.audio.figures import tone

Benchmark = Callable[..., Any]

WAYS: list[tuple[Encoding, int, Encoding, int]] = [
    ("ulaw", 8000, "pcm", 24000),
    ("pcm", 24000, "ulaw", 8000),
    ("pcm", 16000, "pcm", 24000),
    ("pcm", 24000, "pcm", 16000),
    ("ulaw", 8000, "alaw", 8000),
]


def one_frame(encoding: Encoding, rate_hz: int) -> bytes:
    """20 ms of a tone in any format."""
    pcm = tone(440, rate_hz, 1)[: rate_hz // 50 * 2]
    return Converter("pcm", rate_hz, encoding, rate_hz).convert(pcm)


def reference_loop() -> int:
    """A thousand additions: divide by its time to compare machines."""
    total = 0
    for number in range(1000):
        total += number
    return total


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "{}-{}-to-{}-{}".format(*way))
def test_frame(benchmark: Benchmark, way: tuple[Encoding, int, Encoding, int]) -> None:
    """One frame through one converter."""
    converter, frame = Converter(*way), one_frame(*way[:2])
    converted = benchmark(converter.convert, frame)
    assert len(converted) == len(one_frame(*way[2:]))


def test_reference(benchmark: Benchmark) -> None:
    """The loop the frames are compared with."""
    assert benchmark(reference_loop) == 499500
