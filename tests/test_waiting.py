"""A turn's stages add up to what a caller waits, and each delay is seen in its own stage only."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bridge import Bridge, Outside
from gateway.call import Call
from gateway.events import (
    ULAW_8K,
    AppendAudio,
    AudioDelta,
    AudioLost,
    AudioReceived,
    CallReady,
    CallStopped,
    ClearAudio,
    ConfigureSession,
    DeadAir,
    Fact,
    LinkClosed,
    MarkReached,
    PlayAudio,
    QueueSeen,
    RealtimeOpened,
    ResponseStarted,
    SendMark,
    SessionCreated,
    SessionUpdated,
    SetUpTimed,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
    TurnLost,
    TurnTimed,
    Underrun,
)
from gateway.providers import Provider
from gateway.realtime import Listener
from gateway.simulator.phone import TWILIO, Phone
from gateway.waiting import CallerClock, OwedSilence, TurnTimer, closing_silence_ms
from tests.lab import Lab, options, started
from tests.timeless import TimelessLoop, run_timeless

LOUD, QUIET = b"\x11" * 160, b"\xff" * 160
WORD_FRAMES, SILENCE_MS = 40, 500
WITHIN_S = 0.002


@dataclass(frozen=True)
class Delays:
    """What each part of the rig adds, in seconds."""

    endpointing: float = 0.05
    model: float = 0.3
    conversion: float = 0.0
    write: float = 0.0
    clog: float = 0.0
    out: float = 0.03
    back: float = 0.0
    jitter: float = 0.04


class Plain:
    """A translator for a wire that carries events and commands as they are."""

    name = "plain"

    def receive(self, message: Any) -> list[Any]:
        """The event itself."""
        return [message]

    def send(self, command: Any) -> list[Any]:
        """The command itself."""
        return [command]

    def hang_up(self) -> None:
        """Nothing more is needed."""


class Wire:
    """One end of a socket; what comes before anybody listens is kept."""

    close_code, close_reason, is_clogged = 1000, "", False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._kept: list[Any] = []
        self.listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Tell this one."""
        self.listener = listener
        kept, self._kept = self._kept, []
        for message in kept:
            listener.message_came(message)

    def say(self, message: Any) -> None:
        """The far end sends this."""
        if self.listener is None:
            self._kept.append(message)
        else:
            self.listener.message_came(message)

    def later(self, delay_s: float, what: Callable[..., object], *args: object) -> None:
        """Do it after so long."""
        self._loop.call_later(delay_s, what, *args)

    def block(self, duration_s: float) -> None:
        """The process does nothing else for so long."""
        cast("TimelessLoop", self._loop)._jumping.now += duration_s

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Nobody is told."""
        del code, reason


class PhoneWire(Wire):
    """The provider with a phone behind it, which knows when its user hears something."""

    def __init__(self, delays: Delays) -> None:
        super().__init__()
        self._delays = delays
        self._writes = 0
        self.phone = Phone(TWILIO, delays.jitter * 1000, ULAW_8K)

    def send(self, *messages: Any) -> None:
        """Take them: the first write may take its time, the way to the phone does."""
        if not self._writes:
            self.block(self._delays.write)
        self._writes += 1
        for message in messages:
            self.later(self._delays.out, self._arrive, message)

    def clog(self, duration_s: float) -> None:
        """Take nothing for so long."""
        self.is_clogged = duration_s > 0
        if duration_s:
            self.later(duration_s, self._free)

    def _free(self) -> None:
        self.is_clogged = False
        assert self.listener is not None
        self.listener.link_freed()

    def _arrive(self, message: object) -> None:
        now = self._loop.time()
        match message:
            case PlayAudio(payload):
                self.phone.receive_audio(payload, now)
            case SendMark(name):
                self.phone.receive_mark(name, now)
            case ClearAudio():
                self.phone.clear(now)
        self._look()

    def _look(self) -> None:
        for echo in self.phone.advance(self._loop.time()):
            self.later(self._delays.back, self.say, MarkReached(echo.name))
        at = self.phone.next_timer()
        if at is not None:
            self._loop.call_at(at, self._look)


class ModelWire(Wire):
    """A model that counts the audio it is given, and answers the first words with 100 ms."""

    def __init__(self, delays: Delays, phone: PhoneWire) -> None:
        super().__init__()
        self._delays = delays
        self._phone = phone
        self._heard_ms = self._quiet_ms = 0
        self._is_word = False

    def send(self, *messages: Any) -> None:
        """Listen."""
        for message in messages:
            if isinstance(message, ConfigureSession):
                self.later(0.02, self.say, SessionCreated("sess_1", 0.0, "gpt-realtime"))
                self.later(0.02, self.say, SessionUpdated())
            elif isinstance(message, AppendAudio):
                for at in range(0, len(message.payload), 160):
                    self._hear(message.payload[at : at + 160])

    def _hear(self, frame: bytes) -> None:
        self._heard_ms += len(frame) // 8
        self._quiet_ms = 0 if frame == LOUD else self._quiet_ms + len(frame) // 8
        if frame == LOUD and not self._is_word:
            self._is_word = True
            self.later(0, self.say, SpeechStarted("item_u", self._heard_ms))
        elif self._is_word and self._quiet_ms >= SILENCE_MS:
            self._is_word = False
            self._end_turn()

    def _end_turn(self) -> None:
        delays = self._delays
        self.later(delays.endpointing, self.say, SpeechStopped("item_u", self._heard_ms))
        answer_s = delays.endpointing + delays.model
        self.later(answer_s, self._phone.clog, delays.clog)
        self.later(answer_s, self.say, ResponseStarted("resp_1"))
        self.later(answer_s, self.say, AudioDelta("resp_1", "item_1", 0, b"\x55" * 800))


class SlowConverter:
    """Passes audio through and takes its time."""

    def __init__(self, wire: Wire, duration_s: float) -> None:
        self._wire = wire
        self._duration_s = duration_s

    def convert(self, payload: bytes) -> bytes:
        """The same, later."""
        self._wire.block(self._duration_s)
        return payload

    def flush(self) -> bytes:
        """Nothing is kept."""
        return b""

    def reset(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Waited:
    """What the gateway says a turn took, and what the caller's watch says."""

    turn: TurnTimed
    outside_s: float
    facts: list[Fact]


