"""A whole call without a socket: both translators, the bridge, the core, metrics and log.

What a provider and a model would write is made here, as they write it; nothing is parsed that a
test does not ask for. Time is whatever loop the call is run on, usually ``tests.timeless``.
"""

import asyncio
import base64
import json
import random
from collections import deque
from collections.abc import Callable

from gateway.bridge import Bridge, Outside
from gateway.call import Call, CallOptions
from gateway.events import Fact, SessionOptions, Termination
from gateway.logs import CallLog
from gateway.metrics import Metrics
from gateway.providers import HttpRequest
from gateway.providers.twilio import TwilioStream
from gateway.realtime import Listener
from gateway.realtime.protocol import RealtimeProtocol

FRAME_MS, DELTA_MS = 20, 100
FRAME_BYTES, DELTA_BYTES = 160, 4800  # mu-law at 8 kHz, PCM at 24 kHz

# Messages a far end remembers: more than any single step sends.
_KEPT = 1000


def noise(seed: int, size_bytes: int) -> bytes:
    """Sound that no converter has seen before."""
    return random.Random(seed).randbytes(size_bytes)


def options(**changes: object) -> CallOptions:
    """A Twilio call with conversion both ways, as ``serve`` would place it."""
    usual: dict[str, object] = {
        "provider": "twilio",
        "agent": "default",
        "session": SessionOptions(),
        "lead_ms": 5000,
    }
    return CallOptions(**(usual | changes))  # type: ignore[arg-type]  # checked at run time


# ------------------------------------------------------------- what the far ends write


class TwilioWriter:
    """What Twilio sends on one stream, its numbers counted up."""

    def __init__(self, number: int = 1) -> None:
        self.stream_id = f"MZ{number}"
        self.call_id = f"CA{number}"
        self._sequence = 0
        self._chunk = 0

    def _message(self, event: str, **members: object) -> str:
        self._sequence += 1
        head = {"event": event, "sequenceNumber": str(self._sequence)}
        return json.dumps({**head, **members, "streamSid": self.stream_id})

    def start(self, to_number: str = "+15550100002") -> str:
        """The first word."""
        sound = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        body = {
            "accountSid": "AC1",
            "callSid": self.call_id,
            "streamSid": self.stream_id,
            "tracks": ["inbound"],
            "mediaFormat": sound,
            "customParameters": {"from": "+15550100001", "to": to_number},
        }
        return self._message("start", start=body)

    def media(self, payload: bytes) -> str:
        """20 ms of the caller."""
        self._chunk += 1
        body = {
            "track": "inbound",
            "chunk": str(self._chunk),
            "timestamp": str(self._chunk * FRAME_MS),
            "payload": base64.b64encode(payload).decode(),
        }
        return self._message("media", media=body)

    def mark(self, name: str) -> str:
        """The phone has played so far."""
        return self._message("mark", mark={"name": name})

    def stop(self) -> str:
        """The caller has hung up."""
        return self._message("stop", stop={"accountSid": "AC1", "callSid": self.call_id})


