"""What was said and heard on a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conversation import CHARS_KEPT, ITEMS_KEPT, TURNS_KEPT, Conversation, heard_words
from gateway.events import AddMessage


def test_words_of_both_sides_are_replayed_in_order() -> None:
    """A new session is told who said what, oldest first."""
    conversation = Conversation()
    conversation.caller_said("Where is my parcel? ")
    conversation.agent_text("item_1", "On its way.")
    conversation.heard("item_1", 1000, 1000)
    conversation.caller_said("Thank you.")

    assert conversation.replay() == [
        AddMessage("user", "Where is my parcel?"),
        AddMessage("assistant", "On its way."),
        AddMessage("user", "Thank you."),
    ]


def test_words_come_in_pieces() -> None:
    """Deltas of a transcript add up."""
    conversation = Conversation()
    for piece in ("On ", "its ", "way."):
        conversation.agent_words("item_1", piece)

    assert conversation.heard("item_1", 1000, 1000) == "On its way."


def test_the_whole_text_replaces_the_pieces() -> None:
    """The final transcript is right where the deltas were not."""
    conversation = Conversation()
    conversation.agent_words("item_1", "On it's wei")
    conversation.agent_text("item_1", "On its way.")

    assert conversation.heard("item_1", 1000, 1000) == "On its way."


def test_only_what_was_heard_is_remembered() -> None:
    """A model is not told words of its own that nobody heard."""
    conversation = Conversation()
    conversation.agent_text("item_1", "one two three four")

    assert conversation.heard("item_1", 2000, 1000) == "one two"
    assert conversation.replay() == [AddMessage("assistant", "one two")]


def test_an_unheard_item_leaves_no_trace() -> None:
    """Nothing heard is nothing said."""
    conversation = Conversation()
    conversation.agent_text("item_1", "one two three")

    assert conversation.heard("item_1", 2000, 0) == ""
    assert conversation.replay() == []


def test_silence_of_the_caller_is_no_turn() -> None:
    """An empty transcript is not replayed."""
    conversation = Conversation()
    conversation.caller_said("  ")

    assert conversation.replay() == []


def test_an_item_without_words_is_heard_as_nothing() -> None:
    """Audio whose transcript never came does no harm."""
    assert Conversation().heard("item_1", 1000, 500) == ""


def test_old_turns_are_forgotten() -> None:
    """An endless call keeps a bounded memory, the latest words."""
    conversation = Conversation()
    for number in range(TURNS_KEPT + 5):
        conversation.caller_said(str(number))

    texts = [message.text for message in conversation.replay()]
    assert texts == [str(number) for number in range(5, TURNS_KEPT + 5)]


def test_items_that_never_play_are_forgotten() -> None:
    """Words of items that are never closed do not pile up."""
    conversation = Conversation()
    for number in range(ITEMS_KEPT + 1):
        conversation.agent_words(f"item_{number}", "words")

    assert conversation.heard("item_0", 1000, 1000) == ""
    assert conversation.heard("item_1", 1000, 1000) == "words"


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (0, ""),
        (400, "one"),
        (999.9, "one two three"),
        (1000, "one two three four"),
        (1500, "one two three four"),
    ],
)
def test_heard_words_are_whole_words(heard_ms: float, text: str) -> None:
    """A word cut in the middle does not count as heard."""
    assert heard_words("one two three four", 1000, heard_ms) == text


def test_an_item_without_sound_was_heard_whole() -> None:
    """A text-only answer has no duration to share out."""
    assert heard_words("one two", 0, 0) == "one two"


@given(st.text(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_heard_words_begin_the_text(text: str, received_ms: float, heard_ms: float) -> None:
    """Whatever the figures, the result is a beginning of what was said."""
    assert text.startswith(heard_words(text, received_ms, heard_ms))


def test_words_without_end_are_kept_up_to_a_bound() -> None:
    """Longer than any item or turn: what a mad peer says fills no memory."""
    conversation = Conversation()
    for _ in range(3):
        conversation.agent_words("item", "word " * (CHARS_KEPT // 10))
    conversation.caller_said("x" * (CHARS_KEPT + 1))

    assert len(conversation.words("item")) == CHARS_KEPT
    assert [len(message.text) for message in conversation.replay()] == [CHARS_KEPT]
