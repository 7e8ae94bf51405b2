"""Who may see the pages: tokens become sessions that expire, guesses are counted."""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from gateway.roles import Role, highest
from gateway.web import Session

# A working day.
SESSION_S: Final = 12 * 3600.0
# So many wrong tokens of one address, then it has to wait until the time is over.
MAX_FAILURES: Final = 10
FAILURES_WITHIN_S: Final = 60.0
# Addresses and ended sessions that are remembered; beyond, the oldest is forgotten.
MAX_SOURCES: Final = 1024
MAX_ENDED: Final = 1024
# Longer than any token or seal of ours: not worth a look.
MAX_CHARS: Final = 1024

_NUMBER_BYTES: Final = 16
_BODY: Final = struct.Struct(">d16s")


class Gate:
    """Turns a token into a session and a session into a seal for a cookie, and back.

    A seal is ``role.base64url(expiry | 128-bit number | HMAC-SHA256 of all three)``. Its key
    comes from the role's token: a restart logs nobody out, another token logs everybody out.

    Args:
        tokens: the token of each role there is.
    """

    def __init__(self, tokens: Mapping[Role, str]) -> None:
        self._digests = {role: _digest(token) for role, token in tokens.items()}
        self._keys = {role: _seal_key(token) for role, token in tokens.items()}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def admit(self, token: str, now: float) -> Session | None:
        """A new session for whoever has a token; None for anybody else. ``now`` is unix s."""
        given = _digest(token[:MAX_CHARS])
        # All are compared, whichever fits: the time it takes tells nothing.
        fitting = [
            role for role, known in self._digests.items() if hmac.compare_digest(known, given)
        ]
        if not fitting:
            return None
        return Session(highest(fitting), now + SESSION_S, secrets.token_hex(_NUMBER_BYTES))

    def seal(self, session: Session) -> str:
        """The session as a text that only we can make."""
        body = _BODY.pack(session.expires_at, bytes.fromhex(session.number))
        sealed = body + self._tag(session.role, body)
        return f"{session.role}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, seal: str, now: float) -> Session | None:
        """The session of a seal; None when it is not ours, expired, or was ended."""
        role = next((role for role in self._keys if seal.startswith(f"{role}.")), None)
        raw = _decoded(seal[:MAX_CHARS].partition(".")[2])
        if role is None or len(raw) < _BODY.size:
            return None
        body, tag = raw[: _BODY.size], raw[_BODY.size :]
        if not hmac.compare_digest(tag, self._tag(role, body)):
            return None
        expires_at, number = _BODY.unpack(body)
        session = Session(role, expires_at, number.hex())
        return None if self.is_over(session, now) else session

    def is_over(self, session: Session, now: float) -> bool:
        """Whether it has expired, or was ended."""
        return now >= session.expires_at or session.number in self._ended

    def end(self, session: Session) -> None:
        """Log out: the session's seal is worth nothing from now on."""
        self._ended[session.number] = None
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _tag(self, role: Role, body: bytes) -> bytes:
        return hmac.digest(self._keys[role], role.encode() + body, hashlib.sha256)


class Failures:
    """Wrong tokens by address; who tried too many has to wait."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def is_barred(self, source: str, now: float) -> bool:
        """Whether nothing more is taken from this address for the time being."""
        count, until = self._counts.get(source, (0, 0.0))
        return count >= MAX_FAILURES and now < until

    def note(self, source: str, now: float) -> None:
        """One more wrong token."""
        count, until = self._counts.pop(source, (0, 0.0))
        self._counts[source] = (count + 1, until) if now < until else (1, now + FAILURES_WITHIN_S)
        while len(self._counts) > MAX_SOURCES:
            self._counts.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _seal_key(token: str) -> bytes:
    return hmac.digest(token.encode(), b"session of the console", hashlib.sha256)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
