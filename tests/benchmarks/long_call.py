"""Two hours on the phone in a minute: both translators, the core, metrics and log, no loop.

The clock moves when it is told to. Only what the gateway does is timed; what the phone and the
model write is made outside of it.
"""

import binascii
import gc
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time
from types import BuiltinFunctionType, FunctionType, ModuleType

from prometheus_client import CollectorRegistry

from gateway.call import Call
from gateway.events import (
    ULAW_8K,
    CallStarted,
    RealtimeConnected,
    RealtimeEvent,
)
from gateway.logs import CallLog
from gateway.metrics import Metrics
from gateway.providers.twilio import TwilioStream
from gateway.realtime.protocol import RealtimeProtocol
from gateway.simulator.phone import TWILIO, Phone
from tests.wire import (
    DELTA_BYTES,
    FRAME_BYTES,
    FRAME_MS,
    RealtimeWriter,
    TwilioWriter,
    noise,
    options,
)

_FRAMES = [noise(seed, FRAME_BYTES) for seed in range(100)]
_SOUNDS = [noise(seed, DELTA_BYTES) for seed in range(60)]
_FRAMES_A_SECOND = 1000 // FRAME_MS
# A turn of 20 s: 3 s of the caller, 6 s of the agent; every other answer is interrupted at 3 s.
_TURN_S, _ASKED_S, _CUT_S = 20, 3, 6
# The middle one of these counts. Their number is odd, and each kind of turn is in it.
_TURNS_LOOKED_AT = 3
_LOOP = 200
_SHORT = 10  # deltas of the answer that follows


@dataclass(frozen=True, slots=True)
class Sample:
    """What the call was like at a moment: CPU of a call-second, memory of all it holds.

    CPU counts in loops of ``_loop`` run in between, for a minute later the machine may be another;
    beside it in microseconds, as they came.
    """

    minutes: int
    loops_a_second: float
    us_a_second: float
    size_bytes: int
    objects: int


