"""Each fault of a call's sound moves its own indicator and no other."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest

from gateway.audio import health
from gateway.audio.convert import Encoding
from gateway.audio.echo import Played
from gateway.audio.health import Assessment, Fault, Health
from gateway.events import AudioFault
from tests.audio.listening import (
    BEGAN,
    CALL_S,
    FRAME_S,
    Scene,
    Sound,
    assessed,
    room_noise,
    speech,
)

CLEAN = Scene()
FRAMES = round(CALL_S / FRAME_S)


def gain(sound: Sound, level_db: float) -> Sound:
    """Louder, or quieter."""
    return sound * 10 ** (level_db / 20)


def limited(sound: Sound) -> Sound:
    """Loud all the time, as a bad automatic gain makes it, and yet within the scale."""
    loud = np.tanh(8 * sound) * 0.7
    # A voice is not symmetric: what the limiter makes of that is no fault of the line.
    return np.asarray(loud - np.convolve(loud, np.ones(400) / 400, "same"))


def without(*numbers: int) -> tuple[tuple[float, int], ...]:
    """Frames of these numbers never arrive."""
    return tuple(one for one in CLEAN.arrivals if one[1] not in numbers)


def late(most_s: float) -> tuple[tuple[float, int], ...]:
    """Every frame waits somewhere, up to so long; none overtakes another."""
    waits = np.random.default_rng(7).uniform(0, most_s, FRAMES)
    times = np.maximum.accumulate(np.arange(1, FRAMES + 1) * FRAME_S + waits)
    return tuple((float(at_s), number) for number, at_s in enumerate(times))


# Twelve frames in a row, five times: 1.2 s of 26 s.
HOLES = tuple(first + at for first in (150, 400, 600, 750, 1100) for at in range(12))
SPARSE = tuple(range(100, FRAMES, 20))

_OTHERS: dict[str, tuple[Fault, Scene]] = {
    "quiet": ("quiet", replace(CLEAN, caller=gain(CLEAN.caller, -27))),
    "loud": ("loud", replace(CLEAN, caller=limited(CLEAN.caller))),
    "noisy": ("noisy", replace(CLEAN, noise=room_noise(-38))),
    "clipped": ("clipped", replace(CLEAN, caller=gain(CLEAN.caller, 4))),
    "dc offset": ("dc_offset", replace(CLEAN, finish=lambda sound: sound + 0.03)),
    "negative dc offset": ("dc_offset", replace(CLEAN, finish=lambda sound: sound - 0.03)),
    "dead microphone": ("silent", replace(CLEAN, finish=lambda sound: sound * 0)),
    "one-way": ("silent", replace(CLEAN, caller=CLEAN.caller * 0)),
    "nothing comes up": ("no_audio", replace(CLEAN, arrivals=())),
    "unreported gaps": ("gaps", replace(CLEAN, arrivals=without(*HOLES))),
    "reported gaps": (
        "gaps",
        replace(
            CLEAN,
            arrivals=without(*HOLES),
            lost_ms=tuple((n + 12, 240.0) for n in HOLES[::12]),
        ),
    ),
    "single frames lost": (
        "gaps",
        replace(CLEAN, arrivals=without(*SPARSE), lost_ms=tuple((n + 1, 20.0) for n in SPARSE)),
    ),
    "jitter": ("jitter", replace(CLEAN, arrivals=late(0.2))),
}
_ECHOES: dict[str, tuple[Fault, Scene]] = {
    f"echo {loss_db} dB, {delay_ms} ms": ("echo", CLEAN.with_echo(loss_db, delay_ms))
    for loss_db in (10, 20, 30)
    for delay_ms in (40, 120, 300)
}

FAULTS = _OTHERS | _ECHOES

# The caller talks while the agent does, and nothing of the agent comes back.
DOUBLE_TALK = replace(
    CLEAN,
    caller=CLEAN.caller + np.roll(CLEAN.caller, -6 * 8000) * (np.arange(CLEAN.caller.size) < 48000),
)

# What is told of each indicator, and by how much it may move when it is not the one.
TOLERANCES: dict[str, tuple[tuple[Fault, ...], float]] = {
    "level_dbfs": (("quiet", "loud", "clipped"), 1.5),
    "noise_dbfs": (("noisy",), 6.0),
    "clipped_share": (("clipped",), 0.0002),
    "dc_offset": (("dc_offset",), 0.002),
    "voice_ms": (("silent",), 6000.0),
    "lost_ms": (("gaps",), 20.0),
    "jitter_ms": (("jitter",), 20.0),
    "echo_likeness": (("echo",), 0.15),
}


@cache
def assessed_once(name: str) -> list[Assessment]:
    """The call with this fault."""
    return assessed(FAULTS[name][1])


@pytest.fixture(scope="module")
def clean() -> Assessment:
    """The same call without a fault."""
    return assessed(CLEAN)[-1]


def test_a_good_call_has_no_fault(clean: Assessment) -> None:
    """Recorded speech with a little room noise is all right, and measured as it is."""
    caller = np.concatenate([speech("prompts/caller"), speech("prompts/hello")])
    frames = caller[: caller.size // 160 * 160].reshape(-1, 160)
    powers = (frames**2).mean(axis=1)
    level_dbfs = 10 * np.log10(powers[powers > 10**-5.6].mean())

    assert clean.faults == ()
    assert clean.level_dbfs == pytest.approx(level_dbfs, abs=1)
    assert clean.noise_dbfs == pytest.approx(-65, abs=2)
    assert clean.duration_ms == CALL_S * 1000
    assert clean.lost_ms == 0
    assert clean.jitter_ms < 0.01
    assert clean.echo_likeness < 0.1


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_by_its_name_and_no_other(name: str) -> None:
    """Exactly the one fault is found, told as new once, and again at the end."""
    fault = FAULTS[name][0]

    found = assessed_once(name)

    assert {one for assessment in found for one in assessment.faults} == {fault}
    assert [one for assessment in found for one in assessment.new_faults] == [fault]
    assert found[-1].faults == (fault,)


@pytest.mark.parametrize("indicator", TOLERANCES)
@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name][0] != "no_audio"])
def test_a_fault_moves_its_own_indicator_and_no_other(
    name: str, indicator: str, clean: Assessment
) -> None:
    """Against the good call, every other indicator stays; what cannot be told is None."""
    fault = FAULTS[name][0]
    moved_by, tolerance = TOLERANCES[indicator]

    before, after = getattr(clean, indicator), getattr(assessed_once(name)[-1], indicator)

    if fault in moved_by:
        assert after is None or abs(after - before) > tolerance
    elif fault == "silent":
        assert after is None or indicator == "noise_dbfs" or abs(after - before) <= tolerance
    else:
        assert abs(after - before) <= tolerance


# What was told when all of the sound was kept as it came and compared in full precision: level and
# noise (dBFS), likeness, loss (dB) and delay (ms) of the echo.
EXACT: dict[str, tuple[float, float, float, float | None, float | None]] = {
    "quiet": (-43.11, -64.69, 0.016, None, None),
    "noisy": (-16.57, -38.47, 0.018, None, None),
    "clipped": (-13.71, -64.68, 0.016, None, None),
    "jitter": (-17.6, -64.68, 0.017, None, None),
    "reported gaps": (-17.49, -64.52, 0.015, None, None),
    "echo 10 dB, 300 ms": (-17.6, -64.68, 0.889, 10.0, 300.0),
    "echo 20 dB, 40 ms": (-17.6, -64.68, 0.885, 19.99, 40.0),
    "echo 30 dB, 120 ms": (-17.6, -64.68, 0.848, 29.92, 120.0),
}


@pytest.mark.parametrize("name", EXACT)
def test_keeping_little_tells_the_same(name: str) -> None:
    """Memory is saved on what is kept of the sound, not on what is told of it."""
    level_dbfs, noise_dbfs, likeness, loss_db, delay_ms = EXACT[name]

    final = assessed_once(name)[-1]

    assert final.level_dbfs == pytest.approx(level_dbfs, abs=0.02)
    assert final.noise_dbfs == pytest.approx(noise_dbfs, abs=0.02)
    assert final.echo_likeness == pytest.approx(likeness, abs=0.005)
    assert (final.echo_loss_db is None, final.echo_delay_ms) == (loss_db is None, delay_ms)
    assert (final.echo_loss_db or 0.0) == pytest.approx(loss_db or 0.0, abs=0.15)


def test_double_talk_is_no_echo() -> None:
    """Two people who talk at once are not one who comes back."""
    found = assessed(DOUBLE_TALK)

    assert all(assessment.faults == () for assessment in found)
    assert max(assessment.echo_likeness for assessment in found) < 0.15


@pytest.mark.parametrize("loss_db", [10, 20, 30])
@pytest.mark.parametrize("delay_ms", [40, 120, 300, 450])
def test_echo_is_measured(loss_db: int, delay_ms: int) -> None:
    """Loss to the decibel, delay to the millisecond."""
    final = assessed(CLEAN.with_echo(loss_db, delay_ms))[-1]

    assert final.echo_loss_db == pytest.approx(loss_db, abs=1)
    assert final.echo_delay_ms == pytest.approx(delay_ms, abs=1)


def test_echo_is_found_in_double_talk() -> None:
    """An echo at -10 dB is found though the caller talks for a part of the time."""
    final = assessed(DOUBLE_TALK.with_echo(10, 150))[-1]

    assert final.faults == ("echo",)
    assert final.echo_delay_ms == pytest.approx(150, abs=1)


@pytest.mark.parametrize("name", ["quiet", "clipped", "dc offset", "one-way", "echo 20 dB, 120 ms"])
@pytest.mark.parametrize(
    ("encoding", "rate_hz"), [("alaw", 8000), ("pcm", 8000), ("pcm", 24000), ("pcm", 48000)]
)
def test_faults_are_the_same_in_every_format(name: str, encoding: Encoding, rate_hz: int) -> None:
    """What the provider sends makes no difference to what is found."""
    fault, scene = FAULTS[name]

    assert assessed(scene, encoding, rate_hz)[-1].faults == (fault,)
    assert assessed(CLEAN, encoding, rate_hz)[-1].faults == ()


def test_what_was_lost_is_counted_once() -> None:
    """Reported by the provider or seen by the clock: 60 frames are 1,200 ms."""
    reported = assessed(FAULTS["reported gaps"][1])[-1]
    unreported = assessed(FAULTS["unreported gaps"][1])[-1]

    assert reported.lost_ms == pytest.approx(1200)
    assert unreported.lost_ms == pytest.approx(1200, abs=1)


def test_a_stall_that_is_caught_up_loses_nothing() -> None:
    """Two seconds in which nothing comes, then all of it at once: late, not lost."""
    arrivals = tuple((max(at_s, 12.0) if 500 <= n < 600 else at_s, n) for at_s, n in CLEAN.arrivals)

    final = assessed(replace(CLEAN, arrivals=arrivals))[-1]

    assert final.lost_ms == 0
    assert final.faults == ("jitter",)


def test_a_clock_that_is_off_loses_nothing() -> None:
    """A phone whose clock runs 200 ppm slow is no gap, however long the call."""
    arrivals = tuple((at_s * 1.0002, number) for at_s, number in CLEAN.arrivals)

    assert assessed(replace(CLEAN, arrivals=arrivals))[-1].lost_ms == 0


def test_nothing_for_a_while_is_told_while_the_call_goes_on() -> None:
    """Asked without a frame, it says so after five seconds, and once."""
    watched = Health("ulaw", 8000, Played("ulaw", 8000), BEGAN)

    early = watched.listen(BEGAN + 4.4)
    first, second = watched.listen(BEGAN + 5.1), watched.listen(BEGAN + 10.2)

    assert early is None
    assert first is not None
    assert second is not None
    assert (first.faults, first.new_faults) == (("no_audio",), ("no_audio",))
    assert (second.faults, second.new_faults) == (("no_audio",), ())


def test_a_caller_who_only_listens_for_a_while_is_no_fault() -> None:
    """Silence while the agent talks proves nothing; the caller spoke when it was silent."""
    agent = np.tile(speech("prompts/answer"), 5)[: CLEAN.agent.size]
    agent = np.concatenate((agent, np.zeros(CLEAN.agent.size - agent.size)))
    agent[20 * 8000 :] = 0

    found = assessed(replace(CLEAN, agent=agent))

    assert all("silent" not in assessment.faults for assessment in found)


@pytest.mark.parametrize(
    "wrecked",
    [
        lambda frame: frame[:-1],
        lambda _: b"\x01",
        lambda frame: frame * 400,
        lambda _: b"\x00" * 3,
    ],
)
@pytest.mark.parametrize(("encoding", "rate_hz"), [("ulaw", 8000), ("pcm", 48000)])
def test_frames_of_any_length_are_taken(
    wrecked: Callable[[bytes], bytes], encoding: Encoding, rate_hz: int
) -> None:
    """Odd, tiny, huge: a peer's frames are measured, never an error."""
    played = Played(encoding, rate_hz)
    watched = Health(encoding, rate_hz, played, BEGAN)
    frame = bytes(range(256)) * 8
    for second in range(12):
        played.add([frame], BEGAN + second, follows=False)
        for count in range(50):
            watched.heard.append((BEGAN + second + count / 50, wrecked(frame[:160])))
        watched.lose(33.3)
        watched.listen(BEGAN + second + 1)

    assert watched.finish(BEGAN + 12).duration_ms > 0


