"""Who may have a call: a place that is free, a call id that is new, a token that is good once."""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from gateway.errors import AuthRejected, CallRejected

# From the answer webhook to the stream's start message takes a provider well under a second.
TOKEN_LIFE_S: Final = 60.0
_NONCE_BYTES = 16
_BODY = struct.Struct(">d16s32s")


class Proof(NamedTuple):
    """A token that is genuine, and has yet to be used: its nonce, and when it expires (unix s)."""

    nonce: bytes
    expires_at: float


class Tokens:
    """Mints tokens and proves them: bound to a call id, good for a minute.

    A token is ``expiry | 128-bit nonce | hash of the call id | HMAC-SHA256 of these`` in base64url,
    so that any process with the key can check it; ``UsedTokens`` sees to it that it is good once.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def mint(self, call_id: str, now: float) -> str:
        """A token for one call; ``now`` is unix seconds."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = _BODY.pack(now + TOKEN_LIFE_S, nonce, _digest(call_id))
        return base64.urlsafe_b64encode(body + self._seal(body)).decode()

    def prove(self, token: str, call_id: str, now: float) -> Proof:
        """Check that a token was minted with our key, for this call, within the last minute.

        Raises:
            AuthRejected: kind missing, signature (made up), mismatch (of another call), expired.
        """
        if not token:
            raise AuthRejected("missing", "no token in the start message")
        expires_at, nonce, digest = self._open(token)
        if not hmac.compare_digest(digest, _digest(call_id)):
            raise AuthRejected("mismatch", "the token is of another call")
        if now > expires_at:
            raise AuthRejected("expired", "the token is too old")
        return Proof(nonce, expires_at)

    def _open(self, token: str) -> tuple[float, bytes, bytes]:
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise AuthRejected("signature", "the token is not one of ours") from None
        body, seal = raw[: _BODY.size], raw[_BODY.size :]
        if len(body) != _BODY.size or not hmac.compare_digest(seal, self._seal(body)):
            raise AuthRejected("signature", "the token is not one of ours")
        expires_at, nonce, digest = _BODY.unpack(body)
        return expires_at, nonce, digest

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)


class UsedTokens:
    """Which tokens were used; each is remembered until it expires: at most a minute's worth."""

    def __init__(self) -> None:
        self._used: dict[bytes, float] = {}

    def use(self, proof: Proof, now: float) -> None:
        """Accept a token once; ``now`` is unix seconds.

        Raises:
            AuthRejected: kind replay.
        """
        for nonce in [nonce for nonce, at in self._used.items() if at < now]:
            del self._used[nonce]
        if proof.nonce in self._used:
            raise AuthRejected("replay", "the token was used before")
        self._used[proof.nonce] = proof.expires_at


def _digest(call_id: str) -> bytes:
    return hashlib.sha256(call_id.encode()).digest()


@dataclass(slots=True)
class Places:
    """Counts the places: sockets that wait for their start message, and calls."""

    limit: int
    is_draining: bool = False
    _waiting: int = 0
    _calls: set[tuple[str, str]] = field(default_factory=set)

    def check(self) -> None:
        """See whether one more call could be taken.

        Raises:
            CallRejected: reason drain or capacity.
        """
        if self.is_draining:
            raise CallRejected("admission", "drain")
        if self._waiting + len(self._calls) >= self.limit:
            raise CallRejected("admission", "capacity")

    def wait(self) -> None:
        """A media socket takes a place before it has said which call it is.

        Raises:
            CallRejected: as ``check``.
        """
        self.check()
        self._waiting += 1

    def stop_waiting(self) -> None:
        """The socket of ``wait`` has spoken, or is gone."""
        self._waiting -= 1

    def begin(self, provider: str, call_id: str) -> None:
        """A call takes its place.

        Raises:
            CallRejected: reason duplicate_call: this very call is running already.
        """
        if (provider, call_id) in self._calls:
            raise CallRejected("admission", "duplicate_call")
        self._calls.add((provider, call_id))

    def end(self, provider: str, call_id: str) -> None:
        """The call's place is free; harmless when it was."""
        self._calls.discard((provider, call_id))

    @property
    def is_waited_for(self) -> bool:
        """Whether a socket has yet to say which call it is."""
        return self._waiting > 0

    @property
    def calls(self) -> int:
        """Calls that are running."""
        return len(self._calls)


class Admission(Protocol):
    """Who may come in, as the lobby asks it: of this process alone, or of all workers together."""

    is_draining: bool

    async def check(self) -> None:
        """See whether one more call could be taken.

        Raises:
            CallRejected: reason drain, capacity, or supervisor_timeout (nobody knows).
        """

    async def wait(self) -> None:
        """A media socket takes a place before it has said which call it is.

        Raises:
            CallRejected: as ``check``.
        """

    def stop_waiting(self) -> None:
        """The socket of ``wait`` has spoken, or is gone."""

    async def begin(self, provider: str, call_id: str, proof: Proof | None, now: float) -> None:
        """A call takes its place and uses its token, where it has one; ``now`` is unix seconds.

        Raises:
            AuthRejected: kind replay.
            CallRejected: reason duplicate_call, or supervisor_timeout.
        """

    def end(self, provider: str, call_id: str) -> None:
        """The call's place is free; harmless when it was."""

    @property
    def is_waited_for(self) -> bool:
        """Whether a socket of this process has yet to say which call it is, or to be let in."""

    @property
    def calls(self) -> int:
        """Calls that are running in this process."""


class OwnAdmission:
    """The admission of a process that has the gateway for itself."""

    def __init__(self, limit: int) -> None:
        self._places = Places(limit)
        self._used = UsedTokens()

    @property
    def is_draining(self) -> bool:
        """Whether nobody new is taken."""
        return self._places.is_draining

    @is_draining.setter
    def is_draining(self, value: bool) -> None:
        self._places.is_draining = value

    async def check(self) -> None:
        """As ``Admission``; decided on the spot."""
        self._places.check()

    async def wait(self) -> None:
        """As ``Admission``; decided on the spot."""
        self._places.wait()

    def stop_waiting(self) -> None:
        """As ``Admission``."""
        self._places.stop_waiting()

    async def begin(self, provider: str, call_id: str, proof: Proof | None, now: float) -> None:
        """As ``Admission``; decided on the spot."""
        if proof is not None:
            self._used.use(proof, now)
        self._places.begin(provider, call_id)

    def end(self, provider: str, call_id: str) -> None:
        """As ``Admission``."""
        self._places.end(provider, call_id)

    @property
    def is_waited_for(self) -> bool:
        """As ``Admission``."""
        return self._places.is_waited_for

    @property
    def calls(self) -> int:
        """As ``Admission``."""
        return self._places.calls
