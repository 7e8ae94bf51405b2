"""Reads the messages of a tape: what came in as our events, what went out as what it asks for.

What came in goes through the translators of a live call. What we sent to a provider has no
translator, for nobody but a tape reads it: sound is binary or a JSON ``media``, the rest are words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from gateway.errors import TapeError
from gateway.events import LinkClosed, ProviderEvent, RealtimeEvent
from gateway.providers import HttpRequest
from gateway.providers.table import doors
from gateway.realtime.protocol import RealtimeProtocol
from gateway.tape.reading import Head, Line

_APPEND: Final = '{"type":"input_audio_buffer.append"'


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound for the caller, in the format of the provider's line."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """Asks to be told when the sound before it was played."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Drops the sound that was not played."""


ToProvider = Sound | Mark | Clear


class _Payload(msgspec.Struct, frozen=True):
    payload: bytes = b""


class _Name(msgspec.Struct, frozen=True):
    name: str = ""


class _Json(msgspec.Struct):
    """Every dialect of JSON there is: ``event`` is Twilio's way, ``command`` Asterisk's."""

    event: str = ""
    command: str = ""
    media: _Payload = _Payload()
    mark: _Name = _Name()
    correlation_id: str = ""


_decode_json = msgspec.json.Decoder(_Json).decode
_MEANINGS: Final[Mapping[str, Callable[[_Json], ToProvider]]] = {
    "media": lambda wire: Sound(wire.media.payload),
    "mark": lambda wire: Mark(wire.mark.name),
    "clear": lambda _: Clear(),
    "MARK_MEDIA": lambda wire: Mark(wire.correlation_id),
    "FLUSH_MEDIA": lambda _: Clear(),
}


def to_provider(message: str | bytes) -> ToProvider | None:
    """What a message to the provider asks for; None for what has nothing to do with sound."""
    if isinstance(message, bytes):
        return Sound(message)
    try:
        wire = _decode_json(message) if message.startswith("{") else _plain(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    meaning = _MEANINGS.get(wire.event or wire.command)
    return meaning(wire) if meaning else None


def _plain(message: str) -> _Json:
    command, _, name = message.partition(" ")
    return _Json(command=command, correlation_id=name)


class _Wire(msgspec.Struct):
    """What can be read of a message to the model without its sound."""

    type: str = ""
    item_id: str = ""
    audio_end_ms: int = 0
    response_id: str = ""
    item: dict[str, Any] = {}


_decode_wire = msgspec.json.Decoder(_Wire).decode


@dataclass(frozen=True, slots=True)
class Asked:
    """A message to the model, by its type; ``item`` is that of a ``conversation.item.create``."""

    kind: str
    item_id: str
    audio_end_ms: int
    item: Mapping[str, Any]


def to_realtime(message: str | bytes) -> Asked | int | None:
    """What a message asks the model for; of sound its size in bytes; None if it cannot be read."""
    text = message if isinstance(message, str) else str(message, "utf-8", "replace")
    if text.startswith(_APPEND):
        return _decoded_bytes(text)
    try:
        wire = _decode_wire(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return Asked(wire.type, wire.item_id, wire.audio_end_ms, wire.item)


def _decoded_bytes(append: str) -> int:
    """How much sound an append carries, without decoding it."""
    start = append.find('"audio":"') + len('"audio":"')
    end = append.find('"', start)
    return (end - start) * 3 // 4 - append.count("=", max(start, end - 2), end)


class Translator:
    """Turns what came in on a tape into events.

    Raises:
        TapeError: the tape's provider is none of this gateway's.
    """

    def __init__(self, head: Head) -> None:
        door = doors(public_url="", has_softphone=True, insecure=True).get(head.provider)
        if door is None:
            raise TapeError(f"no provider {head.provider!r} in this gateway")
        request = HttpRequest("GET", f"ws://tape/?{urlencode(head.query)}")
        self._provider = door.connect(request)
        self._realtime = RealtimeProtocol(head.dialect)

    def from_provider(self, line: Line) -> Sequence[ProviderEvent]:
        """What a line "in" of the provider says."""
        if line.data is not None:
            return self._provider.receive(line.message)
        return [LinkClosed(line.code, line.reason)] if line.kind == "closed" else []

    def from_realtime(self, line: Line) -> Sequence[RealtimeEvent]:
        """What a line "in" of the model says."""
        if line.data is not None:
            return self._realtime.receive(line.message)
        return [LinkClosed(line.code, line.reason)] if line.kind == "closed" else []
