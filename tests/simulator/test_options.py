"""Session options: what may be set in which dialect, what is refused, how they are shown."""

from typing import Any

import pytest

from gateway.events import ALAW_8K, PCM_24K, ULAW_8K
from gateway.simulator.options import (
    Dialect,
    Options,
    audio_format,
    default_options,
    flat_format,
    flat_modalities,
    shown,
    updated,
)
from gateway.simulator.refusals import RequestRefused

GA = Dialect("ga", "openai")
PREVIEW = Dialect("preview", "azure")
VOICE_LIVE = Dialect("preview", "voice-live")


def _ga(**session: Any) -> Options:
    return updated(default_options("m"), {"type": "realtime", **session}, GA)


def _preview(dialect: Dialect = PREVIEW, **session: Any) -> Options:
    return updated(default_options("m"), session, dialect)


def test_nothing_asked_changes_nothing() -> None:
    """An empty update is allowed in both dialects."""
    assert _ga() == _preview() == default_options("m")


def test_both_dialects_set_the_same_options() -> None:
    """The flat and the nested form of one configuration are one configuration."""
    turn = {"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 400}
    nested = _ga(
        instructions="Be brief.",
        audio={
            "input": {"format": {"type": "audio/pcmu"}, "turn_detection": turn},
            "output": {"format": {"type": "audio/pcma"}, "voice": "marin"},
        },
        max_output_tokens=100,
        output_modalities=["text"],
    )
    flat = _preview(
        instructions="Be brief.",
        input_audio_format="g711_ulaw",
        turn_detection=turn,
        output_audio_format="g711_alaw",
        voice="marin",
        max_response_output_tokens=100,
        modalities=["text"],
    )

    assert nested == flat
    assert audio_format(nested, "input") == ULAW_8K
    assert audio_format(nested, "output") == ALAW_8K


def test_absent_members_keep_their_value() -> None:
    """A second update leaves alone what it does not name."""
    first = _ga(instructions="Be brief.", audio={"output": {"voice": "marin"}})

    second = updated(first, {"type": "realtime", "audio": {"input": {}}}, GA)

    assert second == first
    assert audio_format(second, "input") == PCM_24K


def test_turn_detection_gets_its_defaults() -> None:
    """Members left out have the documented values; null and the old "none" switch it off."""
    semantic = _ga(audio={"input": {"turn_detection": {"type": "semantic_vad"}}})

    assert semantic["audio.input.turn_detection"]["eagerness"] == "auto"
    assert _preview(turn_detection={"type": "none"})["audio.input.turn_detection"] is None
    assert _preview(turn_detection=None)["audio.input.turn_detection"] is None


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"modalities": ["audio", "text"]}, "unknown_parameter", "session.modalities"),
        ({"temperature": 0.8}, "unknown_parameter", "session.temperature"),
        ({"output_modalities": ["audio", "text"]}, "invalid_value", "session.output_modalities"),
        ({"audio": 1}, "invalid_value", "session.audio"),
        ({"audio": {"input": []}}, "invalid_value", "session.audio.input"),
        ({"audio": {"voice": "x"}}, "unknown_parameter", "session.audio.voice"),
        ({"max_output_tokens": 5000}, "invalid_value", "session.max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "invalid_value", "session.tools"),
    ],
)
def test_ga_refusals_name_the_member(session: dict[str, Any], code: str, param: str) -> None:
    """Each mistake of a GA update has the code and the dotted path."""
    kind = {} if not session or "type" in session else {"type": "realtime"}

    with pytest.raises(RequestRefused) as raised:
        updated(default_options("m"), {**kind, **session}, GA)

    assert (raised.value.code, raised.value.param) == (code, param)


@pytest.mark.parametrize(
    "audio_format",
    [
        {"type": "audio/pcm", "rate": 16000},
        {"type": "audio/pcmu", "rate": 8000},
        {"type": "audio/opus"},
        "g711_ulaw",
        None,
    ],
)
def test_formats_that_do_not_exist_are_refused(audio_format: Any) -> None:
    """PCM has one rate, G.711 no rate member, other formats do not exist."""
    with pytest.raises(RequestRefused) as raised:
        _ga(audio={"input": {"format": audio_format}})

    assert raised.value.param == "session.audio.input.format"


@pytest.mark.parametrize(
    ("turn", "member"),
    [
        ({"type": "psychic"}, "type"),
        ({"type": "server_vad", "threshold": 1.5}, "threshold"),
        ({"type": "server_vad", "idle_timeout_ms": 1000}, "idle_timeout_ms"),
        ({"type": "server_vad", "create_response": "yes"}, "create_response"),
        ({"type": "server_vad", "eagerness": "low"}, "eagerness"),
        ({"type": "semantic_vad", "threshold": 0.5}, "threshold"),
        ({"type": "semantic_vad", "eagerness": "very"}, "eagerness"),
    ],
)
def test_bad_turn_detection_is_refused(turn: dict[str, Any], member: str) -> None:
    """Members of the other detector and values out of range are named."""
    with pytest.raises(RequestRefused) as raised:
        _ga(audio={"input": {"turn_detection": turn}})

    assert raised.value.param == f"session.audio.input.turn_detection.{member}"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"audio": {}}, "session.audio"),
        ({"modalities": ["audio"]}, "session.modalities"),
        ({"modalities": "audio"}, "session.modalities"),
        ({"temperature": 0.1}, "session.temperature"),
        ({"input_audio_format": "g711-ulaw"}, "session.input_audio_format"),
        ({"input_audio_format": ["pcm16"]}, "session.input_audio_format"),
        ({"avatar": {}}, "session.avatar"),
    ],
)
def test_preview_refusals_name_the_member(session: dict[str, Any], param: str) -> None:
    """GA members and bad values of a preview update are named; audio alone is refused."""
    with pytest.raises(RequestRefused) as raised:
        _preview(**session)

    assert raised.value.param == param


@pytest.mark.parametrize("session", [None, [], "realtime"])
def test_a_session_has_to_be_an_object(session: Any) -> None:
    """Anything else is a missing session."""
    with pytest.raises(RequestRefused) as raised:
        updated(default_options("m"), session, GA)

    assert raised.value.param == "session"


def test_voice_live_may_say_more() -> None:
    """Its own members are kept and shown, its own detectors accepted."""
    turn = {"type": "azure_semantic_vad", "remove_filler_words": True}

    options = _preview(VOICE_LIVE, avatar={"character": "lisa"}, turn_detection=turn)

    assert shown(options, VOICE_LIVE)["avatar"] == {"character": "lisa"}
    assert shown(options, VOICE_LIVE)["turn_detection"]["silence_duration_ms"] == 200


def test_what_is_shown_can_be_sent_back() -> None:
    """The session object of either dialect is a valid update that changes nothing."""
    options = _ga(audio={"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}})
    ga = {"type": "realtime", **shown(options, GA)}
    preview = shown(options, PREVIEW)

    assert updated(options, ga, GA) == options
    assert updated(options, preview, PREVIEW) == options


def test_flat_names_of_formats_and_modalities() -> None:
    """Responses use the same flat names as sessions."""
    assert flat_format({"type": "audio/pcmu"}) == "g711_ulaw"
    assert flat_modalities(["audio"]) == ["audio", "text"]
    assert flat_modalities(["text"]) == ["text"]
