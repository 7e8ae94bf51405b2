"""What was sent can be read back: every provider's words for sound, marks and clears."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TapeError
from gateway.events import (
    AppendAudio,
    AudioReceived,
    CallStarted,
    ClearAudio,
    CreateResponse,
    HangUp,
    LinkClosed,
    PlayAudio,
    SendFunctionOutput,
    SendMark,
    TruncateItem,
)
from gateway.providers import HttpRequest, Provider
from gateway.providers.table import doors
from gateway.realtime.protocol import RealtimeProtocol
from gateway.simulator.asterisk_line import AsteriskCall, AsteriskLine
from gateway.simulator.twilio_line import TwilioCall, TwilioLine
from gateway.tape.reading import Head, Line
from gateway.tape.wire import Asked, Clear, Mark, Sound, Translator, to_provider, to_realtime

STARTS = {
    "twilio": TwilioLine(TwilioCall()).start(0.0),
    "json": AsteriskLine(AsteriskCall(), 0.0).start(0.0),
    "plain": AsteriskLine(AsteriskCall(is_json=False), 0.0).start(0.0),
}


def _started(name: str) -> Provider:
    door = doors(public_url="", insecure=True)["twilio" if name == "twilio" else "asterisk"]
    provider = door.connect(HttpRequest("GET", "ws://test/"))
    events = [event for message in STARTS[name] for event in provider.receive(message)]
    assert any(isinstance(event, CallStarted) for event in events)
    return provider


@pytest.mark.parametrize("name", STARTS)
def test_each_providers_messages_are_understood(name: str) -> None:
    """Sound comes back to the byte, marks by their names; a hang-up has nothing to do with it."""
    provider, sound = _started(name), bytes(range(160))
    commands = (PlayAudio(sound), SendMark("m1"), ClearAudio(), HangUp())

    found = [to_provider(message) for each in commands for message in provider.send(each)]

    assert found[:3] == [Sound(sound), Mark("m1"), Clear()]
    assert found[3:] in ([], [None])


@settings(max_examples=30)
@given(st.text(max_size=50) | st.binary(max_size=50), st.text(max_size=50))
def test_no_message_is_too_strange(message: str | bytes, tail: str) -> None:
    """Whatever stands on a tape is sound, a word or nothing."""
    assert isinstance(to_provider(message), Sound | Mark | Clear | None)
    assert isinstance(to_provider("{" + tail), Sound | Mark | Clear | None)
    assert isinstance(to_realtime(message), Asked | int | None)


@pytest.mark.parametrize("size_bytes", [1, 2, 3, 160, 4799])
def test_how_much_sound_the_model_got_is_counted(size_bytes: int) -> None:
    """Without decoding it."""
    (message,) = RealtimeProtocol("ga").send(AppendAudio(bytes(size_bytes)))

    assert to_realtime(message) == size_bytes
    assert to_realtime(message.decode()) == size_bytes


@pytest.mark.parametrize("dialect", ["ga", "preview"])
def test_what_the_model_was_asked_for_is_understood(dialect: str) -> None:
    """Truncations with their place, tool outputs with their text."""
    protocol = RealtimeProtocol(dialect)  # type: ignore[arg-type]  # parametrised
    commands = (
        TruncateItem("item_1", 0, 850),
        SendFunctionOutput("call_1", "{}"),
        CreateResponse(),
    )

    cut, output, create = (to_realtime(protocol.send(each)[0]) for each in commands)

    assert isinstance(cut, Asked)
    assert isinstance(output, Asked)
    assert isinstance(create, Asked)
    assert (cut.kind, cut.item_id, cut.audio_end_ms) == (
        "conversation.item.truncate",
        "item_1",
        850,
    )
    assert output.item["output"] == "{}"
    assert create.kind == "response.create"


def test_what_came_in_is_told_in_our_words() -> None:
    """The translators of a live call; a close is an event too."""
    translator = Translator(Head(1, "twilio", "ga"))
    line = TwilioLine(TwilioCall())
    for message in line.start(0.0):
        translator.from_provider(Line(0.0, "provider", "in", "text", str(message)))
    (media,) = line.send_audio(b"\x55" * 160, 0.0)

    heard = translator.from_provider(Line(0.0, "provider", "in", "text", str(media)))
    gone = translator.from_provider(Line(0.0, "provider", "in", "closed", code=1006))
    lost = translator.from_realtime(Line(0.0, "realtime", "in", "closed", code=1011))

    assert list(heard) == [AudioReceived(b"\x55" * 160)]
    assert list(gone) == [LinkClosed(1006)]
    assert list(lost) == [LinkClosed(1011)]
    assert list(translator.from_realtime(Line(0.0, "realtime", "in", "opened"))) == []


def test_a_provider_nobody_knows_is_one_clear_line() -> None:
    """A tape of a gateway that had one more."""
    with pytest.raises(TapeError, match="no provider 'pigeon' in this gateway"):
        Translator(Head(1, "pigeon", "ga"))
