"""A port that several processes listen on, and what each does to keep their shares even.

The kernel deals connections out by a hash (SO_REUSEPORT), which is as even as the toss of a coin:
of 40 calls one of two workers may get 26. So a worker that has more connections than the freest
one hands a new one over before a byte of it is read.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

# Connections a worker may have more than the freest one before it hands new ones over.
SLACK: Final = 1
BACKLOG: Final = 128
HANDSHAKE_S: Final = 10.0
# No file descriptor is free: try again after this.
PAUSE_S: Final = 1.0
# Accepted in one go before others get their turn.
_BURST: Final = 32


class Server(Protocol):
    """What takes connections: aiohttp's ``web.Server``."""

    @property
    def connections(self) -> Iterable[asyncio.Protocol]:
        """Those that are open."""

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one more."""


def shared_socket(host: str, port: int, *, is_alone: bool = False) -> socket.socket:
    """A socket on an address that others of this user may have too; it does not listen yet.

    Args:
        host: a name or address; the first address of a name is taken.
        port: 0 takes a free one.
        is_alone: nobody may listen there already, not even one who shares.

    Raises:
        OSError: the address is taken by somebody who does not share, or not ours.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    shared = socket.socket(family, socket.SOCK_STREAM)
    try:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(not is_alone))
        shared.bind(address)
    except BaseException:
        shared.close()
        raise
    return shared


class SharedListener:
    """One worker's ear at the port.

    Args:
        listening: a socket of ``shared_socket``; the listener closes it.
        server: takes the connections.
        tls: what connections are encrypted with, or None.
        hand_over: takes a connection to the freest worker, and closes it here.
        taken: called when there are more connections than before.
    """

    def __init__(
        self,
        listening: socket.socket,
        server: Server,
        tls: ssl.SSLContext | None,
        hand_over: Callable[[socket.socket], None],
        taken: Callable[[], None],
    ) -> None:
        self.least = 0
        self._listening = listening
        self._server = server
        self._tls = tls
        self._hand_over = hand_over
        self._taken = taken
        self._coming_in: dict[asyncio.Protocol, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        listening.settimeout(0)
        listening.listen(BACKLOG)
        self._loop.add_reader(listening.fileno(), self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    @property
    def connections(self) -> int:
        """Those of this worker; one that is coming in may be open already."""
        return len({*self._server.connections, *self._coming_in})

    def close(self) -> None:
        """Listen no more; connections that were taken go on."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()

    def adopt(self, connection: socket.socket) -> None:
        """Take a connection, whoever accepted it."""
        connection.settimeout(0)
        protocol = self._server()
        task = self._loop.create_task(self._enter(connection, protocol))
        self._coming_in[protocol] = task
        task.add_done_callback(lambda _: self._coming_in.pop(protocol))
        self._taken()

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._pause()
                return
            if self.connections > self.least + SLACK:
                self._hand_over(connection)
            else:
                self.adopt(connection)

    def _pause(self) -> None:
        """The connection stays in the kernel's queue, which would wake us again and again."""
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _enter(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
            )
        except OSError:
            # A peer that speaks no TLS, or has left: as asyncio's own servers take it.
            with suppress(OSError):
                connection.close()
