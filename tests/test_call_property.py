"""What holds on every call, whatever happens on it and in whatever order."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gateway.call import Call
from gateway.events import (
    AgentTranscribed,
    AgentTranscriptDelta,
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioDropped,
    AudioLost,
    AudioReceived,
    CallEnded,
    CallerTranscribed,
    CallStopped,
    CloseRealtime,
    ConfigureSession,
    DialRealtime,
    DtmfReceived,
    Fact,
    FunctionCalled,
    HangUp,
    ItemTruncated,
    LinkClosed,
    MarkReached,
    MessageRejected,
    PlayAudio,
    PlayoutPaused,
    PlayoutReported,
    PlayoutResumed,
    ProviderCommand,
    ProviderEvent,
    RateLimitReported,
    RealtimeCommand,
    RealtimeConnected,
    RealtimeError,
    RealtimeEvent,
    RealtimeRefused,
    ResponseDone,
    ResponseStarted,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    Usage,
)
from tests.lab import options, started
from tests.scenes import PROMPTS, session

FRAME_BYTES = 160

_responses = st.sampled_from(("resp_1", "resp_2", "resp_3"))
_items = st.sampled_from(("item_1", "item_2", "item_3", "item_4"))
_payloads = st.integers(1, 12_000).map(lambda size: b"\x55" * size)
_codes = st.sampled_from((1000, 1001, 1006, 1009, 1011, 4000))
_severities = st.sampled_from(("ignore", "warn", "busy", "retry", "expired", "fatal"))
_statuses = st.sampled_from(("completed", "cancelled", "failed", "incomplete"))
_reasons = st.sampled_from(("", "server_error", "insufficient_quota", "turn_detected"))

_PROVIDER: SearchStrategy[ProviderEvent] = st.one_of(
    _payloads.map(AudioReceived),
    st.integers(1, 500).map(AudioLost),
    st.integers(1, 40).map(lambda number: MarkReached(f"m{number}")),
    st.integers(0, 9000).map(PlayoutReported),
    st.just(PlayoutPaused()),
    st.just(PlayoutResumed()),
    st.sampled_from("0123456789*#ABCD").map(DtmfReceived),
    st.just(started()),
    st.builds(MessageRejected, st.sampled_from(("bad_json", "unknown_event"))),
)
_PROVIDER_GONE: SearchStrategy[ProviderEvent] = st.one_of(
    st.just(CallStopped()), _codes.map(LinkClosed)
)
_CONVERSATION: SearchStrategy[RealtimeEvent] = st.one_of(
    st.builds(ResponseStarted, _responses),
    st.builds(AudioDelta, _responses, _items, st.integers(0, 1), _payloads),
    st.builds(AudioDone, _responses, _items, st.integers(0, 1)),
    st.builds(AgentTranscriptDelta, _responses, _items, st.text(max_size=9)),
    st.builds(AgentTranscribed, _responses, _items, st.text(max_size=9)),
    st.builds(CallerTranscribed, _items, st.text(max_size=9)),
    st.builds(FunctionCalled, _responses, _items, st.just("call"), st.just("tool"), st.just("{")),
    st.builds(
        ResponseDone,
        _responses,
        _statuses,
        _reasons,
        retry_after_s=st.sampled_from((0.0, 3.0, 30.0)),
        usage=st.just(Usage(output_audio=1)),
    ),
    st.builds(ItemTruncated, _items, st.integers(0, 100)),
    st.just(RateLimitReported("tokens", 10, 5, 1.0)),
    st.builds(RealtimeError, st.just("other"), _severities),
    st.just(MessageRejected("bad_json")),
    st.just(SpeechStarted("item_u", 0)),
    st.just(SpeechStopped("item_u", 0)),
)
_SESSION: SearchStrategy[RealtimeEvent] = st.one_of(
    st.just(RealtimeConnected(0.1)),
    st.builds(
        RealtimeRefused,
        st.sampled_from(("401", "429", "5xx")),
        st.booleans(),
        st.sampled_from((0.0, 1.0, 9.0)),
    ),
    st.builds(SessionCreated, st.just("sess"), st.sampled_from((0.0, 1.0, 200.0, 1800.0))),
    st.just(SessionUpdated()),
    _codes.map(LinkClosed),
)


@dataclass(frozen=True)
class _FromProvider:
    """The telephone's side says something."""

    event: ProviderEvent


