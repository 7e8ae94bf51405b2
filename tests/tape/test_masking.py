"""Masks hide numbers and secrets, keep what a message is, and let a replay notice nothing."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tape.masking import LinkName, Mask, masked, masking_of

_TEXT = st.text(st.sampled_from('0123456789 .-+()aB:é\u0665"\\/=*\n\u20ac\U0001f600'), max_size=40)
_SECRETS = st.sampled_from(
    [
        *(
            "sk-abcdefghijklmnop1234",
            "Bearer abcdef123456",
            "token=abc",
            "eyJhbGciOiJIUzI1NiJ9.x.y",
        ),
        *("api-key: 12345678", "https://me:secret@host", "password='x'", "********rest"),
    ]
)
_WORDS = st.lists(_TEXT | _SECRETS, max_size=4).map(" ".join)
_NAMES = st.sampled_from(
    [
        *("type", "event", "delta", "transcript", "text", "arguments", "instructions", "message"),
        *("item_id", "customParameters", "channel_variables", "token", "name", "digit", "audio"),
        *("payload", "max_output_tokens", "client_secret", "metadata", "anything 5551234567"),
    ]
)
_JSON = st.recursive(
    _WORDS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_LINKS = st.sampled_from(["provider", "realtime"])


def _shape(value: Any) -> Any:
    """A value's structure without its texts and numbers."""
    if isinstance(value, dict):
        return [_shape(inner) for inner in value.values()]
    return [_shape(inner) for inner in value] if isinstance(value, list) else type(value) is str


@given(_JSON | _WORDS, _LINKS)
def test_masking_twice_changes_nothing_more(said: Any, link: LinkName) -> None:
    """A tape can be compared with what is masked anew."""
    for text in (json.dumps(said, ensure_ascii=False), json.dumps(said), str(said)):
        once = masked(text, link)
        assert masked(once, link) == once


@given(_JSON, _LINKS)
def test_json_stays_json_of_the_same_shape(said: Any, link: LinkName) -> None:
    """A masked message is read as the message was."""
    assert _shape(json.loads(masked(json.dumps(said), link))) == _shape(said)


