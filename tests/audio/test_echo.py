"""What the phone plays is known to the millisecond; echo is found there and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.convert import Encoding
from gateway.audio.echo import LEAST_LIKENESS, Echo, Played, samples, slowed
from tests.audio.listening import encoded, speech

PIECE = bytes(800)
SLOW_HZ = 4000


def test_pieces_that_follow_are_one_stretch() -> None:
    """Handed over ahead of time, they are played one after the other."""
    played = Played("ulaw", 8000)

    played.add([PIECE] * 5, 10.0, follows=False)
    played.add([PIECE] * 5, 10.2, follows=True)

    [stretch] = played.stretches(0, 20)
    assert stretch == pytest.approx((10.0, 11.0))


def test_after_silence_the_phone_plays_at_once() -> None:
    """Two answers with a pause between them are two stretches."""
    played = Played("ulaw", 8000)

    played.add([PIECE], 10.0, follows=False)
    played.add([PIECE], 10.5, follows=False)

    assert played.stretches(0, 20) == [(10.0, 10.1), (10.5, 10.6)]
    assert played.stretches(10.2, 10.4) == []


@given(now=st.floats(9.5, 11.5))
def test_what_was_cut_is_not_played(now: float) -> None:
    """A barge-in leaves what had been played until then."""
    played = Played("ulaw", 8000)
    played.add([PIECE] * 10, 10.0, follows=False)

    played.cut(now)

    ends = [end for _, end in played.stretches(0, 20)]
    assert ends == pytest.approx([min(now, 11.0)] if now > 10.0 else [])


def test_only_the_last_seconds_are_kept() -> None:
    """What was played long ago is forgotten when something new comes."""
    played = Played("ulaw", 8000)
    for tenth in range(200):
        played.add([PIECE], tenth / 10, follows=tenth > 0)

    assert played.stretches(0, 20)[0][0] > 16


def test_the_sound_stands_at_its_time() -> None:
    """A sample that was handed over is found at the moment it was played."""
    played = Played("pcm", 24000)
    pcm = np.zeros(2400, "<i2")
    pcm[1200:1206] = 16764  # a step of mu-law
    played.add([pcm.tobytes()], 5.0, follows=False)

    sound = played.sound(4.9, 1200)

    assert np.flatnonzero(sound).tolist() == [600]
    assert sound[600] * 32768 == 16764


class _Tape:
    """What a phone plays, sample by sample, for ever: the sound it was handed, slowed and exact."""

    def __init__(self) -> None:
        self._sound = np.zeros(60 * SLOW_HZ)

    def play(self, payload: bytes, encoding: Encoding, rate_hz: int, start: int) -> int:
        """From that sample on; returns where it ends."""
        slow = slowed(samples(payload, encoding), rate_hz)
        self._sound[start : start + slow.size] = slow
        return start + slow.size

    def cut(self, at: int) -> None:
        """Nothing from that sample on."""
        self._sound[at:] = 0

    def between(self, start: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """What was played there."""
        return self._sound[start : start + size]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["play", "wait", "cut", "forget"]), st.integers(1, 20)),
        min_size=1,
        max_size=25,
    ),
    seed=st.integers(0, 2**32),
    way=st.sampled_from([("ulaw", 8000), ("alaw", 8000), ("pcm", 8000), ("pcm", 24000)]),
)
def test_what_was_played_is_kept_to_the_noise_of_mu_law(
    steps: list[tuple[str, int]], seed: int, way: tuple[Encoding, int]
) -> None:
    """Handed over, cut and forgotten in any order: every sample stands where it was played."""
    encoding, rate_hz = way
    generator, played, tape = np.random.default_rng(seed), Played(encoding, rate_hz), _Tape()
    now = ends = first = 3 * SLOW_HZ
    for step, tenths in steps:
        length = tenths * SLOW_HZ // 10
        if step == "play":
            pcm = generator.normal(0, 0.1, tenths * 800)
            wire = encoded(pcm, encoding, rate_hz)
            wire = wire[: len(wire) // 12 * 12]
            start = max(now, ends)
            played.add([wire[:480], wire[480:]], now / SLOW_HZ, follows=ends > now)
            ends = tape.play(wire, encoding, rate_hz, start)
        elif step == "wait":
            now += length // 5
        elif step == "cut":
            played.cut(now / SLOW_HZ)
            tape.cut(now)
            ends = min(ends, now)
        else:
            first = max(first, now - SLOW_HZ // 2 + length // 10)
            played.forget(now / SLOW_HZ - 1, first / SLOW_HZ)

    first = max(first, now - 3 * SLOW_HZ)
    exact = tape.between(first, 5 * SLOW_HZ)
    kept = played.sound(first / SLOW_HZ, exact.size)

    # Half a step of mu-law, and the two bits that it does not know.
    assert np.all(np.abs(kept - exact) <= 0.032 * np.abs(exact) + 0.0003)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 48000])
def test_every_rate_is_slowed_to_the_same(rate_hz: int) -> None:
    """A second is 4,000 samples, as loud as before."""
    slow = slowed(np.full(rate_hz, 0.25, np.float32), rate_hz)

    assert slow.size == 4000
    assert slow == pytest.approx(np.full(4000, 0.25))


@pytest.mark.parametrize("encoding", ["pcm", "ulaw", "alaw"])
def test_half_a_sample_is_left_out(encoding: str) -> None:
    """A payload of odd length is no error."""
    assert samples(b"\x00\x01\x02", encoding).size == (1 if encoding == "pcm" else 3)  # type: ignore[arg-type]


def heard(loss_db: float, delay_ms: int) -> Echo:
    """Five seconds of the agent, which come back on a quiet line."""
    agent = speech("prompts/answer")[:40000]
    late = np.concatenate((np.zeros(delay_ms * 8), agent))[:40000]
    noise = np.random.default_rng(3).normal(0, 0.0005, 40000)
    wire = encoded(agent, "ulaw", 8000)
    back = samples(encoded(late * 10 ** (-loss_db / 20) + noise, "ulaw", 8000), "ulaw")
    played = Played("ulaw", 8000)
    echo = Echo(played)
    for second in range(5):
        first = second * 8000
        played.add([wire[first : first + 8000]], 50.0 + second, follows=second > 0)
        echo.hear(back[first : first + 8000], 8000, 50.0 + second)
    return echo


@given(loss_db=st.floats(3, 30), delay_ms=st.integers(0, 499))
def test_any_echo_in_range_is_measured(loss_db: float, delay_ms: int) -> None:
    """Loss to a decibel, delay to a millisecond."""
    echo = heard(loss_db, delay_ms)

    assert echo.loss_db == pytest.approx(loss_db, abs=1)
    assert echo.delay_ms == pytest.approx(delay_ms, abs=1)


@given(delay_ms=st.integers(600, 3000))
def test_what_is_no_echo_has_no_figures(delay_ms: int) -> None:
    """The same voice at a time at which no echo comes is somebody else."""
    echo = heard(10, delay_ms)

    assert echo.likeness < LEAST_LIKENESS
    assert (echo.loss_db, echo.delay_ms) == (None, None)


def test_before_the_agent_spoke_there_is_no_echo() -> None:
    """Nothing was played: nothing is said."""
    echo = Echo(Played("ulaw", 8000))

    echo.hear(np.ones(8000, np.float32), 8000, 1.0)

    assert (echo.likeness, echo.loss_db) == (0.0, None)
