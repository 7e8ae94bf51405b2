"""Whole calls over real sockets, against a small gateway that echoes or does what a test says."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import WSMsgType, encode_basic_auth, web
from twilio.request_validator import RequestValidator

from gateway.errors import PeerRefused
from gateway.simulator import caller
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, Utterance, When

# Calls run on a clock this much faster, so that seconds of talk take a fraction.
SPEED = 4.0
WORDS = Utterance(b"\x00\x20" * 4000, 8000, When("call_start", 0.2))

Act = Callable[["Peer", Any], Awaitable[None]]


@dataclass
class Peer:
    """The gateway's end of one call, as far as these tests need one."""

    socket: web.WebSocketResponse
    request: web.Request
    act: Act
    received: list[Any] = field(default_factory=list)
    stream_sid: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Remember every message and do what the test wants done about it."""
        try:
            async for message in self.socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self.take(message.data)
        finally:
            self.ended.set()

    async def take(self, data: str | bytes) -> None:
        """One message, decoded where it is JSON."""
        decoded = json.loads(data) if isinstance(data, str) else data
        if isinstance(decoded, dict) and decoded.get("event") == "start":
            self.stream_sid = decoded["streamSid"]
        self.received.append(decoded)
        await self.act(self, decoded)

    async def say(self, event: str, **members: Any) -> None:
        """Send a Twilio message."""
        await self.socket.send_json({"event": event, "streamSid": self.stream_sid, **members})

    async def play(self, payload: bytes) -> None:
        """Send audio the Twilio way."""
        await self.say("media", media={"payload": base64.b64encode(payload).decode()})

    async def order(self, name: str, **members: Any) -> None:
        """Send an Asterisk command."""
        await self.socket.send_json({"command": name, **members})

    def events(self, name: str) -> list[dict[str, Any]]:
        """All JSON messages of one kind."""
        return [each for each in self.received if isinstance(each, dict) and each["event"] == name]


@dataclass
class Gateway:
    """A server for both providers that keeps its peers."""

    act: Act
    peers: list[Peer] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    answer: str = ""
    url: str = ""

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        """The media WebSocket."""
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        self.peers.append(Peer(socket, request, self.act))
        await self.peers[-1].serve()
        return socket

    async def voice(self, request: web.Request) -> web.Response:
        """The answer webhook."""
        form = await request.post()
        self.forms.append({name: str(value) for name, value in form.items()})
        self.forms[-1]["signature"] = request.headers.get("X-Twilio-Signature", "")
        return web.Response(text=self.answer, content_type="application/xml")

    async def refuse(self, _request: web.Request) -> web.Response:
        """A door that stays shut."""
        return web.Response(status=403, text="forbidden")


@asynccontextmanager
async def gateway(act: Act) -> AsyncIterator[Gateway]:
    """A running gateway on a free port."""
    stand_in = Gateway(act)
    app = web.Application()
    app.router.add_get("/media", stand_in.media)
    app.router.add_post("/voice", stand_in.voice)
    app.router.add_get("/closed", stand_in.refuse)
    # The test server of aiohttp cancels its request tasks when a peer is lost; a real one does not.
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stand_in.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stand_in
    finally:
        await runner.cleanup()


async def nothing(_peer: Peer, _message: Any) -> None:
    """A gateway that only listens."""


async def echo(peer: Peer, message: Any) -> None:
    """Send back what the caller says, over either protocol."""
    if isinstance(message, bytes):
        await peer.socket.send_bytes(message)
    elif message["event"] == "media":
        await peer.say("media", media={"payload": message["media"]["payload"]})


def quick(**changes: Any) -> CallPlan:
    """A short call on a fast clock."""
    values: dict[str, Any] = {"says": (WORDS,), "hang_up_after_s": 1.0, "speed": SPEED}
    return CallPlan(**(values | changes))


@pytest.mark.parametrize("provider", ["twilio", "asterisk"])
async def test_the_caller_hears_its_own_words_from_an_echo(provider: str) -> None:
    """Everything sent and echoed before the hang-up was played, byte for byte."""
    async with gateway(echo) as stand_in:
        report = await place_call(f"{stand_in.url}/media", quick(provider=provider))
    assert report.sent_ms == pytest.approx(1000, abs=100)
    assert report.played_ms > 700
    assert report.played == report.sent[: len(report.played)]
    assert report.turns[0].starts_at_s == pytest.approx(0.2)
    assert report.turns[0].ends_at_s == pytest.approx(0.7)
    assert (report.ended_by, report.errors) == ("caller", ())
    assert report.close_code == 1000
    assert not [moment for moment in report.moments if moment.kind == "rejected"]


async def test_twilio_messages_of_a_whole_call() -> None:
    """Start, continuous numbered media, the keys pressed, and stop at the end."""
    plan = quick(dtmf=((0.3, "1"), (0.5, "#")), parameters={"token": "t"})
    async with gateway(nothing) as stand_in:
        report = await place_call(f"{stand_in.url}/media", plan)
        (peer,) = stand_in.peers
    assert peer.received[0]["event"] == "connected"
    assert peer.events("start")[0]["start"]["customParameters"] == {"token": "t"}
    numbers = [int(each["sequenceNumber"]) for each in peer.received[1:]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [each["dtmf"]["digit"] for each in peer.events("dtmf")] == ["1", "#"]
    assert report.dtmf == ("1", "#")
    assert len(peer.events("media")) * 20 == report.sent_ms
    assert peer.received[-1]["event"] == "stop"


async def test_marks_come_back_and_a_clear_is_seen() -> None:
    """A mark returns after its audio; a clear drops the rest and is in the report."""

    async def act(peer: Peer, message: Any) -> None:
        if message["event"] == "start":
            await peer.play(bytes(1600))
            await peer.say("mark", mark={"name": "a"})
        elif message["event"] == "mark" and message["mark"]["name"] == "a":
            await peer.play(bytes(80_000))
            await peer.say("mark", mark={"name": "b"})
            await peer.say("clear")

    async with gateway(act) as stand_in:
        report = await place_call(f"{stand_in.url}/media", quick(says=(), jitter_ms=0))
        (peer,) = stand_in.peers
    assert [each["mark"]["name"] for each in peer.events("mark")] == ["a", "b"]
    assert report.cleared_ms == pytest.approx(10_000, abs=100)
    assert report.played_ms == pytest.approx(200, abs=100)
    (mark_echo, _) = (moment for moment in report.moments if moment.kind == "echo")
    heard_at_s = report.spans[0].starts_at_s + 0.2
    assert mark_echo.at_s == pytest.approx(heard_at_s)


async def test_a_barge_in_is_timed() -> None:
    """The caller speaks into the agent's words and the report says when the agent fell silent."""

    async def act(peer: Peer, message: Any) -> None:
        if message["event"] == "start":
            await peer.play(bytes(80_000))
        elif message["event"] == "media" and b"\xff" not in base64.b64decode(
            message["media"]["payload"]
        ):
            await peer.say("clear")

    says = (Utterance(b"\x00\x20" * 4000, 8000, When("agent_starts", 0.3)),)
    async with gateway(act) as stand_in:
        report = await place_call(f"{stand_in.url}/media", quick(says=says, hang_up_after_s=1.5))
    (turn,) = report.turns
    assert turn.is_barge_in
    assert len(report.barge_in_s) == 1
    assert 0 <= report.barge_in_s[0] < 0.4
    assert report.cleared_ms > 8000


