"""Pages over real HTTP: nothing without a login, nothing from a stranger's page, strict headers."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from ipaddress import ip_network

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDictProxy
from structlog.testing import capture_logs

from gateway.roles import Role
from gateway.web import SESSION, Area, Route, who
from gateway.web.gate import FAILURES_WITHIN_S, MAX_FAILURES, SESSION_S
from gateway.web.pages import COOKIE, HEADERS, Refusal, add_pages
from gateway.web.proxies import Network, behind

VIEW, ACT, LISTEN = "v" * 32, "o" * 32, "l" * 32
TOKENS: dict[Role, str] = {"viewer": VIEW, "operator": ACT, "listener": LISTEN}
Headers = CIMultiDictProxy[str]
STATIC = resources.files("gateway.web") / "static"


async def _who(request: web.Request) -> web.Response:
    return web.json_response(request[SESSION].role)


async def _name(request: web.Request) -> web.Response:
    return web.json_response(who(request, request[SESSION])["login"])


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close()
    return socket


AREA = Area(
    "/calls",
    "Calls <now>",
    "console.html",
    (
        Route("GET", "/calls/data", _who),
        Route("GET", "/calls/name", _name),
        Route("POST", "/calls/change", _who),
        Route("GET", "/calls/live", _socket),
        Route("GET", "/calls/ear", _who, "listener"),
        Route("POST", "/calls/act", _who, "operator"),
    ),
)
FOR_OPERATORS = Area("/phone", "Phone", "softphone.html", role="operator")


def _with_cookie(cookie: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={cookie}"}


@dataclass
class _Pages:
    """A listener with pages, and its clock."""

    url: str
    now: float = 1_800_000_000.0
    refused: Counter[Refusal] = field(default_factory=Counter)

    async def ask(
        self, method: str, path: str, cookie: str = "", form_token: str | None = None, **more: str
    ) -> tuple[int, Headers, str]:
        """Status, headers and body; ``more`` are headers."""
        form = None if form_token is None else {"token": form_token}
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        headers |= _with_cookie(cookie) if cookie else {}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, headers=headers, data=form, allow_redirects=False
            ) as reply,
        ):
            return reply.status, reply.headers, await reply.text()

    async def log_in(self, token: str = VIEW, path: str = "/login") -> tuple[int, Headers]:
        status, headers, _ = await self.ask("POST", path, Origin=self.url, form_token=token)
        return status, headers

    async def cookie(self, token: str = VIEW) -> str:
        _, headers = await self.log_in(token)
        return headers["Set-Cookie"].partition(";")[0].partition("=")[2]


@pytest.fixture
async def pages() -> AsyncIterator[_Pages]:
    """A listener with one page and a clock that stands still."""
    async with _pages() as found:
        yield found


@pytest.fixture
async def behind_proxy() -> AsyncIterator[_Pages]:
    """The same, where a proxy on this machine is trusted."""
    async with _pages(ip_network("127.0.0.1")) as found:
        yield found


@asynccontextmanager
async def _pages(*proxies: Network) -> AsyncIterator[_Pages]:
    app = web.Application(middlewares=[behind(proxies)])
    clock = _Pages("")

    def refused(why: Refusal) -> None:
        clock.refused[why] += 1

    add_pages(app, TOKENS, [AREA, FOR_OPERATORS], refused, lambda: clock.now)
    with capture_logs():
        async with TestServer(app) as server:
            clock.url = f"http://{server.host}:{server.port}"
            yield clock


# ------------------------------------------------------------- without a login


@pytest.mark.parametrize("cookie", ["", "rubbish", "viewer.AAAA"])
async def test_nothing_is_served_without_a_login(pages: _Pages, cookie: str) -> None:
    """A page leads to the login; data, sockets and files are refused, with no word of theirs."""
    status, headers, _ = await pages.ask("GET", "/calls", cookie=cookie)
    assert (status, headers["Location"]) == (302, "/login?next=/calls")
    for path in ("/calls/data", "/calls/live", "/calls/ear", "/static/softphone.js"):
        assert (await pages.ask("GET", path, cookie=cookie))[0] == 401
    assert (await pages.ask("POST", "/calls/change", cookie=cookie, Origin=pages.url))[0] == 401


def _fail(why: Refusal) -> None:
    pytest.fail(why)


async def test_without_a_token_there_are_no_pages() -> None:
    """Not even a login: every path is unknown."""
    app = web.Application()
    add_pages(app, {}, [AREA], _fail)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        for path in ("/", "/login", "/calls", "/calls/data", "/static/base.css"):
            async with session.get(server.make_url(path)) as reply:
                assert reply.status == 404


async def test_the_login_page_can_be_seen_and_no_file_outside(pages: _Pages) -> None:
    """Its style is open; paths that climb or name pages are not there."""
    assert (await pages.ask("GET", "/login"))[0] == 200
    assert (await pages.ask("GET", "/static/base.css"))[0] == 200
    cookie = await pages.cookie()
    for name in ("login.html", "..%2fpages.py", "%2e%2e/__init__.py", "none.css"):
        assert (await pages.ask("GET", f"/static/{name}", cookie=cookie))[0] == 404


# ------------------------------------------------------------- logging in


async def test_a_token_logs_in_and_leads_to_the_page(pages: _Pages) -> None:
    """The cookie cannot be read by scripts, is not sent from elsewhere, and is not the token."""
    status, headers = await pages.log_in(path="/login?next=/calls")
    attributes = headers["Set-Cookie"]

    assert (status, headers["Location"]) == (303, "/calls")
    assert "HttpOnly" in attributes
    assert "SameSite=Strict" in attributes
    assert f"Max-Age={SESSION_S:.0f}" in attributes
    assert "Secure" not in attributes
    assert VIEW not in attributes
    assert (await pages.ask("GET", "/calls", cookie=await pages.cookie()))[0] == 200


async def test_the_cookie_is_for_https_only_where_the_page_is(pages: _Pages) -> None:
    """The browser says where it is, whatever proxy stands between."""
    host = pages.url.removeprefix("http://")
    origin = f"https://{host}"
    _, headers, _ = await pages.ask("POST", "/login", Origin=origin, form_token=VIEW)

    assert "Secure" in headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/metrics"])
async def test_a_login_leads_to_our_pages_only(pages: _Pages, path: str) -> None:
    """What is asked for in the address cannot lead away."""
    _, headers = await pages.log_in(path=f"/login?next={path}")

    assert headers["Location"] == "/calls"


async def test_a_wrong_token_is_told_and_counted(pages: _Pages) -> None:
    """Too many of them and even the right one has to wait, by form and by header."""
    for _ in range(MAX_FAILURES):
        status, headers = await pages.log_in("w" * 32)
        assert (status, "Set-Cookie" in headers) == (401, False)
    assert (await pages.log_in())[0] == 429
    bearer = f"Bearer {VIEW}"
    assert (await pages.ask("GET", "/calls/data", Authorization=bearer))[0] == 429
    assert pages.refused == {"token": MAX_FAILURES, "barred": 2}

    pages.now += FAILURES_WITHIN_S
    assert (await pages.log_in())[0] == 303


async def test_wrong_bearers_are_counted_too(pages: _Pages) -> None:
    """Guessing by script is guessing."""
    for _ in range(MAX_FAILURES):
        assert (await pages.ask("GET", "/calls/data", Authorization="Bearer x"))[0] == 401
    assert (await pages.ask("GET", "/calls/data", Authorization="Bearer x"))[0] == 429


@dataclass(frozen=True, slots=True)
class _Visitor:
    """Whoever asks through a proxy, with what they wrote into the header before it."""

    pages: _Pages
    address: str
    spoofed: str = ""

    async def bring(self, token: str) -> int:
        """The status of a request with a token."""
        said = ", ".join(filter(None, (self.spoofed, self.address)))
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": said}
        return (await self.pages.ask("GET", "/calls/data", **headers))[0]


async def test_behind_a_trusted_proxy_each_waits_for_their_own_guesses(
    behind_proxy: _Pages,
) -> None:
    """Who guesses is barred whatever they say to be; others behind the same proxy are not."""
    for number in range(MAX_FAILURES):
        guesser = _Visitor(behind_proxy, "203.0.113.7", spoofed=f"198.51.100.{number}")
        assert await guesser.bring("wrong") == 401
    assert await _Visitor(behind_proxy, "203.0.113.7", "198.51.100.99").bring(VIEW) == 429

    assert await _Visitor(behind_proxy, "203.0.113.8").bring(VIEW) == 200
    # Nor can anybody get somebody else barred.
    assert await _Visitor(behind_proxy, "198.51.100.0").bring(VIEW) == 200


async def test_without_a_trusted_proxy_the_header_is_nothing(pages: _Pages) -> None:
    """Another address in each request does not help who guesses."""
    for number in range(MAX_FAILURES):
        assert await _Visitor(pages, f"203.0.113.{number}").bring("wrong") == 401

    assert await _Visitor(pages, "203.0.113.99").bring(VIEW) == 429


async def test_a_login_is_told_with_the_name_that_its_deeds_bear(pages: _Pages) -> None:
    """Which login, and from where; of no use to whoever reads the log."""
    with capture_logs() as logs:
        cookie = await pages.cookie()
    (line,) = (line for line in logs if line["event"] == "console_login")
    name = (await pages.ask("GET", "/calls/name", cookie))[2]

    assert (line["role"], line["source"]) == ("viewer", "127.0.0.1")
    assert f'"{line["login"]}"' == name
    assert line["login"] not in cookie


async def test_a_login_expires(pages: _Pages) -> None:
    """A stale cookie is no cookie."""
    cookie = await pages.cookie()
    assert (await pages.ask("GET", "/calls/data", cookie=cookie))[0] == 200

    pages.now += SESSION_S
    assert (await pages.ask("GET", "/calls/data", cookie=cookie))[0] == 401


async def test_after_a_logout_the_cookie_is_worth_nothing(pages: _Pages) -> None:
    """Also for somebody who has kept it."""
    cookie = await pages.cookie()
    status, headers, _ = await pages.ask("POST", "/logout", cookie=cookie, Origin=pages.url)

    assert (status, headers["Location"]) == (303, "/login")
    assert (await pages.ask("GET", "/calls/data", cookie=cookie))[0] == 401


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "text/plain", ""])
async def test_a_login_that_is_not_our_form_is_refused(pages: _Pages, content_type: str) -> None:
    """In one line, whatever it is."""
    status, _, body = await pages.ask(
        "POST", "/login", Origin=pages.url, Content_Type=content_type or "x/y"
    )

    assert status == 400
    assert body.count("\n") == 1


async def test_a_login_of_any_length_is_refused(pages: _Pages) -> None:
    """It is not even read."""
    status, _, _ = await pages.ask("POST", "/login", Origin=pages.url, form_token="x" * 10_000)

    assert status == 400


# ------------------------------------------------------------- roles


@pytest.mark.parametrize(
    ("token", "statuses"),
    [(VIEW, (200, 403, 403)), (ACT, (200, 200, 403)), (LISTEN, (200, 200, 200))],
)
async def test_roles_are_asked_for(
    pages: _Pages, token: str, statuses: tuple[int, int, int]
) -> None:
    """Each may do what its own role may and those below it; what is refused is counted."""
    cookie = await pages.cookie(token)
    for (method, path), status in zip(
        [("GET", "/calls/data"), ("POST", "/calls/act"), ("GET", "/calls/ear")],
        statuses,
        strict=True,
    ):
        assert (await pages.ask(method, path, cookie, Origin=pages.url))[0] == status

    assert pages.refused["role"] == statuses.count(403)


async def test_a_refusal_names_the_role_that_it_takes(pages: _Pages) -> None:
    """To whoever asked, and in the log with who it was."""
    with capture_logs() as logs:
        cookie = await pages.cookie(VIEW)
        _, _, text = await pages.ask("POST", "/calls/act", cookie, Origin=pages.url)
    (line,) = (line for line in logs if line["event"] == "console_refused")

    assert text == "this takes the role operator; yours is viewer\n"
    assert (line["role"], line["wanted"], line["path"]) == ("viewer", "operator", "/calls/act")


async def test_a_page_for_others_is_not_offered(pages: _Pages) -> None:
    """It is not in the navigation, not where a login leads, and not served."""
    viewer, operator = await pages.cookie(VIEW), await pages.cookie(ACT)
    assert 'href="/phone"' not in (await pages.ask("GET", "/calls", viewer))[2]
    assert (await pages.ask("GET", "/phone", viewer))[0] == 403
    assert 'href="/phone"' in (await pages.ask("GET", "/phone", operator))[2]

    for token, path in ((VIEW, "/calls"), (ACT, "/phone")):
        _, headers = await pages.log_in(token, "/login?next=/phone")
        assert headers["Location"] == path


async def test_scripts_bring_the_token_itself(pages: _Pages) -> None:
    """Without a login, and without an Origin: no browser sends that header by itself."""
    bearer = f"Bearer {VIEW}"

    assert (await pages.ask("GET", "/calls/data", Authorization=bearer))[::2] == (200, '"viewer"')
    assert (await pages.ask("POST", "/calls/change", Authorization=bearer))[0] == 200
    assert (await pages.ask("GET", "/calls/ear", Authorization=bearer))[0] == 403


# ------------------------------------------------------------- from a stranger's page


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1"])
async def test_a_page_of_somebody_else_can_change_nothing(pages: _Pages, origin: str) -> None:
    """A cookie is not enough for a POST, a WebSocket, a login or a logout."""
    cookie = await pages.cookie()
    headers = {"Origin": origin} if origin else {}

    assert (await pages.ask("POST", "/calls/change", cookie, **headers))[0] == 403
    assert (await pages.ask("POST", "/logout", cookie, **headers))[0] == 403
    assert (await pages.ask("POST", "/login", "", VIEW, **headers))[0] == 403
    async with aiohttp.ClientSession(headers=_with_cookie(cookie)) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(pages.url + "/calls/live", headers=headers)
    assert refused.value.status == 403


async def test_what_a_browser_adds_by_itself_is_no_token(pages: _Pages) -> None:
    """A password for a proxy in front of us comes with requests of strangers, too."""
    cookie = await pages.cookie()
    headers = {"Origin": "http://evil.example", "Authorization": "Basic b3BlcmF0b3I6cHc="}

    assert (await pages.ask("POST", "/calls/change", cookie, **headers))[0] == 403
    headers["Origin"] = pages.url
    assert (await pages.ask("POST", "/calls/change", cookie, **headers))[0] == 200


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
async def test_a_page_of_somebody_else_cannot_make_us_work(pages: _Pages, site: str) -> None:
    """Another port of this host is the same site, and gets the cookie: reports cost something."""
    cookie = await pages.cookie()

    assert (await pages.ask("GET", "/calls/data", cookie, Sec_Fetch_Site=site))[0] == 403
    for ours in ("same-origin", "none"):
        assert (await pages.ask("GET", "/calls/data", cookie, Sec_Fetch_Site=ours))[0] == 200


@pytest.mark.parametrize("origin", ["http://[", "http://]/", "https://", "http://", "://", "x"])
async def test_an_origin_that_is_none_is_refused(pages: _Pages, origin: str) -> None:
    """Without a word in the log about an error of ours."""
    assert (await pages.ask("POST", "/login", "", VIEW, Origin=origin))[0] == 403


async def test_our_own_page_can(pages: _Pages) -> None:
    """With the cookie and its own Origin."""
    cookie = await pages.cookie()

    assert (await pages.ask("POST", "/calls/change", cookie=cookie, Origin=pages.url))[0] == 200
    async with (
        aiohttp.ClientSession(headers=_with_cookie(cookie)) as session,
        session.ws_connect(pages.url + "/calls/live", headers={"Origin": pages.url}) as socket,
    ):
        assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE


# ------------------------------------------------------------- what is served


@pytest.mark.parametrize("path", ["/calls", "/login", "/calls/data", "/nowhere", "/calls/ear"])
async def test_every_answer_has_the_strict_headers(pages: _Pages, path: str) -> None:
    """Pages, data, refusals and paths there are not."""
    _, headers, _ = await pages.ask("GET", path, cookie=await pages.cookie())

    assert {name: headers[name] for name in HEADERS} == HEADERS


async def test_files_are_asked_about_each_time(pages: _Pages) -> None:
    """A browser keeps them, and gets the new one after an update."""
    _, headers, text = await pages.ask("GET", "/static/base.css")
    status, _, body = await pages.ask("GET", "/static/base.css", If_None_Match=headers["ETag"])

    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["Content-Type"] == "text/css; charset=utf-8"
    assert text == (STATIC / "base.css").read_text("utf-8")
    assert (status, body) == (304, "")


def test_no_page_has_a_script_or_style_inside_it_or_from_elsewhere() -> None:
    """What the Content-Security-Policy forbids is not there to begin with."""
    foreign = re.compile(r"<style|\sstyle=|\son\w+=|javascript:|(?:src|href|action)=\"(?!/|#|\")")
    inline = re.compile(r"<script(?![^>]*\ssrc=\"/static/)")
    for each in STATIC.iterdir():
        text = each.read_text("utf-8")
        if each.name.endswith(".html"):
            assert not foreign.findall(text) + inline.findall(text), each.name
        # An SVG names its namespace, which nobody fetches.
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), each.name
