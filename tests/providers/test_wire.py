"""What all provider dialects in JSON text share."""

import msgspec
import pytest

from gateway.events import MessageRejected
from gateway.providers.wire import Reader, clean, rejected


class _Hello(msgspec.Struct, tag_field="event", tag="hello"):
    name: str


class _Bye(msgspec.Struct, tag_field="event", tag="bye"):
    pass


READER = Reader(msgspec.json.Decoder(_Hello | _Bye), frozenset({"hello", "bye"}))


def test_a_message_is_what_it_says_it_is() -> None:
    """Unknown members are ignored: a provider may add some tomorrow."""
    assert READER.read('{"event":"hello","name":"x","new":1}') == _Hello("x")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{", "bad_json"),
        ("[]", "bad_json"),
        ("NaN", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"event":"hello"}', "bad_message"),
        ('{"event":7}', "bad_message"),
        ("{}", "bad_message"),
        ('{"event":"wave"}', "unknown_event"),
    ],
)
def test_everything_else_is_rejected_with_its_kind(text: str, kind: str) -> None:
    """An operator sees by the kind whether a peer is broken or just newer than we are."""
    message = READER.read(text)

    assert isinstance(message, MessageRejected)
    assert message.kind == kind


def test_details_are_short_and_safe_to_print() -> None:
    """What a peer sent cannot break a log line."""
    message = rejected("bad_json", "a\nb\x1b[31m" + "x" * 1000)

    assert message.detail.startswith("ab[31mx")
    assert len(message.detail) == 100
    assert clean("caf\u00e9 \ud800") == "caf\u00e9 "
