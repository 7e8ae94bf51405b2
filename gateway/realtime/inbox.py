"""A link read message by message, for those who hold one conversation and have time."""

import asyncio
from collections.abc import AsyncIterator

from gateway.realtime import Link, Listener

# A minute of a model's deltas; who reads no faster gets no more.
INBOX_LIMIT = 4096


async def messages(link: Link) -> AsyncIterator[str | bytes]:
    """Every message of ``link`` until it is closed, or until ``INBOX_LIMIT`` of them wait."""
    inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    def take(message: str | bytes) -> None:
        if inbox.qsize() < INBOX_LIMIT:
            inbox.put_nowait(message)
        elif inbox.qsize() == INBOX_LIMIT:
            inbox.put_nowait(None)

    link.listen(Listener(take, lambda: None, lambda: inbox.put_nowait(None)))
    while (message := await inbox.get()) is not None:
        yield message
