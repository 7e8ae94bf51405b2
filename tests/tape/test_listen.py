"""The stereo file against what the phone itself says it sent and played, sample against sample."""

import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.audio.compare import correlation_per_second
from gateway.audio.g711 import DECODE
from gateway.simulator.callreport import CallReport
from gateway.tape.listen import write_call
from gateway.tape.story import story_of
from tests.tape.longcall import FAST, FRAME_S, WAY_S, noise, record_long_call

HZ = 8000
WITHIN_S = 0.020
_Samples = NDArray[np.float64]


def _written(path: Path, out: Path) -> tuple[_Samples, _Samples]:
    write_call(path, story_of(path), out)
    with wave.open(str(out)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, HZ, 2)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    left, right = pcm.reshape(-1, 2).T.astype(np.float64)
    return left, right


def _lag_s(found: _Samples, expected: _Samples) -> tuple[float, float]:
    """How much later a sound is found than expected, and how alike the two are there."""
    size = 1 << (found.size + expected.size).bit_length()
    spectrum = np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size))
    products = np.fft.irfft(spectrum, size)
    lag = int(np.argmax(products))
    alike = products[lag] / np.sqrt((found**2).sum() * (expected**2).sum())
    return (lag - size if lag > size // 2 else lag) / HZ, float(alike)


def _near(track: _Samples, piece: _Samples, at_s: float) -> float:
    """How far from the expected place a piece is found, looking half a second around."""
    first = round((at_s - 0.5) * HZ)
    window = track[max(0, first) : first + HZ + piece.size]
    lag_s, alike = _lag_s(window, piece)
    assert alike * np.sqrt((window**2).sum() / (piece**2).sum()) > 0.9
    return lag_s + max(0, first) / HZ - at_s


def _stretches(track: _Samples) -> list[int]:
    """Where a voice begins after a pause, in samples."""
    loud = np.flatnonzero(np.abs(track) > 500)
    return [int(loud[0]), *loud[1:][np.diff(loud) > HZ // 2].tolist()]


def test_both_voices_stand_where_the_phone_had_them(
    call_and_report: tuple[Path, CallReport], tmp_path: Path
) -> None:
    """Cross-correlation, utterance by utterance, with the phone's own record of a real call."""
    path, report = call_and_report
    expected = report.tracks(HZ)

    for found, pcm in zip(_written(path, tmp_path / "call.wav"), expected, strict=True):
        track = np.frombuffer(pcm, "<i2").astype(float)
        starts = _stretches(track)
        off = [_near(found, track[start : start + HZ // 2], start / HZ) for start in starts]
        assert len(off) >= 2
        assert max(map(abs, off)) < WITHIN_S
        heard = found.astype("<i2").tobytes()
        alike = correlation_per_second(pcm, heard, HZ)
        assert min(alike) > 0.9


def test_nothing_drifts_in_half_an_hour(tmp_path: Path) -> None:
    """A phone with a clock that is wrong by a tenth of a thousandth: 180 ms in 30 minutes.

    Messages take 10 ms each way. So the caller is heard that much later than spoken, and a mark
    says so much later than played where the phone is: both voices are late by the same.
    """
    call = record_long_call(tmp_path, 1800.0)
    caller, agent = _written(call.path, tmp_path / "call.wav")
    off = []
    for number in range(50, int(1790 / FRAME_S), 200):
        piece = _decoded(noise(number, FRAME_S, 6000))
        off.append(_near(caller, piece, number * FRAME_S / FAST))
    for span in call.spans:
        piece = _decoded(call.played[span.offset_bytes : span.offset_bytes + HZ // 2])
        if piece.size:  # the phone records ten minutes of sound
            off.append(_near(agent, piece, span.starts_at_s / FAST))
    spread_s = max(off) - min(off)

    assert len(off) > 40
    assert max(map(abs, off)) < WITHIN_S
    assert spread_s < WITHIN_S
    assert min(off) > WAY_S - 0.006


def _decoded(payload: bytes) -> _Samples:
    return np.frombuffer(DECODE["ulaw"](payload), "<i2").astype(np.float64)


def test_a_cut_is_within_20_ms_too(
    call_and_report: tuple[Path, CallReport], tmp_path: Path
) -> None:
    """Where each stretch of the agent begins and ends in the caller's ear."""
    path, report = call_and_report
    del tmp_path
    ear = story_of(path).ear

    assert len(ear.stretches) == len(report.spans) >= 3
    for stretch, span in zip(ear.stretches, report.spans, strict=True):
        assert stretch.at_s == pytest.approx(span.starts_at_s, abs=WITHIN_S)
        ends_at_s = span.starts_at_s + span.size_bytes / HZ
        assert ear.ends_at_s(stretch) == pytest.approx(ends_at_s, abs=WITHIN_S)
