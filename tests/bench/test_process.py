"""What a process uses, held against processes whose use is known."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.bench import process

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
# A parent with a child that burns and a big block of memory; both wait to be ended.
PARENT = f"""
import subprocess, sys
block = bytearray(b"x" * 30_000_000)
child = subprocess.Popen([sys.executable, "-c", {BURN + "print(1, flush=True); input()"!r}],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


@pytest.fixture
def parent() -> Iterator[tuple[int, int]]:
    """Ids of a running parent and its child."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            yield running.pid, int(running.stdout.readline())
        finally:
            running.stdin.write(b"\n")
            running.stdin.close()


def test_children_count_with_their_parent(parent: tuple[int, int]) -> None:
    """Their time, their memory, their core."""
    pid, child = parent
    core = max(os.sched_getaffinity(0))

    process.pin(pid, core)

    assert set(process.family(pid)) == {pid, child}
    assert process.cpu_s(pid) >= process.cpu_s(child) >= 0.25
    assert process.memory_kib(pid) > 30_000_000 / 1024
    assert os.sched_getaffinity(child) == os.sched_getaffinity(pid) == {core}


def test_a_process_that_is_gone_uses_nothing() -> None:
    """It may end while we look."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    assert process.is_alive(gone.pid)
    gone.wait()

    assert not process.is_alive(gone.pid)
    assert (process.cpu_s(gone.pid), process.memory_kib(gone.pid)) == (0.0, 0)


def test_a_core_is_busy_at_least_as_long_as_we_are() -> None:
    """Counted in ticks of 10 ms."""
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        busy_s, own_s = process.core_busy_s(core), process.own_cpu_s()
        while process.own_cpu_s() < own_s + 0.3:
            pass
        busy_s = process.core_busy_s(core) - busy_s
    finally:
        os.sched_setaffinity(0, before)

    assert busy_s >= 0.2
    assert process.core_busy_s(10**6) == 0.0
