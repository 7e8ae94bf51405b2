"""What must hold on every stage, whatever went wrong on it."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gateway.events import (
    AudioDropped,
    CallBegan,
    CallEnded,
    Direction,
    Fact,
    PromptPlayed,
    RealtimeDialled,
    RealtimeLost,
    RealtimeReconnected,
    Reason,
)
from tests.faults.scene import CANARIES, Outcome, Scene
from tests.faults.stream import Stream, until

FRAME_MS = 20.0
OPEN_FILES = Path("/proc/self/fd")
# A session may outlive the call it belongs to by so much.
SESSION_OUTLIVES_S = 2.0
GONE_WITHIN_S = 10.0
# The caller talks for longer than this when it interrupts: no sound has a reason to begin.
NO_SOUND_S = 0.35
# Frames under way when one side leaves without waiting for the other.
UNDER_WAY_MS = 300.0
# Words that were not answered are said again to a new session: at most the ten seconds kept.
REPEATED_MS = 10_500.0
QUIET = 300


@dataclass(frozen=True)
class Footprint:
    """What this process holds open."""

    tasks: frozenset[asyncio.Task[Any]]
    files: int
    threads: int

    @classmethod
    def now(cls) -> "Footprint":
        """Count; the threads of the loop's own pool stay by design."""
        threads = [t for t in threading.enumerate() if not t.name.startswith("asyncio_")]
        return cls(frozenset(asyncio.all_tasks()), len(list(OPEN_FILES.iterdir())), len(threads))

    async def is_back(self, own: asyncio.Task[Any] | None) -> None:
        """Wait until nothing is left beyond this footprint."""
        gc.collect()
        try:
            await until(lambda: not self._surplus(own), GONE_WITHIN_S)
        except TimeoutError:
            raise AssertionError(f"left behind: {self._surplus(own)}") from None

    def _surplus(self, own: asyncio.Task[Any] | None) -> list[object]:
        here = Footprint.now()
        left: list[object] = [task for task in here.tasks - self.tasks if task is not own]
        left += [f"{here.files - self.files} files"] if here.files > self.files else []
        return left + (["a thread"] if here.threads > self.threads else [])


class Watch:
    """Looks, all the time, whether more sessions are open than calls are alive."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.too_many: list[str] = []

    async def look(self) -> None:
        """Until cancelled."""
        surplus_for_s = 0.0
        while True:
            await asyncio.sleep(0.05)
            live = sum(_is_live(facts) for facts in self._scene.facts.values())
            is_surplus = self._scene.simulator.active > live
            surplus_for_s = surplus_for_s + 0.05 if is_surplus else 0.0
            if surplus_for_s > SESSION_OUTLIVES_S:
                self.too_many.append(f"{self._scene.simulator.active} sessions, {live} calls")


def _is_live(facts: list[Fact]) -> bool:
    kinds = {type(fact) for fact in facts}
    return CallBegan in kinds and CallEnded not in kinds


@asynccontextmanager
async def guarded(scene: Scene, *, has_bystander: bool) -> AsyncIterator[None]:
    """Run a test's body on a stage, then hold everything that happened against the rules."""
    footprint, watch = Footprint.now(), Watch(scene)
    watching = asyncio.create_task(watch.look())
    try:
        if has_bystander:
            async with scene.with_bystander():
                yield
        else:
            yield
        await until(lambda: scene.simulator.active == 0, SESSION_OUTLIVES_S + 1)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    assert watch.too_many == []
    await footprint.is_back(asyncio.current_task())
    check(scene)


def check(scene: Scene) -> None:
    """The rules that can be read off after the last call."""
    for facts in scene.facts.values():
        _check_record(facts)
        _check_sessions(facts)
    _check_gauges(scene)
    for outcome in scene.outcomes:
        _check_no_stale_audio(outcome)
    if scene.outcomes and not scene.streams:
        _check_uplink(scene)
        _check_downlink(scene)
    if scene.bystander is not None:
        _check_bystander(scene, scene.bystander)
    _check_nothing_is_told(scene)


def _check_record(facts: list[Fact]) -> None:
    """Exactly one record for an accepted call, none for others, with a reason we know."""
    records = [fact for fact in facts if isinstance(fact, CallEnded)]
    assert len(records) == sum(isinstance(fact, CallBegan) for fact in facts)
    assert all(record.termination.reason in get_args(Reason) for record in records)


def _check_sessions(facts: list[Fact]) -> None:
    """No session before the start was accepted, and never two at a time."""
    is_open = 0
    for number, fact in enumerate(facts):
        if isinstance(fact, RealtimeDialled) and fact.result == "ok":
            assert any(isinstance(before, CallBegan) for before in facts[:number])
            is_open += 1
        elif isinstance(fact, RealtimeLost):
            is_open -= 1
        assert is_open in {0, 1}
    assert is_open == 0


