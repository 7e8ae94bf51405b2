"""The softphone's routes, with a page made of Python: who gets in, whose call it becomes."""

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.app import Running, open_gateway
from gateway.errors import SettingsError
from gateway.events import (
    CallBegan,
    CallEnded,
    CallerSpoke,
    FrameRejected,
    RelayMeasured,
    StateChanged,
    Termination,
)
from gateway.settings import Agent
from gateway.simulator.server import Simulator
from gateway.tape.reading import Tape
from gateway.tape.replay import Played, replay
from gateway.web.pages import COOKIE
from gateway.web.softphone import teller
from tests.running import (
    Facts,
    happens,
    metric,
    ops_url_of,
    settings_for,
    url_of,
    watched_gateway,
)
from tests.tape.recording import whole_tapes

TOKEN = "t" * 32
ON = {"GATEWAY_CONSOLE_TOKEN": TOKEN, "GATEWAY_SOFTPHONE": "1"}
AGENTS = {
    "default": Agent(transcription={"model": "simulated"}),
    "sales": Agent(name="sales", numbers=("1",), instructions="Sell.", voice="cedar"),
}
ACTIVE = 'gateway_calls_active{agent="default",provider="softphone"}'
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def opened(simulator: Simulator) -> AsyncIterator[tuple[Running, Facts]]:
    """A gateway with a softphone and two agents."""
    settings = settings_for(simulator, **ON).model_copy(update={"agents": AGENTS})
    with capture_logs():
        async with watched_gateway(settings) as watched:
            yield watched


async def _post(running: Running, body: bytes) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers=BEARER) as session,
        session.post(f"{ops_url_of(running)}/softphone/check", data=body) as reply,
    ):
        text = await reply.read()
        is_json = reply.content_type == "application/json"
        return reply.status, msgspec.json.decode(text) if is_json else text.decode()


async def _check(running: Running, agent: str, **overrides: Any) -> tuple[int, Any]:
    return await _post(running, msgspec.json.encode({"agent": agent, "overrides": overrides}))


@dataclass
class _Page:
    """The page's socket."""

    socket: aiohttp.ClientWebSocketResponse

    async def say(self, event: str, **fields: Any) -> None:
        await self.socket.send_str(msgspec.json.encode({"event": event, **fields}).decode())

    async def start(self, call_id: str = "call-1", agent: str = "default", **over: Any) -> None:
        await self.say("start", start={"callId": call_id, "agent": agent, "overrides": over})

    async def told(self, event: str, fact: str = "") -> dict[str, Any]:
        """The next message of a kind."""
        async with asyncio.timeout(10):
            async for message in self.socket:
                found: dict[str, Any] = msgspec.json.decode(message.data)
                if found["event"] == event and found.get("fact", "") == fact:
                    return found
        raise AssertionError(f"no {event} {fact}")

    async def closed(self) -> int | None:
        async with asyncio.timeout(10):
            async for _ in self.socket:
                pass
        return self.socket.close_code


@asynccontextmanager
async def _page(running: Running) -> AsyncIterator[_Page]:
    async with (
        aiohttp.ClientSession(headers=BEARER) as session,
        session.ws_connect(f"{ops_url_of(running)}/softphone/media") as socket,
    ):
        yield _Page(socket)


# ------------------------------------------------------------- who gets in


