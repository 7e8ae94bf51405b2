"""A worker's side of the pages: who asks travels with the request, and is asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.roles import Role
from gateway.web import RIGHT, SESSION, Area, Route, Session, who
from gateway.web.inside import ASKER, ROWS, asker, inside_app

OPERATOR = '{"role":"%s","login":"0a1b2c3d","source":"192.0.2.7"}'


async def _tell(request: web.Request) -> web.Response:
    """Who asks, as the handlers of the pages see it."""
    is_over = request[RIGHT].is_over()
    return web.json_response({**who(request, request[SESSION]), "is_over": is_over})


AREA = Area(
    "/page",
    "Page",
    "console.html",
    (Route("GET", "/page/see", _tell), Route("POST", "/page/hear", _tell, "listener")),
)


@asynccontextmanager
async def _client(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async def rows_since(seen: int) -> bytes:
        return b'{"since":%d}' % seen

    app = inside_app([AREA], rows_since, 1000)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "sock")).start()
    connector = aiohttp.UnixConnector(str(folder / "sock"))
    try:
        async with aiohttp.ClientSession("http://worker", connector=connector) as client:
            yield client
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("role", "see", "hear"), [("viewer", 200, 403), ("listener", 200, 200)])
async def test_the_role_that_was_told_is_asked_for(
    tmp_path: Path, role: str, see: int, hear: int
) -> None:
    """And who it is goes into the log as the gate saw it; the right ends elsewhere."""
    headers = {ASKER: OPERATOR % role}
    async with _client(tmp_path) as client:
        async with client.get("/page/see", headers=headers) as reply:
            assert reply.status == see
            told = await reply.json()
        async with client.post("/page/hear", headers=headers) as reply:
            assert reply.status == hear

    assert told == {"role": role, "login": "0a1b2c3d", "source": "192.0.2.7", "is_over": False}


@pytest.mark.parametrize("told", [None, "", "{}", "viewer", OPERATOR % "owner", "\xff"])
async def test_nobody_comes_in_without_a_word(tmp_path: Path, told: str | None) -> None:
    """Missing, broken, or of no role there is."""
    headers = {} if told is None else {ASKER: told}
    async with (
        _client(tmp_path) as client,
        client.get("/page/see", headers=headers) as reply,
    ):
        assert reply.status == 403


async def test_the_pages_themselves_are_not_here(tmp_path: Path) -> None:
    """But the rows for the supervisor's list are."""
    async with _client(tmp_path) as client:
        async with client.get("/page", headers={ASKER: OPERATOR % "listener"}) as reply:
            assert reply.status == 404
        async with client.get(ROWS, params={"since": 7}) as reply:
            assert await reply.json() == {"since": 7}


async def test_what_the_gate_found_is_what_is_told(tmp_path: Path) -> None:
    """Both ends of the header belong together, and neither token nor session number is in it."""

    async def gate(request: web.Request) -> web.Response:
        role: Role = "listener"
        request[SESSION] = Session(role, 1.0, "f" * 32)
        return web.json_response(asker(request))

    app = web.Application()
    app.router.add_get("/", gate)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as reply,
        ):
            headers = await reply.json()
    finally:
        await runner.cleanup()
    async with (
        _client(tmp_path) as client,
        client.get("/page/see", headers=headers) as reply,
    ):
        told = await reply.json()

    assert (told["role"], told["source"]) == ("listener", "127.0.0.1")
    assert "f" * 32 not in str(headers)
