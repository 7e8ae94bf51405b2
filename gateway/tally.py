"""One metrics page for several workers: what each has counted in a folder of its run, added up.

prometheus-client's multiprocess mode does the counting: every worker writes its series into files
named after its process id. A dead worker's counters stay (they are added to those of the dead
before it, so that files do not pile up and no process id is met twice), its gauges go.
"""

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

# prometheus-client reads it when it is imported: it has to be in a worker's environment.
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
# Counters are written on the event loop: into memory, where no disk can make a frame wait.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # the folder below it is made by mkdtemp
# Whose files are kept in the name of all the dead; no worker has this process id.
_DEAD: Final = 0
# Of Linux: numbers of processes, and names of sockets in bytes.
_LARGEST_PID: Final = 4_194_304
_LONGEST_SOCKET: Final = 107
# Said by the supervisor for all; a worker knows only its own part.
_OWN: Final = frozenset(
    {
        *("gateway_ready", "gateway_draining", "gateway_insecure_mode", "gateway_calls_limit"),
        *("gateway_workers", "gateway_worker_restarts", "gateway_build"),
        # All pages are the supervisor's: what workers tell, they tell it.
        *("gateway_console_views", "gateway_console_views_dropped"),
    }
)

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Tally(Collector):
    """The series of all workers of one run, on top of the supervisor's own.

    Args:
        own: a registry with all metrics of ours, in which the supervisor counts what it does.
        pids: the process ids of the workers that live.
    """

    def __init__(self, own: CollectorRegistry, pids: Callable[[], Iterable[int]]) -> None:
        base = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-metrics-", dir=base))
        self._own = own
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        """Every family, with what the workers say added to it or in its place."""
        files = [str(path) for pid in (_DEAD, *self._pids()) for path in self._files(pid)]
        merged = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        told = {_key(sample): sample.value for family in merged for sample in family.samples}
        for family in self._own.collect():
            if family.name not in _OWN:
                family.samples = [_told(family.type, sample, told) for sample in family.samples]
            yield family

    def bury(self, pid: int) -> None:
        """A worker is dead: keep what it has counted, drop what it was."""
        mark_process_dead(pid, self.folder)  # type: ignore[no-untyped-call]
        for path in self._files(pid):
            _add_file(path, path.with_name(path.name.replace(f"_{pid}.db", f"_{_DEAD}.db")))
            path.unlink()
        socket_of(self.folder, pid).unlink(missing_ok=True)

    def close(self) -> None:
        """The run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self, pid: int) -> list[Path]:
        # One that has just been made is empty, and the library would stumble over it.
        found = sorted(self.folder.glob(f"*_{pid}.db"))
        return [path for path in found if path.stat().st_size]


def socket_of(folder: Path, pid: int) -> Path:
    """Where a worker lets the supervisor in, and nobody else can: the folder is private."""
    return folder / f"{pid}.sock"


def check_sockets(folder: Path) -> None:
    """See whether sockets can have a name in this folder.

    Raises:
        OSError: its own name is too long for that.
    """
    if len(os.fsencode(socket_of(folder, _LARGEST_PID))) > _LONGEST_SOCKET:
        why = f"{folder.parent}: too long a name for a folder of sockets; set TMPDIR to another"
        raise OSError(errno.ENAMETOOLONG, why)


def _key(sample: Sample) -> _Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def _told(kind: str, sample: Sample, told: dict[_Key, float]) -> Sample:
    """Counters add up; a gauge is what the workers say it is, if any does."""
    value = told.get(_key(sample), 0.0 if kind != "gauge" else sample.value)
    return sample._replace(value=value if kind == "gauge" else sample.value + value)


def _add_file(source: Path, target: Path) -> None:
    read = MmapedDict.read_all_values_from_file(str(source))  # type: ignore[no-untyped-call]
    kept: Any = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    try:
        for key, value, _, _ in read:
            kept.write_value(key, kept.read_value(key)[0] + value, 0.0)
    finally:
        kept.close()


class ProcessTally(Collector):
    """Memory, CPU and files of the supervisor and its workers together, under the usual names."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        """The supervisor's families; each worker adds to them, save to when it all began."""
        families = _processes(os.getpid())
        for other in map(_processes, self._pids()):
            for name, family in families.items():
                if name in other and name != "process_start_time_seconds":
                    _add(family, other[name])
        cpu = families.get("process_cpu_seconds")
        if cpu is not None:
            # What dead workers have used must not vanish: a counter does not go back.
            dead = resource.getrusage(resource.RUSAGE_CHILDREN)
            _raise_by(cpu, dead.ru_utime + dead.ru_stime)
        yield from families.values()


def _processes(pid: int) -> dict[str, Metric]:
    found = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {family.name: family for family in found}


def _add(family: Metric, other: Metric) -> None:
    _raise_by(family, other.samples[0].value)


def _raise_by(family: Metric, amount: float) -> None:
    sample = family.samples[0]
    family.samples = [sample._replace(value=sample.value + amount)]


def page_registry(tally: Tally, pids: Callable[[], Iterable[int]]) -> CollectorRegistry:
    """What the operations listener shows; garbage collection is each worker's own affair."""
    registry = CollectorRegistry()
    registry.register(tally)
    registry.register(ProcessTally(pids))
    PlatformCollector(registry=registry)
    return registry
