"""The heart: one call's life and turn-taking, as a value that eats events and produces commands.

Nothing here opens a socket, starts a task or reads a clock: every event comes with ``now`` (seconds
on any clock that only goes forward), and ``next_timer`` says when the call wants to be woken.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gateway.answers import Answers
from gateway.conversation import Conversation
from gateway.downlink import Downlink
from gateway.events import (
    AddMessage,
    AgentTranscribed,
    AgentTranscriptDelta,
    AppendAudio,
    AudioCounted,
    AudioDelta,
    AudioDone,
    AudioDropped,
    AudioLost,
    AudioReceived,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallerTranscribed,
    CallReady,
    CallStarted,
    CallStopped,
    CancelResponse,
    ClearAudio,
    CloseRealtime,
    CommitInput,
    ConfigureSession,
    CreateResponse,
    DialRealtime,
    Direction,
    DtmfEntered,
    DtmfReceived,
    Fact,
    FirstAudioSent,
    FrameRejected,
    FunctionCalled,
    HangUp,
    ItemPlayed,
    ItemTruncated,
    LinkClosed,
    MarkReached,
    MarksLost,
    MessageRejected,
    PlayAudio,
    PlayoutPaused,
    PlayoutReported,
    PlayoutResumed,
    PromptPlayed,
    ProviderCommand,
    ProviderEvent,
    QueryPlayout,
    RateLimitReported,
    RateLimitSeen,
    RealtimeCommand,
    RealtimeConnected,
    RealtimeDialled,
    RealtimeError,
    RealtimeErrorSeen,
    RealtimeEvent,
    RealtimeLost,
    RealtimeReconnected,
    RealtimeRefused,
    Reason,
    ResponseDone,
    ResponseStarted,
    SendFunctionOutput,
    SendMark,
    SessionCreated,
    SessionOptions,
    SessionUpdated,
    Severity,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    Termination,
    TokensUsed,
    ToolCalled,
    TruncateItem,
    TurnAnswered,
    TurnTimedOut,
    Usage,
)
from gateway.playout import Heard, PlayoutOptions
from gateway.states import LIFECYCLE, TURN, Lifecycle, Machine, Turn
from gateway.uplink import Uplink

# Dialling: two attempts within the budget, the second after a moment unless the service says more.
DIALS_LIMIT = 2
REDIAL_AFTER_S = 0.2
SHORTEST_DIAL_S = 0.3
SPARE_S = 0.1
# Carried audio is told about once in this time.
COUNT_EVERY_MS = 1000
# A model counts a little less than it sent (85 ms seen, pipecat#2106): near the end is the end.
TRUNCATE_MARGIN_MS = 100
# How long the provider may take to say what it still held before marks have to do.
STATUS_WAIT_S = 0.1
# Keys pressed within this time are one entry.
DIGITS_PAUSE_S = 2.0
DIGITS_LIMIT = 64
# A failed answer is asked for again after this, or after the service's hint if that is bearable.
RETRY_AFTER_S = 0.5
RETRY_HINT_LIMIT_S = 10.0
# Two sessions lost within this time: the third would be lost too.
RECONNECT_PAUSE_S = 10.0
# A session is renewed this long before it expires, sooner or later by half of it to meet a silence.
ROLLOVER_MARGIN_S = 120.0
# Bad messages of a provider in a row that end the call.
BAD_MESSAGES_LIMIT = 50
ANSWER_TIMERS: Final = ("answer", "give up")
FATAL_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
        "model_not_found",
    }
)
# Close codes of the model that a new session would meet again (4000: dialect refused).
FATAL_CLOSES: Final = frozenset({1008, 3000, 4000})
# What a provider's close code says about the end of the call.
PROVIDER_CLOSES: Final[Mapping[int, Reason]] = {
    1000: "caller_hangup",
    1001: "caller_hangup",
    1005: "caller_hangup",
    1002: "protocol_error",
    1003: "protocol_error",
    1007: "protocol_error",
    1008: "protocol_error",
    1009: "protocol_error",
}
# Ends of which the caller is told in words, and the recording that tells.
LAST_WORDS: Final[Mapping[Reason, str]] = {
    "realtime_unavailable": "apology",
    "realtime_error": "apology",
    "idle_timeout": "goodbye",
    "max_duration": "goodbye",
    "drain": "goodbye",
}


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What one call shall be like. ``prompts``: name -> 24 kHz PCM (apology, filler, goodbye)."""

    provider: str
    agent: str
    session: SessionOptions
    lead_ms: int
    greeting: str = ""
    allow_barge_in: bool = True
    frame_ms: int = 20
    mark_interval_ms: int = 100
    max_message_bytes: int = 8000
    has_marks: bool = True
    has_status: bool = False
    connect_budget_s: float = 5.0
    reconnect_budget_s: float = 3.0
    answer_s: float = 6.0
    give_up_s: float = 15.0
    idle_s: float = 60.0
    max_call_s: float = 3600.0
    last_words_s: float = 30.0
    prompts: Mapping[str, bytes] = field(default_factory=dict)


