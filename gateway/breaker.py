"""Spares a model that is down, and callers the wait for it: the circuit breaker around dialling."""

from collections.abc import Callable

from gateway.errors import ConnectError
from gateway.realtime import Dial, Link

# Five failures in a row are an outage; ten seconds later one call may try.
FAILURES_LIMIT = 5
OPEN_S = 10.0
# Longest hint of the service that is obeyed.
HINT_LIMIT_S = 120.0


class Breaker:
    """Wraps a ``Dial``; while open every dial fails at once with result "breaker"."""

    def __init__(self, dial: Dial, clock: Callable[[], float]) -> None:
        self._dial = dial
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether a dial would be refused without trying."""
        return self._clock() < self._open_until

    async def __call__(self, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
        """Dial unless open; after an outage one call tries before the others do.

        Raises:
            ConnectError: as the wrapped dial, or result "breaker".
        """
        is_suspect = self._failures >= FAILURES_LIMIT
        if self.is_open or (is_suspect and self._is_probing):
            raise ConnectError("breaker", "the service was down a moment ago")
        self._is_probing = is_suspect
        try:
            link = await self._dial(timeout_s=timeout_s, with_fresh_token=with_fresh_token)
        except ConnectError as error:
            self._failed(error)
            raise
        finally:
            self._is_probing = False
        self._failures = 0
        return link

    def _failed(self, error: ConnectError) -> None:
        self._failures += 1
        if error.retry_after_s > 0:
            self._open(min(error.retry_after_s, HINT_LIMIT_S))
        elif self._failures >= FAILURES_LIMIT:
            self._open(OPEN_S)

    def _open(self, duration_s: float) -> None:
        self._open_until = max(self._open_until, self._clock() + duration_s)
