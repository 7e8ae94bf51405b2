"""A model that is down is left alone for a while; one call finds out whether it is back."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.breaker import FAILURES_LIMIT, HINT_LIMIT_S, OPEN_S, Breaker
from gateway.errors import ConnectError
from gateway.realtime import Link

LINK = cast("Link", object())


@dataclass
class Service:
    """A model that is up or down, and a clock moved by hand."""

    now: float = 1000.0
    outcomes: deque[ConnectError | None] = field(default_factory=deque)
    dials: list[tuple[float, bool]] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def dial(self, *, timeout_s: float, with_fresh_token: bool) -> Link:
        """As the next outcome says; up when there is none."""
        self.dials.append((timeout_s, with_fresh_token))
        if self.gate is not None:
            await self.gate.wait()
        if self.outcomes and (error := self.outcomes.popleft()) is not None:
            raise error
        return LINK


def _broken(
    count: int, result: str = "5xx", retry_after_s: float = 0.0
) -> deque[ConnectError | None]:
    return deque(ConnectError(result, retry_after_s=retry_after_s) for _ in range(count))


async def _outcome(breaker: Breaker) -> str:
    try:
        link = await breaker(timeout_s=1.0)
    except ConnectError as error:
        return error.result
    return "ok" if link is LINK else "another link"


async def test_a_dial_goes_through_with_all_it_asks() -> None:
    """Closed, the breaker changes nothing: budget, fresh token, link, error."""
    service = Service(outcomes=_broken(1, "401"))
    breaker = Breaker(service.dial, lambda: service.now)

    assert await _outcome(breaker) == "401"
    assert await breaker(timeout_s=2.5, with_fresh_token=True) is LINK
    assert service.dials == [(1.0, False), (2.5, True)]
    assert not breaker.is_open


async def test_failures_in_a_row_open_it() -> None:
    """After the last one allowed nobody dials until the pause is over."""
    service = Service(outcomes=_broken(FAILURES_LIMIT))
    breaker = Breaker(service.dial, lambda: service.now)

    outcomes = [await _outcome(breaker) for _ in range(FAILURES_LIMIT + 3)]
    service.now += OPEN_S - 0.01
    outcomes.append(await _outcome(breaker))
    service.now += 0.02
    outcomes.append(await _outcome(breaker))

    assert outcomes == ["5xx"] * FAILURES_LIMIT + ["breaker"] * 4 + ["ok"]
    assert len(service.dials) == FAILURES_LIMIT + 1


async def test_one_success_forgets_the_failures() -> None:
    """Failures with successes between them are no outage."""
    service = Service()
    breaker = Breaker(service.dial, lambda: service.now)
    for _ in range(3):
        service.outcomes = deque([*_broken(FAILURES_LIMIT - 1), None])
        for _ in range(FAILURES_LIMIT):
            await _outcome(breaker)

    assert not breaker.is_open
    assert await _outcome(breaker) == "ok"


async def test_one_call_tries_before_the_others_do() -> None:
    """After the pause the first dial is a probe; those beside it do not wait for it."""
    service = Service(outcomes=_broken(FAILURES_LIMIT))
    breaker = Breaker(service.dial, lambda: service.now)
    for _ in range(FAILURES_LIMIT):
        await _outcome(breaker)
    service.now += OPEN_S
    service.gate = asyncio.Event()
    probe = asyncio.create_task(_outcome(breaker))
    await asyncio.sleep(0)

    beside = [await _outcome(breaker) for _ in range(3)]
    service.gate.set()

    assert beside == ["breaker"] * 3
    assert await probe == "ok"
    assert await _outcome(breaker) == "ok"


async def test_a_probe_that_fails_opens_it_again() -> None:
    """One more failure is enough once it is suspected, and the next probe may follow later."""
    service = Service(outcomes=_broken(FAILURES_LIMIT + 1))
    breaker = Breaker(service.dial, lambda: service.now)
    for _ in range(FAILURES_LIMIT):
        await _outcome(breaker)
    service.now += OPEN_S

    assert await _outcome(breaker) == "5xx"
    assert await _outcome(breaker) == "breaker"
    service.now += OPEN_S
    assert await _outcome(breaker) == "ok"


async def test_a_cancelled_probe_lets_the_next_one_try() -> None:
    """A caller who hangs up during the probe does not keep the model shut out."""
    service = Service(outcomes=_broken(FAILURES_LIMIT))
    breaker = Breaker(service.dial, lambda: service.now)
    for _ in range(FAILURES_LIMIT):
        await _outcome(breaker)
    service.now += OPEN_S
    service.gate = asyncio.Event()
    probe = asyncio.create_task(_outcome(breaker))
    await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    service.gate.set()

    assert await _outcome(breaker) == "ok"


@pytest.mark.parametrize(("hint_s", "open_s"), [(30.0, 30.0), (1e6, HINT_LIMIT_S)])
async def test_the_service_may_say_how_long(hint_s: float, open_s: float) -> None:
    """One refusal with Retry-After is obeyed at once, within reason."""
    service = Service(outcomes=_broken(1, "429", retry_after_s=hint_s))
    breaker = Breaker(service.dial, lambda: service.now)

    assert await _outcome(breaker) == "429"
    service.now += open_s - 0.01
    assert await _outcome(breaker) == "breaker"
    assert breaker.is_open
    service.now += 0.02
    assert await _outcome(breaker) == "ok"


async def test_a_call_that_had_a_session_may_always_try_to_get_it_back() -> None:
    """A hint to wait turns away new calls, not those that have somebody on the line."""
    service = Service(outcomes=deque([None, *_broken(1, "429", retry_after_s=20.0)]))
    breaker = Breaker(service.dial, lambda: service.now, lambda: 0.0)
    old, new = breaker.for_call(), breaker.for_call()
    await old(timeout_s=1.0, with_fresh_token=False)
    assert await _outcome(breaker) == "429"
    with pytest.raises(ConnectError, match="breaker"):
        await new(timeout_s=1.0, with_fresh_token=False)

    assert await old(timeout_s=1.0, with_fresh_token=False) is LINK


async def test_second_attempts_do_not_come_all_at_once() -> None:
    """The wait is drawn for each, and is taken out of the attempt's own time."""
    service = Service(outcomes=_broken(1))
    dial = Breaker(service.dial, lambda: service.now, lambda: 0.01).for_call()
    with pytest.raises(ConnectError):
        await dial(timeout_s=1.0, with_fresh_token=False)
    await dial(timeout_s=1.0, with_fresh_token=True)

    assert service.dials == [(1.0, False), (0.99, True)]


async def test_an_older_attempt_that_ends_lets_no_second_probe_in() -> None:
    """After an outage one call tries, whoever else gives up meanwhile."""
    service = Service(gate=asyncio.Event())
    breaker = Breaker(service.dial, lambda: service.now)
    old = asyncio.create_task(breaker(timeout_s=9.0))
    await asyncio.sleep(0)
    service.gate, gate = None, service.gate
    service.outcomes = _broken(FAILURES_LIMIT)
    for _ in range(FAILURES_LIMIT):
        await _outcome(breaker)
    service.now += OPEN_S + 1
    service.gate = gate
    probe = asyncio.create_task(breaker(timeout_s=9.0))
    await asyncio.sleep(0)
    old.cancel()
    await asyncio.wait([old])

    assert await _outcome(breaker) == "breaker"
    probe.cancel()
    await asyncio.wait([probe])
