"""One real call on tape for all tests that replay."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.simulator.callplan import CallPlan
from tests.tape.recording import INTERRUPTION, record


@pytest.fixture(scope="session")
def call_on_tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call by Twilio's protocol in which the caller interrupts the agent and presses keys."""
    plan = CallPlan(says=INTERRUPTION, dtmf=((1.0, "1"), (1.5, "2")), hang_up_after_s=8.0)
    with capture_logs():
        return record(tmp_path_factory.mktemp("tapes"), plan)
