"""Proof to the model of who we are: a key, or a Microsoft Entra ID token kept fresh."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal, Protocol

from gateway.errors import TokenError

RefreshResult = Literal["ok", "error", "timeout", "forced"]

# A token with less than this left is replaced while it still works (tokens live 60 to 90 minutes).
REFRESH_AHEAD_S = 300.0
# A token is presented in the handshake only, so it has to outlive one handshake and clock skew.
USABLE_S = 30.0
# Managed identity endpoints retry inside the SDK for well over ten seconds before they give up.
TOKEN_TIMEOUT_S = 30.0
RETRY_S = 30.0
_DETAIL_CHARS = 200


class AccessToken(Protocol):
    """A token as azure-identity hands it out."""

    @property
    def token(self) -> str:
        """The bearer token itself."""

    @property
    def expires_on(self) -> int:
        """When it ends, in unix seconds."""


class Credential(Protocol):
    """What we use of azure-identity's asynchronous credentials."""

    async def get_token(self, *scopes: str) -> AccessToken:
        """Ask for a token."""

    async def close(self) -> None:
        """Close the credential's HTTP session."""


class Auth(Protocol):
    """Whatever goes into the handshake to prove who we are."""

    @property
    def can_refresh(self) -> bool:
        """Whether asking again with ``fresh`` may help after a 401."""

    async def headers(self, *, fresh: bool = False) -> dict[str, str]:
        """The headers of one handshake; ``fresh`` discards what is cached.

        Raises:
            TokenError: no token could be had.
        """

    async def close(self) -> None:
        """Release what it holds."""


class ApiKey:
    """A key: ``api-key: KEY`` for Azure, ``Authorization: Bearer KEY`` for OpenAI.

    Args:
        key: the secret; surrounding white space is cut off, it cannot be part of a header.
        is_bearer: send it as a bearer token.
    """

    can_refresh = False

    def __init__(self, key: str, *, is_bearer: bool = False) -> None:
        self._key = key.strip()
        self._is_bearer = is_bearer

    def __repr__(self) -> str:
        return "ApiKey(***)"

    async def headers(self, *, fresh: bool = False) -> dict[str, str]:  # noqa: ARG002  # Auth's shape
        """The one header; ``fresh`` changes nothing."""
        if self._is_bearer:
            return {"Authorization": f"Bearer {self._key}"}
        return {"api-key": self._key}

    async def close(self) -> None:
        """Nothing to release."""


def _default_credential() -> Credential:
    # Half a second of imports that users of a key never need.
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

    return DefaultAzureCredential()


def _nobody(_result: RefreshResult) -> None:
    """Nobody wants to know."""


class EntraToken:
    """A Microsoft Entra ID token, fetched once for all calls and replaced ahead of its end.

    A call waits for the identity endpoint only when there is no usable token at all, and then as
    long as its own dial allows; the fetch goes on without it, for the next one. Give ``run`` a task
    to keep calls from ever waiting.

    Args:
        scope: such as ``https://ai.azure.com/.default``.
        credential: by default azure-identity's ``DefaultAzureCredential``, created at first use.
        on_refresh: told the result of every fetch; "forced" is a success after a 401.
        clock: unix seconds, as the service's expiry times are.
        timeout_s: longest one fetch may take.
    """

    can_refresh = True

    def __init__(
        self,
        scope: str,
        credential: Credential | None = None,
        *,
        on_refresh: Callable[[RefreshResult], None] = _nobody,
        clock: Callable[[], float] = time.time,
        timeout_s: float = TOKEN_TIMEOUT_S,
    ) -> None:
        self._scope = scope
        self._credential = credential
        self._is_ours = credential is None
        self._on_refresh = on_refresh
        self._clock = clock
        self._timeout_s = timeout_s
        self._token = ""
        self._fetch: asyncio.Task[str] | None = None
        self.expires_at = 0.0
        """When the current token ends, in unix seconds; 0.0 without one."""

    def __repr__(self) -> str:
        return f"EntraToken({self._scope!r}, ***)"

    async def headers(self, *, fresh: bool = False) -> dict[str, str]:
        """The bearer header; waits only when no cached token is usable, or with ``fresh``.

        Raises:
            TokenError: the identity endpoint refused, or was too slow.
        """
        left_s = self.expires_at - self._clock()
        if fresh or left_s < USABLE_S:
            await self._refreshed(forced=fresh)
        elif left_s < REFRESH_AHEAD_S:
            self._start_fetch(forced=False)
        return {"Authorization": f"Bearer {self._token}"}

    async def run(self) -> None:
        """Keep a token at hand until cancelled; failures are reported and tried again."""
        while True:
            if self.expires_at - self._clock() < REFRESH_AHEAD_S:
                await asyncio.shield(self._start_fetch(forced=False))
            await asyncio.sleep(self._pause_s())

    async def close(self) -> None:
        """Stop fetching, and close the credential if it is ours."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.cancel()
            await asyncio.wait([fetch])
        await self._drop_credential()

    def _pause_s(self) -> float:
        return max(RETRY_S, self.expires_at - REFRESH_AHEAD_S - self._clock())

    async def _refreshed(self, *, forced: bool) -> None:
        # Shielded: a caller that gives up must not take the fetch away from the others.
        problem = await asyncio.shield(self._start_fetch(forced=forced))
        if problem:
            raise TokenError(problem)

    def _start_fetch(self, *, forced: bool) -> asyncio.Task[str]:
        """The fetch under way, or a new one: never two at once."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._fetch_token(forced=forced))
        return self._fetch

    async def _fetch_token(self, *, forced: bool) -> str:
        """Fetch and keep a token; never raises.

        Returns:
            What went wrong, "" when nothing did.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                token = await self._ask(forced=forced)
        except TimeoutError:
            self._on_refresh("timeout")
            return f"the identity endpoint gave no token within {self._timeout_s:g} s"
        except Exception as error:  # noqa: BLE001  # each credential has errors of its own
            self._on_refresh("error")
            words = " ".join(str(error).split())
            return f"{type(error).__name__}: {words}"[:_DETAIL_CHARS]
        self._token, self.expires_at = token.token, float(token.expires_on)
        self._on_refresh("forced" if forced else "ok")
        return ""

    async def _ask(self, *, forced: bool) -> AccessToken:
        if forced:
            # azure-identity caches too, and has no way to ask past its cache but a new credential.
            await self._drop_credential()
        if self._credential is None:
            self._credential = _default_credential()
        return await self._credential.get_token(self._scope)

    async def _drop_credential(self) -> None:
        if self._is_ours and self._credential is not None:
            old, self._credential = self._credential, None
            await old.close()
