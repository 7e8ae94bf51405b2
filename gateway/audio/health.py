"""How a call sounds from the caller's side: level, noise, clipping, offset, silence, gaps, echo.

Frames are only put on a list as they come; ``listen`` works through a second of them at once, and
every few seconds there is an ``Assessment``. Levels are in dBFS: 0 is the mean power of a square
wave at full scale, ordinary telephone speech lies near -20 to -26, and an offset does not count.

Each indicator answers one question and looks only at what can answer it. Level, noise and voice are
taken while the agent is silent (and 0.5 s longer), so that its echo is not taken for the caller.
What was lost is left out of all of them but the gaps. Echo is looked for in a sample of the seconds
in which the agent speaks.
"""

from dataclasses import dataclass, field
from math import log10
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gateway.audio.arrival import Arrival, percentile
from gateway.audio.convert import Encoding
from gateway.audio.echo import MOST_DELAY_S, Echo, Played, Samples, samples

Fault = Literal[
    "quiet",
    "loud",
    "noisy",
    "clipped",
    "dc_offset",
    "silent",
    "no_audio",
    "gaps",
    "jitter",
    "echo",
]

# ------------------------------------------------------------- where a fault begins

QUIET_DBFS: Final = -40.0
LOUD_DBFS: Final = -12.0
NOISY_DBFS: Final = -42.0
CLIPPED_SHARE: Final = 0.0005
DC_OFFSET: Final = 0.01
# The agent has spoken, then was silent for this long in all, and the caller never said a word.
SILENT_S: Final = 15.0
# The same, of a call that is over.
SILENT_AT_END_S: Final = 5.0
NO_AUDIO_S: Final = 5.0
GAPS_SHARE: Final = 0.01
JITTER_MS: Final = 60.0
ECHO_LOSS_DB: Final = 35.0

# ------------------------------------------------------------- how it is told

ASSESS_EVERY_S: Final = 5.0
# It is asked about once a second: half of one too early is better than half too late.
_SPARE_S: Final = 0.5
_FRAME_MS: Final = 20
# A sample this far out is at the end of the scale: 0.98 is the last step of mu-law.
_FULL_SCALE: Final = 0.98
# Voice stands out of the noise by this much, and out of a quiet line too; noise louder than the
# last figure is taken for voice.
_ABOVE_NOISE_DB: Final = 9.0
_LEAST_VOICE_DBFS: Final = -62.0
_MOST_NOISE_DBFS: Final = -39.0
_NOISE_PERCENTILE: Final = 10
# Speech has pauses: what never became this quiet within so many assessments is noise.
_NOISE_PERIODS: Final = 3
# Less than this of voice, or of listening, is not judged.
_LEAST_VOICE_S: Final = 1.0
_LEAST_LISTENING_S: Final = 1.0
_AGENT_HAS_SPOKEN_S: Final = 1.0
# The first seconds of the agent's voice are all compared with the caller's, then one in four: half
# of the cost of all this, for a thing that does not change while a phone lies where it lies.
_ECHO_AT_FIRST: Final = 8
_ECHO_SAMPLING: Final = 4
# Where all frames of a second were late, the next began so much sooner than expected, at most.
_MOST_LATE_S: Final = 0.5
# One word a second, however short, is a caller who is there.
_WORD_FRAMES: Final = 5
_LEAST_POWER: Final = 1e-10

_Levels = NDArray[np.float32]
_Flags = NDArray[np.bool_]
_Milliseconds = NDArray[np.float64]
_Stretches = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Assessment:
    """A few seconds of a call, or all of it (``is_final``).

    None = nothing to tell it from. ``level_dbfs``: of the caller's voice. ``noise_dbfs``: between
    words. ``clipped_share``: of all samples. ``dc_offset``: between words, share
    of full scale. ``lost_ms``: audio
    that never came. ``echo_*``: see ``gateway.audio.echo.Echo``. ``faults``: what was wrong;
    ``new_faults``: those not told of before in this call.
    """

    is_final: bool = False
    duration_ms: float = 0.0
    voice_ms: float = 0.0
    agent_ms: float = 0.0
    level_dbfs: float | None = None
    noise_dbfs: float | None = None
    clipped_share: float = 0.0
    dc_offset: float = 0.0
    lost_ms: float = 0.0
    jitter_ms: float = 0.0
    echo_likeness: float = 0.0
    echo_loss_db: float | None = None
    echo_delay_ms: float | None = None
    faults: tuple[Fault, ...] = ()
    new_faults: tuple[Fault, ...] = ()


