"""The operator's room over several workers: `serve --workers 2`, real calls, one console."""

import asyncio
import base64
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway.events import ULAW_8K, CallBegan, CallEnded, Termination
from gateway.metrics import Metrics
from gateway.simulator.server import SimulatorOptions, start_simulator
from gateway.tally import FOLDER_VARIABLE
from gateway.web import CALL_OVER, Handler
from gateway.web.console import Console
from gateway.web.inside import ROWS, inside_app
from gateway.web.overview import Overview
from gateway.web.pages import COOKIE, add_pages
from gateway.web.tap import AGENT, CALLER
from tests.running import (
    Command,
    Stream,
    children_of,
    command,
    environ_for,
    happens,
    metric,
    ops_url_of,
    served,
    twilio_stream,
    url_of,
)
from tests.web.test_console import ACT, LISTEN, PATHS, VIEW, WITH_CONSOLE, question
from tests.web.test_tap import pieces

pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.asyncio(loop_scope="module")]

SERVING = r"taking calls on 127\.0\.0\.1:(\d+), operations on 127\.0\.0\.1:(\d+)"
SOFTPHONE_ACTIVE = 'gateway_calls_active{agent="default",provider="softphone"}'
# Enough for both workers: see ``listener.SLACK``.
BOTH = 4


@dataclass
class _Room:
    """A gateway of two workers, in processes of its own, and somebody's browser."""

    served: Command
    port: int
    ops_port: int
    client: aiohttp.ClientSession
    log: list[str] = field(default_factory=list)
    calls: int = 0
    database: Path = Path()

    def kept(self, call_id: str) -> list[tuple[str, str]]:
        """What the database has of a call."""
        with closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT call_id, reason FROM gateway_calls WHERE call_id = ?"
            return connection.execute(query, (call_id,)).fetchall()

    @property
    def workers(self) -> list[int]:
        """Process ids."""
        return children_of(self.served.process.pid)

    @property
    def folder(self) -> Path:
        """Of this run, for supervisor and workers."""
        environ = Path(f"/proc/{self.workers[0]}/environ").read_bytes().decode().split("\0")
        (folder,) = (each.partition("=")[2] for each in environ if FOLDER_VARIABLE in each)
        return Path(folder)

    async def ask(self, method: str, path: str, token: str = LISTEN) -> tuple[int, str]:
        """Status and body."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.request(method, path, headers=headers) as reply:
            return reply.status, await reply.text()

    async def rows(self, text: str = "") -> dict[str, dict[str, Any]]:
        """Calls of the list by id."""
        status, body = await self.ask("GET", f"/console/calls?q={text}")
        assert status == 200
        return {row["call_id"]: row for row in json.loads(body)["calls"]}

    async def becomes(self, line: str, value: float) -> bool:
        """Whether a metric gets there."""
        for _ in range(100):
            if await metric(self, line) == value:
                return True
            await asyncio.sleep(0.05)
        return False

    @asynccontextmanager
    async def call(self) -> AsyncIterator[tuple[str, Stream]]:
        """A call that goes on, and its id."""
        self.calls += 1
        sid = f"CA{self.calls:032d}"
        async with twilio_stream(url_of(self), sid, {"from": "+15550100001"}) as stream:
            await stream.start()
            await stream.socket.receive(timeout=10)
            (call_id,) = await self.rows(sid)
            yield call_id, stream

    async def both(self, stack: AsyncExitStack) -> dict[str, Stream]:
        """Calls of which each worker has some, by id."""
        calls = dict([await stack.enter_async_context(self.call()) for _ in range(BOTH)])
        assert len(set(map(_boot, calls))) == 2
        return calls

    @asynccontextmanager
    async def events(self, path: str) -> AsyncIterator["_Events"]:
        """What a page is told."""
        headers = {"Authorization": f"Bearer {VIEW}"}
        async with self.client.get(path, headers=headers) as reply:
            assert (reply.status, reply.content_type) == (200, "text/event-stream")
            yield _Events(reply)

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket of a page."""
        headers = {"Authorization": f"Bearer {LISTEN}"}
        async with self.client.ws_connect(path, headers=headers) as socket:
            yield socket


