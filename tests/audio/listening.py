"""A made-up call whose sound is recorded speech, and the ways in which it can go wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.audio.convert import Converter, Encoding
from gateway.audio.echo import Played
from gateway.audio.health import Assessment, Health
from gateway.audio.wav import read_wav

Sound = NDArray[np.float64]

ROOT: Final = Path(__file__).parents[2]
RATE_HZ: Final = 8000
FRAME_S: Final = 0.02
CALL_S: Final = 26.0
BEGAN: Final = 1000.0
# Who speaks when: the agent greets, the caller answers, once more each.
_AGENT: Final = ((0.5, "prompts/answer"), (16.5, "prompts/apology"))
_CALLER: Final = ((6.7, "prompts/caller"), (20.5, "prompts/hello"))
_ROOM_NOISE_DBFS: Final = -65.0


def speech(name: str) -> Sound:
    """A recording that ships with the gateway, 8 kHz, full scale 1.0."""
    pcm = read_wav(ROOT / "gateway" / f"{name}.wav", RATE_HZ)
    return np.frombuffer(pcm, "<i2") / 32768


@cache
def _spoken(parts: tuple[tuple[float, str], ...]) -> Sound:
    sound = np.zeros(round(CALL_S * RATE_HZ))
    for at_s, name in parts:
        piece, first = speech(name), round(at_s * RATE_HZ)
        sound[first : first + piece.size] += piece
    sound.setflags(write=False)
    return sound


def room_noise(level_dbfs: float, seed: int = 5) -> Sound:
    """Steady noise as long as the call."""
    generator = np.random.default_rng(seed)
    return generator.normal(0, 10 ** (level_dbfs / 20), round(CALL_S * RATE_HZ))


@dataclass(frozen=True)
class Scene:
    """What the caller's phone makes of the caller and of the agent, and what becomes of frames.

    ``frames``: arrival (s after the start) and number of each frame that arrives; ``lost``: how
    much the provider says was lost before a frame.
    """

    caller: Sound = field(default_factory=lambda: _spoken(_CALLER))
    noise: Sound = field(default_factory=lambda: room_noise(_ROOM_NOISE_DBFS))
    agent: Sound = field(default_factory=lambda: _spoken(_AGENT))
    echo: Sound | None = None
    finish: Callable[[Sound], Sound] = np.asarray
    arrivals: tuple[tuple[float, int], ...] = tuple(
        ((number + 1) * FRAME_S, number) for number in range(round(CALL_S / FRAME_S))
    )
    lost_ms: tuple[tuple[int, float], ...] = ()

    @property
    def microphone(self) -> Sound:
        """What leaves the phone."""
        echo = 0.0 if self.echo is None else self.echo
        return self.finish(self.caller + self.noise + echo)

    def with_echo(self, loss_db: float, delay_ms: float) -> "Scene":
        """The phone hears what it plays, so much quieter and later."""
        late = round(delay_ms * RATE_HZ / 1000)
        echo = np.concatenate((np.zeros(late), self.agent[: self.agent.size - late]))
        return replace(self, echo=echo * 10 ** (-loss_db / 20))


def encoded(sound: Sound, encoding: Encoding, rate_hz: int) -> bytes:
    """As it is on the wire; what is too loud is cut off."""
    pcm = np.clip(np.rint(sound * 32768), -32768, 32767).astype("<i2").tobytes()
    converter = Converter("pcm", RATE_HZ, encoding, rate_hz)
    return converter.convert(pcm) + converter.flush()


def assessed(scene: Scene, encoding: Encoding = "ulaw", rate_hz: int = RATE_HZ) -> list[Assessment]:
    """The call is listened to, frame by frame; the last assessment is of all of it."""
    played = Played(encoding, rate_hz)
    health = Health(encoding, rate_hz, played, BEGAN)
    frame_bytes = round(rate_hz * FRAME_S) * (2 if encoding == "pcm" else 1)
    wire, found = encoded(scene.microphone, encoding, rate_hz), []
    lost_ms, handed = dict(scene.lost_ms), handed_over(scene.agent, encoding, rate_hz)
    pieces, at_s = next(handed, None), 0.0
    for count, (at_s, number) in enumerate(scene.arrivals, 1):
        while pieces is not None and pieces[0] <= at_s:
            played.add(pieces[1], BEGAN + pieces[0], follows=pieces[2])
            pieces = next(handed, None)
        if number in lost_ms:
            health.lose(lost_ms[number])
        payload = wire[number * frame_bytes : (number + 1) * frame_bytes]
        health.heard.append((BEGAN + at_s, payload))
        if count % 50 == 0 and (one := health.listen(BEGAN + at_s)):
            found.append(one)
    return [*found, health.finish(BEGAN + (at_s or CALL_S))]


def handed_over(
    agent: Sound, encoding: Encoding, rate_hz: int
) -> Iterator[tuple[float, list[bytes], bool]]:
    """The agent's audio as the ledger hands it over: half a second ahead, in pieces of 100 ms."""
    wire = encoded(agent, encoding, rate_hz)
    piece = rate_hz // 10 * (2 if encoding == "pcm" else 1)
    is_silent = True
    for tenth in range(0, round(CALL_S * 10), 5):
        spoken = agent[tenth * RATE_HZ // 10 : (tenth + 5) * RATE_HZ // 10]
        if np.any(spoken):
            first = tenth * piece
            payloads = [wire[at : at + piece] for at in range(first, first + 5 * piece, piece)]
            # The first is played at once, the rest is there well before the phone runs dry.
            yield (tenth / 10 - (0.0 if is_silent else 0.3), payloads, not is_silent)
        is_silent = not np.any(spoken)
