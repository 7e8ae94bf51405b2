"""A stage for every fault: a real gateway and a simulated model, held to the rules at the end."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog

from gateway import logs
from tests.faults.invariants import guarded
from tests.faults.scene import CANARIES, Scene, stage


class OpenScene(Protocol):
    """Opens a stage; the rules are checked when the test is over."""

    async def __call__(self, *, has_bystander: bool = True, **wishes: Any) -> Scene:
        """A stage as ``scene.stage`` describes it."""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, as production logs it, at its most talkative."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug", "json", stream, secrets=CANARIES)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def open_scene(log: io.StringIO, tmp_path: Path) -> AsyncIterator[OpenScene]:
    """Stages, each with a bystander on the phone unless the test does without."""
    # Debug mode doubles what both ends and the gateway cost the one loop they share: frames of a
    # caller that run late by it would be measured as the gateway's.
    asyncio.get_running_loop().set_debug(False)
    async with AsyncExitStack() as stack:

        async def opened(*, has_bystander: bool = True, **wishes: Any) -> Scene:
            scene = await stack.enter_async_context(stage(tmp_path, log, **wishes))
            await stack.enter_async_context(guarded(scene, has_bystander=has_bystander))
            return scene

        yield opened
