"""The phone against a slow model that looks at every single tick."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.events import PCM_24K, ULAW_8K
from gateway.simulator.phone import ASTERISK, TWILIO, Echo, Phone


def sound(duration_ms: float, value: int = 1) -> bytes:
    """Mu-law bytes of this length."""
    return bytes([value]) * round(duration_ms * 8)


def near(at_s: float) -> Any:
    """This moment, give or take a microsecond; typed so that it can stand in an ``Echo``."""
    return pytest.approx(at_s, abs=1e-6)


def twilio(jitter_ms: float = 0.0) -> Phone:
    """A phone on Twilio."""
    return Phone(TWILIO, jitter_ms, ULAW_8K)


def asterisk(jitter_ms: float = 0.0) -> Phone:
    """A phone on Asterisk whose timer ticks at 0.00, 0.02, 0.04 ..."""
    return Phone(ASTERISK, jitter_ms, ULAW_8K)


def test_twilio_plays_in_real_time() -> None:
    """Audio begins after the jitter delay and is then heard millisecond by millisecond."""
    phone = twilio(jitter_ms=50)
    phone.receive_audio(sound(100), 1.0)
    assert phone.played_ms(1.05) == pytest.approx(0)
    assert phone.played_ms(1.08) == pytest.approx(30)
    assert phone.status(1.08) == pytest.approx(70)
    assert phone.played_ms(9.0) == 100
    assert phone.played_ms(1.1) == pytest.approx(50), "the past stays as it was"


def test_twilio_echoes_a_mark_when_the_sound_before_it_was_heard() -> None:
    """A mark comes back after jitter and audio, not when it is received."""
    phone = twilio(jitter_ms=50)
    phone.receive_audio(sound(100), 1.0)
    phone.receive_mark("a", 1.0)
    phone.receive_audio(sound(20), 1.01)
    phone.receive_mark("b", 1.02)
    assert phone.next_timer() == pytest.approx(1.15)
    assert phone.advance(1.149) == []
    assert phone.advance(1.15) == [Echo("a", near(1.15))]
    assert phone.next_timer() == pytest.approx(1.17)
    assert phone.advance(2.0) == [Echo("b", near(1.17))]
    assert phone.next_timer() is None


def test_twilio_echoes_a_mark_at_once_when_nothing_is_queued() -> None:
    """A mark into an empty queue is back at the very moment."""
    phone = twilio(jitter_ms=50)
    phone.receive_mark("a", 3.0)
    assert phone.advance(3.0) == [Echo("a", 3.0)]


def test_twilio_clear_returns_all_marks_and_silences_the_phone() -> None:
    """A clear keeps what was heard, drops the rest and brings every mark back in order."""
    phone = twilio()
    phone.receive_audio(sound(100, 1), 1.0)
    phone.receive_mark("a", 1.0)
    phone.receive_audio(sound(100, 2), 1.0)
    phone.receive_mark("b", 1.0)
    assert phone.clear(1.03) == pytest.approx(170)
    assert phone.advance(1.03) == [Echo("a", 1.03), Echo("b", 1.03)]
    assert phone.played == sound(30, 1)
    assert phone.played_ms(5.0) == 30
    assert phone.cleared_ms == pytest.approx(170)


def test_twilio_drops_what_is_beyond_ten_minutes() -> None:
    """Queued audio stops at ten minutes (error 31931); what came before is kept."""
    phone = twilio()
    phone.receive_audio(sound(600_000), 0.0)
    phone.receive_audio(sound(40), 0.02)
    assert phone.status(0.02) == 600_000
    assert phone.dropped_ms == pytest.approx(20)


def test_asterisk_takes_a_frame_at_each_tick_of_its_own_timer() -> None:
    """Audio that comes between two ticks waits for the next, then leaves frame by frame."""
    phone = asterisk(jitter_ms=30)
    phone.receive_audio(sound(60), 1.005)
    assert phone.status(1.019) == 60
    assert phone.status(1.02) == 40
    assert phone.played_ms(1.05) == pytest.approx(0), "left at 1.02, heard from 1.05"
    assert phone.played_ms(1.06) == pytest.approx(10)
    assert phone.played_ms(1.2) == 60


def test_asterisk_mark_fires_at_the_front_before_it_is_heard() -> None:
    """The mark comes one tick after the frame before it left, ahead of the jitter buffer."""
    phone = asterisk(jitter_ms=100)
    phone.receive_audio(sound(40), 1.005)
    phone.receive_mark("a", 1.005)
    phone.receive_audio(sound(20), 1.005)
    assert phone.next_timer() == pytest.approx(1.06)
    assert phone.advance(1.1) == [Echo("a", near(1.06))]
    assert phone.played_ms(1.06) == 0


def test_asterisk_mark_waits_for_a_tick_even_when_nothing_is_queued() -> None:
    """A mark into an empty queue comes back at the next tick."""
    phone = asterisk()
    phone.receive_mark("a", 1.005)
    assert phone.advance(1.019) == []
    assert phone.advance(1.02) == [Echo("a", near(1.02))]


def test_asterisk_clear_forgets_marks_and_keeps_what_left() -> None:
    """A flush echoes nothing; frames beyond the queue are heard all the same."""
    phone = asterisk(jitter_ms=100)
    phone.receive_audio(sound(100), 1.0)
    phone.receive_mark("a", 1.0)
    assert phone.clear(1.05) == 60
    assert phone.advance(3.0) == []
    assert phone.played_ms(1.05) == 0
    assert phone.played_ms(3.0) == 40


def test_asterisk_drops_the_tail_of_a_message() -> None:
    """250 bytes are one frame, 5 bytes are none."""
    phone = asterisk()
    phone.receive_audio(bytes(250), 0.001)
    phone.receive_audio(bytes(5), 0.001)
    assert phone.status(0.001) == 20
    assert phone.dropped_ms == pytest.approx(95 / 8)


def test_asterisk_flow_control() -> None:
    """XOFF at 900 frames, XON at the first tick below 800, silence at 1000 and more."""
    phone = asterisk()
    phone.receive_audio(sound(20 * 899), 0.001)
    assert phone.advance(0.001) == []
    phone.receive_audio(sound(20 * 200), 0.001)
    assert phone.advance(0.001) == [Echo("", 0.001, "xoff")]
    assert phone.status(0.001) == 20 * 1099, "one message overshoots the limit"
    phone.receive_audio(sound(20), 0.001)
    assert phone.dropped_ms == 20
    assert phone.next_timer() == pytest.approx(301 * 0.02)
    assert phone.advance(30.0) == [Echo("", near(301 * 0.02), "xon")]


def test_asterisk_is_full_until_the_tick_after_a_flush() -> None:
    """A flush does not free the queue before the next tick looks at it."""
    phone = asterisk()
    phone.receive_audio(sound(20 * 900), 0.001)
    phone.clear(0.005)
    assert phone.is_full
    assert phone.advance(0.02) == [
        Echo("", 0.001, "xoff"),
        Echo("", near(0.02), "xon"),
    ]


def test_asterisk_reports_drained_once() -> None:
    """The first tick that finds the queue empty reports it; a tick that found a mark does not."""
    phone = asterisk()
    phone.receive_audio(sound(20), 0.001)
    phone.receive_mark("a", 0.001)
    phone.report_drained(0.001)
    assert phone.advance(1.0) == [
        Echo("a", near(0.04)),
        Echo("", near(0.06), "drained"),
    ]


def test_a_paused_queue_keeps_everything() -> None:
    """Between pause and resume nothing is heard and no mark comes back."""
    phone = asterisk()
    phone.receive_audio(sound(40), 0.001)
    phone.receive_mark("a", 0.001)
    phone.pause(0.021)
    assert phone.next_timer() is None
    assert phone.advance(1.001) == []
    phone.resume(1.001)
    assert phone.advance(2.0) == [Echo("a", near(1.04))]
    assert [round(span.starts_at_s, 3) for span in phone.spans] == [0.02, 1.02]


def test_wide_samples_are_never_cut_in_half() -> None:
    """16-bit audio on a sample-wise queue keeps whole samples."""
    phone = Phone(TWILIO, 0, PCM_24K)
    phone.receive_audio(bytes(481), 0.0)
    assert phone.played_ms(1.0) == 10


def test_the_record_stops_at_ten_minutes_and_the_count_goes_on() -> None:
    """Memory is bounded; what was heard is still counted."""
    phone = twilio()
    for second in range(0, 700, 100):
        phone.receive_audio(sound(100_000), float(second))
    assert phone.played_ms(701.0) == pytest.approx(700_000)
    assert len(phone.played) == 600_000 * 8


# ------------------------------------------------------------- against a slow model


@dataclass
class SlowAsterisk:
    """Chan_websocket tick by tick, straight from its source."""

    queue: list[str | int] = field(default_factory=list)
    tick: int = 0
    echoes: list[tuple[str, float]] = field(default_factory=list)
    left: list[float] = field(default_factory=list)

    def run(self, now: float) -> None:
        """Every tick up to ``now``."""
        while self.tick * 0.02 <= now + 1e-9:
            while self.queue and isinstance(self.queue[0], str):
                self.echoes.append((str(self.queue.pop(0)), self.tick * 0.02))
            if self.queue:
                self.queue.pop(0)
                self.left.append(self.tick * 0.02)
            self.tick += 1


@dataclass
class SlowTwilio:
    """Twilio sample by sample: each queued sample has the time at which it will have been heard."""

    jitter_s: float
    queue: list[tuple[float, str]] = field(default_factory=list)
    end: float = 0.0
    echoes: list[tuple[str, float]] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)

    def add(self, samples: int, now: float) -> None:
        """Queue samples."""
        start = self.end if self.queue else now + self.jitter_s
        self.queue += [(start + (n + 1) / 8000, "") for n in range(samples)]
        self.end = start + samples / 8000

    def run(self, now: float) -> None:
        """Everything up to ``now``."""
        while self.queue and self.queue[0][0] <= now + 1e-6:
            at_s, mark = self.queue.pop(0)
            if mark:
                self.echoes.append((mark, at_s))
            else:
                self.heard.append(at_s)

    def clear(self, now: float) -> None:
        """Drop samples, return marks."""
        self.echoes += [(mark, now) for _, mark in self.queue if mark]
        self.queue.clear()


# Moments on a grid that is no multiple of a frame or a sample, plus some that are.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 7, 20, 33, 60, 250]),
        st.sampled_from(["audio", "audio", "mark", "clear", "look"]),
        st.integers(1, 9),
    ),
    max_size=30,
)


def play(phone: Phone, step: str, size: int, name: str, now: float) -> None:
    """Apply one step of a script."""
    if step == "audio":
        phone.receive_audio(bytes(size * 160), now)
    elif step == "mark":
        phone.receive_mark(name, now)
    elif step == "clear":
        phone.clear(now)


@given(steps=STEPS)
@settings(deadline=None, max_examples=100)
def test_asterisk_agrees_with_the_slow_model(steps: list[tuple[int, str, int]]) -> None:
    """Marks, their times and every frame's time are those of the tick-by-tick model."""
    phone, slow = asterisk(), SlowAsterisk()
    echoes: list[Echo] = []
    for index, now, step, size in timed(steps):
        slow.run(now)
        if step == "clear":
            slow.queue.clear()
        elif step != "look":
            slow.queue += [f"m{index}"] if step == "mark" else [0] * size
        play(phone, step, size, f"m{index}", now)
        echoes += phone.advance(now)
        assert phone.status(now) == 20 * sum(entry == 0 for entry in slow.queue)
    slow.run(now := 1000.0)
    echoes += phone.advance(now)
    assert [(echo.name, echo.at_s) for echo in echoes] == [
        (name, near(at_s)) for name, at_s in slow.echoes
    ]
    assert frame_times(phone) == pytest.approx(slow.left)


