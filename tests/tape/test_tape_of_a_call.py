"""Whole calls on tape: the same as what a listener on both wires heard."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from gateway.app import Running
from gateway.audio.wav import read_wav
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, Utterance, When
from gateway.simulator.server import Simulator
from tests.running import (
    TWILIO_TOKEN,
    Facts,
    free_port,
    happens,
    metric,
    secrets_for,
    settings_for,
    twilio_stream,
    url_of,
    watched_gateway,
)
from tests.tape.test_record import Line, lines_of, of
from tests.tape.wiretap import Wiretap, wiretap

HZ = 24_000
WORDS = Utterance(read_wav(shipped_sound("caller.wav"), HZ)[: HZ * 2], HZ, When("agent_stops", 0.1))
HELLO = CallPlan(hang_up_after_s=0.4)


def _text(folder: Path) -> str:
    """Everything in a folder."""
    return "".join(path.read_text("utf-8") for path in folder.iterdir())


@dataclass
class Scene:
    """A gateway with tapes on, and a listener on each of its wires."""

    running: Running
    phone: Wiretap
    model: Wiretap
    folder: Path
    facts: Facts

    async def tape(self) -> list[Line]:
        """The one tape, once it is whole."""
        assert await happens(lambda: any(self.folder.glob("*.jsonl")))
        (path,) = self.folder.iterdir()
        return lines_of(path)


@asynccontextmanager
async def _scene(simulator: Simulator, folder: Path, **changes: str) -> AsyncIterator[Scene]:
    async with wiretap(simulator.url) as model:
        usual = {"AZURE_OPENAI_ENDPOINT": model.url, "GATEWAY_TAPE_DIR": str(folder)}
        settings = settings_for(simulator, **(usual | changes))
        async with watched_gateway(settings) as (running, facts), wiretap(url_of(running)) as phone:
            yield Scene(running, phone, model, folder, facts)


@pytest.mark.parametrize("provider", ["twilio", "asterisk"])
async def test_a_tape_holds_what_both_far_ends_sent_and_received(
    simulator: Simulator, tmp_path: Path, provider: Literal["twilio", "asterisk"]
) -> None:
    """Four streams of messages, each the same on the wire and on the tape, from end to end."""
    plan = CallPlan(provider=provider, says=(WORDS,), quiet_s=0.3, hang_up_after_s=15.0)
    async with _scene(simulator, tmp_path / "tapes") as scene:
        await place_call(f"{scene.phone.url}/{provider}/media", plan)
        first, *lines = await scene.tape()

    phone, model = scene.phone, scene.model
    assert [_masked(text) for text in phone.there] == of(lines, "provider", "in")
    assert phone.back == of(lines, "provider", "out")
    assert model.there == of(lines, "realtime", "out")
    assert model.back == of(lines, "realtime", "in")
    assert min(map(len, (phone.there, phone.back, model.there, model.back))) > 10
    assert lines[-1]["end"]["result"] == "success"
    assert (first["provider"], first["dialect"], first["agent"]) == (provider, "ga", "default")
    assert first["settings"]["call"]["mark_interval_ms"] == 100


def _masked(message: str | bytes) -> str | bytes:
    """Twilio's start message has the caller's numbers, of which tapes keep four digits."""
    if isinstance(message, bytes) or '"start"' not in message:
        return message
    told = json.loads(message)
    parameters = told["start"]["customParameters"]
    masked = {
        name: "+*******" + parameters[name][-4:] for name in ("from", "to") if name in parameters
    }
    told["start"]["customParameters"] = parameters | masked
    return json.dumps(told)


async def test_no_token_is_on_a_tape(simulator: Simulator, tmp_path: Path) -> None:
    """A call with its proofs of origin: neither token nor key nor number is in the file."""
    port = free_port()
    secrets = secrets_for(f"http://127.0.0.1:{port}")
    async with _scene(simulator, tmp_path, GATEWAY_PORT=str(port), **secrets) as scene:
        webhook = f"{url_of(scene.running)}/twilio/voice"
        await place_call("", HELLO, webhook_url=webhook, auth=CallAuth(twilio_token=TWILIO_TOKEN))
        lines = await scene.tape()
        text = _text(tmp_path)

    (start,) = (message for message in of(lines[1:], "provider", "in") if '"start"' in str(message))
    assert json.loads(start)["start"]["customParameters"]["token"] == "***"
    for secret in (TWILIO_TOKEN, "not-a-secret", HELLO.from_number, HELLO.to_number):
        assert secret not in text


async def test_a_call_that_is_refused_leaves_no_tape(simulator: Simulator, tmp_path: Path) -> None:
    """A socket that never says which call it is must not fill the disk."""
    async with (
        _scene(simulator, tmp_path, GATEWAY_START_DEADLINE_S="0.1") as scene,
        twilio_stream(url_of(scene.running)) as stream,
    ):
        assert await stream.closed() == 1008

    assert not _text(tmp_path)


async def test_a_drain_is_on_the_tape(simulator: Simulator, tmp_path: Path) -> None:
    """Why we hung up is not on any wire; the tape says it, at the moment it was decided."""
    async with (
        _scene(simulator, tmp_path) as scene,
        twilio_stream(url_of(scene.running)) as stream,
    ):
        await stream.start()
        assert await happens(lambda: bool(scene.running.gateway.bridges))
        await scene.running.drain(0.0)
        lines = await scene.tape()
        tapes = await metric(scene.running, 'gateway_tapes_total{result="ok"}')

    reasons = [line["hang_up"] for line in lines if "hang_up" in line]
    assert (reasons, lines[-1]["end"]["reason"], tapes) == (["drain"], "drain", 1)


async def test_a_disk_that_fails_does_not_end_a_call(simulator: Simulator, tmp_path: Path) -> None:
    """The folder became a file: the call is as good as ever, and the tape is counted as failed."""
    folder = tmp_path / "tapes"
    folder.write_text("in the way")
    async with _scene(simulator, folder) as scene:
        report = await place_call(f"{url_of(scene.running)}/twilio/media", HELLO)
        registry = scene.running.gateway.registry

    assert report.ended_by == "caller"
    assert registry.get_sample_value("gateway_tapes_total", {"result": "failed"}) == 1
