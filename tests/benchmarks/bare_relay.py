"""The floor a gateway is compared with: aiohttp, websockets and audioop, and nothing else.

No logs, no metrics, no ledger, no error handling, no pacing: media becomes append, delta becomes
media, ``speech_started`` becomes ``clear``. Not a gateway. Run it, then measure it in the same
session as ours:

    python -m tests.benchmarks.bare_relay --port 5055 --realtime ws://127.0.0.1:5056
    gateway bench --against ws://127.0.0.1:5055/ --realtime-port 5056 --pid PID
"""

import argparse
import asyncio
import base64
import json
import os
import warnings
from typing import Any

from aiohttp import WSMsgType, web
from websockets.asyncio.client import ClientConnection, connect

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

_SESSION = {
    "type": "session.update",
    "session": {
        "type": "realtime",
        "audio": {
            "input": {"format": {"type": "audio/pcm", "rate": 24000}},
            "output": {"format": {"type": "audio/pcm", "rate": 24000}},
        },
    },
}


class Relay:
    """One call."""

    def __init__(self, caller: web.WebSocketResponse, model: ClientConnection) -> None:
        self._caller = caller
        self._model = model
        self._stream_sid = ""
        self._up: Any = None
        self._down: Any = None

    async def run(self) -> None:
        """Both ways, until the caller leaves."""
        await self._model.send(json.dumps(_SESSION))
        down = asyncio.create_task(self._relay_down())
        try:
            await self._relay_up()
        finally:
            down.cancel()

    async def _relay_up(self) -> None:
        async for message in self._caller:
            if message.type is not WSMsgType.TEXT:
                return
            event = json.loads(message.data)
            if event["event"] == "media":
                await self._append(event["media"]["payload"])
            elif event["event"] == "start":
                self._stream_sid = event["start"]["streamSid"]
            elif event["event"] == "stop":
                return

    async def _append(self, payload: str) -> None:
        narrow = audioop.ulaw2lin(base64.b64decode(payload), 2)
        wide, self._up = audioop.ratecv(narrow, 2, 1, 8000, 24000, self._up)
        audio = base64.b64encode(wide).decode()
        await self._model.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

    async def _relay_down(self) -> None:
        async for message in self._model:
            event = json.loads(message)
            if event["type"] == "response.output_audio.delta":
                await self._play(event["delta"])
            elif event["type"] == "input_audio_buffer.speech_started":
                clear = {"event": "clear", "streamSid": self._stream_sid}
                await self._caller.send_str(json.dumps(clear))

    async def _play(self, delta: str) -> None:
        wide = base64.b64decode(delta)
        narrow, self._down = audioop.ratecv(wide, 2, 1, 24000, 8000, self._down)
        payload = base64.b64encode(audioop.lin2ulaw(narrow, 2)).decode()
        media = {"payload": payload}
        message = {"event": "media", "streamSid": self._stream_sid, "media": media}
        await self._caller.send_str(json.dumps(message))


def application(realtime_url: str) -> web.Application:
    """The relay, whatever the path."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        caller = web.WebSocketResponse(compress=False)
        await caller.prepare(request)
        async with connect(realtime_url, compression=None, proxy=None) as model:
            await Relay(caller, model).run()
        return caller

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description="The plain floor of a voice gateway.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--realtime", required=True, help="ws://HOST:PORT of the model")
    wishes = parser.parse_args()
    print(f"pid {os.getpid()}", flush=True)  # noqa: T201  for --pid
    web.run_app(
        application(wishes.realtime),
        host="127.0.0.1",
        port=wishes.port,
        print=None,
        access_log=None,
    )


if __name__ == "__main__":
    main()
