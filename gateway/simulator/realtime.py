"""A Realtime API session as the service holds it: messages, time in; messages out; no sockets."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.simulator import refusals
from gateway.simulator.agents import Agent, Asked, Cause
from gateway.simulator.conversation import Conversation, Item
from gateway.simulator.dialects import Event, misnamed, written
from gateway.simulator.faults import IDLE, NO_FAULTS, Faults
from gateway.simulator.hearing import Hearing
from gateway.simulator.ids import Ids
from gateway.simulator.mishaps import CloseSocket, Mishaps, error_event
from gateway.simulator.options import (
    Dialect,
    Options,
    audio_format,
    default_options,
    shown,
    updated,
)
from gateway.simulator.overrides import overrides
from gateway.simulator.plan import Pace
from gateway.simulator.refusals import RequestRefused
from gateway.simulator.response import Response, Scene
from gateway.simulator.spoiling import in_text, spoiled
from gateway.simulator.timers import Timers
from gateway.simulator.vad import BYTES_PER_MS, SpeechBegan, SpeechEdge

_KEPT = 10_000
_FALSE_START_S = 0.08


@dataclass(frozen=True, slots=True)
class Habits:
    """How this service behaves where the protocol leaves it open.

    At most ``record_s`` of caller audio is remembered.
    """

    model: str = "gpt-realtime"
    pace: Pace = field(default_factory=Pace)
    faults: Faults = NO_FAULTS
    session_s: float = 3600.0
    transcription_delay_s: float = 0.4
    record_s: int = 600
    seed: int = 1


class RealtimeSession:
    """One session. ``now`` is any steady clock in seconds; ``unix_s`` is for ``expires_at`` only.

    After every call: send what is in ``outbox`` (JSON texts, in order), then obey ``closing``.

    Attributes:
        hearing: what the caller said: ``hearing.heard.pcm``, 16-bit at 24 kHz.
        spoken: what was generated of each item, 16-bit at 24 kHz, by item id.
        truncations: item id, audio_end_ms of each truncation that was accepted.
        received: the client's events in order, without the audio of appends.
    """

    def __init__(
        self, dialect: Dialect, agent: Agent, habits: Habits, ids: Ids, *, unix_s: float = 0.0
    ) -> None:
        self.id = ids.new("sess")
        self.dialect = dialect
        self.outbox: deque[str] = deque()
        self.closing: CloseSocket | None = None
        self.hearing = Hearing(habits.record_s * 1000)
        self.spoken: dict[str, bytearray] = {}
        self.truncations: deque[tuple[str, int]] = deque(maxlen=_KEPT)
        self.received: deque[Event] = deque(maxlen=_KEPT)
        self.conversation = Conversation()
        self.options: Options = default_options(habits.model)
        self._agent = agent
        self._habits = habits
        self._faults = habits.faults
        self._ids = ids
        self._expires_at = int(unix_s + habits.session_s)
        self._conversation_id = ids.new("conv")
        self._random = random.Random(habits.seed)  # noqa: S311  jitter
        self._timers = Timers()
        self._response: Response | None = None
        self._responses = 0
        self._asked_pcm = bytearray()
        self._asked_texts: deque[str] = deque(maxlen=_KEPT)
        self._tool_outputs = 0
        self._turn_id = ""
        self._mishaps = Mishaps(self._faults)
        self._requests: dict[str, Callable[[Event, float], None]] = {
            "session.update": self._update_session,
            "input_audio_buffer.append": self._append_audio,
            "input_audio_buffer.commit": self._commit_audio,
            "input_audio_buffer.clear": self._clear_audio,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.truncate": self._truncate_item,
            "conversation.item.delete": self._delete_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
        }

    # -- the driver's side

    def start(self, now: float) -> None:
        """The socket is open."""
        faults = self._faults
        if faults.reject_code:
            self._reject(faults.reject_code)
            return
        session_s = faults.expires_after_s or self._habits.session_s
        self._timers.set("expiry", now + session_s, self._expire)
        if faults.close_code and faults.close_when == IDLE:
            close = CloseSocket(faults.close_code, "simulated fault")
            self._timers.set("close", now + faults.close_after_s, lambda _now: self._close(close))
        if not faults.no_session_created:
            self._emit({"type": "session.created", "session": self._session()}, now)

    def receive(self, message: str | bytes, now: float) -> None:
        """One message of the client. Whatever it is, the answer is events, never an exception."""
        if self.closing is not None:
            return
        event_id = None
        try:
            event = _decoded(message)
            event_id = event.get("event_id")
            self._request(event, now)
        except RequestRefused as refusal:
            self._emit({"type": "error", "error": refusal.body(event_id)}, now)

    def next_timer(self) -> float | None:
        """When ``timer_fired`` wants to be called next."""
        if self.closing is not None:
            return None
        due = (self._timers.next_s(), self._response.due_s if self._response else None)
        return min((due_s for due_s in due if due_s is not None), default=None)

    def timer_fired(self, now: float) -> None:
        """Do everything that is due by now."""
        while self.closing is None and (due_s := self.next_timer()) is not None and due_s <= now:
            self._timers.run(now)
            self._carry_on(now)

    def forget_audio(self) -> None:
        """Give back the memory of a session that is over."""
        self.hearing.heard.pcm.clear()
        self.spoken.clear()

    # -- requests

    def _request(self, event: Event, now: float) -> None:
        kind = event.get("type")
        request = self._requests.get(kind) if isinstance(kind, str) else None
        if request is None:
            raise refusals.invalid_event(f"Invalid event type: {kind!r:.80}")
        if kind != "input_audio_buffer.append":
            self.received.append(event)
        request(event, now)

    def _update_session(self, event: Event, now: float) -> None:
        options = updated(self.options, event.get("session"), self.dialect)
        self._check_frozen(options)
        self.options = options
        self.hearing.configure(
            audio_format(options, "input"), options["audio.input.turn_detection"]
        )
        if not self._faults.no_session_updated:
            self._emit({"type": "session.updated", "session": self._session()}, now)

    def _check_frozen(self, options: Options) -> None:
        if options["model"] != self.options["model"]:
            raise refusals.invalid_value("session.model", options["model"])
        voice = "audio.output.voice"
        if self.spoken and options[voice] != self.options[voice]:
            raise RequestRefused(
                "cannot_update_voice",
                "Cannot update a conversation's voice if assistant audio is present.",
            )

    def _append_audio(self, event: Event, now: float) -> None:
        for edge in self.hearing.append(event.get("audio")):
            self._heard_edge(edge, now)

    def _commit_audio(self, _event: Event, now: float) -> None:
        self._commit(self._ids.new("item"), self.hearing.commit(), now)

    def _clear_audio(self, _event: Event, now: float) -> None:
        self.hearing.clear()
        self._emit({"type": "input_audio_buffer.cleared"}, now)

    def _create_item(self, event: Event, now: float) -> None:
        item = self.conversation.created(event.get("item"), self._ids)
        previous_id = self.conversation.add(item, event.get("previous_item_id"))
        self._tool_outputs += item.body["type"] == "function_call_output"
        if item.body.get("role") == "user":
            self._asked_texts.append(item.text)
        self._show_item(item, previous_id, now)

    def _retrieve_item(self, event: Event, now: float) -> None:
        item = self.conversation.get(event.get("item_id"))
        self._emit({"type": "conversation.item.retrieved", "item": item.body}, now)

    def _truncate_item(self, event: Event, now: float) -> None:
        members = {name: event.get(name) for name in ("item_id", "content_index", "audio_end_ms")}
        self.conversation.truncate(**members)
        self.truncations.append((str(members["item_id"]), int(str(members["audio_end_ms"]))))
        self._emit({"type": "conversation.item.truncated", **members}, now)

    def _delete_item(self, event: Event, now: float) -> None:
        self.conversation.delete(event.get("item_id"))
        self._emit({"type": "conversation.item.deleted", "item_id": event["item_id"]}, now)

    def _create_response(self, event: Event, now: float) -> None:
        self._respond(self._cause(), now, overrides(event.get("response"), self.dialect))

    def _cancel_response(self, event: Event, now: float) -> None:
        response = self._response
        if response is None or event.get("response_id", response.id) not in (None, response.id):
            raise refusals.cancel_not_active()
        response.cancel("client_cancelled", now)
        self._carry_on(now)

    # -- the caller's turn

    def _heard_edge(self, edge: SpeechEdge, now: float) -> None:
        if isinstance(edge, SpeechBegan):
            self._begin_turn(edge.audio_start_ms, now)
        else:
            pcm = self.hearing.cut(edge.audio_start_ms, edge.audio_end_ms)
            self._end_turn(pcm, edge.audio_end_ms, now)

    def _begin_turn(self, audio_start_ms: int, now: float) -> None:
        self._timers.drop("idle")
        self._turn_id = self._ids.new("item")
        place = {"audio_start_ms": audio_start_ms, "item_id": self._turn_id}
        self._emit({"type": "input_audio_buffer.speech_started", **place}, now)
        if self._response and self._turn_detection().get("interrupt_response"):
            self._response.cancel("turn_detected", now)
            self._carry_on(now)

    def _end_turn(self, pcm: bytes, audio_end_ms: int, now: float) -> None:
        place = {"audio_end_ms": audio_end_ms, "item_id": self._turn_id}
        if not self._faults.no_speech_stopped:
            self._emit({"type": "input_audio_buffer.speech_stopped", **place}, now)
        self._commit(self._turn_id, pcm, now)
        if self._turn_detection().get("create_response"):
            self._answer(now)

    def _answer(self, now: float) -> None:
        """Respond unasked, as turn detection does."""
        if self._faults.silent and self._faults.response in (0, self._responses + 1):
            self._responses += 1
            return
        try:
            self._respond("speech", now)
        except RequestRefused as refusal:
            self._emit({"type": "error", "error": refusal.body(None)}, now)

    def _commit(self, item_id: str, pcm: bytes, now: float) -> None:
        content = {"type": "input_audio", "transcript": None}
        body = {"id": item_id, "type": "message", "status": "completed", "role": "user"}
        item = Item({**body, "content": [content]}, len(pcm) // BYTES_PER_MS)
        previous_id = self.conversation.add(item)
        place = {"previous_item_id": previous_id, "item_id": item_id}
        self._emit({"type": "input_audio_buffer.committed", **place}, now)
        self._show_item(item, previous_id, now)
        self._asked_pcm += pcm
        del self._asked_pcm[: -self._habits.record_s * 1000 * BYTES_PER_MS]
        self._transcribe_later(item, pcm, now)

    def _transcribe_later(self, item: Item, pcm: bytes, now: float) -> None:
        if self.options["audio.input.transcription"] is None or self._faults.no_transcription:
            return
        # Asked now: an agent with a script answers for the turn it is at.
        text = self._agent.transcribe(pcm)
        delay_s = self._faults.transcription_delay_s or self._habits.transcription_delay_s
        self._timers.set(
            f"transcript {item.id}", now + delay_s, lambda at: self._transcribe(item, text, at)
        )

    def _transcribe(self, item: Item, text: str, now: float) -> None:
        name = "conversation.item.input_audio_transcription"
        place = {"item_id": item.id, "content_index": 0}
        item.body["content"][0]["transcript"] = text
        self._emit({"type": f"{name}.delta", **place, "delta": text}, now)
        usage = {"type": "duration", "seconds": item.audio_ms / 1000}
        done = {"type": f"{name}.completed", **place, "transcript": text, "usage": usage}
        self._emit(done, now)

    def _show_item(self, item: Item, previous_id: str | None, now: float) -> None:
        place = {"previous_item_id": previous_id, "item": item.body}
        self._emit({"type": "conversation.item.added", **place}, now)
        self._emit({"type": "conversation.item.done", **place}, now)

    # -- the agent's turn

    def _cause(self) -> Cause:
        if self._tool_outputs:
            return "tool"
        if self._asked_pcm:
            return "speech"
        return "text" if self._asked_texts else "create"

    def _respond(self, cause: Cause, now: float, own: Options | None = None) -> None:
        if self._response is not None:
            raise refusals.response_already_active(self._response.id)
        self._timers.drop("idle")
        self._responses += 1
        faults = self._faults.for_response(self._responses)
        scene = Scene(
            self._ids,
            self.options | (own or {}),
            self.conversation,
            self._conversation_id,
            self._habits.pace,
            faults,
            self._random,
        )
        asked = Asked(cause, bytes(self._asked_pcm), tuple(self._asked_texts))
        reply = spoiled(self._agent.reply(asked), faults)
        if scene.options["output_modalities"] == ["text"]:
            reply = in_text(reply)
        self._forget_asked()
        self._response = Response(reply, scene, now)
        self._emit(self._response.start(), now)
        self._carry_on(now)

    def _forget_asked(self) -> None:
        self._asked_pcm.clear()
        self._asked_texts.clear()
        self._tool_outputs = 0

    def _carry_on(self, now: float) -> None:
        """Send what the response has to send by now."""
        response = self._response
        if response is None:
            return
        for event in response.run(now):
            self._emit(event, now)
        self.spoken.update(response.spoken)
        self._forget_oldest()
        if response.is_done and self._response is response:
            self._response = None
            self._after_response(response, now)

    def _forget_oldest(self) -> None:
        limit = self._habits.record_s * 1000 * BYTES_PER_MS
        while len(self.spoken) > 1 and sum(map(len, self.spoken.values())) > limit:
            del self.spoken[next(iter(self.spoken))]

    def _after_response(self, response: Response, now: float) -> None:
        if self.dialect.service == "openai":
            limits = {"name": "tokens", "limit": 40000, "remaining": 39500, "reset_seconds": 0.75}
            self._emit({"type": "rate_limits.updated", "rate_limits": [limits]}, now)
        idle_ms = self._turn_detection().get("idle_timeout_ms")
        if idle_ms:
            due_s = now + response.spoken_s + idle_ms / 1000
            self._timers.set("idle", due_s, self._time_out)

    def _time_out(self, now: float) -> None:
        """The caller said nothing for the idle timeout: take the silence for a turn."""
        if self.hearing.is_in_speech or self._response is not None:
            return
        end_ms = self.hearing.clock_ms
        idle_ms = int(self._turn_detection().get("idle_timeout_ms") or 0)
        place = {"audio_start_ms": max(0, end_ms - idle_ms), "audio_end_ms": end_ms}
        item_id = self._ids.new("item")
        name = "input_audio_buffer.timeout_triggered"
        self._emit({"type": name, **place, "item_id": item_id}, now)
        self._commit(item_id, self.hearing.cut(place["audio_start_ms"], end_ms), now)
        self._respond("timeout", now)

    def _turn_detection(self) -> dict[str, Any]:
        return self.options["audio.input.turn_detection"] or {}

    # -- what goes out

    def _emit(self, event: Event, now: float) -> None:
        if self.closing is not None:
            return
        wire = written(event, self.dialect)
        if wire is not None:
            self._post(wire)
            self._watch(event, now)

    def _post(self, event: Event) -> None:
        if self._faults.other_dialect:
            event = misnamed(event)
        extra: Event = {"x_unheard_of": {"of": [1]}} if self._faults.unknown_members else {}
        head = {"type": event["type"], "event_id": self._ids.new("event")}
        self.outbox.append(_encoded({**head, **event, **extra}))
        if self._faults.unknown_events:
            unheard = {"type": "session.mood.changed", "event_id": self._ids.new("event")}
            self.outbox.append(_encoded(unheard | {"mood": {"is_good": True}}))

    def _session(self) -> Event:
        head = {"object": "realtime.session", "id": self.id, "expires_at": self._expires_at}
        kind = {"type": "realtime"} if self.dialect.name == "ga" else {}
        return {**kind, **head, **shown(self.options, self.dialect)}

    # -- faults of the session

    def _watch(self, event: Event, now: float) -> None:
        """Let the faults that wait for an event act."""
        error, close = self._mishaps.after(event)
        if error:
            self._emit(self._addressed(error), now)
        self.closing = self.closing or close
        if self._mishaps.starts_falsely(event):
            self._start_falsely(now)

    def _addressed(self, error: Event) -> Event:
        """A refused create is named in the error, as the services do."""
        creates = [e for e in self.received if e.get("type") == "response.create"]
        if error["error"]["code"] != refusals.ACTIVE_RESPONSE or not creates:
            return error
        return {**error, "error": {**error["error"], "event_id": creates[-1].get("event_id")}}

    def _start_falsely(self, now: float) -> None:
        start_ms = self.hearing.clock_ms
        stop_ms = start_ms + int(_FALSE_START_S * 1000)
        self._timers.set("false start", now, lambda at: self._begin_turn(start_ms, at))
        stop = now + _FALSE_START_S
        self._timers.set("false stop", stop, lambda at: self._end_turn(b"", stop_ms, at))

    def _close(self, close: CloseSocket) -> None:
        self.closing = self.closing or close

    def _reject(self, code: str) -> None:
        self._post(error_event(code))
        self.closing = CloseSocket(3000, f"invalid_request_error.{code}"[:123])

    def _expire(self, now: float) -> None:
        minutes = max(1, round((self._faults.expires_after_s or self._habits.session_s) / 60))
        message = f"Your session hit the maximum duration of {minutes} minutes."
        refusal = RequestRefused("session_expired", message)
        self._emit({"type": "error", "error": refusal.body(None)}, now)
        self._close(CloseSocket(1001, message))


def _decoded(message: str | bytes) -> Event:
    try:
        event = msgspec.json.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise refusals.invalid_event("The message is not JSON.") from None
    if not isinstance(event, dict):
        raise refusals.invalid_event("The message is not a JSON object.")
    return event


def _encoded(event: Event) -> str:
    return msgspec.json.encode(event).decode()