@dataclass
class _Events:
    """Server-sent events as they come."""

    reply: aiohttp.ClientResponse

    async def next(self) -> Any:
        """The next one's data."""
        async with asyncio.timeout(10):
            async for line in self.reply.content:
                if line.startswith(b"data: "):
                    return json.loads(line[6:])
        raise EOFError

    async def is_over(self) -> bool:
        """Whether no more comes, after whatever was on its way."""
        with suppress(EOFError):
            while True:
                await self.next()
        return True

    async def rows_until(self, wanted: Mapping[str, object]) -> list[dict[str, Any]]:
        """All rows, up to one like this."""
        rows: list[dict[str, Any]] = []
        while not any(wanted.items() <= row.items() for row in rows):
            rows += (await self.next())["calls"]
        return rows


def _boot(call_id: str) -> str:
    """What sets the calls of a process apart."""
    return call_id.partition("-")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[_Room]:
    """One for all: its processes take seconds to start. The supervisor runs as people run it."""
    calls = tmp_path_factory.mktemp("calls") / "calls.db"
    on = {
        **WITH_CONSOLE,
        "GATEWAY_LISTEN_IN": "1",
        "GATEWAY_SOFTPHONE": "1",
        "GATEWAY_DATABASE_URL": f"sqlite:///{calls}",
        "GATEWAY_MAX_CALLS": "10",
    }
    simulator = await start_simulator(SimulatorOptions())
    jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
    environ = environ_for(simulator, **on)
    async with command("serve", "--workers", "2", **environ) as serving:
        port, ops_port = map(int, await serving.says(SERVING))
        url = f"http://127.0.0.1:{ops_port}"
        async with aiohttp.ClientSession(url, cookie_jar=jar) as client:
            room = _Room(serving, port, ops_port, client, database=calls)
            reading = asyncio.create_task(_read(serving, room.log))
            yield room
            with suppress(ProcessLookupError):
                serving.process.terminate()
            await asyncio.wait_for(serving.process.wait(), 10)
            await reading
    await simulator.close()


async def _read(served: Command, log: list[str]) -> None:
    """What is not read would stop it in the end."""
    assert served.process.stderr is not None
    while line := await served.process.stderr.readline():
        log.append(line.decode())


# ------------------------------------------------------------- who gets in


SOFTPHONE_PATHS = (
    ("GET", "/softphone/agents"),
    ("POST", "/softphone/check"),
    ("GET", "/softphone/media"),
)
# Fewer wrong tokens than bar an address.
WITH_WRONG_TOKENS = (PATHS[3], PATHS[6], PATHS[7], SOFTPHONE_PATHS[2])


async def _logged_out(room: _Room) -> str:
    """What was a login's cookie."""
    ours = {"Origin": ops_url_of(room)}
    login = {"token": LISTEN}
    async with room.client.post("/login", data=login, headers=ours, allow_redirects=False) as reply:
        cookie = reply.cookies[COOKIE].value
    async with room.client.get("/console/calls") as reply:
        assert reply.status == 200
    await room.client.post("/logout", headers=ours)
    return cookie


async def test_nothing_without_a_token(room: _Room) -> None:
    """Missing, wrong, stale, or of another kind: neither data nor a call."""
    stale = await _logged_out(room)
    all_paths = (*PATHS, *SOFTPHONE_PATHS)
    tries: tuple[tuple[dict[str, str], tuple[tuple[str, str], ...]], ...] = (
        ({}, all_paths),
        ({"Authorization": f"Basic {VIEW}"}, all_paths),
        ({"Cookie": f"{COOKIE}={stale}"}, all_paths),
        ({"Authorization": "Bearer wrong"}, WITH_WRONG_TOKENS),
        ({"Authorization": f"Bearer {VIEW}x"}, WITH_WRONG_TOKENS),
    )
    async with room.call() as (call_id, stream):
        for headers, paths in tries:
            for method, path in paths:
                async with room.client.request(
                    method, path.replace("/x", f"/{call_id}"), headers=headers
                ) as reply:
                    assert reply.status == 401 or reply.url.path == "/login"
                    assert call_id not in await reply.text()
        await stream.speak(b"\x7f" * 160)
        assert (await room.rows(call_id))[call_id]["ended_at"] is None


