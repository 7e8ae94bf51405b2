"""One real call on tape for all tests that replay."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.simulator.callplan import CallPlan
from gateway.simulator.callreport import CallReport
from tests.tape.recording import INTERRUPTION, record, record_and_report


@pytest.fixture(scope="session")
def call_on_tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call by Twilio's protocol in which the caller interrupts the agent and presses keys."""
    plan = CallPlan(says=INTERRUPTION, dtmf=((1.0, "1"), (1.5, "2")), hang_up_after_s=8.0)
    with capture_logs():
        return record(tmp_path_factory.mktemp("tapes"), plan)


@pytest.fixture(scope="session", params=["twilio", "asterisk"])
def call_and_report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CallReport]:
    """Such a call of each provider, and what the phone says it sent and played.

    The phone of a PBX is beyond what the PBX knows: what it buffers is in no mark, so here nothing.
    """
    plan = CallPlan(
        provider=request.param,
        says=INTERRUPTION,
        dtmf=((1.0, "1"),),
        jitter_ms=40.0 if request.param == "twilio" else 0.0,
        hang_up_after_s=9.0,
    )
    with capture_logs():
        return record_and_report(tmp_path_factory.mktemp("tapes"), plan)
