"""Serves the pages: files of the package, the login, and the routes of each area behind it.

Every answer of the listener carries the same strict headers; nothing is loaded from elsewhere, and
no script or style stands inside a page.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Final, Literal, Never
from urllib.parse import urlencode

import structlog
from aiohttp import hdrs, web

from gateway.logs import SampledLog
from gateway.roles import Role
from gateway.web import RIGHT, SESSION, Area, Handler, Right, Route, Session, bearer_of, who
from gateway.web.gate import SESSION_S, Failures, Gate

# Why somebody got nothing: a wrong token, too many of them, a role that is too low, or a request
# that a page of somebody else may have made.
Refusal = Literal["token", "barred", "role", "origin"]

COOKIE: Final = "gateway_console"
LOGIN: Final = "/login"
MAX_FORM_BYTES: Final = 8 * 1024
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: with that a browser sends the login form with "Origin: null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# What the login page needs, the rest of the files is for those who are logged in.
OPEN_FILES: Final = frozenset({"base.css", "icon.svg"})
_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_log: Final = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of ``static/``; ``tag`` changes with its content."""

    text: str
    content_type: str
    tag: str


@dataclass(slots=True)
class _Reception:
    """What the handlers share."""

    gate: Gate
    files: Mapping[str, _File]
    areas: tuple[Area, ...]
    clock: Callable[[], float]
    refused: Callable[[Refusal], None]
    failures: Failures = field(default_factory=Failures)
    door_log: SampledLog = field(default_factory=SampledLog)

    @property
    def home(self) -> str:
        """Where to go after the login."""
        return self.areas[0].path


