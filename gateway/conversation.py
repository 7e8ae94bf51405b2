"""What was said and heard on a call, so that a new session can go on where the old one ended.

Agent words count only as far as they were heard: a model that is told the rest would talk as if
the caller knew it.
"""

from collections import deque
from typing import Literal

from gateway.events import AddMessage

# Turns kept for a new session; older ones have had their say.
TURNS_KEPT = 100
# Items whose words are still coming in while they are played.
ITEMS_KEPT = 50
# Of one item or turn; an hour of speech is half of it.
CHARS_KEPT = 100_000


class Conversation:
    """Collects the words of both sides, item by item."""

    def __init__(self) -> None:
        self._turns: deque[AddMessage] = deque(maxlen=TURNS_KEPT)
        self._words: dict[str, str] = {}

    def agent_words(self, item_id: str, text: str) -> None:
        """More words of an item of the agent."""
        self._put(item_id, self._words.get(item_id, "") + text)

    def agent_text(self, item_id: str, text: str) -> None:
        """All words of an item of the agent."""
        self._put(item_id, text)

    def heard(self, item_id: str, received_ms: float, heard_ms: float) -> str:
        """Close an item: returns, and remembers, the words of it that were heard."""
        text = heard_words(self._words.pop(item_id, ""), received_ms, heard_ms)
        self._say("assistant", text)
        return text

    def words(self, item_id: str) -> str:
        """What came so far of an item that is still being played."""
        return self._words.get(item_id, "")

    def caller_said(self, text: str) -> None:
        """The caller's words of one turn."""
        self._say("user", text)

    def replay(self) -> list[AddMessage]:
        """The conversation as messages for a new session, oldest first."""
        return list(self._turns)

    def _say(self, role: Literal["user", "assistant"], text: str) -> None:
        if text.strip():
            self._turns.append(AddMessage(role, text.strip()[:CHARS_KEPT]))

    def _put(self, item_id: str, text: str) -> None:
        self._words[item_id] = text[:CHARS_KEPT]
        while len(self._words) > ITEMS_KEPT:
            self._words.pop(next(iter(self._words)))


def heard_words(text: str, received_ms: float, heard_ms: float) -> str:
    """The part of a text that was heard, taken in proportion to the sound, in whole words."""
    if heard_ms >= received_ms:
        return text
    cut = int(len(text) * heard_ms / received_ms)
    return text[:cut].rpartition(" ")[0] if cut < len(text) else text
