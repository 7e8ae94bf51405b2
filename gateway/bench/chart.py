"""Calls against latency and CPU, as an SVG."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.bench.findings import Findings, Measured
from gateway.errors import SettingsError

_SHARE = 100
_TELLING = frozenset({"passed", "failed"})


def check_library() -> None:
    """See before anything is measured that a chart can be drawn.

    Raises:
        SettingsError: pygal is not installed.
    """
    if find_spec("pygal") is None:
        raise SettingsError(["--chart needs pygal: pip install 'voice-gateway[bench]'"])


def series(findings: Findings) -> dict[str, list[tuple[float, float]]]:
    """The lines of the chart: points of calls and a value, in ms or percent."""
    # New calls coming in, or a machine busy with something else, say nothing about so many calls.
    telling = (s for s in findings.steps if s.name != "set-up" and s.verdict.outcome in _TELLING)
    steps = sorted(telling, key=lambda step: step.figures.calls)
    cpu = [(s.figures.calls, (s.figures.cpu_share or 0) * _SHARE) for s in steps]
    return {
        "caller to model p99, ms": [(s.figures.calls, s.figures.uplink.p99_ms) for s in steps],
        "first audio p99, ms": [(s.figures.calls, s.figures.first_audio.p99_ms) for s in steps],
        "CPU of the gateway, %": [(calls, share) for calls, share in cpu if share],
        "passed": _marks(steps, "passed"),
        "failed": _marks(steps, "failed"),
    }


def _marks(steps: list[Measured], outcome: str) -> list[tuple[float, float]]:
    return [(s.figures.calls, 0.0) for s in steps if s.verdict.outcome == outcome]


def draw(findings: Findings, path: Path) -> None:
    """Write the chart.

    Raises:
        OSError: the file cannot be written.
    """
    import pygal  # noqa: PLC0415  an extra

    chart: Any = pygal.XY(
        title="Calls on one core",
        x_title="calls",
        legend_at_bottom=True,
        js=(),
        range=(0, 2 * _SHARE),
        allow_interruptions=True,
    )
    for name, points in series(findings).items():
        is_mark = name in _TELLING
        clipped = [(calls, min(value, 2.0 * _SHARE)) for calls, value in points]
        chart.add(name, clipped, stroke=not is_mark)
    path.write_bytes(chart.render())
