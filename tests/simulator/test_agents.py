"""The parrot, the actor, the scripts it plays."""

from pathlib import Path

import pytest

from gateway.audio.wav import write_wav
from gateway.errors import AudioFileError, SettingsError
from gateway.simulator.agents import (
    HELLO_TEXT,
    Asked,
    Cause,
    Parrot,
    Reply,
    Scripted,
    Speech,
    ToolCall,
    Writing,
    prompt,
    read_script,
    spoken_ms,
    tone,
)
from tests.simulator.desk import loud


def _actor(tmp_path: Path, text: str, name: str = "script.toml") -> Scripted:
    path = tmp_path / name
    path.write_text(text)
    return Scripted(read_script(path), tmp_path)


def _said(reply: Reply) -> list[str]:
    return [part.text for part in reply.parts if isinstance(part, Speech | Writing)]


def test_a_parrot_greets_then_repeats() -> None:
    """Asked without audio it says the prompt; asked by speech it gives the speech back."""
    parrot = Parrot()

    (greeting,) = parrot.reply(Asked("create")).parts
    (echo,) = parrot.reply(Asked("speech", loud(1200))).parts

    assert greeting == Speech(prompt("hello.wav"), HELLO_TEXT)
    assert echo == Speech(loud(1200), "You said: 1.2 seconds of speech.")


def test_the_prompt_is_audible_speech() -> None:
    """A few seconds at 24 kHz with real levels."""
    pcm = prompt("hello.wav")

    assert 2000 < spoken_ms(pcm) < 4500
    assert max(pcm[1::2]) > 16


def test_turns_answer_their_cause(tmp_path: Path) -> None:
    """The next turn for the cause is taken, others wait; then there is silence."""
    text = """
        [[turn]]
        after = "create"
        say = "Hello."
        [[turn]]
        after = "tool"
        say = "It is noon."
        [[turn]]
        say = "Whatever."
    """
    actor = _actor(tmp_path, text)
    causes: list[Cause] = ["speech", "create", "tool", "tool"]

    said = [_said(actor.reply(Asked(cause))) for cause in causes]

    assert said == [["Whatever."], ["Hello."], ["It is noon."], []]


def test_a_loop_begins_again(tmp_path: Path) -> None:
    """With loop the turns never run out."""
    actor = _actor(tmp_path, 'loop = true\n[[turn]]\nsay = "Again."\n')

    assert [_said(actor.reply(Asked("speech"))) for _ in range(3)] == [["Again."]] * 3


def test_a_turn_says_a_file(tmp_path: Path) -> None:
    """A file beside the script is found first, then the shipped prompts."""
    write_wav(tmp_path / "mine.wav", loud(500), 24_000)
    text = """
        [[turn]]
        say = "mine.wav"
        text = "Mine."
        [[turn]]
        say = "answer.wav"
    """
    actor = _actor(tmp_path, text)

    first, second = actor.reply(Asked("create")), actor.reply(Asked("create"))

    assert first.parts == (Speech(loud(500), "Mine."),)
    assert second.parts == (Speech(prompt("answer.wav"), ""),)


def test_a_turn_can_write_call_fail_or_wait(tmp_path: Path) -> None:
    """All that a turn can be comes through to the reply; JSON is as good as TOML."""
    text = """{"turn": [{
        "say": "Look.", "is_written": true, "latency_ms": 1500, "incomplete": "content_filter",
        "calls": [{"name": "f", "arguments": {"n": 1}}, {"name": "g", "arguments": "{"},
                  {"name": "h"}]
    }, {"fail": "server_error"}]}"""
    actor = _actor(tmp_path, text, "script.json")

    reply = actor.reply(Asked("speech"))

    calls = (ToolCall("f", '{"n":1}'), ToolCall("g", "{"), ToolCall("h", "{}"))
    assert reply.parts == (Writing("Look."), *calls)
    assert (reply.latency_s, reply.incomplete) == (1.5, "content_filter")
    assert actor.reply(Asked("speech")).fail == "server_error"


def test_the_script_knows_what_the_caller_says(tmp_path: Path) -> None:
    """The transcript of a turn is the script's, or says how long it was."""
    actor = _actor(tmp_path, '[[turn]]\nhears = "What time is it?"\n')

    assert actor.transcribe(loud(300)) == "What time is it?"
    actor.reply(Asked("speech"))
    assert actor.transcribe(loud(300)) == "(300 ms)"


def test_a_tone_lasts_as_long_as_its_text() -> None:
    """Sixty milliseconds a character."""
    assert spoken_ms(tone("ten chars.")) == 600
    assert tone("") == b""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "turn"),
        ("[[turn]", "script.toml"),
        ("[[turn]]\nsays = 1", "says"),
        ('[[turn]]\nafter = "lunch"', "lunch"),
        ("[[turn]]\nsay = 1", r"turn\[0\].say"),
        ("[[turn]]\ncalls = [{}]", "name"),
    ],
)
def test_a_bad_script_says_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    """The problem names the file and the place."""
    with pytest.raises(SettingsError, match=complaint) as raised:
        _actor(tmp_path, text)

    assert "script.toml" in str(raised.value)


def test_a_script_needs_its_files(tmp_path: Path) -> None:
    """A missing script or sound is told when the script is read."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        read_script(tmp_path / "nowhere.toml")
    with pytest.raises(AudioFileError, match=r"gone\.wav"):
        _actor(tmp_path, '[[turn]]\nsay = "gone.wav"\n')
