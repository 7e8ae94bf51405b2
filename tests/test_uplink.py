"""The caller's audio on its way to the model."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.convert import Converter
from gateway.events import ALAW_8K, PCM_24K, ULAW_8K, AudioFormat
from gateway.uplink import APPEND_LIMIT_MS, HOLD_LIMIT_MS, LEAD_IN_MS, Uplink

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


def _listening() -> Uplink:
    """Mu-law on both sides, and a model that listens."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    uplink.open()
    return uplink


def _say(uplink: Uplink, numbers: range) -> bytes:
    """The caller's frames of these numbers; returns them."""
    for number in numbers:
        uplink.accept(_frame(number))
    return b"".join(_frame(number) for number in numbers)


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


def test_words_that_wait_for_an_answer_are_said_again() -> None:
    """A new session hears the turn from its lead-in on, and what came since."""
    uplink = _listening()
    _say(uplink, range(40))
    uplink.begin_turn()
    _say(uplink, range(40, 90))

    assert uplink.hold()
    gap = _say(uplink, range(90, 95))
    first = 40 - LEAD_IN_MS // 20
    assert b"".join(uplink.open()) == b"".join(map(_frame, range(first, 90))) + gap


def test_silence_does_not_push_words_out_that_wait_for_an_answer() -> None:
    """However long the model takes, the words are kept whole, and the silence is not."""
    uplink = _listening()
    uplink.begin_turn()
    words = _say(uplink, range(50))
    uplink.wait_for_answer()
    waiting = _say(uplink, range(50, 50 + HOLD_LIMIT_MS // 10))

    assert uplink.hold()
    assert b"".join(uplink.open()) == words + waiting[-LEAD_IN_MS * 8 :]


def test_words_added_before_the_answer_belong_to_the_same_turn() -> None:
    """A caller who speaks on is repeated as a whole."""
    uplink = _listening()
    uplink.begin_turn()
    words = _say(uplink, range(20))
    uplink.wait_for_answer()
    words += _say(uplink, range(20, 30))
    uplink.begin_turn()
    words += _say(uplink, range(30, 50))

    assert uplink.hold()
    assert b"".join(uplink.open()) == words


def test_a_speech_without_end_is_repeated_from_its_last_part() -> None:
    """What is said again is bounded; the newest words are the ones that count."""
    uplink = _listening()
    uplink.begin_turn()
    said = _say(uplink, range(HOLD_LIMIT_MS // 20 + 100))

    assert uplink.hold()
    assert b"".join(uplink.open()) == said[-HOLD_LIMIT_MS * 8 :]


def test_words_are_said_to_every_session_until_they_are_answered() -> None:
    """Saying them again does not count as an answer; the gap's audio belongs to them."""
    uplink = _listening()
    uplink.begin_turn()
    words = _say(uplink, range(50))
    uplink.wait_for_answer()
    uplink.hold()
    words += _say(uplink, range(50, 60))
    uplink.open()

    assert uplink.hold()
    assert b"".join(uplink.open()) == words


def test_answered_words_are_not_said_again() -> None:
    """Once the turn is over, a new session begins with what comes then."""
    uplink = _listening()
    uplink.begin_turn()
    _say(uplink, range(50))
    uplink.wait_for_answer()
    uplink.end_turn()
    _say(uplink, range(50, 60))

    assert not uplink.hold()
    assert uplink.open() == []


def test_a_turn_without_audio_is_nothing_to_say_again() -> None:
    """A model that hears speech where nothing was sent owes nothing."""
    uplink = _listening()
    uplink.begin_turn()

    assert not uplink.hold()
    assert uplink.open() == []


def test_what_was_not_sent_is_kept_before_what_comes() -> None:
    """Outside of a turn the new session gets what the old one was not given."""
    uplink = _listening()
    _say(uplink, range(10))

    assert not uplink.hold([_frame(8), _frame(9)])
    uplink.accept(_frame(10))
    assert b"".join(uplink.open()) == _frame(8) + _frame(9) + _frame(10)


def test_what_was_not_sent_of_a_turn_is_not_said_twice() -> None:
    """It is the end of the words that are said again anyway."""
    uplink = _listening()
    uplink.begin_turn()
    words = _say(uplink, range(30))

    assert uplink.hold([_frame(28), _frame(29)])
    assert b"".join(uplink.open()) == words


def test_what_was_not_sent_after_a_turn_follows_it() -> None:
    """A socket that was stuck for longer than the lead-in loses nothing of what came meanwhile."""
    uplink = _listening()
    uplink.begin_turn()
    words = _say(uplink, range(30))
    uplink.wait_for_answer()
    stuck = _say(uplink, range(30, 80))

    assert uplink.hold([_frame(number) for number in range(30, 80)])
    assert b"".join(uplink.open()) == words + stuck


def test_words_that_find_no_room_are_told() -> None:
    """Repeating a long turn drops its oldest part, and says how much."""
    uplink = _listening()
    uplink.begin_turn()
    _say(uplink, range(HOLD_LIMIT_MS // 20))
    uplink.hold()
    _say(uplink, range(3))

    assert uplink.take_dropped_ms() == 60


def test_leaving_tells_what_nobody_will_hear() -> None:
    """What is kept and what was not sent is lost when the model will never listen again."""
    uplink = Uplink(ULAW_8K, ULAW_8K)
    _say(uplink, range(5))

    assert uplink.leave([_frame(5)]) == 120
    assert uplink.leave() == 0
    assert uplink.open() == []


def test_leaving_loses_nothing_of_what_was_sent() -> None:
    """Words the model has heard are not lost, answered or not."""
    uplink = _listening()
    uplink.begin_turn()
    _say(uplink, range(5))

    assert uplink.leave() == 0
    assert uplink.accept(_frame(5)) == b""


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


class _TwoUplinks:
    """The same caller before two models: one takes mu-law as it comes, the other 24 kHz.

    The first tells which frames are said again; a converter that never stops, what they are at
    24 kHz.
    """

    def __init__(self) -> None:
        self._plain, self._converted = Uplink(ULAW_8K, ULAW_8K), Uplink(ULAW_8K, PCM_24K)
        self._truth = Converter("ulaw", 8000, "pcm", 24000)
        self._known: dict[bytes, bytes] = {}
        self.renew(0)

    def say(self, count: int) -> None:
        """So many frames, of which no two are alike."""
        for _ in range(count):
            frame = random.Random(len(self._known)).randbytes(160)
            self._known[frame] = self._truth.convert(frame)
            assert len(self._plain.accept(frame)) * 6 == len(self._converted.accept(frame))

    def do(self, step: str) -> None:
        """One of the steps of a turn."""
        getattr(self._plain, step)()
        getattr(self._converted, step)()

    def renew(self, count: int) -> int:
        """Another session after so many frames; returns how many frames it is told."""
        assert self._plain.hold() == self._converted.hold()
        self.say(count)
        plain = b"".join(self._plain.open())
        frames = [plain[at : at + 160] for at in range(0, len(plain), 160)]
        assert b"".join(self._converted.open()) == b"".join(self._known[one] for one in frames)
        return len(frames)


_TURN_STEPS = st.sampled_from(["begin_turn", "wait_for_answer", "end_turn"])


@given(st.lists(_TURN_STEPS | st.integers(1, 40) | st.tuples(st.integers(0, 30)), max_size=12))
def test_what_is_said_again_is_what_was_sent(steps: list[str | int | tuple[int]]) -> None:
    """Converted a second time, byte for byte, wherever words begin and however often."""
    uplinks = _TwoUplinks()
    for step in steps:
        if isinstance(step, str):
            uplinks.do(step)
        elif isinstance(step, int):
            uplinks.say(step)
        else:
            uplinks.renew(step[0])
    uplinks.do("begin_turn")
    uplinks.say(3)

    assert uplinks.renew(2) >= 5


def test_two_turns_with_silence_between_are_said_again_as_they_were() -> None:
    """The silence between them is longer than the lead-in, so the words have a seam."""
    uplinks = _TwoUplinks()
    uplinks.do("begin_turn")
    uplinks.say(30)
    uplinks.do("wait_for_answer")
    uplinks.say(60)
    uplinks.do("begin_turn")
    uplinks.say(30)

    assert uplinks.renew(0) == 30 + LEAD_IN_MS // 20 + 30


def _parts(piece: bytes | tuple[bytes, bytes]) -> tuple[bytes, ...]:
    return (piece,) if isinstance(piece, bytes) else piece


def test_sound_that_may_be_said_again_is_kept_small() -> None:
    """A minute of a caller who speaks, before a model that takes 24 kHz: 10 s as they came."""
    uplink = Uplink(ULAW_8K, PCM_24K)
    uplink.open()
    uplink.begin_turn()
    for number in range(3000):
        uplink.accept(_frame(number))

    kept = {id(part): len(part) for piece in uplink._words._pieces for part in _parts(piece)}
    assert sum(kept.values()) == (HOLD_LIMIT_MS + 20) * ULAW_8K.bytes_per_ms
