"""The compiled converter: numpy's bytes whatever happens, built only where it can be, no leaks."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio import compiled
from gateway.audio.compiled import compiled_stream
from gateway.audio.convert import Encoding, _NumpyStream, _Stream
from gateway.audio.g711 import ENCODE
from gateway.audio.resample import RATES_HZ
from tests.audio.conftest import demand_compiled

ROOT = Path(__file__).parents[2]
RATIOS = list(permutations(RATES_HZ, 2))
LOUDEST = b"\xff\x7f\x00\x80"
# What _native.c works on at once, in samples; a payload may end on either side of it.
PIECE = 1024

encodings = st.sampled_from(get_args(Encoding))
payloads = st.one_of(
    st.binary(max_size=700),
    st.builds(
        lambda pattern, size: (pattern * size)[:size],
        st.one_of(st.binary(min_size=1, max_size=4), st.just(LOUDEST), st.just(LOUDEST[:2])),
        st.one_of(st.integers(0, 9000), st.integers(2 * PIECE - 5, 2 * PIECE + 5)),
    ),
)
steps = st.lists(st.one_of(payloads, st.sampled_from(["flush", "reset"])), max_size=12)


@pytest.fixture
def whole() -> dict[str, Any]:
    """What a stream is made of: the smallest there is, which changes nothing."""
    demand_compiled()
    weights = np.zeros((2, 16), "<i2")
    weights[0, -1] = 2**14
    return {
        "weights": weights.tobytes(),
        "up": 1,
        "down": 1,
        "tail": 0,
        "decode": None,
        "encode": None,
    }


def answers(stream: _Stream, steps: list[bytes | str]) -> Iterator[bytes | None]:
    """What a stream says to payloads and commands."""
    for step in steps:
        yield stream.convert(step) if isinstance(step, bytes) else getattr(stream, step)()
    yield stream.flush()


@given(source=encodings, target=encodings, ratio=st.sampled_from(RATIOS), steps=steps)
def test_every_stream_gives_the_bytes_of_numpy(
    source: Encoding, target: Encoding, ratio: tuple[int, int], steps: list[bytes | str]
) -> None:
    """Any formats, any cutting, half samples, full scale, begun anew anywhere: no bit differs."""
    demand_compiled()
    way = (source, ratio[0], target, ratio[1])
    ours, numpys = compiled_stream(*way), _NumpyStream(*way)
    assert list(answers(ours, steps)) == list(answers(numpys, steps))


@pytest.mark.parametrize("encoding", sorted(ENCODE))
def test_two_bits_less_encode_the_same(encoding: str) -> None:
    """G.711 tells no two samples apart that differ in their lowest two bits only."""
    every_sample = np.arange(-32768, 32768).astype("<i2").tobytes()
    table = np.frombuffer(compiled._encoder(encoding) or b"", np.uint8)
    assert np.repeat(table, 4).tobytes() == ENCODE[encoding](every_sample)


def test_half_a_sample_waits(whole: dict[str, Any]) -> None:
    """Byte by byte a sample comes out with its second byte; one that was begun is forgotten."""
    stream = compiled.Stream(**whole)
    assert [stream.convert(bytes([byte])) for byte in (1, 2, 3)] == [b"", b"\1\2", b""]
    assert stream.flush() == b""
    assert [stream.convert(payload) for payload in (b"\4", b"", b"\5\6\7\10")] == [
        b"",
        b"",
        b"\4\5\6\7",
    ]
    stream.reset()
    assert stream.convert(b"\x10\x11") == b"\x10\x11"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"up": 0}, "up and down"),
        ({"up": 7}, "up and down"),
        ({"down": 0}, "up and down"),
        ({"down": -1}, "up and down"),
        ({"down": 7}, "up and down"),
        ({"weights": b""}, "window"),
        ({"weights": bytes(63)}, "window"),
        ({"weights": bytes(68)}, "window"),
        ({"weights": bytes(64), "up": 2}, "window"),
        ({"weights": bytes(4 * 288)}, "window"),
        ({"weights": b"\0\x80" * 32}, "exact"),
        ({"tail": -1}, "tail"),
        ({"tail": 273}, "tail"),
        ({"decode": bytes(511)}, "table"),
        ({"decode": bytearray(512)}, "table"),
        ({"encode": bytes(65536)}, "table"),
    ],
)
def test_what_would_go_astray_is_refused(
    whole: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    """Nothing that would read beyond a table or leave an int32 becomes a stream."""
    with pytest.raises(ValueError, match=reason):
        compiled.Stream(**whole | changes)


@pytest.mark.parametrize("payload", ["text", None, 7, memoryview(bytes(8))[::2]])
def test_what_is_no_sound_is_refused(whole: dict[str, Any], payload: Any) -> None:
    """An error, and the stream goes on."""
    stream = compiled.Stream(**whole)
    with pytest.raises((TypeError, BufferError)):
        stream.convert(payload)
    assert stream.convert(b"\1\2") == b"\1\2"


def test_nothing_is_left_behind() -> None:
    """Streams, payloads and results are given back: as many memory blocks after as before."""
    demand_compiled()

    def used() -> int:
        for _ in range(300):
            stream = compiled_stream("ulaw", 8000, "pcm", 24000)
            stream.convert(bytes(bytearray(160)))
            stream.flush()
            with suppress(TypeError):
                stream.convert(None)  # type: ignore[arg-type]
        gc.collect()
        return sys.getallocatedblocks()

    used()
    before = used()
    assert used() - before < 100


def _build(folder: Path, **environ: str) -> list[Path]:
    """What an installation makes of the C file, in a folder of its own."""
    arguments = ["build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "temp")]
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", *arguments],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | environ,
    )
    return list(folder.rglob("_native*.so"))


def test_without_a_compiler_the_installation_goes_on(tmp_path: Path) -> None:
    """No compiler, no converter of that kind, no error."""
    assert _build(tmp_path, CC="there-is-no-such-compiler") == []


def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    """It builds without a warning, from what is checked in."""
    demand_compiled()
    assert _build(tmp_path, CFLAGS="-Wall -Wextra -Wno-unused-parameter -Werror")


def test_without_it_numpy_converts() -> None:
    """An installation that could not build it says so and converts."""
    program = (
        "import sys; sys.modules['gateway.audio._native'] = None\n"
        "from gateway.audio.convert import Converter, converter_name\n"
        "print(converter_name(), len(Converter('ulaw', 8000, 'pcm', 24000).convert(bytes(160))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "numpy 960\n"
