"""Which worker has which call: the rows of all their consoles as one list; sans-I/O.

Rows are passed on as the workers wrote them. Each change gets the next number, so that whoever
shows calls asks for what is newer than the number seen last. Calls that go on are all here, of
those that ended the last ``MAX_ENDED``.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec

# Some 700 bytes each.
MAX_ENDED: Final = 4000


class _Key(msgspec.Struct):
    """Of a row, what matters here."""

    call_id: str
    provider_call_id: str
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A call: its row as JSON, and the worker that has it; None = it is gone with its worker."""

    worker: int | None
    row: msgspec.Raw
    call_id: str
    provider_call_id: str
    is_over: bool
    changed: int

    def plain(self) -> dict[str, Any]:
        """The row as data."""
        row: dict[str, Any] = msgspec.json.decode(self.row)
        return row


class Directory:
    """The calls of one gateway."""

    def __init__(self) -> None:
        self.version = 0
        # In the order of their last change, and of their end.
        self._calls: OrderedDict[str, Entry] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def tell(self, worker: int | None, rows: Iterable[msgspec.Raw]) -> None:
        """Take note of rows of a worker; None for a call whose worker is gone.

        Raises:
            DecodeError: one of them is no row; none is taken then.
        """
        for key, row in [(_key(row), row) for row in rows]:
            self._note(worker, key, row)
        while len(self._ended) > MAX_ENDED:
            call_id, _ = self._ended.popitem(last=False)
            del self._calls[call_id]

    def _note(self, worker: int | None, key: _Key, row: msgspec.Raw) -> None:
        self.version += 1
        is_over = key.ended_at is not None
        self._calls[key.call_id] = Entry(
            worker, row, key.call_id, key.provider_call_id, is_over, self.version
        )
        self._calls.move_to_end(key.call_id)
        if is_over:
            self._ended[key.call_id] = None

    def forget(self, call_id: str) -> None:
        """Know nothing of a call."""
        self._calls.pop(call_id, None)
        self._ended.pop(call_id, None)

    def lose(self, worker: int) -> list[Entry]:
        """The worker is gone, and its calls with it; returns those that had not ended."""
        lost = [entry for entry in self._calls.values() if entry.worker == worker]
        for entry in lost:
            self.forget(entry.call_id)
        return [entry for entry in lost if not entry.is_over]

    def worker_of(self, call_id: str) -> int | None:
        """Who has this call; None when nobody has."""
        entry = self._calls.get(call_id)
        return entry.worker if entry else None

    def changed_since(self, version: int, limit: int) -> list[msgspec.Raw]:
        """Rows that changed after this number: all calls that go on, so many that ended."""
        changed = list(self._newer(version))
        ended = (entry for entry in changed if entry.is_over)
        going_on = [entry.row for entry in changed if not entry.is_over]
        return going_on + [entry.row for entry in islice(ended, limit)]

    def _newer(self, version: int) -> Iterator[Entry]:
        for entry in reversed(self._calls.values()):
            if entry.changed <= version:
                return
            yield entry

    def find(self, text: str, limit: int) -> list[Entry]:
        """Calls with this text in one of their ids, the latest change first."""
        wanted = text.strip().lower()
        entries = reversed(self._calls.values())
        return list(islice((entry for entry in entries if _has_id(entry, wanted)), limit))


_key: Final = msgspec.json.Decoder(_Key).decode


def _has_id(entry: Entry, wanted: str) -> bool:
    return wanted in entry.call_id.lower() or wanted in entry.provider_call_id.lower()
