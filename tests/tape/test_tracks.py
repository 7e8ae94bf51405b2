"""Both voices on one clock: each sample where its frame's time says, and memory bounded."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.events import PCM_24K, ULAW_8K, AudioFormat
from gateway.simulator.callreport import CallReport
from gateway.tape.story import story_of
from gateway.tape.tracks import (
    LOOK_AHEAD_S,
    TOLERANCE_S,
    Arrivals,
    Channel,
    Placed,
    agent_sound,
    caller_sound,
)

SLIN_8K = AudioFormat("pcm", 8000)
FRAME = b"\x55" * 160


def _placed(arrivals: Arrivals, times: list[float]) -> list[Placed]:
    found = [placed for t in times for placed in arrivals.came(FRAME, t)]
    return found + list(arrivals.rest())


def test_frames_that_were_held_up_stand_where_they_were_spoken() -> None:
    """A stall and the burst behind it: no gap, for nothing was missing."""
    spoken = [number * 0.02 for number in range(200)]
    came = [max(t, 2.5) if 1.0 < t < 2.5 else t for t in spoken]

    placed = _placed(Arrivals(8), came)

    assert [round(each.at_s, 3) for each in placed] == [round(t, 3) for t in spoken]


def test_a_pause_in_sending_is_a_gap() -> None:
    """Somebody who sends nothing while nothing is said."""
    came = [number * 0.02 for number in range(50)] + [5 + number * 0.02 for number in range(50)]

    assert [round(each.at_s, 3) for each in _placed(Arrivals(8), came)] == [
        round(t, 3) for t in came
    ]


def test_a_frame_that_was_lost_leaves_its_time() -> None:
    """The provider's counter says so; what follows stays in place."""
    arrivals = Arrivals(8)
    first = list(arrivals.came(FRAME, 0.0))
    arrivals.lost(40)
    found = first + list(arrivals.came(FRAME, 0.06)) + list(arrivals.rest())

    assert [each.at_s for each in found] == pytest.approx([0.0, 0.06])


@pytest.mark.parametrize("parts_in_a_million", [-100, 100])
def test_a_clock_that_runs_wrong_does_not_add_up(parts_in_a_million: int) -> None:
    """Half an hour by a bad crystal, fast or slow: each frame stays near its arrival."""
    pace_s = 0.02 * (1 + parts_in_a_million / 1e6)
    arrivals, worst_s, waiting = Arrivals(8), 0.0, 0
    came = iter([number * pace_s for number in range(90_000)])
    for number in range(90_000):
        for placed in arrivals.came(FRAME, number * pace_s):
            worst_s = max(worst_s, abs(placed.at_s - next(came)))
        waiting = max(waiting, len(arrivals._frames))

    assert worst_s <= TOLERANCE_S + 0.001
    assert waiting <= LOOK_AHEAD_S / pace_s + 2


@given(st.lists(st.floats(0, 1.5), min_size=5, max_size=60))
@example([0.0, 0.04, 0.0, 0.0, 1.0])  # two at the same moment
def test_no_frame_comes_before_the_one_before_it(delays_s: list[float]) -> None:
    """Whatever the network does, frames stay in order, and none stands after it came."""
    came = sorted(number * 0.02 + delay_s for number, delay_s in enumerate(delays_s))

    placed = [each.at_s for each in _placed(Arrivals(8), came)]

    assert len(placed) == len(came)
    assert all(at_s <= t + TOLERANCE_S for at_s, t in zip(placed, came, strict=True))
    assert all(
        later - sooner >= 0.02 - 2 * TOLERANCE_S - 1e-9 for sooner, later in pairwise(placed)
    )


# ------------------------------------------------------------- samples


def _pcm(channel: Channel, placed: list[Placed]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.frombuffer(b"".join(channel.blocks(placed)), "<i2")


def _ramp(first: int, count: int) -> bytes:
    return np.arange(first, first + count, dtype="<i2").tobytes()


def test_a_gap_is_silence_and_an_overlap_is_left_out() -> None:
    """Every sample is where its time says; what is there already stays."""
    placed = [
        Placed(0.0, _ramp(1, 800)),
        Placed(0.3, _ramp(1001, 800)),
        Placed(0.35, _ramp(3001, 800)),
    ]

    pcm = _pcm(Channel(SLIN_8K, 8000), placed)

    assert pcm[:800].tolist() == list(range(1, 801))
    assert not pcm[800:2400].any()
    assert pcm[2400:3200].tolist() == list(range(1001, 1801))
    assert pcm[3200:].tolist() == list(range(3401, 3801))


def test_a_long_silence_is_not_held_in_memory() -> None:
    """An hour of nothing is handed out second by second."""
    channel, most = Channel(SLIN_8K, 8000), 0
    total = 0

    def pieces() -> Iterator[Placed]:
        yield Placed(0.5, _ramp(1, 800))
        yield Placed(3600.25, _ramp(1, 800))

    for block in channel.blocks(pieces()):
        most = max(most, len(block), len(channel._pcm))
        total += len(block)

    assert total == round(3600.35 * 8000) * 2
    assert most <= 4 * 16_000


@pytest.mark.parametrize("rate_hz", [8000, 24_000])
@pytest.mark.parametrize("audio", [ULAW_8K, SLIN_8K, PCM_24K])
def test_a_click_stays_where_it_is_at_any_rate(audio: AudioFormat, rate_hz: int) -> None:
    """The filter's delay is taken out again, and silence before a stretch moves nothing."""
    samples = np.zeros(audio.rate_hz, "<i2")
    samples[audio.rate_hz // 2] = 20_000
    payload = samples.tobytes()
    if audio.encoding == "ulaw":
        payload = bytes([0xFF]) * (audio.rate_hz // 2) + b"\x80" + bytes([0xFF]) * 3999

    pcm = _pcm(Channel(audio, rate_hz), [Placed(2.0, payload)])

    assert abs(int(np.argmax(np.abs(pcm.astype(int)))) - 2.5 * rate_hz) <= rate_hz / 8000


# ------------------------------------------------------------- of a real call


def test_a_call_gives_back_what_was_said_and_what_was_heard(
    call_and_report: tuple[Path, CallReport],
) -> None:
    """Not a byte of the caller is missing; of the agent nothing is there that was cleared."""
    path, report = call_and_report
    story = story_of(path)

    said = b"".join(placed.payload for placed in caller_sound(path, story.audio_in))
    heard = b"".join(placed.payload for placed in agent_sound(path, story.ear))

    assert said == report.sent
    assert len(heard) == pytest.approx(len(report.played), abs=8 * 60)
