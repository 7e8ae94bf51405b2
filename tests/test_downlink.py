"""The agent's audio on its way to the caller."""

import numpy as np

from gateway.downlink import CANCELLED_KEPT, Downlink
from gateway.events import PCM_24K, ULAW_8K, AudioDelta, AudioFormat, PlayAudio
from gateway.playout import PlayoutOptions

_TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)).astype("<i2").tobytes()


def _downlink(session_audio: AudioFormat = ULAW_8K) -> Downlink:
    return Downlink(session_audio, PlayoutOptions(ULAW_8K, lead_ms=5000))


def _delta(item_id: str, payload: bytes, response_id: str = "resp_1") -> AudioDelta:
    return AudioDelta(response_id, item_id, 0, payload)


def _played(downlink: Downlink) -> bytes:
    commands = downlink.playout.release(0.0)
    return b"".join(command.payload for command in commands if isinstance(command, PlayAudio))


def test_equal_formats_pass_through() -> None:
    """Companded audio that fits is not touched."""
    downlink = _downlink()
    downlink.accept(_delta("item_1", b"\x11" * 160))

    assert _played(downlink) == b"\x11" * 160


def test_a_delta_is_as_long_as_it_is_in_the_sessions_format() -> None:
    """48 bytes are a millisecond of 24 kHz linear audio."""
    assert _downlink(PCM_24K).duration_ms(b"\0" * 4800) == 100


def test_the_account_counts_what_the_model_sent() -> None:
    """Received is in the model's time, whatever the filter has let out by then."""
    downlink = _downlink(PCM_24K)
    downlink.accept(_delta("item_1", b"\0" * 4800))
    downlink.accept(_delta("item_1", b"\0" * 2400))
    downlink.playout.clear(0.0)

    assert [heard.received_ms for heard in downlink.playout.settle()] == [150]


def test_an_item_is_converted_to_its_last_sample() -> None:
    """The end of an item lets out the filter's tail, and fills the last frame."""
    downlink = _downlink(PCM_24K)
    downlink.accept(_delta("item_1", _TONE))
    downlink.end_item()

    assert 8000 <= len(_played(downlink)) <= 8000 + 2 * 160


def test_deltas_of_odd_length_make_no_noise() -> None:
    """Half a sample waits for its other half: the sound is that of the whole."""
    whole, torn = _downlink(PCM_24K), _downlink(PCM_24K)
    whole.accept(_delta("item_1", _TONE))
    for start in range(0, len(_TONE), 4801):
        torn.accept(_delta("item_1", _TONE[start : start + 4801]))
    for downlink in (whole, torn):
        downlink.end_item()

    assert _played(torn) == _played(whole)


def test_another_item_begins_with_a_clean_filter() -> None:
    """What one item ends with does not colour the next."""
    after, alone = _downlink(PCM_24K), _downlink(PCM_24K)
    after.accept(_delta("item_1", _TONE[:4801]))
    after.accept(_delta("item_2", _TONE))
    alone.accept(_delta("item_2", _TONE))
    for downlink in (after, alone):
        downlink.end_item()

    expected = _played(alone)
    assert _played(after)[-len(expected) :] == expected


def test_the_end_of_an_item_twice_is_once() -> None:
    """No tail is let out of an item that is over."""
    downlink = _downlink(PCM_24K)
    downlink.accept(_delta("item_1", _TONE))
    downlink.end_item()
    sent = _played(downlink)
    downlink.end_item()

    assert sent
    assert _played(downlink) == b""


def test_the_end_of_another_answer_ends_nothing() -> None:
    """Only the items of the answer that is over are closed."""
    downlink = _downlink()
    downlink.accept(_delta("item_1", b"\x11" * 100))
    downlink.end_response("resp_0")
    before = _played(downlink)
    downlink.end_response("resp_1")

    assert before == b""
    assert _played(downlink) == b"\x11" * 100 + b"\xff" * 60


def test_after_a_barge_in_the_filter_is_clean() -> None:
    """Nothing of the interrupted item is heard in the next answer."""
    after, alone = _downlink(PCM_24K), _downlink(PCM_24K)
    after.accept(_delta("item_1", _TONE[:4801]))
    after.playout.clear(0.0)
    after.forget()
    for downlink in (after, alone):
        downlink.accept(_delta("item_2", _TONE, "resp_2"))
        downlink.end_item()

    assert _played(after) == _played(alone)


def test_an_interrupted_answer_is_known_by_its_id() -> None:
    """Late audio is told by its answer, and no answer without a name is condemned."""
    downlink = _downlink()
    for response_id in ("resp_1", "resp_1", ""):
        downlink.cancel(response_id)

    assert downlink.is_cancelled("resp_1")
    assert not downlink.is_cancelled("resp_2")
    assert not downlink.is_cancelled("")


def test_old_interruptions_are_forgotten() -> None:
    """A caller who interrupts all day costs a bounded memory."""
    downlink = _downlink()
    for number in range(CANCELLED_KEPT + 1):
        downlink.cancel(f"resp_{number}")

    assert not downlink.is_cancelled("resp_0")
    assert downlink.is_cancelled("resp_1")
    assert downlink.is_cancelled(f"resp_{CANCELLED_KEPT}")


def test_a_recording_plays_behind_what_is_there() -> None:
    """A prompt does not cut the agent's word, and is no item of the model."""
    downlink = _downlink()
    downlink.accept(_delta("item_1", b"\x11" * 100))
    downlink.end_item()
    commands = downlink.play_prompt("filler", _TONE, 0.0)

    sent = b"".join(command.payload for command in commands if isinstance(command, PlayAudio))
    assert sent.startswith(b"\x11" * 100 + b"\xff" * 60)
    assert 8160 <= len(sent) <= 8160 + 2 * 160
    downlink.playout.clear(0.0)
    accounts = downlink.playout.settle()
    assert [(heard.item_id, heard.response_id, heard.received_ms) for heard in accounts] == [
        ("item_1", "resp_1", 12.5),
        ("prompt:filler", "", 1000),
    ]