@pytest.mark.parametrize(("encoding", "rate_hz"), [("ulaw", 8000), ("pcm", 24000)])
def test_memory_is_bounded(encoding: Encoding, rate_hz: int) -> None:
    """However long the agent talks, five seconds ahead of the phone: a few seconds, slowed."""
    tenth = rate_hz // 10 * (2 if encoding == "pcm" else 1)
    played = Played(encoding, rate_hz)
    watched = Health(encoding, rate_hz, played, 0.0)
    played.add([bytes(tenth)] * 50, 0.0, follows=False)
    for second in range(300):
        played.add([bytes(tenth)] * 10, float(second), follows=True)
        watched.heard.extend((second + n / 50, bytes(tenth // 5)) for n in range(50))
        watched.listen(second + 1.0)

    assert len(watched.heard) == 0
    assert len(watched._powers) <= 5
    assert len(watched._arrival._delays) <= 5
    assert len(played._stretches) == 1
    assert sum(len(piece.sound) for piece in played._pieces) <= 6 * 4000


def test_nothing_is_kept_of_an_agent_who_was_silent_for_seconds() -> None:
    """The sound of an answer goes when no echo of it can come any more."""
    played = Played("ulaw", 8000)
    watched = Health("ulaw", 8000, played, 0.0)
    played.add([bytes(800)] * 10, 0.0, follows=False)
    for second in range(4):
        watched.heard.extend((second + n / 50, bytes(160)) for n in range(1, 51))
        watched.listen(second + 1.0)

    assert len(played._pieces) == 0
    assert played._fresh == []


def test_the_words_are_those_of_the_facts() -> None:
    """The sound's rooms know no facts, so the set of faults stands in both: it is one."""
    assert get_args(Fault) == get_args(AudioFault)
    assert health.QUIET_DBFS < health.LOUD_DBFS
