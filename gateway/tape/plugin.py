"""The pytest plugin: every tape is a test, and a test can look into a tape.

``pytest --call-tapes calls/`` replays each tape below ``calls/`` and fails where the call does
something else; ``--call-tapes-shape`` compares kinds, order and durations only. The fixture
``call_tape`` loads a tape for a test's own questions. Loaded by pytest itself wherever this package
is installed.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from gateway.errors import TapeError
from gateway.tape import SUFFIXES

_NOTE: Final = "call tape"

if TYPE_CHECKING:
    from gateway.tape.judge import Verdict
    from gateway.tape.taped import TapedCall


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options of our own."""
    group = parser.getgroup("call tapes", "recorded calls of the voice gateway")
    group.addoption(
        "--call-tapes",
        action="append",
        default=[],
        metavar="PATH",
        help="a tape, or a folder of tapes: each is replayed as a test; may be repeated",
    )
    group.addoption(
        "--call-tapes-shape",
        action="store_true",
        help="compare kinds, order and durations of what is sent, not bytes: for old tapes",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tapes are collected like any file that is named on the command line.

    Raises:
        pytest.UsageError: there is no such path.
    """
    for path in _places(config):
        if not path.exists():
            raise pytest.UsageError(f"--call-tapes: {path}: no such file or folder")
        config.args.append(str(path))


def _places(config: pytest.Config) -> list[Path]:
    given = cast("list[str]", config.getoption("--call-tapes"))
    return [(config.invocation_params.dir / path).resolve() for path in given]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "TapeFile | None":
    """Files that are tapes and lie where tapes were asked for."""
    if not file_path.name.endswith(SUFFIXES):
        return None
    places = _places(parent.config)
    if any(file_path == place or place in file_path.parents for place in places):
        return TapeFile.from_parent(parent, path=file_path)
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A tape that was cut short passes as far as it goes: that is said, and how far."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    notes = [
        f"{report.nodeid}: {note}"
        for report in reports
        for name, note in getattr(report, "user_properties", ())
        if name == _NOTE and report.when == "call"
    ]
    if notes:
        terminalreporter.section("call tapes")
        terminalreporter.write_line("\n".join(notes))


@pytest.fixture
def call_tape(request: pytest.FixtureRequest) -> "Callable[[str | Path], TapedCall]":
    """Loads a tape, by a path that is absolute or starts at the test's own folder.

    ``call_tape("calls/refund.jsonl.gz").heard``; see ``gateway.tape.taped.TapedCall``.
    """
    from gateway.tape.taped import TapedCall  # noqa: PLC0415  # pytest starts without numpy

    return lambda path: TapedCall(request.path.parent / path)


class TapeFile(pytest.File):
    """One tape."""

    def collect(self) -> Iterable["TapeTest"]:
        """It is one test."""
        yield TapeTest.from_parent(self, name="replay")


class TapeTest(pytest.Item):
    """The call on this tape does the same as when it was recorded."""

    def runtest(self) -> None:
        """Replay it.

        Raises:
            TapeError: it cannot be read or played.
            CallDiffersError: it goes another way.
        """
        from gateway.tape.judge import judge  # noqa: PLC0415  # pytest starts without numpy

        is_shape = bool(self.config.getoption("--call-tapes-shape"))
        verdict = judge(self.path, is_exact=not is_shape)
        self.user_properties.append(("digest", verdict.replayed.digest))
        if verdict.note:
            self.user_properties.append((_NOTE, verdict.note))
        if not verdict.is_same:
            raise CallDiffersError(verdict)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The differences; a traceback would say nothing about the call."""
        if isinstance(excinfo.value, TapeError | CallDiffersError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it is."""
        return self.path, None, f"call on tape: {self.path.name}"


class CallDiffersError(Exception):
    """What was found, as a text for people."""

    def __init__(self, verdict: "Verdict") -> None:
        found = verdict.found
        shown = "\n".join(map(str, found.differences))
        more = found.count - len(found.differences)
        super().__init__(shown + (f"\n... and {more} more differences" if more else ""))