async def _one_turn(delays: Delays, *, lost_ms: int = 0) -> Waited:
    loop = asyncio.get_running_loop()
    phone = PhoneWire(delays)
    facts: list[Fact] = []
    spoke_until = 0.0

    async def dial(**_: object) -> ModelWire:
        await asyncio.sleep(0.31)
        return ModelWire(delays, phone)

    async def perform(_: object) -> None:
        """Nothing is asked for."""

    plain = cast("Provider", Plain())
    outside = Outside(cast("Any", dial), facts.append, perform, loop.time)
    bridge = Bridge(plain, cast("Any", phone), cast("Any", Plain()), outside)
    phone.say(started())
    call = Call(await bridge.await_start(), options(), loop.time())
    downlink = call._voice._downlink
    downlink._converter = cast("Any", SlowConverter(phone, delays.conversion))
    running = asyncio.create_task(bridge.run(call))
    if lost_ms:
        phone.say(AudioLost(lost_ms))
    for _ in range(WORD_FRAMES):
        await asyncio.sleep(0.02)
        phone.say(AudioReceived(LOUD))
        spoke_until = loop.time()
    for _ in range(120):
        await asyncio.sleep(0.02)
        phone.say(AudioReceived(QUIET))
    phone.say(CallStopped())
    await running
    (turn,) = [fact for fact in facts if isinstance(fact, TurnTimed)]
    return Waited(turn, phone.phone.spans[0].starts_at_s - spoke_until, facts)


