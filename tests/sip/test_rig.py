"""The rig itself, against a WebSocket that sends back whatever it hears."""

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gateway.audio.compare import correlation_per_second
from tests.sip.conftest import StartPbx, StartPhone
from tests.sip.pbx import Extension, PbxOptions
from tests.sip.phone import RATE_HZ

pytestmark = [
    pytest.mark.sip,
    pytest.mark.xdist_group("sip"),
    pytest.mark.timeout(120, func_only=True),  # fetching Asterisk has a limit of its own
]

_CALLER = Path(__file__).parents[2] / "gateway/prompts/caller.wav"
_SECONDS = 5


@dataclass(slots=True)
class Echo:
    """A far end that repeats: what it was told, and how each call ended."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    closed: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _sockets: list[ServerConnection] = field(default_factory=list)

    async def answer(self, socket: ServerConnection) -> None:
        """Repeat all sound of one call; what is text is only kept."""
        assert socket.request is not None
        self.paths.append(socket.request.path)
        self.logins.append(socket.request.headers.get("Authorization", ""))
        self._sockets.append(socket)
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    await socket.send(message)
                else:
                    self.told.append(message)
        except ConnectionClosed:
            pass  # Asterisk left while we were sending: the close code says how
        self.closed.put_nowait(socket.close_code or 0)

    async def hang_up(self) -> None:
        """Ask Asterisk to end the call."""
        await self._sockets[-1].send('{"command":"HANGUP"}')


@asynccontextmanager
async def _running_echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with serve(
        echo.answer, "127.0.0.1", 0, subprotocols=[Subprotocol("media")], compression=None
    ) as server:
        echo.port = next(iter(server.sockets)).getsockname()[1]
        yield echo


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """An echo that listens."""
    async with _running_echo() as echo:
        yield echo


def _options(echo: Echo, extension: Extension) -> PbxOptions:
    url = f"ws://127.0.0.1:{echo.port}/asterisk/media"
    return PbxOptions(url, [extension], "pbx", "made-up")


def _caller_pcm() -> bytes:
    with wave.open(str(_CALLER), "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2)
        return file.readframes(_SECONDS * RATE_HZ)


@pytest.mark.parametrize(
    ("extension", "bar"),
    [
        # mu-law passes through Asterisk untouched; 24 kHz is resampled by it twice.
        (Extension("600"), 0.99),
        (Extension("601", has_json=False), 0.99),
        (Extension("602", codec="slin24"), 0.98),
    ],
    ids=["ulaw-json", "ulaw-plain", "slin24-json"],
)
async def test_the_caller_hears_an_echo(
    start_pbx: StartPbx, start_phone: StartPhone, echo: Echo, extension: Extension, bar: float
) -> None:
    """What the phone says comes back to it second by second, so the rig loses nothing itself."""
    said = _caller_pcm()
    pbx = await start_pbx(_options(echo, extension))
    phone = await start_phone(said)

    await phone.call(extension.number, pbx.sip_port)
    await asyncio.sleep(_SECONDS + 1)  # the length of what is said: a call takes the time it takes
    await phone.hang_up()

    assert await asyncio.wait_for(echo.closed.get(), 5) == 1000
    alike = correlation_per_second(said, phone.heard_pcm(), RATE_HZ)
    assert len(alike) >= _SECONDS - 1
    assert min(alike) > bar, alike
    assert correlation_per_second(said, phone.said_pcm(), RATE_HZ) == pytest.approx(
        [1.0] * len(alike), abs=1e-6
    )
    assert echo.told[0].startswith("{" if extension.has_json else "MEDIA_START ")


async def test_keys_and_numbers_arrive(
    start_pbx: StartPbx, start_phone: StartPhone, echo: Echo
) -> None:
    """Pressed keys, the numbers of both sides and the login reach the WebSocket."""
    pbx = await start_pbx(_options(echo, Extension("603", parameters=("shop=7",))))
    phone = await start_phone(b"")

    await phone.call("603", pbx.sip_port)
    await phone.press("15#")
    await phone.hang_up()
    await asyncio.wait_for(echo.closed.get(), 5)

    events = [json.loads(text) for text in echo.told]
    assert [event["digit"] for event in events if event["event"] == "DTMF_END"] == ["1", "5", "#"]
    assert echo.paths == ["/asterisk/media?from=caller&to=603&shop=7"]
    assert echo.logins == ["Basic cGJ4Om1hZGUtdXA="]


async def test_the_far_end_hangs_up(
    start_pbx: StartPbx, start_phone: StartPhone, echo: Echo
) -> None:
    """A HANGUP of the far end ends the phone call and leaves no channel behind."""
    pbx = await start_pbx(_options(echo, Extension("604")))
    phone = await start_phone(b"")

    await phone.call("604", pbx.sip_port)
    await echo.hang_up()

    await phone.hung_up(timeout_s=5)
    assert await asyncio.wait_for(echo.closed.get(), 5) == 1000
    assert await pbx.active_calls() == 0


async def test_a_call_nobody_answers_is_told(start_pbx: StartPbx, start_phone: StartPhone) -> None:
    """A gateway that is not there is a refused call with Asterisk's reason, not a hanging test."""
    async with _running_echo() as gone:
        options = _options(gone, Extension("605"))
    pbx = await start_pbx(options)
    phone = await start_phone(b"")

    with pytest.raises(RuntimeError, match="503"):
        await phone.call("605", pbx.sip_port)
