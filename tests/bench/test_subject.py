"""The gateway that is measured, started and stopped."""

import os
from pathlib import Path

import aiohttp
import pytest

from gateway.bench import process
from gateway.bench.subject import Other, OwnGateway
from gateway.errors import PeerRefused


def environ_of(pid: int) -> str:
    """What a process was given."""
    return Path(f"/proc/{pid}/environ").read_text()


async def test_our_own_gateway_comes_up_on_its_core_and_leaves_nothing() -> None:
    """The operator's settings are not its settings."""
    core = max(os.sched_getaffinity(0))
    secrets = {"AZURE_OPENAI_API_KEY": "the-operators", "GATEWAY_PORT": "1"}
    subject = OwnGateway(core, {**os.environ, **secrets})
    await subject.start(1)
    pid = subject.pid
    assert pid is not None
    environ = environ_of(pid)
    async with aiohttp.ClientSession() as http, http.get(subject.url) as answer:
        status = answer.status
    affinity = os.sched_getaffinity(pid)
    await subject.stop()

    assert status == 400  # a media socket, asked without an upgrade
    assert affinity == {core}
    assert "the-operators" not in environ
    assert not process.is_alive(pid)
    assert subject.pid is None


async def test_a_gateway_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own last word."""
    monkeypatch.setattr("gateway.bench.subject._SERVE", ("-c", "raise SystemExit('no luck')"))
    subject = OwnGateway(max(os.sched_getaffinity(0)), os.environ)

    with pytest.raises(PeerRefused, match="no luck"):
        await subject.start(1)


async def test_another_gateway_is_pinned_and_left_running() -> None:
    """Where its process is known; without, nothing is touched."""
    before = os.sched_getaffinity(0)
    core = max(before)
    try:
        subject = Other("ws://127.0.0.1:1/", os.getpid(), core)
        await subject.start(1)
        pinned = os.sched_getaffinity(0)
        await subject.stop()
    finally:
        os.sched_setaffinity(0, before)

    assert pinned == {core}
    assert process.is_alive(os.getpid())
