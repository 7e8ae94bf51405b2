"""A call listens to its caller: through the core, on fixed time, with the ledger's own word."""

from itertools import pairwise
from typing import Final

import numpy as np
import pytest

from gateway.audio.echo import Played
from gateway.checkup import ALARM, Checkup
from gateway.desk import Desk
from gateway.events import (
    AudioAssessed,
    AudioDelta,
    AudioDone,
    AudioLost,
    AudioReceived,
    CallEnded,
    CallStopped,
    ResponseDone,
    ResponseStarted,
)
from tests.audio.listening import encoded, speech
from tests.lab import Lab, started

FRAME: Final = 160
NOISE: Final = encoded(np.random.default_rng(1).normal(0, 0.0006, 8000 * 40), "ulaw", 8000)


def listen(lab: Lab, wire: bytes) -> None:
    """The caller's phone sends this in real time: a frame comes when its sound is over."""
    for first in range(0, len(wire) - FRAME + 1, FRAME):
        lab.run_for(0.02)
        lab.provider(AudioReceived(wire[first : first + FRAME]))


def answer(lab: Lab, sound: bytes) -> None:
    """The model says all of it at once."""
    lab.realtime(
        ResponseStarted("r1"),
        AudioDelta("r1", "i1", 0, sound),
        AudioDone("r1", "i1", 0),
        ResponseDone("r1", "completed"),
    )


def with_echo(sound: np.ndarray[tuple[int, ...], np.dtype[np.float64]], delay_ms: int) -> bytes:
    """A quiet room in which the agent is heard, 20 dB down, so much after it was handed over."""
    noise = np.random.default_rng(2).normal(0, 0.0006, sound.size + delay_ms * 8)
    noise[delay_ms * 8 :] += sound * 0.1
    return encoded(noise, "ulaw", 8000)


def test_a_call_tells_every_five_seconds_and_at_its_end() -> None:
    """Assessments of a few seconds each, the last of all of it, before the call's one record."""
    lab = Lab()

    listen(lab, NOISE[: 8000 * 12])
    lab.provider(CallStopped())

    found = lab.told(AudioAssessed)
    assert [fact.is_final for fact in found] == [False, False, True]
    assert [fact.duration_ms for fact in found] == [5000, 5000, 12000]
    assert lab.facts.index(found[-1]) < lab.facts.index(lab.told(CallEnded)[0])


def test_echo_of_an_answer_is_found_where_the_ledger_says_it_was_played() -> None:
    """The agent's answer comes back 180 ms after it was handed over, 20 dB down."""
    lab, sound = Lab(), speech("prompts/answer")
    listen(lab, NOISE[:8000])

    answer(lab, encoded(sound, "ulaw", 8000))
    listen(lab, with_echo(sound, 180))
    lab.provider(CallStopped())

    final = lab.told(AudioAssessed)[-1]
    assert final.faults == ("echo",)
    assert final.echo_delay_ms == pytest.approx(180, abs=1)
    assert final.echo_loss_db == pytest.approx(20, abs=1)
    assert final.agent_ms == pytest.approx(sound.size / 8 + 180, abs=60)


def test_what_a_barge_in_cut_is_not_taken_for_played() -> None:
    """The caller interrupts after a second: only that counts as the agent's."""
    lab = Lab()
    listen(lab, NOISE[:8000])

    answer(lab, encoded(speech("prompts/answer"), "ulaw", 8000))
    listen(lab, NOISE[:8000])
    lab.caller_speaks()
    listen(lab, NOISE[: 8000 * 6])
    lab.provider(CallStopped())

    assert lab.told(AudioAssessed)[-1].agent_ms == pytest.approx(1500, abs=60)


def test_a_line_on_which_nothing_comes_is_told_by_itself() -> None:
    """No frame ever: an alarm asks, since nothing else happens."""
    lab = Lab()

    lab.run_for(11)
    lab.provider(CallStopped())

    found = lab.told(AudioAssessed)
    assert [fact.new_faults for fact in found] == [("no_audio",), (), ()]
    assert found[-1].faults == ("no_audio",)


def test_the_alarm_does_not_ring_while_frames_come() -> None:
    """It is put off every second, and never in the past."""
    lab = Lab()
    times = []
    for _ in range(10):
        listen(lab, NOISE[:8000])
        times.append(lab.call._desk.alarms[ALARM])

    assert all(later > earlier for earlier, later in pairwise(times))
    assert lab.told(AudioAssessed)[-1].faults == ()


def test_lost_audio_is_told_as_gaps() -> None:
    """What the provider's counters say is missing is a fault of the line."""
    lab = Lab()
    for _ in range(6):
        lab.run_for(0.2)
        lab.provider(AudioLost(200))
        listen(lab, NOISE[: 800 * 8])
    lab.provider(CallStopped())

    final = lab.told(AudioAssessed)[-1]
    assert final.lost_ms == 1200
    assert final.faults == ("gaps",)


def test_last_words_are_not_waited_through() -> None:
    """While the goodbye plays nobody listens: no line is called dead for it."""
    lab = Lab()
    listen(lab, NOISE[: 8000 * 6])
    answer(lab, encoded(np.tile(speech("prompts/answer"), 2), "ulaw", 8000))

    lab.call.hang_up("idle_timeout", lab.now)
    lab.settle()
    lab.run_for(20)

    found = lab.told(AudioAssessed)
    assert [fact.is_final for fact in found] == [False, True]
    assert found[-1].faults == ()
    assert lab.call.termination is not None


def test_where_nobody_wants_to_know_only_the_alarm_is_left() -> None:
    """It is put off at the same moments, and no sound is kept."""
    desks = {is_assessed: Desk() for is_assessed in (True, False)}
    checkups = {
        is_assessed: Checkup(desk, started(), Played("ulaw", 8000), 0.0, is_assessed=is_assessed)
        for is_assessed, desk in desks.items()
    }
    for second in range(1, 12):
        for checkup in checkups.values():
            checkup.heard.append((second - 0.5, NOISE[:8000]))
            checkup.lose(20)
            checkup.look(float(second))
        assert desks[False].alarms == desks[True].alarms == {ALARM: second + 5.1}
    for checkup in checkups.values():
        checkup.finish(12.0)

    assert [len(desks[is_assessed].facts) for is_assessed in (True, False)] == [3, 0]
    assert not checkups[False].heard
