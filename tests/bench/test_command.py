"""The command: arguments, files, exit codes."""

import json
import os
from pathlib import Path

import pytest

from gateway.bench import command
from gateway.bench.command import Files, checked_plan, measure
from gateway.bench.findings import Findings
from gateway.errors import SettingsError
from gateway.terminal import Terminal
from tests.bench.samples import findings


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"against": "http://a/"}, "--against: accepted"),
        ({"against": "ws://127.0.0.1:99999/"}, "--against: accepted"),
        ({"against": "ws://127.0.0.1:1/"}, "needs --realtime-port"),
        ({"pid": 1}, "--pid is for --against"),
        ({"against": "ws://a/", "realtime_port": 1, "has_tls": True}, "--tls is for our own"),
        ({"against": "ws://a/", "realtime_port": 1, "has_tapes": True}, "--tape is for our own"),
        ({"against": "ws://a/", "realtime_port": 1, "pid": 2**22 + 1}, "no process"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(wishes: dict[str, object], words: str) -> None:
    """Before anything is started."""
    with pytest.raises(SettingsError, match=words):
        checked_plan(**wishes)


def test_a_good_wish_is_a_plan() -> None:
    """As it was said."""
    plan = checked_plan(against="ws://a:1/b", realtime_port=5, pid=os.getpid())

    assert (plan.against, plan.realtime_port, plan.pid) == ("ws://a:1/b", 5, os.getpid())


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Findings:
    """What the measurement will come to."""
    result = findings()

    async def bench(_plan: object, tell: object) -> Findings:
        del tell
        return result

    monkeypatch.setattr(command, "bench", bench)
    return result


async def test_all_files_are_written(
    found: Findings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the number is on the screen."""
    files = Files(tmp_path / "a.json", tmp_path / "a.svg", tmp_path / "c.json")
    is_concluded = await measure(Terminal(), checked_plan(), files, ["gateway", "bench"])

    assert is_concluded
    assert found.capacity == json.loads((tmp_path / "c.json").read_text())["calls_per_core"] == 100
    assert json.loads((tmp_path / "a.json").read_text())["command"] == "gateway bench"
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert "calls one core carries: 100" in capsys.readouterr().out


async def test_a_refusal_writes_no_certificate(found: Findings, tmp_path: Path) -> None:
    """A number nobody measured must not admit calls."""
    found.capacity, found.refusal = None, "only one core"
    files = Files(certificate=tmp_path / "c.json")

    assert not await measure(Terminal(), checked_plan(), files, ["gateway", "bench"])
    assert not (tmp_path / "c.json").exists()


async def test_another_gateway_gets_no_certificate(found: Findings, tmp_path: Path) -> None:
    """It would be taken for ours."""
    plan = checked_plan(against="ws://a:1/", realtime_port=5)
    files = Files(certificate=tmp_path / "c.json")

    assert await measure(Terminal(), plan, files, ["gateway", "bench"])
    assert found.capacity == 100
    assert not (tmp_path / "c.json").exists()


async def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    """Not after ten minutes."""
    files = Files(json=tmp_path / "nowhere" / "a.json")

    with pytest.raises(SettingsError, match="nowhere"):
        await measure(Terminal(), checked_plan(), files, ["gateway", "bench"])
