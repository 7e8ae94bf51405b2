"""The caller's audio on its way to the model."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import ALAW_8K, PCM_24K, ULAW_8K, AudioFormat
from gateway.uplink import APPEND_LIMIT_MS, HOLD_LIMIT_MS, Uplink

PAYLOADS = st.lists(st.binary(min_size=1, max_size=400), max_size=20)


def _frame(number: int) -> bytes:
    return number.to_bytes(2, "big") * 80


def test_audio_is_kept_until_the_model_listens() -> None:
    """Nothing goes out before, and everything in one piece afterwards."""
    uplink = Uplink(ULAW_8K, ULAW_8K)

    assert [uplink.accept(b"abc"), uplink.accept(b"def")] == [b"", b""]
    assert uplink.open() == [b"abcdef"]
    assert uplink.accept(b"ghi") == b"ghi"


def test_nothing_kept_is_nothing_to_send() -> None:
    """A caller who was silent on the wire costs no empty message."""
    assert Uplink(ULAW_8K, ULAW_8K).open() == []


def test_kept_audio_leaves_in_handy_pieces() -> None:
    """No single message carries the whole backlog."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    for number in range(60):
        uplink.accept(_frame(number))
    pieces = uplink.open()

    assert [len(piece) / 8 for piece in pieces] == [APPEND_LIMIT_MS, APPEND_LIMIT_MS, 200]
    assert b"".join(pieces) == b"".join(_frame(number) for number in range(60))


def test_kept_audio_is_bounded_and_the_oldest_goes() -> None:
    """A model that never comes does not fill the memory, and what was dropped is told once."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    frames = [_frame(number) for number in range(HOLD_LIMIT_MS // 20 + 3)]
    for frame in frames:
        uplink.accept(frame)

    assert uplink.take_dropped_ms() == 60
    assert uplink.take_dropped_ms() == 0
    assert b"".join(uplink.open()) == b"".join(frames[3:])


def test_audio_is_kept_again_while_the_model_is_gone() -> None:
    """Between two sessions the caller may go on talking."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    uplink.open()
    uplink.hold()

    assert uplink.accept(b"abc") == b""
    assert uplink.open() == [b"abc"]


def test_lost_audio_becomes_silence() -> None:
    """The model's clock counts audio, so a gap has to have its length."""
    uplink = Uplink(ALAW_8K, ALAW_8K)
    uplink.open()

    assert uplink.lose(40) == b"\xd5" * 320


def test_audio_is_converted_to_the_format_of_the_session() -> None:
    """8 kHz companded audio becomes 24 kHz linear, three samples of two bytes for each byte."""
    uplink = Uplink(ULAW_8K, PCM_24K)
    uplink.open()
    sent = b"".join(uplink.accept(b"\x7f" * 160) for _ in range(50))

    assert abs(len(sent) - 50 * 160 * 6) <= 20 * PCM_24K.bytes_per_ms


def test_duration_is_that_of_the_callers_format() -> None:
    """160 bytes of G.711 are 20 ms, 320 bytes of linear 8 kHz too."""
    assert Uplink(ULAW_8K, PCM_24K).duration_ms(b"\0" * 160) == 20
    assert Uplink(AudioFormat("pcm", 8000), PCM_24K).duration_ms(b"\0" * 320) == 20


@given(PAYLOADS, PAYLOADS, PAYLOADS)
def test_no_byte_is_lost_or_moved(
    before: list[bytes], between: list[bytes], after: list[bytes]
) -> None:
    """Held, sent and held again: the model gets what the caller said, in order."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    sent = b"".join(uplink.accept(payload) for payload in before)
    sent += b"".join(uplink.open())
    sent += b"".join(uplink.accept(payload) for payload in between)
    uplink.hold()
    sent += b"".join(uplink.accept(payload) for payload in after)
    sent += b"".join(uplink.open())

    assert sent == b"".join(before + between + after)
