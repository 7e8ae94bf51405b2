"""Whose turn it is: the caller's words, the answer that is owed for them, and interruptions."""

from typing import Final

from gateway.answers import Answers
from gateway.desk import CallOptions, Desk
from gateway.events import (
    AudioDelta,
    CancelResponse,
    CreateResponse,
    FirstAudioSent,
    FunctionCalled,
    RealtimeErrorSeen,
    ResponseDone,
    SendFunctionOutput,
    SessionOptions,
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

# A failed answer is asked for again after this, or after the service's hint if that is bearable.
RETRY_AFTER_S: Final = 0.5
RETRY_HINT_LIMIT_S: Final = 10.0
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
        self._caller_speaks = False
        self._speech_stopped_at: float | None = None
        self._has_sounded = False
        self.wants_to_hang_up = False
        self.count = 0

    @property
    def state(self) -> Turn:
        """Whose turn it is."""
        return self._machine.state

    @property
    def is_quiet(self) -> bool:
        """Nobody speaks and nothing is owed."""
        return self.state is Turn.LISTENING and not self._caller_speaks

    def _step(self, step: str) -> None:
        if self._machine.step(step):
            self._desk.tell(StateChanged("turn", self._machine.state))

    # ------------------------------------------------------------------ the caller

    def wait_for_caller(self, now: float) -> None:
        """From here on a silence counts against the caller."""
        self._desk.alarms["idle"] = now + self._options.idle_s

    def speech_started(self, now: float) -> None:
        """The model hears the caller."""
        if self.state is Turn.SPEAKING and not self._options.allow_barge_in:
            return
        self._caller_speaks = True
        self._speech_stopped_at = None
        self.interrupt(now, server_cancels=_server_cancels(self._options.session))

    def speech_stopped(self, now: float) -> None:
        """The caller's turn is over."""
        self._caller_speaks = False
        self.count += 1
        self._speech_stopped_at = now
        if self._options.session.turn_detection.create_response:
            self._owe_answer(now)
        else:
            self.wait_for_caller(now)

    def interrupt(self, now: float, *, server_cancels: bool) -> None:
        """The caller takes the turn, by voice or by keys."""
        self._desk.silence("idle", "answer", "give up", "retry")
        self.wants_to_hang_up = False
        active = self._answers.interrupt()
        self._voice.cancel(self._answers.latest)
        if active and not server_cancels:
            self._desk.to_realtime.append(CancelResponse(active))
        self._voice.stop(now)
        self._step("caller speaks")

    # ------------------------------------------------------------------ the answer

    def ask(self, command: CreateResponse, now: float) -> None:
        """Ask for an answer, now or as soon as the running one is done."""
        self._desk.to_realtime.extend(self._answers.ask(command))
        self._owe_answer(now)

    def ask_again(self, now: float) -> None:
        """The pause after a failed answer is over."""
        if not self._answers.is_pending:
            self.ask(CreateResponse(), now)

    def create_refused(self) -> None:
        """A response was running when we asked for one."""
        self._desk.to_realtime.extend(self._answers.refused())

    def _owe_answer(self, now: float) -> None:
        self._step("answer owed")
        self._desk.silence("idle")
        self._watch_answer(now)

    def _watch_answer(self, now: float) -> None:
        self._desk.alarms["answer"] = now + self._options.answer_s
        self._desk.alarms["give up"] = now + self._options.give_up_s

    def answer_is_late(self, now: float) -> None:
        """Nothing came for a while: let the caller hear that we are still there."""
        if not self._caller_speaks and self._voice.is_drained(now):
            self._desk.tell(TurnTimedOut(is_final=False))
            self._voice.play_prompt("filler", now)

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
            self._desk.count("down", duration_ms)
            self._speak(delta, now)

    def _speak(self, delta: AudioDelta, now: float) -> None:
        self._answers.sounded()
        self._desk.silence("idle", "answer", "give up")
        self._step("agent speaks")
        if self._voice.play(delta, now):
            self._note_sound(now)

    def _note_sound(self, now: float) -> None:
        if not self._has_sounded:
            self._has_sounded = True
            self._desk.tell(FirstAudioSent(now - self._began))
        if self._speech_stopped_at is not None:
            self._desk.tell(TurnAnswered(now - self._speech_stopped_at))
            self._speech_stopped_at = None

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
        if done.usage != Usage():
            self._desk.tell(TokensUsed(done.usage))
        self._voice.end_response(done.response_id)
        had_sound = self._answers.has_sound
        if next_answers := self._answers.done(done.response_id):
            self._desk.to_realtime.extend(next_answers)
            self._owe_answer(now)
            return True
        if self._voice.is_cancelled(done.response_id) or done.status == "cancelled":
            return True
        if done.status == "failed":
            return self._answer_failed(done, now)
        return had_sound or self.wants_to_hang_up or self._answer_was_empty(done, now)

    def _answer_failed(self, done: ResponseDone, now: float) -> bool:
        is_fatal = done.reason in FATAL_CODES
        severity: Severity = "fatal" if is_fatal else "retry"
        self._desk.tell(RealtimeErrorSeen(done.reason, severity, done.detail))
        return not is_fatal and self._retry(done.retry_after_s, now)

    def _answer_was_empty(self, done: ResponseDone, now: float) -> bool:
        self._desk.tell(RealtimeErrorSeen("no_audio", "warn", done.reason))
        return self._retry(0.0, now)

    def service_failed(self, now: float) -> bool:
        """The service says it failed; an answer that is running says so itself when it is done."""
        if self.state is not Turn.THINKING or self._answers.active:
            return True
        self._answers = Answers(self._answers.failures)
        return self._retry(0.0, now)

    def _retry(self, hint_s: float, now: float) -> bool:
        """Tell the caller to wait and ask once more; a second failure in a row is the end."""
        self._answers.failures += 1
        if self._answers.failures > 1 or hint_s > RETRY_HINT_LIMIT_S:
            return False
        self._desk.silence("answer", "give up")
        self._voice.play_prompt("filler", now)
        self._desk.alarms["retry"] = now + max(hint_s, RETRY_AFTER_S)
        return True

    def played_out(self, now: float) -> None:
        """The phone is silent: the turn is the caller's, unless more of the answer is due."""
        if self.state is Turn.SPEAKING and not self._answers.is_pending:
            self._step("answer over")
            self.wait_for_caller(now)
        elif self._answers.active and "give up" not in self._desk.alarms:
            self._watch_answer(now)

    def suspend(self) -> bool:
        """The session is gone; returns whether it still owed an answer."""
        owes_answer = self._answers.is_pending or self.state is Turn.THINKING
        self._voice.outlive_session(self._answers.active)
        self._answers = Answers()
        self._caller_speaks = False
        self._desk.silence("answer", "give up", "retry")
        return owes_answer


def _server_cancels(session: SessionOptions) -> bool:
    """Whether the service stops its own answer when it hears speech."""
    detection = session.turn_detection
    return detection.kind != "none" and detection.interrupt_response
