"""Messages as they were on the wire."""

import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.events import ProviderEvent
from gateway.providers import Provider


def read_vector(name: str) -> list[dict[str, Any]]:
    """All lines of one vector file."""
    text = (Path(__file__).parent / f"{name}.jsonl").read_bytes()
    return msgspec.json.decode(
        b"[" + b",".join(text.splitlines()) + b"]", type=list[dict[str, Any]]
    )


def replay(name: str, stream: Provider) -> list[ProviderEvent]:
    """What a stream makes of everything a provider sent in one vector file."""
    return [event for message in _messages(name) for event in stream.receive(message)]


def _messages(name: str) -> Iterator[str | bytes]:
    for line in read_vector(name):
        if line["dir"] == "rx":
            yield line["data"] if line["type"] == "text" else binascii.a2b_base64(line["b64"])
