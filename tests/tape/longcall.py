"""A call of any length on tape within seconds: the real bridge and call, on a clock that jumps.

The phone is the simulator's, on a clock of its own that runs too fast; the model says noise that
is nowhere alike, so that a piece of it can be found again.
"""

import asyncio
import base64
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from gateway.audio.g711 import ENCODE
from gateway.bridge import Bridge, Outside
from gateway.call import Call
from gateway.events import Fact
from gateway.providers.twilio import TwilioStream
from gateway.realtime import Link, Listener
from gateway.realtime.protocol import RealtimeProtocol
from gateway.simulator.phone import Span
from gateway.simulator.twilio_line import TwilioCall, TwilioLine
from gateway.tape.record import Tape, TapedLink, TapeEnd, Tapes, plain_options, taped_dial
from tests.lab import options
from tests.timeless import TimelessLoop

FAST = 1.0001  # 100 parts in a million, a bad crystal
FRAME_S = 0.4
WAY_S = 0.010
TURN_S = 60.0


def noise(seed: int, duration_s: float, level: int = 8000) -> bytes:
    """Sound that is like no other, as mu-law."""
    generator = np.random.default_rng(seed)
    samples = generator.integers(-level, level, int(duration_s * 8000), dtype=np.int16)
    return ENCODE["ulaw"](samples.astype("<i2").tobytes())


@dataclass
class Wire:
    """One end of a link: what is sent goes to ``far``, what the far end says is heard."""

    far: Callable[[str | bytes], None]
    close_code: int = 1000
    close_reason: str = ""
    is_clogged: bool = False
    listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Tell this listener."""
        self.listener = listener

    def say(self, message: str | bytes) -> None:
        """The far end says this."""
        assert self.listener is not None
        self.listener.message_came(message)

    def send(self, *messages: str | bytes) -> None:
        """Take them to the far end."""
        for message in messages:
            self.far(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Nothing to do."""


class JumpingTape(Tape):
    """A tape whose clock is the loop's."""

    def stopwatch(self) -> float:
        """Whole microseconds."""
        return round(asyncio.get_running_loop().time() * 1e6) / 1e6


class Pipe:
    """Takes its time, and keeps the order: timers of one moment do not."""

    def __init__(self, deliver: Callable[[str | bytes], object]) -> None:
        self._deliver = deliver
        self._waiting: deque[str | bytes] = deque()

    def put(self, message: str | bytes) -> None:
        """Deliver it after ``WAY_S``, behind what was put before."""
        self._waiting.append(message)
        asyncio.get_running_loop().call_later(WAY_S, self._arrive)

    def _arrive(self) -> None:
        self._deliver(self._waiting.popleft())


