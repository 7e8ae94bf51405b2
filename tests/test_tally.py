"""What several workers count is, together, what one would have counted; the dead included."""

import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.metrics_core import Metric

from gateway.events import (
    ULAW_8K,
    AudioCounted,
    CallBegan,
    CallEnded,
    CallReady,
    CostIncurred,
    DeadAir,
    Fact,
    FrameRejected,
    QueueSeen,
    RateLimitSeen,
    RealtimeDialled,
    RealtimeLost,
    RelayMeasured,
    SetUpTimed,
    Termination,
    TurnAnswered,
    TurnLost,
    TurnTimed,
    Underrun,
)
from gateway.metrics import Metrics
from gateway.tally import (
    FOLDER_VARIABLE,
    ProcessTally,
    Tally,
    check_sockets,
    page_registry,
    socket_of,
)

BEGAN = CallBegan("twilio", "default", "CA1", "", "", ULAW_8K, ULAW_8K)
FACTS: tuple[Fact, ...] = (
    BEGAN,
    RealtimeDialled("ok", 0.2),
    RealtimeDialled("429", 0.2),
    CallReady(0.3),
    AudioCounted("up", 1000),
    RelayMeasured("up", 0.001),
    RelayMeasured("down", 0.3),
    TurnAnswered(0.8),
    TurnAnswered(80),
    TurnTimed(0.5, 0.7, 0.001, 0.002, 0.1),
    TurnLost("ended"),
    DeadAir(4.0),
    Underrun(60.0),
    QueueSeen("up", 300.0),
    SetUpTimed("dial", 0.2),
    CostIncurred("other", 0.25, 100),
    FrameRejected("provider", "bad_json", ""),
    RealtimeLost(1006, 10, is_expected=False),
    CallEnded(Termination("caller_hangup"), 20, 1, 1, 2000, 1500),
)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Crew:
    """Workers of one run, all in this process, each with files of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = CollectorRegistry()
        self.supervisor = Metrics(own)
        self.pids: list[int] = []
        self.tally = Tally(own, lambda: self.pids)
        self._monkeypatch = monkeypatch
        monkeypatch.setenv(FOLDER_VARIABLE, str(self.tally.folder))

    def start(self, pid: int) -> Metrics:
        """One more worker; the library takes files for the process it is told it is in."""
        self.pids.append(pid)
        with self._monkeypatch.context() as patched:
            patched.setattr(values, "ValueClass", _value_class(pid))
            return Metrics(CollectorRegistry())

    def kill(self, pid: int) -> None:
        """It is dead, and buried."""
        self.pids.remove(pid)
        self.tally.bury(pid)

    def samples(self) -> Samples:
        """The page."""
        return _samples(self.tally.collect())

    def value(self, name: str, **labels: str) -> float:
        """One series of it."""
        return self.samples()[f"gateway_{name}", tuple(sorted(labels.items()))]


def _value_class(pid: int) -> object:
    return values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]


def _samples(families: Iterable[Metric]) -> Samples:
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """A run without workers yet."""
    crew = Crew(monkeypatch)
    yield crew
    _close_values()
    crew.tally.close()


def _close_values() -> None:
    """The library keeps the files of its values open; a real worker takes them with it."""
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def test_what_tapes_lost_adds_up(crew: Crew) -> None:
    """Told by the threads of workers that live, and of one that is dead by now."""
    first, second = crew.start(1), crew.start(2)
    first.tape_lost(3)
    first.tape_removed("size")
    second.tape_lost(4)
    crew.kill(1)

    assert crew.value("tape_lost_messages_total") == 7
    assert crew.value("tapes_removed_total", reason="size") == 1


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(FACTS)), max_size=40),
    st.sets(st.integers(1, 3)),
)
@tuned(max_examples=25)
def test_together_they_count_what_one_would_have(
    told: list[tuple[int, Fact]], dying: set[int]
) -> None:
    """Every counter, sum and bucket of every family, also those of workers that have died."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        crew, registry = Crew(monkeypatch), CollectorRegistry()
        alone = Metrics(registry)
        workers = {pid: crew.start(pid) for pid in (1, 2, 3)}
        for pid, fact in told:
            for metrics in (alone, workers[pid]):
                _observe(metrics, fact)
        for pid in dying:
            crew.kill(pid)
        expected, found = _samples(registry.collect()), crew.samples()
        _close_values()
        crew.tally.close()

    assert set(found) == set(expected)
    gauges = {sample for sample in expected if sample[0] in GAUGES}
    assert {key: found[key] for key in set(found) - gauges} == pytest.approx(
        {key: expected[key] for key in set(found) - gauges}
    )


GAUGES = {f"gateway_{name}" for name in ("calls_active", "realtime_sessions_active")}


def _observe(metrics: Metrics, fact: Fact) -> None:
    """A fact of a call of its own, which is over then as far as gauges go."""
    call = metrics.call()
    if isinstance(fact, CallEnded):
        call.observe(BEGAN)
    call.observe(fact)


def test_gauges_of_the_living_are_put_together(crew: Crew) -> None:
    """Sums where things add up, the worst where one is bad enough, the last of what was said."""
    one, two = crew.start(1), crew.start(2)
    one.call().observe(BEGAN)
    two.call().observe(BEGAN)
    two.set_breaker(is_open=True)
    one.set_token_expiry(2000)
    two.set_token_expiry(1000)
    one.call().observe(RateLimitSeen("tokens", 7))
    two.call().observe(RateLimitSeen("tokens", 5))

    assert crew.value("calls_active", provider="twilio", agent="default") == 2
    assert crew.value("realtime_breaker_open", target="primary") == 1
    assert crew.value("realtime_breaker_open", target="secondary") == 0
    assert crew.value("token_expiry_timestamp_seconds") == 1000
    assert crew.value("realtime_rate_limit_remaining", limit="tokens") == 5
    assert crew.value("realtime_rate_limit_remaining", limit="requests") == 0
    crew.kill(2)
    assert crew.value("calls_active", provider="twilio", agent="default") == 1
    assert crew.value("realtime_breaker_open", target="primary") == 0
    assert crew.value("token_expiry_timestamp_seconds") == 2000
    assert crew.value("realtime_rate_limit_remaining", limit="tokens") == 7