@dataclass(slots=True)
class _Sums:
    """What a stretch of the call adds up to; samples at full scale are 1.0."""

    samples: int = 0
    clipped: int = 0
    still_frames: int = 0
    offset: float = 0.0
    heard_ms: float = 0.0
    agent_ms: float = 0.0
    voice_frames: int = 0
    voice_power: float = 0.0
    lost_ms: float = 0.0
    jitter_ms: float = 0.0

    def add(self, other: "_Sums") -> None:
        """What came after; of the jitter the worst."""
        self.samples += other.samples
        self.clipped += other.clipped
        self.still_frames += other.still_frames
        self.offset += other.offset
        self.heard_ms += other.heard_ms
        self.agent_ms += other.agent_ms
        self.voice_frames += other.voice_frames
        self.voice_power += other.voice_power
        self.lost_ms += other.lost_ms
        self.jitter_ms = max(self.jitter_ms, other.jitter_ms)

    @property
    def voice_ms(self) -> float:
        return self.voice_frames * _FRAME_MS

    @property
    def level_dbfs(self) -> float | None:
        if self.voice_ms < _LEAST_VOICE_S * 1000:
            return None
        return 10 * log10(self.voice_power / self.voice_frames)

    @property
    def clipped_share(self) -> float:
        return self.clipped / max(1, self.samples)

    @property
    def dc_offset(self) -> float:
        return self.offset / max(1, self.still_frames)


@dataclass(slots=True)
class _Noise:
    """What the line sounds like between words."""

    recent_dbfs: list[float] = field(default_factory=list)
    least_dbfs: float | None = None

    def add(self, levels: _Levels) -> None:
        """The frames of one assessment in which the agent was silent, if they are enough."""
        if levels.size * _FRAME_MS >= _LEAST_LISTENING_S * 1000:
            floor_dbfs = percentile(levels, _NOISE_PERCENTILE)
            self.recent_dbfs = [*self.recent_dbfs, floor_dbfs][-_NOISE_PERIODS:]

    @property
    def dbfs(self) -> float | None:
        return min(self.recent_dbfs, default=None)

    @property
    def is_sure(self) -> bool:
        return len(self.recent_dbfs) == _NOISE_PERIODS

    @property
    def voice_dbfs(self) -> float:
        """What is louder than this is voice."""
        noise_dbfs = min(_MOST_NOISE_DBFS, self.dbfs if self.dbfs is not None else -99.0)
        return max(_LEAST_VOICE_DBFS, noise_dbfs + _ABOVE_NOISE_DB)


