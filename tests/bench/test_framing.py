"""Frames and handshakes of the load side."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.framing import (
    CLOSE,
    PING,
    TEXT,
    FramingError,
    Splitter,
    check_response,
    client_frame,
    request_target,
    server_frame,
    split_head,
    upgrade_request,
    upgrade_response,
)

KEY = bytes(range(16))
# Lengths on both sides of every limit of the header.
_PAYLOADS = st.sampled_from([0, 1, 125, 126, 127, 1023, 1024, 65535, 65536]).map(
    lambda size: bytes(index * 7 % 256 for index in range(size))
)


def masked(payload: bytes, key: bytes) -> bytes:
    """A text frame with a mask that changes something, as other clients send it."""
    frame = client_frame(payload)
    head = frame[: len(frame) - len(payload) - 4]
    return head + key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


@given(
    st.lists(st.tuples(_PAYLOADS, st.sampled_from(["server", "client", "masked"])), max_size=5),
    st.lists(st.integers(0, 200_000), max_size=8),
)
def test_any_split_of_the_stream_gives_the_same_messages(
    messages: list[tuple[bytes, str]], cuts: list[int]
) -> None:
    """Where the network cuts the stream makes no difference."""
    writers = {
        "server": server_frame,
        "client": client_frame,
        "masked": lambda payload: masked(payload, b"\x01\xfe\x33\x80"),
    }
    stream = b"".join(writers[kind](payload) for payload, kind in messages)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = Splitter()

    found = [
        message for start, stop in pairwise(edges) for message in splitter.feed(stream[start:stop])
    ]

    assert found == [(TEXT, payload) for payload, _ in messages]


@given(st.lists(st.binary(max_size=300), min_size=2, max_size=5))
def test_a_message_in_pieces_is_put_together_around_control_frames(pieces: list[bytes]) -> None:
    """A ping may stand between the pieces of a message."""
    stream = b"\x01" + server_frame(pieces[0])[1:] + server_frame(b"are you there", PING)
    for piece in pieces[1:-1]:
        stream += b"\x00" + server_frame(piece)[1:]
    stream += b"\x80" + server_frame(pieces[-1])[1:]

    assert Splitter().feed(stream) == [(PING, b"are you there"), (TEXT, b"".join(pieces))]


def test_a_close_keeps_its_code() -> None:
    """The code is the payload."""
    assert Splitter().feed(client_frame(b"\x03\xe8", CLOSE)) == [(CLOSE, b"\x03\xe8")]


def test_a_message_without_end_is_refused() -> None:
    """Nobody gets to fill the memory of the load."""
    with pytest.raises(FramingError, match="bytes"):
        Splitter().feed(b"\x81\x7f" + (1 << 40).to_bytes(8, "big"))


def test_both_sides_of_the_handshake_understand_each_other() -> None:
    """Whatever the path, and what follows at once is kept."""
    asked = split_head(upgrade_request("gateway:80", "/a/b?c=d", KEY))
    assert asked is not None
    answered = split_head(upgrade_response(asked[0]) + b"\x81\x00")
    assert answered is not None

    check_response(answered[0], KEY)

    assert request_target(asked[0]) == "/a/b?c=d"
    assert answered[1] == b"\x81\x00"


def test_the_accept_is_that_of_the_standard() -> None:
    """The example of RFC 6455, section 1.3."""
    head = b"GET /chat HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

    assert b"Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in upgrade_response(head)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable", "503"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x", "not to our"),
    ],
)
def test_a_refusal_is_named(head: bytes, words: str) -> None:
    """The status line tells why a call was not set up."""
    with pytest.raises(FramingError, match=words):
        check_response(head, KEY)


def test_what_is_no_upgrade_is_refused() -> None:
    """A probe over plain HTTP is no call."""
    with pytest.raises(FramingError):
        upgrade_response(b"GET / HTTP/1.1\r\nHost: a")


def test_a_head_is_waited_for_but_not_for_ever() -> None:
    """None while incomplete; an error where it does not end."""
    assert split_head(b"GET / HTTP/1.1\r\n") is None
    with pytest.raises(FramingError):
        split_head(b"x" * 20_000)
