"""What the model says in one session, built once as whole frames with a place for the ids.

Every four seconds an answer of three seconds, in deltas of 100 ms at four times real time; every
second answer is interrupted. The order of events is that of recorded sessions.
"""

import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from gateway.audio.g711 import ENCODE
from gateway.audio.wav import read_wav
from gateway.bench.framing import server_frame
from gateway.events import AudioFormat
from gateway.simulator.dialects import Event, written
from gateway.simulator.options import Dialect

ANSWER_MS = 3000
ANSWER_EVERY_MS = 4000
CYCLE_MS = 2 * ANSWER_EVERY_MS
BARGE_IN_AFTER_MS = 1500

_DELTA_MS = 100
_PACE = 4
_DELTA_EVERY_MS = _DELTA_MS // _PACE
# Words arrive between two pieces of sound.
_WORD_OFFSET_MS = _DELTA_EVERY_MS // 2
_DELTAS = ANSWER_MS // _DELTA_MS
# From the end of the caller's turn to the first sound.
_THINKING_MS = 200
_SERIAL = "@" * 16
_WORDS = ("Of", "course,", "I", "will", "look", "that", "up", "for", "you", "now.") * 3


class Moment(Enum):
    """What a step means to the measurement."""

    NOTHING = auto()
    ANSWER_STARTS = auto()
    FIRST_DELTA = auto()
    FIRST_DELTA_TO_BE_CUT = auto()
    SPEECH_STARTED = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """Frames to be sent ``at_ms`` after the cycle began; ids belong between the ``pieces``."""

    at_ms: int
    moment: Moment
    pieces: tuple[bytes, ...]


@cache
def cycle(dialect: Dialect, audio: AudioFormat) -> tuple[Step, ...]:
    """Two answers: one that is heard in full, one that is interrupted."""
    steps = [
        *_answer(dialect, audio, 0, Moment.FIRST_DELTA),
        *_answer(dialect, audio, ANSWER_EVERY_MS, Moment.FIRST_DELTA_TO_BE_CUT),
    ]
    began_ms = ANSWER_EVERY_MS + _THINKING_MS
    barge_in = {
        "type": "input_audio_buffer.speech_started",
        "audio_start_ms": 5000,
        "item_id": f"item_{_SERIAL}_next",
    }
    steps.append(_step(began_ms + BARGE_IN_AFTER_MS, Moment.SPEECH_STARTED, [barge_in], dialect))
    return tuple(sorted(steps, key=lambda step: step.at_ms))


def serial(session: int, answer: int) -> bytes:
    """What stands in the ids of one answer; always of one length, so that frames keep theirs."""
    return b"%08d%08d" % (session % 10**8, answer % 10**8)


def frame_of(event: Event, dialect: Dialect) -> bytes:
    """One event as a server frame; b"" where the dialect has no such event."""
    shaped = written({"event_id": f"event_{_SERIAL}", **event}, dialect)
    return server_frame(msgspec.json.encode(shaped)) if shaped is not None else b""


def _step(at_ms: int, moment: Moment, events: list[Event], dialect: Dialect) -> Step:
    frames = b"".join(frame_of(event, dialect) for event in events)
    return Step(at_ms, moment, tuple(frames.split(_SERIAL.encode())))


def second_answer(script: tuple[Step, ...]) -> int:
    """The place in a cycle where its second answer begins."""
    return next(place for place, step in enumerate(script) if step.at_ms >= ANSWER_EVERY_MS)


def _answer(dialect: Dialect, audio: AudioFormat, at_ms: int, first: Moment) -> Iterator[Step]:
    yield _step(at_ms, Moment.ANSWER_STARTS, _beginning(audio), dialect)
    first_ms = at_ms + _THINKING_MS
    for number, payload in enumerate(_deltas(audio)):
        moment = Moment.NOTHING if number else first
        due_ms = first_ms + number * _DELTA_EVERY_MS
        sound = _named("response.output_audio.delta", delta=payload)
        words = _named("response.output_audio_transcript.delta", delta=f"{_WORDS[number]} ")
        yield _step(due_ms, moment, [sound], dialect)
        yield _step(due_ms + _WORD_OFFSET_MS, Moment.NOTHING, [words], dialect)
    yield _step(first_ms + _DELTAS * _DELTA_EVERY_MS, Moment.NOTHING, _ending(audio), dialect)


