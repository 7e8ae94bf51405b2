"""A whole call between two links that only count, on a clock that is set by hand."""

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from gateway.bridge import Bridge, Outside
from gateway.call import Call
from gateway.events import Fact, SessionOptions
from gateway.logs import CallLog, configure
from gateway.metrics import Metrics
from gateway.providers import HttpRequest
from gateway.providers.twilio import TwilioStream
from gateway.realtime import Link, Listener
from gateway.realtime.protocol import RealtimeProtocol
from tests.lab import options

_START = json.dumps(
    {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "callSid": "CA1",
            "streamSid": "MZ1",
            "accountSid": "AC1",
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        },
    }
)
_STOP = '{"event":"stop","sequenceNumber":"9","streamSid":"MZ1","stop":{}}'


def media(number: int, payload: bytes) -> str:
    """The caller's frame of this number, as Twilio sends it."""
    sound = base64.b64encode(payload).decode()
    return (
        f'{{"event":"media","sequenceNumber":"{number + 1}","media":{{"track":"inbound",'
        f'"chunk":"{number}","timestamp":"{number * 20}","payload":"{sound}"}},"streamSid":"MZ1"}}'
    )


def audio_delta(answer: int, pcm: bytes) -> bytes:
    """A piece of the agent's answer, as the model sends it."""
    return _piece("response.output_audio.delta", answer, base64.b64encode(pcm).decode())


def transcript_delta(answer: int, text: str) -> bytes:
    """A piece of the agent's words."""
    return _piece("response.output_audio_transcript.delta", answer, text)


def _piece(kind: str, answer: int, delta: str) -> bytes:
    return (
        f'{{"type":"{kind}","event_id":"event_{answer}","response_id":"r{answer}",'
        f'"item_id":"i{answer}","output_index":0,"content_index":0,"delta":"{delta}"}}'
    ).encode()


def said(kind: str, **members: object) -> bytes:
    """Anything else the model says."""
    return json.dumps({"type": kind, "event_id": "event_1", **members}).encode()


class EndlessLink:
    """Takes everything at once and keeps the last pass's messages that are marks."""

    close_code, close_reason, is_clogged = 1000, "", False

    def __init__(self) -> None:
        self.taken = 0
        self.marks: list[str] = []
        self.is_heard = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Tell this listener."""
        self.say = listener.message_came
        self.is_heard.set()

    def send(self, *messages: str | bytes) -> None:
        """Count them."""
        self.taken += len(messages)
        for message in messages:
            if isinstance(message, str) and message.startswith('{"event":"mark"'):
                self.marks.append(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """There is nobody to tell."""


class Corridor:
    """One call that is up; what the links are told is handled before they return."""

    def __init__(self) -> None:
        self.now = 1.0
        self.phone, self.model = EndlessLink(), EndlessLink()
        self._metrics = Metrics(CollectorRegistry()).call()
        self._log = CallLog("call_1")

    def _observe(self, fact: Fact) -> None:
        self._metrics.observe(fact)
        self._log.observe(fact, self.now)

    async def _dial(self, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
        del timeout_s, with_fresh_token
        return self.model

    async def _perform(self, _request: HttpRequest) -> None:
        """Nobody is to be hung up."""

    async def place(self) -> None:
        """From the upgrade to a session that is ready."""
        outside = Outside(self._dial, self._observe, self._perform, lambda: self.now)
        bridge = Bridge(TwilioStream(), self.phone, RealtimeProtocol("ga"), outside)
        start = asyncio.create_task(bridge.await_start())
        await asyncio.sleep(0)
        self.phone.say(_START)
        call = Call(await start, options(session=SessionOptions()), self.now)
        self._running = asyncio.create_task(bridge.run(call))
        await self.model.is_heard.wait()
        self.model.say(said("session.created", session={"id": "s1"}))
        self.model.say(said("session.updated", session={"id": "s1"}))

    async def leave(self) -> None:
        """The caller hangs up."""
        self.phone.say(_STOP)
        await self._running

    def reach_marks(self) -> None:
        """The phone has played everything it was sent."""
        marks, self.phone.marks = self.phone.marks, []
        for mark in marks:
            self.phone.say(mark)


@contextmanager
def corridor() -> Iterator[Corridor]:
    """A call with metrics and logs; its loop runs only while it is placed and left."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        asyncio.Runner(debug=False) as runner,
    ):
        configure("info", "json", nowhere)
        call = Corridor()
        runner.run(call.place())
        yield call
        runner.run(call.leave())
        structlog.reset_defaults()
