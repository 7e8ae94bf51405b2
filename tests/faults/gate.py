"""A TCP gate between two programs that can refuse, swallow or cut what passes through it."""

import asyncio
from contextlib import suppress
from typing import Literal

Mode = Literal["open", "deaf"]
_CHUNK_BYTES = 65536


class Gate:
    """Listens on a port of its own and carries every connection to ``port``.

    ``mode`` "deaf": a new connection is accepted and what it says goes nowhere.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._held: set[asyncio.StreamWriter] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.port = 0
        self.mode: Mode = "open"
        self.accepted = 0

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop listening: a new connection meets a closed port, those there are go on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        self.refuse()
        for writer in list(self._held):
            writer.transport.abort()
        await self._is_empty.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._held.add(writer)
        self._is_empty.clear()
        try:
            if self.mode == "deaf":
                await _swallow(reader)
            else:
                await self._connect(reader, writer)
        finally:
            self._held.discard(writer)
            writer.transport.abort()
            if not self._held:
                self._is_empty.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far_writer))
                group.create_task(_pump(far_reader, writer))
        finally:
            far_writer.transport.abort()


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(_CHUNK_BYTES):
            pass


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction; its end ends the other one too, once what was said has left."""
    with suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with suppress(ConnectionError, OSError, RuntimeError):
        writer.write_eof()
