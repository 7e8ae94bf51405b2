"""Scenes that the tests of a call share: how it is placed, what was said on it, how it ended."""

from gateway.events import (
    ULAW_8K,
    AppendAudio,
    AudioDropped,
    CallEnded,
    Direction,
    PlayAudio,
    PromptPlayed,
    SessionOptions,
    TurnDetection,
)
from gateway.simulator.phone import ASTERISK
from tests.lab import Lab, options

PROMPT_MS = 600
# A steady tone each, told apart on the phone by its loudness.
PROMPTS = {
    name: value.to_bytes(2, "little") * (24 * PROMPT_MS)
    for name, value in (("apology", 4000), ("filler", 8000), ("goodbye", 16000))
}


def placed(**changes: object) -> Lab:
    """A call whose session is open; every prompt lasts 600 ms."""
    return Lab(options(**({"prompts": PROMPTS} | changes)))


def ringing(**changes: object) -> Lab:
    """A call whose session has yet to be opened."""
    return Lab(options(**({"prompts": PROMPTS} | changes)), is_ready=False)


def on_asterisk(*, back_s: float = 0.01, **changes: object) -> Lab:
    """A call over a provider that can be asked how much it still holds."""
    usual: dict[str, object] = {"prompts": PROMPTS, "provider": "asterisk", "has_status": True}
    return Lab(options(**(usual | changes)), semantics=ASTERISK, jitter_ms=0, back_s=back_s)


def session(**detection: object) -> SessionOptions:
    """Session options with another turn detection, audio passed through."""
    return SessionOptions(audio=ULAW_8K, turn_detection=TurnDetection(**detection))  # type: ignore[arg-type]  # checked at run time


def prompts(lab: Lab) -> list[str]:
    """The names of the recordings the caller was played, in order."""
    return [fact.name for fact in lab.told(PromptPlayed)]


def end_of(lab: Lab) -> CallEnded:
    """The one record of a call that is over."""
    (record,) = lab.told(CallEnded)
    assert lab.call.termination == record.termination
    return record


def appended(lab: Lab) -> bytes:
    """All caller audio the model was sent."""
    return b"".join(command.payload for command in lab.commanded(AppendAudio))


def handed_over_ms(lab: Lab) -> float:
    """All agent audio and recordings the provider was sent."""
    return sum(len(command.payload) for command in lab.commanded(PlayAudio)) / 8


def dropped_ms(lab: Lab, direction: Direction, reason: str) -> float:
    """Audio that was told to be dropped for this reason."""
    drops = lab.told(AudioDropped)
    return sum(d.duration_ms for d in drops if (d.direction, d.reason) == (direction, reason))