class RealtimeWriter:
    """What the model sends in one session (GA), its ids counted up."""

    def __init__(self) -> None:
        self._events = self._responses = self._turns = 0

    def _message(self, kind: str, **members: object) -> bytes:
        self._events += 1
        return json.dumps({"type": kind, "event_id": f"event_{self._events}", **members}).encode()

    def ready(self) -> list[bytes]:
        """A session that takes its options."""
        session = {"id": "sess_1", "expires_at": 0}
        kinds = ("session.created", "session.updated")
        return [self._message(kind, session=session) for kind in kinds]

    @property
    def _place(self) -> dict[str, object]:
        """Which answer, which item."""
        return {
            "response_id": f"resp_{self._responses}",
            "item_id": f"item_{self._responses}",
            "output_index": 0,
            "content_index": 0,
        }

    def answer(self, *payloads: bytes, words: str = "hello ") -> list[bytes]:
        """A whole answer: each payload with a piece of its transcript."""
        return [self.begin(), *self.speak(*payloads, words=words), *self.end()]

    def begin(self) -> bytes:
        """The model begins an answer."""
        self._responses += 1
        response = {"id": f"resp_{self._responses}", "status": "in_progress"}
        return self._message("response.created", response=response)

    def speak(self, *payloads: bytes, words: str = "hello ") -> list[bytes]:
        """More of the answer."""
        spoken = ((self.transcript_delta(words), self.audio_delta(each)) for each in payloads)
        return [message for pair in spoken for message in pair]

    def audio_delta(self, payload: bytes) -> bytes:
        """A stretch of sound."""
        delta = base64.b64encode(payload).decode()
        return self._message("response.output_audio.delta", **self._place, delta=delta)

    def transcript_delta(self, words: str) -> bytes:
        """A piece of what is said."""
        return self._message("response.output_audio_transcript.delta", **self._place, delta=words)

    def end(self, status: str = "completed") -> list[bytes]:
        """The answer is complete, or cancelled."""
        usage = {"input_tokens": 120, "output_tokens": 340}
        response = {"id": f"resp_{self._responses}", "status": status, "usage": usage}
        return [
            self._message("response.output_audio.done", **self._place),
            self._message("response.done", response=response),
        ]

    def speech_started(self) -> bytes:
        """The model hears the caller."""
        self._turns += 1
        return self._speech("started", "audio_start_ms")

    def speech_stopped(self) -> bytes:
        """The model has heard the caller out."""
        return self._speech("stopped", "audio_end_ms")

    def _speech(self, what: str, at: str) -> bytes:
        members: dict[str, object] = {"item_id": f"item_u{self._turns}", at: 0}
        return self._message(f"input_audio_buffer.speech_{what}", **members)

    def caller_transcribed(self, words: str) -> bytes:
        """What the caller said."""
        kind = "conversation.item.input_audio_transcription.completed"
        return self._message(kind, item_id=f"item_u{self._turns}", transcript=words)


# ------------------------------------------------------------- the call


class MemoryLink:
    """A socket's one end: takes everything, remembers the last messages."""

    close_code = 1000
    close_reason = ""
    is_clogged = False

    def __init__(self) -> None:
        self.sent: deque[str | bytes] = deque(maxlen=_KEPT)
        self.say: Callable[[str | bytes], None] = _nobody_listens
        self.is_heard = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Whom ``say`` tells from now on."""
        self.say = listener.message_came
        self.is_heard.set()

    def send(self, *messages: str | bytes) -> None:
        """Take them."""
        self.sent.extend(messages)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """The peer lets go at once."""
        del code, reason


class MemoryCall:
    """One call from door to door; to be made where a loop runs."""

    def __init__(
        self, metrics: Metrics, call_options: CallOptions | None = None, number: int = 1
    ) -> None:
        self.twilio = TwilioWriter(number)
        self.model = RealtimeWriter()
        self.provider_link = MemoryLink()
        self.realtime_link = MemoryLink()
        self._options = call_options or options()
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics.call()
        self._log = CallLog(f"memory-{number}")
        self._bridge = Bridge(
            TwilioStream(), self.provider_link, RealtimeProtocol("ga"), self._outside()
        )

    def _outside(self) -> Outside:
        return Outside(self._dial, self._observe, self._perform, clock=self._loop.time)

    async def _dial(self, *, timeout_s: float, with_fresh_token: bool) -> MemoryLink:
        del timeout_s, with_fresh_token
        return self.realtime_link

    def _observe(self, fact: Fact) -> None:
        self._metrics.observe(fact)
        self._log.observe(fact, self._loop.time())

    async def _perform(self, request: HttpRequest) -> None:
        raise AssertionError(f"no call in memory is hung up over REST: {request.method}")

    async def open(self) -> None:
        """From the start message to a session that is ready."""
        starting = asyncio.create_task(self._bridge.await_start())
        await self.provider_link.is_heard.wait()
        self.provider_link.say(self.twilio.start())
        call = Call(await starting, self._options, self._loop.time())
        self._running = asyncio.create_task(self._bridge.run(call))
        await self.realtime_link.is_heard.wait()
        self.model_says(*self.model.ready())

    def model_says(self, *messages: bytes) -> None:
        """One message after the other."""
        for message in messages:
            self.realtime_link.say(message)

    def caller_says(self, *payloads: bytes) -> None:
        """One frame after the other."""
        for payload in payloads:
            self.provider_link.say(self.twilio.media(payload))

    async def close(self) -> Termination:
        """The caller hangs up; returns what the gateway makes of it."""
        self.provider_link.say(self.twilio.stop())
        termination = await self._running
        self._metrics.close()
        return termination


def _nobody_listens(message: str | bytes) -> None:
    raise AssertionError(f"nobody listens to {message[:40]!r}")
