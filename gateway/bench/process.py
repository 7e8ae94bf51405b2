"""The process that is measured: its core, its CPU time, its memory (Linux)."""

import os
import time
from pathlib import Path

_TICKS_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def pin(pid: int, core: int) -> None:
    """Hold a process, its threads and its children to one core."""
    for member in family(pid):
        for thread in (_PROC / str(member) / "task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def family(pid: int) -> list[int]:
    """A process and all below it that still run."""
    found, members = [pid], []
    while found:
        member = found.pop()
        members.append(member)
        found += _children(member)
    return members


def _children(pid: int) -> list[int]:
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        return [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return []


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children, ended ones included."""
    total = 0
    for member in family(pid):
        try:
            text = (_PROC / str(member) / "stat").read_text()
        except OSError:
            continue
        # The name before may hold anything; proc(5): utime stime cutime cstime are 14 to 17.
        total += sum(int(field) for field in text.rpartition(")")[2].split()[11:15])
    return total / _TICKS_S


def memory_kib(pid: int) -> int:
    """Proportional set size of a process and its children."""
    total = 0
    for member in family(pid):
        try:
            lines = (_PROC / str(member) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return (_PROC / str(pid) / "stat").exists()


def own_cpu_s() -> float:
    """User and system time of this process."""
    return time.process_time()


def core_busy_s(core: int) -> float:
    """How long a core has run anything, whoever it was."""
    for line in (_PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            # proc(5): user nice system idle iowait irq softirq steal
            times = [int(field) for field in fields[:8]]
            return (sum(times) - times[3] - times[4]) / _TICKS_S
    return 0.0
