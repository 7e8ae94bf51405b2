"""The wording of server events in each dialect."""

from typing import Any

from gateway.simulator.dialects import misnamed, written
from gateway.simulator.options import Dialect

OPENAI = Dialect("ga", "openai")
AZURE = Dialect("ga", "azure")
PREVIEW = Dialect("preview", "azure")
ITEM: dict[str, Any] = {
    "id": "item_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_audio", "transcript": "Hi"}],
}


def test_ga_is_the_shape_events_are_thought_in() -> None:
    """A GA event of OpenAI goes out as it is."""
    event = {"type": "conversation.item.done", "previous_item_id": None, "item": ITEM}

    assert written(event, OPENAI) == event


def test_text_pieces_are_padded_in_ga() -> None:
    """Delta and padding together have one length, whatever was said."""
    name = "response.output_audio_transcript.delta"

    for delta in ("Hi", "sixteen letters!", "something longer than that"):
        padded = written({"type": name, "delta": delta}, OPENAI)
        assert padded is not None
        assert len(padded["delta"] + padded["obfuscation"]) % 16 == 0


def test_azure_copies_the_part() -> None:
    """Only Azure, only where there is a part."""
    event = {"type": "response.content_part.added", "part": {"type": "text", "text": ""}}

    assert written(event, AZURE) == {**event, "content": event["part"]}
    assert written(event, OPENAI) == event


def test_preview_renames_events_and_contents() -> None:
    """Event, item and content get their old names; the GA value is left alone."""
    event = {"type": "conversation.item.added", "previous_item_id": None, "item": ITEM}

    wire = written(event, PREVIEW)

    assert wire is not None
    assert wire["type"] == "conversation.item.created"
    assert wire["item"]["object"] == "realtime.item"
    assert wire["item"]["content"] == [{"type": "audio", "transcript": "Hi"}]
    assert ITEM["content"][0]["type"] == "output_audio"


def test_preview_has_no_item_done() -> None:
    """An event the dialect lacks is not written."""
    assert written({"type": "conversation.item.done", "item": ITEM}, PREVIEW) is None


def test_preview_responses_are_flat() -> None:
    """Modalities, voice and format stand in the response itself."""
    audio = {"output": {"voice": "alloy", "format": {"type": "audio/pcmu"}}}
    response = {
        "id": "resp_1",
        "output": [ITEM],
        "output_modalities": ["audio"],
        "audio": audio,
        "metadata": None,
        "usage": None,
    }

    wire = written({"type": "response.created", "response": response}, PREVIEW)

    assert wire is not None
    flat = wire["response"]
    assert (flat["voice"], flat["output_audio_format"]) == ("alloy", "g711_ulaw")
    assert flat["modalities"] == ["audio", "text"]
    assert flat["output"][0]["content"][0]["type"] == "audio"
    assert "audio" not in flat


def test_misnaming_swaps_the_dialects() -> None:
    """Each name becomes the other's; common names stay."""
    assert misnamed({"type": "response.output_audio.delta"})["type"] == "response.audio.delta"
    assert misnamed({"type": "response.audio.delta"})["type"] == "response.output_audio.delta"
    assert misnamed({"type": "response.done"})["type"] == "response.done"
