"""A gateway and a simulated model in this process, for real calls to go through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.app import Running, open_gateway
from gateway.events import Fact
from gateway.settings import load_settings
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from tests.sip.pbx import Extension, PbxOptions

_USERNAME, _PASSWORD = "pbx", "made-up"
_FactT = TypeVar("_FactT")


@dataclass(slots=True)
class Stage:
    """An open gateway, the model behind it, and every fact of every call so far."""

    running: Running
    simulator: Simulator
    _facts: list[Fact] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def pbx_options(self, *extensions: Extension) -> PbxOptions:
        """How an Asterisk reaches this gateway."""
        url = f"ws://127.0.0.1:{self.running.port}/asterisk/media"
        return PbxOptions(url, extensions, _USERNAME, _PASSWORD)

    def observe(self, _call_id: str, fact: Fact) -> None:
        """Keep a fact; whoever waits for one looks again."""
        self._facts.append(fact)
        self._news.set()

    def seen(self, kind: type[_FactT]) -> list[_FactT]:
        """All facts of one kind, of all calls."""
        return [fact for fact in self._facts if isinstance(fact, kind)]

    async def wait_for(self, kind: type[_FactT], count: int, timeout_s: float) -> list[_FactT]:
        """Wait until there are so many facts of one kind.

        Raises:
            TimeoutError: There were not; names what there was.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.seen(kind)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"no {count} {kind.__name__} among {self._facts[-30:]}") from None
        return self.seen(kind)


@asynccontextmanager
async def open_stage(**environ: str) -> AsyncIterator[Stage]:
    """Open a parrot and a gateway that asks a PBX for its password, with more settings if given."""
    simulator = await start_simulator(SimulatorOptions())
    try:
        settings = load_settings(
            {
                "GATEWAY_HOST": "127.0.0.1",
                "GATEWAY_PORT": "0",
                "GATEWAY_OPS_PORT": "0",
                "GATEWAY_ASTERISK_USERNAME": _USERNAME,
                "GATEWAY_ASTERISK_PASSWORD": _PASSWORD,
                "AZURE_OPENAI_ENDPOINT": simulator.url,
                "AZURE_OPENAI_DEPLOYMENT_NAME": "gpt-realtime",
                "AZURE_OPENAI_API_KEY": "made-up",
            }
            | environ
        )
        async with open_gateway(settings) as running:
            stage = Stage(running, simulator)
            running.gateway.observers.append(stage.observe)
            yield stage
    finally:
        await simulator.close()
