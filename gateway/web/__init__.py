"""Pages for people on the operations listener, behind the console's token.

An *area* is one page with the routes it fetches its data from. Whoever has an area describes it
here; ``pages.add_pages`` does the rest for all of them alike: the login, the role that a route asks
for, the check that a request comes from our own page, the headers. What is in ``static/`` is
served as it is, to those who are logged in.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import hdrs, web

from gateway.roles import Role, includes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """Data or a WebSocket of a page; without the role nobody gets to the handler.

    ``GET`` must change nothing, save where it upgrades to a WebSocket: that, like every other
    method, is let through from our own pages only.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    role: Role = "viewer"


@dataclass(frozen=True, slots=True)
class Area:
    """One page: its path, its name in the navigation, its file in ``static/``, its routes."""

    path: str
    title: str
    file: str
    routes: tuple[Route, ...] = ()
    role: Role = "viewer"


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks: the role, and until when (unix s).

    ``number`` is that of a login, and unguessable; "" for who brings the token with each request.
    """

    role: Role
    expires_at: float
    number: str = field(default="", repr=False)

    def may(self, role: Role) -> bool:
        """Whether this session has a role, its own or one that its own includes."""
        return includes(self.role, role)


@dataclass(frozen=True, slots=True)
class Right:
    """Tells whoever answers for long whether the session is over by now: expired or logged out."""

    is_over: Callable[[], bool]


# Set on every request that reaches the handler of a route.
SESSION: web.RequestKey[Session] = web.RequestKey("SESSION", Session)
RIGHT: web.RequestKey[Right] = web.RequestKey("RIGHT", Right)
# Where another process has let them in: what that one's ``who`` said.
WHO: web.RequestKey[dict[str, str]] = web.RequestKey("WHO", dict)

# Close codes of WebSockets that are ours to choose (RFC 6455 §7.4.2).
CALL_OVER, TOO_SLOW = 4000, 4008


def bearer_of(request: web.Request) -> str | None:
    """The token in the header; None where there is none: a browser may add others by itself."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def who(request: web.Request, session: Session) -> dict[str, str]:
    """For the log: the role, which login it was (not how to use it), and from where."""
    if WHO in request:
        return request[WHO]
    login = hashlib.sha256(session.number.encode()).hexdigest()[:8] if session.number else "script"
    return {"role": session.role, "login": login, "source": request.remote or ""}
