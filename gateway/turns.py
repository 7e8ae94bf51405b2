"""Whose turn it is: the caller's words, the answer that is owed for them, and interruptions."""

from typing import Final

from gateway.answers import Answers
from gateway.desk import CallOptions, Desk
from gateway.events import (
    AudioDelta,
    CancelResponse,
    CreateResponse,
    Fact,
    FirstAudioSent,
    FunctionCalled,
    RealtimeErrorSeen,
    ResponseDone,
    SendFunctionOutput,
    SessionOptions,
    SetUpTimed,
    Severity,
    StateChanged,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnTimedOut,
    Usage,
)
from gateway.states import TURN, Machine, Turn
from gateway.voice import Voice
from gateway.waiting import OwedSilence, TurnTimer

# A failed answer is asked for again after this, or after the service's hint if that is bearable.
RETRY_AFTER_S: Final = 0.5
RETRY_HINT_LIMIT_S: Final = 5.0
# Sessions in a row that connect and never answer; the next would not either.
GIVE_UPS_LIMIT: Final = 2
# Nobody speaks longer than this without a pause the model would have heard.
SPEECH_LIMIT_S: Final = 120.0
ANSWER_ALARMS: Final = ("answer", "give up")
FATAL_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
        "model_not_found",
    }
)
HANGING_UP: Final = '{"result":"The call ends when your goodbye has been heard."}'
INTERRUPTED: Final = '{"error":"The caller interrupted."}'
NO_SUCH_TOOL: Final = '{"error":"There is no such tool."}'