@pytest.mark.parametrize("provider", ["twilio", "asterisk"])
async def test_the_gateway_hangs_up(provider: str) -> None:
    """A plan that waits for the gateway ends when it closes or orders the hang-up."""

    async def act(peer: Peer, message: Any) -> None:
        if isinstance(message, dict) and message["event"] == "MEDIA_START":
            await peer.order("HANGUP")
        elif isinstance(message, dict) and message["event"] == "start":
            await peer.socket.close(code=4000)

    async with gateway(act) as stand_in:
        plan = quick(provider=provider, hang_up="agent", hang_up_after_s=20.0)
        report = await place_call(f"{stand_in.url}/media", plan)
    assert report.ended_by == "gateway"
    assert report.duration_s < 10
    assert report.close_code == (4000 if provider == "twilio" else 1000)


async def test_a_violation_makes_the_provider_close() -> None:
    """A message that is too big ends an Asterisk call with 1009."""

    async def act(peer: Peer, message: Any) -> None:
        if isinstance(message, dict) and message["event"] == "MEDIA_START":
            await peer.socket.send_bytes(bytes(70_000))

    async with gateway(act) as stand_in:
        report = await place_call(f"{stand_in.url}/media", quick(provider="asterisk"))
        (peer,) = stand_in.peers
    assert report.ended_by == "provider"
    assert peer.socket.close_code == 1009