@dataclass
class Scene:
    """The phone, the model and what was said, while the clock jumps."""

    duration_s: float
    said: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        """Put the far ends up."""
        self.loop = asyncio.get_running_loop()
        self.line = TwilioLine(TwilioCall())
        self.phone = Wire(Pipe(self._phone_hears).put)
        self.model = Wire(self._to_model)
        self._from_phone, self._from_model = Pipe(self.phone.say), Pipe(self.model.say)
        self._timer: asyncio.TimerHandle | None = None
        self._turns = 0

    def phone_now(self) -> float:
        """By the phone's own clock."""
        return self.loop.time() * FAST

    # ------------------------------------------------------------------ the phone

    def _phone_hears(self, message: str | bytes) -> None:
        self._phone_says(self.line.receive(message, self.phone_now()))

    def _phone_says(self, messages: list[str | bytes]) -> None:
        for message in messages:
            self._from_phone.put(message)
        due = self.line.next_timer()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(due / FAST, self._phone_plays) if due else None

    def _phone_plays(self) -> None:
        self._phone_says(self.line.advance(self.phone_now()))

    def begin(self) -> None:
        """The stream's first messages."""
        self._phone_says(self.line.start(self.phone_now()))

    async def talk(self) -> None:
        """The caller's noise, in real time by the phone's clock."""
        for number in range(int(self.duration_s / FRAME_S)):
            await asyncio.sleep(number * FRAME_S / FAST - self.loop.time())
            payload = noise(number, FRAME_S, 6000)
            self.said += payload
            self._phone_says(self.line.send_audio(payload, self.phone_now()))
        self._phone_says(self.line.stop(self.phone_now()))

    # ------------------------------------------------------------------ the model

    def _to_model(self, message: str | bytes) -> None:
        if b"session.update" in cast("bytes", message)[:40]:
            for kind in ("session.created", "session.updated"):
                self._model_says(kind, session={"id": "sess_1"})

    def _model_says(self, kind: str, **members: Any) -> None:
        text = json.dumps({"type": kind, **members})
        self._from_model.put(text.encode())

    async def answer(self) -> None:
        """Every so often the caller is heard, and answered with seconds of noise at once.

        The loop is timeless (tests/timeless.py): a sleep only says when, and takes no time.
        """
        while self.loop.time() + TURN_S < self.duration_s:
            await asyncio.sleep(TURN_S / 2)
            ids = {"response_id": f"resp_{self._turns}", "item_id": f"item_{self._turns}"}
            self._model_says("input_audio_buffer.speech_started", item_id=f"user_{self._turns}")
            await asyncio.sleep(1.0)
            self._model_says("input_audio_buffer.speech_stopped", item_id=f"user_{self._turns}")
            await asyncio.sleep(0.3)
            self._model_says("response.created", response={"id": ids["response_id"]})
            self._say(ids)
            status = {"id": ids["response_id"], "status": "completed"}
            self._model_says("response.output_audio.done", **ids)
            self._model_says("response.done", response=status)
            self._turns += 1
            await asyncio.sleep(TURN_S / 2 - 1.3)

    def _say(self, ids: dict[str, str]) -> None:
        # Every fifth answer is longer than there is time: the caller's next words cut it.
        duration_s = 70.0 if self._turns % 5 == 2 else 4.0
        sound = noise(100_000 + self._turns, duration_s)
        for start in range(0, len(sound), 4000):
            delta = base64.b64encode(sound[start : start + 4000]).decode()
            self._model_says("response.output_audio.delta", delta=delta, **ids)


@dataclass(frozen=True)
class LongCall:
    """What became of it; the spans' times are real, not the phone's."""

    path: Path
    said: bytes
    played: bytes
    spans: list[Span]
    fast: float = FAST


def record_long_call(folder: Path, duration_s: float) -> LongCall:
    """Tape a call of this length."""
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        return runner.run(_record(folder, duration_s))


async def _record(folder: Path, duration_s: float) -> LongCall:
    ends: list[TapeEnd] = []
    tapes = Tapes(folder, 10**10, ends.append, lambda _: None)
    tape = JumpingTape(tapes, "long")
    scene = Scene(duration_s)
    bridge = _bridge(scene, tape)
    call = await _admit(scene, tape, bridge)
    others = [asyncio.create_task(work) for work in (scene.answer(), scene.talk(), _write(tapes))]
    tape.end(await bridge.run(call))
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    tapes.write_waiting()
    assert [end.result for end in ends] == ["ok"], ends
    phone = scene.line.phone
    return LongCall(ends[0].path, bytes(scene.said), phone.played, list(phone.spans))


def _bridge(scene: Scene, tape: Tape) -> Bridge:
    async def dial(*, timeout_s: float, with_fresh_token: bool) -> Link:
        del timeout_s, with_fresh_token
        return cast("Link", scene.model)

    facts: list[Fact] = []
    outside = Outside(
        taped_dial(dial, tape), facts.append, _nothing, tape.clock, stopwatch=tape.stopwatch
    )
    phone = TapedLink(cast("Link", scene.phone), "provider", tape)
    return Bridge(TwilioStream(), phone, RealtimeProtocol("ga"), outside)


async def _admit(scene: Scene, tape: Tape, bridge: Bridge) -> Call:
    """As the lobby does."""
    starting = asyncio.create_task(bridge.await_start())
    await asyncio.sleep(0)
    scene.begin()
    start = await starting
    call_options = options(idle_s=3600.0)
    about = {"provider": "twilio", "dialect": "ga", "agent": "default", "query": {}}
    tape.begin(about | {"settings": {"call": plain_options(call_options)}})
    return Call(start, call_options, tape.clock())


async def _write(tapes: Tapes) -> None:
    """Every second of the timeless loop, as the writer's thread would."""
    while True:
        await asyncio.sleep(1.0)
        tapes.write_waiting()


async def _nothing(_: object) -> None:
    """No request leaves."""
