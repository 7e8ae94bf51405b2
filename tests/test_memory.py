"""Thousands of short calls leave nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire import DELTA_BYTES, FRAME_BYTES

ROOT = Path(__file__).parents[1]
# A thing left behind by each of 2,500 calls would be 2,500; this Python itself keeps for a while.
SPARE_OBJECTS, SPARE_ENTRIES, SPARE_BLOCKS = 20, 50, 500


def _measured(*sizes: int) -> dict[str, int]:
    """In an interpreter of its own: other tests keep things too."""
    command = [sys.executable, "-m", "tests.short_calls", *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def test_memory_is_flat_over_many_short_calls() -> None:
    """What is alive after 1,500 calls is what is alive after 4,000."""
    more = _measured()

    assert more["objects"] <= SPARE_OBJECTS, more
    assert more["entries"] <= SPARE_ENTRIES, more
    assert more["blocks"] <= SPARE_BLOCKS, more


@pytest.mark.parametrize("size_bytes", [FRAME_BYTES, DELTA_BYTES])
def test_sound_that_is_left_behind_is_noticed(size_bytes: int) -> None:
    """The measure above sees a payload that a list keeps, large or small."""
    count = 2 * SPARE_ENTRIES

    assert count <= _measured(size_bytes, count)["entries"] < count + SPARE_ENTRIES
