"""Listening in: nothing changes for the call, everything passes by, and nobody is waited for."""

from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import (
    ULAW_8K,
    AudioReceived,
    CallStarted,
    ClearAudio,
    HangUp,
    PlayAudio,
    ProviderCommand,
    ProviderEvent,
    SendMark,
)
from gateway.providers import Capabilities, HttpRequest
from gateway.web.tap import AGENT, CALLER, CLEAR, Ear, TappedStream

CAPS = Capabilities(
    mark=True,
    clear=True,
    status=False,
    clear_echoes_marks=True,
    lead_ms=1000,
    frame_ms=20,
    max_message_bytes=1000,
)


class Stream:
    """A provider whose messages are payloads; says what it was asked."""

    name: ClassVar[str] = "fake"

    def __init__(self) -> None:
        self.caps = CAPS

    def receive(self, message: str | bytes) -> list[ProviderEvent]:
        """A text starts the call, bytes are sound."""
        if isinstance(message, str):
            return [CallStarted(message, "MZ1", ULAW_8K, ULAW_8K)]
        return [AudioReceived(message)]

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """The command, in words."""
        return [repr(command)]

    def hang_up(self) -> HttpRequest | None:
        """Over REST."""
        return HttpRequest("POST", "hang-up")


def pieces(message: bytes) -> list[tuple[bytes, bytes]]:
    """What a listener's message says: kinds and payloads."""
    found = []
    while message:
        size = int.from_bytes(message[1:5], "little")
        found.append((message[:1], message[5 : 5 + size]))
        message = message[5 + size :]
    return found


def test_a_call_nobody_listens_to_is_not_touched() -> None:
    """Between the bridge and the provider's stream there is nothing at all."""
    stream = Stream()
    tap = TappedStream(stream)
    ear = Ear()

    assert (tap.receive, tap.send) == (stream.receive, stream.send)
    tap.add(ear)
    assert (tap.receive, tap.send) != (stream.receive, stream.send)
    tap.remove(ear)
    assert (tap.receive, tap.send) == (stream.receive, stream.send)


def test_both_sides_pass_by() -> None:
    """Sound of both, and where the agent was cut; what is no sound is nobody's business."""
    tap = TappedStream(Stream())
    first, second = Ear(), Ear()
    tap.add(first)
    tap.receive("CA1")
    tap.receive(b"caller")
    tap.add(second)
    tap.send(PlayAudio(b"agent"))
    tap.send(SendMark("m1"))
    tap.send(ClearAudio())
    tap.send(HangUp())

    later = [(AGENT, b"agent"), (CLEAR, b"")]
    assert tap.listeners == 2
    assert pieces(first.take()) == [(CALLER, b"caller"), *later]
    assert pieces(second.take()) == later
    assert first.take() == b""


def test_the_call_is_answered_as_without_listeners() -> None:
    """What the bridge gets of the stream is the same, whoever listens."""
    tapped, bare = TappedStream(Stream()), Stream()
    tapped.add(Ear())

    assert tapped.receive("CA1") == bare.receive("CA1")
    assert tapped.receive(b"caller") == bare.receive(b"caller")
    assert tapped.send(PlayAudio(b"agent")) == bare.send(PlayAudio(b"agent"))
    assert tapped.hang_up() == bare.hang_up()
    assert tapped.caps == bare.caps


def test_what_a_stream_learns_of_itself_is_passed_on() -> None:
    """Some know only from the start message how far ahead they may be fed."""
    stream = Stream()
    tap = TappedStream(stream)
    tap.caps = Capabilities(
        mark=False,
        clear=True,
        status=True,
        clear_echoes_marks=False,
        lead_ms=60,
        frame_ms=20,
        max_message_bytes=500,
    )

    assert tap.caps is stream.caps


def test_the_end_is_told() -> None:
    """A listener learns that the call is over, and may fetch what is left."""
    tap = TappedStream(Stream())
    ear = Ear()
    tap.add(ear)
    tap.receive(b"last")
    tap.end()

    assert ear.is_over
    assert pieces(ear.take()) == [(CALLER, b"last")]


def test_who_comes_after_the_end_is_told_so() -> None:
    """The call ended while the listener's socket was being opened."""
    tap = TappedStream(Stream())
    tap.end()
    ear = Ear()
    tap.add(ear)

    assert ear.is_over


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=60), st.integers(10, 2000))
def test_a_slow_listener_holds_no_more_than_its_bound(payloads: list[bytes], limit: int) -> None:
    """Within the bound everything is there, in order; beyond it there is nothing, and it shows."""
    ear = Ear(limit)
    for payload in payloads:
        ear.put(CALLER, payload)
    total = sum(5 + len(payload) for payload in payloads)
    message = ear.take()

    assert ear.is_behind == (total > limit)
    assert len(message) <= limit
    assert pieces(message) == ([] if ear.is_behind else [(CALLER, each) for each in payloads])