_EventTable = Mapping[type, Callable[["Call", Any, float], None]]
_TimerTable = Mapping[str, Callable[["Call", float], None]]


class Call:
    """One phone conversation between a caller and an agent.

    In: ``provider_received``, ``realtime_received``, ``timer_fired``, ``hang_up``. Out, drained by
    the driver in order: ``to_provider``, ``to_realtime``, ``facts``; ``termination`` once over.
    """

    def __init__(
        self, started: CallStarted, options: CallOptions, now: float, *, unix_offset_s: float = 0.0
    ) -> None:
        self.to_provider: deque[ProviderCommand] = deque()
        self.to_realtime: deque[RealtimeCommand] = deque()
        self.facts: list[Fact] = []
        self.termination: Termination | None = None
        self._options = options
        self._unix_offset_s = unix_offset_s
        self._began = now
        self._life = Machine(LIFECYCLE, Lifecycle.STARTING)
        self._turn = Machine(TURN, Turn.LISTENING)
        self._answers = Answers()
        self._conversation = Conversation()
        self._uplink = Uplink(started.audio_in, options.session.audio)
        self._downlink = Downlink(options.session.audio, _playout_options(started, options))
        self._playout = self._downlink.playout
        self._timers: dict[str, float] = {}
        self._session_since: float | None = None
        self._dial_until = now
        self._dials = 0
        self._lost_at: float | None = None
        self._rollover_by = now
        self._reconnected_at = now - RECONNECT_PAUSE_S
        self._owes_answer = False
        self._foreign_items: frozenset[str] = frozenset()
        self._caller_speaks = False
        self._speech_stopped_at: float | None = None
        self._has_sounded = False
        self._cleared: tuple[float, float] | None = None
        self._digits = ""
        self._bad_messages = 0
        self._last_reason: Reason | None = None
        self._counted: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._turns = self._barge_ins = 0
        self._received_ms = self._heard_ms = 0.0
        self._report(_began(started, options))
        self._timers["max call"] = now + options.max_call_s
        self._dial(now, options.connect_budget_s)

    # ------------------------------------------------------------------ the public face

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the call is between its start and its end."""
        return self._life.state

    @property
    def turn(self) -> Turn:
        """Whose turn it is."""
        return self._turn.state

    def provider_received(self, event: ProviderEvent, now: float) -> None:
        """Something happened on the telephone's side."""
        if self.termination is None:
            self._ON_PROVIDER[type(event)](self, event, now)

    def realtime_received(self, event: RealtimeEvent, now: float) -> None:
        """Something happened on the model's side."""
        if self.termination is None:
            self._ON_REALTIME[type(event)](self, event, now)

    def next_timer(self) -> float | None:
        """When ``timer_fired`` wants to be called; None when nothing is waited for."""
        times = list(self._timers.values())
        playout = self._playout.next_timer()
        if playout is not None and self.termination is None:
            times.append(playout)
        return min(times, default=None)

    def timer_fired(self, now: float) -> None:
        """Time has passed: do what is due."""
        for name in sorted(self._timers, key=lambda name: self._timers[name]):
            if self.termination is None and self._timers.get(name, now + 1) <= now:
                del self._timers[name]
                self._ON_TIMER[name](self, now)
        playout_at = self._playout.next_timer()
        if self.termination is None and playout_at is not None and playout_at <= now:
            if self._playout.timer_fired(now):
                self._report(MarksLost())
            self._advance(now)

    def hang_up(self, reason: Reason, now: float, *, at_once: bool = False) -> None:
        """End the call, with last words where the reason has any, unless ``at_once``."""
        if self.termination is not None:
            return
        if at_once or reason not in LAST_WORDS:
            self._end(self._last_reason or reason, now)
        elif self._life.can("last words"):
            self._say_last_words(reason, now)

    # ------------------------------------------------------------------ the line to the model

    def _dial(self, now: float, budget_s: float) -> None:
        self._dial_until = now + budget_s
        self._dials = 1
        self._timers["connect"] = self._dial_until
        # The driver gives up a moment before we do, so that its reason is known when we speak.
        self.to_realtime.append(DialRealtime(0.0, max(SHORTEST_DIAL_S, budget_s - SPARE_S)))

    def _realtime_connected(self, event: RealtimeConnected, now: float) -> None:
        self._report(RealtimeDialled("ok", event.duration_s))
        self._session_since = now
        if self._life.state is Lifecycle.ENDING:
            self._close_session(now)
        else:
            self.to_realtime.append(ConfigureSession(self._options.session))

    def _realtime_refused(self, event: RealtimeRefused, now: float) -> None:
        self._report(RealtimeDialled(event.result, 0.0))
        if self._life.state is not Lifecycle.ENDING and not self._redial(event, now):
            self._give_up_on_model(now)

    def _redial(self, event: RealtimeRefused, now: float) -> bool:
        delay_s = max(event.retry_after_s, REDIAL_AFTER_S)
        left_s = self._dial_until - now - delay_s - SPARE_S
        if not event.can_retry or self._dials == DIALS_LIMIT or left_s < SHORTEST_DIAL_S:
            return False
        self._dials += 1
        self.to_realtime.append(DialRealtime(delay_s, left_s, event.result == "401"))
        return True

    def _give_up_on_model(self, now: float) -> None:
        is_new = self._life.state is Lifecycle.STARTING
        self.hang_up("realtime_unavailable" if is_new else "realtime_error", now)

    def _session_created(self, event: SessionCreated, now: float) -> None:
        if event.expires_at:
            expires_at = event.expires_at - self._unix_offset_s
            self._rollover_by = expires_at - ROLLOVER_MARGIN_S / 2
            self._timers["rollover"] = max(now + 1, expires_at - ROLLOVER_MARGIN_S)

    def _session_updated(self, _event: SessionUpdated, now: float) -> None:
        if self._timers.pop("connect", None) is None:
            return
        if self._lost_at is not None:
            self._resume(now)
        else:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._step_life("session ready")
        self._report(CallReady(now - self._began))
        self._listen(now)
        if self._options.greeting:
            parts = (self._options.session.instructions, self._options.greeting)
            self._ask(CreateResponse("\n\n".join(part for part in parts if part)), now)

    def _listen(self, now: float) -> None:
        self.to_realtime.extend(AppendAudio(payload) for payload in self._uplink.open())
        self._arm_idle(now)

    def _session_lost(self, event: LinkClosed, now: float) -> None:
        self._note_session_end(event.code, now, is_expected=False)
        if self._life.state is Lifecycle.ENDING:
            return
        if event.code in FATAL_CLOSES:
            self._give_up_on_model(now)
        elif self._life.state is Lifecycle.STARTING or self._lost_at is not None:
            self._realtime_refused(RealtimeRefused("refused", can_retry=True), now)
        else:
            self._reconnect(now)

    def _note_session_end(self, code: int, now: float, *, is_expected: bool) -> None:
        if self._session_since is not None:
            self._report(RealtimeLost(code, now - self._session_since, is_expected))
            self._session_since = None

    def _close_session(self, now: float) -> None:
        self._note_session_end(1000, now, is_expected=True)
        self.to_realtime.clear()
        self.to_realtime.append(CloseRealtime())

    def _reconnect(self, now: float) -> None:
        """Go on over a new session: the caller stays, what is queued plays, words are replayed."""
        if now - self._reconnected_at < RECONNECT_PAUSE_S:
            self.hang_up("realtime_error", now)
            return
        self._close_session(now)
        self._lost_at = self._reconnected_at = now
        self._uplink.hold()
        self._owes_answer = self._answers.is_pending or self._turn.state is Turn.THINKING
        self._downlink.end_response(self._answers.active)
        self._answers = Answers()
        self._foreign_items = self._playout.open_items()
        self._caller_speaks = False
        self._answer_came()
        self._timers.pop("rollover", None)
        self._dial(now, self._options.reconnect_budget_s)

    def _resume(self, now: float) -> None:
        lost_at, self._lost_at = self._lost_at or now, None
        self._report(RealtimeReconnected(now - lost_at))
        self.to_realtime.extend(self._conversation.replay())
        self._listen(now)
        if self._owes_answer:
            self._ask(CreateResponse(), now)

    def _roll_over(self, now: float) -> None:
        """Renew the session in a silence; if none comes, at half of the margin."""
        is_quiet = self._turn.state is Turn.LISTENING and not self._caller_speaks
        if is_quiet or now >= self._rollover_by:
            self._reconnect(now)
        else:
            self._timers["rollover"] = now + 1.0

    # ------------------------------------------------------------------ caller -> model

    def _audio_received(self, event: AudioReceived, now: float) -> None:
        self._bad_messages = 0
        duration_ms = self._uplink.duration_ms(event.payload)
        if self._life.state is Lifecycle.ENDING:
            self._drop("up", "ended", duration_ms)
            return
        payload = self._uplink.accept(event.payload)
        if payload:
            self.to_realtime.append(AppendAudio(payload, now))
        self._count("up", duration_ms)
        self._drop("up", "overflow", self._uplink.take_dropped_ms())

    def _audio_lost(self, event: AudioLost, _now: float) -> None:
        self._drop("up", "gap", event.duration_ms)
        payload = self._uplink.lose(event.duration_ms)
        if payload and self._life.state is not Lifecycle.ENDING:
            self.to_realtime.append(AppendAudio(payload))

    def _dtmf_received(self, event: DtmfReceived, now: float) -> None:
        self._report(DtmfEntered())
        if self._life.state is Lifecycle.ENDING:
            return
        if event.digit == "#" and self._options.session.turn_detection.kind == "none":
            self.to_realtime.append(CommitInput())
            self._ask(CreateResponse(), now)
            return
        self._digits = (self._digits + event.digit)[:DIGITS_LIMIT]
        self._timers["digits"] = now if event.digit == "#" else now + DIGITS_PAUSE_S
        self._timers.pop("idle", None)
        self._interrupt(now, server_cancels=False)

    def _digits_complete(self, now: float) -> None:
        if self._life.state is not Lifecycle.ACTIVE or self._lost_at is not None:
            self._timers["digits"] = now + DIGITS_PAUSE_S
            return
        self.to_realtime.append(AddMessage("user", f"The caller pressed the keys {self._digits}"))
        self._digits = ""
        self._ask(CreateResponse(), now)

    # ------------------------------------------------------------------ whose turn it is

    def _speech_started(self, _event: SpeechStarted, now: float) -> None:
        if self._turn.state is Turn.SPEAKING and not self._options.allow_barge_in:
            return
        self._caller_speaks = True
        self._speech_stopped_at = None
        self._timers.pop("idle", None)
        self._interrupt(now, server_cancels=_server_cancels(self._options.session))

    def _speech_stopped(self, _event: SpeechStopped, now: float) -> None:
        self._caller_speaks = False
        self._turns += 1
        self._speech_stopped_at = now
        if self._options.session.turn_detection.create_response:
            self._owe_answer(now)
        else:
            self._arm_idle(now)

    def _owe_answer(self, now: float) -> None:
        self._step_turn("answer owed")
        self._timers.pop("idle", None)
        self._timers["answer"] = now + self._options.answer_s
        self._timers["give up"] = now + self._options.give_up_s

    def _answer_came(self) -> None:
        for name in ANSWER_TIMERS:
            self._timers.pop(name, None)

    def _ask(self, command: CreateResponse, now: float) -> None:
        self.to_realtime.extend(self._answers.ask(command))
        self._owe_answer(now)

    def _answer_is_late(self, now: float) -> None:
        if self._caller_speaks or not self._playout.is_drained(now):
            return
        self._report(TurnTimedOut(is_final=False))
        self._play_prompt("filler", now)

    def _answer_never_came(self, now: float) -> None:
        self._report(TurnTimedOut(is_final=True))
        self._reconnect(now)

    def _caller_is_idle(self, now: float) -> None:
        self.hang_up("idle_timeout", now)

    def _arm_idle(self, now: float) -> None:
        self._timers["idle"] = now + self._options.idle_s

    # ------------------------------------------------------------------ model -> caller

    def _response_started(self, event: ResponseStarted, now: float) -> None:
        if not self._answers.started(event.response_id):
            self.to_realtime.append(CancelResponse(event.response_id))
            self._downlink.cancel(event.response_id)
        elif self._life.state is Lifecycle.ACTIVE:
            self._owe_answer(now)

    def _audio_delta(self, event: AudioDelta, now: float) -> None:
        duration_ms = self._downlink.duration_ms(event.payload)
        if self._life.state is not Lifecycle.ACTIVE:
            self._drop("down", "ended", duration_ms)
        elif self._downlink.is_cancelled(event.response_id):
            self._drop("down", "cancelled", duration_ms)
        elif self._playout.is_full():
            self._refuse_more(event, duration_ms)
        else:
            self._play(event, duration_ms, now)

    def _play(self, event: AudioDelta, duration_ms: float, now: float) -> None:
        self._answers.sounded()
        self._answer_came()
        self._count("down", duration_ms)
        self._downlink.accept(event)
        commands = self._playout.release(now, now)
        self.to_provider.extend(commands)
        self._step_turn("agent speaks")
        self._timers.pop("idle", None)
        if commands:
            self._note_first_sound(now)

    def _note_first_sound(self, now: float) -> None:
        if not self._has_sounded:
            self._has_sounded = True
            self._report(FirstAudioSent(now - self._began))
        if self._speech_stopped_at is not None:
            self._report(TurnAnswered(now - self._speech_stopped_at))
            self._speech_stopped_at = None

    def _refuse_more(self, event: AudioDelta, duration_ms: float) -> None:
        """The caller is minutes behind the model: stop the model rather than grow."""
        self._drop("down", "overflow", duration_ms)
        self._downlink.cancel(event.response_id)
        self.to_realtime.append(CancelResponse(event.response_id))

    def _audio_done(self, event: AudioDone, now: float) -> None:
        if not self._downlink.is_cancelled(event.response_id):
            self._downlink.end_item()
            self._advance(now)

    def _response_done(self, event: ResponseDone, now: float) -> None:
        if event.usage != Usage():
            self._report(TokensUsed(event.usage))
        self._downlink.end_response(event.response_id)
        had_sound = self._answers.has_sound
        next_answers = self._answers.done(event.response_id)
        if next_answers:
            self.to_realtime.extend(next_answers)
            self._owe_answer(now)
        elif self._downlink.is_cancelled(event.response_id) or self._life.state is not (
            Lifecycle.ACTIVE
        ):
            pass
        elif event.status == "failed":
            self._answer_failed(event, now)
        elif event.status != "cancelled" and not had_sound:
            self._report(RealtimeErrorSeen("no_audio", "warn", event.reason))
            self._retry_answer(0.0, now)
        self._advance(now)

    def _answer_failed(self, event: ResponseDone, now: float) -> None:
        is_fatal = event.reason in FATAL_CODES
        severity: Severity = "fatal" if is_fatal else "retry"
        self._report(RealtimeErrorSeen(event.reason, severity, event.detail))
        if is_fatal:
            self.hang_up("realtime_error", now)
        else:
            self._retry_answer(event.retry_after_s, now)

    def _retry_answer(self, hint_s: float, now: float) -> None:
        """Tell the caller to wait and ask once more; the second failure in a row is the end."""
        self._answers.failures += 1
        if self._answers.failures > 1 or hint_s > RETRY_HINT_LIMIT_S:
            self.hang_up("realtime_error", now)
            return
        self._answer_came()
        self._play_prompt("filler", now)
        self._timers["retry"] = now + max(hint_s, RETRY_AFTER_S)

    def _ask_again(self, now: float) -> None:
        if self._life.state is Lifecycle.ACTIVE and not self._answers.is_pending:
            self._ask(CreateResponse(), now)

    def _function_called(self, event: FunctionCalled, _now: float) -> None:
        self._report(ToolCalled("unknown"))
        self.to_realtime.append(
            SendFunctionOutput(event.call_id, '{"error":"There is no such tool."}')
        )
        self._answers.tool_called()

    def _words_came(self, event: AgentTranscriptDelta, _now: float) -> None:
        self._conversation.agent_words(event.item_id, event.text)

    def _text_came(self, event: AgentTranscribed, _now: float) -> None:
        self._conversation.agent_text(event.item_id, event.text)

    def _caller_transcribed(self, event: CallerTranscribed, _now: float) -> None:
        self._conversation.caller_said(event.text)
        self._report(CallerSpoke(event.text))

    def _realtime_erred(self, event: RealtimeError, now: float) -> None:
        self._report(RealtimeErrorSeen(event.code, event.severity, event.message))
        if self._life.state is not Lifecycle.ENDING:
            self._ON_SEVERITY[event.severity](self, now)

    def _create_was_refused(self, _now: float) -> None:
        self.to_realtime.extend(self._answers.refused())

    def _service_failed(self, now: float) -> None:
        if self._life.state is Lifecycle.ACTIVE and self._turn.state is Turn.THINKING:
            self._retry_answer(0.0, now)

    def _session_expired(self, now: float) -> None:
        if self._life.state is Lifecycle.ACTIVE and self._lost_at is None:
            self._reconnect(now)

    # ------------------------------------------------------------------ playing and barge-in

    def _advance(self, now: float) -> None:
        """Hand over what may go, close what was heard, and see whether all has been played."""
        if self.termination is not None:
            return
        self.to_provider.extend(self._playout.release(now))
        for heard in self._playout.collect(now):
            self._account(heard)
        if self._playout.is_drained(now):
            self._played_out(now)

    def _played_out(self, now: float) -> None:
        if self._life.state is Lifecycle.ENDING:
            self._end(self._last_reason or "agent_hangup", now)
        elif self._turn.state is Turn.SPEAKING and not self._answers.is_pending:
            self._step_turn("answer over")
            self._arm_idle(now)
        elif self._answers.active and "give up" not in self._timers:
            self._timers["give up"] = now + self._options.give_up_s
            self._timers["answer"] = now + self._options.answer_s

    def _interrupt(self, now: float, *, server_cancels: bool) -> None:
        """The caller takes the turn: silence the agent wherever its voice is."""
        self._answer_came()
        active = self._answers.interrupt()
        self._downlink.cancel(self._answers.latest)
        if active and not server_cancels:
            self.to_realtime.append(CancelResponse(active))
        if not self._playout.is_drained(now):
            self._clear(now)
        self._step_turn("caller speaks")

    def _clear(self, now: float) -> None:
        self._barge_ins += 1
        self._settle(None)
        unheard_ms = self._playout.unheard_ms(now)
        unsent_ms = self._take_back_unsent()
        self._drop("down", "unheard", unsent_ms + self._playout.clear(now))
        self._downlink.forget()
        self._cleared = (now, unheard_ms - unsent_ms)
        if self._options.has_status:
            self.to_provider.append(QueryPlayout())
            self._timers["cut"] = now + STATUS_WAIT_S
        self.to_provider.append(ClearAudio(now))
        if not self._options.has_status:
            self._settle(None)

    def _take_back_unsent(self) -> float:
        """Audio that waits for the socket must not follow the clear; returns its ms."""
        unsent = [c for c in self.to_provider if isinstance(c, PlayAudio | SendMark)]
        kept = [c for c in self.to_provider if not isinstance(c, PlayAudio | SendMark)]
        self.to_provider.clear()
        self.to_provider.extend(kept)
        return self._playout.unsend(unsent)

    def _status_is_late(self, _now: float) -> None:
        self._settle(None)

    def _playout_reported(self, event: PlayoutReported, now: float) -> None:
        self._timers.pop("cut", None)
        self._settle(event.queued_ms)
        self._clear_confirmed(now)

    def _settle(self, queued_ms: int | None) -> None:
        for heard in self._playout.settle(queued_ms):
            self._downlink.cancel(heard.response_id)
            self._account(heard)
            if self._is_to_truncate(heard):
                self.to_realtime.append(
                    TruncateItem(heard.item_id, heard.content_index, int(heard.heard_ms))
                )

    def _is_to_truncate(self, heard: Heard) -> bool:
        if not heard.response_id or heard.item_id in self._foreign_items:
            return False
        return not heard.is_done or heard.received_ms - heard.heard_ms > TRUNCATE_MARGIN_MS

    def _account(self, heard: Heard) -> None:
        if not heard.response_id:
            return
        text = self._conversation.heard(heard.item_id, heard.received_ms, heard.heard_ms)
        self._received_ms += heard.received_ms
        self._heard_ms += heard.heard_ms
        self._report(ItemPlayed(heard.item_id, heard.received_ms, heard.heard_ms, text))

    def _clear_confirmed(self, now: float) -> None:
        if self._cleared is not None:
            at, unheard_ms = self._cleared
            self._cleared = None
            self._report(BargeInConfirmed(min(unheard_ms, (now - at) * 1000)))

    def _mark_reached(self, event: MarkReached, now: float) -> None:
        if not self._playout.mark_reached(event.name, now):
            self._clear_confirmed(now)
        self._advance(now)

    def _playout_paused(self, _event: PlayoutPaused, _now: float) -> None:
        self._playout.pause()

    def _playout_resumed(self, _event: PlayoutResumed, now: float) -> None:
        self._playout.resume()
        self._advance(now)

    # ------------------------------------------------------------------ the end

    def _play_prompt(self, name: str, now: float) -> None:
        pcm = self._options.prompts.get(name, b"")
        if pcm:
            self._report(PromptPlayed(name))
            self.to_provider.extend(self._downlink.play_prompt(name, pcm, now))

    def _say_last_words(self, reason: Reason, now: float) -> None:
        self._step_life("last words")
        self._last_reason = reason
        self._timers.clear()
        self._close_session(now)
        self._play_prompt(LAST_WORDS[reason], now)
        left_s = self._playout.unheard_ms(now) / 1000
        self._timers["last words"] = now + min(left_s, self._options.last_words_s) + 3.0
        if self._playout.is_drained(now):
            self._end(reason, now)

    def _last_words_bound(self, now: float) -> None:
        self._end(self._last_reason or "agent_hangup", now)

    def _call_is_long(self, now: float) -> None:
        self.hang_up("max_duration", now)

    def _never_ready(self, now: float) -> None:
        self._give_up_on_model(now)

    def _call_stopped(self, _event: CallStopped, now: float) -> None:
        self._end(self._last_reason or "caller_hangup", now, provider_is_there=False)

    def _provider_lost(self, event: LinkClosed, now: float) -> None:
        reason = self._last_reason or PROVIDER_CLOSES.get(event.code, "provider_lost")
        self._end(reason, now, provider_is_there=False, detail=f"close code {event.code}")

    def _end(
        self, reason: Reason, now: float, *, provider_is_there: bool = True, detail: str = ""
    ) -> None:
        self._step_life("over")
        self._timers.clear()
        self._settle(None)
        self._playout.clear(now)
        self._settle(None)
        self._flush_counts()
        self._close_session(now)
        self.to_provider.clear()
        if provider_is_there:
            self.to_provider.append(HangUp())
        self.termination = Termination(reason)
        self._report(self._record(now, detail))

    def _record(self, now: float, detail: str) -> CallEnded:
        return CallEnded(
            termination=self.termination or Termination("internal_error"),
            duration_s=now - self._began,
            turns=self._turns,
            barge_ins=self._barge_ins,
            received_ms=self._received_ms,
            heard_ms=self._heard_ms,
            detail=detail,
        )

    # ------------------------------------------------------------------ telling

    def _report(self, fact: Fact) -> None:
        self.facts.append(fact)

    def _step_life(self, step: str) -> None:
        if self._life.step(step):
            self._report(StateChanged("lifecycle", self._life.state))

    def _step_turn(self, step: str) -> None:
        if self._turn.step(step):
            self._report(StateChanged("turn", self._turn.state))

    def _drop(self, direction: Direction, reason: str, duration_ms: float) -> None:
        if duration_ms > 0:
            self._report(AudioDropped(direction, reason, duration_ms))

    def _count(self, direction: Direction, duration_ms: float) -> None:
        """Collect, and tell about once a second: a fact a frame would cost more than the frame."""
        self._counted[direction] += duration_ms
        if self._counted[direction] >= COUNT_EVERY_MS:
            self._report(AudioCounted(direction, self._counted[direction]))
            self._counted[direction] = 0.0

    def _flush_counts(self) -> None:
        for direction, duration_ms in self._counted.items():
            if duration_ms:
                self._report(AudioCounted(direction, duration_ms))

    def _provider_message_rejected(self, event: MessageRejected, now: float) -> None:
        self._report(FrameRejected("provider", event.kind, event.detail))
        if event.kind != "unknown_event":
            self._bad_messages += 1
        if self._bad_messages >= BAD_MESSAGES_LIMIT:
            self._end("protocol_error", now, detail=f"{self._bad_messages} bad messages in a row")

    def _started_again(self, _event: CallStarted, _now: float) -> None:
        self._report(FrameRejected("provider", "duplicate_start", ""))

    def _realtime_message_rejected(self, event: MessageRejected, _now: float) -> None:
        self._report(FrameRejected("realtime", event.kind, event.detail))

    def _rate_limit_reported(self, event: RateLimitReported, _now: float) -> None:
        self._report(RateLimitSeen(event.name, event.remaining))

    def _item_truncated(self, _event: ItemTruncated, _now: float) -> None:
        """The model has taken our word for what was heard; nothing is left to do."""

    def _nothing(self, _now: float) -> None:
        """Noted as a fact; the call goes on."""

    # ------------------------------------------------------------------ what is done about what

    _ON_PROVIDER: ClassVar[_EventTable] = {
        AudioReceived: _audio_received,
        AudioLost: _audio_lost,
        MarkReached: _mark_reached,
        PlayoutReported: _playout_reported,
        PlayoutPaused: _playout_paused,
        PlayoutResumed: _playout_resumed,
        DtmfReceived: _dtmf_received,
        CallStarted: _started_again,
        CallStopped: _call_stopped,
        MessageRejected: _provider_message_rejected,
        LinkClosed: _provider_lost,
    }
    _ON_REALTIME: ClassVar[_EventTable] = {
        AudioDelta: _audio_delta,
        AudioDone: _audio_done,
        AgentTranscriptDelta: _words_came,
        AgentTranscribed: _text_came,
        CallerTranscribed: _caller_transcribed,
        FunctionCalled: _function_called,
        ItemTruncated: _item_truncated,
        LinkClosed: _session_lost,
        MessageRejected: _realtime_message_rejected,
        RateLimitReported: _rate_limit_reported,
        RealtimeConnected: _realtime_connected,
        RealtimeError: _realtime_erred,
        RealtimeRefused: _realtime_refused,
        ResponseDone: _response_done,
        ResponseStarted: _response_started,
        SessionCreated: _session_created,
        SessionUpdated: _session_updated,
        SpeechStarted: _speech_started,
        SpeechStopped: _speech_stopped,
    }
    _ON_TIMER: ClassVar[_TimerTable] = {
        "connect": _never_ready,
        "answer": _answer_is_late,
        "give up": _answer_never_came,
        "retry": _ask_again,
        "cut": _status_is_late,
        "digits": _digits_complete,
        "idle": _caller_is_idle,
        "rollover": _roll_over,
        "max call": _call_is_long,
        "last words": _last_words_bound,
    }
    _ON_SEVERITY: ClassVar[_TimerTable] = {
        "ignore": _nothing,
        "warn": _nothing,
        "busy": _create_was_refused,
        "retry": _service_failed,
        "expired": _session_expired,
        "fatal": _give_up_on_model,
    }


def _playout_options(started: CallStarted, options: CallOptions) -> PlayoutOptions:
    return PlayoutOptions(
        audio=started.audio_out,
        lead_ms=options.lead_ms,
        frame_ms=options.frame_ms,
        mark_interval_ms=options.mark_interval_ms,
        max_message_bytes=options.max_message_bytes,
        has_marks=options.has_marks,
    )


def _began(started: CallStarted, options: CallOptions) -> CallBegan:
    return CallBegan(
        provider=options.provider,
        agent=options.agent,
        provider_call_id=started.provider_call_id,
        from_number=started.from_number,
        to_number=started.to_number,
        audio_in=started.audio_in,
        audio_out=started.audio_out,
    )


def _server_cancels(session: SessionOptions) -> bool:
    """Whether the service stops its own answer when it hears speech."""
    detection = session.turn_detection
    return detection.kind != "none" and detection.interrupt_response
