"""Calls without sockets are calls: heard, answered, let go; one that is lost is told."""

import time

import pytest

from gateway.app import open_gateway
from gateway.settings import load_settings
from gateway.usher import end_call
from tests.benchmarks.crowd import CrowdLost, crowd
from tests.running import environ_at, happens

_CALLS = 3
_ENVIRON = environ_at("http://127.0.0.1:9")


async def test_a_crowd_is_heard_and_answered() -> None:
    """Bursts reach the model, its answers the callers; nobody is left behind."""
    async with open_gateway(load_settings(_ENVIRON)) as running:
        async with crowd(running, _CALLS, 5) as people:
            tally = people.books.open(time.monotonic())
            assert running.calls == people.paired == _CALLS
            assert await happens(lambda: bool(tally.uplink_ms and tally.downlink_ms), 20)
            people.check()
        assert await happens(lambda: running.calls == 0)

    assert tally.stale_messages == 0


async def test_a_lost_call_is_told() -> None:
    """A crowd that has become smaller is none to measure with."""
    async with open_gateway(load_settings(_ENVIRON)) as running, crowd(running, 1) as people:
        end_call(running.gateway, next(iter(running.gateway.bridges)), "drain")
        assert await happens(lambda: not running.gateway.bridges)
        with pytest.raises(CrowdLost, match="1 of 1 calls were lost"):
            people.check()
