"""How cost grows with a call's length and with the agents and tools of the configuration.

``python -m tests.benchmarks.growth`` prints a table for each, says whether it is flat or linear,
and draws it below deploy/; ``--minutes 1 5 10`` ends sooner. How cost grows with calls is for
``gateway bench``. Settings take no more agents than ``_MAX_AGENTS`` of ``gateway.settings``, which
is lifted here, and one tool: more are handed to the session directly.
"""

import argparse
import gc
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any
from unittest import mock

import pygal
from pydantic import Field

import gateway.settings
from gateway.call import Call
from gateway.events import (
    CallStarted,
    ConfigureSession,
    RealtimeConnected,
    SessionCreated,
    SessionOptions,
    Tool,
)
from gateway.logs import configure
from gateway.providers.twilio import TwilioStream
from gateway.realtime.protocol import RealtimeProtocol
from gateway.settings import Agent, Settings, load_settings
from tests.benchmarks.lines import Line, fitted
from tests.benchmarks.long_call import samples
from tests.wire import TwilioWriter, options

MINUTES = (1, 5, 10, 30, 60, 120)
COUNTS = (1, 10, 100, 1000)
DEPLOY = Path(__file__).parents[2] / "deploy"
_INSTRUCTIONS = "You answer the phone of a small shop. " * 8
_TRIES = 5


class _Roomy(Settings):
    """Settings without the limit on agents."""

    agents: dict[str, Agent] = Field(default_factory=lambda: {"default": Agent()})


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that was measured at several sizes."""

    name: str
    unit: str
    x_name: str
    points: tuple[tuple[float, float], ...]

    @property
    def line(self) -> Line:
        """Flat, linear, or neither."""
        return fitted(self.points)


# ------------------------------------------------------------- call length


def length_series(minutes: Sequence[int]) -> list[Series]:
    """CPU and memory of one call as it gets longer."""
    found = list(samples(minutes))
    units = (
        ("CPU of a call-second", "loops", [s.loops_a_second for s in found]),
        ("the same as it came", "us", [s.us_a_second for s in found]),
        ("memory of the call", "KiB", [s.size_bytes / 1024 for s in found]),
        ("objects of the call", "objects", [float(s.objects) for s in found]),
    )
    at = [s.minutes for s in found]
    return [
        Series(name, unit, "minutes", tuple(zip(at, values, strict=True)))
        for name, unit, values in units
    ]


# ------------------------------------------------------------- agents and tools


def _number(index: int) -> str:
    return f"+1555{index:07}"


def _file(count: int) -> str:
    return "".join(
        f'[agents.agent{index}]\ninstructions = "{_INSTRUCTIONS}"\nnumbers = ["{_number(index)}"]\n'
        for index in range(count)
    )


@contextmanager
def _roomy() -> Iterator[None]:
    with mock.patch.object(gateway.settings, "Settings", _Roomy):
        yield


def _load(path: Path) -> Settings:
    return load_settings({"OPENAI_API_KEY": "made-up", "GATEWAY_INSECURE": "1"}, path)


def _best_us(step: Callable[[], object], times: int = 1) -> float:
    """The best of some tries, in microseconds a time."""

    def tried() -> float:
        began = process_time()
        for _ in range(times):
            step()
        return (process_time() - began) / times * 1e6

    return min(tried() for _ in range(_TRIES))


def _kept_kib(make: Callable[[], object]) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        size_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del kept
    return size_bytes / 1024


def _open(message: str, session: Callable[[CallStarted], SessionOptions]) -> bytes:
    """From the start message to the session.update that is due for it."""
    (started,) = TwilioStream().receive(message)
    assert isinstance(started, CallStarted)
    call = Call(started, options(session=session(started)), 0.0)
    call.realtime_received(RealtimeConnected(0.01), 0.01)
    call.realtime_received(SessionCreated("sess_1", 0.0), 0.02)
    (configure_session,) = [c for c in call.to_realtime if isinstance(c, ConfigureSession)]
    return RealtimeProtocol("ga").send(configure_session)[0]


def _agents_at(count: int, folder: Path) -> Iterator[tuple[str, str, float]]:
    path = folder / "gateway.toml"
    path.write_text(_file(count), "utf-8")
    settings = _load(path)
    last = _number(count - 1)

    def session(started: CallStarted) -> SessionOptions:
        return settings.agent_for(started.to_number).session_options("ga")

    assert settings.agent_for(last).name == f"agent{count - 1}"
    times = max(5, 2000 // count)
    yield "loading the settings", "ms", _best_us(lambda: _load(path)) / 1000
    yield "picking the last agent", "us", _best_us(lambda: settings.agent_for(last), times)
    start = TwilioWriter().start(last)
    yield "start to session.update", "us", _best_us(lambda: _open(start, session), times)
    yield "memory of the settings", "KiB", _kept_kib(lambda: _load(path))


def _tools_at(count: int, _folder: Path) -> Iterator[tuple[str, str, float]]:
    schema = {"type": "object", "properties": {"number": {"type": "string"}}}
    tools = tuple(
        Tool(f"tool_{i}", "Looks an order up by its number.", schema) for i in range(count)
    )
    given = replace(SessionOptions(), tools=tools)
    start, times = TwilioWriter().start(), max(20, 2000 // count)
    message = _open(start, lambda _: given)
    yield "start to session.update", "us", _best_us(lambda: _open(start, lambda _: given), times)
    yield "size of session.update", "KiB", len(message) / 1024


_At = Callable[[int, Path], Iterator[tuple[str, str, float]]]


def count_series(x_name: str, at: _At, counts: Sequence[int]) -> list[Series]:
    """Everything that is measured at each count."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, _roomy():
        for count in counts:
            for name, unit, value in at(count, Path(folder)):
                points.setdefault((name, unit), []).append((count, value))
    return [Series(name, unit, x_name, tuple(found)) for (name, unit), found in points.items()]


# ------------------------------------------------------------- telling


def table(series: Sequence[Series]) -> str:
    """Each series with its points, and what they make."""
    lines = []
    for each in series:
        points = "  ".join(f"{x:g}: {y:.4g}" for x, y in each.points)
        lines.append(f"{each.name}, {each.unit}, by {each.x_name}\n  {points}\n  {each.line}\n")
    return "".join(lines)


def draw(title: str, series: Sequence[Series], path: Path) -> None:
    """Each series as a multiple of its first point, over the size."""
    is_wide = max(x for x, _ in series[0].points) > max(MINUTES)
    chart: Any = pygal.XY(
        title=title,
        x_title=series[0].x_name,
        y_title="times the first",
        legend_at_bottom=True,
        js=(),
        logarithmic=is_wide,
        xrange=(1, max(x for x, _ in series[0].points)),
    )
    for each in series:
        first = each.points[0][1]
        chart.add(f"{each.name} ({each.line.shape})", [(x, y / first) for x, y in each.points])
    path.write_bytes(chart.render())


def main(arguments: Sequence[str]) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description="How cost grows.")
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    parser.add_argument("--to", type=Path, default=DEPLOY, help="folder of the charts")
    wishes = parser.parse_args(arguments)
    charts: Mapping[str, Callable[[], list[Series]]] = {
        "agents": lambda: count_series("agents", _agents_at, COUNTS),
        "tools": lambda: count_series("tools", _tools_at, COUNTS),
        "length": lambda: length_series(wishes.minutes),
    }
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # a device, no file
        configure("info", "json", nowhere)
        for name, measure in charts.items():
            series = measure()
            sys.stdout.write(table(series))
            sys.stdout.flush()
            draw(f"Cost by {series[0].x_name}", series, wishes.to / f"growth-{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
