"""What holds for every test, with a simulated model and a gateway for those that need them."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

import pytest
from hypothesis import settings
from structlog.testing import capture_logs

from gateway.app import Running
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from tests.running import Facts, settings_for, watched_gateway

# These run on shared machines: how long an example takes says nothing about the code.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The usual loop; beside it the one that `serve` runs on, for tests that name their loops."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        with suppress(ImportError):  # not on Windows
            loops["uvloop"] = importlib.import_module("uvloop").new_event_loop
    return loops


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A parrot that takes any key."""
    simulator = await start_simulator(SimulatorOptions())
    yield simulator
    await simulator.close()


@pytest.fixture
async def _watched(simulator: Simulator) -> AsyncIterator[tuple[Running, Facts]]:
    # Nobody has set logging up: its lines would land on the output that a test reads.
    with capture_logs():
        async with watched_gateway(settings_for(simulator)) as watched:
            yield watched


@pytest.fixture
def gateway(_watched: tuple[Running, Facts]) -> Running:
    """An open gateway that asks nobody for a proof of origin."""
    return _watched[0]


@pytest.fixture
def facts(_watched: tuple[Running, Facts]) -> Facts:
    """Everything that gateway reports."""
    return _watched[1]
