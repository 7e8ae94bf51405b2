"""Voice-activity detection: when talkspurts are seen to begin and to end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.vad import SpeechBegan, SpeechEdge, SpeechEnded, Vad
from tests.simulator.desk import loud, quiet


def _vad(
    *, threshold: float = 0.5, prefix_padding_ms: int = 300, silence_duration_ms: int = 500
) -> Vad:
    vad = Vad()
    vad.configure(
        threshold=threshold,
        prefix_padding_ms=prefix_padding_ms,
        silence_duration_ms=silence_duration_ms,
    )
    return vad


def test_a_talkspurt_has_prefix_and_closing_silence() -> None:
    """Its audio starts the padding before the first sound and ends with the silence awaited."""
    edges = _vad().feed(quiet(1000) + loud(600) + quiet(1000))

    assert edges == [SpeechBegan(700), SpeechEnded(700, 2100)]


def test_silence_is_as_long_as_asked_for() -> None:
    """A shorter silence duration ends the turn sooner; a pause below it does not."""
    spurt = loud(400) + quiet(300) + loud(400) + quiet(600)

    assert len(_vad(silence_duration_ms=500).feed(spurt)) == 2
    assert _vad(silence_duration_ms=200).feed(spurt)[:2] == [
        SpeechBegan(0),
        SpeechEnded(0, 600),
    ]


def test_the_prefix_does_not_reach_into_the_turn_before() -> None:
    """The second segment starts no earlier than the first one ended."""
    vad = _vad(prefix_padding_ms=1000, silence_duration_ms=100)

    edges = vad.feed(loud(200) + quiet(200) + loud(200))

    assert edges == [SpeechBegan(0), SpeechEnded(0, 300), SpeechBegan(300)]


def test_a_click_is_not_speech() -> None:
    """Forty milliseconds of sound begin nothing."""
    assert _vad().feed(loud(40) + quiet(1000)) == []


def test_the_threshold_decides_how_quiet_speech_may_be() -> None:
    """The same murmur is speech for a low threshold, noise for a high one."""
    murmur = (np.frombuffer(loud(300), "<i2") // 40).astype("<i2").tobytes()

    assert _vad(threshold=0.1).feed(murmur) == [SpeechBegan(0)]
    assert _vad(threshold=0.9).feed(murmur) == []


def test_forgetting_ends_a_talkspurt_unseen() -> None:
    """After a clear, the next sound begins a new segment no earlier than the clear."""
    vad = _vad()
    vad.feed(loud(200))

    vad.forget()

    assert vad.feed(loud(200)) == [SpeechBegan(200)]


@given(st.lists(st.integers(min_value=0, max_value=4001), max_size=12))
def test_edges_do_not_depend_on_how_audio_is_cut(cuts: list[int]) -> None:
    """Any chunking of the same audio, odd lengths included, gives the same edges."""
    audio = quiet(200) + loud(300) + quiet(700)
    whole = _vad().feed(audio)

    vad = _vad()
    edges: list[SpeechEdge] = []
    for cut in cuts:
        edges += vad.feed(audio[:cut])
        audio = audio[cut:]
    edges += vad.feed(audio)

    assert edges == whole
    assert vad.clock_ms == 1200
