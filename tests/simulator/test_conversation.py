"""The conversation's items: order, lookup, truncation, what a client may add."""

from typing import Any

import pytest

from gateway.simulator.conversation import MAX_ITEMS, Conversation, Item
from gateway.simulator.ids import Ids
from gateway.simulator.refusals import RequestRefused

IDS = Ids(3)


def _text(item_id: str) -> Item:
    return Item({"id": item_id, "type": "message", "content": []})


def _speech(item_id: str, audio_ms: int) -> Item:
    content = [{"type": "output_audio", "transcript": "Hi"}]
    return Item({"id": item_id, "type": "message", "content": content}, audio_ms)


def _conversation(*items: Item) -> Conversation:
    conversation = Conversation()
    for item in items:
        conversation.add(item)
    return conversation


def test_items_go_where_they_are_put() -> None:
    """At the end, first, or behind another; the answer is the one before."""
    conversation = _conversation(_text("a"), _text("b"))

    assert conversation.add(_text("c")) == "b"
    assert conversation.add(_text("d"), "root") is None
    assert conversation.add(_text("e"), "a") == "a"

    assert [item.id for item in conversation] == ["d", "a", "e", "b", "c"]
    assert conversation.last_id == "c"


def test_an_item_goes_behind_a_known_one_only() -> None:
    """An unknown place is refused and adds nothing."""
    conversation = _conversation(_text("a"))

    with pytest.raises(RequestRefused):
        conversation.add(_text("b"), "nowhere")

    assert len(conversation) == 1


def test_the_oldest_items_go() -> None:
    """There are never more than the limit."""
    conversation = _conversation(*(_text(str(number)) for number in range(MAX_ITEMS + 3)))

    assert len(conversation) == MAX_ITEMS
    assert next(iter(conversation)).id == "3"


def test_truncation_forgets_the_words() -> None:
    """Inside its audio an item gets shorter and loses its transcript."""
    conversation = _conversation(_speech("a", 3700))

    conversation.truncate("a", 0, 1200)

    item = conversation.get("a")
    assert (item.audio_ms, item.text) == (1200, "")


@pytest.mark.parametrize(
    ("item_id", "index", "end_ms", "code"),
    [
        ("a", 0, 3760, "invalid_value"),
        ("a", 0, -1, "integer_below_min_value"),
        ("a", 0, "1", "invalid_value"),
        ("a", 0, 1.5, "invalid_value"),
        ("a", 0, True, "invalid_value"),
        ("a", 0, None, "missing_required_parameter"),
        ("a", 1, 10, "invalid_value"),
        ("a", -1, 10, "invalid_value"),
        ("b", 0, 0, "invalid_value"),
        ("nowhere", 0, 10, "item_truncate_invalid_item_id"),
        ({}, 0, 10, "item_truncate_invalid_item_id"),
    ],
)
def test_bad_truncations_change_nothing(item_id: Any, index: Any, end_ms: Any, code: str) -> None:
    """Each has its code, and the item is as long as before."""
    conversation = _conversation(_speech("a", 3700), _text("b"))

    with pytest.raises(RequestRefused) as raised:
        conversation.truncate(item_id, index, end_ms)

    assert raised.value.code == code
    assert conversation.get("a").audio_ms == 3700


def test_deleting_is_done_once() -> None:
    """A second delete finds nothing."""
    conversation = _conversation(_text("a"))
    conversation.delete("a")

    with pytest.raises(RequestRefused) as raised:
        conversation.delete("a")

    assert raised.value.code == "item_delete_invalid_item_id"
    assert conversation.last_id is None


def test_a_client_adds_messages_of_three_roles() -> None:
    """Each role has its content; the preview's "text" is read as GA's name."""
    conversation = Conversation()
    contents = {"user": "input_text", "system": "input_text", "assistant": "text"}

    for role, kind in contents.items():
        content = [{"type": kind, "text": "Hi"}]
        item = conversation.created({"type": "message", "role": role, "content": content}, IDS)
        assert item.body["status"] == "completed"
        assert item.id.startswith("item_")
        assert item.text == "Hi"

    assert item.body["content"][0]["type"] == "output_text"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (None, "item"),
        ({"type": "mcp_call"}, "item.type"),
        ({"type": "message", "role": "robot", "content": []}, "item.role"),
        ({"type": "message", "role": "user"}, "item.content"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]},
            "item.content[0].type",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_text"}]},
            "item.content[0].text",
        ),
        ({"type": "message", "role": "user", "content": ["Hi"]}, "item.content[0].type"),
        ({"type": "function_call_output", "call_id": "c"}, "item.output"),
    ],
)
def test_impossible_items_are_refused(item: Any, param: str) -> None:
    """What is missing or wrong is named; assistant audio cannot be made."""
    with pytest.raises(RequestRefused) as raised:
        Conversation().created(item, IDS)

    assert raised.value.param == param


def test_an_output_needs_its_call() -> None:
    """A function output is taken for a call in the conversation only."""
    call = Item({"id": "f", "type": "function_call", "call_id": "call_1", "arguments": "{}"})
    conversation = _conversation(call)
    output = {"type": "function_call_output", "output": "noon"}

    item = conversation.created({**output, "call_id": "call_1"}, IDS)

    assert "status" not in item.body
    with pytest.raises(RequestRefused):
        conversation.created({**output, "call_id": "call_2"}, IDS)