def _wait(delays: Delays, *, lost_ms: int = 0) -> Waited:
    return run_timeless(_one_turn(delays, lost_ms=lost_ms))


@pytest.mark.parametrize(
    ("stage", "added"),
    [
        ("endpointing", {"endpointing": 0.137}),
        ("model", {"model": 0.253}),
        ("conversion", {"conversion": 0.033}),
        ("send", {"write": 0.047}),
        ("send", {"clog": 0.21}),
        ("provider_buffer", {"out": 0.111}),
        ("provider_buffer", {"jitter": 0.083}),
    ],
)
def test_a_delay_moves_its_stage_and_no_other(stage: str, added: dict[str, float]) -> None:
    """By what it is, within 2 ms; and the sum is what the caller's watch says, before and after."""
    usual = Delays()
    slow = replace(usual, **{name: getattr(usual, name) + s for name, s in added.items()})
    before, after = _wait(usual), _wait(slow)

    moved = {
        name: then - first
        for (name, first), (_, then) in zip(before.turn.stages(), after.turn.stages(), strict=True)
    }
    assert moved.pop(stage) == pytest.approx(sum(added.values()), abs=WITHIN_S)
    assert moved == pytest.approx(dict.fromkeys(moved, 0.0), abs=WITHIN_S)
    for waited in (before, after):
        assert waited.turn.total_s == pytest.approx(waited.outside_s, abs=WITHIN_S)


def test_stages_of_a_usual_turn() -> None:
    """Endpointing has the silence the model waited for; audio lost before us moves nothing."""
    for lost_ms in (0, 60):
        turn = _wait(Delays(), lost_ms=lost_ms).turn
        assert turn.endpointing_s == pytest.approx(0.55, abs=WITHIN_S)
        assert turn.model_s == pytest.approx(0.3, abs=WITHIN_S)
        assert turn.provider_buffer_s == pytest.approx(0.07, abs=WITHIN_S)


def test_the_way_of_a_mark_counts_as_buffer() -> None:
    """A mark says no sooner that audio was heard than it is here."""
    near, far = _wait(Delays()), _wait(Delays(back=0.09))
    assert far.turn.total_s - near.turn.total_s == pytest.approx(0.09, abs=WITHIN_S)
    assert far.turn.provider_buffer_s - near.turn.provider_buffer_s == pytest.approx(
        0.09, abs=WITHIN_S
    )


def test_set_up_by_stage() -> None:
    """The line to the model and the session's options are told apart; what was kept is told."""
    facts = _wait(Delays()).facts
    setup = {fact.stage: fact.duration_s for fact in facts if isinstance(fact, SetUpTimed)}
    ready_s = next(fact.setup_s for fact in facts if isinstance(fact, CallReady))
    assert setup == pytest.approx({"dial": 0.31, "configure": 0.02})
    assert ready_s == pytest.approx(sum(setup.values()))
    assert QueueSeen("up", 320.0) in facts
    assert RealtimeOpened("sess_1", "gpt-realtime") in facts


# ------------------------------------------------------------- by a call in the lab


def _asked(lab: Lab) -> None:
    """The caller has spoken, and is owed an answer."""
    lab.caller_speaks()
    lab.caller_stops()


def test_without_the_models_clock_the_silence_of_the_settings_counts() -> None:
    """A service that does not say where speech ended has still waited for its silence."""
    lab = Lab(back_s=0.0)
    _asked(lab)
    lab.run_for(0.8)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(1)
    (turn,) = lab.told(TurnTimed)
    assert turn.endpointing_s == pytest.approx(0.5)
    assert turn.model_s == pytest.approx(0.8)
    assert turn.provider_buffer_s == pytest.approx(0.05)


@pytest.mark.parametrize("has_marks", [False, True])
def test_where_no_marks_come_the_clock_has_to_do(*, has_marks: bool) -> None:
    """Sound that meets an empty phone is taken for heard when it is sent."""
    lab = Lab(options(has_marks=has_marks), echoes_marks=False)
    _asked(lab)
    lab.answer("resp_1", "item_1", 3000)
    lab.run_for(20)
    (turn,) = lab.told(TurnTimed)
    assert turn.provider_buffer_s == pytest.approx(0.0)