async def test_asterisk_upgrade_and_channel() -> None:
    """Query, credentials, subprotocol, codec and control format are those of the plan."""
    seen: list[Any] = []

    async def act(_peer: Peer, message: Any) -> None:
        seen.append(message)

    plan = quick(provider="asterisk", codec="slin24", variables={"__A": "1"}, says=())
    async with gateway(act) as stand_in:
        url = f"{stand_in.url}/media?mode=x"
        await place_call(url, plan, auth=CallAuth(username="u", password="p"))
        request = stand_in.peers[0].request
    assert dict(request.query) == {"mode": "x", "from": plan.from_number, "to": plan.to_number}
    assert request.headers["Authorization"] == encode_basic_auth("u", "p")
    assert request.headers["Sec-WebSocket-Protocol"] == "media"
    assert (seen[0]["format"], seen[0]["channel_variables"]) == ("slin24", {"__A": "1"})
    assert {len(frame) for frame in seen[1:]} == {960}


@pytest.mark.parametrize(
    ("hang_up", "stops", "close_code"),
    [("stop", 1, 1000), ("close", 0, 1000), ("abort", 0, 1006), ("freeze", 0, 1006)],
)
async def test_every_way_to_hang_up(hang_up: str, stops: int, close_code: int) -> None:
    """The gateway sees a stop or none, and the close code that belongs to the way."""
    async with gateway(nothing) as stand_in:
        plan = quick(hang_up=hang_up, hang_up_after_s=0.3, freeze_s=0.5, says=())
        report = await place_call(f"{stand_in.url}/media", plan)
        (peer,) = stand_in.peers
        await asyncio.wait_for(peer.ended.wait(), 5)
    assert len(peer.events("stop")) == stops
    assert peer.socket.close_code == close_code
    assert report.close_code == close_code
    assert report.ended_by == "caller"


async def test_the_call_ends_when_the_agent_is_quiet() -> None:
    """With quiet_s the caller leaves once its words were answered and silence followed."""

    async def act(peer: Peer, message: Any) -> None:
        if message["event"] == "media" and message["media"]["chunk"] == "45":
            await peer.play(bytes(1600))

    async with gateway(act) as stand_in:
        plan = quick(quiet_s=0.3, hang_up_after_s=20.0)
        report = await place_call(f"{stand_in.url}/media", plan)
    assert 1.2 < report.duration_s < 5
    answered_after_s = report.turns[0].answered_after_s
    assert answered_after_s is not None
    assert answered_after_s == pytest.approx(0.2, abs=0.15)