@given(steps=STEPS, jitter_ms=st.sampled_from([0, 35]))
@settings(deadline=None, max_examples=100)
def test_twilio_agrees_with_the_slow_model(
    steps: list[tuple[int, str, int]], jitter_ms: int
) -> None:
    """Marks, their times and the number of samples heard are those of the sample-wise model."""
    phone, slow = twilio(jitter_ms), SlowTwilio(jitter_ms / 1000)
    echoes: list[Echo] = []
    for index, now, step, size in timed(steps):
        slow.run(now)
        if step == "clear":
            slow.clear(now)
        elif step == "audio":
            slow.add(size * 160, now)
        elif step == "mark":
            slow.queue.append((slow.end if slow.queue else now, f"m{index}"))
        play(phone, step, size, f"m{index}", now)
        slow.run(now)
        echoes += phone.advance(now)
        assert phone.played_ms(now) == pytest.approx(len(slow.heard) / 8, abs=0.125)
    slow.run(now := 1000.0)
    echoes += phone.advance(now)
    assert [(echo.name, echo.at_s) for echo in echoes] == [
        (name, near(at_s)) for name, at_s in slow.echoes
    ]
    assert phone.played_ms(now) == pytest.approx(len(slow.heard) / 8)


@given(
    steps=STEPS, jitter_ms=st.sampled_from([0, 35]), semantics=st.sampled_from([TWILIO, ASTERISK])
)
@settings(deadline=None, max_examples=100)
def test_laws_of_every_phone(
    steps: list[tuple[int, str, int]], jitter_ms: int, semantics: object
) -> None:
    """Timers lie ahead, the heard time never falls, and no audio is lost or made up."""
    phone = Phone(TWILIO if semantics is TWILIO else ASTERISK, jitter_ms, ULAW_8K)
    received_ms = heard_ms = 0.0
    for index, now, step, size in timed(steps):
        received_ms += 20 * size if step == "audio" else 0
        play(phone, step, size, f"m{index}", now)
        phone.advance(now)
        timer_s = phone.next_timer()
        assert timer_s is None or timer_s > now
        assert (previous_ms := heard_ms) <= (heard_ms := phone.played_ms(now)) + 1e-9, previous_ms
    assert phone.played_ms(1000.0) + phone.cleared_ms == pytest.approx(received_ms)
    assert len(phone.played) == round(phone.played_ms(1000.0) * 8)


def timed(steps: list[tuple[int, str, int]]) -> list[tuple[int, float, str, int]]:
    """Steps with their number and their moment: delays in ms become seconds since 0."""
    delays = itertools.accumulate(delay_ms for delay_ms, _, _ in steps)
    return [
        (index, delay_ms / 1000, step, size)
        for index, (delay_ms, (_, step, size)) in enumerate(zip(delays, steps, strict=True))
    ]


def frame_times(phone: Phone) -> list[float]:
    """When each frame was begun to be heard."""
    return [
        span.starts_at_s + 0.02 * n for span in phone.spans for n in range(span.size_bytes // 160)
    ]
