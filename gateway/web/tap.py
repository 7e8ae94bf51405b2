"""Listening in: what a call's provider says and is sent passes by people who only listen.

A call that nobody listens to is carried by the provider's own stream: the bridge finds that
stream's methods here, and there is nothing between them. Whoever listens has a bounded store of
payloads, which are kept by reference and never waited for; one who does not fetch them in time is
behind, and is let go.
"""

from typing import ClassVar, Final

from gateway.events import AudioReceived, ClearAudio, PlayAudio, ProviderCommand, ProviderEvent
from gateway.providers import Capabilities, HttpRequest, Provider

# What a listener is told, each with 4 bytes of length (little endian) and so many bytes of sound.
CALLER: Final = b"\x00"
AGENT: Final = b"\x01"
# The phone drops what it holds of the agent; no sound follows.
CLEAR: Final = b"\x02"
# Agent audio comes ahead of its time, in bursts: the longest lead in the largest format, and spare.
EAR_BYTES: Final = 1024 * 1024
_HEAD_BYTES: Final = 5


class Ear:
    """One who listens: payloads that wait to be fetched."""

    def __init__(self, limit_bytes: int = EAR_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._bytes = 0
        # Too slow: something is missing, so there is nothing more to hear.
        self.is_behind = False
        # The call has ended.
        self.is_over = False

    def put(self, kind: bytes, payload: bytes) -> None:
        """One more piece of the call."""
        if self.is_behind:
            return
        self._bytes += _HEAD_BYTES + len(payload)
        if self._bytes > self._limit_bytes:
            self.is_behind = True
            self._pieces.clear()
            return
        self._pieces += (kind, len(payload).to_bytes(4, "little"), payload)

    def take(self) -> bytes:
        """All that waits, as one message."""
        message = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        return message


class TappedStream:
    """A provider's stream that can be listened to; a ``gateway.providers.Provider``."""

    name: ClassVar[str] = "tapped"

    def __init__(self, stream: Provider) -> None:
        self._stream = stream
        self._ears: tuple[Ear, ...] = ()
        self._is_over = False
        # The stream's own, until somebody listens.
        self.receive = stream.receive
        self.send = stream.send

    @property
    def caps(self) -> Capabilities:
        """As the stream's, which may learn of them from the start message."""
        return self._stream.caps

    @caps.setter
    def caps(self, caps: Capabilities) -> None:
        self._stream.caps = caps

    def hang_up(self) -> HttpRequest | None:
        """As the stream's."""
        return self._stream.hang_up()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._ears)

    def add(self, ear: Ear) -> None:
        """Somebody listens from now on."""
        ear.is_over = self._is_over
        self._ears += (ear,)
        self._switch()

    def remove(self, ear: Ear) -> None:
        """Somebody does not listen any more."""
        self._ears = tuple(other for other in self._ears if other is not ear)
        self._switch()

    def end(self) -> None:
        """The call is over, also for who comes late."""
        self._is_over = True
        for ear in self._ears:
            ear.is_over = True

    def _switch(self) -> None:
        is_tapped = bool(self._ears)
        self.receive = self._receive if is_tapped else self._stream.receive
        self.send = self._send if is_tapped else self._stream.send

    def _receive(self, message: str | bytes) -> list[ProviderEvent]:
        events = self._stream.receive(message)
        for event in events:
            if type(event) is AudioReceived:
                for ear in self._ears:
                    ear.put(CALLER, event.payload)
        return events

    def _send(self, command: ProviderCommand) -> list[str | bytes]:
        messages = self._stream.send(command)
        if isinstance(command, PlayAudio):
            for ear in self._ears:
                ear.put(AGENT, command.payload)
        elif isinstance(command, ClearAudio):
            for ear in self._ears:
                ear.put(CLEAR, b"")
        return messages
