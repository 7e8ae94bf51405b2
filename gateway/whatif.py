"""What if: the caller of a tape talks to another agent or another model.

What the caller said is placed as a new call, at its own times, through a gateway of our own with
the settings that shall be tried; that call is taped, and the two tapes are compared. The caller
does not listen: who answers slower than at first is interrupted by what is said next.
"""

import dataclasses
import statistics
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from gateway.app import open_gateway
from gateway.errors import SettingsError, TapeError
from gateway.events import CallEnded, TokensUsed, Usage
from gateway.prices import Bill, Prices, read_prices
from gateway.settings import Agent, Settings
from gateway.simulator.asterisk_line import CODECS
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.tape.judge import judge, tapes_at
from gateway.tape.story import Story, story_of
from gateway.tape.tracks import Channel, caller_sound
from gateway.terminal import Terminal

RATE_HZ: Final = 24_000
# A caller's sound is held in memory: 100 bytes a ms.
LONGEST_S: Final = 3600.0
# After the caller's last word, the time for an answer.
LAST_ANSWER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What shall be tried: ``agent`` of the settings, with these fields ("voice=cedar") changed.

    ``speed``: times real time; only for far ends without a clock of their own.
    """

    agent: str = ""
    changes: tuple[str, ...] = ()
    speed: float = 1.0
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one call came to."""

    end: str
    turns: int
    latencies_ms: tuple[float, ...]
    interruptions: int
    heard_s: float
    unheard_s: float
    caller_words: str
    heard_words: str
    usage: Usage
    cost_usd: float


def figures_of(path: Path, prices: Prices) -> Figures:
    """Read a tape and add up.

    Raises:
        TapeError: it cannot be read or played.
    """
    story, facts = story_of(path), [fact for _, fact in judge(path).replayed.facts]
    bill = Bill(prices, _day(story), "")
    for fact in facts:
        bill.of(fact)
    totals = [turn.total_ms for turn in story.turns]
    ended = [fact for fact in facts if isinstance(fact, CallEnded)]
    return Figures(
        end=f"{story.result}, {story.reason}" if story.reason else "not on the tape",
        turns=len(story.turns),
        latencies_ms=tuple(total for total in totals if total is not None),
        interruptions=sum(fact.barge_ins for fact in ended),
        heard_s=sum(speech.heard_ms for speech in story.agent) / 1000,
        unheard_s=sum(speech.unheard_ms for speech in story.agent) / 1000,
        caller_words=" ".join(words.text for words in story.caller if words.text),
        heard_words=" ".join(s.heard_text.strip() for s in story.agent if s.heard_text),
        usage=_sum(fact.usage for fact in facts if isinstance(fact, TokensUsed)),
        cost_usd=bill.total_usd,
    )


def _day(story: Story) -> date:
    """The day of the call; of a tape that does not say, today: list prices are by date."""
    try:
        return datetime.fromisoformat(story.head.started_at).date()
    except ValueError:
        return datetime.now(UTC).date()


def _sum(usages: Iterable[Usage]) -> Usage:
    names = [field.name for field in dataclasses.fields(Usage)]
    total = dict.fromkeys(names, 0)
    for usage in usages:
        for name in names:
            total[name] += getattr(usage, name)
    return Usage(**total)


# ------------------------------------------------------------- the new call


def plan_of(path: Path, trial: Trial) -> CallPlan:
    """The caller's side of a tape as a call to place.

    Raises:
        TapeError: it cannot be read, is too long, or its caller says nothing.
    """
    story = story_of(path)
    if story.duration_s > LONGEST_S:
        raise TapeError(f"{path}: longer than {LONGEST_S:.0f} s, too long to be placed again")
    provider = _provider(path, story)
    sound = caller_sound(path, story.audio_in)
    pcm = b"".join(Channel(story.audio_in, RATE_HZ).blocks(sound))
    if not any(pcm):
        raise TapeError(f"{path}: no sound of the caller on this tape")
    codecs = [name for name, audio in CODECS.items() if audio == story.audio_in]
    return CallPlan(
        provider=provider,
        says=(Utterance(pcm, RATE_HZ, When("call_start", 0.0)),),
        dtmf=tuple((moment.t, moment.text) for moment in story.moments if moment.kind == "key"),
        codec=codecs[0] if codecs else "ulaw",
        quiet_s=3.0,
        hang_up_after_s=story.duration_s + LAST_ANSWER_S,
        parameters={"agent": trial.agent} if trial.agent else {},
        speed=trial.speed,
    )


def _provider(path: Path, story: Story) -> Literal["twilio", "asterisk"]:
    if story.head.provider == "asterisk":
        return "asterisk"
    if story.head.provider == "twilio":
        return "twilio"
    raise TapeError(f"{path}: a caller of {story.head.provider!r} cannot be played yet")


def tried(settings: Settings, trial: Trial, folder: Path) -> Settings:
    """The settings of the trial: on this machine alone, every call on tape.

    Raises:
        SettingsError: no such agent, or a change that cannot be made.
    """
    name = trial.agent or "default"
    agent = settings.agents.get(name)
    if agent is None:
        raise SettingsError(
            [f"--agent: no agent {name!r}; there are: {', '.join(settings.agents)}"]
        )
    return settings.model_copy(
        update={
            "host": "127.0.0.1",
            "port": 0,
            "ops_host": "127.0.0.1",
            "ops_port": 0,
            "workers": 1,
            "insecure": True,
            "public_url": "",
            "tape_dir": str(folder),
            # The new tape is looked at once, here, by whoever holds the old one.
            "tape_mask": False,
            "tape_announcement": "",
            "console_token": None,
            "softphone": False,
            "agents": {**settings.agents, name: changed(agent, (*trial.changes, "tape_share=1"))},
        }
    )


