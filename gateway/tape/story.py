"""What happened on a taped call, on one clock: who spoke, what was heard, what went wrong.

Made from the tape's own messages and from the ledger of the call when it is played again. Times are
seconds on the tape's clock.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from gateway.conversation import heard_words
from gateway.events import (
    ALAW_8K,
    PCM_24K,
    ULAW_8K,
    AgentTranscribed,
    AgentTranscriptDelta,
    AudioDelta,
    AudioFormat,
    AudioLost,
    CallerTranscribed,
    CallStarted,
    DtmfReceived,
    FunctionCalled,
    LinkClosed,
    MarkReached,
    MessageRejected,
    RealtimeError,
    ResponseDone,
    ResponseStarted,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
)
from gateway.tape.accounts import Account, Accounts, accounts_of
from gateway.tape.ear import Ear, Passage
from gateway.tape.reading import Head, Line, Tape
from gateway.tape.wire import Asked, Clear, Mark, Sound, Translator, to_provider, to_realtime

# What a longer story keeps of each kind: hours of a call, and a bound for a tape gone mad.
MOST: Final = 100_000
# Characters of all words together; an hour of talk has 100,000.
MOST_CHARS: Final = 32_000_000
_TEXT_CHARS: Final = 20_000
# The model speaks of sound it was given lately.
_CLOCK_S: Final = 300.0
# Less than this was left: the end was heard.
_END_MS: Final = 100.0
_NORMAL_CLOSES: Final = frozenset({1000, 1001, 1005})

Times = list[tuple[float, float]]


@dataclass(slots=True)
class Words:
    """What the caller said in one turn; ``text`` is empty without a transcript."""

    item_id: str
    start_s: float
    end_s: float
    text: str = ""
    is_interruption: bool = False


@dataclass(slots=True)
class Speech:
    """One item of the agent's speech, or a recording of ours (then ``response_id`` is empty).

    ``heard``: when its sound was in the caller's ear. ``generated_ms`` is all the model made of it.
    """

    item_id: str
    response_id: str
    came_s: float
    said: str = ""
    heard_text: str = ""
    unheard_text: str = ""
    generated_ms: float = 0.0
    heard_ms: float = 0.0
    heard: Times = field(default_factory=list)
    sent_s: float = 0.0

    @property
    def unheard_ms(self) -> float:
        """What the model made and the caller did not hear."""
        return max(0.0, self.generated_ms - self.heard_ms)


@dataclass(slots=True)
class Answer:
    """One response of the model; ``status`` is empty while it runs."""

    response_id: str
    start_s: float
    end_s: float
    status: str = ""
    reason: str = ""


@dataclass(slots=True)
class Turn:
    """From the caller's last sound to the first of the answer in the caller's ear.

    Stages in ms, None where they did not happen: ``endpointing`` (silent by the model's audio clock
    to our hearing of it), ``model`` (to its first sound here), ``gateway`` (to our sending it),
    ``provider`` (to the caller's ear).
    """

    spoke_until_s: float
    stopped_s: float
    endpointing_ms: float
    model_ms: float | None = None
    gateway_ms: float | None = None
    provider_ms: float | None = None
    heard_s: float | None = None

    def stages(self) -> list[tuple[str, float]]:
        """Those that happened, in their order."""
        found = (
            ("endpointing", self.endpointing_ms),
            ("model", self.model_ms),
            ("gateway", self.gateway_ms),
            ("provider", self.provider_ms),
        )
        return [(name, value) for name, value in found if value is not None]

    @property
    def total_ms(self) -> float | None:
        """The whole turn, the sum of its stages; None if its answer was not heard."""
        return None if self.provider_ms is None else sum(value for _, value in self.stages())


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that has a time and no length; ``kind`` says which lane it belongs to.

    key, tool, tool_output, truncate, clear, mark, lost, error, hang_up, connected, reconnected.
    """

    t: float
    kind: str
    text: str = ""


@dataclass(slots=True)
class Story:
    """A call from its first to its last line."""

    head: Head
    audio_in: AudioFormat = ULAW_8K
    audio_out: AudioFormat = ULAW_8K
    from_number: str = ""
    to_number: str = ""
    duration_s: float = 0.0
    result: str = ""
    reason: str = ""
    note: str = ""
    caller: list[Words] = field(default_factory=list)
    agent: list[Speech] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    ear: Ear = field(default_factory=lambda: Ear(ULAW_8K.bytes_per_ms))

    @property
    def hides_digits(self) -> bool:
        """Whether the tape has a 1 for every digit that was said or pressed."""
        return "numbers" in self.head.masks

    @property
    def rate_hz(self) -> int:
        """The rate at which nothing of a telephone's sound is lost: 8 kHz, else 24 kHz."""
        narrow = ULAW_8K.rate_hz
        is_narrow = self.audio_in.rate_hz == self.audio_out.rate_hz == narrow
        return narrow if is_narrow else 3 * narrow


def story_of(path: str | Path) -> Story:
    """Read a tape, and play it to see its ledger.

    Raises:
        TapeError: the file is missing, no tape, or damaged.
    """
    accounts = accounts_of(path)
    with Tape(path) as tape:
        teller = _Teller(tape)
        for line in tape:
            teller.read(line)
        return teller.finish(accounts)


class _ModelClock:
    """When the sound at a place of the model's audio clock was sent to it."""

    def __init__(self) -> None:
        self._sent_ms = 0.0
        self._known: deque[tuple[float, float]] = deque()

    def begin(self) -> None:
        self._sent_ms = 0.0
        self._known.clear()

    def sent(self, duration_ms: float, t: float) -> None:
        self._sent_ms += duration_ms
        self._known.append((self._sent_ms, t))
        while self._known and self._known[0][1] < t - _CLOCK_S:
            self._known.popleft()

    def moment(self, position_ms: float, now: float) -> float:
        """When that sound was said; ``now`` if it cannot be told.

        What is sent at once was said before: so much sound ago is so much time ago.
        """
        if not self._known or not 0 < position_ms <= self._sent_ms:
            return now
        return self._known[-1][1] - (self._sent_ms - position_ms) / 1000


class _Teller:
    """Reads a tape's lines in order."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._story = Story(tape.head)
        self._translator = Translator(tape.head)
        session = _table(tape.head.settings.call, "session")
        self._session_audio = _session_audio(_table(session, "audio").get("encoding"))
        self._detection = _table(session, "turn_detection")
        self._clock = _ModelClock()
        self._speeches: dict[str, Speech] = {}
        self._answers: dict[str, Answer] = {}
        self._words: dict[str, Words] = {}
        self._speaking: Words | None = None
        self._old_answers: set[str] = set()
        # Turn -> the first sound of its answer.
        self._answered: dict[int, tuple[Turn, str]] = {}
        self._sessions = 0
        self._room_chars = MOST_CHARS

    # ------------------------------------------------------------------ lines

    def read(self, line: Line) -> None:
        """The next line."""
        story = self._story
        story.duration_s = max(story.duration_s, line.t)
        if line.end is not None:
            story.result, story.reason = line.end.result, line.end.reason
        elif line.lost:
            self._note(line.t, "lost", f"{line.lost} lines are missing here")
        elif line.hang_up:
            self._note(line.t, "hang_up", line.hang_up)
        elif line.stopped:
            self._note(line.t, "hang_up", "the gateway stopped")
        elif line.dir == "in":
            self._came(line)
        elif line.data is not None:
            self._went(line)

    def _came(self, line: Line) -> None:
        if line.kind == "opened":
            self._clock.begin()
        elif line.kind == "refused":
            self._note(line.t, "error", f"the model could not be reached: {line.result}")
        events: Any = ()
        if line.link == "provider":
            events = self._translator.from_provider(line)
        elif line.link == "realtime":
            events = self._translator.from_realtime(line)
        for event in events:
            if (tell := self._ON_EVENT.get(type(event))) is not None:
                tell(self, event, line)

    def _went(self, line: Line) -> None:
        if line.link == "provider":
            self._sent_to_provider(line)
            return
        asked = to_realtime(line.message)
        if isinstance(asked, int):
            self._clock.sent(asked / self._session_audio.bytes_per_ms, line.t)
        elif asked is not None:
            self._asked(asked, line.t)

    def _sent_to_provider(self, line: Line) -> None:
        meaning, ear = to_provider(line.message), self._story.ear
        if isinstance(meaning, Sound):
            ear.sound_sent(len(meaning.payload), line.t)
        elif isinstance(meaning, Mark):
            ear.mark_sent(meaning.name)
        elif isinstance(meaning, Clear):
            ear.cleared(line.t)
            self._note(line.t, "clear")

    def _asked(self, asked: Asked, t: float) -> None:
        if asked.kind == "conversation.item.truncate":
            self._note(t, "truncate", f"the model forgets all behind {asked.audio_end_ms} ms")
        elif asked.kind == "conversation.item.create":
            output = asked.item.get("output")
            if isinstance(output, str):
                self._note(t, "tool_output", output)

    def _note(self, t: float, kind: str, text: str = "") -> None:
        if len(self._story.moments) < MOST:
            self._story.moments.append(Moment(t, kind, self._kept(text)))

    def _kept(self, text: str, before: str = "") -> str:
        """Behind what there is already: as much as one entry, and all of them, have room for."""
        kept = text[: max(0, min(_TEXT_CHARS - len(before), self._room_chars))]
        self._room_chars -= len(kept)
        return before + kept

    # ------------------------------------------------------------------ the provider

    def _call_started(self, event: CallStarted, _line: Line) -> None:
        story = self._story
        story.audio_in, story.audio_out = event.audio_in, event.audio_out
        story.from_number, story.to_number = event.from_number, event.to_number
        story.ear = Ear(event.audio_out.bytes_per_ms)

    def _mark_reached(self, event: MarkReached, line: Line) -> None:
        self._story.ear.mark_came(event.name, line.t)
        self._note(line.t, "mark", event.name)

    def _audio_lost(self, event: AudioLost, line: Line) -> None:
        self._note(line.t, "lost", f"{event.duration_ms} ms of the caller never came")

    def _key_pressed(self, event: DtmfReceived, line: Line) -> None:
        self._note(line.t, "key", event.digit)

    def _link_closed(self, event: LinkClosed, line: Line) -> None:
        if event.code not in _NORMAL_CLOSES:
            why = f": {event.reason}" if event.reason else ""
            self._note(line.t, "error", f"{line.link} closed with {event.code}{why}")

    def _message_rejected(self, event: MessageRejected, line: Line) -> None:
        if event.kind != "unknown_event":
            self._note(line.t, "error", f"bad message of {line.link}: {event.kind} {event.detail}")

    # ------------------------------------------------------------------ the model

    def _session_updated(self, _event: SessionUpdated, line: Line) -> None:
        self._sessions += 1
        self._note(line.t, "connected" if self._sessions == 1 else "reconnected")

    def _speech_started(self, event: SpeechStarted, line: Line) -> None:
        at = self._clock.moment(event.audio_start_ms, line.t)
        start_s = min(at + _number(self._detection, "prefix_padding_ms") / 1000, line.t)
        words = Words(event.item_id, max(0.0, start_s), line.t)
        self._speaking = words
        if self._add(self._story.caller, words):
            self._words[event.item_id] = words

    def _speech_stopped(self, event: SpeechStopped, line: Line) -> None:
        spoke_until_s = self._clock.moment(event.audio_end_ms, line.t) - self._silence_s
        words, self._speaking = self._speaking, None
        if words is not None:
            words.end_s = max(words.start_s, min(spoke_until_s, line.t))
        endpointing_ms = (line.t - min(spoke_until_s, line.t)) * 1000
        self._old_answers = set(self._answers)
        turn = Turn(min(spoke_until_s, line.t), line.t, endpointing_ms)
        self._add(self._story.turns, turn)

    @property
    def _silence_s(self) -> float:
        """Silence the model has heard when it says that a turn is over."""
        is_known = self._detection.get("kind") == "server_vad"
        return _number(self._detection, "silence_duration_ms") / 1000 if is_known else 0.0

    def _response_started(self, event: ResponseStarted, line: Line) -> None:
        answer = Answer(event.response_id, line.t, line.t)
        if self._add(self._story.answers, answer):
            self._answers[event.response_id] = answer

    def _response_done(self, event: ResponseDone, line: Line) -> None:
        answer = self._answers.get(event.response_id)
        if answer is not None:
            answer.end_s, answer.status, answer.reason = line.t, event.status, event.reason
        if event.status == "failed":
            self._note(line.t, "error", f"the answer failed: {event.reason} {event.detail}".strip())

    def _audio_came(self, event: AudioDelta, line: Line) -> None:
        speech = self._speech(event.item_id, event.response_id, line.t)
        if not speech.generated_ms:
            speech.came_s = line.t
        speech.generated_ms += len(event.payload) / self._session_audio.bytes_per_ms
        turns = self._story.turns
        if turns and turns[-1].model_ms is None and event.response_id not in self._old_answers:
            turn = turns[-1]
            turn.model_ms = (line.t - turn.stopped_s) * 1000
            self._answered[id(turn)] = (turn, event.item_id)

    def _speech(self, item_id: str, response_id: str, t: float) -> Speech:
        speech = self._speeches.get(item_id)
        if speech is None:
            speech = Speech(item_id, response_id, t)
            if self._add(self._story.agent, speech):
                self._speeches[item_id] = speech
        return speech

    def _words_came(self, event: AgentTranscriptDelta, line: Line) -> None:
        speech = self._speech(event.item_id, event.response_id, line.t)
        speech.said = self._kept(event.text, speech.said)

    def _text_came(self, event: AgentTranscribed, line: Line) -> None:
        self._speech(event.item_id, event.response_id, line.t).said = self._kept(event.text)

    def _caller_transcribed(self, event: CallerTranscribed, line: Line) -> None:
        words = self._words.get(event.item_id)
        if words is None:
            words = Words(event.item_id, line.t, line.t)
            self._add(self._story.caller, words)
        words.text = self._kept(event.text.strip())

    def _tool_called(self, event: FunctionCalled, line: Line) -> None:
        self._note(line.t, "tool", f"{event.name}({event.arguments})")

    def _erred(self, event: RealtimeError, line: Line) -> None:
        if event.severity != "ignore":
            self._note(line.t, "error", f"{event.code}: {event.message}")

    def _add(self, found: list[Any], entry: object) -> bool:
        """Keep it, if there is room."""
        has_room = len(found) < MOST
        if has_room:
            found.append(entry)
        return has_room

    # ------------------------------------------------------------------ the end

    def finish(self, accounts: Accounts) -> Story:
        """All lines were read."""
        story = self._story
        story.note = self._doubt(accounts)
        story.ear.settle(_cuts(story, accounts), story.duration_s)
        for account in accounts.items:
            self._book(account)
        if not accounts.items:
            self._guess_heard()
        story.agent.sort(key=lambda speech: speech.heard[0][0] if speech.heard else speech.came_s)
        for turn, item_id in self._answered.values():
            self._time(turn, self._speeches.get(item_id))
        for words in story.caller:
            words.is_interruption = _is_interruption(story, words)
        return story

    def _doubt(self, accounts: Accounts) -> str:
        if accounts.problem:
            return f"{accounts.problem}; what was heard is an estimate"
        if not self._tape.is_whole:
            return "this tape was cut short: it is told up to its last whole line"
        return ""

    def _book(self, account: Account) -> None:
        """What the ledger says of one item; an item that was cut in two has two accounts."""
        ear, t = self._story.ear, self._story.duration_s
        speech = self._speech(account.item_id, account.response_id, t)
        if account.spans and not speech.heard:
            speech.sent_s = ear.sent_at(account.spans[0][0])
        before = len(speech.heard)
        for start, end in account.spans:
            speech.heard += [(part.at_s, ear.ends_at_s(part)) for part in ear.parts(start, end)]
        if not account.response_id:
            speech.generated_ms = max(speech.generated_ms, account.received_ms)
        heard_ms = account.heard_ms
        if heard_ms is None:
            heard_ms = sum(end - start for start, end in speech.heard[before:]) * 1000
        speech.heard_ms = min(speech.heard_ms + heard_ms, speech.generated_ms)
        if speech.heard:
            speech.came_s = min(speech.came_s, speech.heard[0][0])
        _split_words(speech, account)

    def _guess_heard(self) -> None:
        """Nobody knows which sound belongs to which item."""
        for speech in self._story.agent:
            speech.heard_text, speech.heard_ms = speech.said, speech.generated_ms

    def _time(self, turn: Turn, speech: Speech | None) -> None:
        if speech is None or not speech.heard or turn.model_ms is None:
            return
        came_s = turn.stopped_s + turn.model_ms / 1000
        turn.heard_s = max(came_s, speech.heard[0][0])
        sent_s = min(max(came_s, speech.sent_s), turn.heard_s)
        turn.gateway_ms = (sent_s - came_s) * 1000
        turn.provider_ms = (turn.heard_s - sent_s) * 1000

    _ON_EVENT: ClassVar[Mapping[type, Callable[["_Teller", Any, Line], None]]] = {
        CallStarted: _call_started,
        MarkReached: _mark_reached,
        AudioLost: _audio_lost,
        DtmfReceived: _key_pressed,
        LinkClosed: _link_closed,
        MessageRejected: _message_rejected,
        SessionUpdated: _session_updated,
        SpeechStarted: _speech_started,
        SpeechStopped: _speech_stopped,
        ResponseStarted: _response_started,
        ResponseDone: _response_done,
        AudioDelta: _audio_came,
        AgentTranscriptDelta: _words_came,
        AgentTranscribed: _text_came,
        CallerTranscribed: _caller_transcribed,
        FunctionCalled: _tool_called,
        RealtimeError: _erred,
    }


def _session_audio(encoding: object) -> AudioFormat:
    """The format between us and the model."""
    known = {each.encoding: each for each in (ULAW_8K, ALAW_8K, PCM_24K)}
    return next((known[name] for name in known if name == encoding), PCM_24K)


def _table(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Settings within settings; what is none is empty."""
    value = settings.get(name)
    return value if isinstance(value, dict) else {}


def _number(settings: Mapping[str, Any], name: str) -> float:
    value = settings.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _split_words(speech: Speech, account: Account) -> None:
    """What was heard of the words, and what was not; all of them where all of it was heard."""
    whole_ms = speech.generated_ms - speech.heard_ms
    if account.heard_ms is None or whole_ms <= _END_MS:
        speech.heard_text, speech.unheard_text = speech.said, ""
        return
    said, heard = speech.said, account.heard_text.strip()
    if not said.strip().startswith(heard):
        heard = heard_words(said, speech.generated_ms, speech.heard_ms)
    speech.heard_text = heard
    speech.unheard_text = said.strip()[len(heard) :].strip()


def _cuts(story: Story, accounts: Accounts) -> dict[int, int]:
    """How far each passage was heard, where the ledger closed accounts of it."""
    found: dict[int, int] = {}
    passages = story.ear.passages
    starts = [passage.start for passage in passages]
    for account in accounts.items:
        if not account.spans:
            continue
        passage = passages[max(0, bisect_right(starts, account.spans[0][0]) - 1)]
        reached = _reached(account, passage, story.audio_out.bytes_per_ms)
        found[passage.start] = max(found.get(passage.start, passage.start), reached)
    return found


def _reached(account: Account, passage: Passage, bytes_per_ms: int) -> int:
    """The place up to which an account was heard."""
    end = account.spans[-1][1]
    if account.heard_ms == 0:
        return passage.start
    if account.heard_ms is None:
        return min(end, passage.end if passage.cleared_at is None else passage.estimate)
    if account.heard_ms >= account.received_ms:
        return end
    left = int(account.heard_ms * bytes_per_ms)
    for start, stop in account.spans:
        if left <= stop - start:
            return start + left
        left -= stop - start
    return end


def _is_interruption(story: Story, words: Words) -> bool:
    """Whether the agent was in the caller's ear when the caller began."""
    for speech in reversed(story.agent):
        for start, end in speech.heard:
            if start < words.start_s < end:
                return True
    return False
