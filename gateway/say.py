"""Text in, speech out: the classic quickstart, straight to the model without a telephone."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.audio.wav import write_wav
from gateway.errors import PeerRefused
from gateway.events import (
    AddMessage,
    AgentTranscriptDelta,
    AudioDelta,
    ConfigureSession,
    CreateResponse,
    RealtimeCommand,
    RealtimeError,
    RealtimeEvent,
    ResponseDone,
    SessionOptions,
    TurnDetection,
    Usage,
)
from gateway.realtime import Link
from gateway.realtime.connection import dial, target_from
from gateway.realtime.inbox import messages
from gateway.realtime.protocol import RealtimeProtocol
from gateway.settings import Settings
from gateway.terminal import Terminal

RATE_HZ = 24_000
# An answer that is not complete by then is not coming.
ANSWER_LIMIT_S = 60.0


@dataclass
class Spoken:
    """What came back."""

    text: str = ""
    pcm: bytearray = field(default_factory=bytearray)
    first_audio_s: float | None = None
    usage: Usage = field(default_factory=Usage)


async def say(terminal: Terminal, settings: Settings, text: str, path: Path) -> Spoken:
    """Send a text, print transcript and bytes as they arrive, write a WAV.

    Raises:
        ConnectError: the model was not reached.
        PeerRefused: it answered with an error, or not at all.
    """
    target = target_from(settings)
    terminal.say(f"Connecting ({settings.credential_reason}) ...")
    try:
        link = await dial(target, timeout_s=settings.connect_budget_s)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                spoken = await _converse(terminal, settings, link, text)
        except TimeoutError:
            raise PeerRefused(f"no complete answer within {ANSWER_LIMIT_S:.0f} s") from None
        finally:
            await link.close()
    finally:
        await target.auth.close()
    write_wav(path, bytes(spoken.pcm), RATE_HZ)
    return spoken


async def _converse(terminal: Terminal, settings: Settings, link: Link, text: str) -> Spoken:
    protocol = RealtimeProtocol(settings.dialect)
    # Who closes at once has said why, and that is still to be read.
    with suppress(ConnectionError):
        for command in _question(settings, text):
            for request in protocol.send(command):
                link.send(request)
    answer = _Answer(terminal, time.monotonic())
    async for message in messages(link):
        for event in protocol.receive(message):
            if answer.receive(event):
                return answer.spoken
    raise PeerRefused(f"the line was closed: {link.close_code} {link.close_reason}".strip())


def _question(settings: Settings, text: str) -> list[RealtimeCommand]:
    agent = settings.agent_for("")
    options = agent.session_options(settings.dialect)
    session = SessionOptions(
        instructions=options.instructions,
        voice=options.voice,
        temperature=options.temperature,
        speed=options.speed,
        turn_detection=TurnDetection(kind="none"),
    )
    return [ConfigureSession(session), AddMessage("user", text), CreateResponse()]


class _Answer:
    """Prints an answer while it comes."""

    def __init__(self, terminal: Terminal, began: float) -> None:
        self._terminal = terminal
        self._began = began
        self.spoken = Spoken()

    def receive(self, event: RealtimeEvent) -> bool:
        """One event; true when the answer is complete.

        Raises:
            PeerRefused: the service says what is wrong.
        """
        match event:
            case AgentTranscriptDelta(text=text):
                self.spoken.text += text
                self._terminal.say(f"  transcript  {text!r}")
            case AudioDelta(payload=payload):
                self._sound(payload)
            case ResponseDone():
                return self._done(event)
            case RealtimeError(code=code, message=message, severity=severity):
                if severity not in {"ignore", "warn"}:
                    raise PeerRefused(f"{code}: {message}")
            case _:
                pass
        return False

    def _sound(self, payload: bytes) -> None:
        if self.spoken.first_audio_s is None:
            self.spoken.first_audio_s = time.monotonic() - self._began
        self.spoken.pcm += payload
        self._terminal.say(f"  audio       {len(payload)} bytes")

    def _done(self, event: ResponseDone) -> bool:
        if event.status != "completed":
            raise PeerRefused(f"the answer is {event.status}: {event.reason} {event.detail}")
        self.spoken.usage = event.usage
        return True
