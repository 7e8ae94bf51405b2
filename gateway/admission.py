"""Who may have a call: a place that is free, a call id that is new, a token that is good once."""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import AuthRejected, CallRejected

# From the answer webhook to the stream's start message takes a provider well under a second.
TOKEN_LIFE_S: Final = 60.0
_NONCE_BYTES = 16
_BODY = struct.Struct(">d16s32s")


class Tokens:
    """Mints and redeems tokens: bound to a call id, good for a minute, good once.

    A token is ``expiry | 128-bit nonce | hash of the call id | HMAC-SHA256 of these`` in base64url,
    so that any process with the key can check it; only used ones need remembering.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._used: dict[bytes, float] = {}

    def mint(self, call_id: str, now: float) -> str:
        """A token for one call; ``now`` is unix seconds."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = _BODY.pack(now + TOKEN_LIFE_S, nonce, _digest(call_id))
        return base64.urlsafe_b64encode(body + self._seal(body)).decode()

    def redeem(self, token: str, call_id: str, now: float) -> None:
        """Accept a token once.

        Raises:
            AuthRejected: kind missing, signature (made up), mismatch (of another call), expired,
                replay.
        """
        if not token:
            raise AuthRejected("missing", "no token in the start message")
        expires_at, nonce, digest = self._open(token)
        if not hmac.compare_digest(digest, _digest(call_id)):
            raise AuthRejected("mismatch", "the token is of another call")
        if now > expires_at:
            raise AuthRejected("expired", "the token is too old")
        self._forget(now)
        if nonce in self._used:
            raise AuthRejected("replay", "the token was used before")
        self._used[nonce] = expires_at

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

    def _forget(self, now: float) -> None:
        """Used tokens are remembered until they expire: at most a minute's worth."""
        for nonce in [nonce for nonce, at in self._used.items() if at < now]:
            del self._used[nonce]


def _digest(call_id: str) -> bytes:
    return hashlib.sha256(call_id.encode()).digest()


@dataclass(slots=True)
class Admission:
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
