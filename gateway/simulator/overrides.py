"""What one ``response.create`` may set for itself."""

from typing import Any

from gateway.simulator import refusals
from gateway.simulator.options import Dialect, Options

_COMMON = frozenset(
    {"conversation", "input", "instructions", "max_output_tokens", "metadata", "tool_choice"}
    | {"tools"}
)
_GA = _COMMON | {"audio", "output_modalities", "parallel_tool_calls", "prompt", "reasoning"}
_PREVIEW = _COMMON | {
    "max_response_output_tokens",
    "modalities",
    "output_audio_format",
    "temperature",
    "voice",
}
_MODALITIES = ({"audio"}, {"text"}, {"audio", "text"})


def overrides(wanted: Any, dialect: Dialect) -> Options:
    """The session options that this response sees otherwise, with its ``metadata``.

    Raises:
        RequestRefused: a member is unknown to the dialect or has a bad value. Responses outside
            the default conversation are not simulated.
    """
    response = {} if wanted is None else wanted
    if not isinstance(response, dict):
        raise refusals.invalid_value("response", wanted)
    allowed = _GA if dialect.name == "ga" else _PREVIEW
    for name in response:
        if name not in allowed:
            raise refusals.unknown_parameter(f"response.{name}")
    if response.get("conversation", "auto") != "auto":
        raise refusals.invalid_value("response.conversation", response["conversation"])
    return _modalities(response) | _max_tokens(response) | {"metadata": response.get("metadata")}


def _modalities(response: dict[str, Any]) -> Options:
    for name in ("output_modalities", "modalities"):
        if name in response:
            value = response[name]
            if not isinstance(value, list) or not _are_modalities(value):
                raise refusals.invalid_value(f"response.{name}", value)
            return {"output_modalities": ["audio"] if "audio" in value else ["text"]}
    return {}


def _are_modalities(value: list[Any]) -> bool:
    return all(isinstance(name, str) for name in value) and set(value) in _MODALITIES


def _max_tokens(response: dict[str, Any]) -> Options:
    for name in ("max_output_tokens", "max_response_output_tokens"):
        if name in response:
            value = response[name]
            if value != "inf" and not isinstance(value, int):
                raise refusals.invalid_value(f"response.{name}", value)
            return {"max_output_tokens": value}
    return {}
