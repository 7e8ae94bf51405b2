"""Who may see the pages: tokens become logins that expire, guesses are counted."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.roles import Role, highest
from gateway.web import Session

# A working day.
SESSION_S: Final = 12 * 3600.0
# So many wrong tokens of one address, then it has to wait until the time is over.
MAX_FAILURES: Final = 10
FAILURES_WITHIN_S: Final = 60.0
# Addresses that are remembered; beyond, the oldest is forgotten.
MAX_SOURCES: Final = 1024
# Logins of a role; beyond, the oldest is logged out.
MAX_LOGINS: Final = 1024
# Longer than any token or cookie of ours: not worth a look.
MAX_CHARS: Final = 1024

_NUMBER_BYTES: Final = 32


class Gate:
    """Turns a token into a session, and knows who has logged in.

    Logins are remembered here and nowhere else: one that has ended is gone, and a restart logs
    everybody out. The cookie is a number of 256 random bits, of which only the digest is kept.

    Args:
        tokens: the token of each role there is.
    """

    def __init__(self, tokens: Mapping[Role, str]) -> None:
        self._digests = {role: _digest(token) for role, token in tokens.items()}
        # Of each role by itself: those who only look cannot log the others out by coming often.
        self._logins: dict[Role, OrderedDict[bytes, Session]] = {
            role: OrderedDict() for role in tokens
        }

    def admit(self, token: str, now: float) -> Session | None:
        """A session for whoever has a token; None for anybody else. ``now`` is unix s.

        It is good for what is asked with the token; ``log_in`` makes one that needs no token.
        """
        given = _digest(token[:MAX_CHARS])
        # All are compared, whichever fits: the time it takes tells nothing.
        fitting = [
            role for role, known in self._digests.items() if hmac.compare_digest(known, given)
        ]
        return Session(highest(fitting), now + SESSION_S) if fitting else None

    def log_in(self, session: Session) -> Session:
        """Remember a session until it is over; its ``number`` is for the cookie."""
        numbered = replace(session, number=secrets.token_hex(_NUMBER_BYTES))
        logins = self._logins[session.role]
        logins[_digest(numbered.number)] = numbered
        while len(logins) > MAX_LOGINS:
            logins.popitem(last=False)
        return numbered

    def open(self, cookie: str, now: float) -> Session | None:
        """The session of a cookie; None when there is none, or it is over."""
        digest = _digest(cookie[:MAX_CHARS])
        found = (logins.get(digest) for logins in self._logins.values())
        session = next(filter(None, found), None)
        return None if session is None or self.is_over(session, now) else session

    def is_over(self, session: Session, now: float) -> bool:
        """Whether it has expired, or was ended; what comes with a token only expires."""
        is_gone = bool(session.number) and _digest(session.number) not in self._logins[session.role]
        return is_gone or now >= session.expires_at

    def end(self, session: Session) -> None:
        """Log out: the session's cookie is worth nothing from now on."""
        self._logins[session.role].pop(_digest(session.number), None)


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
