"""Text goes to the model and speech comes back, in both dialects, or a clear refusal."""

from pathlib import Path

import pytest

from gateway import say as quickstart
from gateway.audio.wav import read_wav
from gateway.errors import ConnectError, PeerRefused
from gateway.say import RATE_HZ, say
from gateway.simulator.agents import HELLO_TEXT, Script, Turn, prompt
from gateway.simulator.faults import Faults
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from gateway.terminal import Terminal
from tests.referee import Dialect, check_client_event
from tests.running import PREVIEW_VERSION, settings_for, with_agent


@pytest.mark.parametrize(("version", "dialect"), [("", "ga"), (PREVIEW_VERSION, "preview")])
async def test_a_text_is_answered_in_speech(
    simulator: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
    dialect: Dialect,
) -> None:
    """Transcript and bytes are printed as they come; the WAV holds every sample of the answer."""
    settings = settings_for(simulator, OPENAI_API_VERSION=version)
    path = tmp_path / "answer.wav"
    spoken = await say(Terminal(), settings, "Hello?", path)
    printed = capsys.readouterr().out
    (session,) = simulator.sessions

    assert spoken.text == HELLO_TEXT
    assert bytes(spoken.pcm) == prompt("hello.wav") == read_wav(path, RATE_HZ)
    assert spoken.first_audio_s is not None
    assert spoken.usage.output_audio > 0
    assert "Connecting (key: AZURE_OPENAI_API_KEY is set)" in printed
    assert printed.count("bytes") > 3
    assert session.dialect.name == dialect
    for event in session.received:
        check_client_event(dialect, event)
    assert "Hello?" in str(list(session.received))


async def test_the_agents_own_words_and_voice_are_used(
    simulator: Simulator, tmp_path: Path
) -> None:
    """The session is the default agent's, but waits for text rather than for speech."""
    settings = with_agent(settings_for(simulator), instructions="Be a pirate.", voice="ash")
    await say(Terminal(), settings, "Hello?", tmp_path / "answer.wav")
    update = simulator.sessions[0].received[0]["session"]

    assert update["instructions"] == "Be a pirate."
    assert update["audio"]["output"]["voice"] == "ash"
    assert update["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        (Faults(http_status=401), ConnectError, "401"),
        (Faults(fail_response="server_error"), PeerRefused, "failed: server_error"),
        (Faults(incomplete_response="max_output_tokens"), PeerRefused, "incomplete"),
        (Faults(close_code=1011, close_when="configured"), PeerRefused, "closed: 1011"),
        (Faults(reject_code="insufficient_quota"), PeerRefused, "insufficient_quota"),
    ],
)
async def test_whatever_goes_wrong_is_said(
    tmp_path: Path, faults: Faults, error: type[Exception], words: str
) -> None:
    """No handshake, no answer, half an answer, a closed line: an error in the peer's words."""
    simulator = await start_simulator(SimulatorOptions(faults=faults))
    try:
        with pytest.raises(error, match=words):
            await say(Terminal(), settings_for(simulator), "Hello?", tmp_path / "answer.wav")
    finally:
        await simulator.close()

    assert not (tmp_path / "answer.wav").exists()


async def test_an_answer_that_never_comes_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence has a limit."""
    monkeypatch.setattr(quickstart, "ANSWER_LIMIT_S", 0.2)
    simulator = await start_simulator(SimulatorOptions(faults=Faults(stall_after_deltas=1)))
    try:
        with pytest.raises(PeerRefused, match="no complete answer"):
            await say(Terminal(), settings_for(simulator), "Hello?", tmp_path / "answer.wav")
    finally:
        await simulator.close()


async def test_an_answer_in_writing_is_printed(tmp_path: Path) -> None:
    """A model that writes instead of speaking is still heard: the words count."""
    script = Script((Turn(say="Only words.", is_written=True),))
    simulator = await start_simulator(SimulatorOptions(script=script))
    try:
        spoken = await say(Terminal(), settings_for(simulator), "Hello?", tmp_path / "answer.wav")
    finally:
        await simulator.close()

    assert spoken.text == "Only words."
    assert spoken.first_audio_s is None