class Turns:
    """Turn-taking of an active call; methods that return false say that the agent cannot go on."""

    def __init__(self, desk: Desk, options: CallOptions, voice: Voice, began: float) -> None:
        self._desk = desk
        self._options = options
        self._voice = voice
        self._began = began
        self._machine = Machine(TURN, Turn.LISTENING)
        self._answers = Answers()
        self.caller_speaks = False
        self.is_owed = False
        self._given_up = 0
        self._speech_stopped_at: float | None = None
        self._has_sounded = False
        self._greeted_at: float | None = None
        self._timer = TurnTimer()
        self._silence = OwedSilence()
        if options.greeting:
            self._silence.begins(began)
        self.wants_to_hang_up = False
        self.count = 0

    @property
    def state(self) -> Turn:
        """Whose turn it is."""
        return self._machine.state

    @property
    def has_taken_leave(self) -> bool:
        """The agent wants to hang up, and has said all it wanted to say."""
        return self.wants_to_hang_up and not self._answers.is_pending

    @property
    def is_quiet(self) -> bool:
        """Nobody speaks and nothing is owed."""
        return self.state is Turn.LISTENING and not self.caller_speaks

    def _step(self, step: str) -> None:
        if self._machine.step(step):
            self._desk.tell(StateChanged("turn", self._machine.state))

    # ------------------------------------------------------------------ the caller

    def wait_for_caller(self, now: float) -> None:
        """From here on a silence counts against the caller, unless somebody is speaking."""
        if not self.caller_speaks and self._voice.is_drained(now):
            self._desk.alarms["idle"] = now + self._options.idle_s

    def speech_started(self, now: float) -> None:
        """The model hears the caller."""
        self.caller_speaks = True
        self._speech_stopped_at = None
        self._desk.silence("idle")
        self._desk.alarms["speech"] = now + SPEECH_LIMIT_S
        if self._options.allow_barge_in or self.state is not Turn.SPEAKING:
            self.interrupt(now, server_cancels=_server_cancels(self._options.session))

    def speech_stopped(self, now: float, spoke_until: float | None = None) -> None:
        """The caller's turn is over, unless it was a mm-hm under the agent's voice.

        ``spoke_until`` is the moment of the caller's last sound, as far as that is known.
        """
        self._hear_no_more()
        self.count += 1
        if self._talks_on(now):
            return
        self._speech_stopped_at = now
        if self._options.session.turn_detection.create_response:
            self._tell_all(self._timer.began(now if spoke_until is None else spoke_until, now))
            self._answers.expect()
            self._owe_answer(now)
        else:
            self.wait_for_caller(now)

    def _talks_on(self, now: float) -> bool:
        """The agent may not be interrupted and still speaks: nobody waits for its next answer."""
        may_interrupt = self._options.allow_barge_in
        return not may_interrupt and self.state is Turn.SPEAKING and not self._voice.is_drained(now)

    def speech_never_stopped(self, now: float) -> None:
        """Nobody speaks for so long without a pause: the model has missed the end."""
        self._hear_no_more()
        self.wait_for_caller(now)

    def _hear_no_more(self) -> None:
        self.caller_speaks = False
        self._desk.silence("speech")

    def interrupt(self, now: float, *, server_cancels: bool) -> None:
        """The caller takes the turn, by voice or by keys."""
        self._settle_debt()
        self._desk.silence("idle", "retry")
        self._tell_all(self._timer.lost("interrupted") + self._silence.ends(now))
        self._greeted_at = None
        self.wants_to_hang_up = False
        active = self._answers.interrupt()
        self._voice.cancel(self._answers.latest)
        if active and not server_cancels:
            self._desk.to_realtime.append(CancelResponse(active))
        self._voice.stop(now)
        self._step("caller speaks")

    # ------------------------------------------------------------------ the answer

    def greet(self, command: CreateResponse, now: float) -> None:
        """The session is ready: ask for the agent's first words."""
        self._greeted_at = now
        self.ask(command, now)

    def ask(self, command: CreateResponse, now: float) -> None:
        """Ask for an answer, now or as soon as the running one is done."""
        self._desk.to_realtime.extend(self._answers.ask(command))
        self._owe_answer(now)

    def answer_message(self, now: float) -> None:
        """A message was added by keys: ask about it, unless the caller's next words will do so."""
        if not self.caller_speaks:
            self.ask(CreateResponse(), now)

    def ask_again(self, now: float) -> None:
        """The pause after a failed answer is over."""
        if not self._answers.is_pending and not self.caller_speaks:
            self.ask(self._answers.question, now)

    def create_refused(self, *, is_ours: bool) -> None:
        """A response was running when somebody asked for one."""
        self._desk.to_realtime.extend(self._answers.refused(is_ours=is_ours))

    def create_failed(self, retry_after_s: float, now: float) -> bool:
        """The answer we asked for will not be given."""
        self._answers.forget()
        return self.caller_speaks or self._retry(retry_after_s, now)

    def expect_answer(self, now: float) -> None:
        """The caller's words are with the model again, which begins an answer by itself."""
        self._answers.expect()
        self._owe_answer(now)

    def _owe_answer(self, now: float) -> None:
        self._step("answer owed")
        self.is_owed = True
        self._desk.silence("idle", *ANSWER_ALARMS)
        self._watch_answer(now)

    def _settle_debt(self) -> None:
        self.is_owed = False
        self._desk.silence(*ANSWER_ALARMS)

    def _watch_answer(self, now: float) -> None:
        """While the phone still plays, nobody is waiting yet."""
        if self._voice.is_drained(now):
            self._silence.begins(now)
            self._desk.alarms["answer"] = now + self._options.answer_s
            self._desk.alarms["give up"] = now + self._options.give_up_s

    def answer_is_late(self, now: float) -> None:
        """Nothing came for a while: let the caller hear that we are still there."""
        if not self.caller_speaks and self._voice.is_drained(now):
            self._desk.tell(TurnTimedOut(is_final=False))
            self._fill_pause(now)

    def _fill_pause(self, now: float) -> None:
        """Without a recording the silence goes on."""
        if self._voice.play_prompt("filler", now):
            self._tell_all(self._silence.ends(now))

    def answer_never_came(self) -> bool:
        """The session is of no use; false when the one before was not either."""
        self._desk.tell(TurnTimedOut(is_final=True))
        self._tell_all(self._timer.lost("timed_out"))
        self._given_up += 1
        return self._given_up < GIVE_UPS_LIMIT

    def response_started(self, response_id: str, now: float) -> None:
        """The model begins an answer; one the caller has interrupted meanwhile is stopped."""
        if self._answers.started(response_id):
            self._owe_answer(now)
        else:
            self._desk.to_realtime.append(CancelResponse(response_id))
            self._voice.cancel(response_id)

    def audio_delta(self, delta: AudioDelta, now: float) -> None:
        """The agent's voice; of an interrupted answer nothing is played."""
        duration_ms = self._voice.duration_ms(delta)
        if self._voice.is_cancelled(delta.response_id):
            self._desk.drop("down", "cancelled", duration_ms)
        elif self._voice.is_full():
            self._refuse_more(delta, duration_ms)
        else:
            self._speak(delta, now)

    def _speak(self, delta: AudioDelta, now: float) -> None:
        if not self._answers.has_sound:
            # A new answer: the model has heard the caller out, whether it said so or not.
            self._hear_no_more()
        self._answers.sounded(delta.response_id)
        self._given_up = 0
        self._settle_debt()
        self._desk.silence("idle")
        self._step("agent speaks")
        if self._voice.play(delta, now):
            self._note_sound(now)

    def _note_sound(self, now: float) -> None:
        if self._silence.since is not None:
            self._tell_all(self._silence.ends(now))
        if not self._has_sounded:
            self._note_first_sound(now)
        if self._speech_stopped_at is not None:
            self._desk.tell(TurnAnswered(now - self._speech_stopped_at))
            self._speech_stopped_at = None
        if self._timer.is_waiting:
            self._timer.sounded(now)
            self._voice.watch()

    def _note_first_sound(self, now: float) -> None:
        self._has_sounded = True
        self._desk.tell(FirstAudioSent(now - self._began))
        if self._greeted_at is not None:
            self._desk.tell(SetUpTimed("first_audio", now - self._greeted_at))

    @property
    def has_sound_under_way(self) -> bool:
        """The first sound of an answer was sent, and nobody knows yet when it is heard."""
        return self._timer.is_sent

    def look_at_sound(self, now: float) -> None:
        """See whether the caller hears the answer by now."""
        at = self._voice.heard_since(now)
        if at is not None:
            self._desk.tell(self._timer.heard(at))

    def finish(self, now: float) -> None:
        """The call is over: nobody waits any more."""
        self._tell_all(self._timer.lost("ended") + self._silence.ends(now))

    def _tell_all(self, facts: list[Fact]) -> None:
        self._desk.facts.extend(facts)

    def _refuse_more(self, delta: AudioDelta, duration_ms: float) -> None:
        """The caller is minutes behind: stop the model rather than grow."""
        self._desk.drop("down", "overflow", duration_ms)
        self._voice.cancel(delta.response_id)
        self._desk.to_realtime.append(CancelResponse(delta.response_id))

    def function_called(self, called: FunctionCalled) -> None:
        """Every call is answered at once, so that no conversation hangs."""
        is_known = called.name in {tool.name for tool in self._options.session.tools}
        output = HANGING_UP if is_known else NO_SUCH_TOOL
        if self._voice.is_cancelled(called.response_id):
            output = INTERRUPTED
        elif is_known:
            self.wants_to_hang_up = True
        else:
            self._answers.tool_called()
        self._desk.tell(ToolCalled("ok" if is_known else "unknown"))
        self._desk.to_realtime.append(SendFunctionOutput(called.call_id, output))

    def response_done(self, done: ResponseDone, now: float) -> bool:
        """An answer is over: see whether it was one."""
        if self._answers.is_stale(done.response_id):
            return True
        if done.usage != Usage():
            self._desk.tell(TokensUsed(done.usage))
        self._voice.end_response(done.response_id)
        had_sound = self._answers.has_sound
        if next_answers := self._answers.done():
            self._desk.to_realtime.extend(next_answers)
            self._owe_answer(now)
            return True
        if self._voice.is_cancelled(done.response_id) or done.status == "cancelled":
            if self.caller_speaks:
                self._settle_debt()
            return True
        if done.status == "failed":
            return self._answer_failed(done, now)
        if self.wants_to_hang_up:
            self._take_leave(now, had_sound=had_sound)
            return True
        return had_sound or self._answer_was_empty(done, now)

    def _take_leave(self, now: float, *, had_sound: bool) -> None:
        """An agent that hangs up without a word would seem to be cut off."""
        self._settle_debt()
        if not had_sound and self._voice.is_drained(now):
            self._voice.play_prompt("goodbye", now)

    def _answer_failed(self, done: ResponseDone, now: float) -> bool:
        is_fatal = done.reason in FATAL_CODES
        severity: Severity = "fatal" if is_fatal else "retry"
        self._desk.tell(RealtimeErrorSeen(done.reason, severity, done.detail))
        return not is_fatal and self._retry(done.retry_after_s, now)

    def _answer_was_empty(self, done: ResponseDone, now: float) -> bool:
        self._desk.tell(RealtimeErrorSeen("no_audio", "warn", done.reason))
        return self._retry(0.0, now)

    def service_failed(self, retry_after_s: float, now: float) -> bool:
        """The service says it failed; an answer that is running says so itself when it is done."""
        is_known = "retry" in self._desk.alarms or bool(self._answers.active)
        if is_known or self.state is not Turn.THINKING:
            return True
        return self.create_failed(retry_after_s, now)

    def _retry(self, hint_s: float, now: float) -> bool:
        """Tell the caller to wait and ask once more; a second failure in a row is the end."""
        self._answers.failures += 1
        if self._answers.failures > 1 or hint_s > RETRY_HINT_LIMIT_S:
            return False
        self._settle_debt()
        self._fill_pause(now)
        self._desk.alarms["retry"] = now + max(hint_s, RETRY_AFTER_S)
        return True

    def played_out(self, now: float) -> None:
        """The phone is silent: the turn is the caller's, unless more of the answer is due."""
        if self.caller_speaks:
            if not self._answers.is_pending:
                self._step("answer over")
            return
        if self.is_owed or (self._answers.active and self.state is Turn.SPEAKING):
            self._silence.begins(now)
            if "give up" not in self._desk.alarms:
                self._watch_answer(now)
        elif not self._answers.is_pending and "retry" not in self._desk.alarms:
            self._tell_all(self._silence.ends(now))
            self._step("answer over")
            if "idle" not in self._desk.alarms:
                self.wait_for_caller(now)

    def suspend(self) -> bool:
        """The session is gone; returns whether it still owed an answer."""
        owes_answer = self._answers.is_pending or self.is_owed or "retry" in self._desk.alarms
        self._voice.outlive_session(self._answers.active)
        self._answers = Answers()
        self._hear_no_more()
        self._settle_debt()
        self._desk.silence("retry", "idle")
        # Another session, asked anew, may not want to; one that had said goodbye still leaves.
        self.wants_to_hang_up = self.wants_to_hang_up and not owes_answer
        return owes_answer

    def owe_nothing(self, now: float) -> None:
        """What seemed to be words was none: the turn is the caller's."""
        self._tell_all(self._timer.lost("timed_out") + self._silence.ends(now))
        self._settle_debt()
        self._step("answer over")
        self.wait_for_caller(now)


def _server_cancels(session: SessionOptions) -> bool:
    """Whether the service stops its own answer when it hears speech."""
    detection = session.turn_detection
    return detection.kind != "none" and detection.interrupt_response