async def test_the_webhook_comes_first() -> None:
    """The form and the upgrade are signed for the public address; the parameters come back."""
    async with gateway(nothing) as stand_in:
        stand_in.answer = (
            '<Response><Connect><Stream url="wss://pub.example/media">'
            '<Parameter name="token" value="one-time"/></Stream></Connect></Response>'
        )
        await place_call(
            f"{stand_in.url}/media",
            quick(says=()),
            webhook_url=f"http{stand_in.url.removeprefix('ws')}/voice?x=1",
            auth=CallAuth(twilio_token="secret", public_url="https://pub.example"),
        )
        (form,) = stand_in.forms
        (peer,) = stand_in.peers
    validator = RequestValidator("secret")
    signature = form.pop("signature")
    assert validator.validate("https://pub.example/voice?x=1", form, signature)
    signature = peer.request.headers["X-Twilio-Signature"]
    assert validator.validate("wss://pub.example/media", {}, signature)
    (start,) = peer.events("start")
    assert start["start"]["customParameters"] == {"token": "one-time"}
    assert start["start"]["callSid"] == form["CallSid"]


async def test_the_address_of_the_webhook_is_used_when_none_is_given() -> None:
    """Without a media address the call goes where the answer says."""
    async with gateway(nothing) as stand_in:
        port = urlsplit(stand_in.url).port
        stand_in.answer = (
            f'<Response><Connect><Stream url="ws://127.0.0.1:{port}/media"/></Connect></Response>'
        )
        webhook_url = f"http://127.0.0.1:{port}/voice"
        report = await place_call("", quick(says=()), webhook_url=webhook_url)
        assert len(stand_in.peers) == 1
    assert report.close_code == 1000


async def test_without_a_webhook_the_media_address_itself_is_signed() -> None:
    """The upgrade's signature is made for the public ws address of what is asked."""
    async with gateway(nothing) as stand_in:
        auth = CallAuth(twilio_token="secret", public_url="https://pub.example")
        await place_call(f"{stand_in.url}/media", quick(says=()), auth=auth)
        signature = stand_in.peers[0].request.headers["X-Twilio-Signature"]
    assert RequestValidator("secret").validate("wss://pub.example/media", {}, signature)


async def test_refusals_are_told() -> None:
    """A refused upgrade, a refused webhook, nobody there, and no address at all."""
    async with gateway(nothing) as stand_in:
        url, port = stand_in.url, urlsplit(stand_in.url).port
        with pytest.raises(PeerRefused, match="403"):
            await place_call(f"{url}/closed", quick())
        with pytest.raises(PeerRefused, match="webhook answered 404"):
            await place_call(url, quick(), webhook_url=f"http://127.0.0.1:{port}/nowhere")
        with pytest.raises(PeerRefused, match="no answer"):
            await place_call("", quick())
    with pytest.raises(PeerRefused, match="no answer"):
        await place_call(f"{url}/media", quick())


async def test_a_gateway_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be sent any more the call ends and the report says why."""
    monkeypatch.setattr(caller, "_SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(caller, "_CLOSE_TIMEOUT_S", 0.2)
    released = asyncio.Event()

    async def act(_peer: Peer, _message: Any) -> None:
        await released.wait()

    async with gateway(act) as stand_in:
        # Fast enough to fill the buffers of both ends in a moment.
        plan = quick(provider="asterisk", codec="slin48", speed=2000.0, hang_up_after_s=3000.0)
        report = await place_call(f"{stand_in.url}/media", plan)
        released.set()
    assert report.errors == ("the gateway took nothing for 0.2 s",)
    assert report.ended_by == "gateway"


async def test_frames_keep_their_schedule() -> None:
    """In real time, half a second is 25 frames: nothing drifts, nothing is sent early."""
    times: list[float] = []

    async def act(_peer: Peer, message: Any) -> None:
        if message["event"] == "media":
            times.append(asyncio.get_running_loop().time())

    async with gateway(act) as stand_in:
        report = await place_call(
            f"{stand_in.url}/media", quick(says=(), speed=1.0, hang_up_after_s=0.5)
        )
    assert report.sent_ms == pytest.approx(520, abs=40)
    assert times[-1] - times[0] == pytest.approx(0.5, abs=0.15)
    assert report.lateness_ms < 200
