"""Everything in one process: a recorded caller phones a talking agent while you watch."""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gateway.app import Running, open_gateway
from gateway.audio.compare import correlation_per_second
from gateway.audio.wav import read_wav, write_stereo_wav, write_wav
from gateway.events import (
    BargedIn,
    BargeInConfirmed,
    CallEnded,
    CallerSpoke,
    CallReady,
    Fact,
    FirstAudioSent,
    ItemPlayed,
    PromptPlayed,
    RelayMeasured,
    TurnAnswered,
)
from gateway.settings import Settings, load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from gateway.terminal import Bar, Terminal

RATE_HZ: Final = 24_000
# Where the three sentences of the shipped caller lie, in ms, when each is said, and its words: the
# simulated model has ears but no dictionary.
SENTENCES: Final = (
    (0, 3900, When("agent_stops", 0.6), "Hello. Weasels have eaten our phone system."),
    (4300, 6900, When("agent_stops", 0.6), "Something is terribly wrong."),
    (7500, 9180, When("agent_starts", 1.0), "Please try again."),
)
# Likeness (correlation) below this would be a fault of ours.
GOOD: Final = 0.99
NORMAL: Final = 1000
PAUSE: Final = bytes(RATE_HZ)
CALL_LIMIT_S: Final = 45.0
# Where operators look by default; any other when it is taken.
OPS_PORT: Final = 9464
# The usual call takes about this long; the bar needs a length.
CALL_USUAL_S: Final = 22.0


class Story:
    """Collects what the gateway reports and tells it line by line."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._began = time.monotonic()
        self._words = iter([words for *_, words in SENTENCES])
        self.facts: list[Fact] = []

    def observe(self, _call_id: str, fact: Fact) -> None:
        """One fact of the call."""
        self.facts.append(fact)
        if isinstance(fact, CallerSpoke):
            fact = CallerSpoke(f"{next(self._words, '')} [by the script; heard: {fact.text}]")
        line = _LINES.get(type(fact))
        if line is not None:
            at_s = time.monotonic() - self._began
            self._terminal.say(f"  {at_s:6.2f} s  {line(fact)}")

    def values(self, kind: type, name: str) -> list[float]:
        """One number of every fact of a kind."""
        return [getattr(fact, name) for fact in self.facts if isinstance(fact, kind)]


_LINES: Final[Mapping[type, Callable[[Any], str]]] = {
    CallReady: lambda fact: f"call connected, model ready after {fact.setup_s * 1000:.0f} ms",
    FirstAudioSent: lambda _: "agent speaks first",
    CallerSpoke: lambda fact: f"caller: {fact.text}",
    TurnAnswered: lambda fact: (
        f"agent answers, {fact.latency_s * 1000:.0f} ms after the turn ended"
    ),
    BargedIn: lambda fact: f"caller interrupts: stop sent {fact.clear_s * 1000:.2f} ms later",
    ItemPlayed: lambda fact: (
        f"agent: {fact.text or '(nothing)'} "
        f"[heard {fact.heard_ms / 1000:.1f} of {fact.received_ms / 1000:.1f} s]"
    ),
    PromptPlayed: lambda fact: f"local recording: {fact.name}",
    CallEnded: lambda fact: (
        f"call over: {fact.termination.result}, {fact.termination.reason}, "
        f"{fact.duration_s:.1f} s, {fact.turns} turns, {fact.barge_ins} interruption(s)"
    ),
}


async def run_demo(terminal: Terminal, folder: Path, port: int, *, stays: bool) -> bool:
    """Place the sample call, show it, then serve the same set-up until interrupted.

    Args:
        terminal: where to print.
        folder: where the WAV files go; made if missing.
        port: the public port wished for; a free one is taken when it is in use.
        stays: whether to go on serving.

    Returns:
        Whether both sides came through as they were spoken.
    """
    simulator = await start_simulator(SimulatorOptions())
    try:
        async with open_gateway(demo_settings(simulator, _free(port), OPS_PORT)) as running:
            is_good = await _show(terminal, running, simulator, folder)
            if stays:
                _invite(terminal, running)
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            return is_good
    finally:
        await simulator.close()


def _free(port: int) -> int:
    """The port if nobody has it, else 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def demo_settings(simulator: Simulator, port: int = 0, ops_port: int = 0) -> Settings:
    """Settings for a gateway on this machine whose model is the simulator.

    The console's token is drawn each time.
    """
    return load_settings(
        {
            "AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{simulator.port}",
            "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
            "AZURE_OPENAI_API_KEY": "not-a-secret",
            "GATEWAY_INSECURE": "1",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "GATEWAY_OPS_PORT": str(_free(ops_port)),
            "GATEWAY_CONSOLE_TOKEN": secrets.token_urlsafe(32),
            "GATEWAY_SOFTPHONE": "1",
        },
        overrides={"agents": {"default": {"transcription": {"model": "simulated"}}}},
    )


async def _show(terminal: Terminal, running: Running, simulator: Simulator, folder: Path) -> bool:
    story = Story(terminal)
    running.gateway.observers.append(story.observe)
    terminal.say("A recorded caller phones the agent (a parrot: it says back what it heard).\n")
    plan = CallPlan(says=_sentences(), hang_up_after_s=CALL_LIMIT_S, quiet_s=1.2)
    with terminal.bar("on the phone", CALL_USUAL_S) as bar:
        ticking = asyncio.create_task(_tick(bar))
        try:
            report = await place_call(
                "", plan, webhook_url=f"http://127.0.0.1:{running.port}/twilio/voice"
            )
        finally:
            ticking.cancel()
    running.gateway.observers.remove(story.observe)
    return _conclude(terminal, story, report, simulator, folder)