async def test_nobody_gets_past_the_supervisor(room: _Room) -> None:
    """The workers' sockets are in a folder of the owner's, and believe nobody who says nothing."""
    sockets = [room.folder / f"{pid}.sock" for pid in room.workers]
    assert all(path.is_socket() for path in sockets)
    assert room.folder.stat().st_mode & 0o777 == 0o700
    connector = aiohttp.UnixConnector(str(sockets[0]))
    async with aiohttp.ClientSession("http://worker", connector=connector) as session:
        for method, path in PATHS[1:]:
            async with session.request(
                method, path, headers={"Authorization": f"Bearer {LISTEN}"}
            ) as reply:
                assert reply.status == 403


# ------------------------------------------------------------- calls


async def test_calls_of_all_workers_are_on_one_page(room: _Room) -> None:
    """Listed, told live from beginning to end, found by their ids; each page counted once."""
    async with AsyncExitStack() as stack, room.events("/console/live") as page:
        calls = await room.both(stack)
        listed = await room.rows()
        assert set(calls) <= set(listed)
        assert {row["from_number"] for row in listed.values()} == {"+*******0001"}
        assert await metric(room, "gateway_console_views") == 1
        one, stream = next(iter(calls.items()))
        assert set(await room.rows(one[2:])) == {one}
        await stream.stop()
        told = await page.rows_until({"call_id": one, "reason": "caller_hangup"})
        assert set(calls) <= {row["call_id"] for row in told}
    assert await room.becomes("gateway_console_views", 0)


async def test_a_call_is_told_live_wherever_it_is(room: _Room) -> None:
    """Its words as they come."""
    async with AsyncExitStack() as stack:
        for call_id, stream in (await room.both(stack)).items():
            async with room.events(f"/console/calls/{call_id}/live") as page:
                told = await page.next()
                while not told["call"]["lines"]:
                    told = await page.next()
                assert told["call"]["lines"][0]["who"] == "agent"
                await stream.stop()
                while told["call"]["ended_at"] is None:
                    told = await page.next()
            _, listener = await room.ask("GET", f"/console/calls/{call_id}")
            assert json.loads(listener)["call"]["reason"] == "caller_hangup"


async def test_an_operator_hangs_up_one_of_them(room: _Room) -> None:
    """That one and no other, counted once, with who did it in the log; then it is erased."""
    async with AsyncExitStack() as stack:
        calls = await room.both(stack)
        first, *others = calls
        status, _ = await room.ask("POST", f"/console/calls/{first}/hang-up")
        await calls[first].closed()
        again, _ = await room.ask("POST", f"/console/calls/{first}/hang-up")
        busy, _ = await room.ask("DELETE", f"/console/calls/{others[0]}")
        ended = (await room.rows(first))[first]
        erased, _ = await room.ask("DELETE", f"/console/calls/{first}")
        gone, _ = await room.ask("GET", f"/console/calls/{first}")
        assert [(await room.rows(other))[other]["ended_at"] for other in others] == [None] * 3
        assert await room.rows(first) == {}
        assert await metric(room, "gateway_console_hang_ups_total") == 1

    assert (status, again, busy, erased, gone) == (204, 404, 409, 204, 404)
    assert ended["reason"] == "operator_hangup"
    (line,) = (json.loads(line) for line in room.log if '"call_hung_up"' in line)
    told = {"call_id": first, "role": "listener", "login": "script", "source": "127.0.0.1"}
    assert told.items() <= line.items()


@pytest.mark.parametrize("call_id", ["nobody", "..%2F..%2Fetc", "%00", "x" * 65])
async def test_calls_that_are_none(room: _Room, call_id: str) -> None:
    """Whatever stands for an id, it is a plain refusal."""
    ways = (("GET", ""), ("DELETE", ""), ("GET", "/live"), ("POST", "/hang-up"), ("GET", "/listen"))
    for method, rest in ways:
        status, _ = await room.ask(method, f"/console/calls/{call_id}{rest}")
        assert status == 404


# ------------------------------------------------------------- sound


