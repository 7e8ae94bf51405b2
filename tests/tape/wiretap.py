"""A listener on the wire: a WebSocket relay that writes down what passes, and changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import WSMsgType, web

_HEADERS = ("api-key", "authorization", "x-twilio-signature")
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


@dataclass
class Wiretap:
    """What passed: from the client to the target, and back."""

    target: str
    url: str = ""
    there: list[str | bytes] = field(default_factory=list)
    back: list[str | bytes] = field(default_factory=list)

    async def relay(self, request: web.Request) -> web.WebSocketResponse:
        """One connection, to its end."""
        protocols = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        protocols = [name.strip() for name in protocols if name.strip()]
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        near = web.WebSocketResponse(protocols=protocols, compress=False)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                self.target + request.raw_path, headers=headers, protocols=protocols
            ) as far,
        ):
            await near.prepare(request)
            await asyncio.gather(_pump(near, far, self.there), _pump(far, near, self.back))
        return near


async def _pump(source: _Socket, sink: _Socket, passed: list[str | bytes]) -> None:
    async for message in source:
        passed.append(message.data)
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        else:
            await sink.send_bytes(message.data)
    await sink.close(code=source.close_code or 1000)


@asynccontextmanager
async def wiretap(target: str) -> AsyncIterator[Wiretap]:
    """The same, listening; ``url`` is where."""
    tap = Wiretap(target)
    app = web.Application()
    app.router.add_get("/{path:.*}", tap.relay)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tap.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield tap
    finally:
        await runner.cleanup()