class Health:
    """The caller's audio of one call.

    ``heard``: put ``(now, payload)`` of each frame on it, and call ``listen`` about once a second;
    what was lost goes to ``lose``. Seconds are of the call's clock.
    """

    __slots__ = (
        "_agent_s",
        "_arrival",
        "_assessed_at",
        "_bytes_per_ms",
        "_call",
        "_echo",
        "_encoding",
        "_heard_at",
        "_losses",
        "_noise",
        "_offsets",
        "_period",
        "_played",
        "_powers",
        "_rate_hz",
        "_speechless_ms",
        "_told",
        "heard",
    )

    def __init__(self, encoding: Encoding, rate_hz: int, played: Played, now: float) -> None:
        # A list is what takes a frame in least time: appending to arrays takes 0.6 us more.
        self.heard: list[tuple[float, bytes]] = []
        self._losses: list[tuple[int, float]] = []
        self._encoding: Encoding = encoding
        self._rate_hz = rate_hz
        self._bytes_per_ms = rate_hz // 1000 * (2 if encoding == "pcm" else 1)
        self._played = played
        self._arrival = Arrival()
        self._echo = Echo(played)
        self._noise = _Noise()
        self._powers: list[_Levels] = []
        self._offsets: list[_Levels] = []
        self._period = _Sums()
        self._call = _Sums()
        self._assessed_at = self._heard_at = now
        self._agent_s = 0
        self._speechless_ms = 0.0
        self._told: set[Fault] = set()

    def lose(self, duration_ms: float) -> None:
        """So much never arrived, between the last frame and the next."""
        self._losses.append((len(self.heard), duration_ms))
        self._period.lost_ms += duration_ms

    def listen(self, now: float) -> Assessment | None:
        """Work through what was heard; an assessment when it is time for one."""
        if self.heard:
            self._hear()
        if now - self._assessed_at < ASSESS_EVERY_S - _SPARE_S:
            return None
        return self._assess(now, is_final=False)

    def finish(self, now: float) -> Assessment:
        """The call is over: all of it."""
        if self.heard:
            self._hear()
        return self._assess(now, is_final=True)

    # ------------------------------------------------------------------ a second of frames

    def _hear(self) -> None:
        times, payloads = zip(*self.heard, strict=True)
        self.heard.clear()
        losses, self._losses = self._losses, []
        self._heard_at = times[-1]
        durations_ms = np.array(list(map(len, payloads))) / self._bytes_per_ms
        whole_ms = durations_ms + _holes_ms(losses, durations_ms.size) if losses else durations_ms
        began = self._arrival.take(np.array(times) * 1000, whole_ms) / 1000
        sound = samples(b"".join(payloads), self._encoding)
        ended = began + float(whole_ms.sum()) / 1000
        stretches = self._played.stretches(began - MOST_DELAY_S, ended)
        self._measure(sound, float(durations_ms.sum()), began, stretches)
        if stretches and self._is_to_compare():
            caller = _with_holes(sound, durations_ms, whole_ms, self._rate_hz) if losses else sound
            self._echo.hear(caller, self._rate_hz, began)
        self._forget(ended)

    def _is_to_compare(self) -> bool:
        """The agent was heard; once its echo is known, a sample now and then will do."""
        self._agent_s += 1
        return self._agent_s <= _ECHO_AT_FIRST or self._agent_s % _ECHO_SAMPLING == 0

    def _forget(self, ended: float) -> None:
        """What was played is kept for the next second, its sound for the next that is compared."""
        is_sampled = self._agent_s >= _ECHO_AT_FIRST
        unheard_s = (-self._agent_s - 1) % _ECHO_SAMPLING if is_sampled else 0
        before = ended - MOST_DELAY_S - _MOST_LATE_S
        self._played.forget(before, before + unheard_s)

    def _measure(
        self, sound: Samples, duration_ms: float, began: float, stretches: _Stretches
    ) -> None:
        period = self._period
        period.heard_ms += duration_ms
        period.samples += sound.size
        if sound.size and max(sound.max(), -sound.min()) >= _FULL_SCALE:
            period.clipped += int(np.count_nonzero(np.abs(sound) >= _FULL_SCALE))
        powers, offsets = _frame_by_frame(sound, self._rate_hz * _FRAME_MS // 1000)
        if stretches:
            is_agent = _agent_speaks(stretches, began, powers.size)
            period.agent_ms += float(np.count_nonzero(is_agent)) * _FRAME_MS
            powers, offsets = powers[~is_agent], offsets[~is_agent]
        self._powers.append(powers)
        self._offsets.append(offsets)

    # ------------------------------------------------------------------ every few seconds

    def _assess(self, now: float, *, is_final: bool) -> Assessment:
        self._assessed_at = now
        period, self._period = self._period, _Sums()
        self._take_voice(period)
        punctuality = self._arrival.assess(is_final=is_final)
        period.lost_ms += punctuality.missing_ms
        period.jitter_ms = punctuality.jitter_ms
        self._call.add(period)
        sums = self._call if is_final else period
        return self._told_of(sums, self._faults(period, now, is_final), is_final)

    def _take_voice(self, period: _Sums) -> None:
        """Which frames are the caller's voice can be told when the noise is known."""
        powers, offsets = np.maximum(_joined(self._powers), _LEAST_POWER), _joined(self._offsets)
        levels = 10 * np.log10(powers)
        self._noise.add(levels)
        is_voice = levels > self._noise.voice_dbfs
        voice, still = powers[is_voice], offsets[~is_voice]
        period.still_frames, period.offset = still.size, float(still.sum())
        period.voice_frames = voice.size
        period.voice_power = float(voice.sum())
        if voice.size >= _WORD_FRAMES:
            self._speechless_ms = 0.0
        else:
            self._speechless_ms += levels.size * _FRAME_MS

    def _told_of(self, sums: _Sums, faults: tuple[Fault, ...], is_final: bool) -> Assessment:  # noqa: FBT001
        new_faults = tuple(fault for fault in faults if fault not in self._told)
        self._told.update(new_faults)
        return Assessment(
            is_final=is_final,
            duration_ms=sums.heard_ms,
            voice_ms=sums.voice_ms,
            agent_ms=sums.agent_ms,
            level_dbfs=sums.level_dbfs,
            noise_dbfs=self._noise.dbfs,
            clipped_share=sums.clipped_share,
            dc_offset=sums.dc_offset,
            lost_ms=sums.lost_ms,
            jitter_ms=sums.jitter_ms,
            echo_likeness=self._echo.likeness,
            echo_loss_db=self._echo.loss_db,
            echo_delay_ms=self._echo.delay_ms,
            faults=tuple(sorted(self._told)) if is_final else faults,
            new_faults=new_faults,
        )

    def _faults(self, period: _Sums, now: float, is_final: bool) -> tuple[Fault, ...]:  # noqa: FBT001
        level_dbfs, loss_db = self._call.level_dbfs, self._echo.loss_db
        noise_dbfs = self._noise.dbfs if self._noise.is_sure else None
        expected_ms = period.heard_ms + period.lost_ms
        is_mute = self._call.agent_ms >= _AGENT_HAS_SPOKEN_S * 1000 and self._is_mute(is_final)
        found: dict[Fault, bool] = {
            "quiet": level_dbfs is not None and level_dbfs < QUIET_DBFS,
            "loud": level_dbfs is not None and level_dbfs > LOUD_DBFS,
            "noisy": noise_dbfs is not None and noise_dbfs > NOISY_DBFS,
            "clipped": period.clipped_share > CLIPPED_SHARE,
            "dc_offset": abs(period.dc_offset) > DC_OFFSET,
            "silent": is_mute,
            "no_audio": now - self._heard_at >= NO_AUDIO_S,
            "gaps": period.lost_ms > GAPS_SHARE * max(expected_ms, ASSESS_EVERY_S * 1000),
            "jitter": period.jitter_ms > JITTER_MS,
            "echo": loss_db is not None and loss_db < ECHO_LOSS_DB,
        }
        return tuple(fault for fault, is_there in found.items() if is_there)

    def _is_mute(self, is_final: bool) -> bool:  # noqa: FBT001  # private
        """Frames come, the agent has spoken, and not a word of the caller is in them."""
        least_s = SILENT_AT_END_S if is_final and not self._call.voice_frames else SILENT_S
        return self._speechless_ms >= least_s * 1000


def _holes_ms(losses: list[tuple[int, float]], count: int) -> _Milliseconds:
    """What was lost before each frame; what was lost last, before the last."""
    holes_ms = np.zeros(count)
    for at, lost_ms in losses:
        holes_ms[min(at, count - 1)] += lost_ms
    return holes_ms


def _frame_by_frame(sound: Samples, size: int) -> tuple[_Levels, _Levels]:
    """Power and offset of each whole frame."""
    frames = sound[: sound.size // size * size].reshape(-1, size)
    offsets = frames @ np.full(size, 1 / size, np.float32)
    return np.vecdot(frames, frames) / size - offsets * offsets, offsets


def _agent_speaks(stretches: _Stretches, began: float, count: int) -> _Flags:
    """The frames in which the agent's voice, or its echo, may be."""
    flags, frame_s = np.zeros(count, np.bool_), _FRAME_MS / 1000
    for start, end in stretches:
        first = max(0, int((start - began) / frame_s))
        flags[first : max(0, int((end + MOST_DELAY_S - began) / frame_s) + 1)] = True
    return flags


def _joined(parts: list[_Levels]) -> _Levels:
    """All of them in one; none is kept."""
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    parts.clear()
    return joined


def _with_holes(
    sound: Samples, durations_ms: _Milliseconds, whole_ms: _Milliseconds, rate_hz: int
) -> Samples:
    """The same with silence where audio was lost, so that all of it stands at its time."""
    ends_ms = np.cumsum(whole_ms)
    filled = np.zeros(max(sound.size, round(float(ends_ms[-1]) * rate_hz / 1000)), np.float32)
    at = 0
    for start_ms, duration_ms in zip(ends_ms - durations_ms, durations_ms, strict=True):
        count = int(duration_ms * rate_hz / 1000)
        first = round(start_ms * rate_hz / 1000)
        piece = sound[at : at + count]
        filled[first : first + piece.size] = piece[: filled.size - first]
        at += count
    return filled
