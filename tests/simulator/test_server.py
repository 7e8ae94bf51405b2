"""The simulated service over real sockets: real clients, keys, paths, refusals, closes."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from azure.ai.voicelive import aio as voicelive
from azure.ai.voicelive.models import (
    AzureStandardVoice,
    InputAudioFormat,
    Modality,
    OutputAudioFormat,
    RequestSession,
    ServerEventResponseAudioDelta,
    ServerVad,
)
from azure.core.credentials import AzureKeyCredential
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeSessionCreateRequestParam

from gateway.errors import SettingsError
from gateway.simulator.agents import Call, Script, Turn, prompt
from gateway.simulator.faults import Faults
from gateway.simulator.options import DialectName
from gateway.simulator.plan import Pace
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from tests.referee import check_client_event, check_server_event
from tests.simulator.desk import coded, loud, quiet

FAST = Pace(speed=100.0, first_delta_s=0.02, jitter_s=0.0)
SPOKEN = quiet(400) + loud(600) + quiet(700)
APPEND_BYTES = 9600
GA_SESSION: RealtimeSessionCreateRequestParam = {
    "type": "realtime",
    "audio": {
        "input": {
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
            "transcription": {"model": "whisper-1"},
        }
    },
}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A fast parrot that wants the key "k"."""
    running = await start_simulator(SimulatorOptions(key="k", pace=FAST))
    yield running
    await running.close()


def _appends() -> Iterable[str]:
    starts = range(0, len(SPOKEN), APPEND_BYTES)
    return (coded(SPOKEN[start : start + APPEND_BYTES]) for start in starts)


async def _dial(
    simulator: Simulator, path: str, **headers: str
) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    try:
        return session, await session.ws_connect(simulator.url + path, headers=headers)
    except BaseException:
        await session.close()
        raise


async def _status(simulator: Simulator, path: str, **headers: str) -> int:
    try:
        session, socket = await _dial(simulator, path, **headers)
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    await socket.close()
    await session.close()
    return 101


async def _read_all(
    simulator: Simulator, path: str, *events: dict[str, Any], **headers: str
) -> tuple[list[dict[str, Any]], int | None]:
    """Send events, read to the end; what came, and the close code."""
    session, socket = await _dial(simulator, path, **headers)
    for event in events:
        await socket.send_json(event)
    got = [
        msgspec.json.decode(message.data)
        async for message in socket
        if message.type is aiohttp.WSMsgType.TEXT
    ]
    await session.close()
    return got, socket.close_code


# -- real clients


async def test_the_openai_client_holds_a_spoken_exchange(simulator: Simulator) -> None:
    """The GA client is greeted, speaks, is transcribed, hears its own voice."""
    heard = bytearray()
    transcripts: list[str] = []
    async with (
        AsyncOpenAI(base_url=f"{simulator.url}/openai/v1", api_key="k") as client,
        client.realtime.connect(model="dep") as connection,
    ):
        await connection.session.update(session=GA_SESSION)
        await connection.response.create()
        async with asyncio.timeout(10):
            async for event in connection:
                if event.type == "response.done" and len(transcripts) == 1:
                    for payload in _appends():
                        await connection.input_audio_buffer.append(audio=payload)
                if event.type == "response.output_audio_transcript.done":
                    transcripts.append(event.transcript)
                if event.type == "response.output_audio.delta":
                    heard += base64.b64decode(event.delta)
                if event.type == "conversation.item.input_audio_transcription.completed":
                    assert event.transcript == "1.4 seconds of speech."
                    break

    assert transcripts[0].startswith("Hello.")
    assert heard == prompt("hello.wav") + SPOKEN[100 * 48 : 1500 * 48]