def _check_gauges(scene: Scene) -> None:
    assert scene.metric("calls_active") == 0
    assert scene.metric("realtime_sessions_active") == 0
    ok = sum(
        isinstance(f, RealtimeDialled) and f.result == "ok" for f in scene.told(RealtimeDialled)
    )
    assert len(scene.sessions()) <= ok + _abandoned(scene)


def _abandoned(scene: Scene) -> int:
    """Dials that a hang-up cut short; the model may have seen their handshake."""
    calls = [facts for name, facts in scene.facts.items() if name != scene.bystander_id]
    return sum(not any(isinstance(fact, RealtimeDialled) for fact in facts) for facts in calls)


def _check_no_stale_audio(outcome: Outcome) -> None:
    """While the caller interrupts, nothing of what was cleared begins to sound again."""
    clears = [moment.at_s for moment in outcome.report.moments if moment.kind == "clear"]
    begins = [span.starts_at_s for span in outcome.report.spans]
    stale = [(at, start) for at in clears for start in begins if at < start < at + NO_SOUND_S]
    assert stale == []


def dropped_ms(facts: tuple[Fact, ...] | list[Fact], direction: Direction, *but: str) -> float:
    """Audio told to be dropped in one direction, except for these reasons."""
    drops = (f for f in facts if isinstance(f, AudioDropped) and f.direction == direction)
    return sum(drop.duration_ms for drop in drops if drop.reason not in but)


def _lost_abruptly(outcome: Outcome) -> bool:
    return any(not lost.is_expected for lost in outcome.told(RealtimeLost))


def _check_uplink(scene: Scene) -> None:
    """What callers sent = what the model heard + what was dropped for a reason."""
    outcomes = scene.outcomes
    sent_ms = sum(outcome.report.sent_ms for outcome in outcomes)
    gap_ms = sum(d.duration_ms for d in scene.told(AudioDropped) if d.reason == "gap")
    heard_ms = sum(session.hearing.heard.end_ms for session in scene.sessions()) - gap_ms
    lost_ms = sum(dropped_ms(outcome.facts, "up", "gap") for outcome in outcomes)
    slack_ms = sum(FRAME_MS if _left_in_order(o) else _under_way_ms(o) for o in outcomes)
    repeated_ms = sum(REPEATED_MS * len(o.told(RealtimeReconnected)) for o in outcomes)
    missing_ms = sent_ms - heard_ms - lost_ms
    assert -FRAME_MS * len(outcomes) - repeated_ms <= missing_ms <= slack_ms, (
        f"uplink: sent {sent_ms}, heard {heard_ms}, dropped {lost_ms}"
    )


def _under_way_ms(outcome: Outcome) -> float:
    """Each line that was cut took with it what was on the way."""
    return UNDER_WAY_MS * max(1, sum(not o.is_expected for o in outcome.told(RealtimeLost)))


def _left_in_order(outcome: Outcome) -> bool:
    was_caller = outcome.report.ended_by == "caller" and outcome.reason == "caller_hangup"
    return was_caller and not _lost_abruptly(outcome)


def _check_downlink(scene: Scene) -> None:
    """What the model said = what was handed over + what was dropped for a reason."""
    outcomes = scene.outcomes
    if any(outcome.told(PromptPlayed) or _lost_abruptly(outcome) for outcome in outcomes):
        return
    sessions = scene.sessions()
    spoken_ms = sum(len(pcm) / 48 for session in sessions for pcm in session.spoken.values())
    items = sum(len(session.spoken) for session in sessions)
    sent_ms = sum(outcome.report.received_ms for outcome in outcomes)
    lost_ms = sum(dropped_ms(outcome.facts, "down") for outcome in outcomes)
    # Every item is filled up to a whole frame.
    slack_ms = FRAME_MS * (items + 1)
    assert abs(spoken_ms - sent_ms - lost_ms) <= slack_ms, (
        f"downlink: spoken {spoken_ms}, handed over {sent_ms}, dropped {lost_ms}"
    )


def _check_bystander(scene: Scene, stream: Stream) -> None:
    """Somebody else's trouble costs a call no frame, and puts nobody else's voice into it."""
    facts, session = scene.facts[scene.bystander_id], scene.simulator.sessions[0]
    heard_ms = session.hearing.heard.end_ms
    # The last frame may have been under way when the bystander hung up.
    assert abs(heard_ms - stream.sent_ms) <= 2 * FRAME_MS
    assert [f for f in facts if isinstance(f, AudioDropped) and f.reason != "ended"] == []
    heard = np.frombuffer(bytes(session.hearing.heard.pcm), "<i2")
    assert heard.size == 0 or int(np.abs(heard.astype(int)).max()) < QUIET
    assert len(stream.line.phone.spans) <= 1, "the bystander heard a gap"
    assert stream.line.log.of("rejected") == []


def _check_nothing_is_told(scene: Scene) -> None:
    """Neither secrets nor whole phone numbers in what operators read."""
    told = scene.log.getvalue() + scene.exported()
    secrets = [*CANARIES, *(number.removeprefix("+") for number in scene.numbers)]
    assert [secret for secret in secrets if secret in told] == []
    assert "Task exception was never retrieved" not in told