async def _status(url: str, headers: dict[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status


async def test_nobody_calls_without_the_token(
    opened: tuple[Running, Facts], simulator: Simulator
) -> None:
    """Wrong, missing, or a cookie from elsewhere: no socket, no call, no line to the model."""
    running, facts = opened
    media = f"{ops_url_of(running)}/softphone/media"

    assert await _status(media) == 401
    assert await _status(media, {"Authorization": f"Bearer {'w' * 32}"}) == 401
    assert await _status(media, {"Cookie": f"{COOKIE}=viewer.AAAA"}) == 401
    assert not facts.told
    assert not simulator.sessions


async def test_the_public_listener_knows_no_softphone(opened: tuple[Running, Facts]) -> None:
    """Not even with the token, and though it asks nobody for a proof of origin."""
    running, _ = opened
    assert await _status(f"{url_of(running)}/softphone/media", BEARER) == 404
    async with aiohttp.ClientSession(headers=BEARER) as session:
        for path in ("/softphone/voice", "/softphone", "/softphone/agents"):
            async with session.get(url_of(running) + path) as reply:
                assert reply.status == 404


@pytest.mark.parametrize("off", ["GATEWAY_SOFTPHONE", "GATEWAY_CONSOLE_TOKEN"])
async def test_it_is_off_unless_it_is_on(simulator: Simulator, off: str) -> None:
    """Without its switch there is no page; without a token it does not even start."""
    environ = {name: "" if name == off else value for name, value in ON.items()}
    if off == "GATEWAY_CONSOLE_TOKEN":
        with pytest.raises(SettingsError, match="GATEWAY_CONSOLE_TOKEN is not"):
            settings_for(simulator, **environ)
        return
    async with open_gateway(settings_for(simulator, **environ)) as running:
        assert await _status(f"{ops_url_of(running)}/softphone/media", BEARER) == 404


# ------------------------------------------------------------- a call


async def test_a_page_talks_to_an_agent(opened: tuple[Running, Facts]) -> None:
    """Through the bridge of every call: facts and sound come on the one socket, in order."""
    running, facts = opened
    async with _page(running) as page:
        await page.start()
        began = await page.told("fact", "call_began")
        ready = await page.told("fact", "call_ready")
        said = await page.told("fact", "agent_said")
        sound = await page.told("media")
        mark = await page.told("mark")
        assert await metric(running, ACTIVE) == 1
        await page.say("mark", mark=mark["mark"])
        await page.say("stop")
        ended = await page.told("fact", "call_ended")
        assert await page.closed() == 1000

    assert began["provider"] == "softphone"
    assert began["callId"] == facts.told[0][0]
    assert ready["setup_s"] > 0
    assert said["text"].startswith("Hello.")
    assert len(base64.b64decode(sound["media"]["payload"])) % 160 == 0
    assert (ended["termination"], ended["result"]) == ({"reason": "caller_hangup"}, "success")
    assert await metric(running, ACTIVE) == 0


async def test_what_the_page_changes_counts_for_its_call_only(
    opened: tuple[Running, Facts], simulator: Simulator
) -> None:
    """The model gets the changed settings, and the next caller the agent's own."""
    running, _ = opened
    changes: dict[str, Any] = {
        "instructions": "Speak <b>loudly</b>.",
        "voice": "ash",
        "speed": 1.25,
        "turn_detection": {"threshold": 0.75, "silence_duration_ms": 900},
    }
    for over in (changes, {}):
        async with _page(running) as page:
            await page.start("call-" + str(len(over)), "sales", **over)
            await page.told("fact", "call_ready")
    changed, own = (session.options for session in list(simulator.sessions)[-2:])

    assert changed["instructions"] == "Speak <b>loudly</b>."
    assert changed["audio.output.voice"] == "ash"
    assert changed["audio.output.speed"] == 1.25
    assert changed["audio.input.turn_detection"]["threshold"] == 0.75
    assert changed["audio.input.turn_detection"]["silence_duration_ms"] == 900
    assert changed["audio.input.turn_detection"]["prefix_padding_ms"] == 300
    assert own["instructions"] == "Sell."
    assert own["audio.output.voice"] == "cedar"
    assert own["audio.input.turn_detection"]["threshold"] == 0.5


async def test_a_call_with_bad_settings_is_not_taken(
    opened: tuple[Running, Facts], simulator: Simulator
) -> None:
    """A page that did not ask first is turned away, and its place is free again."""
    running, _ = opened
    async with _page(running) as page:
        await page.start(speed=9)
        assert await page.closed() == 1008

    assert running.gateway.admission.calls == 0
    assert not simulator.sessions
    line = 'gateway_rejected_total{reason="bad_request",stage="start"}'
    assert await metric(running, line) == 1


async def test_bad_messages_do_not_end_the_call(opened: tuple[Running, Facts]) -> None:
    """They are counted, and the conversation goes on."""
    running, facts = opened
    async with _page(running) as page:
        await page.start()
        await page.told("fact", "call_ready")
        await page.say("dial")
        await facts.wait_for(FrameRejected)
        await page.say("stop")
        await page.told("fact", "call_ended")


async def test_a_long_script_fits(opened: tuple[Running, Facts], simulator: Simulator) -> None:
    """Instructions of the longest length, in a script of three bytes a letter."""
    running, _ = opened
    script = "山" * 32768
    assert await _check(running, "default", instructions=script) == (204, "")
    async with _page(running) as page:
        await page.start(instructions=script)
        await page.told("fact", "call_ready")

    assert simulator.sessions[-1].options["instructions"] == script


async def test_a_full_house_takes_no_page(simulator: Simulator) -> None:
    """The page is told before it asks for the microphone."""
    async with open_gateway(settings_for(simulator, GATEWAY_MAX_CALLS="1", **ON)) as running:
        async with _page(running) as page:
            await page.start()
            await page.told("fact", "call_ready")
            assert await _check(running, "default") == (503, {"reason": "capacity"})
            assert await _status(f"{ops_url_of(running)}/softphone/media", BEARER) == 503
        assert await happens(lambda: running.gateway.admission.calls == 0)
        assert (await _check(running, "default"))[0] == 204


async def test_a_taped_call_of_the_page_can_be_replayed(
    simulator: Simulator, tmp_path: Path
) -> None:
    """Its changed settings count there too, and what the page was told is not on the tape."""
    settings = settings_for(simulator, GATEWAY_TAPE_DIR=str(tmp_path), GATEWAY_TAPE_SHARE="1", **ON)
    with capture_logs():
        async with open_gateway(settings) as running, _page(running) as page:
            await page.start(greeting="", instructions="Whisper.")
            await page.told("fact", "call_ready")
            for _ in range(10):
                await page.say("media", media={"payload": b"\x7f" * 160})
            await page.say("stop")
            await page.closed()
    # A replay has an event loop of its own.
    await asyncio.to_thread(_is_replayed, tmp_path)


def _is_replayed(folder: Path) -> None:
    (path,) = whole_tapes(folder)
    passes: list[Played] = []
    with Tape(path) as tape:
        replayed = replay(tape, passes.append)

    assert [played.came for played in passes] == [played.expected for played in passes]
    assert passes
    assert replayed.problems == []
    assert replayed.is_whole
    whole = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
    assert b'"softphone"' in whole
    assert b"call_ready" not in whole


# ------------------------------------------------------------- before the call


async def test_the_page_learns_what_there_is(opened: tuple[Running, Facts]) -> None:
    """Agents with what can be changed of them, the dialect, and the limits of each value."""
    running, _ = opened
    async with (
        aiohttp.ClientSession(headers=BEARER) as session,
        session.get(f"{ops_url_of(running)}/softphone/agents") as reply,
    ):
        known = await reply.json()

    assert [agent["name"] for agent in known["agents"]] == ["default", "sales"]
    assert known["agents"][1]["voice"] == "cedar"
    assert "numbers" not in known["agents"][1]
    assert known["dialect"] == "ga"
    assert known["schema"]["properties"]["speed"]["maximum"] == 1.5


async def test_bad_values_are_told_by_field(opened: tuple[Running, Facts]) -> None:
    """All at once, in the words the settings have for them, none with the value itself."""
    running, _ = opened
    status, body = await _check(
        running, "default", speed=9, turn_detection={"threshold": "loud", "kind": "telepathy"}
    )

    assert status == 422
    assert body["problems"] == [
        ["speed", "too large; accepted: a number from 0.25 to 1.5"],
        [
            "turn_detection.kind",
            "not an accepted word; accepted: one of server_vad, semantic_vad, none",
        ],
        ["turn_detection.threshold", "not a number; accepted: a number from 0 to 1"],
    ]


@pytest.mark.parametrize(
    ("agent", "overrides", "field"),
    [
        ("nobody", {}, "agent"),
        ("default", {"max_call_s": 14400}, "max_call_s"),
        ("default", {"can_hang_up": False}, "can_hang_up"),
        ("default", {"name": "root"}, "name"),
        ("default", {"turn_detection": {"treshold": 1}}, "turn_detection.treshold"),
        ("default", {"turn_detection": "none"}, "turn_detection"),
        ("default", {"instructions": "x" * 32769}, "instructions"),
        ("default", {"transcription": {"language": "en", "model": ""}}, "transcription"),
    ],
)
async def test_what_cannot_be_changed_is_refused(
    opened: tuple[Running, Facts], agent: str, overrides: dict[str, Any], field: str
) -> None:
    """Limits, names, anything that costs more: by the same rules as the file, and fewer keys."""
    status, body = await _check(opened[0], agent, **overrides)

    assert status == 422
    assert [key for key, _ in body["problems"]] == [field]


DEEP = b'{"overrides":{"voice":' + b"[" * 50_000 + b"]" * 50_000 + b"}}"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"overrides":7}', DEEP])
async def test_a_body_that_no_page_sends_is_refused(
    opened: tuple[Running, Facts], body: bytes
) -> None:
    """In one line."""
    assert await _post(opened[0], body) == (400, "not what the page sends\n")


# ------------------------------------------------------------- what is told


class _Link:
    """A page's socket that notes, clogs or is gone."""

    def __init__(self, *, is_clogged: bool = False, is_gone: bool = False) -> None:
        self.is_clogged = is_clogged
        self.is_gone = is_gone
        self.sent: list[str | bytes] = []

    def send(self, *messages: str | bytes) -> None:
        if self.is_gone:
            raise ConnectionResetError
        self.sent += messages


def test_facts_for_the_page_are_told_and_no_others() -> None:
    """One JSON object each; what is measured for operators only is not."""
    link = _Link()
    tell = teller(link)
    tell("c1", CallerSpoke('<b>"hi"</b>'))
    tell("c1", RelayMeasured("up", 0.001))
    tell("c1", CallEnded(Termination("drain"), 1.0, 0, 0, 0.0, 0.0))

    spoke, ended = (msgspec.json.decode(each) for each in link.sent)
    fact = {"event": "fact", "fact": "caller_spoke", "callId": "c1", "text": '<b>"hi"</b>'}
    assert spoke == fact
    assert ended["termination"] == {"reason": "drain"}
    assert ended["result"] == "success"


def test_a_slow_or_lost_page_holds_up_nothing() -> None:
    """It misses facts; the call does not wait for it, nor break."""
    clogged = _Link(is_clogged=True)
    teller(clogged)("c1", StateChanged("turn", "listening"))
    teller(_Link(is_gone=True))("c1", StateChanged("turn", "listening"))

    assert not clogged.sent


async def test_other_calls_are_not_told_to_a_page(opened: tuple[Running, Facts]) -> None:
    """Each page hears of its own call only."""
    running, facts = opened
    async with _page(running) as first, _page(running) as second:
        await first.start("one")
        await second.start("two")
        ids = [(await page.told("fact", "call_ready"))["callId"] for page in (first, second)]
        began = {
            fact.provider_call_id: call_id
            for call_id, fact in facts.told
            if isinstance(fact, CallBegan)
        }

    assert ids == [began["one"], began["two"]]