async def test_the_voice_live_client_holds_a_spoken_exchange(simulator: Simulator) -> None:
    """The preview-style client of Azure configures, speaks, hears its own voice."""
    heard = bytearray()
    kinds = []
    options = RequestSession(
        modalities=[Modality.TEXT, Modality.AUDIO],
        instructions="Be brief.",
        voice=AzureStandardVoice(name="en-US-AvaNeural"),
        input_audio_format=InputAudioFormat.PCM16,
        output_audio_format=OutputAudioFormat.PCM16,
        turn_detection=ServerVad(threshold=0.5, prefix_padding_ms=300, silence_duration_ms=500),
    )
    async with voicelive.connect(
        endpoint=simulator.url, credential=AzureKeyCredential("k"), model="m"
    ) as connection:
        await connection.session.update(session=options)
        for payload in _appends():
            await connection.input_audio_buffer.append(audio=payload)
        async with asyncio.timeout(10):
            async for event in connection:
                kinds.append(event.type)
                if isinstance(event, ServerEventResponseAudioDelta):
                    heard += event.delta
                if event.type in ("response.done", "error"):
                    break

    assert "error" not in kinds
    assert kinds[:2] == ["session.created", "session.updated"]
    assert heard == SPOKEN[100 * 48 : 1500 * 48]


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/realtime?model=m", "ga"),
        ("/openai/v1/realtime?model=m", "ga"),
        ("/openai/realtime?api-version=2025-04-01-preview&deployment=m", "preview"),
    ],
)
async def test_every_event_on_the_wire_is_valid(
    simulator: Simulator, path: str, dialect: DialectName
) -> None:
    """A turn, a greeting, an error: all that arrives is known to the types of both dialects."""
    requests: list[dict[str, Any]] = [
        {"type": "input_audio_buffer.append", "audio": coded(SPOKEN)},
        {"type": "response.cancel", "event_id": "late"},
        {"type": "response.cancel", "event_id": "later"},
        {"type": "response.create"},
    ]
    for request in requests:
        check_client_event(dialect, request)
    fault = "&fault=close_code=1001&fault=close_when=done&fault=close_count=2"

    events, code = await _read_all(simulator, path + fault, *requests, **{"api-key": "k"})

    for event in events:
        check_server_event(dialect, event)
    assert code == 1001
    assert [event["type"] for event in events].count("response.done") == 2


# -- the door


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/realtime?model=m", {"Authorization": "Bearer k"}, 101),
        ("/v1/realtime?model=m", {"api-key": "k"}, 101),
        ("/v1/realtime?model=m", {"api-key": "wrong"}, 401),
        ("/v1/realtime?model=m", {}, 401),
        ("/v1/realtime", {"api-key": "k"}, 400),
        ("/openai/v1/realtime?model=m&api-version=2024-10-01-preview", {"api-key": "k"}, 401),
        ("/openai/realtime?deployment=m", {"api-key": "k"}, 400),
        ("/openai/realtime?deployment=m&api-version=2025-04-01-preview&api-key=k", {}, 101),
        ("/voice-live/realtime?model=m&api-version=2026-07-15", {"Authorization": "Basic k"}, 401),
        ("/elsewhere", {"api-key": "k"}, 404),
        ("/v1/realtime?model=m&fault=nonsense", {"api-key": "k"}, 400),
    ],
)
async def test_the_door_opens_with_path_key_and_model(
    simulator: Simulator, path: str, headers: dict[str, str], status: int
) -> None:
    """Each path takes its own query and the key in either header; all else is refused."""
    assert await _status(simulator, path, **headers) == status


async def test_an_unknown_deployment_is_not_found() -> None:
    """With a list of models any other is refused in the service's words; any key will do."""
    simulator = await start_simulator(SimulatorOptions(models=("mine",)))

    assert await _status(simulator, "/openai/v1/realtime?model=mine", **{"api-key": "x"}) == 101
    async with (
        aiohttp.ClientSession(headers={"api-key": "x"}) as session,
        session.get(f"{simulator.url}/openai/v1/realtime?model=other") as reply,
    ):
        body = await reply.json()

    await simulator.close()
    assert reply.status == 404
    assert body["error"]["code"] == "DeploymentNotFound"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_a_handshake_can_be_refused(simulator: Simulator, status: int) -> None:
    """Any status, with Retry-After where asked for."""
    query = f"model=m&fault=http_status={status}&fault=retry_after_s=7"

    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        await _dial(simulator, f"/v1/realtime?{query}", **{"api-key": "k"})

    assert raised.value.status == status
    assert raised.value.headers is not None
    assert raised.value.headers["Retry-After"] == "7"


async def test_only_the_first_connections_fail() -> None:
    """A fault for one connection is over with the second."""
    faults = Faults(connections=1, http_status=503)
    simulator = await start_simulator(SimulatorOptions(faults=faults))

    statuses = [
        await _status(simulator, "/v1/realtime?model=m", **{"api-key": "x"}) for _ in range(2)
    ]

    await simulator.close()
    assert statuses == [503, 101]


async def test_a_handshake_can_be_slow(simulator: Simulator) -> None:
    """A client that gives up first gets nothing."""
    path = "/v1/realtime?model=m&fault=handshake_delay_s=5"

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await _dial(simulator, path, **{"api-key": "k"})


async def test_the_beta_shape_is_disabled(simulator: Simulator) -> None:
    """A client with the beta header is closed with 4000 on OpenAI's path only."""
    headers = {"api-key": "k", "OpenAI-Beta": "realtime=v1"}

    events, code = await _read_all(simulator, "/v1/realtime?model=m", **headers)

    assert (events, code) == ([], 4000)
    azure = "/openai/realtime?deployment=m&api-version=2025-04-01-preview"
    assert await _status(simulator, azure, **headers) == 101


