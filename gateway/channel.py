"""A private line between two processes of one gateway: whole messages, and open sockets with them.

A pair of Unix packet sockets, inherited rather than named: nobody else can reach it, a message
arrives whole or not at all, and whichever side dies, the other one is told by the kernel.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

# The longest message of ours has less than 300.
MAX_MESSAGE_BYTES: Final = 4096
# A side that lets so much lie unread has stopped working.
MAX_QUEUED: Final = 10_000
# Read in one go before others get their turn.
_BURST: Final = 64


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new line.

    Raises:
        OSError: the platform has no packet sockets (Linux has).
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end, on the running event loop.

    Args:
        end: the socket; the channel closes it.
        received: called with each message, and a socket that came with it or None.
        lost: called once when the other side is gone or does not read any more.
    """

    def __init__(
        self,
        end: socket.socket,
        received: Callable[[bytes, socket.socket | None], None],
        lost: Callable[[], None],
    ) -> None:
        end.settimeout(0)
        self._end = end
        self._received = received
        self._lost = lost
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._read)

    def send(self, message: bytes, handed: socket.socket | None = None) -> None:
        """Send a message, with a socket to hand over if one is given: it is closed on our side."""
        if not self._is_open or len(self._queue) >= MAX_QUEUED:
            _close(handed)
            self._lose()
            return
        self._queue.append((message, handed))
        if len(self._queue) == 1:
            self._write()

    def close(self) -> None:
        """Be gone; what was not sent yet is not sent."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        while self._queue:
            _close(self._queue.popleft()[1])

    def finish(self) -> None:
        """Hear what the other side still said before it died, and be gone."""
        for _ in range(MAX_QUEUED):
            if not self._read_one():
                break
        self.close()

    def _lose(self) -> None:
        if self._is_open:
            self.close()
            self._lost()

    def _read(self) -> None:
        for _ in range(_BURST):
            if not self._read_one():
                return

    def _read_one(self) -> bool:
        """Take one message; false where there is none, or will be none any more."""
        if not self._is_open:
            return False
        try:
            message, handed = _receive(self._end)
        except BlockingIOError:
            return False
        except OSError:
            message, handed = b"", None
        if message:
            self._received(message, handed)
        else:
            self._lose()
        return self._is_open

    def _write(self) -> None:
        while self._queue:
            message, handed = self._queue[0]
            try:
                _transmit(self._end, message, handed)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._write)
                return
            except OSError:
                # Told from within a read: what the other side still said may lie there.
                self._queue.clear()
                _close(handed)
                return
            self._queue.popleft()
            _close(handed)
        self._loop.remove_writer(self._end.fileno())


def _receive(end: socket.socket) -> tuple[bytes, socket.socket | None]:
    """One message; b"" when the other side is gone, or sent what no side of ours sends.

    The socket is missing where this process has as many files open as it may: it is closed then.
    """
    message, handed, told, _ = socket.recv_fds(end, MAX_MESSAGE_BYTES, 1)
    if told & socket.MSG_TRUNC:
        message = b""
    sockets = [socket.socket(fileno=number) for number in handed]
    for each in sockets:
        each.set_inheritable(False)
    if not message:
        for each in sockets:
            each.close()
    return message, next(iter(sockets), None) if message else None


def _transmit(end: socket.socket, message: bytes, handed: socket.socket | None) -> None:
    if handed is None:
        end.send(message)
    else:
        socket.send_fds(end, [message], [handed.fileno()])


def _close(handed: socket.socket | None) -> None:
    if handed is not None:
        with suppress(OSError):
            handed.close()
