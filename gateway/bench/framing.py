"""WebSocket frames and handshakes of the load side (RFC 6455), as cheap as Python makes them.

Clients must mask what they send; the key may be any, so ours is zero and a frame can be built
before it is known who sends it.
"""

import base64
import hashlib

from gateway.frames import apply_mask, header

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
# Nothing a gateway has to say is longer.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 16 * 1024

_CONTINUATION, _FIN, _MASKED = 0x0, 0x80, 0x80
_SHORT = 126
_NO_KEY = b"\x00\x00\x00\x00"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Message = tuple[int, bytes]


class FramingError(Exception):
    """The other side does not speak WebSocket as we expect it to."""


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole message as a server sends it."""
    return header(len(payload), opcode) + payload


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole message as a client sends it, masked with a key that changes nothing."""
    if opcode == TEXT and len(payload) < len(_TEXT_HEADS):
        return _TEXT_HEADS[len(payload)] + payload
    return header(len(payload), opcode, _MASKED) + _NO_KEY + payload


# Most of what callers send: the header of every length up to 1 kB, made once.
_TEXT_HEADS = tuple(header(size, TEXT, _MASKED) + _NO_KEY for size in range(1024))


class Splitter:
    """Turns a stream of bytes, split anywhere, into messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: list[bytes] = []
        self._opcode = TEXT

    def feed(self, received: bytes) -> list[Message]:
        """The messages that are complete now: opcode and payload, unmasked.

        Raises:
            FramingError: a message is longer than ``MAX_MESSAGE_BYTES``.
        """
        stream = self._rest + received if self._rest else received
        whole = _whole_text(stream)
        if whole is not None and not self._pieces:
            self._rest = b""
            return [(TEXT, whole)]
        messages: list[Message] = []
        at, end = 0, len(stream)
        while end - at >= 2:  # noqa: PLR2004  the shortest header
            size = stream[at + 1] & 0x7F
            body = at + 2
            if size >= _SHORT:
                body += 2 if size == _SHORT else 8
                if body > end:
                    break
                size = int.from_bytes(stream[at + 2 : body], "big")
            is_masked = stream[at + 1] & 0x80
            start = body + 4 if is_masked else body
            stop = start + size
            if stop > end:
                _check_size(size)
                break
            payload = stream[start:stop]
            if is_masked and stream[body:start] != _NO_KEY:
                payload = apply_mask(payload, stream[body:start])
            self._take(stream[at], payload, messages)
            at = stop
        self._rest = stream[at:]
        return messages

    def _take(self, first: int, payload: bytes, messages: list[Message]) -> None:
        opcode = first & 0x0F
        if opcode >= CLOSE or (first & _FIN and opcode != _CONTINUATION):
            messages.append((opcode, payload))
            return
        if opcode != _CONTINUATION:
            self._opcode = opcode
        self._pieces.append(payload)
        _check_size(sum(map(len, self._pieces)))
        if first & _FIN:
            messages.append((self._opcode, b"".join(self._pieces)))
            self._pieces.clear()


def _whole_text(stream: bytes) -> bytes | None:
    """The text of one masked message of middling length, if the stream is just that."""
    if stream[:2] != b"\x81\xfe" or len(stream) != 8 + int.from_bytes(stream[2:4], "big"):
        return None
    return apply_mask(stream[8:], stream[4:8])


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise FramingError(f"a message of {size} bytes")


# ------------------------------------------------------------- handshakes


def upgrade_request(host: str, path: str, key: bytes) -> bytes:
    """What a client opens with; ``key`` is 16 random bytes; no extension is offered."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode()}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def split_head(received: bytes) -> tuple[bytes, bytes] | None:
    """The head of a request or response and what follows it; None while it is incomplete.

    Raises:
        FramingError: it does not end.
    """
    head, separator, rest = received.partition(b"\r\n\r\n")
    if separator:
        return head, rest
    if len(received) > MAX_HEAD_BYTES:
        raise FramingError("a head without an end")
    return None


def check_response(head: bytes, key: bytes) -> None:
    """See that a server has accepted our upgrade.

    Raises:
        FramingError: it has not; the status line is the message.
    """
    status = head.partition(b"\r\n")[0].decode("latin-1")
    if status.split(" ")[1:2] != ["101"]:
        raise FramingError(status[:100])
    if _header(head, b"sec-websocket-accept") != _accept(base64.b64encode(key)):
        raise FramingError("the answer is not to our Sec-WebSocket-Key")


def upgrade_response(head: bytes) -> bytes:
    """A server's answer to an upgrade, whatever its path and headers.

    Raises:
        FramingError: it is no upgrade to a WebSocket.
    """
    key = _header(head, b"sec-websocket-key")
    if not head.startswith(b"GET ") or not key:
        raise FramingError("a request that is no WebSocket upgrade")
    lines = (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + _accept(key),
    )
    return b"\r\n".join((*lines, b"", b""))


def request_target(head: bytes) -> str:
    """Path and query of a request."""
    parts = head.partition(b"\r\n")[0].split(b" ")
    return parts[1].decode("latin-1") if len(parts) > 1 else ""


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def _accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
