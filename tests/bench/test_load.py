"""Calls on sockets: those that come to be, and those that do not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.bench import load as load_module
from gateway.bench.load import Load
from tests.bench.relay import Vices, open_relay
from tests.running import free_port


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    """A load with a small relay before it."""
    port, model_port = free_port(), free_port()
    load = Load(f"ws://127.0.0.1:{port}/media", model_port)
    await load.open()
    try:
        async with open_relay(port, model_port, Vices()):
            yield load
            await load.hang_up_all()
    finally:
        await load.close()


async def test_calls_are_set_up_and_leave_without_being_lost(load: Load) -> None:
    """Each finds its session; hanging up is not losing."""
    assert await load.grow(3, per_s=100.0) == 3
    assert load.calls == len(load.lags_ms()) == 3
    await load.hang_up_all()

    assert (load.calls, load.lost, load.failures) == (0, 0, [])
    assert await load.grow(1, per_s=100.0) == 1


async def test_callers_come_and_go(load: Load) -> None:
    """Never more than so many, each set up at once, and nobody who leaves is lost."""
    tally = load.books.open(0.0)

    assert await load.grow(8, per_s=4.0, at_once=2) == 8
    assert load.calls <= 3  # one may still be on its way out
    assert (len(tally.setup_ms), load.lost, load.failures) == (8, 0, [])


async def test_a_refused_call_is_told_by_the_status_line(load: Load) -> None:
    """A path that is no media socket."""
    load.url += "/nowhere"

    assert await load.grow(1, per_s=100.0) == 0
    assert load.calls == 0
    assert any("404" in why for why in load.failures)


async def test_a_gateway_that_says_nothing_is_given_up(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time a caller would wait."""
    monkeypatch.setattr(load_module, "CONNECT_TIMEOUT_S", 0.2)
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with silent:
        load.url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        assert await load.grow(1, per_s=100.0) == 0
        for writer in writers:
            writer.close()
    await asyncio.sleep(0)

    assert load.failures[0].startswith("TimeoutError")
    assert load.lost == 0
