"""A session on a desk: no socket, a clock moved by hand, every event it sends looked at."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from gateway.simulator.agents import Agent, Parrot
from gateway.simulator.faults import parse_faults
from gateway.simulator.ids import Ids
from gateway.simulator.options import Dialect
from gateway.simulator.plan import Pace
from gateway.simulator.realtime import Habits, RealtimeSession
from tests.referee import check_server_event

Event = dict[str, Any]

GA = Dialect("ga", "openai")
AZURE = Dialect("ga", "azure")
PREVIEW = Dialect("preview", "azure")
VOICE_LIVE = Dialect("preview", "voice-live")
STEADY = Pace(jitter_s=0.0)
FRAME_BYTES = 960


def loud(duration_ms: int) -> bytes:
    """A tone well above every threshold, 16-bit PCM at 24 kHz."""
    samples = np.arange(duration_ms * 24)
    return (np.sin(samples / 10) * 9000).astype("<i2").tobytes()


def quiet(duration_ms: int) -> bytes:
    """Silence, 16-bit PCM at 24 kHz."""
    return bytes(duration_ms * 48)


def coded(payload: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(payload).decode()


class Desk:
    """Talks to one session; ``events`` is everything it ever said."""

    def __init__(
        self,
        dialect: Dialect = GA,
        agent: Agent | None = None,
        faults: Iterable[str] = (),
        *,
        pace: Pace = STEADY,
        is_judged: bool = True,
        **habits: Any,
    ) -> None:
        self.now = 0.0
        self.events: list[Event] = []
        self.times: list[float] = []
        self._is_judged = is_judged
        habits = {"pace": pace, "faults": parse_faults(faults), **habits}
        self.session = RealtimeSession(dialect, agent or Parrot(), Habits(**habits), Ids(7))
        self.session.start(self.now)
        self._collect()

    @property
    def types(self) -> list[str]:
        """The types of all events so far."""
        return [event["type"] for event in self.events]

    def all(self, kind: str) -> list[Event]:
        """All events of one type."""
        return [event for event in self.events if event["type"] == kind]

    def one(self, kind: str) -> Event:
        """The only event of one type."""
        (event,) = self.all(kind)
        return event

    def forget(self) -> None:
        """Look only at what comes from now on."""
        self.events.clear()
        self.times.clear()

    def send(self, kind: str, **members: Any) -> None:
        """One client event."""
        self.post(msgspec.json.encode({"type": kind, **members}))

    def post(self, message: str | bytes) -> None:
        """Anything as one message."""
        self.session.receive(message, self.now)
        self._collect()

    def configure(self, **options: Any) -> None:
        """A GA session.update."""
        self.send("session.update", session={"type": "realtime", **options})

    def listen(self, turn_detection: Mapping[str, Any] | None, **audio_input: Any) -> None:
        """A GA session.update of the input."""
        self.configure(audio={"input": {"turn_detection": turn_detection, **audio_input}})

    def say(self, pcm: bytes) -> None:
        """Caller audio in frames of 20 ms, in real time."""
        for start in range(0, len(pcm), FRAME_BYTES):
            audio = coded(pcm[start : start + FRAME_BYTES])
            self.send("input_audio_buffer.append", audio=audio)
            self.wait(0.02)

    def wait(self, duration_s: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + duration_s
        while (due := self.session.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.session.timer_fired(self.now)
            following = self.session.next_timer()
            assert following is None or following > self.now
            self._collect()
        self.now = end

    def _collect(self) -> None:
        while self.session.outbox:
            event = msgspec.json.decode(self.session.outbox.popleft())
            if self._is_judged:
                check_server_event(self.session.dialect.name, event)
            self.events.append(event)
            self.times.append(self.now)
