"""The conversation as the service keeps it: items in order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.simulator import refusals
from gateway.simulator.ids import Ids

MAX_ITEMS = 1000
_MAX_INT = 2**31

_CONTENT_OF: Mapping[str, frozenset[str]] = {
    "user": frozenset({"input_text", "input_audio", "input_image"}),
    "system": frozenset({"input_text"}),
    "assistant": frozenset({"output_text"}),
}
# The preview dialect's name for an assistant's text; the normal form is GA's.
_GA_CONTENT: Mapping[str, str] = {"text": "output_text"}
_CREATABLE = ("message", "function_call", "function_call_output")


@dataclass(slots=True)
class Item:
    """One item: its GA wire shape, how long its audio is."""

    body: dict[str, Any]
    audio_ms: int = 0

    @property
    def id(self) -> str:
        """The item's name."""
        return str(self.body["id"])

    @property
    def text(self) -> str:
        """All words of it, for counting tokens."""
        contents = self.body.get("content", ())
        words = [content.get("text") or content.get("transcript") or "" for content in contents]
        words += [str(self.body.get(name, "")) for name in ("arguments", "output")]
        return "".join(words)


class Conversation:
    """Items by id, in order; the oldest go when there are more than ``MAX_ITEMS``."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    @property
    def last_id(self) -> str | None:
        """The newest item's id."""
        return next(reversed(self._items), None)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item at the end, behind another, or first ("root"); return the one before it.

        Raises:
            RequestRefused: there is no such item to go behind.
        """
        order = list(self._items)
        place = len(order) if after is None else self._place_after(after, order)
        order.insert(place, item.id)
        items = self._items | {item.id: item}
        self._items = {item_id: items[item_id] for item_id in order[-MAX_ITEMS:]}
        return order[place - 1] if place else None

    def get(self, item_id: object, verb: str = "retrieve") -> Item:
        """The item of this id.

        Raises:
            RequestRefused: there is none; ``verb`` says what was wanted of it.
        """
        item = self._items.get(item_id) if isinstance(item_id, str) else None
        if item is None:
            raise refusals.unknown_item(verb, item_id)
        return item

    def delete(self, item_id: object) -> None:
        """Take an item out.

        Raises:
            RequestRefused: it is not there.
        """
        del self._items[self.get(item_id, "delete").id]

    def truncate(self, item_id: object, content_index: object, audio_end_ms: object) -> None:
        """Forget the item's words, and its audio from ``audio_end_ms`` on.

        Raises:
            RequestRefused: no such item, or the time is not inside its audio.
        """
        item = self.get(item_id, "truncate")
        end_ms = _index(audio_end_ms, "audio_end_ms")
        if end_ms < 0:
            raise refusals.truncate_negative(end_ms)
        content = self._audio_content(item, content_index)
        if end_ms > item.audio_ms:
            raise refusals.truncate_too_late(item.audio_ms, end_ms)
        item.audio_ms = end_ms
        content.pop("transcript", None)

    def has_call(self, call_id: object) -> bool:
        """Whether a tool call of this id was made."""
        return any(
            item.body["type"] == "function_call" and item.body["call_id"] == call_id
            for item in self
        )

    def created(self, wanted: Any, ids: Ids) -> Item:
        """An item as a client describes it; not yet in the conversation.

        Raises:
            RequestRefused: a member is missing or impossible.
        """
        if not isinstance(wanted, dict):
            raise refusals.missing_parameter("item")
        body = {name: value for name, value in wanted.items() if name != "object"}
        kind = body.get("type")
        if kind not in _CREATABLE:
            raise refusals.invalid_value("item.type", kind)
        if kind == "message":
            body["content"] = _contents(body)
        elif kind == "function_call_output":
            self._check_output(body)
        body.setdefault("id", ids.new("item"))
        if kind != "function_call_output":
            body["status"] = "completed"
        return Item(body)

    def _check_output(self, body: dict[str, Any]) -> None:
        if not isinstance(body.get("output"), str):
            raise refusals.missing_parameter("item.output")
        if not self.has_call(body.get("call_id")):
            raise refusals.unknown_call(body.get("call_id"))

    def _place_after(self, after: str, order: list[str]) -> int:
        if after == "root":
            return 0
        return order.index(self.get(after).id) + 1

    @staticmethod
    def _audio_content(item: Item, content_index: object) -> dict[str, Any]:
        contents: list[dict[str, Any]] = item.body.get("content", [])
        index = _index(content_index, "content_index")
        if not 0 <= index < len(contents) or contents[index]["type"] != "output_audio":
            raise refusals.invalid_value("content_index", content_index)
        return contents[index]


def _index(value: object, param: str) -> int:
    if value is None:
        raise refusals.missing_parameter(param)
    if not isinstance(value, int) or isinstance(value, bool) or value > _MAX_INT:
        raise refusals.invalid_value(param, value)
    return value


def _contents(body: dict[str, Any]) -> list[dict[str, Any]]:
    allowed = _CONTENT_OF.get(str(body.get("role")))
    if allowed is None:
        raise refusals.invalid_value("item.role", body.get("role"))
    contents = body.get("content")
    if not isinstance(contents, list):
        raise refusals.missing_parameter("item.content")
    return [_content(content, index, allowed) for index, content in enumerate(contents)]


def _content(content: Any, index: int, allowed: frozenset[str]) -> dict[str, Any]:
    kind = content.get("type") if isinstance(content, dict) else None
    name = _GA_CONTENT.get(str(kind), str(kind))
    if name not in allowed:
        raise refusals.invalid_value(f"item.content[{index}].type", kind)
    if name.endswith("_text") and not isinstance(content.get("text"), str):
        raise refusals.missing_parameter(f"item.content[{index}].text")
    return {**content, "type": name}
