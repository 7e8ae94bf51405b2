"""The heart: one call's life, as a value that eats events and produces commands.

Nothing here opens a socket, starts a task or reads a clock: every event comes with ``now`` (seconds
on any clock that only goes forward), and ``next_timer`` says when the call wants to be woken. The
parts share one ``Desk``: ``Session`` is the line to the model, ``Turns`` says whose turn it is,
``Voice`` plays the agent and knows what was heard, ``Uplink`` keeps the caller's audio complete.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from gateway.checkup import ALARM, Checkup
from gateway.desk import CallOptions, Desk
from gateway.events import (
    AddMessage,
    AgentSaid,
    AgentTranscribed,
    AgentTranscriptDelta,
    AnnouncementHeard,
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioLost,
    AudioReceived,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallerTranscribed,
    CallReady,
    CallStarted,
    CallStopped,
    CommitInput,
    CreateResponse,
    DtmfEntered,
    DtmfReceived,
    FrameRejected,
    FunctionCalled,
    HangUp,
    ItemTruncated,
    LinkClosed,
    MarkReached,
    MessageRejected,
    PlayoutPaused,
    PlayoutReported,
    PlayoutResumed,
    ProviderEvent,
    QueueSeen,
    RateLimitReported,
    RateLimitSeen,
    RealtimeConnected,
    RealtimeError,
    RealtimeErrorSeen,
    RealtimeEvent,
    RealtimeReconnected,
    RealtimeRefused,
    Reason,
    ResponseDone,
    ResponseStarted,
    SessionCreated,
    SessionUpdated,
    SetUpTimed,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    Termination,
)
from gateway.playout import Playout
from gateway.session import Session
from gateway.states import LIFECYCLE, Lifecycle, Machine, Turn
from gateway.turns import Turns
from gateway.uplink import Uplink
from gateway.voice import Voice
from gateway.waiting import CallerClock, closing_silence_ms

__all__ = ["Call", "CallOptions"]

# Keys pressed within this time are one entry.
DIGITS_PAUSE_S: Final = 2.0
DIGITS_LIMIT: Final = 64
# Bad messages of a provider in a row that end the call.
BAD_MESSAGES_LIMIT: Final = 50
# What last words may take beyond their sound: the phone's buffer and the way back of the mark.
LAST_WORDS_SPARE_S: Final = 3.0
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
# Ends that wait for what is still to be heard, and the recording that is added to it.
LAST_WORDS: Final[Mapping[Reason, str]] = {
    "realtime_unavailable": "apology",
    "realtime_error": "apology",
    "idle_timeout": "goodbye",
    "max_duration": "goodbye",
    "drain": "goodbye",
    "agent_hangup": "",
}

_EventTable = Mapping[type, Callable[["Call", Any, float], None]]
_ErrorTable = Mapping[str, Callable[["Call", RealtimeError, float], None]]
_TimerTable = Mapping[str, Callable[["Call", float], None]]


class Call:
    """One phone conversation between a caller and an agent.

    In: ``provider_received``, ``realtime_received``, ``timer_fired``, ``hang_up``. Out, drained by
    the driver in order: ``to_provider``, ``to_realtime``, ``facts``; ``termination`` once over.

    Args:
        started: what the provider said of it.
        options: what it shall be like.
        now: it begins.
        unix_offset_s: added to ``now`` it is the time of day.
        is_assessed: whether the caller's sound is; no message depends on it, only facts.
    """

    def __init__(
        self,
        started: CallStarted,
        options: CallOptions,
        now: float,
        *,
        unix_offset_s: float = 0.0,
        is_assessed: bool = True,
    ) -> None:
        self._desk = Desk()
        self.to_provider = self._desk.to_provider
        self.to_realtime = self._desk.to_realtime
        self.facts = self._desk.facts
        self.termination: Termination | None = None
        self._options = options
        self._began = now
        self._life = Machine(LIFECYCLE, Lifecycle.STARTING)
        self._is_active = self._is_ending = False
        # Why nobody hears the caller now; "" = somebody does.
        self._deaf_because = ""
        self._session_ready_at: float | None = None
        self._uplink = Uplink(started.audio_in, options.session.audio)
        self._voice = Voice(self._desk, options, started)
        self._checkup = Checkup(
            self._desk, started, self._voice.played, now, is_assessed=is_assessed
        )
        self._heard = self._checkup.heard
        self._turns = Turns(self._desk, options, self._voice, now)
        self._desk.tell(_began(started, options))
        self._desk.alarms["max call"] = now + options.max_call_s
        self._session = Session(self._desk, options, now, unix_offset_s=unix_offset_s)
        self._caller_clock = CallerClock()
        self._heard_caller_at = now
        self._owes_answer = self._owes_commit = False
        self._says_again = self._asked_by_key = False
        self._digits = ""
        self._bad_messages = 0
        self._last_reason: Reason | None = None
        self._voice.announce(now)
        if self._voice.is_announcing:
            self._deaf_because = "announcing"

    # ------------------------------------------------------------------ the public face

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the call is between its start and its end."""
        return self._life.state

    @property
    def turn(self) -> Turn:
        """Whose turn it is."""
        return self._turns.state

    @property
    def ledger(self) -> Playout:
        """What was handed over and heard, to look at."""
        return self._voice.ledger

    def provider_received(self, event: ProviderEvent, now: float) -> None:
        """Something happened on the telephone's side."""
        if self.termination is None:
            self._ON_PROVIDER[type(event)](self, event, now)

    def realtime_received(self, event: RealtimeEvent, now: float) -> None:
        """Something happened on the model's side."""
        if self.termination is None and (self._is_active or type(event) in self._BEFORE_AND_AFTER):
            self._ON_REALTIME[type(event)](self, event, now)

    def next_timer(self) -> float | None:
        """When ``timer_fired`` wants to be called; None when nothing is waited for."""
        if self.termination is not None:
            return None
        alarm_at, voice_at = self._desk.alarms.earliest(), self._voice.next_timer()
        if alarm_at is None or (voice_at is not None and voice_at < alarm_at):
            return voice_at
        return alarm_at

    def timer_fired(self, now: float) -> None:
        """Time has passed: do what is due."""
        while self.termination is None and (name := self._desk.take_due(now)) is not None:
            self._ON_TIMER[name](self, now)
        voice_at = self._voice.next_timer()
        if self.termination is None and voice_at is not None and voice_at <= now:
            self._voice.timer_fired(now)
            self._advance(now)

    def hang_up(self, reason: Reason, now: float, *, at_once: bool = False) -> None:
        """End the call, with last words where the reason has any, unless ``at_once``."""
        if self.termination is not None:
            return
        if at_once or reason not in LAST_WORDS:
            self._end(self._last_reason or reason, now)
        elif self._life.can("last words"):
            self._say_last_words(reason, now)

    def _step(self, step: str) -> None:
        if self._life.step(step):
            self._is_active = self._life.state is Lifecycle.ACTIVE
            self._is_ending = self._life.state is Lifecycle.ENDING
            if self._is_ending:
                self._deaf_because = "ended"
            self._desk.tell(StateChanged("lifecycle", self._life.state))

    # ------------------------------------------------------------------ the line to the model

    def _realtime_connected(self, event: RealtimeConnected, now: float) -> None:
        self._session.connected(event, now)

    def _realtime_refused(self, event: RealtimeRefused, now: float) -> None:
        if not self._session.refused(event, now):
            self._give_up_on_model(now)

    def _give_up_on_model(self, now: float) -> None:
        is_new = self._life.state is Lifecycle.STARTING
        self.hang_up("realtime_unavailable" if is_new else "realtime_error", now)

    def _session_created(self, event: SessionCreated, now: float) -> None:
        self._session.created(event, now)

    def _session_updated(self, _event: SessionUpdated, now: float) -> None:
        if self._is_ending or not self._session.updated():
            return
        if self._session.is_renewing:
            self._resume(now)
        elif self._voice.is_announcing:
            self._session_ready_at = now
        else:
            self._begin(now, now)

    def _announced(self, now: float) -> None:
        """The caller knows that the call is recorded: from here on it is a call as any other."""
        self._desk.tell(AnnouncementHeard())
        if self._is_ending:
            return
        self._deaf_because = ""
        if self._session_ready_at is not None:
            self._begin(self._session_ready_at, now)

    def _begin(self, ready_at: float, now: float) -> None:
        self._step("session ready")
        self._desk.tell(CallReady(ready_at - self._began))
        opened_at = self._session.open_since or ready_at
        self._desk.tell(SetUpTimed("dial", opened_at - self._began))
        self._desk.tell(SetUpTimed("configure", ready_at - opened_at))
        self._listen(now)
        if self._options.greeting:
            parts = (self._options.session.instructions, self._options.greeting)
            self._turns.greet(CreateResponse("\n\n".join(part for part in parts if part)), now)
        if self._owes_commit:
            self._end_turn_by_key(now)

    def _listen(self, now: float) -> None:
        if self._ends_turns_by_key:
            # No model says when the caller speaks: everything since the last answer may be words.
            self._uplink.begin_turn()
        held = self._uplink.open()
        held_ms = sum(map(len, held)) / self._options.session.audio.bytes_per_ms
        self._caller_clock.session_began(held_ms, self._desk.carried_ms("up"))
        self._desk.tell(QueueSeen("up", held_ms))
        self.to_realtime.extend(map(AppendAudio, held))
        self._turns.wait_for_caller(now)

    def _session_lost(self, event: LinkClosed, now: float) -> None:
        is_curable = self._session.lost(event.code, now)
        if self._is_ending:
            return
        if is_curable and self._is_active and not self._session.is_renewing:
            self._renew(now)
        elif not is_curable or not self._dial_again(now):
            self._give_up_on_model(now)

    def _dial_again(self, now: float) -> bool:
        """The line was lost before the conversation began; false when it is no use."""
        was_ready, self._session_ready_at = self._session_ready_at is not None, None
        return self._session.again(now) if was_ready else self._session.redial_lost(now)

    def _renew(self, now: float) -> None:
        """Go on over a new session: the caller stays, what is queued plays, words are replayed."""
        if not self._session.can_renew(now):
            self.hang_up("realtime_error", now)
            return
        self._owes_answer = self._turns.suspend()
        self._says_again = self._uplink.hold(self._unsent_audio())
        self._session.renew(now)

    def _unsent_audio(self) -> list[bytes]:
        """Caller audio that waits for a socket which is gone."""
        return [c.payload for c in self.to_realtime if isinstance(c, AppendAudio)]

    def _resume(self, now: float) -> None:
        self._desk.tell(RealtimeReconnected(self._session.resumed(now)))
        self.to_realtime.extend(self._voice.replay())
        self._listen(now)
        if self._says_again and self._service_answers:
            self._turns.expect_answer(now)
        elif self._owes_commit or (self._owes_answer and self._asked_by_key):
            self._end_turn_by_key(now)
        elif self._owes_answer:
            self._turns.ask(CreateResponse(), now)

    def _roll_over(self, now: float) -> None:
        if self._session.is_to_roll_over(now, is_quiet=self._turns.is_quiet):
            self._renew(now)

    @property
    def _service_answers(self) -> bool:
        """The service begins an answer by itself when it has heard the caller out."""
        return not self._ends_turns_by_key and self._options.session.turn_detection.create_response

    def _answer_is_late(self, now: float) -> None:
        self._turns.answer_is_late(now)

    def _ask_again(self, now: float) -> None:
        self._turns.ask_again(now)

    def _answer_never_came(self, now: float) -> None:
        if self._says_again:
            # The new session heard the same sound and took it for no words.
            self._says_again = False
            self._uplink.end_turn()
            self._turns.owe_nothing(now)
        elif self._turns.answer_never_came():
            self._renew(now)
        else:
            self.hang_up("realtime_error", now)

    def _speech_never_stopped(self, now: float) -> None:
        self._turns.speech_never_stopped(now)
        self._uplink.end_turn()

    def _realtime_erred(self, event: RealtimeError, now: float) -> None:
        self._desk.tell(RealtimeErrorSeen(event.code, event.severity, event.message))
        if not self._is_ending:
            self._ON_SEVERITY[event.severity](self, event, now)

    def _model_refused_a_create(self, event: RealtimeError, _now: float) -> None:
        if event.about != "other":
            self._turns.create_refused(is_ours=event.about == "create")

    def _model_complained(self, event: RealtimeError, now: float) -> None:
        """Whatever the model does not like about a create, it will not answer it."""
        if event.about == "create" and self._is_active:
            self._go_on_if(self._turns.create_failed(event.retry_after_s, now), now)

    def _model_failed(self, event: RealtimeError, now: float) -> None:
        if self._is_active:
            self._go_on_if(self._turns.service_failed(event.retry_after_s, now), now)

    def _model_expired(self, _event: RealtimeError, now: float) -> None:
        if self._is_active and not self._session.is_renewing:
            self._renew(now)

    def _model_is_useless(self, _event: RealtimeError, now: float) -> None:
        self._give_up_on_model(now)

    def _go_on_if(self, can_go_on: bool, now: float) -> None:  # noqa: FBT001  # reads as a sentence
        if not can_go_on:
            self._give_up_on_model(now)

    # ------------------------------------------------------------------ caller -> model

    def _audio_received(self, event: AudioReceived, now: float) -> None:
        self._bad_messages = 0
        self._heard_caller_at = now
        uplink = self._uplink
        duration_ms = uplink.duration_ms(event.payload)
        if self._deaf_because:
            self._desk.drop("up", self._deaf_because, duration_ms)
            if not self._is_ending:
                self._heard.append((now, event.payload))
            return
        payload = uplink.accept(event.payload)
        if payload:
            self.to_realtime.append(AppendAudio(payload, now))
        if uplink.has_dropped:
            self._desk.drop("up", "overflow", uplink.take_dropped_ms())
        self._heard.append((now, event.payload))
        if self._desk.count("up", duration_ms):
            self._checkup.look(now)

    def _audio_lost(self, event: AudioLost, _now: float) -> None:
        self._desk.drop("up", "gap", event.duration_ms)
        self._checkup.lose(event.duration_ms)
        if self._deaf_because:
            return
        self._caller_clock.silence_added(event.duration_ms)
        payload = self._uplink.lose(event.duration_ms)
        if payload:
            self.to_realtime.append(AppendAudio(payload))

    def _dtmf_received(self, event: DtmfReceived, now: float) -> None:
        self._desk.tell(DtmfEntered())
        if self._deaf_because:
            return
        if self._options.allow_barge_in:
            self._turns.interrupt(now, server_cancels=False)
        if event.digit == "#" and not self._digits and self._ends_turns_by_key:
            self._end_turn_by_key(now)
            return
        self._digits = (self._digits + event.digit)[:DIGITS_LIMIT]
        self._desk.alarms["digits"] = now if event.digit == "#" else now + DIGITS_PAUSE_S

    @property
    def _ends_turns_by_key(self) -> bool:
        """Nobody listens for silence, so the caller says when a turn is over."""
        return self._options.session.turn_detection.kind == "none"

    def _end_turn_by_key(self, now: float) -> None:
        if not self._is_active or self._session.is_renewing:
            self._owes_commit = True
            return
        self._owes_commit, self._asked_by_key = False, True
        self._uplink.wait_for_answer()
        self.to_realtime.append(CommitInput())
        self._turns.ask(CreateResponse(), now)

    def _digits_complete(self, now: float) -> None:
        if not self._is_active or self._session.is_renewing:
            self._desk.alarms["digits"] = now + DIGITS_PAUSE_S
            return
        entry = f"The caller pressed the keys {self._digits}"
        self._digits = ""
        self.to_realtime.append(AddMessage("user", entry))
        self._voice.conversation.caller_said(entry)
        self._turns.answer_message(now)

    def _speech_started(self, _event: SpeechStarted, now: float) -> None:
        self._says_again = False
        self._uplink.begin_turn()
        self._turns.speech_started(now)

    def _speech_stopped(self, event: SpeechStopped, now: float) -> None:
        self._turns.speech_stopped(now, self._spoke_until(event, now))
        if self._turns.is_owed:
            self._uplink.wait_for_answer()
        else:
            self._uplink.end_turn()

    def _spoke_until(self, event: SpeechStopped, now: float) -> float:
        """When the caller's last sound came, by the model's clock, or as the settings have it."""
        silence_ms = closing_silence_ms(self._options.session.turn_detection)
        ended_at = self._caller_clock.moment(
            event.audio_end_ms, self._desk.carried_ms("up"), self._heard_caller_at
        )
        return (now if ended_at is None else ended_at) - silence_ms / 1000

    def _caller_transcribed(self, event: CallerTranscribed, _now: float) -> None:
        self._voice.conversation.caller_said(event.text)
        self._desk.tell(CallerSpoke(event.text))

    # ------------------------------------------------------------------ model -> caller

    def _response_started(self, event: ResponseStarted, now: float) -> None:
        self._turns.response_started(event.response_id, now)

    def _audio_delta(self, event: AudioDelta, now: float) -> None:
        if self._is_active:
            self._turns.audio_delta(event, now)
            self._note_answer()
        else:
            self._desk.drop("down", "ended", self._voice.duration_ms(event))

    def _note_answer(self) -> None:
        if self._turns.state is not Turn.SPEAKING or self._turns.caller_speaks:
            return
        self._says_again = self._asked_by_key = False
        self._uplink.end_turn()
        if self._ends_turns_by_key:
            self._uplink.begin_turn()

    def _audio_done(self, event: AudioDone, now: float) -> None:
        if not self._voice.is_cancelled(event.response_id):
            self._voice.end_item()
            self._advance(now)

    def _response_done(self, event: ResponseDone, now: float) -> None:
        self._go_on_if(self._turns.response_done(event, now), now)
        self._advance(now)

    def _function_called(self, event: FunctionCalled, _now: float) -> None:
        self._turns.function_called(event)

    def _words_came(self, event: AgentTranscriptDelta, _now: float) -> None:
        self._voice.conversation.agent_words(event.item_id, event.text)
        self._tell_words(event)

    def _text_came(self, event: AgentTranscribed, _now: float) -> None:
        self._voice.conversation.agent_text(event.item_id, event.text)
        self._tell_words(event)

    def _tell_words(self, event: AgentTranscriptDelta | AgentTranscribed) -> None:
        if not self._voice.is_cancelled(event.response_id):
            words = self._voice.conversation.words(event.item_id)
            self._desk.tell(AgentSaid(event.item_id, words))

    def _advance(self, now: float) -> None:
        """Play on; when everything was played, see what that means."""
        if self.termination is not None:
            return
        if self._turns.has_sound_under_way:
            self._turns.look_at_sound(now)
        was_announcing = self._voice.is_announcing
        self._voice.advance(now)
        if was_announcing and not self._voice.is_announcing:
            self._announced(now)
        if not self._voice.is_drained(now):
            return
        if self._is_ending or self._turns.has_taken_leave:
            self._end(self._last_reason or "agent_hangup", now)
        elif self._is_active:
            self._turns.played_out(now)

    def _mark_reached(self, event: MarkReached, now: float) -> None:
        self._voice.mark_reached(event.name, now)
        self._advance(now)

    def _playout_reported(self, event: PlayoutReported, now: float) -> None:
        self._voice.playout_reported(event.queued_ms, now)

    def _playout_paused(self, _event: PlayoutPaused, _now: float) -> None:
        self._voice.pause()

    def _playout_resumed(self, _event: PlayoutResumed, now: float) -> None:
        self._voice.resume()
        self._advance(now)

    def _status_is_late(self, _now: float) -> None:
        self._voice.settle()

    # ------------------------------------------------------------------ the end

    def _say_last_words(self, reason: Reason, now: float) -> None:
        self._step("last words")
        self._turns.finish(now)
        self._last_reason = reason
        if self._voice.unheard_ms(now) > self._options.last_words_s * 1000:
            # Nobody would wait for the end of all that, nor hear what comes behind it.
            self._voice.stop(now, is_barge_in=False)
        self._voice.settle()
        self._leave_model(now)
        self._voice.play_prompt(LAST_WORDS[reason], now)
        left_s = self._voice.unheard_ms(now) / 1000
        self._desk.alarms["last words"] = now + left_s + LAST_WORDS_SPARE_S
        if self._voice.is_drained(now):
            self._end(reason, now)

    def _leave_model(self, now: float) -> None:
        """Nobody waits for the model any more; what the caller said last reaches nobody."""
        self._desk.alarms.clear()
        self._checkup.finish(now)
        self._desk.drop("up", "ended", self._uplink.leave(self._unsent_audio()))
        self._session.close(now)

    def _last_words_bound(self, now: float) -> None:
        self._end(self._last_reason or "agent_hangup", now)

    def _hears_nothing(self, now: float) -> None:
        self._checkup.look(now)

    def _call_is_long(self, now: float) -> None:
        self.hang_up("max_duration", now)

    def _caller_is_idle(self, now: float) -> None:
        self.hang_up("idle_timeout", now)

    def _call_stopped(self, _event: CallStopped, now: float) -> None:
        self._end(self._last_reason or "caller_hangup", now, provider_is_there=False)

    def _provider_lost(self, event: LinkClosed, now: float) -> None:
        reason = self._last_reason or PROVIDER_CLOSES.get(event.code, "provider_lost")
        self._end(reason, now, provider_is_there=False, detail=f"close code {event.code}")

    def _end(
        self, reason: Reason, now: float, *, provider_is_there: bool = True, detail: str = ""
    ) -> None:
        self._step("over")
        self._turns.finish(now)
        self._voice.finish(now)
        self._leave_model(now)
        self._desk.tell_counts()
        self.to_provider.clear()
        if provider_is_there:
            self.to_provider.append(HangUp())
        self.termination = Termination(reason)
        self._desk.tell(self._record(self.termination, now, detail))

    def _record(self, termination: Termination, now: float, detail: str) -> CallEnded:
        return CallEnded(
            termination=termination,
            duration_s=now - self._began,
            turns=self._turns.count,
            barge_ins=self._voice.barge_ins,
            received_ms=self._voice.received_ms,
            heard_ms=self._voice.heard_ms,
            detail=detail,
        )

    # ------------------------------------------------------------------ noted only

    def _provider_message_rejected(self, event: MessageRejected, now: float) -> None:
        self._desk.tell(FrameRejected("provider", event.kind, event.detail))
        if event.kind != "unknown_event":
            self._bad_messages += 1
        if self._bad_messages >= BAD_MESSAGES_LIMIT:
            self._end("protocol_error", now, detail=f"{self._bad_messages} bad messages in a row")

    def _started_again(self, _event: CallStarted, _now: float) -> None:
        self._desk.tell(FrameRejected("provider", "duplicate_start", ""))

    def _realtime_message_rejected(self, event: MessageRejected, _now: float) -> None:
        self._desk.tell(FrameRejected("realtime", event.kind, event.detail))

    def _rate_limit_reported(self, event: RateLimitReported, _now: float) -> None:
        self._desk.tell(RateLimitSeen(event.name, event.remaining))

    def _item_truncated(self, _event: ItemTruncated, _now: float) -> None:
        """The model has taken our word for what was heard; nothing is left to do."""

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
    # What the model may say outside of a conversation; anything else is out of place there.
    _BEFORE_AND_AFTER: ClassVar[frozenset[type]] = frozenset(
        {
            AudioDelta,
            LinkClosed,
            MessageRejected,
            RealtimeConnected,
            RealtimeError,
            RealtimeRefused,
            SessionCreated,
            SessionUpdated,
        }
    )
    _ON_TIMER: ClassVar[_TimerTable] = {
        "connect": _give_up_on_model,
        "answer": _answer_is_late,
        "give up": _answer_never_came,
        "retry": _ask_again,
        "cut": _status_is_late,
        "digits": _digits_complete,
        "idle": _caller_is_idle,
        "rollover": _roll_over,
        "speech": _speech_never_stopped,
        "max call": _call_is_long,
        ALARM: _hears_nothing,
        "last words": _last_words_bound,
    }
    _ON_SEVERITY: ClassVar[_ErrorTable] = {
        "ignore": _model_complained,
        "warn": _model_complained,
        "busy": _model_refused_a_create,
        "retry": _model_failed,
        "expired": _model_expired,
        "fatal": _model_is_useless,
    }


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
