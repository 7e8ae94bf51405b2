"""The shelf where the console keeps calls that ended: what is put there, and what it promises.

``gateway.store`` is one in a database. What it takes to reach a database is loaded only where
there is one.
"""

from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError


class ShelfUnavailable(GatewayError):
    """Nothing can be looked up, or not in time."""


@dataclass(frozen=True, slots=True)
class StoredCall:
    """One call that ended. ``summary`` and ``details`` are JSON; times are unix seconds."""

    call_id: str
    provider_call_id: str
    began_at: float
    ended_at: float
    provider: str
    agent: str
    result: str
    reason: str
    summary: str
    details: str


class Shelf(Protocol):
    """Keeps calls. Looking something up raises ``ShelfUnavailable`` when that is not possible."""

    def put(self, call: StoredCall) -> None:
        """Let this call be kept; never waits."""

    async def latest(self, limit: int, text: str = "") -> list[str]:
        """Summaries of the calls that ended last, with this text in one of their ids."""

    async def details(self, call_id: str) -> str | None:
        """All that is known of a call."""

    async def forget(self, call_id: str) -> bool:
        """Erase a call; whether there was one."""
