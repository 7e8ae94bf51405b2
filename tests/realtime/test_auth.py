"""Tokens are fetched once, ahead of time, and never in the way of a call that has one."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from gateway.errors import TokenError
from gateway.realtime import auth
from gateway.realtime.auth import ApiKey, EntraToken

NOW = 1_800_000_000.0
SCOPE = "https://ai.azure.com/.default"
SECRET = "s3cret-key"


class _Reports(list[str]):
    """What ``on_refresh`` was told, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._told = asyncio.Event()

    def __call__(self, result: str) -> None:
        self.append(result)
        self._told.set()

    async def until(self, result: str) -> None:
        """Wait until this result was reported."""
        while result not in self:
            self._told.clear()
            await self._told.wait()


class _Token(NamedTuple):
    """As azure-identity's ``AccessToken``."""

    token: str
    expires_on: int


@dataclass
class _Clock:
    """Unix time that stands still until it is told otherwise."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class _Identity:
    """An identity endpoint: token-1, token-2, ..., each good for an hour."""

    clock: _Clock = field(default_factory=_Clock)
    fetches: int = 0
    scopes: list[str] = field(default_factory=list)
    is_closed: bool = False
    failure: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def get_token(self, *scopes: str) -> _Token:
        """Answer once the gate is open."""
        self.fetches += 1
        self.scopes.extend(scopes)
        number = self.fetches
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return _Token(f"token-{number}", int(self.clock.now) + 3600)

    async def close(self) -> None:
        """Remember that we were closed."""
        self.is_closed = True


def _entra(identity: _Identity, results: _Reports, timeout_s: float = 30.0) -> EntraToken:
    return EntraToken(
        SCOPE, identity, on_refresh=results, clock=identity.clock, timeout_s=timeout_s
    )


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_key_for_azure_and_for_openai() -> None:
    """Azure's key has a header of its own, OpenAI's is a bearer token; line ends are no part."""
    azure, openai = ApiKey(f"{SECRET}\n"), ApiKey(SECRET, is_bearer=True)

    assert await azure.headers() == {"api-key": SECRET}
    assert await openai.headers(fresh=True) == _bearer(SECRET)
    assert not azure.can_refresh
    await azure.close()


async def test_secrets_do_not_print() -> None:
    """Neither key nor token shows in a repr."""
    entra = _entra(_Identity(), _Reports())
    await entra.headers()

    assert repr(ApiKey(SECRET)) == "ApiKey(***)"
    assert "token-1" not in repr(entra)
    assert "***" in repr(entra)


async def test_a_token_is_fetched_once() -> None:
    """The second handshake uses the first one's token; its end is known."""
    identity, results = _Identity(), _Reports()
    entra = _entra(identity, results)
    before = entra.expires_at

    headers = [await entra.headers() for _ in range(2)]

    assert headers == [_bearer("token-1")] * 2
    assert (before, entra.expires_at) == (0.0, NOW + 3600)
    assert (identity.fetches, identity.scopes, results) == (1, [SCOPE], ["ok"])


async def test_many_calls_one_fetch() -> None:
    """Calls that arrive while the first token is fetched share that fetch."""
    identity = _Identity()
    identity.gate.clear()
    entra = _entra(identity, _Reports())
    calls = [asyncio.create_task(entra.headers()) for _ in range(5)]
    await asyncio.sleep(0)
    identity.gate.set()

    assert await asyncio.gather(*calls) == [_bearer("token-1")] * 5
    assert identity.fetches == 1


async def test_a_valid_token_never_waits() -> None:
    """With the identity endpoint stuck, a call whose token is still good is served (P40)."""
    identity, results = _Identity(), _Reports()
    entra = _entra(identity, results)
    await entra.headers()
    identity.gate.clear()
    identity.clock.now += 3600 - 200

    assert await entra.headers() == _bearer("token-1")
    assert await entra.headers() == _bearer("token-1")

    results.clear()
    identity.gate.set()
    await results.until("ok")
    assert await entra.headers() == _bearer("token-2")
    assert identity.fetches == 2


async def test_an_ended_token_is_not_used() -> None:
    """Too close to its end, or past it, a token is replaced before the handshake."""
    identity = _Identity()
    entra = _entra(identity, _Reports())
    await entra.headers()
    identity.clock.now += 3600 - 10

    assert await entra.headers() == _bearer("token-2")


