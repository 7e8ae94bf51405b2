"""The converter: every pair of formats, untouched where they are equal, whole samples only."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from math import gcd
from typing import cast, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio import resample
from gateway.audio.convert import Converter, Encoding, _NumpyStream, converter_name, silence
from gateway.audio.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw
from gateway.audio.resample import RATES_HZ, Resampler
from tests.audio.figures import tone

FORMATS = list(product(get_args(Encoding), RATES_HZ))
VOICE = tone(440, 8000, 1)
DECODE: dict[str, Callable[[bytes], bytes]] = {
    "pcm": bytes,
    "ulaw": decode_ulaw,
    "alaw": decode_alaw,
}
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "pcm": bytes,
    "ulaw": encode_ulaw,
    "alaw": encode_alaw,
}

pytestmark = pytest.mark.usefixtures("each_converter")
formats = st.sampled_from(FORMATS)


def streams(encoding: Encoding) -> st.SearchStrategy[bytes]:
    """Noise, runs of any one byte, and silence of any length, one after the other."""
    stretches = st.one_of(
        st.binary(max_size=500),
        st.builds(lambda byte, size: byte * size, st.binary(min_size=1, max_size=2), sizes),
        st.builds(lambda duration_ms: silence(encoding, 8000, duration_ms), st.integers(0, 99)),
    )
    return st.lists(stretches, max_size=6).map(b"".join)


sizes = st.integers(0, 1500)


def plainly_converted(
    source: tuple[Encoding, int], target: tuple[Encoding, int], payload: bytes
) -> bytes:
    """Decoded, convolved in integers all at once, limited and encoded: no rows, no history."""
    if source == target:
        return payload
    pcm = DECODE[source[0]](payload)
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.int64)
    up, down = (hz // gcd(source[1], target[1]) for hz in (target[1], source[1]))
    if up != down:
        taps = np.rint(resample._prototype(up, down) * 2**24).astype(np.int64)
        spread = np.zeros((len(samples) // down * down, up), np.int64)
        spread[:, 0] = samples[: len(spread)]
        levels = np.convolve(np.append(spread, [0]), taps)[down - 1 : spread.size : down]
        samples = np.clip((levels + 2**23) >> 24, -32768, 32767)
    return ENCODE[target[0]](samples.astype("<i2").tobytes())


def in_pieces(converter: Converter, payload: bytes, sizes: list[int]) -> bytes:
    """Converted in pieces of these sizes, again and again."""
    converted, at = [], 0
    while at < len(payload):
        for size in sizes:
            converted.append(converter.convert(payload[at : at + size]))
            at += size
    return b"".join(converted)


@given(
    source=formats,
    target=formats,
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    data=st.data(),
)
def test_every_way_equals_plain_integer_arithmetic(
    source: tuple[Encoding, int],
    target: tuple[Encoding, int],
    sizes: list[int],
    data: st.DataObject,
) -> None:
    """Cut anywhere, loud or silent: the bytes are those of one convolution; so they are anew."""
    payload = data.draw(streams(source[0]))
    expected = plainly_converted(source, target, payload)
    converter = Converter(*source, *target)
    assert in_pieces(converter, payload, sizes) == expected
    converter.flush()
    assert in_pieces(converter, payload, sizes) == expected


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_repeated_frames_equal_plain_integer_arithmetic(
    source: tuple[Encoding, int], target: tuple[Encoding, int]
) -> None:
    """Silence and a loud frame, repeated and by turns, are right whether worked out or known."""
    quiet = silence(*source, 20)
    loud = ENCODE[source[0]](tone(440, source[1], 1)[: source[1] // 50 * 2])
    stream = [quiet, quiet, loud, loud, loud, quiet, loud, quiet, quiet, quiet, b"", quiet, loud]
    converter = Converter(*source, *target)
    converted = b"".join(map(converter.convert, stream))
    assert converted == plainly_converted(source, target, b"".join(stream))


@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_lasting_silence_is_not_worked_out_again(encoding: Encoding) -> None:
    """The very bytes come back, until something else is heard or forgotten."""
    converter, quiet = Converter(encoding, 8000, "pcm", 24000), silence(encoding, 8000, 20)
    converter.convert(quiet)
    known = converter.convert(quiet)
    assert converter.convert(quiet) is known
    converter.convert(quiet[::2])
    assert converter.convert(quiet) is not known


@pytest.mark.parametrize("forget", [Converter.flush, Converter.reset])
def test_what_was_known_is_forgotten(forget: Callable[[Converter], object]) -> None:
    """A payload that lasted before does not bring its sound into a stream begun anew."""
    converter, frame = Converter("ulaw", 8000, "pcm", 24000), encode_ulaw(VOICE[:320])
    first = converter.convert(frame)
    lasting = converter.convert(frame)
    forget(converter)
    assert converter.convert(frame) == first != lasting


def test_a_long_payload_is_not_remembered() -> None:
    """Memory of a call is bounded: a recording of silence is worked out each time."""
    converter, quiet = Converter("pcm", 24000, "pcm", 8000), silence("pcm", 24000, 1000)
    assert converter.convert(quiet) is not converter.convert(quiet)


def test_a_buffer_may_be_used_again() -> None:
    """What was heard is remembered, not the buffer it came in."""
    buffer = bytearray(silence("ulaw", 8000, 20))
    view = cast("bytes", buffer)  # a caller may do so, see above
    converter = Converter("ulaw", 8000, "pcm", 24000)
    converter.convert(view)
    buffer[:] = encode_ulaw(VOICE[:320])
    assert any(converter.convert(view))


@given(
    ways=st.lists(st.tuples(formats, formats), min_size=2, max_size=3),
    turns=st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=700)), max_size=20),
)
def test_interleaved_streams_disturb_nobody(
    ways: list[tuple[tuple[Encoding, int], tuple[Encoding, int]]], turns: list[tuple[int, bytes]]
) -> None:
    """Two streams of each way, turn and turn about, sound as each does alone."""
    ways = ways * 2
    converters = [Converter(*source, *target) for source, target in ways]
    heard, converted = ([b""] * len(ways) for _ in range(2))
    for turn, payload in turns:
        stream = turn % len(ways)
        heard[stream] += payload
        converted[stream] += converters[stream].convert(payload)
    assert converted == [
        plainly_converted(*way, payload) for way, payload in zip(ways, heard, strict=True)
    ]


def test_threads_disturb_nobody() -> None:
    """Streams of one way in four threads at once sound as each does alone."""
    pcm = [tone(hz, 24000, 1) for hz in (300, 500, 700, 900)]
    converters = [Converter("pcm", 24000, "ulaw", 8000) for _ in pcm]
    with ThreadPoolExecutor(len(pcm)) as pool:
        converted = list(pool.map(in_pieces, converters, pcm, [[960, 4800]] * len(pcm)))
    assert converted == [plainly_converted(("pcm", 24000), ("ulaw", 8000), each) for each in pcm]


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_silence_becomes_silence(
    source: tuple[Encoding, int], target: tuple[Encoding, int]
) -> None:
    """20 ms of silence in any format is 20 ms of near silence in any other: A-law has no zero."""
    converted = Converter(*source, *target).convert(silence(*source, 20))
    assert len(converted) == len(silence(*target, 20))
    pcm = Converter(*target, "pcm", target[1]).convert(converted)
    assert set(memoryview(pcm).cast("h")) <= set(range(-8, 10))


def test_ulaw_to_24_khz_is_decoded_then_resampled() -> None:
    """The caller's way up: what the codec and the resampler give one after the other."""
    payload = encode_ulaw(VOICE)
    expected = Resampler(8000, 24000).resample(decode_ulaw(payload))
    assert Converter("ulaw", 8000, "pcm", 24000).convert(payload) == expected


