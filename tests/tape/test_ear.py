"""What was heard when, told from marks and clears: against the simulated phone, which knows."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import ULAW_8K
from gateway.simulator.phone import TWILIO, Phone
from gateway.tape.ear import GAP_S, Ear

RATE = ULAW_8K.bytes_per_ms
# Floating point, and whole bytes of a stretch.
EXACT = 0.0005


@dataclass
class Line:
    """An ear beside a phone: both are told the same, the ear hears of marks ``back_s`` later."""

    ear: Ear
    phone: Phone
    back_s: float = 0.0
    marks: int = 0

    def play(self, duration_ms: int, now: float) -> None:
        """Send sound and a mark behind it."""
        self.pass_time(now)
        self.ear.sound_sent(duration_ms * RATE, now)
        self.phone.receive_audio(b"\x55" * (duration_ms * RATE), now)
        self.marks += 1
        self.ear.mark_sent(f"m{self.marks}")
        self.phone.receive_mark(f"m{self.marks}", now)

    def pass_time(self, now: float) -> None:
        """Marks that are due come back."""
        for echo in self.phone.advance(now):
            self.ear.mark_came(echo.name, echo.at_s + self.back_s)


def _line(jitter_ms: float = 0.0, back_s: float = 0.0) -> Line:
    return Line(Ear(RATE), Phone(TWILIO, jitter_ms, ULAW_8K), back_s)


def test_sound_stands_where_the_phone_played_it() -> None:
    """Sent at once, heard in real time, the phone's own buffer included."""
    line = _line(jitter_ms=40.0)
    for _ in range(30):
        line.play(100, 1.0)
    line.pass_time(10.0)
    line.ear.settle({}, 10.0)

    (stretch,) = line.ear.stretches
    assert (stretch.start, stretch.end) == (0, 3000 * RATE)
    assert stretch.at_s == pytest.approx(1.04)
    assert line.ear.ends_at_s(stretch) == pytest.approx(4.04)


_GAPS = st.lists(st.integers(0, 400), min_size=1, max_size=40)


@given(_GAPS, st.floats(0, 80), st.floats(0, 0.05))
def test_a_phone_that_runs_dry_is_followed(
    pauses_ms: list[int], jitter_ms: float, back_s: float
) -> None:
    """However late pieces come, each stands within the way back of the mark and a tolerated gap."""
    line, now = _line(jitter_ms, back_s), 0.5
    for pause_ms in pauses_ms:
        line.play(100, now)
        now += pause_ms / 1000
    line.pass_time(now + 60.0)
    line.ear.settle({}, now + 60.0)

    for span in line.phone.spans:
        parts = line.ear.parts(span.offset_bytes, span.offset_bytes + span.size_bytes)
        assert sum(part.end - part.start for part in parts) == span.size_bytes
        for part in parts:
            true_s = span.starts_at_s + (part.start - span.offset_bytes) / RATE / 1000
            assert -GAP_S - EXACT <= part.at_s - true_s <= back_s + EXACT


@given(st.lists(st.floats(0.0, 0.08), min_size=20, max_size=20))
def test_a_late_mark_moves_nothing(delays_s: list[float]) -> None:
    """The quickest of the later marks counts: a network's bad moments open no gap."""
    ear = Ear(RATE)
    for number in range(20):
        ear.sound_sent(100 * RATE, 0.0)
        ear.mark_sent(f"m{number}")
    for number, delay_s in enumerate(delays_s[:-1]):
        ear.mark_came(f"m{number}", (number + 1) * 0.1 + delay_s)
    ear.mark_came("m19", 2.0)
    ear.settle({}, 10.0)

    assert [(s.start, s.end, round(s.at_s, 6)) for s in ear.stretches] == [(0, 2000 * RATE, 0.0)]


def test_the_last_mark_before_a_clear_may_be_late() -> None:
    """No later one corrects it; the sound had been there in good time, so there was no gap."""
    ear = Ear(RATE)
    for number in range(6):
        ear.sound_sent(100 * RATE, 0.0)
        ear.mark_sent(f"m{number}")
    for number in range(5):
        ear.mark_came(f"m{number}", (number + 1) * 0.1)
    ear.mark_came("m5", 0.62)
    ear.cleared(0.62)
    ear.settle({}, 10.0)

    assert [(s.start, s.end, round(s.at_s, 6)) for s in ear.stretches] == [(0, 600 * RATE, 0.0)]


def test_what_was_cleared_was_not_heard() -> None:
    """The estimate of the moment, unless the ledger knows better."""
    line = _line()
    for _ in range(20):
        line.play(100, 0.0)
    line.pass_time(0.55)
    line.ear.cleared(0.55)
    line.phone.clear(0.55)
    line.play(100, 3.0)
    line.pass_time(9.0)

    line.ear.settle({}, 9.0)
    assert [(s.start, s.end) for s in line.ear.stretches] == [(0, 4400), (16000, 16800)]
    line.ear.settle({0: 4000}, 9.0)
    assert [(s.start, s.end) for s in line.ear.stretches] == [(0, 4000), (16000, 16800)]
    parts = [(s.start, s.end, round(s.at_s, 6)) for s in line.ear.parts(3900, 16100)]
    assert parts == [(3900, 4000, 0.4875), (16000, 16100, 3.0)]


def test_without_marks_the_clock_has_to_do() -> None:
    """Sound is heard when it was sent, one piece behind the other."""
    ear = Ear(RATE)
    ear.sound_sent(8000, 1.0)
    ear.sound_sent(8000, 1.5)
    ear.sound_sent(8000, 5.0)
    ear.settle({}, 60.0)

    assert [(s.start, s.at_s) for s in ear.stretches] == [(0, 1.0), (16000, 5.0)]
    assert (ear.sent_at(0), ear.sent_at(8000), ear.sent_at(24000)) == (1.0, 1.5, 0.0)


def test_nothing_is_heard_behind_the_end() -> None:
    """The caller hung up in the middle of a word."""
    ear = Ear(RATE)
    ear.sound_sent(80_000, 1.0)
    ear.settle({}, 3.0)

    assert [s.end for s in ear.stretches] == [16_000]


def test_a_mark_nobody_sent_proves_nothing() -> None:
    """Cleared or made up: it is ignored."""
    ear = Ear(RATE)
    ear.mark_sent("before any sound")
    ear.sound_sent(800, 1.0)
    ear.mark_sent("m1")
    ear.cleared(1.0)
    ear.mark_came("m1", 7.0)
    ear.mark_came("other", 8.0)
    ear.settle({}, 60.0)

    assert ear.stretches == []


def test_a_forged_tape_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound beyond the bound is still counted, with the piece before it; a clear beyond is none."""
    monkeypatch.setattr("gateway.tape.ear.MOST_PIECES", 3)
    monkeypatch.setattr("gateway.tape.ear.MOST_PASSAGES", 2)
    ear = Ear(RATE)
    for number in range(10):
        ear.sound_sent(800, number * 0.1)
        ear.mark_sent(f"m{number}")
    for number in range(10):
        ear.mark_sent(f"again{number}")
    kept = len(ear._waiting)
    for _ in range(5):
        ear.cleared(1.0)

    assert kept == 3
    assert not ear._waiting
    assert ear.sent_bytes == 8000
    assert [len(passage.pieces) for passage in ear.passages] == [3, 0]
    assert ear.passages[0].pieces[-1].end == 8000
