"""Delays in real calls: each moves the histogram of its own stage, and the stages are the turn.

What ``test_waiting`` proves on a virtual clock, over sockets, with the metrics page as the witness.
A machine that stalls makes a stage longer and never shorter, so each stage is taken from the turn
in which it was shortest: one quiet turn of the few is enough.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, cast

import aiohttp
import pytest
from structlog.testing import capture_logs

from gateway.app import Running
from gateway.bridge import Bridge
from gateway.events import CallReady, Fact, PlayAudio, ProviderCommand, TurnTimed
from gateway.simulator.agents import Script, Turn, tone
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.plan import Pace
from gateway.simulator.server import Simulator, SimulatorOptions
from tests.running import Facts, ops_url_of, settings_for, url_of, watched_gateway, with_agent

TURNS: Final = 3
ADDED_S: Final = 0.4
# What a machine that is busy may add in every one of the turns.
WITHIN_S: Final = 0.15
SUM_WITHIN_S: Final = 0.002
WORD: Final = tone("Yes, please.")
ANSWER: Final = Script((Turn(after="speech", text="It is."),), loop=True)
SAYS: Final = (
    Utterance(WORD, when=When("call_start", 0.3)),
    *(Utterance(WORD, when=When("agent_stops", 0.2)) for _ in range(TURNS - 1)),
)
_SUMS: Final = re.compile(
    r'^gateway_turn(?:_stage)?_seconds_sum(?:\{stage="(?P<stage>\w+)"\})? (?P<sum>\S+)$',
    re.MULTILINE,
)
TURN: Final = "the turn"
Seconds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Delays:
    """How long each part takes, in seconds; what is 0 takes what it takes."""

    endpointing: float = 0.2
    model: float = 0.2
    conversion: float = 0.0
    send: float = 0.0
    provider_buffer: float = 0.04


STAGES: Final = ("endpointing", "model", "conversion", "send", "provider_buffer")


@dataclass(frozen=True, slots=True)
class _Slow:
    """A part of a call that takes its time, with all others waiting, and then does its work."""

    part: Any
    delay_s: float

    def convert(self, payload: bytes) -> bytes:
        """A converter's."""
        time.sleep(self.delay_s)
        return cast("bytes", self.part.convert(payload))

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """A provider's: slow where an answer begins, which is what ``asked_at`` tells."""
        if isinstance(command, PlayAudio) and command.asked_at:
            time.sleep(self.delay_s)
        return cast("list[str | bytes]", self.part.send(command))

    def __getattr__(self, name: str) -> Any:
        """All else as it is."""
        return getattr(self.part, name)


def _slow_down(bridge: Bridge, delays: _Delays) -> None:
    if delays.conversion:
        downlink = bridge._call._voice._downlink
        downlink._converter = cast("Any", _Slow(downlink._converter, delays.conversion))
    if delays.send:
        bridge._provider = cast("Any", _Slow(bridge._provider, delays.send))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the metrics page said of each turn, and what the caller's watch did."""

    turns: Sequence[Seconds]
    report: CallReport

    def shortest(self, stage: str) -> float:
        """The least that a stage has taken."""
        return min(turn[stage] for turn in self.turns)


async def _scraped(client: aiohttp.ClientSession) -> Seconds:
    async with client.get("/metrics") as reply:
        text = await reply.text()
    return {found["stage"] or TURN: float(found["sum"]) for found in _SUMS.finditer(text)}


async def _watched(running: Running, facts: Facts, call: "asyncio.Task[CallReport]") -> _Seen:
    """Scrape before the first turn and after each."""
    async with aiohttp.ClientSession(ops_url_of(running)) as client:
        pages = [await _scraped(client)]
        for number in range(1, TURNS + 1):
            await facts.wait_for(TurnTimed, number, within_s=30)
            pages.append(await _scraped(client))
            assert len(facts.of(TurnTimed)) == number
    turns = [{name: now[name] - then[name] for name in now} for then, now in pairwise(pages)]
    return _Seen(turns, await call)


async def _called(delays: _Delays) -> _Seen:
    """One call with so many turns, through a gateway of its own."""
    pace = Pace(first_delta_s=delays.model, first_delta_ms=2000, jitter_s=0.0)
    simulator = Simulator(SimulatorOptions(script=ANSWER, pace=pace))
    await simulator.start()
    silence = {"silence_duration_ms": round(delays.endpointing * 1000)}
    settings = with_agent(settings_for(simulator), greeting="", turn_detection=silence)
    plan = CallPlan(says=SAYS, jitter_ms=delays.provider_buffer * 1000, quiet_s=0.2)
    try:
        async with watched_gateway(settings) as (running, facts):

            def observe(_: str, fact: Fact) -> None:
                if isinstance(fact, CallReady):
                    (bridge,) = running.gateway.bridges
                    _slow_down(bridge, delays)

            running.gateway.observers.append(observe)
            media = f"{url_of(running)}/twilio/media"
            call = asyncio.create_task(place_call(media, plan))
            return await _watched(running, facts, call)
    finally:
        await simulator.close()


async def test_a_delay_moves_its_stage_and_the_stages_are_the_turn() -> None:
    """By what was added, and no other stage; the caller's watch agrees with the sum."""
    usual = _Delays()
    slow = {name: replace(usual, **{name: getattr(usual, name) + ADDED_S}) for name in STAGES}
    runs = (usual, *slow.values())
    with capture_logs():
        # Each has a loop of its own, so that one that stands still holds up no other.
        threads = [asyncio.to_thread(asyncio.run, _called(delays)) for delays in runs]
        before, *after = await asyncio.gather(*threads)

    for stage, seen in zip(slow, after, strict=True):
        moved = {name: seen.shortest(name) - before.shortest(name) for name in (*STAGES, TURN)}
        expected = {name: ADDED_S if name in (stage, TURN) else 0.0 for name in moved}
        assert moved == pytest.approx(expected, abs=WITHIN_S), stage
    for seen in (before, *after):
        assert len(seen.turns) == TURNS
        for turn in seen.turns:
            assert sum(turn[name] for name in STAGES) == pytest.approx(turn[TURN], abs=SUM_WITHIN_S)
        answered = [turn.answered_after_s for turn in seen.report.turns]
        by_watch = min(seconds for seconds in answered if seconds is not None)
        assert seen.shortest(TURN) == pytest.approx(by_watch, abs=WITHIN_S)
