"""The promise of the ledger, over ten thousand random calls.

Whatever the model sends, however late the phone plays and whenever the caller interrupts: what we
tell the model was heard is within one mark interval of what the phone really played.
"""

import os
import random
from dataclasses import dataclass, field

import pytest

from gateway.events import (
    AudioDelta,
    AudioDone,
    PlayAudio,
    ResponseDone,
    ResponseStarted,
    TruncateItem,
)
from gateway.simulator.phone import ASTERISK, TWILIO
from tests.lab import Lab, options

# Fewer where it was done already: .ci/run says so for the second interpreter.
SCRIPTS = int(os.environ.get("GATEWAY_TESTS_LEDGER_CALLS", "10000"))
BATCHES = 20
MARK_INTERVAL_MS = 100


@dataclass
class _Item:
    """What the test knows of one item; its sound is one byte value, found again in the phone."""

    name: str
    response: str
    value: int
    received_ms: float = 0.0


@dataclass
class _Script:
    """One random call."""

    seed: int
    items: list[_Item] = field(default_factory=list)
    checked: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        is_twilio = self.random.random() < 0.7
        self.lab = Lab(
            options(
                lead_ms=self.random.choice((400, 2000, 5000)),
                has_status=not is_twilio,
                mark_interval_ms=MARK_INTERVAL_MS,
                idle_s=1e6,
                max_call_s=1e6,
                give_up_s=1e6,
            ),
            semantics=TWILIO if is_twilio else ASTERISK,
            jitter_ms=self.random.choice((0, 40, 120, 400)) if is_twilio else 0.0,
            out_s=self.random.uniform(0, 0.03),
            back_s=self.random.uniform(0, 0.03),
        )
        self.responses = 0

    def play(self) -> None:
        """Some answers, some pauses, some interruptions."""
        for _ in range(self.random.randint(2, 8)):
            self._answer()
            self.lab.run_for(self.random.uniform(0, 2.5))
            if self.random.random() < 0.7:
                self._interrupt()
            else:
                self.lab.run_for(12)

    def _answer(self) -> None:
        self.responses += 1
        response = f"resp_{self.responses}"
        self.lab.realtime(ResponseStarted(response))
        for number in range(self.random.choice((1, 1, 1, 2))):
            name = f"item_{self.responses}_{number}"
            self._speak(_Item(name, response, value=1 + len(self.items)))
        if self.random.random() < 0.6:
            self.lab.realtime(ResponseDone(response, "completed"))

    def _speak(self, item: _Item) -> None:
        self.items.append(item)
        for _ in range(self.random.randint(1, 6)):
            size = self.random.choice((80, 160, 161, 799, 1600, 8000, 24_000))
            item.received_ms += size / 8
            self.lab.realtime(AudioDelta(item.response, item.name, 0, bytes([item.value]) * size))
            self.lab.run_for(self.random.choice((0, 0, 0.01, 0.1, 0.4)))
        if self.random.random() < 0.8:
            self.lab.realtime(AudioDone(item.response, item.name, 0))

    def _interrupt(self) -> None:
        lab = self.lab
        heard_ms = lab.phone.played_ms(lab.now)
        before = len(lab.asked)
        lab.caller_speaks()
        cleared = len(lab.sent)
        lab.run_for(0.15)
        truncated = [c for _, c in lab.asked[before:] if isinstance(c, TruncateItem)]
        self._check(truncated, heard_ms)
        self._late_audio()
        assert not [c for _, c in lab.sent[cleared:] if isinstance(c, PlayAudio)], "stale audio"
        lab.caller_stops()

    def _late_audio(self) -> None:
        """A model that goes on sending after it was interrupted."""
        last = self.items[-1]
        self.lab.realtime(AudioDelta(last.response, last.name, 0, b"\x22" * 4000))
        self.lab.realtime(ResponseDone(last.response, "cancelled", "turn_detected"))

    def _check(self, truncated: list[TruncateItem], heard_ms: float) -> None:
        for command in truncated:
            item = next(item for item in self.items if item.name == command.item_id)
            truth_ms = self._truth_ms(item, heard_ms)
            assert 0 <= command.audio_end_ms <= item.received_ms
            assert abs(command.audio_end_ms - truth_ms) <= MARK_INTERVAL_MS
            self.checked += 1

    def _truth_ms(self, item: _Item, heard_ms: float) -> float:
        """How much of an item the phone had played at that moment."""
        return self.lab.phone.played[: int(heard_ms * 8)].count(item.value) / 8


@pytest.mark.parametrize("batch", range(BATCHES))
def test_truncation_is_within_one_mark_interval(batch: int) -> None:
    """Over ten thousand calls the model is told what was heard, and no stale frame leaves."""
    checked = 0
    for seed in range(batch * SCRIPTS // BATCHES, (batch + 1) * SCRIPTS // BATCHES):
        script = _Script(seed)
        script.play()
        checked += script.checked

    assert checked > SCRIPTS // BATCHES
