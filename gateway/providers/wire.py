"""What all provider dialects in JSON text share: a typed message, or why it is none."""

import re
from typing import Generic, TypeVar

import msgspec

from gateway.events import MessageRejected

_MAX_DETAIL_CHARS = 100
# Control characters, halves of surrogate pairs and non-characters: none is text for XML or a log.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_Message = TypeVar("_Message")


class _Envelope(msgspec.Struct):
    event: str


_ENVELOPE_DECODER = msgspec.json.Decoder(_Envelope)


class Reader(Generic[_Message]):
    """Reads messages that say in ``event`` what they are.

    Args:
        decoder: typed, for the union of all messages we know.
        known_events: their names.
    """

    def __init__(
        self, decoder: "msgspec.json.Decoder[_Message]", known_events: frozenset[str]
    ) -> None:
        self._decoder = decoder
        self._known_events = known_events

    def read(self, text: str) -> _Message | MessageRejected:
        """The message, or bad_json, unknown_event; bad_message or bad_base64 when misformed."""
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            return self._misfit(text, str(error))
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            return rejected("bad_json", str(error))

    def _misfit(self, text: str, problem: str) -> MessageRejected:
        """Off the hot path: look again for the one word that tells the kinds apart."""
        if not text.lstrip().startswith("{"):
            return rejected("bad_json", problem)
        try:
            event = _ENVELOPE_DECODER.decode(text).event
        except msgspec.ValidationError:
            return rejected("bad_message", problem)
        except (msgspec.DecodeError, RecursionError) as error:
            return rejected("bad_json", str(error))
        if event not in self._known_events:
            return rejected("unknown_event", problem)
        # Payloads are the only members that have to be base64.
        return rejected("bad_base64" if "base64" in problem else "bad_message", problem)


def rejected(kind: str, detail: str = "") -> MessageRejected:
    """A rejection whose detail is short and safe to print."""
    return MessageRejected(kind, clean(detail)[:_MAX_DETAIL_CHARS])


def clean(text: str) -> str:
    """The text without characters that neither XML nor a log line may hold."""
    return _UNSAFE.sub("", text)
