"""Faults that wait for a moment."""

from typing import Any

from gateway.simulator.faults import Faults
from gateway.simulator.mishaps import CloseSocket, Mishaps, error_event

DELTA = {"type": "response.output_audio.delta"}


def _done(*kinds: str) -> dict[str, Any]:
    return {"type": "response.done", "response": {"output": [{"type": kind} for kind in kinds]}}


def test_a_close_waits_for_its_nth_event() -> None:
    """Earlier and later events of the kind close nothing."""
    mishaps = Mishaps(Faults(close_code=1011, close_when="delta", close_count=2))

    closes = [mishaps.after(event)[1] for event in (DELTA, _done(), DELTA, DELTA)]

    assert closes == [None, None, CloseSocket(1011, "simulated fault"), None]


def test_an_error_comes_once() -> None:
    """Only after the first event of its moment."""
    mishaps = Mishaps(Faults(error_code="server_error", error_when="done"))

    errors = [mishaps.after(event)[0] for event in (DELTA, _done(), _done())]

    assert errors == [None, error_event("server_error"), None]


def test_a_tool_call_is_a_moment() -> None:
    """A response that ends in a call, not one that ends in words."""
    mishaps = Mishaps(Faults(close_code=1001, close_when="tool"))

    assert mishaps.after(_done("message"))[1] is None
    assert mishaps.after(_done("message", "function_call"))[1] is not None


def test_a_false_start_happens_once() -> None:
    """At the first audio, if at all."""
    mishaps = Mishaps(Faults(false_start=True))

    assert [mishaps.starts_falsely(event) for event in (_done(), DELTA, DELTA)] == [
        False,
        True,
        False,
    ]
    assert not Mishaps(Faults()).starts_falsely(DELTA)


def test_an_error_may_lack_its_code() -> None:
    """The word "null" stands for none."""
    assert error_event("null")["error"]["code"] is None
    assert error_event("server_error")["error"]["type"] == "server_error"