@given(_WORDS, _LINKS)
def test_what_is_no_json_stays_none(text: str, link: LinkName) -> None:
    """What was rejected is rejected for the same reason in a replay."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(masked(text, link))


def _delta(text: str) -> str:
    message = json.dumps({"type": "response.output_audio_transcript.delta", "delta": text})
    found: str = json.loads(masked(message, "realtime"))["delta"]
    return found


@given(st.lists(st.text("0123456789 -.,abc\u0665", max_size=8), max_size=6))
def test_a_text_in_pieces_is_masked_as_the_whole(pieces: list[str]) -> None:
    """What a call makes of deltas, a replay makes of masked ones; nothing shifts."""
    whole = _delta("".join(pieces))

    assert whole == "".join(map(_delta, pieces))
    assert len(whole) == len("".join(pieces))
    assert set(re.findall(r"\d", whole)) <= {"1"}


_WORDS = st.one_of(
    st.text(),
    st.sampled_from(
        (
            "fine",
            "call 5",
            "\u0664",
            "sk-proj-abcdefghij",
            "a-password",
            "a-secret-of-our-own",
            "x:y",
            "\\",
        )
    ),
)


@given(
    _WORDS,
    st.sampled_from(("output_audio_transcript", "output_audio", "a-secret-of-our-own")),
    st.booleans(),
    st.booleans(),
)
def test_the_quick_way_hides_what_the_careful_one_does(
    words: str,
    about: str,
    is_ascii: bool,  # noqa: FBT001  # drawn
    is_twice: bool,  # noqa: FBT001  # drawn
) -> None:
    """A piece is looked at quickly; with a member nobody knows it is taken apart."""
    kind = f'"event_id":"event_5","type":"response.{about}.delta"'
    delta = '"delta":' + json.dumps(words, ensure_ascii=is_ascii)
    again = ',"delta":"fine"' if is_twice else ""
    rest = f'{kind},{delta}{again},"output_index":0}}'
    mask = Mask(["a-password", "a-secret-of-our-own"])

    careful = mask.message('{"unknown":"",' + rest, "realtime")
    assert mask.message("{" + rest, "realtime") == "{" + careful.removeprefix('{"unknown":"",')


@given(st.dictionaries(_TEXT, st.floats(allow_nan=False, allow_infinity=False) | _TEXT))
def test_arguments_of_tools_can_still_be_parsed(arguments: dict[str, Any]) -> None:
    """JSON in a string is JSON after masking too, escapes and exponents included."""
    for ascii_only in (True, False):
        inner = json.dumps(arguments, ensure_ascii=ascii_only)
        message = json.dumps({"type": "response.output_item.done", "item": {"arguments": inner}})
        found = json.loads(masked(message, "realtime"))["item"]["arguments"]
        read = msgspec.json.decode(found)
        assert len(found) <= len(inner)
        assert all(type(value) in (int, float, str) for value in read.values())
        assert "2" not in "".join(v for v in read.values() if isinstance(v, str))


def test_everything_but_the_masked_texts_stays_byte_by_byte() -> None:
    """Spaces, order, escapes and numbers of a message are those of the wire."""
    before = (
        '{ "type":"x", "n": 1.50e+3,\t"a":"\\u00e9\\/", "item_id":"item_42", "text":"call 42" }'
    )

    assert masked(before, "realtime") == before.replace("call 42", "call 11")


@pytest.mark.parametrize(
    "message",
    [
        '{"event":"media","sequenceNumber":"3","media":{"track":"inbound","payload":"Ab12+3=="}}',
        '{"event": "mark", "streamSid": "MZ12", "mark": {"name": "m123"}}',
        '{"type":"input_audio_buffer.append","audio":"1234"}',
        '{"event_id":"event_1","type":"response.output_audio.delta","delta":"1234"}',
        '{"type":"conversation.item.truncate","item_id":"item_1234567890","audio_end_ms":1234}',
        '{"type":"response.done","response":{"id":"resp_12","usage":{"input_tokens":1234}}}',
        '{"event":"start","start":{"callSid":"CA12","mediaFormat":{"sampleRate":8000}}}',
        '{"type":"error","error":{"message":"Please try again in 1m26.4s."}}',
        '{"type":"session.update","session":{"max_output_tokens":"inf","voice":"v2"}}',
        "MEDIA_MARK_PROCESSED m12",
        "MEDIA_START channel_id:17.3 format:slin16 optimal_frame_size:640 ptime:20",
    ],
)
def test_ids_marks_times_and_sound_are_untouched(message: str) -> None:
    """What a call acts upon is on tape as it was."""
    assert masked(message, "provider" if "type" not in message else "realtime") == message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"event":"dtmf","dtmf":{"digit":"5"}}', '{"event":"dtmf","dtmf":{"digit":"1"}}'),
        ('{"event":"dtmf","dtmf":{"digit":"#"}}', '{"event":"dtmf","dtmf":{"digit":"#"}}'),
        ("DTMF_END digit:5", "DTMF_END digit:1"),
        ('{"x":"The keys 12#"}', '{"x":"The keys 11#"}'),
        (
            '{"start":{"customParameters":{"from":"+15550100001","token":"t","5551234567":12.50}}}',
            '{"start":{"customParameters":{"from":"+11111111111","token":"***","1111111111":11.11}}}',
        ),
        ('{"client_secret":{"value":"ek_1"}}', '{"client_secret":{"value":"***"}}'),
        ('{"a": "\\ud83d 5"}', '{"a": "\\ud**d *"}'),
        ('{"text":"\\u0034\\u0032"}', '{"text":"11"}'),
        ('{"a": 01}', '{"a": **}'),
        ('["42"]', '["11"]'),
        ('0"\\ "', '*"\\ "'),
        ("ERROR error_text:no 42", "ERROR error_text:no 11"),
    ],
)
def test_numbers_and_secrets_are_hidden(before: str, after: str) -> None:
    """One example of each kind of place."""
    assert masked(before, "provider") == after


def test_known_secrets_are_hidden_where_nothing_else_is() -> None:
    """A long one even in an id; a short one, which may be an ordinary word, in texts only."""
    mask = Mask(["gateway", "a-long-secret-of-ours"], hides_numbers=False)
    message = '{"event":"gateway","item_id":"a-long-secret-of-ours","text":"gateway 42"}'

    assert json.loads(mask.message(message, "provider")) == {
        "event": "gateway",
        "item_id": "*" * len("a-long-secret-of-ours"),
        "text": "******* 42",
    }


def test_a_tape_says_which_mask_it_wears() -> None:
    """What is compared with it can be masked the same way."""
    assert masking_of(("secrets", "numbers")).words("call 42") == "call 11"
    assert masking_of(("secrets",)).words("call 42, token=abc") == "call 42, token=***"


def test_text_that_is_not_even_utf8_is_masked() -> None:
    """What should have been text and cannot be read may still be read by people."""
    assert Mask().octets(b"\xff card 42") == b"\xff card **"
