"""Who answers at the simulated model: a parrot, or an actor with a script.

A script is a TOML (or JSON) file of turns, taken in order::

    loop = false
    [[turn]]
    after = "create"              # what it answers: create, speech, text, tool, timeout or any
    say = "hello.wav"             # a file beside the script, or one of the shipped prompts
    text = "Hello."               # the transcript
    [[turn]]
    after = "speech"
    hears = "What time is it?"    # the transcript of the caller's turn
    calls = [{ name = "get_time", arguments = { zone = "UTC" } }]
    [[turn]]
    after = "tool"
    say = "It is noon."           # not a file: a tone stands for the voice
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np

from gateway.audio.wav import read_wav
from gateway.errors import SettingsError
from gateway.simulator.vad import BYTES_PER_MS, RATE_HZ

Cause = Literal["create", "speech", "text", "tool", "timeout"]

PROMPTS = Path(__file__).parent.parent / "prompts"
HELLO = "hello.wav"
HELLO_TEXT = "Hello. You are about to enter an echo test."
_TONE_HZ = 220
_TONE_LEVEL = 6000
_MS_PER_CHARACTER = 60


@dataclass(frozen=True, slots=True)
class Speech:
    """A message spoken aloud: 16-bit PCM at 24 kHz, its words."""

    pcm: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Writing:
    """A message in text, although audio may have been asked for."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; ``arguments`` is JSON text."""

    name: str
    arguments: str


Part = Speech | Writing | ToolCall


@dataclass(frozen=True, slots=True)
class Reply:
    """One response: its parts, or how it fails (``fail``: a code) or stops half way (a reason)."""

    parts: tuple[Part, ...] = ()
    fail: str = ""
    incomplete: str = ""
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a response answers: the caller's audio (PCM, 24 kHz) and texts since the last one."""

    cause: Cause
    pcm: bytes = b""
    texts: tuple[str, ...] = ()


class Agent(Protocol):
    """Whoever answers; one for each session."""

    def reply(self, asked: Asked) -> Reply:
        """What to say now."""

    def transcribe(self, pcm: bytes) -> str:
        """What the caller said in this turn."""


def spoken_ms(pcm: bytes) -> int:
    """How long PCM at 24 kHz lasts."""
    return len(pcm) // BYTES_PER_MS


class Parrot:
    """Says hello, then says back what it hears."""

    def reply(self, asked: Asked) -> Reply:
        """The caller's own voice where there is one, else the prompt."""
        if asked.cause == "speech":
            return Reply((Speech(asked.pcm, f"You said: {self.transcribe(asked.pcm)}"),))
        return Reply((Speech(prompt(HELLO), HELLO_TEXT),))

    def transcribe(self, pcm: bytes) -> str:
        """A parrot understands nothing but how long it took."""
        return f"{spoken_ms(pcm) / 1000:.1f} seconds of speech."


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call in a script."""

    name: str
    arguments: dict[str, object] | str = ""


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One response in a script; see the top of this file."""

    after: Literal["any", "create", "speech", "text", "tool", "timeout"] = "any"
    say: str = ""
    text: str = ""
    is_written: bool = False
    calls: tuple[Call, ...] = ()
    hears: str = ""
    fail: str = ""
    incomplete: str = ""
    latency_ms: int | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of turns."""

    turn: tuple[Turn, ...]
    loop: bool = False


class Scripted:
    """Plays its turns in order; an answer that no turn is left for is an empty response."""

    def __init__(self, script: Script, folder: Path | None = None) -> None:
        self._script = script
        self._folder = folder or PROMPTS
        self._left = list(script.turn)

    def reply(self, asked: Asked) -> Reply:
        """The next turn that answers this cause."""
        turn = self._next(asked.cause)
        if turn is None and self._script.loop:
            self._left = list(self._script.turn)
            turn = self._next(asked.cause)
        if turn is None:
            return Reply()
        self._left.remove(turn)
        latency_s = None if turn.latency_ms is None else turn.latency_ms / 1000
        return Reply(_parts(turn, self._folder), turn.fail, turn.incomplete, latency_s)

    def transcribe(self, pcm: bytes) -> str:
        """What the script says that the caller says."""
        turn = self._next("speech")
        return turn.hears if turn and turn.hears else f"({spoken_ms(pcm)} ms)"

    def _next(self, cause: Cause) -> Turn | None:
        return next((turn for turn in self._left if turn.after in ("any", cause)), None)


def read_script(path: str | Path) -> Script:
    """Read a script and check that its sounds are there.

    Raises:
        SettingsError: the file cannot be read, or a turn is not as it should be.
        AudioFileError: a sound cannot be used.
    """
    path = Path(path)
    try:
        script = _decode(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"script {path}: {error}"]) from None
    except msgspec.MsgspecError as error:
        raise SettingsError([f"script {path}: {error}"]) from None
    for turn in script.turn:
        _parts(turn, path.parent)
    return script


def prompt(name: str) -> bytes:
    """A shipped prompt as PCM at 24 kHz."""
    return _sound(PROMPTS / name)


def _decode(path: Path) -> Script:
    content = path.read_bytes()
    if path.suffix == ".json":
        return msgspec.json.decode(content, type=Script)
    return msgspec.toml.decode(content, type=Script)


def _parts(turn: Turn, folder: Path) -> tuple[Part, ...]:
    calls = tuple(ToolCall(call.name, _arguments(call)) for call in turn.calls)
    return (*_message(turn, folder), *calls)


def _arguments(call: Call) -> str:
    if isinstance(call.arguments, str):
        return call.arguments or "{}"
    return msgspec.json.encode(call.arguments).decode()


def _message(turn: Turn, folder: Path) -> tuple[Part, ...]:
    if not turn.say and not turn.text:
        return ()
    is_file = turn.say.endswith(".wav")
    text = turn.text if is_file else turn.text or turn.say
    if turn.is_written:
        return (Writing(text),)
    return (Speech(_sound(_find(turn.say, folder)) if is_file else tone(text), text),)


def _find(name: str, folder: Path) -> Path:
    beside = folder / name
    return beside if beside.exists() else PROMPTS / name


@functools.cache
def _sound(path: Path) -> bytes:
    return read_wav(path, RATE_HZ)


@functools.lru_cache(maxsize=32)
def tone(text: str) -> bytes:
    """A tone as long as the text would take to say, as PCM at 24 kHz."""
    samples = np.arange(len(text) * _MS_PER_CHARACTER * RATE_HZ // 1000)
    wave = np.sin(samples * (2 * math.pi * _TONE_HZ / RATE_HZ)) * _TONE_LEVEL
    return bytes(wave.astype("<i2").tobytes())
