"""How one server event, thought of in GA shape, is written in each dialect."""

from collections.abc import Mapping
from typing import Any

from gateway.simulator.options import Dialect, flat_format, flat_modalities

Event = dict[str, Any]

_PREVIEW_NAMES: Mapping[str, str] = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
_GA_NAMES = {preview: ga for ga, preview in _PREVIEW_NAMES.items()}
_GA_ONLY = frozenset({"conversation.item.done", "input_audio_buffer.timeout_triggered"})
# Text in pieces is padded, so that its length on the wire tells less.
_PADDED = frozenset({"response.output_audio_transcript.delta", "response.output_text.delta"})
_PADDED_LENGTH = 16
_PREVIEW_CONTENT: Mapping[str, str] = {"output_text": "text", "output_audio": "audio"}


def written(event: Event, dialect: Dialect) -> Event | None:
    """The event as this dialect writes it; None where the dialect has no such event."""
    if dialect.name == "ga":
        return _in_ga(event, dialect)
    if event["type"] in _GA_ONLY:
        return None
    return _in_preview(event)


def misnamed(event: Event) -> Event:
    """The event under the name that the other dialect has for it: a fault."""
    name = event["type"]
    return event | {"type": _PREVIEW_NAMES.get(name) or _GA_NAMES.get(name, name)}


def _in_ga(event: Event, dialect: Dialect) -> Event:
    if dialect.service == "azure" and "part" in event:
        # Azure sends the part twice, under two names.
        return event | {"content": event["part"]}
    if event["type"] in _PADDED:
        return event | {"obfuscation": "x" * (-len(event["delta"]) % _PADDED_LENGTH)}
    return event


def _in_preview(event: Event) -> Event:
    event = event | {"type": _PREVIEW_NAMES.get(event["type"], event["type"])}
    if "item" in event:
        event["item"] = _item(event["item"])
    if "response" in event:
        event["response"] = _response(event["response"])
    return event


def _item(item: Event) -> Event:
    item = item | {"object": "realtime.item"}
    if "content" in item:
        item["content"] = [_content(content) for content in item["content"]]
    return item


def _content(content: Event) -> Event:
    return content | {"type": _PREVIEW_CONTENT.get(content["type"], content["type"])}


def _response(response: Event) -> Event:
    kept = {name: value for name, value in response.items() if name not in ("audio", "metadata")}
    output = response["audio"]["output"]
    kept["output"] = [_item(item) for item in response["output"]]
    kept["usage"] = _usage(response["usage"])
    kept["modalities"] = flat_modalities(kept.pop("output_modalities"))
    return kept | {
        "voice": output["voice"],
        "output_audio_format": flat_format(output["format"]),
        "temperature": 0.8,
        "metadata": response["metadata"],
    }


def _usage(usage: Event | None) -> Event | None:
    if usage is None:
        return None
    details = usage["input_token_details"]
    kept = {name: details[name] for name in ("text_tokens", "audio_tokens", "cached_tokens")}
    return usage | {"input_token_details": kept}
