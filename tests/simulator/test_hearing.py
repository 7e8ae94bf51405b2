"""What the service keeps of the caller: buffer, record, turns."""

from typing import Any

import pytest

from gateway.events import PCM_24K, ULAW_8K
from gateway.simulator.hearing import Hearing, Recording
from gateway.simulator.options import SERVER_VAD
from gateway.simulator.refusals import RequestRefused
from gateway.simulator.vad import SpeechBegan, SpeechEnded
from tests.simulator.desk import coded, loud, quiet


def test_a_recording_is_addressed_from_its_start() -> None:
    """A stretch is found by time, also after the oldest audio has gone."""
    recording = Recording(limit_ms=100)
    recording.append(loud(60))
    assert recording.between(20, 40) == loud(60)[20 * 48 : 40 * 48]

    recording.append(quiet(100))

    assert recording.end_ms == 160
    assert len(recording.pcm) == 100 * 48
    assert recording.between(0, 60) == b""
    assert recording.between(50, 70) == quiet(10)


def test_a_turn_is_cut_out_of_what_was_heard() -> None:
    """The edges of a talkspurt give its audio."""
    hearing = Hearing(60_000)
    hearing.configure(PCM_24K, dict(SERVER_VAD))
    audio = quiet(400) + loud(300) + quiet(300)

    edges = hearing.append(coded(audio))

    assert edges == [SpeechBegan(100), SpeechEnded(100, 900)]
    assert hearing.cut(100, 900) == audio[100 * 48 : 900 * 48]
    assert hearing.clock_ms == 1000


def test_without_detection_there_are_no_edges() -> None:
    """Audio is kept for the commit, whatever it holds."""
    hearing = Hearing(60_000)
    hearing.configure(PCM_24K, None)

    assert hearing.append(coded(loud(500) + quiet(1000))) == []
    assert hearing.commit() == loud(500) + quiet(1000)


def test_a_commit_takes_what_came_since_the_last() -> None:
    """Committed audio is not committed again; under 100 ms is refused."""
    hearing = Hearing(60_000)
    hearing.configure(PCM_24K, None)
    hearing.append(coded(loud(200)))
    hearing.commit()
    hearing.append(coded(quiet(99)))

    with pytest.raises(RequestRefused, match=r"only has 99\.00ms"):
        hearing.commit()

    hearing.append(coded(quiet(1)))
    assert hearing.commit() == quiet(100)


def test_clearing_forgets_the_buffer_not_the_clock() -> None:
    """After a clear nothing is there to commit, but time was heard."""
    hearing = Hearing(60_000)
    hearing.append(coded(loud(500)))
    before = hearing.is_in_speech

    hearing.clear()

    assert (before, hearing.is_in_speech) == (True, False)
    assert hearing.clock_ms == 500
    with pytest.raises(RequestRefused):
        hearing.commit()


def test_the_format_can_change_between_appends() -> None:
    """Mu-law after PCM is counted by its own rate."""
    hearing = Hearing(60_000)
    hearing.append(coded(quiet(100)))
    hearing.configure(ULAW_8K, None)

    hearing.append(coded(b"\xff" * 800))

    assert hearing.clock_ms == pytest.approx(200, abs=3)


@pytest.mark.parametrize("eagerness", ["low", "medium", "high", "auto"])
def test_every_eagerness_ends_a_turn(eagerness: str) -> None:
    """Two seconds of silence end a turn for all of them."""
    hearing = Hearing(60_000)
    hearing.configure(PCM_24K, {"type": "semantic_vad", "eagerness": eagerness})

    assert len(hearing.append(coded(loud(300) + quiet(2000)))) == 2


@pytest.mark.parametrize("audio", [None, 1, [], "A", "AA\nAA", "é"])
def test_what_is_not_base64_is_refused(audio: Any) -> None:
    """Only strict base64 text is audio."""
    hearing = Hearing(60_000)

    with pytest.raises(RequestRefused) as raised:
        hearing.append(audio)

    assert raised.value.param == "audio"
    assert hearing.clock_ms == 0


def test_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An append has a size limit."""
    monkeypatch.setattr("gateway.simulator.hearing.MAX_APPEND_BYTES", 100)

    with pytest.raises(RequestRefused):
        Hearing(60_000).append(coded(quiet(10)))
