"""What faults make of a reply."""

from gateway.simulator.agents import Reply, Speech, ToolCall, Writing
from gateway.simulator.faults import NO_FAULTS, Faults
from gateway.simulator.spoiling import in_text, spoiled
from tests.simulator.desk import loud


def test_text_sessions_hear_nothing() -> None:
    """Speech becomes writing, calls stay."""
    call = ToolCall("f", "{}")

    assert in_text(Reply((Speech(loud(20), "Hi"), call))).parts == (Writing("Hi"), call)


def test_no_fault_spoils_nothing() -> None:
    """A reply passes unchanged."""
    reply = Reply((Speech(loud(20), "Hi"), ToolCall("f", "{}")))

    assert spoiled(reply, NO_FAULTS) == reply


def test_a_failure_has_no_parts_a_half_has_half() -> None:
    """Failing drops everything, stopping half way keeps whole samples."""
    reply = Reply((Speech(loud(21), "Hello"),))

    failed = spoiled(reply, Faults(fail_response="server_error"))
    halved = spoiled(reply, Faults(incomplete_response="max_output_tokens"))

    assert (failed.parts, failed.fail) == ((), "server_error")
    assert halved.parts == (Speech(loud(21)[:504], "He"),)
