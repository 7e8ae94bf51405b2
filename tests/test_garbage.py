"""What is left for Python's collector, and what it is not to look at."""

import gc
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import Running
from gateway.events import CallEnded, CallReady
from tests.running import ROOT, Facts, command, happens, twilio_stream, url_of

LEFT_ALONE = """
import gc, weakref
from gateway.garbage import leave_alone_what_lasts

class Knot:
    def __init__(self): self.itself = self

leave_alone_what_lasts()
seen, knot = gc.get_freeze_count(), weakref.ref(Knot())
print(seen > 1000, knot() is not None, gc.collect() >= 1, knot() is None)
"""

# Python runs a module of this name before anything else.
TELL_AT_EXIT = """
import atexit, gc, os, pathlib
told = pathlib.Path(__file__).parent / f"{os.getpid()}.frozen"
atexit.register(lambda: told.write_text(str(gc.get_freeze_count())))
"""
OBJECTS_OF_MODULES = 20_000


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("who_ends", ["caller", "operator", "lost"])
@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_a_call_that_is_over_leaves_nothing_to_collect(
    gateway: Running, facts: Facts, who_ends: str
) -> None:
    """Its bridge, its state and its sound are gone as soon as its sockets are."""
    async with twilio_stream(url_of(gateway)) as stream:
        await stream.start()
        await facts.wait_for(CallReady)
        (bridge,) = gateway.gateway.bridges
        left = weakref.WeakSet[object]((bridge, bridge._call))
        if who_ends == "caller":
            await stream.stop()
            await stream.closed()
        elif who_ends == "operator":
            bridge.hang_up("operator_hangup")
            await stream.closed()
        del bridge
    await facts.wait_for(CallEnded)

    assert await happens(lambda: not left), list(left)


def test_what_lasts_is_left_alone_and_the_rest_is_collected() -> None:
    """In an interpreter of its own: what is left alone there stays so for its life."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_ALONE], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "True", "True", "True"]


async def test_every_process_that_serves_leaves_alone_what_it_has_loaded(tmp_path: Path) -> None:
    """The supervisor and both of its workers."""
    (tmp_path / "sitecustomize.py").write_text(TELL_AT_EXIT)
    environ = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9",
        "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
        "AZURE_OPENAI_API_KEY": "not-a-secret",
        "GATEWAY_INSECURE": "1",
        "GATEWAY_DATABASE_URL": "sqlite://",
    }
    ports = ("--host", "127.0.0.1", "--port", "0", "--ops-port", "0")
    async with command("serve", "--workers", "2", *ports, **environ) as served:
        await served.says("taking calls")
        served.process.send_signal(signal.SIGTERM)
        await served.finish()
    counts = [int(told.read_text()) for told in tmp_path.glob("*.frozen")]  # noqa: ASYNC240  # all have ended

    assert len(counts) == 3
    assert min(counts) > OBJECTS_OF_MODULES
