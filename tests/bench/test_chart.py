"""The picture of a search."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway.bench import chart
from gateway.errors import SettingsError
from tests.bench.samples import findings


def test_passed_and_failed_steps_are_marked_apart() -> None:
    """Each step is in one of the marks, at its number of calls; new calls coming in are none."""
    lines = chart.series(findings())

    assert lines["failed"] == [(200, 0.0)]
    assert [calls for calls, _ in lines["passed"]] == [50, 100, 100]
    assert (200, 44.0) in lines["caller to model p99, ms"]


def test_an_svg_is_drawn(tmp_path: Path) -> None:
    """With every line's name in it."""
    path = tmp_path / "chart.svg"
    chart.draw(findings(), path)
    words = "".join(ET.parse(path).getroot().itertext())  # noqa: S314  our own file

    assert all(name in words for name in chart.series(findings()))


def test_a_missing_library_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line that says what to install."""
    monkeypatch.setattr(chart, "find_spec", lambda _name: None)

    with pytest.raises(SettingsError, match=r"\[bench\]"):
        chart.check_library()