def test_counters_survive_and_files_do_not_pile_up(crew: Crew) -> None:
    """One death after the other, some with the process id of one before: no count goes back."""
    dice = random.Random(7)
    expected = 0
    for _ in range(30):
        pid = dice.choice((11, 12, 13))
        if pid in crew.pids:
            crew.kill(pid)
        else:
            crew.start(pid).call().observe(BEGAN)
            expected += 1
        assert crew.value("calls_started_total", agent="default", provider="twilio") == expected
    for pid in tuple(crew.pids):
        crew.kill(pid)

    assert sorted(path.name for path in crew.tally.folder.iterdir()) == [
        *("counter_0.db", "histogram_0.db")
    ]
    assert crew.value("calls_active", provider="twilio", agent="default") == 0


def test_the_supervisor_speaks_for_all(crew: Crew) -> None:
    """What a worker says of readiness or limits is its own part; calls that were cut are added."""
    one = crew.start(1)
    one.set_ready(is_ready=True)
    one.set_calls_limit(10)
    one.set_workers(1)
    crew.supervisor.set_calls_limit(20)
    crew.supervisor.set_workers(2)
    crew.supervisor.worker_restarted()
    one.call().close()
    broken = one.call()
    broken.observe(BEGAN)
    broken.close()
    crew.supervisor.calls_lost(3)

    assert crew.value("ready") == 0
    assert crew.value("calls_limit") == 20
    assert crew.value("workers") == 2
    assert crew.value("worker_restarts_total") == 1
    lost = {"result": "server_error", "reason": "internal_error"}
    assert crew.value("calls_ended_total", **lost) == 4


def test_a_worker_that_has_just_started_disturbs_nobody(crew: Crew) -> None:
    """Its file is there and empty for a moment."""
    crew.start(1).call().observe(BEGAN)
    crew.pids.append(2)
    (crew.tally.folder / "counter_2.db").touch()

    assert crew.value("calls_active", provider="twilio", agent="default") == 1


def test_the_page_is_one_a_process_alone_could_have_made(crew: Crew) -> None:
    """The same families in the same order with the same words, the process's among them."""
    crew.start(1)
    page = generate_latest(page_registry(crew.tally, lambda: ())).decode()
    alone = CollectorRegistry()
    Metrics(alone)

    def heads(text: str) -> list[str]:
        return [
            line
            for line in text.splitlines()
            if line.startswith("# ") and "gateway_" in line and "_created" not in line
        ]

    assert heads(page) == heads(generate_latest(alone).decode())
    assert "\nprocess_cpu_seconds_total " in page
    assert "\npython_info{" in page


def _process(pids: Callable[[], list[int]], name: str) -> float:
    return _samples(ProcessTally(pids).collect())[name, ()]


def test_the_process_is_all_processes() -> None:
    """Memory and CPU of children count, and CPU does not go back when one dies."""
    burn = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    # It says when it is there, burns when it is told to, and goes when it is told to.
    program = f"print(flush=True); input()\n{burn}\nprint(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    memory = "process_resident_memory_bytes"
    alone, both = _process(list, memory), _process(lambda: [child.pid], memory)
    cpu = [_process(lambda: [child.pid], "process_cpu_seconds_total")]
    child.stdin.write(b"\n")
    child.stdin.flush()
    child.stdout.readline()
    cpu.append(_process(lambda: [child.pid], "process_cpu_seconds_total"))
    child.communicate(b"\n")
    cpu.append(_process(list, "process_cpu_seconds_total"))
    started = [_process(pids, "process_start_time_seconds") for pids in (list, lambda: [child.pid])]

    assert both > alone + 1e6
    assert cpu[1] >= cpu[0] + 0.2
    assert cpu[2] >= cpu[1]
    assert started[0] == started[1]


def test_pages_are_counted_where_they_are_served(crew: Crew) -> None:
    """By the supervisor: what workers tell their calls to is the supervisor."""
    one = crew.start(101)
    crew.supervisor.view_opened()
    for _ in range(3):
        one.view_opened()
    one.view_closed(is_dropped=True)
    one.listening_began()

    assert crew.value("console_views") == 1
    assert crew.value("console_views_dropped_total") == 0
    assert crew.value("listeners") == 1


def test_the_dead_let_nobody_in(crew: Crew) -> None:
    """The socket of a worker is in the private folder, and gone with it."""
    crew.start(101)
    path = socket_of(crew.tally.folder, 101)
    path.touch()
    crew.kill(101)

    assert crew.tally.folder.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_a_folder_with_too_long_a_name_is_told() -> None:
    """Before a worker dies of it; the kernel decides what is too long."""
    for length in range(60, 80):
        folder = Path("/" + "x" * (length - 1)) / ("gateway-metrics-" + "x" * 8)
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match=r"\S") as refused:
            probe.bind(str(socket_of(folder, 4_194_304)))
        if "too long" in str(refused.value):
            with pytest.raises(OSError, match="set TMPDIR"):
                check_sockets(folder)
        else:
            check_sockets(folder)