class LongCall:
    """One call that goes on and on."""

    def __init__(self) -> None:
        self.now, self.spent_s, self.loops_s = 0.0, 0.0, 0.0
        self._twilio, self._model = TwilioWriter(), RealtimeWriter()
        self._phone = Phone(TWILIO, 40.0, ULAW_8K)
        self._stream, self._protocol = TwilioStream(), RealtimeProtocol("ga")
        self._metrics, self._log = Metrics(CollectorRegistry()).call(), CallLog("long")
        self._heard: deque[str | bytes] = deque()
        (started,) = self._stream.receive(self._twilio.start())
        assert isinstance(started, CallStarted)
        self.call = Call(started, options(max_call_s=1e6, idle_s=1e6), self.now)
        self._take([RealtimeConnected(0.01)])
        self._model_says(*self._model.ready())

    # ------------------------------------------------------------------ the gateway, timed

    def _timed(self, step: Callable[[], object]) -> None:
        began = process_time()
        step()
        self._drain()
        self.spent_s += process_time() - began

    def _take(self, events: list[RealtimeEvent]) -> None:
        for event in events:
            self.call.realtime_received(event, self.now)

    def _drain(self) -> None:
        """What a driver does after every event, but the messages stay here."""
        while self.call.to_provider:
            self._heard.extend(self._stream.send(self.call.to_provider.popleft()))
        while self.call.to_realtime:
            self._protocol.send(self.call.to_realtime.popleft())
        for fact in self.call.facts:
            self._metrics.observe(fact)
            self._log.observe(fact, self.now)
        self.call.facts.clear()

    def _provider_says(self, message: str) -> None:
        def step() -> None:
            for event in self._stream.receive(message):
                self.call.provider_received(event, self.now)

        self._timed(step)
        self._hear()

    def _model_says(self, *messages: bytes) -> None:
        for message in messages:
            self._timed(lambda message=message: self._take(self._protocol.receive(message)))  # type: ignore[misc]  # bound at once
            self._hear()

    # ------------------------------------------------------------------ the phone

    def _hear(self) -> None:
        """The phone takes what was sent."""
        while self._heard:
            message = json.loads(self._heard.popleft())
            if message["event"] == "media":
                self._phone.receive_audio(_sound(message), self.now)
            elif message["event"] == "mark":
                self._phone.receive_mark(message["mark"]["name"], self.now)
            else:
                self._phone.clear(self.now)

    def _tick(self) -> None:
        """20 ms pass: a frame, what the phone has played, and the call's own alarms."""
        self.now += FRAME_MS / 1000
        self._provider_says(self._twilio.media(_FRAMES[int(self.now * _FRAMES_A_SECOND) % 100]))
        for echo in self._phone.advance(self.now):
            self._provider_says(self._twilio.mark(echo.name))
        timer = self.call.next_timer()
        if timer is not None and timer <= self.now:
            self._timed(lambda: self.call.timer_fired(self.now))
            self._hear()

    # ------------------------------------------------------------------ the conversation

    def run_turn(self, number: int) -> None:
        """20 s: a question, an answer with its transcript, every other time interrupted."""
        for second in range(_TURN_S):
            for message in self._said_at(second, is_cut=bool(number % 2)):
                self._model_says(message)
            for _ in range(_FRAMES_A_SECOND):
                self._tick()
            began = process_time()
            _loop()
            self.loops_s += process_time() - began

    def _said_at(self, second: int, *, is_cut: bool) -> Iterator[bytes]:
        model = self._model
        if second == 0:
            yield model.speech_started()
        elif second == _ASKED_S:
            yield from (model.speech_stopped(), model.caller_transcribed("what is the time"))
            yield from model.answer(*_SOUNDS)
        elif second == _CUT_S and is_cut:
            yield from (model.speech_started(), model.speech_stopped())
            yield model.caller_transcribed("no, the date")
            yield from model.answer(*_SOUNDS[:_SHORT])

    # ------------------------------------------------------------------ what it holds

    def size(self) -> tuple[int, int]:
        """Bytes and objects that can be reached from the call and its translators.

        A few of them, such as the filter's matrix, are shared by all calls.
        """
        return reach(self.call, self._stream, self._protocol)


def _sound(message: dict[str, dict[str, str]]) -> bytes:
    return binascii.a2b_base64(message["media"]["payload"])


def samples(minutes: Sequence[int]) -> Iterator[Sample]:
    """The call at each of these times, which rise."""
    call, number = LongCall(), 0
    costs: deque[tuple[float, float]] = deque(maxlen=_TURNS_LOOKED_AT)
    for at in minutes:
        while number < at * 60 // _TURN_S:
            costs.append(_cost(call, number))
            number += 1
        if call.call.termination is not None:
            raise RuntimeError(f"the call ended by itself: {call.call.termination}")
        loops, us = (median(each) for each in zip(*costs, strict=True))
        yield Sample(at, loops, us, *call.size())


def _cost(call: LongCall, number: int) -> tuple[float, float]:
    """A second of this turn in loops, and in microseconds."""
    spent_s, loops_s = call.spent_s, call.loops_s
    call.run_turn(number)
    spent_s, loops_s = call.spent_s - spent_s, call.loops_s - loops_s
    return spent_s / loops_s, spent_s / _TURN_S * 1e6


def _loop() -> int:
    """About a millisecond of what a gateway does all day, without one line of ours."""
    total = 0
    for number in range(_LOOP):
        text = json.dumps({"event": "media", "number": number})
        sound = binascii.b2a_base64(_FRAMES[number % 100], newline=False)
        total += len(json.loads(text)) + len(b"".join((sound, text.encode())))
    return total


_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)


def reach(*roots: object) -> tuple[int, int]:
    """Bytes and number of everything below some objects, code and modules left out."""
    seen, waiting, size_bytes = set[int](), list(roots), 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _SHARED):
            continue
        seen.add(id(each))
        size_bytes += sys.getsizeof(each)
        waiting.extend(gc.get_referents(each))
    return size_bytes, len(seen)