async def test_a_401_forces_a_new_token() -> None:
    """``fresh`` discards a token that looks valid, and is counted as forced (P27)."""
    identity, results = _Identity(), _Reports()
    entra = _entra(identity, results)
    await entra.headers()

    assert await entra.headers(fresh=True) == _bearer("token-2")
    assert await entra.headers() == _bearer("token-2")
    assert results == ["ok", "forced"]
    assert entra.can_refresh


async def test_a_refusal_says_why_in_one_line() -> None:
    """A failing credential becomes a TokenError with its words, shortened."""
    identity, results = _Identity(), _Reports()
    identity.failure = RuntimeError("no credential\n  in the chain " + "x" * 1000)
    entra = _entra(identity, results)

    with pytest.raises(TokenError, match="token: RuntimeError: no credential in the chain") as got:
        await entra.headers()

    assert results == ["error"]
    assert len(got.value.detail) <= 200
    assert not got.value.can_retry


async def test_a_failed_refresh_keeps_the_old_token() -> None:
    """While the old token is good, an endpoint that fails is only reported."""
    identity, results = _Identity(), _Reports()
    entra = _entra(identity, results)
    await entra.headers()
    identity.failure = RuntimeError("down")
    identity.clock.now += 3600 - 200

    assert await entra.headers() == _bearer("token-1")
    await results.until("error")
    assert await entra.headers() == _bearer("token-1")


async def test_a_slow_endpoint_is_given_up() -> None:
    """A fetch has an end of its own, and is counted as a timeout (P40)."""
    identity, results = _Identity(), _Reports()
    identity.gate.clear()
    entra = _entra(identity, results, timeout_s=0.01)

    with pytest.raises(TokenError, match="no token within"):
        await entra.headers()

    assert results == ["timeout"]


async def test_a_call_that_gives_up_leaves_the_fetch_running() -> None:
    """The next call gets the token that an impatient one asked for."""
    identity = _Identity()
    identity.gate.clear()
    entra = _entra(identity, _Reports())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(entra.headers(), 0.01)
    identity.gate.set()

    assert await entra.headers() == _bearer("token-1")
    assert identity.fetches == 1


async def test_run_fetches_before_the_first_call() -> None:
    """``run`` has a token ready before anybody asks, then rests until the next is due."""
    identity, results = _Identity(), _Reports()
    entra = _entra(identity, results)
    keeper = asyncio.create_task(entra.run())
    await results.until("ok")

    assert await entra.headers() == _bearer("token-1")
    assert identity.fetches == 1
    assert entra._pause_s() == 3600 - auth.REFRESH_AHEAD_S

    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeper


async def test_run_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing endpoint is asked again, not hammered."""
    monkeypatch.setattr(auth, "RETRY_S", 0.0)
    identity, results = _Identity(), _Reports()
    identity.failure = RuntimeError("down")
    entra = _entra(identity, results)
    keeper = asyncio.create_task(entra.run())
    await results.until("error")
    identity.failure = None
    await results.until("ok")
    keeper.cancel()

    assert await entra.headers() == _bearer(f"token-{identity.fetches}")
    await asyncio.wait([keeper])


def test_retries_are_spaced() -> None:
    """Without a token the next attempt is half a minute away."""
    assert EntraToken(SCOPE, clock=_Clock())._pause_s() == 30.0


async def test_close_stops_the_fetch_and_spares_a_borrowed_credential() -> None:
    """Closing ends a fetch under way; a credential that was handed in stays open."""
    identity, results = _Identity(), _Reports()
    identity.gate.clear()
    entra = _entra(identity, results)
    call = asyncio.create_task(entra.headers())
    await asyncio.sleep(0)

    await entra.close()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert not identity.is_closed
    assert results == []


async def test_our_own_credential_is_made_late_and_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default credential is created at first use, replaced when forced, closed at the end."""
    made: list[_Identity] = []

    def make() -> _Identity:
        made.append(_Identity())
        return made[-1]

    monkeypatch.setattr(auth, "_default_credential", make)
    entra = EntraToken(SCOPE, clock=_Clock())
    before = len(made)
    await entra.headers()
    await entra.headers(fresh=True)
    await entra.close()

    assert before == 0
    assert [identity.is_closed for identity in made] == [True, True]


async def test_the_default_credential_is_azures() -> None:
    """Keyless means azure-identity's DefaultAzureCredential, asynchronous."""
    make: Callable[[], auth.Credential] = auth._default_credential

    credential = make()

    assert type(credential) is sys.modules["azure.identity.aio"].DefaultAzureCredential
    await credential.close()