@dataclass(frozen=True)
class _FromModel:
    """The model's side says something."""

    event: RealtimeEvent


@dataclass(frozen=True)
class _Wait:
    """Time passes; ``is_late`` when the driver's loop stood still meanwhile."""

    duration_s: float
    is_late: bool


@dataclass(frozen=True)
class _HangUp:
    """The operator ends the call."""

    is_at_once: bool


_Step = _FromProvider | _FromModel | _Wait | _HangUp
_PHONE = _PROVIDER.map(_FromProvider)
_TALK = _CONVERSATION.map(_FromModel)
_LINE = _SESSION.map(_FromModel)
_LAST = st.one_of(_PROVIDER_GONE.map(_FromProvider), st.just(_HangUp(is_at_once=True)))
_TIME = st.builds(
    _Wait, st.sampled_from((0.005, 0.02, 0.11, 0.6, 2.1, 6.5, 16.0, 61.0)), st.booleans()
)
_OPERATOR = st.builds(_HangUp, st.booleans())
_OPTIONS = st.fixed_dictionaries(
    {
        "lead_ms": st.sampled_from((100, 2000, 5000)),
        "has_marks": st.booleans(),
        "has_status": st.booleans(),
        "allow_barge_in": st.booleans(),
        "greeting": st.sampled_from(("", "Say hello.")),
        "prompts": st.sampled_from(({}, PROMPTS)),
        "max_call_s": st.sampled_from((30.0, 3600.0)),
        "session": st.sampled_from(
            (session(), session(kind="none"), session(create_response=False))
        ),
    }
)


@dataclass
class _World:
    """A call, whatever happens to it, and what must hold after each happening."""

    changes: dict[str, object]
    now: float = 0.0
    facts: list[Fact] = field(default_factory=list)
    to_provider: list[ProviderCommand] = field(default_factory=list)
    to_realtime: list[RealtimeCommand] = field(default_factory=list)
    # What the model is at present: none, dialled, open or ready.
    line: str = "none"
    # Caller audio, and gaps that the model has to hear as silence.
    arrived_ms: float = 0.0
    spoken_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.call = Call(started(), options(**self.changes), self.now)
        self._check()

    def happen(self, step: _Step) -> None:
        """One thing happens, and the driver carries what comes out."""
        was_over = self.call.termination is not None
        said = len(self.facts)
        match step:
            case _FromProvider(event):
                self._hear(event)
                self.call.provider_received(event, self.now)
            case _FromModel(event):
                self._note(event)
                self.call.realtime_received(event, self.now)
            case _Wait():
                self._wait(step)
            case _HangUp(is_at_once):
                self.call.hang_up("drain", self.now, at_once=is_at_once)
        self._check()
        if was_over:
            assert len(self.facts) == said

    def _hear(self, event: ProviderEvent) -> None:
        if isinstance(event, AudioReceived) and self.call.termination is None:
            self.arrived_ms += len(event.payload) / 8
        if isinstance(event, AudioLost) and self.call.lifecycle in {"starting", "active"}:
            self.arrived_ms += event.duration_ms

    def _note(self, event: RealtimeEvent) -> None:
        if isinstance(event, AudioDelta):
            spoken_ms = self.spoken_ms.get(event.item_id, 0) + len(event.payload) / 8
            self.spoken_ms[event.item_id] = spoken_ms

    def _wait(self, step: _Wait) -> None:
        end = self.now + step.duration_s
        while not step.is_late and (at := self.call.next_timer()) is not None and at <= end:
            self.now = max(self.now, at)
            self._fire()
        self.now = end
        self._fire()

    def _fire(self) -> None:
        self.call.timer_fired(self.now)
        after = self.call.next_timer()
        assert after is None or after > self.now, "the timer's law"
        self._check()

    def _check(self) -> None:
        for command in self.call.to_provider:
            if isinstance(command, PlayAudio):
                assert len(command.payload) % FRAME_BYTES == 0
                assert 0 < len(command.payload) <= 8000
        for asked in self.call.to_realtime:
            self._follow(asked)
        if self.call.termination is not None:
            assert list(self.call.to_provider) in ([], [HangUp()])
            assert set(self.call.to_realtime) <= {CloseRealtime()}
            assert self.call.next_timer() is None
        self._carry()
        records = [fact for fact in self.facts if isinstance(fact, CallEnded)]
        assert len(records) == (self.call.termination is not None)

    def _follow(self, command: RealtimeCommand) -> None:
        if isinstance(command, DialRealtime):
            assert self.call.lifecycle in {"starting", "active"}
        elif isinstance(command, TruncateItem):
            assert 0 <= command.audio_end_ms <= self.spoken_ms[command.item_id]

    def _carry(self) -> None:
        self.facts += self.call.facts
        self.call.facts.clear()
        self.to_provider += self.call.to_provider
        self.call.to_provider.clear()
        self.to_realtime += self.call.to_realtime
        self.call.to_realtime.clear()

    def dropped_up_ms(self, *reasons: str) -> float:
        """Caller audio told to be dropped for these reasons."""
        drops = [fact for fact in self.facts if isinstance(fact, AudioDropped)]
        return sum(d.duration_ms for d in drops if d.direction == "up" and d.reason in reasons)

    def appended_ms(self) -> float:
        """Caller audio the model was sent."""
        return sum(len(c.payload) / 8 for c in self.to_realtime if isinstance(c, AppendAudio))


