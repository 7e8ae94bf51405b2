"""The gate's findings, measured once and told last."""

from collections.abc import Iterator

import pytest

from tests.benchmarks.gate import PYTHON, Finding, judged, stored
from tests.benchmarks.subjects import SUBJECTS

Findings = dict[str, Finding]
_FOUND = pytest.StashKey[Findings]()


@pytest.fixture(scope="session")
def findings(pytestconfig: pytest.Config) -> Findings:
    """Every subject against its baseline."""
    baseline = stored()
    if not baseline:
        pytest.skip(f"no baseline for Python {PYTHON}: run make baseline")
    found = judged({name: subject.race for name, subject in SUBJECTS.items()}, baseline)
    pytestconfig.stash[_FOUND] = found
    return found


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    """One line a subject, behind the tables of pytest-benchmark."""
    yield
    found = config.stash.get(_FOUND, {})
    if found:
        terminalreporter.section("cost as a ratio to a reference loop")
    for finding in found.values():
        terminalreporter.line(str(finding), red=finding.verdict == "slower")
