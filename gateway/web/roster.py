"""What is known of calls, now and lately: sans-I/O, made of the facts that observers are told.

The roster holds all calls that are going on and the last ``MAX_LATELY`` that ended. Everything
that a caller or a model can make longer has a bound: lines and characters of a transcript, timings
and troubles of a call, characters of all calls that ended together. Each change gets the next
number, so that whoever shows calls asks for what is newer than the number seen last, and needs no
queue.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal

from msgspec import Struct, field

from gateway.events import (
    AgentSaid,
    AudioDropped,
    BargedIn,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    CostIncurred,
    Fact,
    FirstAudioSent,
    FrameRejected,
    ItemPlayed,
    MarksLost,
    PromptPlayed,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeReconnected,
    StateChanged,
    Termination,
    TokensUsed,
    TurnAnswered,
    TurnTimed,
    TurnTimedOut,
)
from gateway.logs import mask_number

# Calls that ended and are still shown; what their transcripts may take together, in characters.
MAX_LATELY: Final = 1000
MAX_LATELY_CHARS: Final = 8_000_000
# Of one call: what is older makes room.
MAX_LINES: Final = 200
MAX_LINE_CHARS: Final = 2000
MAX_CALL_CHARS: Final = 32_768
MAX_TIMINGS: Final = 200
MAX_TROUBLES: Final = 50
# Ids of peers are short; these are shown as they came.
MAX_ID_CHARS: Final = 64

_TOKEN_KINDS: Final = (
    "input_text",
    "input_audio",
    "input_cached_text",
    "input_cached_audio",
    "output_text",
    "output_audio",
)


class Line(Struct):
    """Something said. For the agent ``text`` is what was heard, ``unheard`` what was not (yet).

    ``is_open``: it is still being played. ``at_s`` counts from the start of the call. ``changed``
    is the number of its last change.
    """

    number: int
    who: Literal["caller", "agent"]
    at_s: float
    text: str = ""
    unheard: str = ""
    is_open: bool = False
    received_ms: float = 0.0
    heard_ms: float = 0.0
    changed: int = 0

    @property
    def chars(self) -> int:
        """What it takes."""
        return len(self.text) + len(self.unheard)


class Timing(Struct):
    """One turn: how long its answer took, in s; None = none came in time."""

    at_s: float
    latency_s: float | None
    # What it is made of until it is heard, by stage, in s; {} where that is not known (yet).
    stages: dict[str, float] = field(default_factory=dict)


class Trouble(Struct):
    """Something that went wrong, so many times, the last time at ``at_s``."""

    what: str
    at_s: float
    count: int = 1


class CallRecord(Struct):
    """All that is shown of one call. Times ``_at`` are unix seconds; numbers are masked."""

    call_id: str
    began_at: float
    provider: str = ""
    provider_call_id: str = ""
    agent: str = ""
    from_number: str = ""
    to_number: str = ""
    state: str = "starting"
    turn: str = ""
    setup_s: float | None = None
    first_audio_s: float | None = None
    barge_ins: int = 0
    cost_usd: float | None = None
    ended_at: float | None = None
    duration_s: float | None = None
    result: str = ""
    reason: str = ""
    detail: str = ""
    has_tape: bool = False
    lines_dropped: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    changed: int = 0

    @property
    def chars(self) -> int:
        """What its transcript takes."""
        return sum(line.chars for line in self.lines)


# What a page with many calls shows of each; the rest is on the call's own page.
SUMMARY: Final = (
    "call_id",
    "provider_call_id",
    "provider",
    "agent",
    "from_number",
    "to_number",
    "state",
    "turn",
    "began_at",
    "ended_at",
    "duration_s",
    "result",
    "reason",
    "cost_usd",
    "barge_ins",
    "has_tape",
)
_summed_up: Final = attrgetter(*SUMMARY)


def summary(record: CallRecord) -> dict[str, Any]:
    """One row of a list of calls."""
    row: dict[str, Any] = dict(zip(SUMMARY, _summed_up(record), strict=True))
    row["turns"] = len(record.timings)
    answered = (t.latency_s for t in reversed(record.timings) if t.latency_s is not None)
    row["latency_s"] = next(answered, None)
    row["troubles"] = sum(trouble.count for trouble in record.troubles)
    last = record.lines[-1] if record.lines else None
    row["last_words"] = (last.text or last.unheard)[-120:] if last else ""
    return row


def details(record: CallRecord, since: int = 0) -> dict[str, Any]:
    """Everything of a call; of its lines those that changed after ``since``."""
    known = {name: getattr(record, name) for name in record.__struct_fields__}
    lines = [line for line in record.lines if line.changed > since]
    first = record.lines[0].number if record.lines else 0
    return known | {"lines": lines, "first_line": first}


def remains(row: Mapping[str, Any], now: float, end: Termination | None) -> CallRecord:
    """What is left of a call that went on when its process was last heard of.

    Args:
        row: the last one, as ``summary`` makes it.
        now: when the process was found gone, unix seconds.
        end: how the call ended; None = it had ended before, and nobody heard how.
    """
    known = {name: row[name] for name in SUMMARY}
    lasted_s = max(0.0, round(now - row["began_at"], 3))
    known |= {"state": "ended", "turn": "", "ended_at": now, "duration_s": lasted_s}
    if end is None:
        return CallRecord(**known)
    known |= {"result": end.result, "reason": end.reason}
    lost = Trouble("its worker died, and what was said was lost with it", lasted_s)
    return CallRecord(**known, troubles=[lost])


class Roster:
    """The calls of one process."""

    def __init__(self) -> None:
        self.version = 0
        # In the order of their last change.
        self._calls: OrderedDict[str, _CallBook] = OrderedDict()
        # In the order of their end, with the characters each still holds.
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._ended_chars = 0

    def observe(self, call_id: str, fact: Fact, now: float) -> CallRecord | None:
        """Take note of a fact.

        Args:
            call_id: of which call.
            fact: what happened on it.
            now: unix seconds.

        Returns:
            The record of a call that has just ended, else None.
        """
        if type(fact) not in _NOTES:
            return None
        book = self._calls.get(call_id)
        if book is None:
            if not isinstance(fact, CallBegan):
                return None
            book = self._calls[call_id] = _CallBook(CallRecord(call_id, now))
        return self._note(book, fact, now)

    def _note(self, book: "_CallBook", fact: Fact, now: float) -> CallRecord | None:
        self.version += 1
        book.record.changed = self.version
        book.note(fact, now)
        self._calls.move_to_end(book.record.call_id)
        if not isinstance(fact, CallEnded):
            return None
        self._keep_lately(book.record)
        return book.record

    def has_tape(self, call_id: str) -> None:
        """There is a tape of this call."""
        book = self._calls.get(call_id)
        if book is not None:
            book.record.has_tape = True

    def adopt(self, record: CallRecord) -> None:
        """Take in a call that ended elsewhere."""
        self.version += 1
        record.changed = self.version
        self._calls[record.call_id] = _CallBook(record)
        self._keep_lately(record)

    def forget(self, call_id: str) -> bool:
        """Know nothing of a call that ended; whether anything was known."""
        if call_id not in self._ended:
            return False
        self._ended_chars -= self._ended.pop(call_id)
        del self._calls[call_id]
        return True

    def get(self, call_id: str) -> CallRecord | None:
        """One call, if it is known."""
        book = self._calls.get(call_id)
        return book.record if book else None

    def changed_since(self, version: int) -> list[CallRecord]:
        """Calls that changed after this number, the latest change first."""
        return list(self._newer(version))

    def _newer(self, version: int) -> Iterator[CallRecord]:
        for book in reversed(self._calls.values()):
            if book.record.changed <= version:
                return
            yield book.record

    def find(self, text: str, limit: int) -> list[CallRecord]:
        """Calls with this text in one of their ids, the latest change first."""
        wanted = text.strip().lower()
        records = (book.record for book in reversed(self._calls.values()))
        return list(islice((record for record in records if _has_id(record, wanted)), limit))

    def _keep_lately(self, record: CallRecord) -> None:
        if record.call_id in self._ended:
            return
        self._ended[record.call_id] = record.chars
        self._ended_chars += record.chars
        while len(self._ended) > MAX_LATELY:
            call_id, chars = self._ended.popitem(last=False)
            self._ended_chars -= chars
            del self._calls[call_id]
        self._forget_words()

    def _forget_words(self) -> None:
        """The oldest calls lose their words first."""
        for call_id, chars in self._ended.items():
            if self._ended_chars <= MAX_LATELY_CHARS:
                return
            if chars:
                record = self._calls[call_id].record
                record.lines_dropped += len(record.lines)
                record.lines.clear()
                self._ended_chars -= chars
                self._ended[call_id] = 0


def _has_id(record: CallRecord, wanted: str) -> bool:
    return wanted in record.call_id.lower() or wanted in record.provider_call_id.lower()


class _CallBook:
    """Writes what happens on one call into its record."""

    def __init__(self, record: CallRecord) -> None:
        self.record = record
        self._items: dict[str, Line] = {}
        self._last_number = 0
        self._at_s = 0.0
        # Of all lines: summed up for each word of the agent it would cost more than the word.
        self._chars = 0
        # When the caller's turn ended whose words have yet to come.
        self._turn_ended_s: float | None = None

    def note(self, fact: Fact, now: float) -> None:
        # A clock that is set back must not bring what follows before what was.
        self._at_s = max(self._at_s, round(now - self.record.began_at, 3))
        _NOTES[type(fact)](self, fact, self._at_s)

    def began(self, fact: CallBegan, _at_s: float) -> None:
        record = self.record
        record.provider, record.agent = fact.provider, fact.agent
        record.provider_call_id = fact.provider_call_id[:MAX_ID_CHARS]
        record.from_number = mask_number(fact.from_number[:MAX_ID_CHARS])
        record.to_number = mask_number(fact.to_number[:MAX_ID_CHARS])

    def ready(self, fact: CallReady, _at_s: float) -> None:
        self.record.setup_s = fact.setup_s

    def first_audio(self, fact: FirstAudioSent, _at_s: float) -> None:
        self.record.first_audio_s = fact.latency_s

    def state(self, fact: StateChanged, at_s: float) -> None:
        if fact.machine == "lifecycle":
            self.record.state = fact.state
            return
        self.record.turn = fact.state
        if fact.state == "thinking":
            self._turn_ended_s = at_s

    def caller_spoke(self, fact: CallerSpoke, at_s: float) -> None:
        """Words come late: they stand where the turn ended."""
        spoken_s, self._turn_ended_s = self._turn_ended_s, None
        line = self._new_line("caller", at_s if spoken_s is None else spoken_s)
        self._write(line, fact.text, "")

    def agent_said(self, fact: AgentSaid, at_s: float) -> None:
        line = self._item(fact.item_id, at_s)
        line.is_open = line.is_open or not (line.text or line.received_ms)
        self._write(line, line.text, fact.text[:MAX_LINE_CHARS].removeprefix(line.text).strip())

    def item_played(self, fact: ItemPlayed, at_s: float) -> None:
        line = self._item(fact.item_id, at_s)
        line.is_open = False
        line.received_ms, line.heard_ms = fact.received_ms, fact.heard_ms
        self._write(line, fact.text, fact.unheard)

    def _item(self, item_id: str, at_s: float) -> Line:
        line = self._items.get(item_id)
        if line is None:
            line = self._items[item_id] = self._new_line("agent", at_s)
        line.changed = self.record.changed
        return line

    def _new_line(self, who: Literal["caller", "agent"], at_s: float) -> Line:
        self._last_number += 1
        line = Line(self._last_number, who, at_s, changed=self.record.changed)
        self.record.lines.append(line)
        return line

    def _write(self, line: Line, text: str, unheard: str) -> None:
        """Put words into a line; the oldest lines make room."""
        record = self.record
        self._chars -= line.chars
        line.text, line.unheard = text[:MAX_LINE_CHARS], unheard[:MAX_LINE_CHARS]
        self._chars += line.chars
        lines = record.lines
        while len(lines) > MAX_LINES or (self._chars > MAX_CALL_CHARS and len(lines) > 1):
            self._drop(lines.pop(0))

    def _drop(self, line: Line) -> None:
        self._chars -= line.chars
        self.record.lines_dropped += 1
        self._items = {name: item for name, item in self._items.items() if item is not line}

    def answered(self, fact: TurnAnswered, at_s: float) -> None:
        self._time(at_s, round(fact.latency_s, 4))

    def timed(self, fact: TurnTimed, _at_s: float) -> None:
        """Told of the last answer, once it has been heard."""
        if self.record.timings:
            stages = ((name, round(seconds, 4)) for name, seconds in fact.stages())
            self.record.timings[-1].stages = dict(stages)

    def cost(self, fact: CostIncurred, _at_s: float) -> None:
        """Of a model without a price nothing is known."""
        if fact.model:
            self.record.cost_usd = (self.record.cost_usd or 0.0) + fact.cost_usd

    def timed_out(self, fact: TurnTimedOut, at_s: float) -> None:
        self._time(at_s, None)
        self._trouble("no answer of the model" + (", gave up" if fact.is_final else ""), at_s)

    def _time(self, at_s: float, latency_s: float | None) -> None:
        self.record.timings.append(Timing(at_s, latency_s))
        del self.record.timings[:-MAX_TIMINGS]

    def barged_in(self, _fact: BargedIn, _at_s: float) -> None:
        self.record.barge_ins += 1

    def tokens(self, fact: TokensUsed, _at_s: float) -> None:
        used = self.record.tokens
        for kind in _TOKEN_KINDS:
            used[kind] = used.get(kind, 0) + getattr(fact.usage, kind)

    def dialled(self, fact: RealtimeDialled, at_s: float) -> None:
        if fact.result != "ok":
            self._trouble(f"model not reached: {fact.result}", at_s)

    def lost(self, fact: RealtimeLost, at_s: float) -> None:
        if not fact.is_expected:
            self._trouble(f"line to the model lost: {fact.code}", at_s)

    def reconnected(self, _fact: RealtimeReconnected, at_s: float) -> None:
        self._trouble("line to the model is back", at_s)

    def erred(self, fact: RealtimeErrorSeen, at_s: float) -> None:
        """By its code: the model's own words may repeat a secret."""
        if fact.severity != "ignore":
            self._trouble(f"error of the model: {fact.code}", at_s)

    def audio_dropped(self, fact: AudioDropped, at_s: float) -> None:
        if fact.reason in {"gap", "overflow"}:
            whose = "caller's" if fact.direction == "up" else "agent's"
            self._trouble(f"{whose} audio lost: {fact.reason}", at_s)

    def rejected(self, fact: FrameRejected, at_s: float) -> None:
        self._trouble(f"bad message of the {fact.side}: {fact.kind}", at_s)

    def marks_lost(self, _fact: MarksLost, at_s: float) -> None:
        self._trouble("the provider stopped sending marks", at_s)

    def prompt(self, fact: PromptPlayed, at_s: float) -> None:
        if fact.name == "apology":
            self._trouble("the caller heard the apology", at_s)

    def _trouble(self, what: str, at_s: float) -> None:
        troubles = self.record.troubles
        known = next((trouble for trouble in troubles if trouble.what == what), None)
        if known is not None:
            known.count, known.at_s = known.count + 1, at_s
        elif len(troubles) < MAX_TROUBLES:
            troubles.append(Trouble(what[:MAX_LINE_CHARS], at_s))

    def ended(self, fact: CallEnded, at_s: float) -> None:
        record = self.record
        record.state, record.turn = "ended", ""
        record.ended_at = record.began_at + at_s
        record.duration_s = round(fact.duration_s, 3)
        record.result, record.reason = fact.termination.result, fact.termination.reason
        record.detail = fact.detail[:MAX_LINE_CHARS]
        for line in record.lines:
            if line.is_open:
                line.is_open, line.changed = False, record.changed


_NOTES: Final[Mapping[type, Callable[[Any, Any, float], None]]] = MappingProxyType(
    {
        CallBegan: _CallBook.began,
        CallReady: _CallBook.ready,
        FirstAudioSent: _CallBook.first_audio,
        StateChanged: _CallBook.state,
        CallerSpoke: _CallBook.caller_spoke,
        AgentSaid: _CallBook.agent_said,
        ItemPlayed: _CallBook.item_played,
        TurnAnswered: _CallBook.answered,
        TurnTimed: _CallBook.timed,
        CostIncurred: _CallBook.cost,
        TurnTimedOut: _CallBook.timed_out,
        BargedIn: _CallBook.barged_in,
        TokensUsed: _CallBook.tokens,
        RealtimeDialled: _CallBook.dialled,
        RealtimeLost: _CallBook.lost,
        RealtimeReconnected: _CallBook.reconnected,
        RealtimeErrorSeen: _CallBook.erred,
        AudioDropped: _CallBook.audio_dropped,
        FrameRejected: _CallBook.rejected,
        MarksLost: _CallBook.marks_lost,
        PromptPlayed: _CallBook.prompt,
        CallEnded: _CallBook.ended,
    }
)
