"""``python -m gateway`` is the ``gateway`` command."""

import runpy
import sys

import pytest

from gateway import __version__


def test_the_module_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its arguments are the command's, and so is its exit code."""
    monkeypatch.setattr(sys, "argv", ["gateway", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("gateway", run_name="__main__")

    assert left.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"