def changed(agent: Agent, changes: Sequence[str]) -> Agent:
    """An agent with fields set anew: ``name=value``, ``turn_detection.threshold=0.7``, ``x=@file``.

    Raises:
        SettingsError: a change cannot be read, or is not accepted; a line for each.
    """
    table = agent.model_dump()
    problems = [problem for change in changes if (problem := _set(table, change))]
    if problems:
        raise SettingsError(problems)
    try:
        return Agent(**table)
    except ValidationError as error:
        raise SettingsError(
            [
                f"--set {'.'.join(map(str, found['loc']))}: {found['msg']}"
                for found in error.errors(include_url=False)
            ]
        ) from None


def _set(table: dict[str, object], change: str) -> str:
    """Make a change; what is wrong with it, "" if nothing is."""
    name, is_set, text = change.partition("=")
    *path, last = name.strip().split(".")
    place: object = table
    for step in path:
        place = place.get(step) if isinstance(place, dict) else None
    if not is_set or not isinstance(place, dict):
        return f"--set {change}: accepted: NAME=VALUE, a field of an agent"
    try:
        place[last] = Path(text[1:]).read_text("utf-8") if text.startswith("@") else _value(text)
    except (OSError, UnicodeDecodeError) as error:
        return f"--set {change}: {error}"
    return ""


def _value(text: str) -> object:
    """A TOML value; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


async def what_if(
    terminal: Terminal, paths: list[Path], settings: Settings, trial: Trial
) -> list[tuple[Figures, Figures]]:
    """Place each taped call again and tell what changed: (then, now) for each.

    Raises:
        TapeError: a tape cannot be read or its caller cannot be played.
        SettingsError: the trial's settings cannot be used.
        PeerRefused: the gateway refused the call.
    """
    results, told, prices = [], [], read_prices(settings.prices)
    for path in tapes_at(paths):
        with tempfile.TemporaryDirectory(prefix="what-if-") as folder:
            tape = await _placed(plan_of(path, trial), tried(settings, trial, Path(folder)), folder)
            then, now = figures_of(path, prices), figures_of(tape, prices)
            if trial.out is not None:
                trial.out.mkdir(parents=True, exist_ok=True)
                (trial.out / tape.name).write_bytes(tape.read_bytes())
        terminal.say(f"{path}: then, and with what is tried now")
        terminal.table(compared(then, now))
        results.append((then, now))
        told.append({"tape": str(path), "then": _plain(then), "now": _plain(now)})
    terminal.result({"tapes": told})
    return results


async def _placed(plan: CallPlan, settings: Settings, folder: str) -> Path:
    """The tape of the new call; it is whole once the gateway has closed."""
    async with open_gateway(settings) as running:
        await place_call(f"http://127.0.0.1:{running.port}/{plan.provider}/media", plan)
        await running.drain(5.0)
    return next(tapes_at([Path(folder)]))


# ------------------------------------------------------------- what changed


def compared(then: Figures, now: Figures) -> list[tuple[str, str]]:
    """Rows for people: what, then -> now."""
    rows = [
        _row("end", then, now, lambda figures: figures.end),
        _row("turns", then, now, lambda figures: str(figures.turns)),
        _row("answered after, median", then, now, lambda figures: _median(figures.latencies_ms)),
        _row("answered after, worst", then, now, lambda figures: _worst(figures.latencies_ms)),
        *_each_turn(then, now),
        _row("interruptions", then, now, lambda figures: str(figures.interruptions)),
        _row("speech heard", then, now, lambda figures: f"{figures.heard_s:.1f} s"),
        _row("speech never heard", then, now, lambda figures: f"{figures.unheard_s:.1f} s"),
        _row("tokens in", then, now, lambda figures: _tokens(figures.usage, "input")),
        _row("tokens out", then, now, lambda figures: _tokens(figures.usage, "output")),
        _row("cost by list prices", then, now, lambda figures: f"{figures.cost_usd:.4f} USD"),
    ]
    for name, words in (
        ("caller, then", then.caller_words),
        ("caller, now", now.caller_words),
        ("heard, then", then.heard_words),
        ("heard, now", now.heard_words),
    ):
        if words:
            rows.append((name, words))
    return rows


def _row(name: str, then: Figures, now: Figures, show: Callable[[Figures], str]) -> tuple[str, str]:
    before, after = show(then), show(now)
    return (name, before if before == after else f"{before} -> {after}")


def _each_turn(then: Figures, now: Figures) -> list[tuple[str, str]]:
    both = zip(then.latencies_ms, now.latencies_ms, strict=False)
    return [
        (f"answer {number}", f"{before:.0f} ms -> {after:.0f} ms")
        for number, (before, after) in enumerate(both, start=1)
    ]


def _median(latencies_ms: Sequence[float]) -> str:
    return f"{statistics.median(latencies_ms):.0f} ms" if latencies_ms else "-"


def _worst(latencies_ms: Sequence[float]) -> str:
    return f"{max(latencies_ms):.0f} ms" if latencies_ms else "-"


def _tokens(usage: Usage, way: Literal["input", "output"]) -> str:
    text, audio = getattr(usage, f"{way}_text"), getattr(usage, f"{way}_audio")
    cached = f", {usage.input_cached_text + usage.input_cached_audio} cached"
    return f"{text} text, {audio} audio" + (cached if way == "input" else "")


def _plain(figures: Figures) -> Mapping[str, object]:
    return dataclasses.asdict(figures)
