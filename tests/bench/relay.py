"""A small relay for tests that can be told to misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType, web


@dataclass(frozen=True, slots=True)
class Vices:
    """What it does wrong."""

    drops_every: int = 0
    delay_s: float = 0.0
    ignores_barge_in: bool = False
    drops_deltas_every: int = 0
    plays_on: bool = False
    hangs_up_after: int = 0


_UPDATE = {
    "type": "session.update",
    "session": {
        "type": "realtime",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}},
            "output": {"format": {"type": "audio/pcmu"}},
        },
    },
}


class _Call:
    """Mu-law both ways, nothing converted."""

    def __init__(
        self, vices: Vices, caller: web.WebSocketResponse, model: ClientWebSocketResponse
    ) -> None:
        self._vices = vices
        self._caller = caller
        self._model = model
        self._stream_sid = ""
        self._frames = self._deltas = 0
        self._last_media = ""
        self._appends: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the caller leaves."""
        await self._model.send_json(_UPDATE)
        down = asyncio.create_task(self._down())
        try:
            await self._up()
        finally:
            down.cancel()

    async def _up(self) -> None:
        async for message in self._caller:
            event = json.loads(message.data)
            if event["event"] == "start":
                self._stream_sid = event["start"]["streamSid"]
            elif event["event"] == "media":
                self._frames += 1
                if self._frames == self._vices.hangs_up_after:
                    return
                if self._frames % (self._vices.drops_every or 10**9):
                    await self._append(event["media"]["payload"])

    async def _append(self, payload: str) -> None:
        message = {"type": "input_audio_buffer.append", "audio": payload}
        if not self._vices.delay_s:
            await self._model.send_json(message)
            return
        task = asyncio.create_task(self._append_late(message))
        self._appends.add(task)
        task.add_done_callback(self._appends.discard)

    async def _append_late(self, message: dict[str, str]) -> None:
        await asyncio.sleep(self._vices.delay_s)
        if not self._model.closed:
            await self._model.send_json(message)

    async def _down(self) -> None:
        async for message in self._model:
            if message.type is not WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == "response.output_audio.delta":
                self._deltas += 1
                media = {"payload": event["delta"]}
                self._last_media = self._message("media", media=media)
                if self._deltas % (self._vices.drops_deltas_every or 10**9):
                    await self._caller.send_str(self._last_media)
            elif event["type"] == "input_audio_buffer.speech_started":
                await self._interrupt()

    async def _interrupt(self) -> None:
        if not self._vices.ignores_barge_in:
            await self._caller.send_str(self._message("clear"))
        if self._vices.plays_on:
            await self._caller.send_str(self._last_media)

    def _message(self, name: str, **members: object) -> str:
        return json.dumps({"event": name, "streamSid": self._stream_sid, **members})


@asynccontextmanager
async def open_relay(port: int, model_port: int, vices: Vices) -> AsyncIterator[None]:
    """A relay on a port, its model on another."""
    async with aiohttp.ClientSession() as http:

        async def answer(request: web.Request) -> web.WebSocketResponse:
            caller = web.WebSocketResponse(compress=False)
            await caller.prepare(request)
            async with http.ws_connect(f"http://127.0.0.1:{model_port}/v1/realtime") as model:
                await _Call(vices, caller, model).run()
            return caller

        app = web.Application()
        app.router.add_get("/media", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield
        finally:
            await runner.cleanup()