def test_24_khz_to_alaw_is_resampled_then_encoded() -> None:
    """The agent's way down: what the resampler and the codec give one after the other."""
    pcm = tone(440, 24000, 1)
    expected = encode_alaw(Resampler(24000, 8000).resample(pcm))
    assert Converter("pcm", 24000, "alaw", 8000).convert(pcm) == expected


def test_between_the_laws_no_filter_is_used() -> None:
    """At one rate mu-law becomes A-law sample by sample, without delay."""
    converter = Converter("ulaw", 8000, "alaw", 8000)
    payload = encode_ulaw(VOICE)
    assert converter.convert(payload) == encode_alaw(decode_ulaw(payload))
    assert converter.delay_ms == 0


@given(payload=st.binary(max_size=400))
def test_equal_formats_pass_untouched(payload: bytes) -> None:
    """The same object comes back; there is no tail."""
    for encoding, rate_hz in FORMATS:
        converter = Converter(encoding, rate_hz, encoding, rate_hz)
        assert converter.convert(payload) is payload
        assert converter.flush() == b""


@given(cuts=st.lists(st.integers(0, 1920), max_size=8))
@pytest.mark.parametrize("target_hz", [8000, 24000])
def test_half_samples_wait_for_their_other_half(target_hz: int, cuts: list[int]) -> None:
    """PCM cut anywhere converts as if it had come whole."""
    whole, cut = (Converter("pcm", 24000, "ulaw", target_hz) for _ in range(2))
    pcm = tone(440, 24000, 1)[:1920]
    edges = [0, *sorted(cuts), len(pcm)]
    pieces = [cut.convert(pcm[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) == whole.convert(pcm)


@pytest.mark.parametrize("target_hz", [8000, 24000])
def test_flush_and_reset_begin_anew(target_hz: int) -> None:
    """After either, half a sample and all earlier sound are forgotten."""
    converter = Converter("pcm", 24000, "ulaw", target_hz)
    first = converter.convert(VOICE)
    converter.convert(b"\x55")
    converter.flush()
    assert converter.convert(VOICE) == first
    converter.convert(b"\x55")
    converter.reset()
    assert converter.convert(VOICE) == first


def test_flush_brings_the_tail() -> None:
    """A flush gives as much sound as the filter delays, encoded."""
    converter = Converter("pcm", 24000, "alaw", 8000)
    converter.convert(tone(440, 24000, 1))
    tail = converter.flush()
    assert len(tail) == converter.delay_ms * 8
    assert max(map(abs, memoryview(decode_alaw(tail)).cast("h"))) > 1000


@pytest.mark.parametrize("payload_type", [bytearray, memoryview])
def test_any_bytes_will_do(payload_type: type) -> None:
    """A bytearray or memoryview converts as bytes do."""
    payload = payload_type(tone(440, 24000, 1))
    converted = Converter("pcm", 24000, "ulaw", 8000).convert(payload)
    assert converted == Converter("pcm", 24000, "ulaw", 8000).convert(bytes(payload))


def test_it_says_which_converter_it_is(each_converter: str) -> None:
    """What works is what is named: on numpy, nothing compiled is behind any way."""
    stream = Converter("ulaw", 8000, "pcm", 24000)._stream
    assert converter_name() == each_converter
    assert isinstance(stream, _NumpyStream) is (each_converter == "numpy")


@pytest.mark.parametrize(("encoding", "rate_hz"), [("opus", 8000), ("pcm", 44100)])
def test_unknown_formats_are_refused(encoding: Encoding, rate_hz: int) -> None:
    """A format it cannot convert is an error that names it, on either side."""
    with pytest.raises(ValueError, match=f"{encoding}.*{rate_hz}"):
        Converter(encoding, rate_hz, "pcm", 8000)
    with pytest.raises(ValueError, match=f"{encoding}.*{rate_hz}"):
        Converter("pcm", 8000, encoding, rate_hz)


def test_silence_lasts_as_long_as_asked() -> None:
    """One byte a sample for G.711, two for PCM, each its own zero."""
    assert silence("pcm", 24000, 20) == bytes(960)
    assert silence("ulaw", 8000, 20) == b"\xff" * 160
    assert silence("alaw", 16000, 5) == b"\xd5" * 80