def _sentences() -> tuple[Utterance, ...]:
    pcm = read_wav(shipped_sound("caller.wav"), RATE_HZ)
    per_ms = RATE_HZ // 1000 * 2
    return tuple(
        Utterance(pcm[start * per_ms : end * per_ms], RATE_HZ, when)
        for start, end, when, _ in SENTENCES
    )


async def _tick(bar: Bar) -> None:
    while True:
        await asyncio.sleep(0.25)
        bar.advance(0.25)


def _conclude(
    terminal: Terminal, story: Story, report: CallReport, simulator: Simulator, folder: Path
) -> bool:
    said, heard = report.tracks(RATE_HZ)
    model_heard = bytes(simulator.sessions[-1].hearing.heard.pcm) if simulator.sessions else b""
    up = correlation_per_second(said, model_heard, RATE_HZ)
    down = correlation_per_second(_spoken(story, simulator), heard, RATE_HZ)
    terminal.say("\nMeasured in this call:")
    terminal.table(_figures(story, report, up, down))
    files = _write(folder, said, heard)
    terminal.say("\nListen:")
    for path, what in files:
        terminal.say(f"  {path}  {what}")
    terminal.result(_as_json(story, report, up, down))
    return bool(up and down) and min(up) > GOOD and report.close_code == NORMAL


def _spoken(story: Story, simulator: Simulator) -> bytes:
    """What the agent generated, as far as the gateway says it was heard."""
    spoken = simulator.sessions[-1].spoken
    played = (fact for fact in story.facts if isinstance(fact, ItemPlayed))
    per_ms = RATE_HZ // 1000 * 2
    return b"".join(
        bytes(spoken[fact.item_id][: int(fact.heard_ms) * per_ms]) + PAUSE for fact in played
    )


def _figures(
    story: Story, report: CallReport, up: list[float], down: list[float]
) -> list[tuple[str, str]]:
    return [
        ("set-up, start message to model ready", _ms(story.values(CallReady, "setup_s"))),
        (
            "start message to first sound of the agent",
            _ms(story.values(FirstAudioSent, "latency_s")),
        ),
        (
            "end of a turn to first sound (model included)",
            _ms(story.values(TurnAnswered, "latency_s")),
        ),
        ("added by the gateway, caller to model", _ms(_relay(story, "up"), 2)),
        ("added by the gateway, agent to caller", _ms(_relay(story, "down"), 2)),
        ("interruption heard to stop sent", _ms(story.values(BargedIn, "clear_s"), 2)),
        (
            "heard after an interruption, at most",
            _ms([value / 1000 for value in story.values(BargeInConfirmed, "heard_after_ms")]),
        ),
        ("caller's words at the model, likeness per second", _likeness(up)),
        ("agent's words at the caller, likeness per second", _likeness(down)),
        ("audio lost on the way", f"{report.dropped_ms:.0f} ms"),
    ]


def _relay(story: Story, direction: str) -> list[float]:
    return [
        fact.latency_s
        for fact in story.facts
        if isinstance(fact, RelayMeasured) and fact.direction == direction
    ]


def _ms(seconds: list[float], digits: int = 0) -> str:
    """The middle and the worst of some times."""
    if not seconds:
        return "not seen in this call"
    ordered = sorted(seconds)
    middle, worst = ordered[len(ordered) // 2] * 1000, ordered[-1] * 1000
    if len(ordered) == 1:
        return f"{worst:.{digits}f} ms"
    return f"{middle:.{digits}f} ms (worst of {len(ordered)}: {worst:.{digits}f} ms)"


def _likeness(values: list[float]) -> str:
    if not values:
        return "nothing to compare"
    good = sum(value > GOOD for value in values)
    return f"{min(values):.4f} at least; {good} of {len(values)} seconds above {GOOD}"


def _write(folder: Path, said: bytes, heard: bytes) -> list[tuple[Path, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("caller.wav", "agent.wav", "both.wav")
    caller, agent, both = (folder / name for name in names)
    write_wav(caller, said, RATE_HZ)
    write_wav(agent, heard, RATE_HZ)
    write_stereo_wav(both, said, heard, RATE_HZ)
    return [
        (caller, "what the caller said"),
        (agent, "what the caller heard of the agent"),
        (both, "both on one clock, caller left, agent right"),
    ]


def _as_json(
    story: Story, report: CallReport, up: list[float], down: list[float]
) -> dict[str, object]:
    ended = [fact for fact in story.facts if isinstance(fact, CallEnded)]
    return {
        "result": ended[-1].termination.result if ended else None,
        "reason": ended[-1].termination.reason if ended else None,
        "setup_s": story.values(CallReady, "setup_s"),
        "turn_s": story.values(TurnAnswered, "latency_s"),
        "barge_in_clear_s": story.values(BargedIn, "clear_s"),
        "barge_in_heard_after_ms": story.values(BargeInConfirmed, "heard_after_ms"),
        "relay_up_s": _relay(story, "up"),
        "relay_down_s": _relay(story, "down"),
        "correlation_up": up,
        "correlation_down": down,
        "dropped_ms": report.dropped_ms,
    }


def _invite(terminal: Terminal, running: Running) -> None:
    terminal.say("\nStill serving the same set-up; stop with Ctrl-C.")
    terminal.table(
        [
            ("talk to it", f"http://127.0.0.1:{running.ops_port}/softphone"),
            ("with the token", running.gateway.settings.console_tokens["operator"]),
            ("call it", f"gateway call FILE.wav --url http://127.0.0.1:{running.port}"),
            ("metrics", f"http://127.0.0.1:{running.ops_port}/metrics"),
            ("health", f"http://127.0.0.1:{running.ops_port}/readyz"),
        ]
    )