async def test_a_listener_hears_both_sides(room: _Room) -> None:
    """What the caller sends, byte for byte, and what the agent is sent; counted once."""
    before = await metric(room, 'gateway_listen_ins_total{result="ended"}')
    async with (
        room.call() as (call_id, stream),
        room.socket(f"/console/calls/{call_id}/listen") as ear,
    ):
        ulaw = {"encoding": "ulaw", "rate_hz": 8000}
        assert await ear.receive_json(timeout=5) == {"caller": ulaw, "agent": ulaw}
        assert await metric(room, "gateway_listeners") == 1
        frames = question()
        for frame in frames:
            await stream.speak(frame)
        heard: list[tuple[bytes, bytes]] = []
        while len(_of(CALLER, heard)) < len(frames) or not _of(AGENT, heard):
            heard += pieces(await ear.receive_bytes(timeout=10))
        await stream.stop()
        while (closed := await ear.receive(timeout=10)).type != aiohttp.WSMsgType.CLOSE:
            pass
        assert closed.data == CALL_OVER
        assert _of(CALLER, heard) == frames
    assert await room.becomes('gateway_listen_ins_total{result="ended"}', before + 1)
    assert await room.becomes("gateway_listeners", 0)


def _of(wanted: bytes, heard: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [payload for kind, payload in heard if kind == wanted]


async def test_after_a_logout_nobody_sees_or_hears_any_more(room: _Room) -> None:
    """What is open in a worker ends with the right to it, and the call goes on."""
    ours = {"Origin": ops_url_of(room)}
    async with room.call() as (call_id, stream):
        async with room.client.post("/login", data={"token": LISTEN}, headers=ours) as reply:
            assert reply.status == 200
        path = f"/console/calls/{call_id}"
        async with (
            room.client.get(f"{path}/live") as page,
            room.client.ws_connect(f"{path}/listen", headers=ours) as ear,
        ):
            await _Events(page).next()
            await room.client.post("/logout", headers=ours)
            while (closed := await ear.receive(timeout=5)).type != aiohttp.WSMsgType.CLOSE:
                pass
            assert await _Events(page).is_over()
        await stream.speak(b"\x7f" * 160)
        assert closed.data == CALL_OVER
        assert (await room.rows(call_id))[call_id]["ended_at"] is None


async def test_everybody_may_what_their_role_may(room: _Room) -> None:
    """Asked at the gate, told by the worker: whoever may not do a thing is not offered it."""
    offered = {}
    async with room.call() as (call_id, _):
        page = f"/console/calls/{call_id}"
        for token in (VIEW, ACT, LISTEN):
            told = json.loads((await room.ask("GET", page, token))[1])
            offered[token] = told["can_hang_up"], told["can_listen"]
        refused = [
            await room.ask("POST", f"{page}/hang-up", VIEW),
            await room.ask("GET", f"{page}/listen", ACT),
            await room.ask("GET", "/softphone/media", VIEW),
        ]

    assert offered == {VIEW: (False, False), ACT: (True, False), LISTEN: (True, True)}
    assert [status for status, _ in refused] == [403] * 3


# ------------------------------------------------------------- the softphone


async def _told(phone: aiohttp.ClientWebSocketResponse, event: str, fact: str = "") -> Any:
    """The next message of a kind."""
    async with asyncio.timeout(10):
        async for message in phone:
            found = json.loads(message.data)
            if found["event"] == event and found.get("fact", "") == fact:
                return found
    raise EOFError(event)


async def _phone(room: _Room, stack: AsyncExitStack, number: int) -> Any:
    """A call of the softphone's page, and its id."""
    phone = await stack.enter_async_context(room.socket("/softphone/media"))
    start = {"callId": f"page-{number}", "agent": "default", "overrides": {}}
    await phone.send_json({"event": "start", "start": start})
    return phone, (await _told(phone, "fact", "call_began"))["callId"]


async def test_the_softphone_talks_through_the_workers(room: _Room) -> None:
    """Up and down, one call in each worker, in the list as any other, over when the page says."""
    async with AsyncExitStack() as stack:
        (phone, one), (_, other) = [await _phone(room, stack, number) for number in range(2)]
        assert _boot(one) != _boot(other)
        assert {one, other} <= set(await room.rows())
        assert await metric(room, SOFTPHONE_ACTIVE) == 2
        greeting = await _told(phone, "media")
        assert len(base64.b64decode(greeting["media"]["payload"])) >= 160
        for frame in question():
            payload = base64.b64encode(frame).decode()
            await phone.send_json({"event": "media", "media": {"payload": payload}})
        await _told(phone, "fact", "turn_answered")
        assert (await _told(phone, "media"))["media"]["payload"]
        await phone.send_json({"event": "stop"})
        ended = await _told(phone, "fact", "call_ended")
        async with asyncio.timeout(5):
            async for _ in phone:
                pass
        status, _ = await room.ask("POST", f"/console/calls/{other}/hang-up")

    assert (ended["termination"]["reason"], phone.close_code) == ("caller_hangup", 1000)
    assert status == 204
    assert await room.becomes(SOFTPHONE_ACTIVE, 0)


async def test_all_calls_share_their_places(room: _Room) -> None:
    """A page is told beforehand, and refused, when the workers together have no room."""
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(room.call())
        headers = {"Authorization": f"Bearer {LISTEN}"}
        async with room.client.post(
            "/softphone/check", headers=headers, json={"agent": "default"}
        ) as reply:
            assert (reply.status, await reply.json()) == (503, {"reason": "capacity"})
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await room.client.ws_connect("/softphone/media", headers=headers)
    assert refused.value.status == 503
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == "5"


# ------------------------------------------------------------- workers that hang, or die


async def test_a_worker_that_hangs_costs_its_own_calls_only(room: _Room) -> None:
    """The page says so, waits no longer than it must, and is as before when it is back."""
    async with AsyncExitStack() as stack, room.events("/console/live") as page:
        calls = await room.both(stack)
        stuck = room.workers[0]
        os.kill(stuck, signal.SIGSTOP)
        try:
            while not (note := (await page.next())["note"]):
                pass
            async with asyncio.timeout(10):
                statuses = {
                    call_id: (await room.ask("GET", f"/console/calls/{call_id}"))[0]
                    for call_id in calls
                }
                listed = await room.rows()
        finally:
            os.kill(stuck, signal.SIGCONT)
        while (await page.next())["note"]:
            pass
        _, body = await room.ask("GET", f"/console/calls/{next(iter(calls))}")

    assert note.startswith("No answer from 1 of 2 workers")
    assert set(calls) <= set(listed)
    assert sorted(set(statuses.values())) == [200, 504]
    assert json.loads(body)["can_hang_up"]
    assert any('"worker_silent"' in line for line in room.log)


async def test_a_worker_that_dies_is_told(room: _Room) -> None:
    """SIGKILL: its calls are shown and kept as lost, the others go on, and so does the page."""
    async with AsyncExitStack() as stack, room.events("/console/live") as page:
        calls = await room.both(stack)
        one = next(iter(calls))
        other = next(call_id for call_id in calls if _boot(call_id) != _boot(one))
        ear = await stack.enter_async_context(room.socket(f"/console/calls/{one}/listen"))
        call_page = await stack.enter_async_context(room.events(f"/console/calls/{one}/live"))
        await ear.receive_json(timeout=5)
        await call_page.next()
        victim, *_ = [pid for pid in room.workers if one in await _rows_of(room, pid)]
        os.kill(victim, signal.SIGKILL)
        lost = {"call_id": one, "reason": "internal_error", "result": "server_error"}
        told = await page.rows_until(lost)
        assert await ear.receive(timeout=5)
        async with asyncio.timeout(5):
            async for _ in ear:
                pass
        assert await call_page.is_over()
        listed = await room.rows()
        _, body = await room.ask("GET", f"/console/calls/{one}")
        hung_up, _ = await room.ask("POST", f"/console/calls/{one}/hang-up")
        still, _ = await room.ask("POST", f"/console/calls/{other}/hang-up")
        assert await room.becomes("gateway_workers", 2)
        new, _ = await stack.enter_async_context(room.call())
        fresh = await stack.enter_async_context(room.events(f"/console/calls/{new}/live"))
        assert (await fresh.next())["call"]["ended_at"] is None
        assert await happens(lambda: room.kept(one) == [(one, "internal_error")])
        erased, _ = await room.ask("DELETE", f"/console/calls/{one}")
        again, _ = await room.ask("DELETE", f"/console/calls/{one}")
        left = await room.rows(one), room.kept(one)

    assert {row["call_id"] for row in told if row["reason"] == "internal_error"} == {
        call_id for call_id in calls if _boot(call_id) == _boot(one)
    }
    assert listed[one]["result"] == "server_error"
    (trouble,) = json.loads(body)["call"]["troubles"]
    assert trouble["what"].startswith("its worker died")
    assert (hung_up, still) == (404, 204)
    assert (erased, again, left) == (204, 404, ({}, []))


async def _rows_of(room: _Room, pid: int) -> str:
    """What one worker says of its calls."""
    connector = aiohttp.UnixConnector(str(room.folder / f"{pid}.sock"))
    async with (
        aiohttp.ClientSession("http://worker", connector=connector) as session,
        session.get("/rows?since=0") as reply,
    ):
        return await reply.text()


async def test_a_drain_is_watched_to_its_end(room: _Room) -> None:
    """The last of the module: pages and the softphone go on until the calls are over."""
    async with AsyncExitStack() as stack:
        phone, call_id = await _phone(room, stack, 7)
        page = await stack.enter_async_context(room.events("/console/live"))
        room.served.process.send_signal(signal.SIGTERM)
        await page.rows_until({"call_id": call_id})
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await stack.enter_async_context(room.socket("/softphone/media"))
        status, body = await room.ask("GET", f"/console/calls/{call_id}")
        assert (status, json.loads(body)["can_hang_up"]) == (200, True)
        await phone.send_json({"event": "stop"})
        before = len(room.log)
        assert await asyncio.wait_for(room.served.process.wait(), 10) == 0
    assert not any('"worker_silent"' in line for line in room.log[before:])


# ------------------------------------------------------------- without processes


@dataclass
class _Staff:
    """A worker's console that answers when it may, and the supervisor's page."""

    overview: Overview
    own: Console
    of_worker: Console
    client: aiohttp.ClientSession
    may_answer: asyncio.Event
    has_asked: asyncio.Event
    broken_news: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def _staff(folder: Path) -> AsyncIterator[_Staff]:
    metrics = Metrics(CollectorRegistry())
    of_worker, own = Console(metrics), Console(metrics)
    may_answer, has_asked = asyncio.Event(), asyncio.Event()
    may_answer.set()

    @web.middleware
    async def later(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if request.path == ROWS:
            has_asked.set()
            await may_answer.wait()
        return answer

    async def rows_since(seen: int) -> bytes:
        return staff.broken_news[0] if staff.broken_news else await of_worker.rows_since(seen)

    inside = inside_app([of_worker.area()], rows_since, 1000)
    inside.middlewares.append(later)
    overview = Overview(own)
    pages = web.Application()
    add_pages(pages, {"operator": VIEW}, [overview.area()], lambda _: None)
    async with (
        served(inside, str(folder / "sock")),
        served(pages) as url,
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {VIEW}"}) as client,
    ):
        staff = _Staff(overview, own, of_worker, client, may_answer, has_asked)
        overview.opened(1, str(folder / "sock"))
        yield staff
        await overview.close()


BEGAN = CallBegan("twilio", "default", "CA1", "", "", ULAW_8K, ULAW_8K)
ENDED = CallEnded(Termination("caller_hangup"), 20.0, 1, 1, 2000, 1500)


async def _listed(staff: _Staff) -> dict[str, Any]:
    async with staff.client.get("/console/calls") as reply:
        return {row["call_id"]: row for row in (await reply.json())["calls"]}


@pytest.mark.parametrize("was_running", [True, False])
async def test_only_calls_that_went_on_are_lost(tmp_path: Path, was_running: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The desk knows: one that ended in the last moment has not failed, nobody heard how it did."""
    async with _staff(tmp_path) as staff:
        staff.of_worker.observe("c-1", BEGAN)
        assert (await _listed(staff))["c-1"]["ended_at"] is None
        staff.overview.gone(1, lambda *_: was_running)
        staff.overview.gone(1, lambda *_: was_running)
        row = (await _listed(staff))["c-1"]
        async with staff.client.get("/console/calls/c-1") as reply:
            page = (await reply.json())["call"]

    reason = "internal_error" if was_running else ""
    assert (row["state"], row["reason"], page["reason"]) == ("ended", reason, reason)


async def test_what_is_erased_does_not_come_back(tmp_path: Path) -> None:
    """Not with news that were on their way meanwhile."""
    async with _staff(tmp_path) as staff:
        staff.of_worker.observe("c-1", BEGAN)
        staff.of_worker.observe("c-1", ENDED)
        assert "c-1" in await _listed(staff)
        # News of it once more.
        ended = staff.of_worker.roster.get("c-1")
        assert ended is not None
        staff.of_worker.roster.adopt(ended)
        staff.may_answer.clear()
        staff.has_asked.clear()
        news = asyncio.create_task(_listed(staff))
        await staff.has_asked.wait()
        erasing = asyncio.create_task(_erase(staff, "c-1"))
        await asyncio.wait({erasing}, timeout=0.3)
        staff.may_answer.set()
        await news
        assert await erasing == 204
        assert "c-1" not in await _listed(staff)


async def test_a_call_that_the_list_has_forgotten_is_erased_where_it_is(tmp_path: Path) -> None:
    """A worker keeps more calls than the list may: all are asked, also for nothing."""
    async with _staff(tmp_path) as staff:
        staff.of_worker.observe("c-1", BEGAN)
        staff.of_worker.observe("c-1", ENDED)
        assert "c-1" in await _listed(staff)
        staff.overview.directory.forget("c-1")
        assert await _erase(staff, "c-1") == 204
        assert staff.of_worker.roster.get("c-1") is None
        assert await _erase(staff, "c-1") == 404


async def test_erasing_is_not_done_while_somebody_may_still_have_it(tmp_path: Path) -> None:
    """Who does not answer cannot say that nothing is left; what others have is erased."""
    async with _staff(tmp_path) as staff:
        staff.own.observe("c-1", BEGAN)
        staff.own.observe("c-1", ENDED)
        staff.overview.opened(2, str(tmp_path / "nobody"))
        assert await _erase(staff, "c-1") == 504
        assert staff.own.roster.get("c-1") is None
        staff.overview.gone(2, lambda *_: False)
        assert await _erase(staff, "c-1") == 404


async def _erase(staff: _Staff, call_id: str) -> int:
    async with staff.client.delete(f"/console/calls/{call_id}", headers={}) as reply:
        return reply.status


async def test_a_worker_that_comes_too_late_is_not_asked(tmp_path: Path) -> None:
    """The gateway is closing: nobody would end it."""
    async with _staff(tmp_path) as staff:
        await staff.overview.close()
        staff.overview.opened(2, str(tmp_path / "sock"))
        assert staff.overview.relay_of(2) is None


@pytest.mark.parametrize(
    "news", [b"[", b'{"version":9,"calls":[{"call_id":"c-2","ended_at":1},{"call_id":5}]}']
)
async def test_news_that_are_none_are_silence(tmp_path: Path, news: bytes) -> None:
    """A worker that says what nobody understands is followed on, and the page is told."""
    async with _staff(tmp_path) as staff:
        staff.of_worker.observe("c-1", BEGAN)
        assert "c-1" in await _listed(staff)
        staff.broken_news.append(news)
        await _listed(staff)
        async with staff.client.get("/console/calls") as reply:
            told = await reply.json()
        staff.broken_news.clear()
        assert await _is_quiet(staff)

    assert told["note"] == "No answer from 1 of 1 workers: calls there are shown as they last were."
    assert [row["call_id"] for row in told["calls"]] == ["c-1"]


async def _is_quiet(staff: _Staff) -> bool:
    """Whether all workers are heard again."""
    for _ in range(100):
        async with staff.client.get("/console/calls") as reply:
            if not (await reply.json())["note"]:
                return True
        await asyncio.sleep(0.05)
    return False