# -- closes


@pytest.mark.parametrize("code", [1001, 1006, 1011, 4000])
async def test_a_session_closes_with_the_code_asked_for(simulator: Simulator, code: int) -> None:
    """1006 is a cut without a close frame, the others are sent; what came before arrives."""
    path = f"/v1/realtime?model=m&fault=close_code={code}"

    events, got = await _read_all(simulator, path, **{"api-key": "k"})

    assert got == code
    if code != 1006:
        assert [event["type"] for event in events] == ["session.created"]


async def test_pings_can_stay_unanswered(simulator: Simulator) -> None:
    """A client's ping has its pong, but not with the fault."""
    answered = []
    for fault in ("no_pong=no", "no_pong"):
        path = f"/v1/realtime?model=m&fault={fault}"
        session = aiohttp.ClientSession(headers={"api-key": "k"})
        socket = await session.ws_connect(simulator.url + path, autoping=False)
        await socket.receive()
        await socket.ping(b"there?")
        await socket.send_json({"type": "input_audio_buffer.clear"})
        answered.append((await socket.receive()).type is aiohttp.WSMsgType.PONG)
        await socket.close()
        await session.close()

    assert answered == [True, False]


async def test_closing_the_server_ends_its_sessions() -> None:
    """Open clients get 1001, the port is gone, the sessions stay to be looked at."""
    simulator = await start_simulator()
    session, socket = await _dial(simulator, "/v1/realtime?model=m", **{"api-key": "x"})
    await socket.receive()
    assert simulator.active == 1
    reading = asyncio.create_task(socket.receive())

    await simulator.close()

    assert (await reading).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING)
    assert socket.close_code == 1001
    assert (simulator.active, len(simulator.sessions)) == (0, 1)
    await session.close()
    with pytest.raises(aiohttp.ClientConnectorError):
        await _status(simulator, "/v1/realtime?model=m")


async def test_a_taken_port_is_an_error(simulator: Simulator) -> None:
    """A second server on the same port says so."""
    with pytest.raises(OSError, match="address already in use"):
        await start_simulator(SimulatorOptions(port=simulator.port))


async def test_audio_of_old_sessions_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest ended sessions keep their sound."""
    simulator = await start_simulator()
    monkeypatch.setattr("gateway.simulator.server.MAX_AUDIO_KEPT", 1)
    append = {"type": "input_audio_buffer.append", "audio": coded(quiet(100))}
    path = "/v1/realtime?model=m&fault=close_code=1001&fault=close_when=configured"
    update = {"type": "session.update", "session": {"type": "realtime"}}

    for _ in range(2):
        await _read_all(simulator, path, append, update, **{"api-key": "k"})
    await simulator.close()

    kept = [len(session.hearing.heard.pcm) for session in simulator.sessions]
    assert kept == [0, 4800]


# -- agents


async def test_a_script_is_played(tmp_path: Path) -> None:
    """A script file answers a text with a tool call, each connection from its start."""
    path = tmp_path / "script.toml"
    path.write_text('[[turn]]\nafter = "text"\ncalls = [{ name = "f", arguments = { n = 1 } }]\n')
    simulator = await start_simulator(SimulatorOptions(script=path, pace=FAST))
    content = [{"type": "input_text", "text": "Hello"}]
    item = {"type": "message", "role": "user", "content": content}
    requests: list[dict[str, Any]] = [
        {"type": "conversation.item.create", "item": item},
        {"type": "response.create"},
    ]
    query = "/v1/realtime?model=m&fault=close_code=1001&fault=close_when=tool"

    for _ in range(2):
        events, _ = await _read_all(simulator, query, *requests, **{"api-key": "x"})
        assert events[-1]["response"]["output"][0]["arguments"] == '{"n":1}'

    await simulator.close()


async def test_a_script_can_be_given_ready_made() -> None:
    """Tests write their scripts as values."""
    script = Script((Turn(calls=(Call("f"),)),))

    simulator = await start_simulator(SimulatorOptions(script=script))

    assert simulator.url == f"http://127.0.0.1:{simulator.port}"
    await simulator.close()


async def test_a_bad_script_does_not_start(tmp_path: Path) -> None:
    """The mistake is told before the port is open."""
    path = tmp_path / "script.toml"
    path.write_text("[[turn]]\nsays = 1\n")

    with pytest.raises(SettingsError, match="says"):
        await start_simulator(SimulatorOptions(script=path))
