"""Frames of ours are read by those who know the protocol best."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.frames import BINARY, TEXT, client_frame, masks, server_frame

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 70000]


def _read(protocol: ClientProtocol | ServerProtocol, stream: bytes) -> list[Frame]:
    protocol.state = State.OPEN
    # Behind the handshake, which is not ours.
    protocol.parser = Protocol.parse(protocol)
    next(protocol.parser)
    protocol.receive_data(stream)
    assert protocol.parser_exc is None
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_client_reads_what_a_server_sends(size: int, opcode: int) -> None:
    """Every form of the length, text and binary, two messages in a row."""
    payload = b"x" * size
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"))
    frames = _read(client, server_frame(payload, opcode) * 2)

    assert [(bytes(f.data), f.opcode, f.fin) for f in frames] == [(payload, opcode, True)] * 2


@pytest.mark.parametrize("size", SIZES)
def test_a_server_reads_what_a_client_sends(size: int) -> None:
    """A server refuses frames that are not masked, so these are."""
    payload = bytes(range(256)) * (size // 256) + b"y" * (size % 256)
    frames = _read(ServerProtocol(), client_frame(payload, b"\x01\x02\xfe\xff"))

    assert [(bytes(f.data), f.opcode) for f in frames] == [(payload, Opcode.TEXT)]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_any_payload_comes_through_any_mask(payload: bytes, mask: bytes) -> None:
    """The server takes it off again."""
    stream = client_frame(payload, mask)

    assert [bytes(frame.data) for frame in _read(ServerProtocol(), stream)] == [payload]


def test_no_mask_is_used_twice() -> None:
    """More than one pool: two of 1,000 masks are the same with a chance of 1 in 8,600."""
    drawn = list(islice(masks(), 1000))

    assert {len(mask) for mask in drawn} == {4}
    assert len(set(drawn)) >= 998
