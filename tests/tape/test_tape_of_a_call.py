"""Whole calls on tape: the same as what a listener on both wires heard."""

import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from gateway.app import Running
from gateway.audio.wav import read_wav, write_wav
from gateway.events import AnnouncementHeard, FirstAudioSent
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, Utterance, When
from gateway.simulator.server import Simulator
from gateway.tape.judge import Verdict, judge
from gateway.tape.masking import LinkName, masked
from gateway.tape.record import TapedLink
from gateway.tape.renew import renew
from gateway.tape.show import printed
from gateway.tape.story import story_of
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
    return "".join(gzip.decompress(path.read_bytes()).decode() for path in folder.glob("*.gz"))


def _count(folder: Path) -> int:
    return len(list(folder.glob("*.jsonl.gz")))


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
        assert await happens(lambda: any(self.folder.glob("*.jsonl.gz")))
        assert await happens(lambda: len(list(self.folder.iterdir())) == 1)
        (path,) = self.folder.iterdir()
        return lines_of(path)


@asynccontextmanager
async def _scene(simulator: Simulator, folder: Path, **changes: str) -> AsyncIterator[Scene]:
    async with wiretap(simulator.url) as model:
        usual = {"AZURE_OPENAI_ENDPOINT": model.url, "GATEWAY_TAPE_DIR": str(folder)}
        usual["GATEWAY_TAPE_SHARE"] = "1"
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
    assert _masked(phone.there, "provider") == of(lines, "provider", "in")
    assert _masked(phone.back, "provider") == of(lines, "provider", "out")
    assert _masked(model.there, "realtime") == of(lines, "realtime", "out")
    assert _masked(model.back, "realtime") == of(lines, "realtime", "in")
    assert min(map(len, (phone.there, phone.back, model.there, model.back))) > 10
    assert lines[-1]["end"]["result"] == "success"
    assert (first["provider"], first["dialect"], first["agent"]) == (provider, "ga", "default")
    assert first["settings"]["call"]["mark_interval_ms"] == 100


def _masked(messages: list[str | bytes], link: LinkName) -> list[str | bytes]:
    """As they are on tape."""
    return [masked(m, link) if isinstance(m, str) else m for m in messages]


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


@pytest.mark.parametrize("share", ["0", "0.5"])
async def test_a_call_that_is_not_taped_costs_nothing(
    simulator: Simulator, tmp_path: Path, share: str
) -> None:
    """Which calls are taken follows from their ids; the others go over bare links."""
    ids = [f"CA{number:032x}" for number in range(12)]
    async with _scene(simulator, tmp_path, GATEWAY_TAPE_SHARE=share) as scene:
        settings = scene.running.gateway.settings
        taken = [i for i in ids if settings.is_taped(settings.agents["default"], i)]
        links = set()
        for call_id in ids:
            async with twilio_stream(url_of(scene.running), call_id) as stream:
                await stream.start()
                assert await happens(lambda: bool(scene.running.gateway.bridges))
                (bridge,) = scene.running.gateway.bridges
                is_taped = isinstance(bridge._provider_link, TapedLink)
                links.add((is_taped, bridge in scene.running.gateway.on_tape, call_id in taken))
                await stream.stop()
            assert await happens(lambda: not scene.running.gateway.bridges)

    assert links == ({(True, True, True), (False, False, False)} if taken else {(False,) * 3})
    assert _count(tmp_path) == len(taken)
    assert bool(taken) is (share != "0")


async def test_a_caller_is_told_before_anything_is_kept(
    simulator: Simulator, tmp_path: Path
) -> None:
    """The announcement is heard first; before its end there is neither file nor caller's sound."""
    wav, folder = tmp_path / "recorded.wav", tmp_path / "tapes"
    write_wav(wav, WORDS.pcm[: HZ * 2], HZ)
    changes = {"GATEWAY_TAPE_ANNOUNCEMENT": str(wav)}
    early = Utterance(read_wav(shipped_sound("caller.wav"), HZ)[: HZ * 5], HZ, When("call_start"))
    async with _scene(simulator, folder, **changes) as scene:
        url = f"{url_of(scene.running)}/twilio/media"
        await place_call(url, CallPlan(says=(early,), hang_up_after_s=0.5))
        assert not folder.exists()
        await place_call(url, CallPlan(says=(early,), hang_up_after_s=3.0))
        lines = await scene.tape()
    (path,) = folder.iterdir()

    (told,) = [fact for _, fact in scene.facts.told if isinstance(fact, AnnouncementHeard)]
    assert told is not None
    sound = [
        (line["t"], base64.b64decode(json.loads(line["data"])["media"]["payload"]))
        for line in lines
        if (line.get("link"), line.get("dir")) == ("provider", "in")
        and '"media"' in line.get("data", "")
    ]
    assert all(set(payload) == {0xFF} for t, payload in sound if t < 0.9)
    assert any(set(payload) != {0xFF} for t, payload in sound if t > 1.3)
    verdict = judge(path)
    assert verdict.is_same, verdict.found.differences


def _replayed(folder: Path) -> tuple[Verdict, list[Line]]:
    """The one tape of a folder: what a replay finds, and its lines."""
    (tape,) = folder.iterdir()
    return judge(tape), lines_of(tape)


@pytest.mark.parametrize("says_goodbye", [False, True], ids=["at once", "in its goodbye"])
async def test_a_call_that_the_process_leaves_says_so_on_its_tape(
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    says_goodbye: bool,  # noqa: FBT001  # a parameter
) -> None:
    """Cut off by the end of the process, also in mid goodbye: the same in a replay."""
    monkeypatch.setattr("gateway.app.GOODBYE_S", 0.3)
    settings = settings_for(simulator, GATEWAY_TAPE_DIR=str(tmp_path), GATEWAY_TAPE_SHARE="1")
    async with AsyncExitStack() as longer, watched_gateway(settings) as (running, facts):
        stream = await longer.enter_async_context(twilio_stream(url_of(running)))
        await stream.start()
        await facts.wait_for(FirstAudioSent)
        await stream.speak(b"\xff" * 160)
        if says_goodbye:
            await running.drain(0.0)

    verdict, lines = _replayed(tmp_path)
    assert [str(found) for found in verdict.found.differences] == []
    assert verdict.replayed.is_whole
    assert lines[-1]["end"] == {"result": "success", "reason": "drain"}
    assert sum(line.get("stopped", False) for line in lines) == 1
    assert sum("hang_up" in line for line in lines) == says_goodbye
    assert "hangs up: the gateway stopped" in "\n".join(printed(story_of(verdict.path)))
    renew(verdict.path, tmp_path / "renewed.jsonl")
    assert judge(tmp_path / "renewed.jsonl").is_same
