"""Spares a model that is down, and callers the wait for it: the circuit breaker around dialling."""

import asyncio
import random
from collections.abc import Callable

from gateway.errors import ConnectError
from gateway.realtime import Dial, Link

# Five failures in a row are an outage; ten seconds later one call may try.
FAILURES_LIMIT = 5
OPEN_S = 10.0
# Longest hint of the service that is obeyed.
HINT_LIMIT_S = 120.0
# A second attempt waits up to this long, at random: calls that failed together do not come back so.
JITTER_S = 0.3


class Breaker:
    """Wraps a ``Dial``; while open every new call's dial fails at once with result "breaker"."""

    def __init__(
        self,
        dial: Dial,
        clock: Callable[[], float],
        jitter_s: Callable[[], float] = lambda: random.uniform(0, JITTER_S),  # noqa: S311  # no secret
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._jitter_s = jitter_s
        self._failures = 0
        self._open_until = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether a new call's dial would be refused without trying."""
        return self._clock() < self._open_until

    def for_call(self) -> Dial:
        """The dial of one call: one that has had a session may always try to get it back."""
        dials, had_session = 0, False

        async def dial(*, timeout_s: float, with_fresh_token: bool = False) -> Link:
            nonlocal dials, had_session
            dials += 1
            wait_s = self._jitter_s() if dials > 1 else 0.0
            await asyncio.sleep(wait_s)
            attempt = self._try if had_session else self
            link = await attempt(timeout_s=timeout_s - wait_s, with_fresh_token=with_fresh_token)
            had_session = True
            return link

        return dial

    async def __call__(self, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
        """Dial unless open; after an outage one call tries before the others do.

        Raises:
            ConnectError: as the wrapped dial, or result "breaker".
        """
        is_suspect = self._failures >= FAILURES_LIMIT
        if self.is_open or (is_suspect and self._is_probing):
            raise ConnectError("breaker", "the service was down a moment ago")
        self._is_probing |= is_suspect
        try:
            return await self._try(timeout_s=timeout_s, with_fresh_token=with_fresh_token)
        finally:
            if is_suspect:
                self._is_probing = False

    async def _try(self, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
        try:
            link = await self._dial(timeout_s=timeout_s, with_fresh_token=with_fresh_token)
        except ConnectError as error:
            self._failed(error)
            raise
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
