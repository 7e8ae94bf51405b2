"""Who is due in which millisecond; sans-I/O."""

from collections.abc import Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

_SLOTS = 16384


class Wheel(Generic[_Item]):
    """Slots of one millisecond; what is put in comes out once, in time order.

    Nothing may be put in further ahead than the wheel is large (16 s).
    """

    def __init__(self, now_ms: int) -> None:
        self._slots: list[list[_Item]] = [[] for _ in range(_SLOTS)]
        self.next_ms = now_ms + 1

    def put(self, item: _Item, at_ms: int) -> None:
        """Have ``item`` come out at ``at_ms``, or at once if that is over.

        Raises:
            ValueError: that is too far ahead.
        """
        if at_ms - self.next_ms >= _SLOTS:
            raise ValueError(f"{at_ms - self.next_ms} ms is too far ahead for a wheel")
        self._slots[max(at_ms, self.next_ms) % _SLOTS].append(item)

    def turn(self, now_ms: int) -> Iterator[tuple[int, list[_Item]]]:
        """Every slot up to ``now_ms``: its millisecond and what was in it."""
        while self.next_ms <= now_ms:
            due_ms = self.next_ms
            place = due_ms % _SLOTS
            items, self._slots[place] = self._slots[place], []
            self.next_ms += 1
            yield due_ms, items
