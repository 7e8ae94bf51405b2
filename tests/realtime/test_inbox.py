"""A conversation of one reads its link message by message."""

import asyncio

from gateway.realtime import Link, Listener
from gateway.realtime.inbox import INBOX_LIMIT, messages
from tests.timeless import run_timeless


class Line(Link):
    """A link into which the test speaks; it keeps what comes before anybody listens."""

    close_code = 1006
    close_reason = ""
    is_clogged = False

    def __init__(self, *kept: str | bytes) -> None:
        self.kept = kept
        self.listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Tell what was kept."""
        self.listener = listener
        self.say(*self.kept)

    def say(self, *said: str | bytes) -> None:
        """The peer sends these."""
        assert self.listener is not None
        for message in said:
            self.listener.message_came(message)

    def leave(self) -> None:
        """The peer closes."""
        assert self.listener is not None
        self.listener.link_closed()

    def send(self, *messages: str | bytes) -> None:
        """Nobody answers here."""
        raise AssertionError(messages)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Nothing to close."""


def test_messages_come_in_order_until_the_link_is_closed() -> None:
    """What was kept, what came while nobody looked, what is waited for; then the end."""

    async def scene() -> None:
        line = Line("kept", b"too")
        inbox = messages(line)
        assert [await anext(inbox), await anext(inbox)] == ["kept", b"too"]
        line.say("later")
        assert await anext(inbox) == "later"
        waiting = asyncio.ensure_future(anext(inbox))
        await asyncio.sleep(1)  # of run_timeless: takes no time
        assert not waiting.done()
        line.say("awaited", "last")
        line.leave()

        assert await waiting == "awaited"
        assert [message async for message in inbox] == ["last"]

    run_timeless(scene())


def test_nobody_listens_before_the_first_message_is_asked_for() -> None:
    """The link keeps what comes until then, as its contract says."""

    async def scene() -> None:
        line = Line("kept")
        inbox = messages(line)
        assert line.listener is None

        assert await anext(inbox) == "kept"

    run_timeless(scene())


def test_an_inbox_nobody_reads_is_bounded() -> None:
    """Whoever stops reading gets what fitted, and then the end rather than a gap."""

    async def scene() -> None:
        line = Line("0")
        inbox = messages(line)
        first = await anext(inbox)
        line.say(*(str(number) for number in range(1, INBOX_LIMIT * 2)))
        line.leave()

        assert first == "0"
        rest = [message async for message in inbox]
        assert rest == [str(number) for number in range(1, INBOX_LIMIT + 1)]

    run_timeless(scene())