def test_an_answer_behind_a_recording_waits_for_its_end() -> None:
    """What still plays is a part of what the caller waits."""
    lab = Lab(options(prompts={"filler": b"\1\0" * 24_000}), back_s=0.0)
    _asked(lab)
    lab.run_for(6.1)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(3)
    (turn,) = lab.told(TurnTimed)
    assert turn.model_s == pytest.approx(6.1)
    assert turn.provider_buffer_s == pytest.approx(1 - 0.1 + 0.05, abs=0.03)


def test_a_turn_that_the_caller_takes_back_is_counted_and_not_timed() -> None:
    """Before any sound, and after sound that was never said to be heard."""
    lab = Lab(out_s=0.3)
    _asked(lab)
    lab.run_for(0.2)
    _asked(lab)
    lab.answer("resp_1", "item_1", 500, is_done=False)
    lab.run_for(0.1)
    lab.caller_speaks()
    lab.run_for(2)
    assert lab.told(TurnLost) == [TurnLost("interrupted"), TurnLost("interrupted")]
    assert not lab.told(TurnTimed)


def test_a_turn_that_is_given_up_is_counted_and_not_timed() -> None:
    """The session is renewed after 15 s; the answer of the next one is no latency."""
    lab = Lab()
    _asked(lab)
    lab.run_for(16)
    lab.open_session()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(2)
    assert lab.told(TurnLost) == [TurnLost("timed_out")]
    assert not lab.told(TurnTimed)


def test_a_turn_survives_its_session() -> None:
    """The caller waits for the answer, whoever gives it."""
    lab = Lab()
    _asked(lab)
    lab.run_for(1)
    lab.realtime(LinkClosed(1006, ""))
    lab.run_for(1)
    lab.open_session()
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(1)
    (turn,) = lab.told(TurnTimed)
    assert turn.model_s == pytest.approx(2.0)


def test_a_call_that_ends_ends_its_turn() -> None:
    """Nobody waits on a line that is down."""
    lab = Lab()
    _asked(lab)
    lab.provider(CallStopped())
    assert lab.told(TurnLost) == [TurnLost("ended")]


def test_what_owes_no_answer_is_no_turn() -> None:
    """Where the service was told not to answer by itself, nobody waits for it."""
    session = replace(options().session, turn_detection=TurnDetection(create_response=False))
    lab = Lab(options(session=session))
    _asked(lab)
    lab.provider(CallStopped())
    assert not lab.told(TurnLost)


def test_dead_air() -> None:
    """Silence that the agent owes an end to is told when it ends, if it was 3 s or more."""
    lab = Lab()
    _asked(lab)
    lab.run_for(2.9)
    lab.answer("resp_1", "item_1", 500)
    lab.run_for(5)
    _asked(lab)
    lab.run_for(4.5)
    lab.answer("resp_2", "item_2", 500)
    lab.run_for(1)
    assert [fact.duration_s for fact in lab.told(DeadAir)] == pytest.approx([4.5])


def test_dead_air_ends_with_a_recording_and_begins_again_behind_it() -> None:
    """One moment please is not silence; what follows it may be."""
    lab = Lab(options(prompts={"filler": b"\1\0" * 24_000}))
    _asked(lab)
    lab.run_for(12)
    lab.answer("resp_1", "item_1", 500)
    (first, second) = (fact.duration_s for fact in lab.told(DeadAir))
    assert first == pytest.approx(6.0)
    assert second == pytest.approx(12 - 6 - 1, abs=0.1)


def test_a_caller_who_is_greeted_late_heard_dead_air() -> None:
    """The wait begins with the call, where the agent speaks first; else with nobody."""
    for greeting, silences in (("Say hello.", [4.0]), ("", [])):
        lab = Lab(options(greeting=greeting), is_ready=False)
        lab.run_for(4)
        lab.open_session()
        lab.answer("resp_1", "item_1", 500)
        assert [fact.duration_s for fact in lab.told(DeadAir)] == pytest.approx(silences)


