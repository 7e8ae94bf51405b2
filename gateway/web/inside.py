"""A worker's side of the pages: their data on a private socket, for the supervisor alone.

Who asks was found out at the one gate, which is the supervisor's; what it found travels with each
request, and is believed because nobody else can reach the socket. When a right is over, the
supervisor ends what was open with it.
"""

from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.roles import Role
from gateway.web import (
    RIGHT,
    SESSION,
    WHO,
    Area,
    Handler,
    Right,
    Route,
    Session,
    who,
)

# Who asks, as JSON.
ASKER: Final = "X-Gateway-Asker"
# What calls there are, for the supervisor's list.
ROWS: Final = "/rows"


class _Asker(msgspec.Struct):
    """As ``who`` tells it."""

    role: Role
    login: str
    source: str


def asker(request: web.Request) -> dict[str, str]:
    """The headers with which the supervisor passes a request on that its gate has let in."""
    return {ASKER: msgspec.json.encode(who(request, request[SESSION])).decode()}


def inside_app(
    areas: Iterable[Area], rows_since: Callable[[int], Awaitable[bytes]], max_body_bytes: int
) -> web.Application:
    """What a worker serves to its supervisor.

    Args:
        areas: whose data is served; the pages themselves are the supervisor's.
        rows_since: all calls that changed after a number, as JSON.
        max_body_bytes: of what a page may send.
    """

    async def rows(request: web.Request) -> web.Response:
        seen = int(request.query["since"])
        return web.Response(body=await rows_since(seen), content_type="application/json")

    app = web.Application(client_max_size=max_body_bytes)
    app.router.add_route(hdrs.METH_GET, ROWS, rows)
    for area in areas:
        for route in area.routes:
            app.router.add_route(route.method, route.path, _trusting(route))
    return app


def _trusting(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        told = _told(request)
        session = Session(told.role, inf)
        if not session.may(route.role):
            raise web.HTTPForbidden(text=f"only for the role {route.role}\n")
        request[SESSION], request[RIGHT] = session, _ENDLESS
        request[WHO] = msgspec.structs.asdict(told)
        return await route.handler(request)

    return handle


_ENDLESS: Final = Right(lambda: False)


def _told(request: web.Request) -> _Asker:
    try:
        return msgspec.json.decode(request.headers.get(ASKER, ""), type=_Asker)
    except (msgspec.DecodeError, UnicodeError):
        raise web.HTTPForbidden(text="nobody has let this in\n") from None
