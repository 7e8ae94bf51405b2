"""Turn one direction of a call's audio from one encoding and sample rate into another."""

from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from gateway.audio import compiled
from gateway.audio.g711 import ALAW_SILENCE, DECODE, ENCODE, ULAW_SILENCE
from gateway.audio.resample import RATES_HZ, Resampler, low_pass

Encoding = Literal["pcm", "ulaw", "alaw"]

_SILENCE: Final = {"pcm": b"\0\0", "ulaw": ULAW_SILENCE, "alaw": ALAW_SILENCE}

_MOST_REPEATED_BYTES: Final = 9600  # bounds the memory of a call


def silence(encoding: Encoding, rate_hz: int, duration_ms: int) -> bytes:
    """``duration_ms`` of digital silence."""
    return _SILENCE[encoding] * (rate_hz * duration_ms // 1000)


class _Stream(Protocol):
    """What converts: by numpy, compiled, or not at all."""

    def convert(self, payload: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...
    def reset(self) -> None: ...


class Converter:
    """One stream of mono audio: decode, resample, encode, as far as each is needed.

    Encodings: "pcm" (16-bit little-endian), "ulaw", "alaw". Rates: ``resample.RATES_HZ``. Anything
    else is a ``ValueError``. Equal formats pass through untouched.
    """

    def __init__(
        self, source_encoding: Encoding, source_hz: int, target_encoding: Encoding, target_hz: int
    ) -> None:
        for encoding, rate_hz in ((source_encoding, source_hz), (target_encoding, target_hz)):
            if encoding not in _SILENCE or rate_hz not in RATES_HZ:
                raise ValueError(f"no audio of {encoding!r} at {rate_hz} Hz")
        self._stream = _stream(source_encoding, source_hz, target_encoding, target_hz)
        self._delay_ms = 0.0
        if source_hz != target_hz:
            self._delay_ms = low_pass(source_hz, target_hz).delay_ms

    @property
    def delay_ms(self) -> float:
        """How much later a sound comes out than it went in."""
        return self._delay_ms

    def convert(self, payload: bytes) -> bytes:
        """What can be told so far; a part of a sample waits for the next payload."""
        return self._stream.convert(payload)

    def flush(self) -> bytes:
        """The sound still inside; afterwards the stream is as new."""
        return self._stream.flush()

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._stream.reset()


def converter_name() -> Literal["compiled", "numpy"]:
    """What does the work here; both give the same bytes, but numpy costs several times more."""
    return "compiled" if compiled.IS_BUILT else "numpy"


def _stream(
    source_encoding: Encoding, source_hz: int, target_encoding: Encoding, target_hz: int
) -> _Stream:
    if (source_encoding, source_hz) == (target_encoding, target_hz):
        return _Untouched()
    # At one rate there is only audioop to call, which is compiled.
    is_compiled = compiled.IS_BUILT and source_hz != target_hz
    make = compiled.compiled_stream if is_compiled else _NumpyStream
    return make(source_encoding, source_hz, target_encoding, target_hz)


class _Untouched:
    """Nothing to do."""

    def convert(self, payload: bytes, /) -> bytes:
        return payload

    def flush(self) -> bytes:
        return b""

    def reset(self) -> None:
        return None


class _NumpyStream:
    """Decodes, resamples and encodes by numpy.

    Silence costs next to nothing: what comes out is a function of the payload and of what is kept
    of earlier ones. If a payload leaves the latter as it was, its repetition gives the same again.
    """

    def __init__(
        self, source_encoding: str, source_hz: int, target_encoding: str, target_hz: int
    ) -> None:
        self._decode = _step(DECODE, source_encoding)
        encode = _step(ENCODE, target_encoding)
        self._rate = (
            _SameRate(encode) if source_hz == target_hz else Resampler(source_hz, target_hz, encode)
        )
        self._repeated: bytes | None = None
        self._answer = b""

    def convert(self, payload: bytes, /) -> bytes:
        if payload == self._repeated:
            return self._answer
        before = self._rate.kept
        converted = self._rate.resample(self._decode(payload))
        if self._rate.kept == before and len(payload) <= _MOST_REPEATED_BYTES:
            self._repeated, self._answer = bytes(payload), converted
        else:
            self._repeated = None
        return converted

    def flush(self) -> bytes:
        self._repeated = None
        return self._rate.flush()

    def reset(self) -> None:
        self._repeated = None
        self._rate.reset()


class _SameRate:
    """Stands in for a resampler where the rate stays: holds back half a sample at most."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode
        self.kept = b""

    def resample(self, pcm: bytes) -> bytes:
        if not self.kept and not len(pcm) % 2:
            return self._encode(pcm)
        sound = self.kept + pcm
        whole_bytes = len(sound) - len(sound) % 2
        self.kept = sound[whole_bytes:]
        return self._encode(sound[:whole_bytes])

    def flush(self) -> bytes:
        self.reset()
        return b""

    def reset(self) -> None:
        self.kept = b""


def _step(table: Mapping[str, Callable[[bytes], bytes]], encoding: str) -> Callable[[bytes], bytes]:
    """The step of ``table`` for ``encoding``; "pcm" needs none."""
    return table.get(encoding, bytes)
