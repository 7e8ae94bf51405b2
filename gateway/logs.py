"""One log line an event, with the call's id on it, secrets and phone numbers hidden.

``configure`` builds the one chain every line takes, ours and the libraries'. The last step before
the line is written hides secrets and escapes control characters, so nothing can slip in behind it.
``CallLog`` turns the facts of one call into lines: normal ends are info, what peers do wrong is
sampled, words are logged only when the operator asked for them.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor

from gateway.events import (
    AgentSaid,
    AnnouncementHeard,
    AudioAssessed,
    AudioCounted,
    AudioDropped,
    AudioFormat,
    BargedIn,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    CostIncurred,
    DeadAir,
    DtmfEntered,
    Fact,
    FirstAudioSent,
    FrameRejected,
    ItemPlayed,
    MarksLost,
    PromptPlayed,
    QueueSeen,
    RateLimitSeen,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeOpened,
    RealtimeReconnected,
    RelayMeasured,
    Result,
    SetUpTimed,
    Severity,
    StateChanged,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnLost,
    TurnTimed,
    TurnTimedOut,
    Underrun,
)

Format = Literal["auto", "json", "console"]

_HIDDEN = "***"
# Texts of at most this length are cleaned once and remembered.
_SHORT_TEXT_CHARS = 64
_TEXTS_REMEMBERED = 2048
_MAX_TEXT_CHARS = 2000
_MAX_TRACEBACK_CHARS = 20000
# A cut may leave half a secret behind, which is no longer known: so much is thrown away with it.
_CUT_MARGIN_CHARS = 1000
_MAX_ENTRIES = 50
_MAX_DEPTH = 4
# Shorter ones would hide ordinary words, and protect nothing.
_MIN_SECRET_CHARS = 6
_SAMPLE_S = 5.0
_MAX_SAMPLED = 64

# ------------------------------------------------------------- hiding

_SECRET_KEY = re.compile(
    r"(^|_)(token|secret|password|passwd|authorization|api_?key|signature|cookie|credential)s?$"
)
_NUMBER_KEY = re.compile(r"(^|_)(number|from|to|caller|called|phone)$")
# Every pattern takes linear time: a peer's text must not hold up the event loop.
SECRET_TEXTS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w+/.~=-]{6,}"), rf"\1 {_HIDDEN}"),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:x-)?api[-_]?key|x-twilio-signature|(?:set-)?cookie"
            r"|ocp-apim-subscription-key)([\"']?\s*[:=]\s*[\"']?)([^\s\"'&,;{}()<>]+)"
        ),
        rf"\1\2{_HIDDEN}",
    ),
    (
        re.compile(
            r"(?i)(token|secret|password|passwd|signature|\bsig)"
            r"(=[\"']?|[\"']\s*:\s*[\"']?)([^\s\"'&,;{}()<>]+)"
        ),
        rf"\1\2{_HIDDEN}",
    ),
    # A JSON Web Token and an OpenAI key give themselves away.
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*){0,2}"), _HIDDEN),
    (re.compile(r"\bsk-[\w-]{12,}"), _HIDDEN),
    (re.compile(r"//[^\s/@:]+:[^\s/@]+@"), f"//{_HIDDEN}@"),
)
_PHONE_NUMBER = re.compile(r"\+\d(?:[ ().-]{0,2}\d){6,14}|(?<![\w.-])\d{10,15}(?![\w.-])")
# Control characters, line separators, direction overrides, invisible ones, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ud800-\\udfff]"
)


def mask_number(number: str) -> str:
    """A phone number of which only the last digits can be read: +*******1234."""
    plus = "+" if number.startswith("+") else ""
    digits = re.sub(r"[\s+().-]", "", number)
    shown = 4 if len(digits) > 8 else 2  # noqa: PLR2004 - half of a short number stays hidden
    return plus + "*" * max(0, len(digits) - shown) + digits[-shown:] if digits else ""


def mask_numbers(text: str) -> str:
    """A text in which everything that looks like a phone number is masked."""
    return _PHONE_NUMBER.sub(lambda found: mask_number(found.group()), text)


def _escaped(text: str, *, keep_lines: bool = False) -> str:
    def escape(found: re.Match[str]) -> str:
        character = found.group()
        return character if keep_lines and character == "\n" else f"\\u{ord(character):04x}"

    return _UNPRINTABLE.sub(escape, text)


@lru_cache(_TEXTS_REMEMBERED)
def is_secret(key: str) -> bool:
    """Whether a member of this name holds a secret, whatever it looks like."""
    return bool(_SECRET_KEY.search(key.lower().replace("-", "_")))


class _Redaction:
    """The last step of the chain: makes every value plain, short, printable and harmless."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {
            form
            for secret in secrets
            for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])
        }
        known = sorted((s for s in spellings if len(s) >= _MIN_SECRET_CHARS), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        # Most of a line was in lines before: keys, the event's name, the call's id.
        self._short_text_of = lru_cache(_TEXTS_REMEMBERED)(self._text_of)
        self._name = lru_cache(_TEXTS_REMEMBERED)(self._text)

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        return {self._name(key): self._value(key, value, 0) for key, value in event.items()}

    def _value(self, key: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if is_secret(key):
            return _HIDDEN if value else ""
        if isinstance(value, str) and len(value) <= _SHORT_TEXT_CHARS:
            return self._short_text_of(key, value)
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._container(key, value, depth)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        return self._text_of(key, value)

    def _container(self, key: str, value: Any, depth: int) -> Any:
        if depth >= _MAX_DEPTH:
            return "..."
        if isinstance(value, Mapping):
            pairs = list(value.items())[:_MAX_ENTRIES]
            return {self._text(str(k)): self._value(str(k), v, depth + 1) for k, v in pairs}
        return [self._value(key, item, depth + 1) for item in list(value)[:_MAX_ENTRIES]]

    def _text_of(self, key: str, value: object) -> str:
        text = value if isinstance(value, str) else _printed(value)
        if _NUMBER_KEY.search(key):
            return self._text(mask_number(text))
        if key == "exception":
            return self._text(text, _MAX_TRACEBACK_CHARS, keep_lines=True)
        return self._text(text)

    def _text(
        self, text: str, max_chars: int = _MAX_TEXT_CHARS, *, keep_lines: bool = False
    ) -> str:
        scanned = text[: max_chars + 2 * _CUT_MARGIN_CHARS]
        clean = self._without_secrets(scanned)
        if len(scanned) < len(text):
            clean = clean[:-_CUT_MARGIN_CHARS]
        return _escaped(clean[:max_chars], keep_lines=keep_lines)

    def _without_secrets(self, text: str) -> str:
        if self._known:
            text = self._known.sub(_HIDDEN, text)
        for pattern, replacement in SECRET_TEXTS:
            text = pattern.sub(replacement, text)
        return mask_numbers(text)


def _printed(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a value that cannot be printed must not end a call
        return f"<{type(value).__name__}>"


# ------------------------------------------------------------- the chain


class _Sink:
    """Writes lines; one that cannot be written is lost rather than a call."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write one line."""
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _Forwarder(logging.Handler):
    """Sends what libraries log through our chain."""

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record of a library."""
        logger = structlog.get_logger()
        # Libraries may invent levels; the chain knows the five usual ones.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        logger.log(level, _message(record), logger=record.name, exc_info=record.exc_info or None)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit their own message
        return _printed(record.msg)


def _rendered_json(_logger: object, _method: str, event: EventDict) -> str:
    first = ("timestamp", "level", "event", "call_id")
    ordered = {key: event[key] for key in first if key in event} | dict(event)
    return json.dumps(ordered, default=_printed)


def _rendered_console(_logger: object, _method: str, event: EventDict) -> str:
    event = dict(event)
    time, level = event.pop("timestamp", ""), event.pop("level", "")
    name, trace = event.pop("event", ""), event.pop("exception", "")
    pairs = " ".join(f"{key}={_shown(value)}" for key, value in event.items())
    # Every line of a traceback is marked, so that none can pose as a record.
    lines = "".join(f"\n    | {line}" for line in str(trace).splitlines())
    return f"{str(time)[11:23]} {level:<7} {name:<22} {pairs}".rstrip() + lines


def _shown(value: Any) -> str:
    is_word = isinstance(value, str) and re.fullmatch(r"[^\s\"'=]+", value)
    return str(value) if is_word else json.dumps(value, default=_printed, ensure_ascii=False)


def configure(
    level: str = "info",
    fmt: Format = "auto",
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Set logging up for the process; may be called again.

    Args:
        level: debug, info, warning or error. Libraries are heard from warning up only: below it
            they print headers and frames.
        fmt: json, console, or auto: console when ``stream`` is a terminal.
        stream: where lines go; standard error by default, since commands print on the other.
        secrets: values that must never be printed, whatever they are called.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=_chain(fmt == "console" or (fmt == "auto" and out.isatty()), secrets),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Sink(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=max(number, logging.WARNING), handlers=[_Forwarder()], format="", force=True
    )


def _chain(is_console: bool, secrets: Iterable[str]) -> list[Processor]:  # noqa: FBT001 - private
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _Redaction(secrets),
        # Our own time needs no cleaning, and is never the same twice.
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _rendered_console if is_console else _rendered_json,
    ]


# ------------------------------------------------------------- facts


class _Line(NamedTuple):
    level: int
    event: str
    fields: Mapping[str, Any]


_LineOf = Callable[[Any], _Line]
_END_LEVELS: Mapping[Result, int] = {
    "success": logging.INFO,
    "client_error": logging.WARNING,
    "indeterminate": logging.WARNING,
    "upstream_error": logging.WARNING,
    "server_error": logging.ERROR,
}
_ERROR_LEVELS: Mapping[Severity, int] = {
    "ignore": logging.DEBUG,
    "expired": logging.INFO,
    "warn": logging.WARNING,
    "busy": logging.WARNING,
    "retry": logging.WARNING,
    "fatal": logging.ERROR,
}
# Audio nobody was meant to hear any more; the rest is a fault.
_HARMLESS_DROPS = frozenset({"cancelled", "unheard", "ended", "announcing"})


def _plain(level: int, event: str, *without: str) -> _LineOf:
    """A line with the fact's own fields, save those named."""

    def line_of(fact: Any) -> _Line:
        return _Line(level, event, _fields_of(fact, *without))

    return line_of


def _fields_of(fact: Any, *without: str) -> dict[str, Any]:
    names = (field.name for field in fields(fact) if field.name not in without)
    return {name: _brief(getattr(fact, name)) for name in names}


def _brief(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, AudioFormat):
        return f"{value.encoding}/{value.rate_hz}"
    return value


def _dialled(fact: RealtimeDialled) -> _Line:
    level = logging.INFO if fact.result == "ok" else logging.WARNING
    return _Line(level, "realtime_dialled", _fields_of(fact))


def _lost(fact: RealtimeLost) -> _Line:
    level = logging.INFO if fact.is_expected else logging.WARNING
    return _Line(level, "realtime_lost", _fields_of(fact))


def _audio_dropped(fact: AudioDropped) -> _Line:
    level = logging.DEBUG if fact.reason in _HARMLESS_DROPS else logging.WARNING
    return _Line(level, "audio_dropped", _fields_of(fact))


def _audio_assessed(fact: AudioAssessed) -> _Line:
    if fact.new_faults:
        return _Line(logging.WARNING, "audio_fault", _fields_of(fact, "is_final"))
    return _Line(logging.DEBUG, "audio_assessed", _fields_of(fact))


def _audio_figures(fact: AudioAssessed) -> dict[str, Any]:
    """What the last line of a call says of its sound, save what could not be told."""
    names = ("level_dbfs", "noise_dbfs", "clipped_share", "lost_ms", "jitter_ms", "echo_loss_db")
    found = {f"caller_{name}": _brief(getattr(fact, name)) for name in names}
    told = {name: value for name, value in found.items() if value is not None}
    return told | {"audio_faults": fact.faults}


def _tokens(fact: TokensUsed) -> _Line:
    return _Line(logging.DEBUG, "tokens_used", _fields_of(fact.usage))


def _turn_timed(fact: TurnTimed) -> _Line:
    fields = {"total_s": _brief(fact.total_s)} | _fields_of(fact)
    return _Line(logging.INFO, "turn_timed", fields)


def _realtime_error(fact: RealtimeErrorSeen) -> _Line:
    return _Line(_ERROR_LEVELS[fact.severity], "realtime_error", _fields_of(fact))


def _call_ended(fact: CallEnded) -> _Line:
    end = {"result": fact.termination.result, "reason": fact.termination.reason}
    level = _END_LEVELS[fact.termination.result]
    return _Line(level, "call_ended", end | _fields_of(fact, "termination"))


# None: told by metrics only, too many for a log.
_LINES: Mapping[type, _LineOf | None] = {
    CallBegan: _plain(logging.INFO, "call_began"),
    RealtimeDialled: _dialled,
    RealtimeOpened: _plain(logging.INFO, "realtime_opened"),
    RealtimeLost: _lost,
    RealtimeReconnected: _plain(logging.WARNING, "realtime_reconnected"),
    CallReady: _plain(logging.INFO, "call_ready"),
    SetUpTimed: _plain(logging.DEBUG, "set_up_timed"),
    AudioCounted: None,
    AudioDropped: _audio_dropped,
    AudioAssessed: _audio_assessed,
    RelayMeasured: None,
    FirstAudioSent: _plain(logging.INFO, "first_audio_sent"),
    TurnAnswered: _plain(logging.INFO, "turn_answered"),
    TurnTimed: _turn_timed,
    TurnLost: _plain(logging.DEBUG, "turn_lost"),
    DeadAir: _plain(logging.WARNING, "dead_air"),
    Underrun: _plain(logging.WARNING, "underrun"),
    QueueSeen: None,
    TurnTimedOut: _plain(logging.WARNING, "turn_timed_out"),
    BargedIn: _plain(logging.INFO, "barged_in"),
    BargeInConfirmed: _plain(logging.INFO, "barge_in_confirmed"),
    ItemPlayed: _plain(logging.INFO, "item_played", "unheard"),
    # Nobody has heard it yet.
    AgentSaid: None,
    CallerSpoke: _plain(logging.INFO, "caller_spoke"),
    DtmfEntered: _plain(logging.DEBUG, "dtmf_entered"),
    ToolCalled: _plain(logging.INFO, "tool_called"),
    TokensUsed: _tokens,
    CostIncurred: _plain(logging.DEBUG, "cost_incurred"),
    RealtimeErrorSeen: _realtime_error,
    RateLimitSeen: _plain(logging.DEBUG, "rate_limit_seen"),
    FrameRejected: _plain(logging.WARNING, "frame_rejected", "detail"),
    MarksLost: _plain(logging.WARNING, "marks_lost"),
    PromptPlayed: _plain(logging.INFO, "prompt_played"),
    AnnouncementHeard: _plain(logging.INFO, "announcement_heard"),
    StateChanged: _plain(logging.DEBUG, "state_changed"),
    CallEnded: _call_ended,
}


def _sample_key(fact: Fact) -> tuple[str, ...] | None:
    """What a peer can make happen any number of times is sampled by its kind."""
    match fact:
        case FrameRejected(side=side, kind=kind):
            return ("frame", side, kind)
        case AudioDropped(direction=direction, reason=reason):
            return ("audio", direction, reason)
        case RealtimeErrorSeen(code=code):
            return ("error", code)
        case Underrun():
            return ("underrun",)
        case _:
            return None


class SampledLog:
    """Warnings that a stranger can cause: one line of a kind in five seconds, with a count."""

    def __init__(self) -> None:
        self._samples: dict[str, _Sample] = {}

    def warning(self, event: str, now: float, **fields: object) -> None:
        """Log, unless a line of this kind was just printed; ``event`` is from a closed set."""
        sample = self._samples.get(event)
        if sample is not None and now - sample.printed_at < _SAMPLE_S:
            sample.held_back += 1
            return
        structlog.get_logger("gateway").warning(
            event, **fields, **_count(sample.held_back if sample else 0)
        )
        self._samples[event] = _Sample(now)


class _Sample:
    """When a kind of line was last printed, and how many were held back since."""

    __slots__ = ("held_back", "printed_at")

    def __init__(self, now: float) -> None:
        self.printed_at = now
        self.held_back = 0


class CallLog:
    """The lines of one call, each with its ``call_id``."""

    def __init__(self, call_id: str, *, log_transcripts: bool = False) -> None:
        self._logger = structlog.get_logger().bind(call_id=call_id)
        self._log_transcripts = log_transcripts
        self._samples: dict[tuple[str, ...], _Sample] = {}
        self._audio: Mapping[str, Any] = {}

    def join(self, trace_id: str) -> None:
        """Every further line has the call's trace on it, 32 hex digits."""
        self._logger = self._logger.bind(trace_id=trace_id)

    def observe(self, fact: Fact, now: float) -> None:
        """Log one fact of the call; ``now`` is in seconds, of any clock that does not go back."""
        if isinstance(fact, AudioAssessed) and fact.is_final:
            self._audio = _audio_figures(fact)
        line_of = _LINES.get(type(fact))
        if line_of is None or (isinstance(fact, CallerSpoke) and not self._log_transcripts):
            return
        suppressed = self._suppressed(fact, now)
        if suppressed is None:
            return
        line = line_of(fact)
        more = dict(self._audio if isinstance(fact, CallEnded) else {}, **suppressed)
        self._logger.log(line.level, line.event, **self._allowed(line.fields), **more)
        if isinstance(fact, FrameRejected):
            self._logger.debug("frame_rejected_detail", kind=fact.kind, detail=fact.detail)

    def _allowed(self, found: Mapping[str, Any]) -> MutableMapping[str, Any]:
        return {
            key: value for key, value in found.items() if self._log_transcripts or key != "text"
        }

    def _suppressed(self, fact: Fact, now: float) -> dict[str, int] | None:
        """The count of like lines held back, {} for none; None to hold this one back too."""
        if isinstance(fact, CallEnded):
            return _count(sum(sample.held_back for sample in self._samples.values()))
        key = _sample_key(fact)
        if key is None:
            return {}
        sample = self._samples.get(key)
        if sample is None:
            return self._first(key, now)
        if now - sample.printed_at < _SAMPLE_S:
            sample.held_back += 1
            return None
        held_back, sample.held_back, sample.printed_at = sample.held_back, 0, now
        return _count(held_back)

    def _first(self, key: tuple[str, ...], now: float) -> dict[str, int] | None:
        if len(self._samples) >= _MAX_SAMPLED:
            return None
        self._samples[key] = _Sample(now)
        return {}


def _count(held_back: int) -> dict[str, int]:
    return {"suppressed": held_back} if held_back else {}
