"""What must not be on a tape is hidden in a way that a replay does not notice.

A replay derives what the gateway sent from what came in, so both directions pass one function, and
what is compared with a tape passes it too. For that a mask keeps the length of every text and can
be taken piece by piece: each decimal digit becomes ``1``, whether it stands alone, in a card number
or in the third delta of one. (Of all digits that one keeps numbers, dates, times and exponents in a
tool's arguments valid.) A key pressed is a digit in a text as well, as ``1`` an ordinary key.

Untouched are ids, marks, times, sound and words from closed sets; a member nobody knows is masked.
A string in which something was hidden is written anew as ``json.dumps`` would, all else stays as it
was, byte by byte. Secrets become ``*``, as many as they had characters; the value of a member that
is called a secret becomes ``***``.

Not hidden are numbers spoken in words, and a secret that comes in pieces.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from enum import Enum, auto
from itertools import chain
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from gateway.logs import SECRET_TEXTS, is_secret

LinkName = Literal["provider", "realtime"]
Way = Literal["in", "out"]

HIDDEN: Final = "***"
DIGIT: Final = "1"
# Shorter ones would hide ordinary words, and protect nothing.
SECRET_CHARS: Final = 6
# No word of any protocol is so long: such a secret is hidden in ids and names as well.
LONG_SECRET_CHARS: Final = 16
# A hidden secret may look like another one; none does so twice.
_PASSES = 4

# Messages of sound and marks by their first member: by far the most, and nothing in them is text.
_SOUND = re.compile(
    r'\s*\{\s*"(?:event|type)"\s*:\s*"'
    r'(?:media|mark|clear|input_audio_buffer\.append|response\.(?:output_)?audio\.delta)"'
)
# Members that are no text: ids, numbers in quotes, sound, and words from closed sets.
_UNTOUCHED = frozenset(
    {
        *("audio", "payload", "type", "event", "command", "object", "status", "role", "code"),
        *("id", "event_id", "item_id", "response_id", "call_id", "previous_item_id"),
        *("conversation_id", "model", "voice", "format", "encoding", "version", "protocol"),
        *("input_audio_format", "output_audio_format", "tool_choice", "truncation"),
        *("streamSid", "callSid", "accountSid", "sequenceNumber", "chunk", "timestamp", "track"),
        *("tracks", "sampleRate", "channels"),
        *("channel", "channel_id", "connection_id", "correlation_id", "ptime"),
        *("optimal_frame_size", "queue_length"),
        # Of a tape's own first line.
        *("gateway", "started_at", "provider", "dialect", "agent", "transcription_model"),
        *("trace_id", "renewed_by", "renewed_at", "shrunk_by", "shrunk_at"),
    }
)
# Names of tools and marks: they are compared, so only what cannot be one is masked.
_NAMES = frozenset({"name"})
# Tables whose members are anybody's: nothing in them is an id of ours.
_FREE = frozenset({"customParameters", "channel_variables", "metadata", "query"})
# Strings that hold JSON.
_NESTED = frozenset({"arguments", "output"})
_MARKS = frozenset({"MEDIA_MARK_PROCESSED", "MEDIA_BUFFERING_COMPLETED", "MARK_MEDIA"})

# A string and the colon that makes it a name; a bracket; a number.
_TOKENS = re.compile(
    r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|([{\[])|([}\]])|(-?\d[\d.]*)(?:[eE][+-]?\d+)?', re.DOTALL
)
_DIGITS = re.compile(r"\d")
_NESTED_DIGITS = re.compile(r"\\u([0-9a-fA-F]{4})|\d")
_LONG_NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){6,}")
# What the service wants us to wait is acted upon.
_TRY_AGAIN = re.compile(r"try again in (?:\d{1,9}(?:\.\d{1,6})?(?:ms|h|m|s)){1,4}")
_PLAIN = re.compile(r"\s*([A-Z][A-Z_]+)(?=\s|$)")
_WORD = re.compile(r"\S+")
# Without any of these no text gives itself away as a secret; few words of a call have one.
_SUSPICIOUS = re.compile(r"[:=/*]|sk-|eyJ|(?i:bearer|basic)")
_TELLING = re.compile(rf"\d|{_SUSPICIOUS.pattern}")
_SOUNDS = ("response.output_audio.delta", "response.audio.delta")
_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
# What follows a secret in pieces belongs to it.
_STARS = re.compile(r"\*{8,}[\w-]+")


class _Context(Enum):
    """Where in a message a string stands."""

    PLAIN = auto()
    FREE = auto()
    SECRET = auto()


class _Level(NamedTuple):
    context: _Context
    key: str


class _Head(msgspec.Struct):
    type: Any = ""


_decode_head = msgspec.json.Decoder(_Head).decode


class _Piece(msgspec.Struct, forbid_unknown_fields=True):
    """A few words of what somebody says; beside them nothing in it is ever masked."""

    type: str
    delta: str
    event_id: str = ""
    response_id: str = ""
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0


_decode_piece = msgspec.json.Decoder(_Piece).decode


def masked(message: str, link: LinkName, direction: Way = "in") -> str:  # noqa: ARG001
    """A text message without numbers, and without what gives itself away as a secret.

    Idempotent, never an error, and the same both ways: that is what makes a replay exact. What is
    JSON stays JSON of the same shape; what is not JSON stays so, whatever it is.
    """
    return _MASK.message(message, link)


class Mask:
    """Hides numbers and secrets.

    Args:
        secrets: hidden literally wherever they stand, beside what gives itself away.
        hides_numbers: hide digits too; secrets are always hidden.
    """

    def __init__(self, secrets: Iterable[str] = (), *, hides_numbers: bool = True) -> None:
        self.hides_numbers = hides_numbers
        self._secrets = tuple(dict.fromkeys(s for s in secrets if len(s) >= SECRET_CHARS))
        self._known = _any_of(_spellings_of(self._secrets))
        long = (s for s in self._secrets if len(s) >= LONG_SECRET_CHARS)
        self._long_spellings = _spellings_of(long)
        self._long = _any_of(self._long_spellings)

    def with_secret(self, secret: str) -> "Mask":
        """The same, which knows one secret more."""
        return Mask((*self._secrets, secret), hides_numbers=self.hides_numbers)

    def message(self, message: str, link: LinkName) -> str:
        """One text message of a link, whichever way it went."""
        if _SOUND.match(message):
            return message
        if self._is_harmless(message):
            return message
        message = self._without_long(message)
        if link == "provider" and (found := _PLAIN.match(message)):
            return self._plain(message, found[1])
        try:
            kind = _kind(message)
        except _UNREADABLE:
            return self._scrambled(message)
        if kind is None:
            return self._walk(message, _Level(_Context.FREE, ""))
        return self._walk(message, _Level(_Context.PLAIN, ""), "delta" if kind in _SOUNDS else "")

    def _is_harmless(self, message: str) -> bool:
        """Whether it is a piece of sound, or of text with nothing to hide: nearly all pieces are.

        Taking one apart costs a hundred times as much.
        """
        if message.count('"delta"') != 1 or "\\" in message or self._has_long(message):
            return False
        try:
            piece = _decode_piece(message)
        except _UNREADABLE:
            return False
        if piece.type in _SOUNDS:
            return True
        return not (_TELLING.search(piece.delta) or self._known.search(piece.delta))

    def _has_long(self, text: str) -> bool:
        # A pattern looks at every place of a text; a text finds another at memory's speed.
        return any(spelling in text for spelling in self._long_spellings)

    def _without_long(self, text: str) -> str:
        return self._long.sub(_stars, text) if self._has_long(text) else text

    def octets(self, message: bytes) -> bytes:
        """A message that should be text and is not even UTF-8."""
        return self._scrambled(message.decode("latin-1")).encode("latin-1")

    def head(self, line: str) -> str:
        """The first line of a tape."""
        return self._walk(self._without_long(line), _Level(_Context.PLAIN, ""))

    def words(self, text: str, key: str = "") -> str:
        """A text for people, or what a member holds."""
        return self._digits(self._without_secrets(text), key)

    # ------------------------------------------------------------------ text that is no JSON

    def _scrambled(self, text: str) -> str:
        """With stars for digits, what is no JSON does not become any."""
        text = self._without_secrets(text)
        if self.hides_numbers:
            text = self._without_secrets(_DIGITS.sub("*", text))
        return text

    def _plain(self, text: str, event: str) -> str:
        """A control message of Asterisk in plain text: an event, then ``key:value`` words."""
        if event in _MARKS:
            return text
        return _WORD.sub(self._plain_word, text)

    def _plain_word(self, found: re.Match[str]) -> str:
        word = found.group()
        key, colon, value = word.partition(":")
        if colon and is_secret(key):
            return key + colon + HIDDEN
        return word if colon and value and key in _UNTOUCHED else self.words(word)

    # ------------------------------------------------------------------ JSON

    def _walk(self, text: str, top: _Level, sound: str = "") -> str:
        """Mask every token by where it stands; ``sound`` names a member that is sound here."""
        levels = [top]

        def put(found: re.Match[str]) -> str:
            string, colon, opening, closing, number = found.groups()
            context, key = levels[-1]
            if opening:
                levels.append(_Level(_context(context, key), key))
            elif closing:
                levels.pop()
            elif colon:
                levels[-1] = _Level(context, _loads(string))
                return self._name(string, context) + colon
            elif string:
                return string if key == sound != "" else self._string(string, context, key)
            elif number and (context is not _Context.PLAIN or key == "digit"):
                return self._digits(number, "") + found.group()[len(number) :]
            return found.group()

        return _TOKENS.sub(put, text)

    def _name(self, token: str, context: _Context) -> str:
        return _rewritten(token, self._long_numbers) if context is _Context.FREE else token

    def _string(self, token: str, context: _Context, key: str) -> str:
        if _context(context, key) is _Context.SECRET:
            return f'"{HIDDEN}"' if len(token) > len('""') else token
        if context is _Context.PLAIN:
            if key in _UNTOUCHED:
                return token
            if key in _NAMES:
                return _rewritten(token, self._long_numbers)
        return _rewritten(token, lambda text: self.words(text, key))

    def _without_secrets(self, text: str) -> str:
        text = self._known.sub(_stars, text)
        for _ in range(_PASSES if _SUSPICIOUS.search(text) else 0):
            before = text
            for pattern, _replacement in SECRET_TEXTS:
                text = pattern.sub(_starred, text)
            text = _STARS.sub(_stars, text)
            if text == before:
                break
        return text

    def _long_numbers(self, text: str) -> str:
        if not self.hides_numbers:
            return text
        return _LONG_NUMBER.sub(lambda found: _DIGITS.sub(DIGIT, found.group()), text)

    def _digits(self, text: str, key: str) -> str:
        if not self.hides_numbers:
            return text
        if key in _NESTED:
            return _NESTED_DIGITS.sub(_nested_digit, text)
        if key == "message" and (found := _TRY_AGAIN.search(text)):
            before, after = text[: found.start()], text[found.end() :]
            return _DIGITS.sub(DIGIT, before) + found.group() + _DIGITS.sub(DIGIT, after)
        return _DIGITS.sub(DIGIT, text)


def _kind(message: str) -> Any:
    """The message's "type", None for what is no object.

    Raises:
        DecodeError, RecursionError, UnicodeError: it is no JSON to its end.
    """
    try:
        return _decode_head(message).type or ""
    except msgspec.ValidationError:
        # The first wrong thing was told; behind it may be worse.
        msgspec.json.decode(message, type=msgspec.Raw)
        return None


def _context(context: _Context, key: str) -> _Context:
    """Where the value of a member stands."""
    if context is _Context.SECRET or _is_secret_name(key):
        return _Context.SECRET
    return _Context.FREE if key in _FREE else context


def _is_secret_name(key: str) -> bool:
    # What a model counts is no secret: input_tokens, max_output_tokens.
    return is_secret(key) and not key.endswith("tokens")


def _nested_digit(found: re.Match[str]) -> str:
    """A digit, or an escape that spells one; any other escape stays what it is."""
    if found[1] is None:
        return DIGIT
    return DIGIT if chr(int(found[1], 16)).isdecimal() else found.group()


def _stars(found: re.Match[str]) -> str:
    return "*" * len(found.group())


def _starred(found: re.Match[str]) -> str:
    """Stars for the secret; what stands in front and says that it is one stays."""
    kept = "".join(found.groups()[:2])
    return kept + "*" * (len(found.group()) - len(kept))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of them; nothing where there are none."""
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _spellings_of(secrets: Iterable[str]) -> list[str]:
    """However they are spelled, the longest first."""
    return sorted(set(chain.from_iterable(map(_spellings, secrets))), key=len, reverse=True)


def _spellings(secret: str) -> tuple[str, ...]:
    escaped = json.dumps(secret)[1:-1]
    return (secret, quote(secret, safe=""), escaped, json.dumps(escaped)[1:-1])


def _rewritten(token: str, mask: Callable[[str], str]) -> str:
    """A string token with its text masked; the token itself where nothing is to be hidden."""
    text = _loads(token)
    hidden = mask(text)
    return token if hidden == text else json.dumps(hidden, ensure_ascii=False)


def _loads(token: str) -> str:
    text: str = json.loads(token, strict=False) if "\\" in token else token[1:-1]
    return text


def masking_of(masks: Collection[str]) -> Mask:
    """The mask a tape was made with, by ``masks`` of its first line; for what is compared to it."""
    return Mask(hides_numbers="numbers" in masks)


_MASK: Final = Mask()
