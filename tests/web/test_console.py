"""The console's data over real HTTP, of calls that are really going on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from structlog.types import EventDict

from gateway.app import Running, _state_of
from gateway.audio.g711 import encode_ulaw
from gateway.audio.wav import read_wav
from gateway.events import ULAW_8K, CallBegan, CallEnded, StateChanged, Termination, TurnAnswered
from gateway.metrics import Metrics
from gateway.shipped import shipped_sound
from gateway.simulator.server import Simulator
from gateway.web import CALL_OVER
from gateway.web import console as room
from gateway.web.console import ROWS_AT_ONCE, Console
from gateway.web.reports import ReportsBusy
from gateway.web.roster import Roster
from gateway.web.shelf import ShelfUnavailable, StoredCall
from gateway.web.tap import AGENT, CALLER, EAR_BYTES
from tests.postgres import postgres
from tests.running import (
    Facts,
    Stream,
    happens,
    metric,
    ops_url_of,
    settings_for,
    twilio_stream,
    url_of,
    watched_gateway,
)
from tests.web.test_tap import pieces

VIEW, ACT, LISTEN = "v" * 32, "o" * 32, "l" * 32
WITH_CONSOLE = {
    "GATEWAY_CONSOLE_VIEW_TOKEN": VIEW,
    "GATEWAY_CONSOLE_TOKEN": ACT,
    "GATEWAY_CONSOLE_LISTEN_TOKEN": LISTEN,
}
PATHS = (
    ("GET", "/console"),
    ("GET", "/console/calls"),
    ("GET", "/console/live"),
    ("GET", "/console/calls/x"),
    ("DELETE", "/console/calls/x"),
    ("GET", "/console/calls/x/live"),
    ("POST", "/console/calls/x/hang-up"),
    ("GET", "/console/calls/x/listen"),
    ("GET", "/console/calls/x/tape"),
)
FRAME = b"\x7f" * 160


@dataclass
class _Scene:
    """A gateway with a console, and somebody's browser."""

    running: Running
    facts: Facts
    client: aiohttp.ClientSession
    logs: list[EventDict]

    async def ask(
        self, method: str, path: str, token: str = ACT, **more: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        headers = {"Authorization": f"Bearer {token}"} | more
        async with self.client.request(
            method, path, headers=headers, allow_redirects=False
        ) as reply:
            return reply.status, dict(reply.headers), await reply.text()

    async def data(self, path: str, token: str = ACT) -> Any:
        """The answer as data."""
        status, headers, body = await self.ask("GET", path, token)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        return json.loads(body)

    @asynccontextmanager
    async def call(self, number: int = 1) -> AsyncIterator[tuple[str, Stream]]:
        """A call that goes on, and its id."""
        sid = f"CA{number:032d}"
        began = len(self.facts.of(CallBegan))
        async with twilio_stream(url_of(self.running), sid, {"from": "+15550100001"}) as stream:
            await stream.start()
            await self.facts.wait_for(CallBegan, began + 1)
            (call_id,) = (
                call_id
                for call_id, fact in self.facts.told
                if isinstance(fact, CallBegan) and fact.provider_call_id == sid
            )
            yield call_id, stream

    async def ended_call(self, number: int = 1) -> str:
        """A call that was over soon."""
        ended = len(self.facts.of(CallEnded))
        async with self.call(number) as (call_id, stream):
            await stream.stop()
            await self.facts.wait_for(CallEnded, ended + 1)
        return call_id

    @asynccontextmanager
    async def listener(self, call_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Somebody who listens in."""
        headers = {"Authorization": f"Bearer {LISTEN}"}
        path = f"/console/calls/{call_id}/listen"
        async with self.client.ws_connect(path, headers=headers) as socket:
            yield socket


@asynccontextmanager
async def _scene(simulator: Simulator, **changes: str) -> AsyncIterator[_Scene]:
    with capture_logs() as logs:
        async with watched_gateway(settings_for(simulator, **WITH_CONSOLE, **changes)) as watched:
            running, facts = watched
            jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
            async with aiohttp.ClientSession(ops_url_of(running), cookie_jar=jar) as client:
                yield _Scene(running, facts, client, logs)


@dataclass
class _Events:
    """Server-sent events as they come."""

    reply: aiohttp.ClientResponse
    got: list[Any] = field(default_factory=list)

    async def next(self) -> Any:
        """The next one's data."""
        async with asyncio.timeout(10):
            async for line in self.reply.content:
                if line.startswith(b"data: "):
                    return json.loads(line[6:])
        raise EOFError


async def _is_ended(events: _Events) -> bool:
    """Whether no more comes, after whatever was on its way."""
    try:
        while True:
            await events.next()
    except EOFError:
        return True


@asynccontextmanager
async def _events(scene: _Scene, path: str) -> AsyncIterator[_Events]:
    headers = {"Authorization": f"Bearer {ACT}"}
    async with scene.client.get(path, headers=headers) as reply:
        assert reply.content_type == "text/event-stream"
        yield _Events(reply)


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_nothing_without_a_token(simulator: Simulator, method: str, path: str) -> None:
    """Neither page nor data for a token that is missing or wrong, nor a word of any call."""
    async with _scene(simulator, GATEWAY_LISTEN_IN="1") as scene, scene.call() as (call_id, _):
        path = path.replace("/x", f"/{call_id}")
        for authorization in ("", "Bearer wrong", f"Bearer {ACT}x", f"Basic {ACT}"):
            headers = {"Authorization": authorization} if authorization else {}
            async with scene.client.request(
                method, path, headers=headers, allow_redirects=False
            ) as reply:
                body = await reply.text()
            assert reply.status == (302 if path == "/console" else 401), authorization
            assert "0001" not in body
            assert call_id not in body
        assert scene.facts.of(CallEnded) == []


async def test_without_a_token_in_the_settings_there_is_no_console(simulator: Simulator) -> None:
    """And nothing is kept of any call."""
    async with (
        watched_gateway(settings_for(simulator)) as (running, _),
        aiohttp.ClientSession(ops_url_of(running)) as client,
        client.get("/console/calls") as reply,
    ):
        assert reply.status == 404
        assert running.gateway.console is None


async def test_calls_are_listed(simulator: Simulator) -> None:
    """Those that go on and those that ended, the latest first; found by a part of an id."""
    async with _scene(simulator) as scene:
        ended = await scene.ended_call(1)
        async with scene.call(2) as (running, _):
            listed = await scene.data("/console/calls")
            found = await scene.data(f"/console/calls?q={ended[3:]}")
            none = await scene.data("/console/calls?q=nobody")

    assert [row["call_id"] for row in listed["calls"]] == [running, ended]
    assert [row["ended_at"] is None for row in listed["calls"]] == [True, False]
    assert {row["from_number"] for row in listed["calls"]} == {"+*******0001"}
    assert ended in [row["call_id"] for row in found["calls"]]
    assert none["calls"] == []


async def test_a_page_is_told_of_calls_live(simulator: Simulator) -> None:
    """All that is known first, then what changes, row by row."""
    async with _scene(simulator) as scene:
        old = await scene.ended_call(1)
        async with _events(scene, "/console/live") as events:
            assert [row["call_id"] for row in (await events.next())["calls"]] == [old]
            assert await metric(scene.running, "gateway_console_views") == 1
            async with scene.call(2) as (new, stream):
                assert [row["call_id"] for row in (await events.next())["calls"]] == [new]
                await stream.stop()
                row = (await events.next())["calls"][0]
                while row["ended_at"] is None:
                    row = (await events.next())["calls"][0]
        assert (row["call_id"], row["reason"]) == (new, "caller_hangup")
        assert await happens(lambda: scene.running.gateway.console is not None)


def _crowded(calls: int) -> Console:
    """A console that knows of so many calls."""
    console = Console(Metrics(CollectorRegistry()))
    for number in range(calls):
        began = CallBegan("twilio", "default", f"CA{number}", "", "", ULAW_8K, ULAW_8K)
        console.observe(f"call-{number}", began)
    return console


async def _first_rows(console: Console) -> None:
    """Until some are made, and the others have yet to be."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert len(console.rows) == ROWS_AT_ONCE


async def test_calls_get_their_turn_while_rows_are_made() -> None:
    """However many there are: never more than a few between two turns of the loop."""
    console, made = _crowded(5 * ROWS_AT_ONCE + 1), [0]
    news = asyncio.create_task(console.rows_since(0))
    while not news.done():
        await asyncio.sleep(0)
        made.append(len(console.rows))

    assert max(after - before for before, after in pairwise(made)) == ROWS_AT_ONCE
    assert len(json.loads(news.result())["calls"]) == 5 * ROWS_AT_ONCE + 1


async def test_what_changes_while_rows_are_made_is_told_next_time() -> None:
    """The number to ask with is that of the beginning."""
    console = _crowded(2 * ROWS_AT_ONCE)
    news = asyncio.create_task(console.rows_since(0))
    await _first_rows(console)
    first = next(iter(console.rows))
    console.observe(first, StateChanged("lifecycle", "active"))
    version = json.loads(await news)["version"]
    later = json.loads(await console.rows_since(version))

    assert [(row["call_id"], row["state"]) for row in later["calls"]] == [(first, "active")]


@pytest.mark.parametrize("is_made", [True, False])
async def test_who_is_erased_while_rows_are_made_is_not_shown(*, is_made: bool) -> None:
    """Neither one whose row has been made nor one whose turn has not come; no row is kept."""
    console = _crowded(2 * ROWS_AT_ONCE)
    for number in range(2 * ROWS_AT_ONCE):
        ended = CallEnded(Termination("caller_hangup"), 1.0, 0, 0, 0.0, 0.0)
        console.observe(f"call-{number}", ended)
    news = asyncio.create_task(console.rows_since(0))
    await _first_rows(console)
    erased = next(f"call-{n}" for n in count() if (f"call-{n}" in console.rows) == is_made)
    console.forget(erased)
    shown = {row["call_id"] for row in json.loads(await news)["calls"]}

    assert len(shown) == 2 * ROWS_AT_ONCE - 1
    assert erased not in shown | set(console.rows)


async def test_a_call_is_told_live(simulator: Simulator) -> None:
    """All of it first, then what changes; what was told before of its words is not told again."""
    async with _scene(simulator) as scene, scene.call() as (call_id, stream):
        async with _events(scene, f"/console/calls/{call_id}/live") as events:
            page = await events.next()
            while page["call"]["state"] != "active" or not page["call"]["lines"]:
                page = await events.next()
            assert page["can_hang_up"]
            assert not page["can_listen"]
            assert page["call"]["lines"][0]["who"] == "agent"
            await stream.stop()
            while page["call"]["ended_at"] is None:
                page = await events.next()
        assert page["call"]["reason"] == "caller_hangup"
        assert not page["can_hang_up"]


async def test_a_view_ends_with_the_right_to_it(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while a page has to ask anew: who is logged out by then is told nothing more."""
    monkeypatch.setattr(room, "VIEW_LIFE_S", 0.1)
    async with _scene(simulator) as scene, _events(scene, "/console/live") as events:
        await events.next()
        with pytest.raises(EOFError):
            await events.next()
        assert await metric(scene.running, "gateway_console_views") == 0


async def test_so_many_pages_and_no_more(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is told so."""
    monkeypatch.setattr(room, "MAX_VIEWS", 1)
    async with _scene(simulator) as scene, _events(scene, "/console/live"):
        status, _, body = await scene.ask("GET", "/console/live")

    assert (status, body) == (503, "too many pages are open\n")


async def test_a_page_that_reads_nothing_is_let_go(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no more than a piece, its line is cut, and it is counted."""
    monkeypatch.setattr(room, "TAKE_S", 0.2)
    monkeypatch.setattr(room, "LIST_EVERY_S", 0.01)
    async with _scene(simulator) as scene:
        console = scene.running.gateway.console
        assert console is not None
        for number in range(5):
            await scene.ended_call(number)
        # Every row is news each time, many times over.
        monkeypatch.setattr(Roster, "changed_since", lambda roster, _: roster.find("", 9) * 900)
        monkeypatch.setattr(room, "MAX_ROWS", 10_000)
        async with _events(scene, "/console/live") as events:
            events.reply.content._protocol.pause_reading()
            assert await happens(lambda: console.views == 0, 10)
        assert await metric(scene.running, "gateway_console_views_dropped_total") == 1


async def test_an_operator_hangs_up(simulator: Simulator) -> None:
    """The call ends with its reason, who did it is in the log, and it is counted."""
    async with _scene(simulator) as scene, scene.call() as (call_id, stream):
        status, _, _ = await scene.ask("POST", f"/console/calls/{call_id}/hang-up")
        await stream.closed()
        (ended,) = await scene.facts.wait_for(CallEnded)
        again, _, _ = await scene.ask("POST", f"/console/calls/{call_id}/hang-up")
        counted = await metric(scene.running, "gateway_console_hang_ups_total")

    assert (status, again, counted) == (204, 404, 1)
    assert ended.termination.reason == "operator_hangup"
    (line,) = (line for line in scene.logs if line["event"] == "call_hung_up")
    assert (line["call_id"], line["role"], line["login"]) == (call_id, "operator", "script")


async def test_no_other_page_can_hang_up(simulator: Simulator) -> None:
    """A stranger's page cannot use the login of whoever looks at it."""
    async with _scene(simulator) as scene, scene.call() as (call_id, _):
        headers = {"Origin": ops_url_of(scene.running)}
        async with scene.client.post("/login", data={"token": ACT}, headers=headers) as reply:
            assert reply.status == 200
        path = f"/console/calls/{call_id}/hang-up"
        async with scene.client.post(path, headers={"Origin": "http://evil.example"}) as reply:
            assert reply.status == 403
        async with scene.client.post(path) as reply:
            assert reply.status == 403
        assert scene.facts.of(CallEnded) == []
        async with scene.client.post(path, headers=headers) as reply:
            assert reply.status == 204


async def test_a_listener_hears_both_sides(simulator: Simulator) -> None:
    """As they pass: what the caller sends, byte for byte, and what the agent is sent."""
    async with (
        _scene(simulator, GATEWAY_LISTEN_IN="1") as scene,
        scene.call() as (call_id, stream),
        scene.listener(call_id) as socket,
    ):
        ulaw = {"encoding": "ulaw", "rate_hz": 8000}
        assert await socket.receive_json(timeout=5) == {"caller": ulaw, "agent": ulaw}
        assert await metric(scene.running, "gateway_listeners") == 1
        frames = question()
        for frame in frames:
            await stream.speak(frame)
        heard: list[tuple[bytes, bytes]] = []
        # The parrot answers; what it said before somebody listened is past.
        while {kind for kind, _ in heard} != {CALLER, AGENT}:
            heard += pieces(await socket.receive_bytes(timeout=10))
        await stream.stop()
        while (closed := await socket.receive(timeout=10)).type != aiohttp.WSMsgType.CLOSE:
            pass
        assert closed.data == CALL_OVER
        assert [payload for kind, payload in heard if kind == CALLER] == frames
        assert await happens(lambda: bool(_logged(scene, "listen_in_ended")))
        ended = 'gateway_listen_ins_total{result="ended"}'
        assert await metric(scene.running, ended) == 1
        assert await metric(scene.running, "gateway_listeners") == 0

    (began,) = _logged(scene, "listen_in_began")
    assert (began["call_id"], began["role"], began["source"]) == (call_id, "listener", "127.0.0.1")


def question() -> list[bytes]:
    """A sentence and the silence after it, frame by frame."""
    pcm = read_wav(shipped_sound("caller.wav"), 8000)[: 2 * 8000 * 3]
    payload = encode_ulaw(pcm) + b"\xff" * 8000
    return [payload[start : start + 160] for start in range(0, len(payload), 160)]


def _logged(scene: _Scene, event: str) -> list[EventDict]:
    return [line for line in scene.logs if line["event"] == event]


async def test_after_a_logout_nobody_sees_or_hears_any_more(simulator: Simulator) -> None:
    """What is open ends with the right to it: the call's page, and listening in."""
    async with _scene(simulator, GATEWAY_LISTEN_IN="1") as scene, scene.call() as (call_id, stream):
        ours = {"Origin": ops_url_of(scene.running)}
        async with scene.client.post("/login", data={"token": LISTEN}, headers=ours) as reply:
            assert reply.status == 200
        path = f"/console/calls/{call_id}"
        async with (
            scene.client.get(f"{path}/live") as page,
            scene.client.ws_connect(f"{path}/listen", headers=ours) as socket,
        ):
            events = _Events(page)
            await events.next()
            await scene.client.post("/logout", headers=ours)
            while (closed := await socket.receive(timeout=5)).type != aiohttp.WSMsgType.CLOSE:
                pass
            assert await _is_ended(events)
        await stream.speak(FRAME)
        assert closed.data == CALL_OVER
        assert scene.facts.of(CallEnded) == []


async def test_a_listener_that_reads_nothing_is_let_go(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call goes on as before; the listener's line is cut, and it is counted as dropped."""
    monkeypatch.setattr(room, "TAKE_S", 0.5)
    async with (
        _scene(simulator, GATEWAY_LISTEN_IN="1") as scene,
        scene.call() as (call_id, stream),
        scene.listener(call_id) as socket,
    ):
        console = scene.running.gateway.console
        assert console is not None
        await socket.receive_json(timeout=5)
        socket._response.connection.protocol.pause_reading()  # type: ignore[union-attr]
        tap = console.lines[call_id].tap
        assert tap is not None
        # More than all buffers on the way hold.
        for _ in range(40):
            for ear in tap._ears:
                ear.put(AGENT, bytes(EAR_BYTES - 100))
            await asyncio.sleep(0.02)
        assert await happens(lambda: console.listeners == 0, 10)
        dropped = 'gateway_listen_ins_total{result="dropped"}'
        assert await metric(scene.running, dropped) == 1
        await stream.speak(FRAME)
        await stream.stop()
        (ended,) = await scene.facts.wait_for(CallEnded)

    assert ended.termination.reason == "caller_hangup"


@pytest.mark.parametrize(
    ("token", "setting", "words"),
    [
        (VIEW, "1", "this takes the role listener; yours is viewer\n"),
        (ACT, "1", "this takes the role listener; yours is operator\n"),
        (LISTEN, "", "GATEWAY_LISTEN_IN is off\n"),
    ],
)
async def test_not_everybody_may_listen(
    simulator: Simulator, token: str, setting: str, words: str
) -> None:
    """It takes the role, and an operator who has switched it on."""
    async with (
        _scene(simulator, GATEWAY_LISTEN_IN=setting) as scene,
        scene.call() as (call_id, _),
    ):
        status, _, body = await scene.ask("GET", f"/console/calls/{call_id}/listen", token)
        refused = await metric(scene.running, 'gateway_listen_ins_total{result="refused"}')
        kept_out = await metric(scene.running, 'gateway_console_refused_total{reason="role"}')
        page = await scene.data(f"/console/calls/{call_id}", token)

    assert (status, body) == (403, words)
    assert refused == (1 if token == LISTEN else 0)
    assert kept_out == (0 if token == LISTEN else 1)
    assert page["is_listening_allowed"] == bool(setting)
    assert not page["can_listen"]


async def test_a_viewer_looks_and_does_nothing(simulator: Simulator) -> None:
    """What is said is there, buttons are not; who asks all the same is refused, and counted."""
    async with _scene(simulator) as scene:
        async with scene.call() as (call_id, stream):
            path = f"/console/calls/{call_id}"
            going_on = await scene.data(path, VIEW)
            hung_up = await scene.ask("POST", f"{path}/hang-up", VIEW)
            assert scene.facts.of(CallEnded) == []
            await stream.stop()
            await scene.facts.wait_for(CallEnded)
        over = await scene.data(path, VIEW)
        erased = await scene.ask("DELETE", path, VIEW)
        report = await scene.ask("GET", f"{path}/tape", VIEW)
        kept_out = await metric(scene.running, 'gateway_console_refused_total{reason="role"}')
        still_there = await scene.data(path)

    words = "this takes the role operator; yours is viewer\n"
    assert [reply[::2] for reply in (hung_up, erased, report)] == [(403, words)] * 3
    assert kept_out == 3
    assert going_on["call"]["call_id"] == still_there["call"]["call_id"] == call_id
    assert not any(page[can] for page in (going_on, over) for can in MAY if can in page)
    assert still_there["can_erase"]


MAY = ("can_hang_up", "can_listen", "can_erase", "has_report")


async def test_whatever_changes_something_takes_more_than_a_viewer(simulator: Simulator) -> None:
    """No route of a page that is not for looking was forgotten."""
    async with _scene(simulator, GATEWAY_SOFTPHONE="1") as scene:
        state = _state_of(scene.running.gateway)
    routes = [route for area in state.areas for route in area.routes]

    assert {area.path: area.role for area in state.areas} == {
        "/console": "viewer",
        "/softphone": "operator",
    }
    assert len(routes) > len(PATHS)
    assert not [route for route in routes if route.method != "GET" and route.role == "viewer"]
    assert not [
        route for route in routes if route.path.startswith("/softphone") and route.role == "viewer"
    ]


async def test_the_log_says_who_listens_behind_a_proxy(simulator: Simulator) -> None:
    """The address that a trusted proxy tells of; over a WebSocket, too."""
    proxied = {"GATEWAY_LISTEN_IN": "1", "GATEWAY_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with _scene(simulator, **proxied) as scene, scene.call() as (call_id, _):
        headers = {"Authorization": f"Bearer {LISTEN}", "X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
        path = f"/console/calls/{call_id}/listen"
        async with scene.client.ws_connect(path, headers=headers) as socket:
            assert "caller" in await socket.receive_json(timeout=5)
    (began,) = _logged(scene, "listen_in_began")

    assert began["source"] == "203.0.113.7"


async def test_so_many_listen_and_no_more(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is told so."""
    monkeypatch.setattr(room, "MAX_LISTENERS", 1)
    async with (
        _scene(simulator, GATEWAY_LISTEN_IN="1") as scene,
        scene.call() as (call_id, _),
        scene.listener(call_id),
    ):
        status, _, body = await scene.ask("GET", f"/console/calls/{call_id}/listen", LISTEN)

    assert (status, body) == (503, "too many listen in\n")


async def test_ended_calls_outlive_the_gateway(simulator: Simulator, tmp_path: Path) -> None:
    """In the database, found and shown as before, without a word of what was said."""
    where = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/calls.db"}
    async with _scene(simulator, **where) as scene, scene.call() as (call_id, stream):
        await scene.facts.wait_for(StateChanged, 3)
        await stream.stop()
        await scene.facts.wait_for(CallEnded)
    async with _scene(simulator, **where) as scene:
        assert await happens(lambda: bool(_logged(scene, "database_reached")))
        assert await metric(scene.running, "gateway_database_up") == 1
        listed = await scene.data(f"/console/calls?q={call_id}")
        page = await scene.data(f"/console/calls/{call_id}")
        erased, _, _ = await scene.ask("DELETE", f"/console/calls/{call_id}")
        again, _, _ = await scene.ask("DELETE", f"/console/calls/{call_id}")
        gone, _, _ = await scene.ask("GET", f"/console/calls/{call_id}")

    assert [row["reason"] for row in listed["calls"]] == ["caller_hangup"]
    assert page["call"]["agent"] == "default"
    assert page["call"]["words_not_kept"]
    assert page["call"]["lines"] == []
    assert (erased, again, gone) == (204, 404, 404)
    assert b"Hello" not in (tmp_path / "calls.db").read_bytes()


async def test_a_kept_call_leads_to_its_report(simulator: Simulator) -> None:
    """Also after a restart, when the database is all that knows of it; if that answers."""

    async def report(_call_id: str) -> bytes | None:
        return b"page"

    async with _scene(simulator) as scene:
        console = scene.running.gateway.console
        assert console is not None
        console.rules = replace(console.rules, report=report)
        console.shelf = _Shelf({"a-1": '{"has_tape":true}', "a-2": '{"has_tape":false}'})
        taped, plain = [await scene.data(f"/console/calls/{call_id}") for call_id in ("a-1", "a-2")]
        to_a_viewer = await scene.data("/console/calls/a-1", VIEW)
        away, _, body = await scene.ask("GET", "/console/calls/away")
        none, _, _ = await scene.ask("GET", "/console/calls/none")

    assert (taped["has_report"], plain["has_report"]) == (True, False)
    assert taped["call"] == to_a_viewer["call"] == {"has_tape": True}
    assert taped["can_erase"]
    assert not to_a_viewer["can_erase"]
    assert not to_a_viewer["has_report"]
    assert (away, body, none) == (503, "the database does not answer\n", 404)


@dataclass
class _Shelf:
    """What a database has of calls, by id; for "away" it does not answer."""

    known: dict[str, str]

    def put(self, call: StoredCall) -> None:
        """Nothing is kept."""

    async def latest(self, _limit: int, _text: str = "") -> list[str]:
        """Nobody asks."""
        return []

    async def details(self, call_id: str) -> str | None:
        """As it was put there."""
        if call_id == "away":
            raise ShelfUnavailable
        return self.known.get(call_id)

    async def forget(self, call_id: str) -> bool:
        """Erase."""
        return self.known.pop(call_id, None) is not None


async def test_words_are_kept_where_the_operator_says_so(
    simulator: Simulator, tmp_path: Path
) -> None:
    """GATEWAY_CALLS_TRANSCRIPTS puts them into the database."""
    where = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/calls.db"}
    async with (
        _scene(simulator, **where, GATEWAY_CALLS_TRANSCRIPTS="1") as scene,
        scene.call() as (call_id, stream),
        _events(scene, f"/console/calls/{call_id}/live") as events,
    ):
        while not (await events.next())["call"]["lines"]:
            pass
        await stream.stop()
        await scene.facts.wait_for(CallEnded)

    assert b"Hello" in (tmp_path / "calls.db").read_bytes()


async def test_a_call_that_goes_on_is_not_erased(simulator: Simulator) -> None:
    """Its end would bring it back."""
    async with _scene(simulator) as scene, scene.call() as (call_id, _):
        status, _, _ = await scene.ask("DELETE", f"/console/calls/{call_id}")

    assert status == 409


async def test_a_report_is_a_page_that_reaches_nothing(simulator: Simulator) -> None:
    """In a sandbox, with its own policy; whoever comes while too many wait is told so."""

    async def report(call_id: str) -> bytes | None:
        if call_id == "busy":
            raise ReportsBusy
        return b"<!doctype html>" * 100_000 if call_id == "taped" else None

    async with _scene(simulator) as scene:
        console = scene.running.gateway.console
        assert console is not None
        console.rules = replace(console.rules, report=report)
        status, headers, body = await scene.ask("GET", "/console/calls/taped/tape")
        none, _, _ = await scene.ask("GET", "/console/calls/plain/tape")
        busy, when, _ = await scene.ask("GET", "/console/calls/busy/tape")

    assert (status, none, busy, when["Retry-After"]) == (200, 404, 503, "60")
    assert body == "<!doctype html>" * 100_000
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts; ")
    # With another one a browser refuses to show a page in a sandbox.
    assert headers["Cross-Origin-Opener-Policy"] == "unsafe-none"


@pytest.mark.parametrize("call_id", ["nobody", "..%2F..%2Fetc", "%00", "x" * 65, "<b>"])
async def test_calls_that_are_none(simulator: Simulator, call_id: str) -> None:
    """Whatever stands for an id, it is a plain refusal."""
    async with _scene(simulator) as scene:
        for method, rest in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/live"),
            ("POST", "/hang-up"),
            ("GET", "/tape"),
        ):
            status, _, _ = await scene.ask(method, f"/console/calls/{call_id}{rest}")
            assert status == 404


@pytest.mark.xdist_group("postgres")
async def test_losing_postgresql_touches_no_call(simulator: Simulator) -> None:
    """A call goes on while the server is away; it is in the database once the server is back."""
    with postgres() as server:
        async with _scene(simulator, GATEWAY_DATABASE_URL=server.url) as scene:
            first = await scene.ended_call(1)
            stored = 'gateway_calls_stored_total{result="ok"}'
            assert await _counts(scene, stored, 1)
            async with scene.call(2) as (second, stream):
                server.stop()
                third = await scene.ended_call(3)
                assert await happens(lambda: bool(_logged(scene, "database_lost")))
                assert await metric(scene.running, "gateway_database_up") == 0
                listed = await scene.data("/console/calls")
                assert {row["call_id"] for row in listed["calls"]} == {first, second, third}
                assert "does not answer" in listed["problem"]
                for frame in question():
                    await stream.speak(frame)
                await scene.facts.wait_for(TurnAnswered)
                server.start()
                assert await _counts(scene, stored, 2)
                await stream.stop()
                await scene.facts.wait_for(CallEnded, 3)
            assert await _counts(scene, stored, 3)
            assert await metric(scene.running, "gateway_database_up") == 1
        rows = server.query("SELECT call_id, reason FROM gateway_calls ORDER BY call_id")

    assert rows == [f"{call_id}|caller_hangup" for call_id in sorted((first, second, third))]
    assert len(_logged(scene, "database_lost")) == 1


async def _counts(scene: _Scene, line: str, count: int) -> bool:
    """Whether a metric gets there."""
    for _ in range(500):
        if await metric(scene.running, line) >= count:
            return True
        await asyncio.sleep(0.05)
    return False
