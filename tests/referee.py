"""Judges realtime messages by the types of the ``openai`` package, which is none of ours.

Every event has to be one that package knows, with members of the right type and without a single
member it does not know. The exceptions are what its types lack but the service is seen to send.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args

from openai.types.beta.realtime.realtime_client_event import (
    RealtimeClientEvent as PreviewClientEvent,
)
from openai.types.beta.realtime.realtime_server_event import (
    RealtimeServerEvent as PreviewServerEvent,
)
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, ValidationError

Dialect = Literal["ga", "preview"]
Models = Mapping[str, type[BaseModel]]

# Seen in recordings of real sessions, absent from the package's types (its version 3.52).
_SENT_UNTYPED = {
    "ga": frozenset({"session.id", "session.object", "session.expires_at", "obfuscation"}),
    "preview": frozenset({"session.object", "session.expires_at", "obfuscation"}),
}
# Azure repeats the content part under its 2024 name.
_CONTENT_PART = frozenset({"response.content_part.added", "response.content_part.done"})


class Foul(AssertionError):
    """The event breaks the rules of its dialect; says which and where."""


def check_client_event(dialect: Dialect, event: Any) -> None:
    """Check a message for the model: the event as decoded JSON.

    Raises:
        Foul: unknown type, unknown member, or a member of the wrong type.
    """
    model = _parsed(_client_models(dialect), event)
    _no_unknown(model, frozenset(), event)


def check_server_event(dialect: Dialect, event: Any) -> None:
    """Check a message of the model: the event as decoded JSON.

    Raises:
        Foul: unknown type, unknown member, or a member of the wrong type.
    """
    model = _parsed(_server_models(dialect), event)
    extra = frozenset({"content"}) if event["type"] in _CONTENT_PART else frozenset()
    _no_unknown(model, _SENT_UNTYPED[dialect] | extra, event)


def _parsed(models: Models, event: Any) -> BaseModel:
    kind = str(event.get("type")) if isinstance(event, dict) else ""
    if kind not in models:
        raise Foul(f"no such event: {kind!r} in {str(event)[:200]}")
    try:
        return models[kind].model_validate(event, strict=True)
    except ValidationError as error:
        raise Foul(f"{error}\nin {str(event)[:500]}") from error


def _no_unknown(model: BaseModel, allowed: frozenset[str], event: Any) -> None:
    unknown = set(_unknown_members(model, "")) - allowed
    if unknown:
        raise Foul(f"unknown members {sorted(unknown)} in {str(event)[:500]}")


def _unknown_members(value: Any, path: str) -> Iterator[str]:
    """The dotted paths of all members that no type declares, list positions left out."""
    if isinstance(value, BaseModel):
        yield from (_below(path, name) for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _unknown_members(getattr(value, name), _below(path, name))
    elif isinstance(value, list):
        for entry in value:
            yield from _unknown_members(entry, path)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _by_type(union: Any) -> Models:
    models = get_args(get_args(union)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}


@cache
def _client_models(dialect: Dialect) -> Models:
    return _by_type(RealtimeClientEvent if dialect == "ga" else PreviewClientEvent)


@cache
def _server_models(dialect: Dialect) -> Models:
    return _by_type(RealtimeServerEvent if dialect == "ga" else PreviewServerEvent)
