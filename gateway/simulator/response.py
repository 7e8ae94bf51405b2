"""One response on its way: which events, in which order, when.

The order is that of recorded sessions. Audio comes faster than real time; words precede the audio
they belong to. Token counts are simulated (one per 100 ms heard, one per 50 ms spoken, one per four
characters): the real rates are not public.
"""

import binascii
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gateway.audio.convert import Converter
from gateway.events import AudioFormat
from gateway.simulator.agents import Part, Reply, Speech, ToolCall, Writing
from gateway.simulator.conversation import Conversation, Item
from gateway.simulator.dialects import Event
from gateway.simulator.faults import Faults
from gateway.simulator.ids import Ids
from gateway.simulator.options import Options, audio_format
from gateway.simulator.vad import BYTES_PER_MS, RATE_HZ

_INPUT_MS_PER_TOKEN = 100
_OUTPUT_MS_PER_TOKEN = 50
_CHARACTERS_PER_TOKEN = 4
_ARGUMENT_PIECE = 20
_FAILURES = {
    "rate_limit_exceeded": "Rate limit reached for gpt-realtime on tokens per min (TPM): "
    "Limit 40000, Used 40000, Requested 1. Please try again in 1m26.4s.",
    "insufficient_quota": "You exceeded your current quota, please check your plan.",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a response comes.

    ``speed`` times real time (``math.inf``: all at once), the first audio ``first_delta_s`` after
    the response began, in deltas of ``delta_ms`` (the first ``first_delta_ms``), each up to
    ``jitter_s`` late.
    """

    speed: float = 5.0
    first_delta_s: float = 0.3
    delta_ms: int = 200
    first_delta_ms: int = 400
    jitter_s: float = 0.02


@dataclass(frozen=True, slots=True)
class _Open:
    part: Part


@dataclass(frozen=True, slots=True)
class _Words:
    text: str


@dataclass(frozen=True, slots=True)
class _Sound:
    payload: bytes
    pcm: bytes


@dataclass(frozen=True, slots=True)
class _Close:
    status: str


@dataclass(frozen=True, slots=True)
class _Finish:
    pass


_Step = _Open | _Words | _Sound | _Close | _Finish


@dataclass(slots=True)
class Scene:
    """What a response is made in: the session's names, options, items, pace, faults."""

    ids: Ids
    options: Options
    conversation: Conversation
    conversation_id: str
    pace: Pace
    faults: Faults
    chance: random.Random


class Response:
    """A response from its creation to ``response.done``."""

    def __init__(self, reply: Reply, scene: Scene, now: float) -> None:
        self.id = scene.ids.new("resp")
        self.is_done = False
        self.spoken: dict[str, bytearray] = {}
        self._scene = scene
        self._format: AudioFormat = audio_format(scene.options, "output")
        self._status = "in_progress"
        self._details: Event | None = None
        self._final = _final_status(reply)
        self._items: list[Item] = []
        self._open: Item | None = None
        self._deltas = 0
        self._input = _input_tokens(scene.conversation)
        self._steps: deque[tuple[float, _Step]] = deque(self._planned(reply, now))

    @property
    def due_s(self) -> float | None:
        """When the next event is due."""
        return self._steps[0][0] if self._steps else None

    @property
    def spoken_s(self) -> float:
        """How long its audio plays."""
        return sum(len(pcm) for pcm in self.spoken.values()) / BYTES_PER_MS / 1000

    def start(self) -> Event:
        """The first event."""
        return {"type": "response.created", "response": self._body()}

    def run(self, now: float) -> list[Event]:
        """Everything due by now."""
        events: list[Event] = []
        while self._steps and self._steps[0][0] <= now:
            events += self._perform(self._steps.popleft()[1])
        return events

    def cancel(self, reason: str, now: float) -> None:
        """Stop: close what is open as incomplete. A response that has only to finish, finishes."""
        if all(isinstance(step, _Finish) for _, step in self._steps) and self._steps:
            return
        self._final = ("cancelled", {"type": "cancelled", "reason": reason})
        steps: list[_Step] = [*self._stragglers(), _Close("incomplete"), _Finish()]
        self._steps = deque((now, step) for step in steps)

    def _stragglers(self) -> list[_Step]:
        """The deltas that were already on their way when the cancel came."""
        sounds = [step for _, step in self._steps if isinstance(step, _Sound)]
        return [*sounds[: self._scene.faults.deltas_after_cancel]] if self._open else []

    # -- the plan

    def _planned(self, reply: Reply, now: float) -> Iterator[tuple[float, _Step]]:
        pace, faults = self._scene.pace, self._scene.faults
        due_s = now + (pace.first_delta_s if reply.latency_s is None else reply.latency_s)
        for part in reply.parts:
            yield due_s, _Open(part)
            for position_ms, step in self._contents(part):
                late_s = position_ms / 1000 / pace.speed
                yield due_s + late_s + self._scene.chance.uniform(0, pace.jitter_s), step
            due_s += _part_ms(part) / 1000 / pace.speed + pace.jitter_s
            yield due_s, _Close("incomplete" if reply.incomplete else "completed")
        yield due_s + faults.late_done_s, _Finish()

    def _contents(self, part: Part) -> Iterator[tuple[int, _Step]]:
        if isinstance(part, Speech):
            yield from self._speech(part)
        elif isinstance(part, Writing):
            yield from ((0, _Words(word)) for word in _words(part.text))
        else:
            yield from ((0, _Words(piece)) for piece in _pieces(part.arguments, _ARGUMENT_PIECE))

    def _speech(self, speech: Speech) -> Iterator[tuple[int, _Step]]:
        payload = self._converted(speech.pcm)
        words = deque(_words(speech.text))
        for start_ms, end_ms, start, end in self._cuts(len(payload)):
            share = end / len(payload)
            while words and 1 - len(words) / (speech.text.count(" ") + 1) < share:
                yield start_ms, _Words(words.popleft())
            pcm_end = len(speech.pcm) if end == len(payload) else end_ms * BYTES_PER_MS
            pcm = speech.pcm[start_ms * BYTES_PER_MS : pcm_end]
            yield start_ms, _Sound(payload[start:end], pcm)

    def _converted(self, pcm: bytes) -> bytes:
        converter = Converter("pcm", RATE_HZ, self._format.encoding, self._format.rate_hz)
        return converter.convert(pcm) + converter.flush()

    def _cuts(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Where deltas begin and end, in milliseconds and in bytes."""
        pace, faults = self._scene.pace, self._scene.faults
        per_ms = self._format.bytes_per_ms
        odd = 1 if faults.odd_deltas else 0
        start_ms, start, length_ms = 0, 0, faults.delta_ms or pace.first_delta_ms
        while start < size:
            end_ms = start_ms + length_ms
            end = min(end_ms * per_ms + odd, size)
            # A rest of less than a millisecond (the filter's tail) goes with the last delta.
            end = size if size - end < per_ms else end
            yield start_ms, end_ms, start, end
            start_ms, start, length_ms = end_ms, end, faults.delta_ms or pace.delta_ms

    # -- the events

    def _perform(self, step: _Step) -> list[Event]:
        match step:
            case _Open():
                return self._opened(step.part)
            case _Words():
                return [self._worded(step.text)]
            case _Sound():
                return [self._sounded(step)]
            case _Close():
                return self._closed(step.status)
            case _Finish():
                return self._finished()

    def _opened(self, part: Part) -> list[Event]:
        item = Item(self._fresh_body(part))
        self._items.append(item)
        self._open = item
        previous_id = self._scene.conversation.add(item)
        events: list[Event] = [
            self._about_item("response.output_item.added"),
            {
                "type": "conversation.item.added",
                "previous_item_id": previous_id,
                "item": _copy(item.body),
            },
        ]
        if isinstance(part, ToolCall):
            return events
        item.body["content"] = [_empty_content(part)]
        return [*events, self._named("response.content_part.added", part=self._part())]

    def _fresh_body(self, part: Part) -> Event:
        head = {"id": self._scene.ids.new("item"), "status": "in_progress"}
        if isinstance(part, ToolCall):
            call_id = self._scene.ids.new("call")
            named = {"name": part.name, "call_id": call_id, "arguments": ""}
            return {**head, "type": "function_call", **named}
        return {**head, "type": "message", "role": "assistant", "content": []}

    def _worded(self, text: str) -> Event:
        body = self._item.body
        if body["type"] == "function_call":
            body["arguments"] += text
            return self._named("response.function_call_arguments.delta", delta=text)
        content = body["content"][0]
        if content["type"] == "output_text":
            content["text"] += text
            return self._named("response.output_text.delta", delta=text)
        content["transcript"] = content.get("transcript", "") + text
        return self._named("response.output_audio_transcript.delta", delta=text)

    def _sounded(self, sound: _Sound) -> Event:
        item = self._item
        item.pcm += sound.pcm
        item.audio_ms += len(sound.payload) // self._format.bytes_per_ms
        self.spoken.setdefault(item.id, bytearray()).extend(sound.pcm)
        self._deltas += 1
        if self._deltas == self._scene.faults.stall_after_deltas:
            self._steps.clear()
        return self._named("response.output_audio.delta", delta=self._encoded(sound.payload))

    def _encoded(self, payload: bytes) -> str:
        text = binascii.b2a_base64(payload, newline=False).decode()
        if self._scene.faults.loose_base64:
            return "\n".join(_pieces(text.rstrip("="), 76))
        return text

    def _closed(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        body = self._open.body
        body["status"] = status
        ends = self._call_ends() if body["type"] == "function_call" else self._message_ends()
        item_done = {
            "type": "conversation.item.done",
            "previous_item_id": self._previous_id(),
            "item": _copy(body),
        }
        events = [*ends, item_done, self._about_item("response.output_item.done")]
        self._open = None
        return events

    def _call_ends(self) -> list[Event]:
        body = self._item.body
        done = "response.function_call_arguments.done"
        return [self._named(done, name=body["name"], arguments=body["arguments"])]

    def _message_ends(self) -> list[Event]:
        content = self._item.body["content"][0]
        part_done = self._named("response.content_part.done", part=self._part())
        if content["type"] == "output_text":
            return [self._named("response.output_text.done", text=content["text"]), part_done]
        transcript = content.get("transcript", "")
        return [
            self._named("response.output_audio.done"),
            self._named("response.output_audio_transcript.done", transcript=transcript),
            part_done,
        ]

    def _finished(self) -> list[Event]:
        self._status, self._details = self._final
        self.is_done = True
        done = {"type": "response.done", "response": self._body(self._usage())}
        return [done, done] if self._scene.faults.duplicate_done else [done]

    # -- shapes

    @property
    def _item(self) -> Item:
        return self._items[-1]

    def _previous_id(self) -> str | None:
        order = [item.id for item in self._scene.conversation]
        place = order.index(self._item.id) if self._item.id in order else 0
        return order[place - 1] if place else None

    def _part(self) -> Event:
        content = self._item.body["content"][0]
        if content["type"] == "output_text":
            return {"type": "text", "text": content["text"]}
        return {"type": "audio", "transcript": content.get("transcript", "")}

    def _about_item(self, name: str) -> Event:
        return {
            "type": name,
            "response_id": self.id,
            "output_index": len(self._items) - 1,
            "item": _copy(self._item.body),
        }

    def _named(self, name: str, /, **members: Any) -> Event:
        body = self._item.body
        place: Event = {
            "type": name,
            "response_id": self.id,
            "item_id": body["id"],
            "output_index": len(self._items) - 1,
        }
        is_call = body["type"] == "function_call"
        where = {"call_id": body["call_id"]} if is_call else {"content_index": 0}
        return {**place, **where, **members}

    def _body(self, usage: Event | None = None) -> Event:
        options = self._scene.options
        output = {name: options[f"audio.output.{name}"] for name in ("format", "voice")}
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self._status,
            "status_details": self._details,
            "output": [_copy(item.body) for item in self._items] if self.is_done else [],
            "conversation_id": self._scene.conversation_id,
            "output_modalities": options["output_modalities"],
            "max_output_tokens": options["max_output_tokens"],
            "audio": {"output": output},
            "usage": usage,
            "metadata": options.get("metadata"),
        }

    def _usage(self) -> Event:
        text = sum(len(item.text) for item in self._items) // _CHARACTERS_PER_TOKEN
        audio = sum(item.audio_ms for item in self._items) // _OUTPUT_MS_PER_TOKEN
        text_in, audio_in = self._input
        cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
        details = {"text_tokens": text_in, "audio_tokens": audio_in, "image_tokens": 0}
        return {
            "total_tokens": text + audio + text_in + audio_in,
            "input_tokens": text_in + audio_in,
            "output_tokens": text + audio,
            "input_token_details": {**details, "cached_tokens": 0, "cached_tokens_details": cached},
            "output_token_details": {"text_tokens": text, "audio_tokens": audio},
        }


def spoiled(reply: Reply, faults: Faults) -> Reply:
    """The reply after the faults that change what is said."""
    parts = reply.parts
    if faults.extra_items:
        parts = (*parts, *parts, ToolCall("first_tool", "{}"), ToolCall("second_tool", "{}"))
    if faults.unknown_tool:
        parts = (ToolCall("no_such_tool", '{"n": 1}'),)
    parts = tuple(_spoiled_part(part, faults) for part in parts)
    fail = faults.fail_response or reply.fail
    incomplete = faults.incomplete_response or reply.incomplete
    parts = () if fail else parts
    if incomplete:
        parts = tuple(_half(part) for part in parts)
    return replace(reply, parts=parts, fail=fail, incomplete=incomplete)


def in_text(reply: Reply) -> Reply:
    """The reply in writing, for a session whose output is text."""
    written = [Writing(part.text) if isinstance(part, Speech) else part for part in reply.parts]
    return replace(reply, parts=tuple(written))


def _spoiled_part(part: Part, faults: Faults) -> Part:
    if faults.text_answers and isinstance(part, Speech):
        return Writing(part.text)
    if faults.long_arguments_bytes and isinstance(part, ToolCall):
        return replace(part, arguments=f'{{"padding": "{"x" * faults.long_arguments_bytes}"}}')
    return part


def _half(part: Part) -> Part:
    if isinstance(part, Speech):
        # On a sample's boundary.
        return Speech(part.pcm[: len(part.pcm) // 4 * 2], part.text[: len(part.text) // 2])
    return part


def _final_status(reply: Reply) -> tuple[str, Event | None]:
    if reply.fail:
        error = {
            "type": "server_error" if reply.fail == "server_error" else "invalid_request_error",
            "code": reply.fail,
            "message": _FAILURES.get(reply.fail, "The response failed."),
        }
        return "failed", {"type": "failed", "error": error}
    if reply.incomplete:
        return "incomplete", {"type": "incomplete", "reason": reply.incomplete}
    return "completed", None


def _empty_content(part: Part) -> Event:
    if isinstance(part, Writing):
        return {"type": "output_text", "text": ""}
    return {"type": "output_audio", "transcript": ""}


def _part_ms(part: Part) -> int:
    return len(part.pcm) // BYTES_PER_MS if isinstance(part, Speech) else 0


def _words(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def _pieces(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(0, len(text), length)]


def _copy(body: Event) -> Event:
    """The item as it is now: what was sent must not change when the item goes on."""
    if "content" not in body:
        return {**body}
    return {**body, "content": [{**content} for content in body["content"]]}


def _input_tokens(conversation: Conversation) -> tuple[int, int]:
    text = sum(len(item.text) for item in conversation) // _CHARACTERS_PER_TOKEN
    audio = sum(item.audio_ms for item in conversation) // _INPUT_MS_PER_TOKEN
    return text, audio
