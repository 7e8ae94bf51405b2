"""Messages arrive whole and in order, sockets come along, and a dead other side is noticed."""

import asyncio
import resource
import socket

import pytest

from gateway.channel import MAX_MESSAGE_BYTES, MAX_QUEUED, Channel, channel_pair
from tests.running import happens


class _Side:
    """One end, and what came to it."""

    def __init__(self, end: socket.socket) -> None:
        self.messages: list[bytes] = []
        self.sockets: list[socket.socket] = []
        self.losses = 0
        self.channel = Channel(end, self._received, self._lost)

    def _received(self, message: bytes, handed: socket.socket | None) -> None:
        self.messages.append(message)
        if handed is not None:
            self.sockets.append(handed)

    def _lost(self) -> None:
        self.losses += 1


def _two_sides() -> tuple[_Side, _Side]:
    one, other = channel_pair()
    return _Side(one), _Side(other)


async def test_messages_arrive_whole_and_in_order() -> None:
    """More than the kernel holds: the rest waits its turn, nothing is lost, joined or cut."""
    one, other = _two_sides()
    sent = [b"%d " % number * 50 for number in range(3000)]
    for message in sent:
        one.channel.send(message)
    waiting = len(one.channel._queue)
    other.channel.send(b"back")

    assert waiting > 0
    assert await happens(lambda: len(other.messages) == len(sent))
    assert other.messages == sent
    assert one.messages == [b"back"]
    one.channel.close()
    assert await happens(lambda: other.losses == 1)


async def test_a_socket_comes_with_its_message() -> None:
    """What is written into the one that was handed over comes out where it was meant to."""
    one, other = _two_sides()
    ours, theirs = socket.socketpair()
    one.channel.send(b"before")
    one.channel.send(b"with", theirs)
    one.channel.send(b"after")
    assert await happens(lambda: len(other.messages) == 3)
    (received,) = other.sockets
    with ours, received:
        received.send(b"hello")
        assert ours.recv(10) == b"hello"
        assert not received.get_inheritable()

    assert theirs.fileno() == -1
    one.channel.close()
    other.channel.close()


async def test_each_side_is_told_once_that_the_other_is_gone() -> None:
    """What was said before is still heard; what is said afterwards goes nowhere, quietly."""
    one, other = _two_sides()
    one.channel.send(b"last words")
    one.channel.close()
    one.channel.close()
    assert await happens(lambda: other.losses == 1)
    other.channel.send(b"anybody?")

    assert other.messages == [b"last words"]
    assert (one.losses, other.losses) == (0, 1)


async def test_what_a_dead_side_still_said_is_heard_before_the_end() -> None:
    """All of it in one go, more than is read in a turn; and no word more of one that lives."""
    one, other = _two_sides()
    sent = [b"%d" % number for number in range(150)]
    for message in sent:
        one.channel.send(message)
    one.channel.close()
    other.channel.finish()
    other.channel.finish()
    assert (other.messages, other.losses) == (sent, 1)

    alive, ended = _two_sides()
    alive.channel.send(b"still here")
    ended.channel.finish()
    assert (ended.messages, ended.losses) == ([b"still here"], 0)
    assert await happens(lambda: alive.losses == 1)


async def test_who_does_not_read_is_given_up() -> None:
    """The queue has an end; a socket that was to be handed over is not left open."""
    reader, writer = channel_pair()
    losses: list[int] = []
    channel = Channel(writer, lambda _message, _handed: None, lambda: losses.append(1))
    handed, far = socket.socketpair()
    with reader, far:
        for _ in range(MAX_QUEUED):
            channel.send(b"x")
        channel.send(b"x", handed)
        for _ in range(MAX_QUEUED):
            channel.send(b"x")

    assert losses == [1]
    assert handed.fileno() == -1
    assert not channel._queue


@pytest.mark.parametrize("message", [b"x" * (MAX_MESSAGE_BYTES + 1)])
async def test_a_message_that_is_too_long_ends_the_line(message: bytes) -> None:
    """No side of ours sends one, so whoever does is not understood at all."""
    one, other = _two_sides()
    one.channel.send(message)
    assert await happens(lambda: other.losses == 1)

    assert other.messages == []
    one.channel.close()
    await asyncio.sleep(0)


async def test_a_socket_that_there_is_no_room_for_is_lost_alone() -> None:
    """A side with as many files as it may have open loses one connection, and not the line."""
    one, other = _two_sides()
    ours, theirs = socket.socketpair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.channel.send(b"with", theirs)
    try:
        # Below what is open already: nothing more can be opened.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        assert await happens(lambda: bool(other.messages or other.losses))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    other.channel.send(b"still here")
    assert await happens(lambda: one.messages == [b"still here"])

    assert (other.messages, other.sockets, other.losses) == ([b"with"], [], 0)
    with ours:
        assert ours.recv(10) == b""  # whoever was to be handed over is told at once
    one.channel.close()
    other.channel.close()