_LINE_AFTER: dict[type, str] = {
    RealtimeConnected: "open",
    SessionUpdated: "ready",
    RealtimeRefused: "none",
    LinkClosed: "none",
}


class _LawfulWorld(_World):
    """The same with a driver that dials when asked, and a model that speaks when it is there."""

    def happen(self, step: _Step) -> None:
        """What cannot happen on the present line does not."""
        if not isinstance(step, _FromModel):
            super().happen(step)
        elif self._is_possible(step.event):
            self.line = _LINE_AFTER.get(type(step.event), self.line)
            super().happen(step)

    def _is_possible(self, event: RealtimeEvent) -> bool:
        match event:
            case RealtimeConnected() | RealtimeRefused():
                return self.line == "dialled"
            case SessionCreated() | SessionUpdated():
                return self.line == "open"
            case LinkClosed():
                return self.line in {"open", "ready"}
            case _:
                return self.line == "ready"

    def _follow(self, command: RealtimeCommand) -> None:
        super()._follow(command)
        if isinstance(command, DialRealtime):
            self.line = "dialled"
        elif isinstance(command, CloseRealtime):
            self.line = "none"
        elif isinstance(command, ConfigureSession):
            assert self.line == "open", command
        else:
            assert self.line == "ready", command


_CHAOS = st.lists(st.one_of(_PHONE, _TALK, _LINE, _TIME, _OPERATOR), max_size=50)
_LAWFUL = st.lists(st.one_of(_PHONE, _TALK, _LINE, _TIME), max_size=60)


@settings(max_examples=400, deadline=None)
@given(_OPTIONS, _CHAOS, _LAST)
def test_any_order_of_events_ends_in_one_record(
    changes: dict[str, object], steps: list[_Step], last: _Step
) -> None:
    """Nothing raises, the timer keeps its law, and nothing is said after the one record."""
    world = _World(changes)
    for step in steps:
        world.happen(step)
    world.happen(last)
    assert world.call.termination is not None
    world.happen(_Wait(61.0, is_late=False))
    world.happen(last)


@settings(max_examples=400, deadline=None)
@given(_OPTIONS, _LAWFUL)
def test_a_model_is_told_nothing_before_it_is_ready(
    changes: dict[str, object], steps: list[_Step]
) -> None:
    """Only a session that took its options gets audio, questions and truncations."""
    world = _LawfulWorld(changes)
    world.happen(_FromModel(RealtimeConnected(0.1)))
    world.happen(_FromModel(SessionUpdated()))
    for step in steps:
        world.happen(step)


@settings(max_examples=300, deadline=None)
@given(_OPTIONS, _LAWFUL)
def test_no_audio_of_the_caller_goes_missing(
    changes: dict[str, object], steps: list[_Step]
) -> None:
    """What came in was sent to the model or told to be dropped, to the last byte.

    Only words that a lost session had not answered are said more than once.
    """
    world = _LawfulWorld(changes)
    for step in steps:
        world.happen(step)
    world.happen(_FromProvider(CallStopped()))
    went_ms = world.appended_ms() + world.dropped_up_ms("overflow", "ended")

    assert went_ms > world.arrived_ms - 0.001
    if _FromModel(SpeechStarted("item_u", 0)) not in steps:
        assert went_ms < world.arrived_ms + 0.001