@cache
def _speech(audio: AudioFormat) -> bytes:
    """Three seconds of a shipped recording as this format has them."""
    with resources.as_file(resources.files("gateway") / "prompts" / "answer.wav") as path:
        pcm = read_wav(path, audio.rate_hz)[: ANSWER_MS * audio.rate_hz * 2 // 1000]
    encode = ENCODE.get(audio.encoding)
    return encode(pcm) if encode else pcm


def _deltas(audio: AudioFormat) -> Iterator[str]:
    payload, size = _speech(audio), _DELTA_MS * audio.bytes_per_ms
    for number in range(_DELTAS):
        piece = payload[number * size : (number + 1) * size]
        yield binascii.b2a_base64(piece, newline=False).decode()


# -- the events of one answer, in GA shape


def _named(name: str, **members: Any) -> Event:
    place = {"response_id": f"resp_{_SERIAL}", "item_id": f"item_{_SERIAL}"}
    return {"type": name, **place, "output_index": 0, "content_index": 0, **members}


def _item(status: str, content: list[Event]) -> Event:
    head = {"id": f"item_{_SERIAL}", "object": "realtime.item", "status": status}
    return {**head, "type": "message", "role": "assistant", "content": content}


def _about_item(name: str, item: Event) -> Event:
    return {"type": name, "response_id": f"resp_{_SERIAL}", "output_index": 0, "item": item}


def _response(audio: AudioFormat, status: str, output: list[Event], usage: Event | None) -> Event:
    kinds = {"pcm": "audio/pcm", "ulaw": "audio/pcmu", "alaw": "audio/pcma"}
    audio_format: Event = {"type": kinds[audio.encoding]}
    if audio.encoding == "pcm":
        audio_format["rate"] = audio.rate_hz
    return {
        "object": "realtime.response",
        "id": f"resp_{_SERIAL}",
        "status": status,
        "status_details": None,
        "output": output,
        "conversation_id": "conv_measured",
        "output_modalities": ["audio"],
        "max_output_tokens": "inf",
        "audio": {"output": {"format": audio_format, "voice": "marin"}},
        "usage": usage,
        "metadata": None,
    }


def _beginning(audio: AudioFormat) -> list[Event]:
    user_id = f"item_{_SERIAL}_user"
    content = [{"type": "input_audio", "transcript": None}]
    head = {"id": user_id, "object": "realtime.item", "status": "completed"}
    user = {**head, "type": "message", "role": "user", "content": content}
    vad = {"item_id": user_id}
    return [
        {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 6000, **vad},
        {"type": "input_audio_buffer.committed", "previous_item_id": None, **vad},
        {"type": "conversation.item.added", "previous_item_id": None, "item": user},
        {"type": "conversation.item.done", "previous_item_id": None, "item": user},
        {"type": "response.created", "response": _response(audio, "in_progress", [], None)},
        _about_item("response.output_item.added", _item("in_progress", [])),
        {
            "type": "conversation.item.added",
            "previous_item_id": user_id,
            "item": _item("in_progress", []),
        },
        _named("response.content_part.added", part={"type": "audio", "transcript": ""}),
    ]


def _ending(audio: AudioFormat) -> list[Event]:
    words = " ".join(_WORDS[:_DELTAS])
    item = _item("completed", [{"type": "output_audio", "transcript": words}])
    return [
        _named("response.output_audio.done"),
        _named("response.output_audio_transcript.done", transcript=words),
        _named("response.content_part.done", part={"type": "audio", "transcript": words}),
        {"type": "conversation.item.done", "previous_item_id": None, "item": item},
        _about_item("response.output_item.done", item),
        {"type": "response.done", "response": _response(audio, "completed", [item], _USAGE)},
    ]


_NO_CACHE = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
_USAGE: Event = {
    "total_tokens": 180,
    "input_tokens": 100,
    "output_tokens": 80,
    "input_token_details": {
        "text_tokens": 60,
        "audio_tokens": 40,
        "image_tokens": 0,
        "cached_tokens": 0,
        "cached_tokens_details": _NO_CACHE,
    },
    "output_token_details": {"text_tokens": 20, "audio_tokens": 60},
}
