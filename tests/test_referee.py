"""The referee sees fouls and lets fair play pass."""

import copy
from typing import Any

import pytest

from tests.referee import Foul, check_client_event, check_server_event

GA_UPDATE: dict[str, Any] = {
    "type": "session.update",
    "session": {
        "type": "realtime",
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "turn_detection": {"type": "server_vad", "threshold": 0.5},
            },
        },
    },
}
PREVIEW_UPDATE = {
    "type": "session.update",
    "session": {"modalities": ["audio", "text"], "input_audio_format": "g711_ulaw"},
}
CREATED = {
    "type": "session.created",
    "event_id": "event_1",
    "session": {"type": "realtime", "id": "sess_1", "object": "realtime.session", "expires_at": 1},
}


def _with(path: str, value: object) -> dict[str, Any]:
    event = copy.deepcopy(GA_UPDATE)
    *parents, last = path.split(".")
    members = event
    for parent in parents:
        members = members[parent]
    members[last] = value
    return event


def test_fair_play_passes() -> None:
    """Each dialect's own session shape, and the untyped members the service sends, are fine."""
    check_client_event("ga", GA_UPDATE)
    check_client_event("preview", PREVIEW_UPDATE)
    check_server_event("ga", CREATED)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("session.voice", "marin"),
        ("session.temperature", 0.8),
        ("session.audio.input.turn_detection.eagerness", "low"),
        ("session.audio.input.format", {"type": "audio/pcmu", "rate": 8000}),
        ("session.audio.input.format", {"type": "audio/pcm", "rate": 8000}),
        ("session.audio.input.turn_detection.threshold", "0.5"),
        ("session.type", "telephone"),
        ("type", "session.updat"),
        ("extra", 1),
    ],
)
def test_a_foul_of_ours_is_seen(path: str, value: object) -> None:
    """Flat members in a GA session, wrong types and unknown members at any depth are fouls."""
    with pytest.raises(Foul):
        check_client_event("ga", _with(path, value))


def test_the_dialects_do_not_mix() -> None:
    """A session of one dialect, or an event name of the other, is a foul."""
    delta = {
        "type": "response.audio.delta",
        "event_id": "event_1",
        "response_id": "resp_1",
        "item_id": "item_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "AAAA",
    }
    check_server_event("preview", delta)

    with pytest.raises(Foul):
        check_client_event("ga", PREVIEW_UPDATE)
    with pytest.raises(Foul):
        check_client_event("preview", GA_UPDATE)
    with pytest.raises(Foul):
        check_server_event("ga", delta)


def test_only_a_part_may_be_repeated_as_content() -> None:
    """Azure's copy of the content part is let pass there, and nowhere else."""
    part = {
        "type": "response.content_part.added",
        "event_id": "event_1",
        "response_id": "resp_1",
        "item_id": "item_1",
        "output_index": 0,
        "content_index": 0,
        "part": {"type": "audio", "transcript": ""},
        "content": {"type": "audio", "transcript": ""},
    }
    check_server_event("ga", part)

    with pytest.raises(Foul):
        check_server_event("ga", {**CREATED, "content": {}})


@pytest.mark.parametrize("event", [None, [], "session.update", {}, {"type": 1}])
def test_what_is_no_event_is_a_foul(event: object) -> None:
    """JSON that is no object with a type is refused without a crash."""
    with pytest.raises(Foul):
        check_client_event("ga", event)