def add_pages(
    app: web.Application,
    tokens: Mapping[Role, str],
    areas: Sequence[Area],
    refused: Callable[[Refusal], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Put pages on a listener, behind a login; without a token or an area there is nothing.

    Args:
        app: not running yet. Its other routes stay open to all, with the pages' headers.
        tokens: the token of each role.
        areas: the first one is where a login leads to.
        refused: told why, each time somebody is refused.
        clock: unix seconds.
    """
    if not tokens or not areas:
        return
    reception = _Reception(Gate(tokens), dict(_files()), tuple(areas), clock, refused)
    app.on_response_prepare.append(_add_headers)
    for method, path, handler in (
        (hdrs.METH_GET, "/", _home),
        (hdrs.METH_GET, LOGIN, _login_page),
        (hdrs.METH_POST, LOGIN, _login),
        (hdrs.METH_POST, "/logout", _logout),
        (hdrs.METH_GET, "/static/{name}", _static),
    ):
        app.router.add_route(method, path, functools.partial(handler, reception))
    for area in areas:
        app.router.add_get(area.path, functools.partial(_page, reception, area))
        for route in area.routes:
            app.router.add_route(route.method, route.path, _guarded(reception, route))


def _files() -> Iterator[tuple[str, _File]]:
    """Read once: a page and its scripts are of one version, and no path of a request is opened."""
    for each in (resources.files("gateway.web") / "static").iterdir():
        content_type = _TYPES.get(each.name.rpartition(".")[2])
        if content_type:
            text = each.read_text("utf-8")
            tag = hashlib.sha256(text.encode()).hexdigest()[:32]
            yield each.name, _File(text, content_type, tag)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


# ------------------------------------------------------------- who asks


def _session(reception: _Reception, request: web.Request) -> Session | None:
    """By the cookie of a login, or by ``Authorization: Bearer`` for scripts.

    Raises:
        HTTPTooManyRequests: this address has tried too many wrong tokens.
    """
    token = bearer_of(request)
    if token is not None:
        return _admitted(reception, request, token)
    return reception.gate.open(request.cookies.get(COOKIE, ""), reception.clock())


def _admitted(reception: _Reception, request: web.Request, token: str) -> Session | None:
    now, source = reception.clock(), request.remote or ""
    if reception.failures.is_barred(source, now):
        reception.refused("barred")
        raise web.HTTPTooManyRequests(
            headers={"Retry-After": "60"}, text="too many wrong tokens; try again in a minute\n"
        )
    session = reception.gate.admit(token, now)
    if session is None:
        reception.failures.note(source, now)
        reception.refused("token")
        reception.door_log.warning("console_login_refused", time.monotonic(), source=source)
    return session


def _is_ours(request: web.Request) -> bool:
    """Whether a browser sent this from a page of ours; one that does not say so did not."""
    scheme, _, place = request.headers.get(hdrs.ORIGIN, "").partition("://")
    return scheme in {"http", "https"} and place == request.host


def _may_be_a_stranger(request: web.Request) -> bool:
    """Whether a page that is not ours may have sent a browser here, with our cookie.

    Whatever changes something needs our Origin, and so does a WebSocket, which knows no CORS. For
    the rest a browser's own word is enough: another port of this host is "same-site", and its
    pages could make us work, though not read the answer.
    """
    if request.method != hdrs.METH_GET or hdrs.UPGRADE in request.headers:
        return not _is_ours(request)
    return request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}


def _check_ours(reception: _Reception, *, is_ours: bool) -> None:
    if not is_ours:
        reception.refused("origin")
        raise web.HTTPForbidden(text="not from a page of this host\n")


def _check_role(
    reception: _Reception, request: web.Request, session: Session, wanted: Area | Route
) -> None:
    if not session.may(wanted.role):
        reception.refused("role")
        told = {"path": wanted.path, "wanted": wanted.role, **who(request, session)}
        reception.door_log.warning("console_refused", time.monotonic(), **told)
        text = f"this takes the role {wanted.role}; yours is {session.role}\n"
        raise web.HTTPForbidden(text=text)


def _is_over(reception: _Reception, session: Session) -> bool:
    return reception.gate.is_over(session, reception.clock())


def _guarded(reception: _Reception, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        session = _session(reception, request)
        if session is None:
            raise web.HTTPUnauthorized(text="log in first\n")
        is_script = bearer_of(request) is not None
        _check_ours(reception, is_ours=is_script or not _may_be_a_stranger(request))
        _check_role(reception, request, session, route)
        request[SESSION] = session
        request[RIGHT] = Right(functools.partial(_is_over, reception, session))
        return await route.handler(request)

    return handle


# ------------------------------------------------------------- pages and files


async def _home(reception: _Reception, _request: web.Request) -> Never:
    raise web.HTTPFound(reception.home)


async def _page(reception: _Reception, area: Area, request: web.Request) -> web.Response:
    session = _session(reception, request)
    if session is None:
        raise web.HTTPFound(f"{LOGIN}?{urlencode({'next': area.path})}")
    _check_role(reception, request, session, area)
    return _html(reception.files[area.file].text.replace(_NAV, _nav(reception, area, session)))


# Stands once in the file of every page.
_NAV: Final = "<!-- navigation -->"
_MESSAGE: Final = "<!-- message -->"


def _nav(reception: _Reception, here: Area, session: Session) -> str:
    links = "".join(
        f'<li><a href="{escape(area.path)}"{_CURRENT if area is here else ""}>'
        f"{escape(area.title)}</a></li>"
        for area in reception.areas
        if session.may(area.role)
    )
    return (
        f'<nav aria-label="Pages"><ul>{links}</ul></nav>'
        f'<span class="muted small">Logged in as {session.role}</span>'
        '<form method="post" action="/logout"><button class="quiet">Log out</button></form>'
    )


_CURRENT: Final = ' aria-current="page"'


async def _static(reception: _Reception, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in OPEN_FILES and _session(reception, request) is None:
        raise web.HTTPUnauthorized(text="log in first\n")
    file = reception.files.get(name)
    if file is None or name.endswith(".html"):
        raise web.HTTPNotFound
    response = web.Response(text=file.text, content_type=file.content_type, charset="utf-8")
    # Kept, but asked about each time.
    response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
    response.etag = file.tag
    if any(tag.value == file.tag for tag in request.if_none_match or ()):
        response.set_status(304)
        response.body = None
    return response


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


def _see(path: str) -> web.Response:
    """After a form: look there, with GET."""
    return web.Response(status=303, headers={hdrs.LOCATION: path})


# ------------------------------------------------------------- logging in and out


async def _login_page(reception: _Reception, _request: web.Request) -> web.Response:
    return _html(_login_text(reception, ""))


def _login_text(reception: _Reception, message: str) -> str:
    said = f'<p class="error" role="alert">{escape(message)}</p>' if message else ""
    return reception.files["login.html"].text.replace(_MESSAGE, said)


async def _login(reception: _Reception, request: web.Request) -> web.Response:
    _check_ours(reception, is_ours=_is_ours(request))
    try:
        session = _admitted(reception, request, await _token_of(request))
    except web.HTTPTooManyRequests:
        text = "Too many wrong tokens from this address. Please try again in a minute."
        return _html(_login_text(reception, text), 429)
    if session is None:
        return _html(_login_text(reception, "This is no token of the console."), 401)
    session = reception.gate.log_in(session)
    _log.info("console_login", **who(request, session))
    response = _see(_next_of(reception, request, session))
    _set_cookie(request, response, session.number)
    return response


async def _token_of(request: web.Request) -> str:
    is_form = request.content_type == "application/x-www-form-urlencoded"
    length = request.content_length
    if not is_form or length is None or length > MAX_FORM_BYTES:
        raise web.HTTPBadRequest(text="not the form of the login page\n")
    try:
        token = (await request.post()).get("token", "")
    except (LookupError, ValueError):
        raise web.HTTPBadRequest(text="not a form in any known character set\n") from None
    return token.strip() if isinstance(token, str) else ""


def _next_of(reception: _Reception, request: web.Request, session: Session) -> str:
    """The page that was asked for, if it is one of ours and for this role."""
    wanted = request.query.get("next", "")
    allowed = {area.path for area in reception.areas if session.may(area.role)}
    return wanted if wanted in allowed else reception.home


def _set_cookie(request: web.Request, response: web.StreamResponse, number: str) -> None:
    response.set_cookie(
        COOKIE,
        number,
        max_age=int(SESSION_S),
        path="/",
        httponly=True,
        samesite="Strict",
        # The browser knows whether it came over https, whatever proxy is between us.
        secure=request.headers.get(hdrs.ORIGIN, "").startswith("https://"),
    )


async def _logout(reception: _Reception, request: web.Request) -> web.Response:
    _check_ours(reception, is_ours=_is_ours(request))
    session = reception.gate.open(request.cookies.get(COOKIE, ""), reception.clock())
    if session is not None:
        reception.gate.end(session)
    response = _see(LOGIN)
    response.del_cookie(COOKIE, path="/")
    return response
