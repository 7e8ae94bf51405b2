"""One caller or many phone a gateway, and what became of them is told in figures."""

import json
import wave
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import Running, open_gateway
from gateway.dialout import CALLS_LIMIT, Wishes, place_calls
from gateway.errors import AudioFileError, SettingsError
from gateway.events import CallBegan, CallEnded
from gateway.simulator.server import Simulator
from gateway.terminal import Terminal
from tests.running import (
    PBX_PASSWORD,
    ROOT,
    TWILIO_TOKEN,
    Facts,
    free_port,
    secrets_for,
    settings_for,
    url_of,
)

CALLER = ROOT / "tests" / "sounds" / "caller-short.wav"
BRIEF = Wishes(CALLER, "http://127.0.0.1:9", hang_up_after_s=0.5)

Printed = pytest.CaptureFixture[str]


@pytest.mark.parametrize("provider", ["twilio", "asterisk"])
async def test_calls_are_placed_and_told(
    gateway: Running, facts: Facts, capsys: Printed, provider: str
) -> None:
    """Several calls at once, each a call of its own at the gateway, with figures for people."""
    wishes = replace(
        BRIEF, url=url_of(gateway) + "/", provider=provider, calls=3, hang_up_after_s=1.5
    )

    assert await place_calls(Terminal(), wishes, {})
    printed = capsys.readouterr().out
    await facts.wait_for(CallEnded, 3)
    assert {fact.provider for fact in facts.of(CallBegan)} == {provider}
    assert "calls that came to their end             3" in printed
    assert "agent heard in                           3 of them" in printed


async def test_the_caller_is_heard_out_and_both_are_recorded(
    gateway: Running, capsys: Printed, tmp_path: Path
) -> None:
    """A polite caller waits for the greeting, speaks, hears the answer; JSON and a WAV tell it."""
    wishes = replace(BRIEF, url=url_of(gateway), hang_up_after_s=30.0, out=tmp_path / "calls")

    assert await place_calls(Terminal(as_json=True), wishes, {})
    told = json.loads(capsys.readouterr().out)
    (call,) = told["calls"]
    with wave.open(str(tmp_path / "calls" / "call.wav")) as file:
        recorded_s = file.getnframes() / file.getframerate()
        channels = file.getnchannels()

    assert (told["placed"], told["refused"], told["errors"]) == (1, [], [])
    assert call["ended_by"] == "caller"
    assert 0 < call["answered_after_s"][0] < 2
    assert call["duration_s"] < 20
    assert channels == 2
    assert recorded_s == pytest.approx(call["sent_ms"] / 1000, abs=0.5)


async def test_secrets_come_from_the_variables_the_gateway_reads(
    simulator: Simulator, capsys: Printed
) -> None:
    """With them calls get in over both providers, without them the refusal is shown."""
    port = free_port()
    secrets = secrets_for(f"http://127.0.0.1:{port}")
    environ = {
        "TWILIO_AUTH_TOKEN": f"{TWILIO_TOKEN},the-next-one",
        "GATEWAY_ASTERISK_USERNAME": "pbx",
        "GATEWAY_ASTERISK_PASSWORD": PBX_PASSWORD,
    }
    settings = settings_for(simulator, GATEWAY_PORT=str(port), **secrets)
    async with open_gateway(settings) as running:
        wishes = replace(BRIEF, url=url_of(running))
        outcomes = [
            await place_calls(Terminal(), replace(wishes, provider=provider), known)
            for known in (environ, {})
            for provider in ("twilio", "asterisk")
        ]
    printed = capsys.readouterr().out

    assert outcomes == [True, True, False, False]
    assert "refused (1): the webhook answered 403" in printed
    assert "refused (1): the media socket was refused: 403" in printed


async def test_nobody_there_is_told_once_for_all(capsys: Printed) -> None:
    """Many refusals of one kind are one line with their number."""
    wishes = replace(BRIEF, url=f"http://127.0.0.1:{free_port()}", calls=4)

    assert not await place_calls(Terminal(), wishes, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("refused (4): no answer")


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        (replace(BRIEF, provider="vonage"), "--provider"),
        (replace(BRIEF, calls=CALLS_LIMIT + 1), "--calls"),
        (replace(BRIEF, url="127.0.0.1:8080"), "--url"),
    ],
)
async def test_a_wish_that_cannot_be_met_names_its_option(wishes: Wishes, named: str) -> None:
    """What to type instead is part of the message."""
    with pytest.raises(SettingsError, match=f"{named}.*accepted"):
        await place_calls(Terminal(), wishes, {})


async def test_a_file_that_cannot_be_played_is_named(tmp_path: Path) -> None:
    """Before anybody is called."""
    with pytest.raises(AudioFileError, match=r"nothing\.wav"):
        await place_calls(Terminal(), replace(BRIEF, file=tmp_path / "nothing.wav"), {})
