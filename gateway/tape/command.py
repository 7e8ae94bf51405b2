"""`gateway replay`: prints which tapes a gateway of this version still plays the same way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import TapeError
from gateway.tape.compare import TOLERANCE_MS
from gateway.tape.judge import Verdict, judge, tapes_at
from gateway.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to replay. ``speed``: times real time, 0 does not wait. ``times``: each tape so often."""

    is_exact: bool = True
    tolerance_ms: float = TOLERANCE_MS
    speed: float = 0.0
    times: int = 1


@dataclass(slots=True)
class Tally:
    """How it went, tape by tape. ``carried_s``: of calls, every replay of them; ``took_s``: CPU."""

    same: int = 0
    different: int = 0
    unreadable: int = 0
    carried_s: float = 0.0
    took_s: float = 0.0

    @property
    def speed(self) -> float:
        """How many times faster than the calls were."""
        return self.carried_s / max(self.took_s, 1e-9)


def replay_tapes(terminal: Terminal, paths: list[Path], wishes: Wishes) -> Tally:
    """Replay them all and print what was found.

    Raises:
        TapeError: a folder holds no tape.
    """
    tally = Tally()
    results: list[dict[str, object]] = []
    for path in tapes_at(paths):
        try:
            verdict = _judged(path, wishes, tally)
        except TapeError as error:
            tally.unreadable += 1
            terminal.say(f"unreadable  {error}")
            results.append({"tape": str(path), "error": str(error)})
            continue
        tally.same += verdict.is_same
        tally.different += not verdict.is_same
        print_verdict(terminal, verdict)
        results.append(plain_verdict(verdict))
    terminal.say(_sum(tally))
    terminal.result({"tapes": results, "speed": round(tally.speed, 1)})
    return tally


def _judged(path: Path, wishes: Wishes, tally: Tally) -> Verdict:
    """The first verdict that found something, else the last; each is a part of the sum's time."""
    digests: set[str] = set()
    for _ in range(wishes.times):
        verdict = judge(
            path,
            is_exact=wishes.is_exact,
            tolerance_ms=wishes.tolerance_ms,
            wait_until=_pace(wishes.speed),
        )
        digests.add(verdict.replayed.digest)
        tally.carried_s += verdict.replayed.duration_s
        tally.took_s += verdict.took_s
        if not verdict.is_same:
            return verdict
    if len(digests) > 1:
        raise TapeError(f"{path}: {wishes.times} replays gave {len(digests)} different results")
    return verdict


def _pace(speed: float) -> Callable[[float], None]:
    """Waits until the tape's time has come, so many times faster than it was."""
    if not speed:
        return lambda _: None
    began = time.monotonic()
    return lambda t: time.sleep(max(0.0, began + t / speed - time.monotonic()))


def print_verdict(terminal: Terminal, verdict: Verdict) -> None:
    """One tape: a line, and the differences below it."""
    replayed, found = verdict.replayed, verdict.found
    word = "same" if verdict.is_same else "differs"
    terminal.say(
        f"{word:<10}  {verdict.path}  {replayed.duration_s:.1f} s, {replayed.messages} messages, "
        f"{verdict.speed:.0f} times real time, {replayed.digest[:16]}"
    )
    if verdict.note:
        terminal.say(f"            {verdict.note}")
    for difference in found.differences:
        terminal.say("\n".join(f"            {line}" for line in str(difference).splitlines()))
    if found.count > len(found.differences):
        terminal.say(f"            ... and {found.count - len(found.differences)} more differences")


def plain_verdict(verdict: Verdict) -> dict[str, object]:
    """The same for scripts."""
    replayed = verdict.replayed
    return {
        "tape": str(verdict.path),
        "is_same": verdict.is_same,
        "differences": verdict.found.count,
        "shown": [
            {"t": found.t, "where": found.where, "lines": found.lines}
            for found in verdict.found.differences
        ],
        "note": verdict.note,
        "duration_s": replayed.duration_s,
        "messages": replayed.messages,
        "speed": round(verdict.speed, 1),
        "digest": replayed.digest,
    }


def _sum(tally: Tally) -> str:
    parts = [f"{tally.same} the same", f"{tally.different} different"]
    if tally.unreadable:
        parts.append(f"{tally.unreadable} unreadable")
    if tally.carried_s:
        speed = f"{tally.speed:.0f} times real time by CPU"
        parts.append(f"{tally.carried_s:.0f} s of calls at {speed}")
    return ", ".join(parts)
