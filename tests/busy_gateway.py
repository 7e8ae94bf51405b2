"""A real gateway to which everything happens that its metrics can tell of."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import numpy as np

from gateway.errors import PeerRefused
from gateway.simulator.agents import Turn
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, Utterance, When
from gateway.simulator.plan import Pace
from tests.faults.scene import Scene, says, stage, utterance, words
from tests.running import PBX_PASSWORD, ops_url_of

_PARROT = (Turn(after="create", text=words(0.6)), Turn(after="speech", text=words(2.0)))
# Counters and histograms that stay at 0 below, and why.
UNTOUCHED = MappingProxyType(
    {
        "gateway_worker_restarts_total": "a gateway of one process has nobody to replace it",
        "gateway_drain_calls_total": "a drain would end what is looked at",
        "gateway_token_refresh_total": "the model's simulator takes keys",
        "gateway_unpriced_tokens_total": "its model has a price",
        "gateway_turn_timeouts_total": "15 s of waiting",
        "gateway_marks_lost_total": "takes a minute",
        "gateway_tape_lost_messages_total": "takes a slow disk",
        "gateway_console_views_dropped_total": "nobody looks in",
        "gateway_console_hang_ups_total": "nobody looks in",
        "gateway_listen_ins_total": "nobody looks in",
        "gateway_tapes_removed_total": "no tape is old",
        "gateway_trace_spans_total": "there is no collector",
        "gateway_echo_return_loss_db": "takes a phone that echoes",
        "gateway_caller_audio_missing_ms_total": "takes a network that loses",
    }
)


@asynccontextmanager
async def busy_gateway(folder: Path) -> AsyncIterator[Scene]:
    """A gateway of both providers with tapes, before anything happens."""
    async with stage(
        folder,
        io.StringIO(),
        script=says(*_PARROT),
        pace=Pace(speed=5.0, first_delta_s=0.1, jitter_s=0.0),
        AZURE_OPENAI_DEPLOYMENT_NAME="gpt-realtime",
        GATEWAY_TAPE_DIR=str(folder / "tapes"),
        GATEWAY_TAPE_SHARE="1",
        GATEWAY_CONSOLE_TOKEN="t" * 32,
        GATEWAY_DATABASE_URL=f"sqlite:///{folder / 'calls.sqlite'}",
        GATEWAY_ASTERISK_USERNAME="pbx",
        GATEWAY_ASTERISK_PASSWORD=PBX_PASSWORD,
    ) as scene:
        yield scene


async def everything_happens(scene: Scene) -> None:
    """Calls of both providers, interruptions, keys, and whatever can go wrong within seconds."""
    talk = [_talk(scene), _talk_asterisk(scene), _nobody_speaks(scene)]
    calls = [asyncio.create_task(each) for each in talk]
    await asyncio.sleep(0.5)  # their sessions are dialled; faults are for those that come
    for switches in (
        ("http_status=429",),
        ("close_code=1006", "close_when=delta"),
        ("fail_response=server_error", "response=2"),
        ("unknown_tool=1",),
    ):
        scene.break_model("first=1", *switches)
        await scene.call(utterance("call_start", 0.3), hang_up_after_s=2.0)
    calls += [asyncio.create_task(each) for each in (_unanswered(scene), _slowly_answered(scene))]
    await asyncio.sleep(0.5)
    scene.break_model("http_status=503")
    await scene.call(hang_up="agent", hang_up_after_s=4.0)
    scene.mend_model()
    await _strangers(scene)
    await asyncio.gather(*calls)


def _talk_plan(**more: Any) -> CallPlan:
    said = utterance("agent_stops", 0.3), utterance("agent_starts", 0.5), _loud()
    return CallPlan(says=said, dtmf=((0.9, "5"),), hang_up_after_s=8.0, **more)


def _loud() -> Utterance:
    """A caller who shouts: clipped, and above what is comfortable."""
    sine = np.sin(np.arange(36_000) / 12) * 90_000
    pcm = np.clip(sine, -32_768, 32_767).astype("<i2").tobytes()
    return Utterance(pcm, when=When("agent_stops", 0.3))


async def _talk(scene: Scene) -> None:
    plan = _talk_plan()
    await scene.call(*plan.says, dtmf=plan.dtmf, hang_up_after_s=plan.hang_up_after_s)


async def _talk_asterisk(scene: Scene) -> None:
    plan = _talk_plan(provider="asterisk", codec="slin24", from_number=scene.new_number())
    auth = CallAuth(username="pbx", password=PBX_PASSWORD)
    await place_call(f"ws://127.0.0.1:{scene.running.port}/asterisk/media", plan, auth=auth)


async def _nobody_speaks(scene: Scene) -> None:
    await scene.call(hang_up_after_s=8.0)


async def _unanswered(scene: Scene) -> None:
    """The model takes a turn and is silent: dead air."""
    scene.break_model("silent=1")
    await scene.call(utterance("agent_stops", 0.2), hang_up_after_s=5.5)


async def _slowly_answered(scene: Scene) -> None:
    """The model speaks more slowly than a person hears: underruns."""
    usual = scene.simulator.options
    scene.simulator.options = replace(usual, pace=Pace(speed=0.5, delta_ms=100, jitter_s=0.0))
    await scene.call(hang_up_after_s=3.0)
    scene.simulator.options = replace(scene.simulator.options, pace=usual.pace)


async def _strangers(scene: Scene) -> None:
    """A request that nobody signed, wrong passwords and tokens, a stream that sends nonsense."""
    base = f"http://127.0.0.1:{scene.running.port}"
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/twilio/voice", data={"CallSid": "CA1"}) as reply,
    ):
        assert reply.status == 403
    guess = {"Authorization": "Bearer a-guess"}
    async with (
        aiohttp.ClientSession(ops_url_of(scene.running), headers=guess) as http,
        http.get("/console/calls") as reply,
    ):
        assert reply.status == 401
    try:
        await place_call(f"{base}/asterisk/media", CallPlan(provider="asterisk"))
    except PeerRefused:
        pass
    else:
        raise AssertionError("a caller without a password was let in")
    async with scene.stream():
        pass  # and never says which call it is
    async with scene.stream() as stream:
        await stream.start()
        await stream.send("nonsense")
        await asyncio.sleep(0.2)
        await stream.stop()
