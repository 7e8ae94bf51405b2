"""The realtime model as a stand-in that costs little; sans-I/O."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.bench.caller import Caller
from gateway.bench.script import (
    CYCLE_MS,
    Moment,
    Step,
    cycle,
    frame_of,
    second_answer,
    serial,
)
from gateway.bench.tones import FRAME_MS, Ear, decoded, is_loud
from gateway.events import AudioFormat
from gateway.simulator.options import (
    Dialect,
    Options,
    audio_format,
    default_options,
    shown,
    updated,
)
from gateway.simulator.refusals import RequestRefused

# Without a wish of the client the first answer begins so long after session.updated.
_FIRST_ANSWER_MS = 2000
_ASKED_ANSWER_MS = 300

Pair = Callable[[int, "Session"], Caller | None]


class Session:
    """One session of the stand-in.

    Args:
        number: makes its ids.
        target: path and query it was dialled with, which tells the dialect.
        send: writes bytes to the gateway.
        wake: has ``step`` called at a time in ms.
        pair: finds the caller of a number.
        clock: seconds.
    """

    def __init__(
        self,
        number: int,
        target: str,
        send: Callable[[bytes], None],
        wake: Callable[["Session", int], None],
        pair: Pair,
        clock: Callable[[], float],
    ) -> None:
        self.caller: Caller | None = None
        self.lag_floor_ms = math.inf
        self._number = number
        self._dialect = Dialect("preview" if "api-version=" in target else "ga", "azure")
        self._send = send
        self._wake = wake
        self._pair = pair
        self._clock = clock
        self._options: Options = default_options("gpt-realtime")
        self._append_head = b""
        self._heard_bytes = 0
        self._first_append_s = 0.0
        self._is_updated = False
        self._answers = 0
        self._serial = b""
        self._script: tuple[Step, ...] = ()
        self._place = 0
        self._began_ms = 0
        self._set_formats()

    def _set_formats(self) -> None:
        self._input: AudioFormat = audio_format(self._options, "input")
        self._ear = Ear(self._input)
        self._script = cycle(self._dialect, audio_format(self._options, "output"))

    def start(self) -> None:
        """The socket is open."""
        self._say({"type": "session.created", "session": self._session()})

    def _session(self) -> dict[str, Any]:
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{self._number:016d}",
            **shown(self._options, self._dialect),
        }

    def _say(self, event: dict[str, Any]) -> None:
        self._send(frame_of(event, self._dialect))

    # -- what the gateway sends

    def receive(self, text: bytes, now: float) -> None:
        """One message of the gateway."""
        head = self._append_head
        if (head and text.startswith(head)) or b"input_audio_buffer.append" in text:
            self._hear(text, now)
        else:
            self._request(text, now)

    def _hear(self, text: bytes, now: float) -> None:
        head = self._append_head
        if head and text.startswith(head):
            start = len(head)
        else:
            start = text.find(b'"', text.find(b'"audio"') + 7) + 1
            self._append_head = text[:start]
        stop = text.find(b'"', start)
        if not self._first_append_s and self._is_updated:
            self._first_append_s = now
        self._heard_bytes += (stop - start) * 3 // 4
        if text[stop - 1] == 61:  # noqa: PLR2004  padding
            self._heard_bytes -= 1 + (text[stop - 2] == 61)  # noqa: PLR2004
        caller = self.caller
        if caller is None:
            self._listen(text[start:stop])
            return
        lag_ms = caller.sent_frames * FRAME_MS - self._heard_bytes / self._input.bytes_per_ms
        self.lag_floor_ms = min(self.lag_floor_ms, lag_ms)
        if caller.bursts and is_loud(decoded(text[start:stop], self._input)):
            caller.burst_heard(now, lag_ms - self.lag_floor_ms)

    def lag_ms(self) -> float:
        """Audio sent by the caller and not received here."""
        if self.caller is None:
            return 0.0
        return self.caller.sent_frames * FRAME_MS - self._heard_bytes / self._input.bytes_per_ms

    def _listen(self, audio: bytes) -> None:
        number = self._ear.hear(audio)
        if number is not None and (caller := self._pair(number, self)) is not None:
            self.caller = caller
            caller.pair(self._first_append_s)

    def _request(self, text: bytes, now: float) -> None:
        try:
            event = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "session.update":
            self._update(event.get("session"), now)
        elif kind == "response.create" and not self._answers:
            self._begin(now, _ASKED_ANSWER_MS)
        elif kind == "conversation.item.truncate":
            members = {name: event.get(name) for name in ("item_id", "audio_end_ms")}
            self._say({"type": "conversation.item.truncated", "content_index": 0, **members})

    def _update(self, session: Any, now: float) -> None:
        try:
            self._options = updated(self._options, session, self._dialect)
        except RequestRefused as refusal:
            self._say({"type": "error", "error": refusal.body(None)})
            return
        if not self._is_updated:
            self._is_updated = True
            self._set_formats()
            self._begin(now, _FIRST_ANSWER_MS)
        self._say({"type": "session.updated", "session": self._session()})

    def _begin(self, now: float, after_ms: int) -> None:
        # A later wish than this one finds the first answer begun, or brings it forward.
        starts_ms = int(now * 1000) + after_ms
        # Half of the sessions begin with the answer that is cut: as many of each at any time.
        self._place = second_answer(self._script) if self._number % 2 else 0
        self._began_ms = starts_ms - self._script[self._place].at_ms
        self._wake(self, starts_ms)

    # -- what it says unasked

    def step(self, due_ms: int) -> None:
        """Send what is due, plan what comes next."""
        if due_ms < self._began_ms + self._script[self._place].at_ms:
            return
        step = self._script[self._place]
        if step.moment is not Moment.NOTHING:
            self._note(step.moment)
        self._send(self._serial.join(step.pieces))
        self._place += 1
        if self._place == len(self._script):
            self._place = 0
            self._began_ms += CYCLE_MS
        self._wake(self, self._began_ms + self._script[self._place].at_ms)

    def _note(self, moment: Moment) -> None:
        if moment is Moment.ANSWER_STARTS:
            self._answers += 1
            self._serial = serial(self._number, self._answers)
        elif self.caller is None:
            return
        elif moment is Moment.SPEECH_STARTED:
            self.caller.speech_started(self._clock())
        else:
            is_to_be_cut = moment is Moment.FIRST_DELTA_TO_BE_CUT
            self.caller.answer_starts(self._clock(), is_to_be_cut=is_to_be_cut)
