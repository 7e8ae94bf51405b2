"""A call, a phone and a model in one room, with a clock that only moves when it is told to.

The phone is the simulator's exact model of a play queue; the model is whatever the test says it
said. Messages take ``out_s`` to the phone and ``back_s`` from it.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.call import Call, CallOptions
from gateway.events import (
    ULAW_8K,
    AudioDelta,
    AudioDone,
    AudioFormat,
    AudioReceived,
    CallStarted,
    ClearAudio,
    Fact,
    HangUp,
    MarkReached,
    PlayAudio,
    PlayoutReported,
    ProviderCommand,
    ProviderEvent,
    QueryPlayout,
    RealtimeCommand,
    RealtimeConnected,
    RealtimeEvent,
    ResponseDone,
    ResponseStarted,
    SendMark,
    SessionCreated,
    SessionOptions,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
)
from gateway.simulator.phone import TWILIO, Phone, Semantics

_Kind = TypeVar("_Kind")

PASSED_THROUGH = SessionOptions(audio=ULAW_8K, voice="marin")


def options(**changes: object) -> CallOptions:
    """Call options of a Twilio-like provider, with audio passed through and no greeting."""
    usual: dict[str, object] = {
        "provider": "twilio",
        "agent": "default",
        "session": PASSED_THROUGH,
        "lead_ms": 5000,
    }
    return CallOptions(**(usual | changes))  # type: ignore[arg-type]  # checked at run time


def started(audio: AudioFormat = ULAW_8K) -> CallStarted:
    """The provider's first word."""
    return CallStarted("CA1", "MZ1", audio, audio, "+15550100001", "+15550100002")


@dataclass
class Lab:
    """Moves time, carries messages, and keeps what was said with its moment."""

    call_options: CallOptions = field(default_factory=options)
    semantics: Semantics = TWILIO
    jitter_ms: float = 40.0
    out_s: float = 0.01
    back_s: float = 0.01
    echoes_marks: bool = True
    is_ready: bool = True

    def __post_init__(self) -> None:
        """Place the call and, unless told otherwise, open the session."""
        self.now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.phone = Phone(self.semantics, self.jitter_ms, ULAW_8K)
        self.call = Call(started(), self.call_options, self.now)
        self.sent: list[tuple[float, ProviderCommand]] = []
        self.asked: list[tuple[float, RealtimeCommand]] = []
        self.facts: list[Fact] = []
        self.settle()
        if self.is_ready:
            self.open_session()

    # ------------------------------------------------------------------ the model

    def open_session(self) -> None:
        """Answer the call's dial with a session that takes its options."""
        self.realtime(RealtimeConnected(0.01), SessionCreated("sess_1", 0.0), SessionUpdated())

    def realtime(self, *events: RealtimeEvent) -> None:
        """The model says this, now."""
        for event in events:
            self.call.realtime_received(event, self.now)
        self.settle()

    def delta(self, response: str, item: str, duration_ms: int, *, value: int = 0x55) -> None:
        """A stretch of agent audio."""
        self.realtime(AudioDelta(response, item, 0, bytes([value]) * (duration_ms * 8)))

    def answer(self, response: str, item: str, duration_ms: int, *, is_done: bool = True) -> None:
        """A whole answer at once, faster than real time."""
        self.realtime(ResponseStarted(response))
        self.delta(response, item, duration_ms)
        if is_done:
            self.realtime(AudioDone(response, item, 0), ResponseDone(response, "completed"))

    def caller_speaks(self) -> None:
        """The model hears the caller begin."""
        self.realtime(SpeechStarted("item_u", 0))

    def caller_stops(self) -> None:
        """The model hears the caller's turn end."""
        self.realtime(SpeechStopped("item_u", 0))

    # ------------------------------------------------------------------ the provider

    def provider(self, *events: ProviderEvent) -> None:
        """The provider says this, now."""
        for event in events:
            self.call.provider_received(event, self.now)
        self.settle()

    def frames(self, count: int, payload: bytes = b"\x7f" * 160) -> None:
        """Caller audio, 20 ms a frame, in real time."""
        for _ in range(count):
            self.provider(AudioReceived(payload))
            self.run_for(0.02)

    # ------------------------------------------------------------------ time

    def settle(self) -> None:
        """What a driver does after every event."""
        while self.call.to_provider:
            self._send(self.call.to_provider.popleft())
        while self.call.to_realtime:
            self.asked.append((self.now, self.call.to_realtime.popleft()))
        self.facts += self.call.facts
        self.call.facts.clear()

    def run_for(self, duration_s: float) -> None:
        """Let time pass; everything due happens in its order."""
        end = self.now + duration_s
        while (at := self._next()) is not None and at <= end:
            self.now = max(self.now, at)
            self._happen()
        self.now = end

    def _next(self) -> float | None:
        times = [self.call.next_timer(), self.phone.next_timer()]
        if self._due:
            times.append(self._due[0][0])
        return min((time for time in times if time is not None), default=None)

    def _happen(self) -> None:
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()
        for echo in self.phone.advance(self.now):
            if echo.kind == "mark" and self.echoes_marks:
                self._back(MarkReached(echo.name))
        timer = self.call.next_timer()
        if timer is not None and timer <= self.now:
            self.call.timer_fired(self.now)
            after = self.call.next_timer()
            assert after is None or after > self.now, "the timer's law: later than it was called"
        self.settle()

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), what))

    def _back(self, event: ProviderEvent) -> None:
        self._at(self.now + self.back_s, lambda: self.provider(event))

    def _send(self, command: ProviderCommand) -> None:
        self.sent.append((self.now, command))
        self._at(self.now + self.out_s, lambda: self._arrive(command))

    def _arrive(self, command: ProviderCommand) -> None:
        match command:
            case PlayAudio(payload):
                self.phone.receive_audio(payload, self.now)
            case SendMark(name):
                self.phone.receive_mark(name, self.now)
            case ClearAudio():
                self.phone.clear(self.now)
            case QueryPlayout():
                self._back(PlayoutReported(round(self.phone.status(self.now))))
            case HangUp():
                pass

    # ------------------------------------------------------------------ what came out

    def told(self, kind: type[_Kind]) -> list[_Kind]:
        """All facts of one kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def commanded(self, kind: type[_Kind]) -> list[_Kind]:
        """All commands of one kind, to either side."""
        commands = [command for _, command in [*self.sent, *self.asked]]
        return [command for command in commands if isinstance(command, kind)]
