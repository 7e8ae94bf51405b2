"""Of a caller who does not know yet that the call is recorded nothing is kept but the time."""

import base64
import json

import pytest

from gateway.tape.hush import Hush


@pytest.mark.parametrize("size", [160, 161, 162])
def test_sound_becomes_silence_of_the_same_length(size: int) -> None:
    """In JSON as in binary messages; all else of the message stays."""
    message = {
        "event": "media",
        "media": {"chunk": "7", "payload": base64.b64encode(b"\x12" * size)},
    }
    text = json.dumps(message, default=bytes.decode)

    hushed = str(Hush("ulaw")(text))

    assert base64.b64decode(json.loads(hushed)["media"]["payload"]) == b"\xff" * size
    assert hushed.partition("payload")[0] == text.partition("payload")[0]
    assert len(hushed) == len(text)
    assert Hush("pcm")(b"\x12" * size) == bytes(size)
    assert Hush("alaw")(b"\x12" * size) == b"\xd5" * size


def test_what_is_no_base64_does_not_become_any() -> None:
    """A message that was rejected is rejected in a replay."""
    assert Hush("ulaw")('{"media":{"payload":"a*b 1234"}}') == '{"media":{"payload":"*"}}'


def test_keys_and_numbers_are_masked_whatever_is_asked_for() -> None:
    """A key pressed into the announcement is nobody's business."""
    assert Hush("ulaw")('{"event":"dtmf","dtmf":{"digit":"5"}}') == (
        '{"event":"dtmf","dtmf":{"digit":"1"}}'
    )