def test_the_greetings_first_sound_is_a_stage_of_the_set_up() -> None:
    """From a ready session; not once the caller has spoken first."""
    lab = Lab(options(greeting="Say hello."))
    lab.run_for(0.7)
    lab.answer("resp_1", "item_1", 500)
    assert lab.told(SetUpTimed)[-1].stage == "first_audio"
    assert lab.told(SetUpTimed)[-1].duration_s == pytest.approx(0.7)

    lab = Lab(options(greeting="Say hello."))
    _asked(lab)
    lab.answer("resp_1", "item_1", 500)
    assert "first_audio" not in {fact.stage for fact in lab.told(SetUpTimed)}


def test_a_phone_that_runs_dry_in_the_middle_is_an_underrun() -> None:
    """By the silence the caller heard; the end of an item, and the next one, are none."""
    lab = Lab(out_s=0.0, back_s=0.0, jitter_ms=0.0)
    lab.answer("resp_1", "item_1", 200, is_done=False)
    lab.run_for(0.7)
    lab.delta("resp_1", "item_1", 200)
    lab.run_for(1)
    lab.delta("resp_1", "item_2", 200)
    lab.run_for(1)
    assert [fact.gap_ms for fact in lab.told(Underrun)] == pytest.approx([500.0])


def test_the_queue_is_looked_at_once_in_a_second() -> None:
    """Beyond the lead, agent audio waits here; how much is told as it drains."""
    lab = Lab(options(lead_ms=2000))
    lab.answer("resp_1", "item_1", 10_000)
    lab.run_for(11)
    seen = [fact.queued_ms for fact in lab.told(QueueSeen) if fact.direction == "down"]
    assert seen[0] == 8000.0
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 0.0


# ------------------------------------------------------------- the parts


def test_the_models_clock() -> None:
    """So much audio ago is so much time ago; what was never given is no moment."""
    clock = CallerClock()
    clock.session_began(held_ms=300, carried_ms=1000)
    assert clock.moment(300, 1000, 50.0) == 50.0
    assert clock.moment(100, 1000, 50.0) == pytest.approx(49.8)
    clock.silence_added(40)
    assert clock.moment(300, 1000, 50.0) == pytest.approx(49.96)
    assert clock.moment(0, 1000, 50.0) is None
    assert clock.moment(341, 1000, 50.0) is None


def test_the_silence_a_model_waits_for() -> None:
    """Only silence detection says how long it is."""
    assert closing_silence_ms(TurnDetection(silence_duration_ms=700)) == 700
    assert closing_silence_ms(TurnDetection(kind="semantic_vad")) == 0


MOMENTS = st.floats(0, 1e6, allow_nan=False)


@given(MOMENTS, MOMENTS, MOMENTS, MOMENTS, st.floats(0, 100), st.floats(0, 100))
def test_stages_always_add_up(
    spoke: float, told: float, came: float, heard: float, conversion_s: float, send_s: float
) -> None:
    """Whatever the clocks say, no stage is negative and the total is their sum."""
    timer = TurnTimer()
    timer.began(spoke, told)
    timer.sounded(max(told, came))
    turn = timer.heard(heard).with_way_out(conversion_s, send_s)
    assert all(seconds >= 0 for _, seconds in turn.stages())
    assert turn.total_s == sum(seconds for _, seconds in turn.stages())
    assert not timer.is_sent
    assert not timer.lost("ended")


def test_a_silence_is_told_once() -> None:
    """One that nobody began is none."""
    silence = OwedSilence()
    assert not silence.ends(100.0)
    silence.begins(1.0)
    silence.begins(3.0)
    assert silence.ends(4.0) == [DeadAir(3.0)]
    assert not silence.ends(9.0)
