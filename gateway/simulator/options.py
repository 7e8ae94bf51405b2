"""The session's options: what may be set, how both dialects write it, what is refused.

Options are kept flat, by their dotted GA path; the preview dialect has another name for most.
Source: the Realtime reference of OpenAI (GA) and of Azure (preview, Voice Live), which agree with
recorded ``session.created`` events of both services.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.events import ALAW_8K, PCM_24K, ULAW_8K, AudioFormat
from gateway.simulator import refusals

DialectName = Literal["ga", "preview"]
Service = Literal["openai", "azure", "voice-live"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which names are spoken, and whose habits are imitated."""

    name: DialectName = "ga"
    service: Service = "openai"


Options = dict[str, Any]

_GA_FORMATS: Mapping[str, AudioFormat] = {
    "audio/pcm": PCM_24K,
    "audio/pcmu": ULAW_8K,
    "audio/pcma": ALAW_8K,
}
_FLAT_FORMATS: Mapping[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_CONTAINERS = frozenset({"audio", "audio.input", "audio.output"})
# Named by clients of Voice Live; kept and shown, without effect here.
_VOICE_LIVE = frozenset(
    {
        "animation",
        "avatar",
        "input_audio_echo_cancellation",
        "input_audio_sampling_rate",
        "interim_response",
        "metadata",
        "output_audio_timestamp_types",
        "parallel_tool_calls",
        "reasoning_effort",
    }
)

SERVER_VAD: Mapping[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    # Documented as 500; both services report 200.
    "silence_duration_ms": 200,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
_SEMANTIC_VAD: Mapping[str, Any] = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
_MAX_OUTPUT_TOKENS = 4096


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object_or_null(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_idle_timeout(value: Any) -> bool:
    return value is None or _between(5000, 30_000)(value)


def _is_modalities(value: Any) -> bool:
    return value in (["audio"], ["text"])


def _is_format(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("type") not in _GA_FORMATS:
        return False
    is_pcm = value["type"] == "audio/pcm"
    return value.get("rate", 24000) == PCM_24K.rate_hz if is_pcm else "rate" not in value


def _is_noise_reduction(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.get("type") in ("near_field", "far_field", "azure_deep_noise_suppression")
    )


def _is_tools(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(tool, dict)
        and (tool.get("type") != "function" or isinstance(tool.get("name"), str))
        for tool in value
    )


def _is_max_tokens(value: Any) -> bool:
    return value == "inf" or (isinstance(value, int) and 1 <= value <= _MAX_OUTPUT_TOKENS)


def _is_voice(value: Any) -> bool:
    return isinstance(value, str | dict) and bool(value)


def _is_anything(_value: Any) -> bool:
    return True


_TURN_MEMBERS: Mapping[str, Callable[[Any], bool]] = {
    "threshold": _between(0, 1),
    "prefix_padding_ms": _between(0, 10_000),
    "silence_duration_ms": _between(0, 10_000),
    "idle_timeout_ms": _is_idle_timeout,
    "create_response": _is_flag,
    "interrupt_response": _is_flag,
    "eagerness": lambda value: value in ("low", "medium", "high", "auto"),
}


@dataclass(frozen=True, slots=True)
class _Option:
    """One option: its GA path ("" where GA has none), its preview name, default, check."""

    path: str
    flat: str
    default: Any
    is_valid: Callable[[Any], bool]

    @property
    def key(self) -> str:
        return self.path or self.flat


_PCM = _FLAT_FORMATS["pcm16"]
_OPTIONS = (
    _Option("model", "model", "", _is_text),
    _Option("output_modalities", "modalities", ["audio"], _is_modalities),
    _Option("instructions", "instructions", "You are a helpful assistant.", _is_text),
    _Option("tools", "tools", [], _is_tools),
    _Option("tool_choice", "tool_choice", "auto", _is_voice),
    _Option("max_output_tokens", "max_response_output_tokens", "inf", _is_max_tokens),
    _Option("tracing", "tracing", None, _is_anything),
    _Option("truncation", "", "auto", _is_anything),
    _Option("prompt", "", None, _is_object_or_null),
    _Option("include", "", None, _is_anything),
    _Option("reasoning", "", None, _is_object_or_null),
    _Option("parallel_tool_calls", "", None, _is_flag),
    _Option("", "temperature", 0.8, _between(0.6, 1.2)),
    _Option("audio.input.format", "input_audio_format", _PCM, _is_format),
    _Option("audio.input.transcription", "input_audio_transcription", None, _is_object_or_null),
    _Option(
        "audio.input.noise_reduction", "input_audio_noise_reduction", None, _is_noise_reduction
    ),
    _Option("audio.input.turn_detection", "turn_detection", dict(SERVER_VAD), _is_object_or_null),
    _Option("audio.output.format", "output_audio_format", _PCM, _is_format),
    _Option("audio.output.voice", "voice", "alloy", _is_voice),
    _Option("audio.output.speed", "speed", 1.0, _between(0.25, 1.5)),
)
_BY_PATH = {option.path: option for option in _OPTIONS if option.path}
_BY_FLAT = {option.flat: option for option in _OPTIONS if option.flat}
# Shown only once set, as the services do.
_QUIET = frozenset({"reasoning", "parallel_tool_calls"})
_PREVIEW_QUIET = frozenset({"tracing"})


def default_options(model: str) -> Options:
    """What ``session.created`` reports."""
    return {option.key: option.default for option in _OPTIONS} | {"model": model}


def audio_format(options: Options, direction: Literal["input", "output"]) -> AudioFormat:
    """The format of caller audio ("input") or of the agent's ("output")."""
    return _GA_FORMATS[options[f"audio.{direction}.format"]["type"]]


def updated(options: Options, session: Any, dialect: Dialect) -> Options:
    """The options after a ``session.update`` with this payload.

    Raises:
        RequestRefused: something in it is missing, unknown or out of range; nothing changed then.
    """
    if not isinstance(session, dict):
        raise refusals.missing_parameter("session")
    changes = _ga_changes(session) if dialect.name == "ga" else _flat_changes(session, dialect)
    return options | changes


def _ga_changes(session: dict[str, Any]) -> Options:
    if "type" not in session:
        raise refusals.missing_parameter("session.type")
    if session["type"] != "realtime":
        raise refusals.invalid_value("session.type", session["type"])
    leaves = _leaves({name: value for name, value in session.items() if name != "type"}, "")
    return {path: _checked(_BY_PATH.get(path), f"session.{path}", leaves[path]) for path in leaves}


def _leaves(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Flatten the members below ``audio``; every other value is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        path = prefix + name
        if path not in _CONTAINERS:
            leaves[path] = value
        elif not isinstance(value, dict):
            raise refusals.invalid_value(f"session.{path}", value)
        else:
            leaves |= _leaves(value, f"{path}.")
    return leaves


def _flat_changes(session: dict[str, Any], dialect: Dialect) -> Options:
    changes: Options = {}
    for name, value in session.items():
        param = f"session.{name}"
        if dialect.service == "voice-live" and name in _VOICE_LIVE:
            changes[name] = value
            continue
        option = _BY_FLAT.get(name)
        key = option.key if option else name
        changes[key] = _checked(option, param, _from_flat(name, value, param))
    return changes


def _from_flat(name: str, value: Any, param: str) -> Any:
    """The GA value for a preview one."""
    if name.endswith("_audio_format"):
        return _FLAT_FORMATS.get(value) if isinstance(value, str) else None
    if name == "modalities":
        return _from_modalities(value, param)
    if name == "turn_detection" and isinstance(value, dict) and value.get("type") == "none":
        return None
    return value


def _from_modalities(value: Any, param: str) -> list[str]:
    # Audio alone was refused by the preview service.
    if not isinstance(value, list) or "text" not in value or not {*value} <= {"audio", "text"}:
        raise refusals.invalid_value(param, value)
    return ["audio"] if "audio" in value else ["text"]


def _checked(option: _Option | None, param: str, value: Any) -> Any:
    if option is None:
        raise refusals.unknown_parameter(param)
    if not option.is_valid(value):
        raise refusals.invalid_value(param, value)
    if option.path.endswith("turn_detection") and value is not None:
        return _turn_detection(value, param)
    return value


def _turn_detection(value: dict[str, Any], param: str) -> dict[str, Any]:
    kind = value.get("type")
    defaults = _SEMANTIC_VAD if kind == "semantic_vad" else SERVER_VAD
    if kind != defaults["type"] and not str(kind).startswith("azure_semantic_vad"):
        raise refusals.invalid_value(f"{param}.type", kind)
    for name, member in value.items():
        if name not in defaults and kind == defaults["type"]:
            raise refusals.unknown_parameter(f"{param}.{name}")
        if name in _TURN_MEMBERS and not _TURN_MEMBERS[name](member):
            raise refusals.invalid_value(f"{param}.{name}", member)
    return {**defaults, **value}


def shown(options: Options, dialect: Dialect) -> dict[str, Any]:
    """The options as the members of a session object in this dialect."""
    return _shown_ga(options) if dialect.name == "ga" else _shown_flat(options)


def _shown_ga(options: Options) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in _BY_PATH:
        if path in _QUIET and options[path] is None:
            continue
        *containers, leaf = path.split(".")
        node = tree
        for name in containers:
            node = node.setdefault(name, {})
        node[leaf] = options[path]
    return tree


def _shown_flat(options: Options) -> dict[str, Any]:
    session = {
        name: _to_flat(name, options[option.key])
        for name, option in _BY_FLAT.items()
        if name not in _PREVIEW_QUIET
    }
    return session | {name: options[name] for name in _VOICE_LIVE if options.get(name) is not None}


def _to_flat(name: str, value: Any) -> Any:
    """The preview value for a GA one."""
    if name.endswith("_audio_format"):
        return flat_format(value)
    if name == "modalities":
        return flat_modalities(value)
    if name == "turn_detection" and value is not None:
        return {member: value[member] for member in value if member != "idle_timeout_ms"}
    return value


def flat_format(value: dict[str, Any]) -> str:
    """The preview name of an audio format."""
    return next(name for name, ga in _FLAT_FORMATS.items() if ga["type"] == value["type"])


def flat_modalities(value: list[str]) -> list[str]:
    """The preview way to ask for audio is to ask for both."""
    return ["audio", "text"] if value == ["audio"] else ["text"]
