"""The vocabulary keeps its promises."""

import inspect
from typing import get_args

import pytest
from msgspec import Struct

from gateway import events
from gateway.events import (
    ALAW_8K,
    HANG_UP,
    PCM_24K,
    RESULTS,
    ULAW_8K,
    AppendAudio,
    AudioFormat,
    ClearAudio,
    Fact,
    PlayAudio,
    ProviderCommand,
    ProviderEvent,
    RealtimeCommand,
    RealtimeEvent,
    Reason,
    Result,
    Termination,
)

WORDS = [
    kind
    for _, kind in inspect.getmembers(events, inspect.isclass)
    if kind.__module__ == events.__name__ and not kind.__name__.startswith("_")
]
UNIONS = (ProviderEvent, RealtimeEvent, ProviderCommand, RealtimeCommand, Fact)
VALUES = {"Termination", "AudioFormat", "Usage", "Tool", "TurnDetection", "SessionOptions"}


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_words_are_values(kind: type) -> None:
    """No word can be changed once it was said, nor carry more than it says."""
    if issubclass(kind, Struct):
        assert kind.__struct_config__.frozen
    else:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]  # as all others are
        assert "__slots__" in vars(kind)
    assert kind.__doc__


def test_when_sound_was_asked_for_makes_it_no_other_sound() -> None:
    """Two commands with the same payload are the same command, of one kind."""
    assert AppendAudio(b"a", 1.0) == AppendAudio(b"a", 2.0)
    assert hash(AppendAudio(b"a", 1.0)) == hash(AppendAudio(b"a"))
    assert AppendAudio(b"a") != AppendAudio(b"b")
    assert AppendAudio(b"a") != PlayAudio(b"a")


def test_every_word_belongs_somewhere() -> None:
    """Every word is an event, a command, a fact, or a value in one of them."""
    spoken = {kind.__name__ for union in UNIONS for kind in get_args(union)}

    assert {kind.__name__ for kind in WORDS} == spoken | VALUES


@pytest.mark.parametrize(
    ("audio", "bytes_per_ms"),
    [(ULAW_8K, 8), (ALAW_8K, 8), (PCM_24K, 48), (AudioFormat("pcm", 16000), 32)],
)
def test_bytes_per_ms(audio: AudioFormat, bytes_per_ms: int) -> None:
    """Durations are counted in whole bytes a millisecond."""
    assert bytes_per_ms == audio.bytes_per_ms


def test_every_reason_has_somebody_to_blame() -> None:
    """A call cannot end for a reason that has no result."""
    assert set(get_args(Reason)) == set(RESULTS)
    assert set(RESULTS.values()) <= set(get_args(Result))
    assert Termination("realtime_error").result == "upstream_error"


@pytest.mark.parametrize("command", [PlayAudio, AppendAudio])
def test_the_moment_of_asking_is_no_part_of_a_command(
    command: type[PlayAudio | AppendAudio],
) -> None:
    """Two commands that ask for the same are equal, whenever they were asked."""
    assert command(b"x", 1.0) == command(b"x", 2.0)
    assert ClearAudio(1.0) == ClearAudio()


def test_the_one_tool_takes_no_arguments() -> None:
    """Nothing a model writes into the arguments of hanging up can matter."""
    assert HANG_UP.parameters == {"type": "object", "properties": {}}
