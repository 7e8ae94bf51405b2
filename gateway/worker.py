"""One worker of several: a gateway without an operations listener, which asks the front desk.

It does what its supervisor says and nothing on its own: signals are the supervisor's affair, and
when the supervisor is gone, so is the worker.
"""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from gateway.app import Running, Shared, open_gateway
from gateway.channel import Channel
from gateway.errors import GatewayError
from gateway.frontdesk import (
    Answer,
    Beat,
    DeskAdmission,
    Drain,
    Fair,
    Handed,
    Opened,
    Stop,
    encode,
    to_worker,
)
from gateway.garbage import leave_alone_what_lasts
from gateway.listener import Server, SharedListener, shared_socket
from gateway.settings import Settings
from gateway.tally import FOLDER_VARIABLE, socket_of

BEAT_EVERY_S: Final = 0.25
# What is left when the supervisor has died gets so long.
LEAVE_S: Final = 5.0
# How often, and how far apart, it is looked whether the supervisor has died.
_LOOKS: Final = 50
_LOOK_EVERY_S: Final = 0.02
# 50 agents with all their instructions.
_MAX_ORDERS_BYTES: Final = 8 * 1024 * 1024


class Orders(msgspec.Struct, frozen=True):
    """What a worker is told on its standard input: nothing of it is in a list of processes.

    ``line`` is the number of the inherited socket, ``settings`` as in ``Settings.for_worker``,
    ``supervisor`` the process id of who says so.
    """

    settings: dict[str, Any]
    line: int
    port: int
    token_key: bytes
    supervisor: int


class SupervisorLost(GatewayError):
    """The supervisor died, so the worker ends."""


def read_orders(stream: BinaryIO) -> Orders:
    """Read what the supervisor has to say.

    Raises:
        GatewayError: nothing of the kind came: somebody typed the command.
    """
    if stream.isatty():
        raise GatewayError("gateway worker is started by gateway serve --workers, not by hand")
    try:
        return msgspec.json.decode(stream.read(_MAX_ORDERS_BYTES), type=Orders)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise GatewayError("gateway worker is started by gateway serve --workers only") from None


def leave_signals_alone() -> None:
    """A stop is meant for all: the supervisor hears it, and says when this worker has to go."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


async def work(orders: Orders, settings: Settings) -> None:
    """Take calls until the supervisor says otherwise.

    Raises:
        SupervisorLost: it cannot say anything any more.
        OSError: the port cannot be listened on.
    """
    listening = shared_socket(settings.host, orders.port)
    post = _Post(socket.socket(fileno=orders.line), listening, orders.supervisor)
    shared = Shared(post.admission, orders.token_key, post.listen, _inside())
    try:
        async with open_gateway(settings, shared) as running:
            beating = asyncio.create_task(post.beat())
            leave_alone_what_lasts()
            try:
                await post.stay(running)
            finally:
                beating.cancel()
    finally:
        post.close()
        if post.clearing is not None:
            await post.clearing
    if post.clearing is not None:
        raise SupervisorLost("the supervisor is gone")


def _inside() -> str:
    """Where the supervisor looks for what the pages show."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return str(socket_of(Path(folder), os.getpid())) if folder else ""


class _Post:
    """A worker's end of the channel, its ear at the port, and what came through the channel."""

    def __init__(self, end: socket.socket, listening: socket.socket, supervisor: int) -> None:
        # Set when the supervisor is lost.
        self.clearing: asyncio.Task[None] | None = None
        self._supervisor = supervisor
        self._listening = listening
        self._listener: SharedListener | None = None
        self._drain: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._channel = Channel(end, self._received, self._lose)
        self.admission = DeskAdmission(self._channel.send)

    def listen(self, server: Server, tls: ssl.SSLContext | None) -> int:
        """Let calls in; returns the port."""
        self._listener = SharedListener(
            self._listening, server, tls, self._hand_over, self._tell_load
        )
        return self._listener.port

    def close(self) -> None:
        """Neither listen nor speak any more."""
        self._listening.close()
        self._channel.close()

    async def beat(self) -> None:
        """Show that the event loop runs."""
        while True:
            self._tell_load()
            await asyncio.sleep(BEAT_EVERY_S)

    def _tell_load(self) -> None:
        if self._listener is not None:
            self._channel.send(encode(Beat(self._listener.connections)))

    def _hand_over(self, connection: socket.socket) -> None:
        held = self._listener.connections if self._listener else 0
        self._channel.send(encode(Handed(held)), connection)

    async def stay(self, running: Running) -> None:
        """Until the calls are over after a drain, or at once."""
        self._channel.send(encode(Opened()))
        stopped = asyncio.create_task(self._stop.wait())
        draining = asyncio.create_task(self._drained(running))
        await asyncio.wait({stopped, draining}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, draining):
            task.cancel()

    async def _drained(self, running: Running) -> None:
        await running.drain(await self._drain)

    def _received(self, message: bytes, handed: socket.socket | None) -> None:
        told = to_worker(message)
        if isinstance(told, Answer):
            self.admission.answered(told)
        elif isinstance(told, Fair) and self._listener is not None:
            self._listener.least = told.least
        elif isinstance(told, Handed) and self._listener is not None and handed is not None:
            self._listener.adopt(handed)
        elif isinstance(told, Drain):
            self.admission.is_draining = True
            if not self._drain.done():
                self._drain.set_result(told.limit_s)
        elif isinstance(told, Stop):
            self._stop.set()

    def _lose(self) -> None:
        self._stop.set()
        self.clearing = asyncio.create_task(_clear_table(self._supervisor))
        asyncio.get_running_loop().call_later(LEAVE_S, _leave_at_once)


async def _clear_table(supervisor: int) -> None:
    """Nobody else is left to do it; a supervisor that is alive has other workers at it.

    The kernel closes what a process had open a moment before its children get another parent.
    """
    for _ in range(_LOOKS):
        if os.getppid() != supervisor:
            shutil.rmtree(os.environ.get(FOLDER_VARIABLE, ""), ignore_errors=True)
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def _leave_at_once() -> None:
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(1)
