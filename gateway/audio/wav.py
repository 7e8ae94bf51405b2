"""Read or write 16-bit PCM sound files (WAV)."""

import io
import struct
import wave
from pathlib import Path
from typing import IO, Final

import numpy as np

from gateway.audio.convert import Converter
from gateway.audio.resample import RATES_HZ
from gateway.errors import AudioFileError

MAX_FILE_BYTES: Final = 64 * 1024 * 1024

_SAMPLE_BYTES: Final = 2
_STEREO: Final = 2
# A chunk that reaches beyond its file makes the wave module raise a bare RuntimeError.
_NO_WAV: Final = (wave.Error, EOFError, struct.error, RuntimeError)


def read_wav(source: str | Path | IO[bytes], rate_hz: int) -> bytes:
    """Mono 16-bit little-endian samples at ``rate_hz`` of a file or an open binary stream.

    A file of another rate of ``resample.RATES_HZ`` is resampled and stays aligned in time.

    Raises:
        AudioFileError: the file cannot be read, is not a WAV file of 16-bit mono PCM at one of
            those rates, holds no sound, or is longer than ``MAX_FILE_BYTES``.
    """
    name = str(getattr(source, "name", source))
    try:
        pcm, source_hz = _parsed(_content(source))
    except _Unusable as problem:
        raise AudioFileError(f"{name}: {problem}") from problem
    except OSError as problem:
        raise AudioFileError(f"{name}: {problem.strerror or problem}") from problem
    except _NO_WAV as problem:
        why = str(problem) or "damaged"
        raise AudioFileError(f"{name}: no WAV file of linear PCM ({why})") from problem
    return pcm if source_hz == rate_hz else _aligned(pcm, source_hz, rate_hz)


def write_wav(path: str | Path, pcm: bytes, rate_hz: int) -> None:
    """Write mono 16-bit little-endian samples; an existing file is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, pcm, rate_hz, channels=1)


def write_stereo_wav(path: str | Path, left_pcm: bytes, right_pcm: bytes, rate_hz: int) -> None:
    """Write two mono tracks as the two channels of one file; silence fills up the shorter one.

    Raises:
        OSError: the file cannot be written.
    """
    longest_bytes = max(len(left_pcm), len(right_pcm))
    longest_bytes += longest_bytes % _SAMPLE_BYTES
    tracks = [
        np.frombuffer(pcm.ljust(longest_bytes, b"\0"), "<i2") for pcm in (left_pcm, right_pcm)
    ]
    _write(path, np.column_stack(tracks).tobytes(), rate_hz, channels=_STEREO)


class _Unusable(Exception):
    """A sound file that can be read but not used; the message says what is wrong with it."""


def _content(source: str | Path | IO[bytes]) -> bytes:
    if not isinstance(source, str | Path):
        return _bounded(source)
    with Path(source).open("rb") as file:
        return _bounded(file)


def _bounded(file: IO[bytes]) -> bytes:
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise _Unusable(f"longer than {MAX_FILE_BYTES} bytes")
    return content


def _parsed(content: bytes) -> tuple[bytes, int]:
    """Samples and rate (Hz) of a WAV file's bytes."""
    with wave.open(io.BytesIO(content)) as file:
        channels, sample_bytes = file.getnchannels(), file.getsampwidth()
        source_hz = file.getframerate()
        if (channels, sample_bytes) != (1, _SAMPLE_BYTES):
            raise _Unusable(f"{channels} channel(s) of {sample_bytes * 8} bits, not 1 of 16")
        if source_hz not in RATES_HZ:
            raise _Unusable(f"{source_hz} Hz is none of {RATES_HZ}")
        # A recording that was cut off says more frames than it holds; what is there is read.
        pcm = file.readframes(min(file.getnframes(), len(content)))
    if len(pcm) < _SAMPLE_BYTES:
        raise _Unusable("holds no sound")
    return pcm[: len(pcm) - len(pcm) % _SAMPLE_BYTES], source_hz


def _aligned(pcm: bytes, source_hz: int, rate_hz: int) -> bytes:
    """Resampled sound of the same duration, without the filter's delay."""
    converter = Converter("pcm", source_hz, "pcm", rate_hz)
    delayed = converter.convert(pcm) + converter.flush()
    head_bytes = round(converter.delay_ms * rate_hz / 1000) * _SAMPLE_BYTES
    length_bytes = len(pcm) // _SAMPLE_BYTES * rate_hz // source_hz * _SAMPLE_BYTES
    return delayed[head_bytes : head_bytes + length_bytes]


def _write(path: str | Path, pcm: bytes, rate_hz: int, *, channels: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(_SAMPLE_BYTES)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
