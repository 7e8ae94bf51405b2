"""One response on its way: the events it sends, in the order of the service.

The order is that of recorded sessions. Token counts are simulated (one per 100 ms heard, one per
50 ms spoken, one per four characters): the real rates are not public.
"""

import binascii
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from gateway.events import AudioFormat
from gateway.simulator.agents import Part, Reply, ToolCall, Writing
from gateway.simulator.conversation import Conversation, Item
from gateway.simulator.dialects import Event
from gateway.simulator.faults import Faults
from gateway.simulator.ids import Ids
from gateway.simulator.options import Options, audio_format
from gateway.simulator.plan import (
    Close,
    Finish,
    Open,
    Pace,
    Planner,
    Sound,
    Step,
    Words,
    pieces,
)
from gateway.simulator.vad import BYTES_PER_MS

_INPUT_MS_PER_TOKEN = 100
_OUTPUT_MS_PER_TOKEN = 50
_CHARACTERS_PER_TOKEN = 4
_FAILURES = {
    "rate_limit_exceeded": "Rate limit reached for gpt-realtime on tokens per min (TPM): "
    "Limit 40000, Used 40000, Requested 1. Please try again in 1m26.4s.",
    "insufficient_quota": "You exceeded your current quota, please check your plan.",
}


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
        planner = Planner(scene.pace, scene.faults, self._format, scene.chance)
        self._steps: deque[tuple[float, Step]] = deque(planner.steps(reply, now))

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
        if all(isinstance(step, Finish) for _, step in self._steps) and self._steps:
            return
        self._final = ("cancelled", {"type": "cancelled", "reason": reason})
        steps: list[Step] = [*self._stragglers(), Close("incomplete"), Finish()]
        self._steps = deque((now, step) for step in steps)

    def _stragglers(self) -> list[Step]:
        """The deltas that were already on their way when the cancel came."""
        sounds = [step for _, step in self._steps if isinstance(step, Sound)]
        return [*sounds[: self._scene.faults.deltas_after_cancel]] if self._open else []

    # -- the events

    def _perform(self, step: Step) -> list[Event]:
        match step:
            case Open():
                return self._opened(step.part)
            case Words():
                return [self._worded(step.text)]
            case Sound():
                return [self._sounded(step)]
            case Close():
                return self._closed(step.status)
            case Finish():
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

    def _sounded(self, sound: Sound) -> Event:
        item = self._item
        item.audio_ms += len(sound.payload) // self._format.bytes_per_ms
        self.spoken.setdefault(item.id, bytearray()).extend(sound.pcm)
        self._deltas += 1
        if self._deltas == self._scene.faults.stall_after_deltas:
            self._steps.clear()
        return self._named("response.output_audio.delta", delta=self._encoded(sound.payload))

    def _encoded(self, payload: bytes) -> str:
        text = binascii.b2a_base64(payload, newline=False).decode()
        if self._scene.faults.loose_base64:
            return "\n".join(pieces(text.rstrip("="), 76))
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


def _copy(body: Event) -> Event:
    """The item as it is now: what was sent must not change when the item goes on."""
    if "content" not in body:
        return {**body}
    return {**body, "content": [{**content} for content in body["content"]]}


def _input_tokens(conversation: Conversation) -> tuple[int, int]:
    text = sum(len(item.text) for item in conversation) // _CHARACTERS_PER_TOKEN
    audio = sum(item.audio_ms for item in conversation) // _INPUT_MS_PER_TOKEN
    return text, audio
