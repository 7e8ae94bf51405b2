"""Real speech through the whole gateway: every provider, dialect and audio format, every ending."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from gateway.app import Running
from gateway.audio.compare import correlation_per_second
from gateway.audio.convert import Converter
from gateway.audio.wav import read_wav
from gateway.events import (
    BargedIn,
    BargeInConfirmed,
    CallEnded,
    ItemPlayed,
    RealtimeErrorSeen,
    Reason,
)
from gateway.settings import Settings
from gateway.shipped import shipped_sound
from gateway.simulator.agents import Call as ToolCall
from gateway.simulator.agents import Script, Turn
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, HangUp, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.simulator.faults import Faults
from gateway.simulator.realtime import RealtimeSession
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from tests.referee import Dialect, check_client_event
from tests.running import (
    PREVIEW_VERSION,
    Facts,
    happens,
    settings_for,
    url_of,
    watched_gateway,
    with_agent,
)

RATE_HZ = 24_000
BYTES_PER_MS = RATE_HZ // 1000 * 2
GOOD = 0.99
PROVIDERS = ("twilio", "asterisk")
DIALECTS: tuple[Dialect, ...] = ("ga", "preview")
FORMATS = ("pcm16", "g711_ulaw")
VERSIONS = {"ga": "", "preview": PREVIEW_VERSION}
# No session is left this long after the caller has gone.
GONE_S = 2.0


def _sentence(start_ms: int, end_ms: int, when: When) -> Utterance:
    """A part of the recorded caller."""
    pcm = read_wav(shipped_sound("caller.wav"), RATE_HZ)
    return Utterance(pcm[start_ms * BYTES_PER_MS : end_ms * BYTES_PER_MS], RATE_HZ, when)


FIRST = _sentence(0, 3900, When("agent_stops", 0.6))
SECOND = _sentence(4300, 6900, When("agent_stops", 0.6))
INTERRUPTION = _sentence(7500, 9180, When("agent_starts", 1.0))


@dataclass(frozen=True)
class Outcome:
    """All that is known of one call once it is over."""

    report: CallReport
    facts: Facts
    session: RealtimeSession
    is_gone: bool

    @property
    def ended(self) -> CallEnded:
        """The call's one record."""
        (ended,) = self.facts.of(CallEnded)
        return ended

    @property
    def said(self) -> bytes:
        """What the caller said, 24 kHz PCM."""
        return self.report.tracks(RATE_HZ)[0]

    @property
    def heard(self) -> bytes:
        """What the caller heard, 24 kHz PCM, in its time."""
        return self.report.tracks(RATE_HZ)[1]

    @property
    def model_heard(self) -> bytes:
        """What the model heard, 24 kHz PCM."""
        return bytes(self.session.hearing.heard.pcm)

    @property
    def spoken(self) -> bytes:
        """What the model said, as far as the gateway says it was heard, in 24 kHz PCM."""
        pause = bytes(500 * BYTES_PER_MS)
        items = self.facts.of(ItemPlayed)
        return b"".join(
            bytes(self.session.spoken[item.item_id][: int(item.heard_ms) * BYTES_PER_MS]) + pause
            for item in items
        )

    def likeness_up(self) -> list[float]:
        """How alike each second is that the caller said and the model heard."""
        return correlation_per_second(_at_8k(self.said), _at_8k(self.model_heard), 8000)

    def likeness_down(self) -> list[float]:
        """The same for what the model said and the caller heard."""
        return correlation_per_second(_at_8k(self.spoken), _at_8k(self.heard), 8000)

    def texts(self) -> list[str]:
        """What the gateway told the model in writing."""
        events = [event for event in self.session.received if "item" in event]
        contents = [event["item"].get("content", []) for event in events]
        return [part["text"] for part in itertools.chain.from_iterable(contents)]


def _at_8k(pcm: bytes) -> bytes:
    """A telephone's bandwidth is all there is, and a third of the samples compare faster."""
    converter = Converter("pcm", RATE_HZ, "pcm", 8000)
    return converter.convert(pcm) + converter.flush()


async def _call(
    plan: CallPlan,
    options: SimulatorOptions | None = None,
    change: Callable[[Settings], Settings] = lambda settings: settings,
    **settings: str,
) -> Outcome:
    """One call through a gateway and a model of its own."""
    simulator = await start_simulator(options or SimulatorOptions())
    try:
        async with watched_gateway(change(settings_for(simulator, **settings))) as (running, facts):
            report = await place_call(_media_url(running, plan), plan)
            is_gone = await happens(lambda: simulator.active == 0, GONE_S)
            await facts.wait_for(CallEnded)
            return Outcome(report, facts, _one_session(simulator), is_gone)
    finally:
        await simulator.close()


def _media_url(running: Running, plan: CallPlan) -> str:
    return f"{url_of(running)}/{plan.provider}/media"


def _one_session(simulator: Simulator) -> RealtimeSession:
    (session,) = simulator.sessions
    return session


def _together(*calls: Awaitable[Outcome]) -> list[Outcome]:
    """Hold several calls at the same time."""

    async def all_of_them() -> list[Outcome]:
        return list(await asyncio.gather(*calls))

    return asyncio.run(all_of_them())


# ------------------------------------------------------------- speech, both ways, every combination

Combination = tuple[str, Dialect, str]
COMBINATIONS: Sequence[Combination] = tuple(itertools.product(PROVIDERS, DIALECTS, FORMATS))


def _talk(provider: str, dialect: Dialect, audio: str) -> Awaitable[Outcome]:
    """Two sentences, answered by a parrot, then a third right into the answer."""
    plan = CallPlan(says=(FIRST, SECOND, INTERRUPTION), hang_up_after_s=40, quiet_s=1.0)
    return _call(
        replace(plan, provider="twilio" if provider == "twilio" else "asterisk"),
        change=lambda settings: with_agent(settings, audio_format=audio),
        OPENAI_API_VERSION=VERSIONS[dialect],
    )


@functools.cache
def _talks() -> dict[Combination, Outcome]:
    """One conversation for each combination, all held at once, once for a process."""
    outcomes = _together(*(_talk(*combination) for combination in COMBINATIONS))
    return dict(zip(COMBINATIONS, outcomes, strict=True))


every_combination = pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
spoken = pytest.mark.xdist_group("speech")


@spoken
@every_combination
def test_the_callers_words_arrive_at_the_model(
    combination: Combination,
) -> None:
    """Every second of the caller's speech is the same at the model, and not a sample is missing."""
    outcome = _talks()[combination]
    up = outcome.likeness_up()
    missing_ms = (len(outcome.said) - len(outcome.model_heard)) / BYTES_PER_MS

    assert len(up) >= 7
    assert min(up) > GOOD
    # The caller's line is mu-law on both providers, so nothing on the way may change a bit.
    assert outcome.said.startswith(outcome.model_heard)
    assert 0 <= missing_ms < 100


@spoken
def test_every_other_codec_carries_speech_both_ways() -> None:
    """A-law, and linear sound from 8 to 24 kHz: each second arrives as it was spoken."""
    plan = CallPlan(provider="asterisk", says=(FIRST,), hang_up_after_s=25, quiet_s=1.0)
    codecs = {"alaw": "g711_alaw", "slin": "pcm16", "slin16": "pcm16", "slin24": "pcm16"}
    outcomes = _together(
        *(
            _call(
                replace(plan, codec=codec),
                change=functools.partial(with_agent, audio_format=audio),
            )
            for codec, audio in codecs.items()
        )
    )

    for outcome in outcomes:
        assert min(outcome.likeness_up()) > GOOD
        assert min(outcome.likeness_down()) > GOOD


@spoken
@every_combination
def test_the_models_words_arrive_at_the_caller(
    combination: Combination,
) -> None:
    """Every second that the caller is said to have heard was heard as it was spoken."""
    outcome = _talks()[combination]
    down = outcome.likeness_down()

    assert len(down) >= 9
    assert min(down) > GOOD
    assert outcome.report.dropped_ms == 0


@spoken
@every_combination
def test_an_interruption_stops_the_agent(
    combination: Combination,
) -> None:
    """The agent falls silent while the caller still speaks; the model is told how far it got."""
    outcome = _talks()[combination]
    turn = outcome.report.turns[2]
    cut = outcome.session.truncations[0]
    heard = {item.item_id: item.heard_ms for item in outcome.facts.of(ItemPlayed)}

    assert turn.is_barge_in
    assert turn.silenced_after_s is not None
    assert turn.silenced_after_s < 0.8
    assert len(outcome.facts.of(BargedIn)) == outcome.ended.barge_ins == 1
    assert max(fact.clear_s for fact in outcome.facts.of(BargedIn)) < 0.1
    assert cut[1] == int(heard[cut[0]])
    # The caller was let speak a second into the answer: what was heard of it is that, and what it
    # took the model to notice.
    assert 900 <= cut[1] <= 2000
    assert turn.answered_after_s is not None


@spoken
@every_combination
def test_nothing_but_valid_events_was_sent(
    combination: Combination,
) -> None:
    """Each event of the gateway is one that the dialect knows, down to the last member."""
    session = _talks()[combination].session
    for event in session.received:
        check_client_event(combination[1], event)
    kinds = {event["type"] for event in session.received}

    assert kinds >= {"session.update", "response.create", "conversation.item.truncate"}
    assert not _talks()[combination].facts.of(RealtimeErrorSeen)


@spoken
@every_combination
def test_the_call_ends_as_the_caller_wanted(
    combination: Combination,
) -> None:
    """A polite end: one record, nothing the provider would complain of, no session left open."""
    outcome = _talks()[combination]

    assert outcome.ended.termination.reason == "caller_hangup"
    assert outcome.report.ended_by == "caller"
    assert outcome.report.errors == ()
    assert not [each for each in outcome.report.moments if each.kind == "rejected"]
    assert outcome.is_gone


# ------------------------------------------------------------- a slow model


@pytest.mark.xdist_group("calls")
def test_nothing_is_lost_while_the_model_is_being_reached() -> None:
    """The caller talks from the first frame, the handshake takes long: the model hears it all."""
    options = SimulatorOptions(faults=Faults(handshake_delay_s=1.2))
    plan = CallPlan(says=(replace(SECOND, when=When("call_start")),), hang_up_after_s=4.0)
    calls = [
        _call(
            replace(plan, provider="twilio" if provider == "twilio" else "asterisk"),
            options,
            lambda settings: with_agent(settings, greeting=""),
            OPENAI_API_VERSION=VERSIONS[dialect],
        )
        for provider, dialect in itertools.product(PROVIDERS, DIALECTS)
    ]

    for outcome in _together(*calls):
        assert outcome.said.startswith(outcome.model_heard)
        assert (len(outcome.said) - len(outcome.model_heard)) / BYTES_PER_MS < 100
        assert min(outcome.likeness_up()) > GOOD


# ------------------------------------------------------------- keys


@pytest.mark.xdist_group("calls")
def test_keys_arrive_at_the_model_as_text() -> None:
    """What the caller types becomes one message in writing, and is answered."""
    keys = ((0.8, "1"), (1.0, "2"), (1.2, "*"), (1.4, "#"))
    plans = [
        CallPlan(provider="twilio", dtmf=keys, hang_up_after_s=4.0),
        CallPlan(provider="asterisk", dtmf=keys[:3], hang_up_after_s=5.0),
    ]
    finished, unfinished = _together(*map(_call, plans))

    assert finished.report.dtmf == ("1", "2", "*", "#")
    assert [text for text in finished.texts() if "12*#" in text]
    assert [text for text in unfinished.texts() if "12*" in text]
    for outcome in (finished, unfinished):
        assert [event["type"] for event in outcome.session.received].count("response.create") == 2


# ------------------------------------------------------------- every way to hang up


@pytest.mark.xdist_group("calls")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_way_to_hang_up_closes_the_session(provider: str) -> None:
    """Stop, close, reset: the right reason each, and the model's session soon gone."""
    ways: dict[HangUp, Reason] = {
        "stop": "caller_hangup",
        "close": "caller_hangup",
        "abort": "provider_lost",
    }
    plan = CallPlan(provider="twilio" if provider == "twilio" else "asterisk", hang_up_after_s=1.0)
    outcomes = _together(*(_call(replace(plan, hang_up=way)) for way in ways))

    assert [outcome.ended.termination.reason for outcome in outcomes] == list(ways.values())
    assert all(outcome.is_gone for outcome in outcomes)
    assert all(outcome.ended.heard_ms > 300 for outcome in outcomes)


@pytest.mark.xdist_group("calls")
def test_the_agent_can_hang_up() -> None:
    """The model says goodbye and calls the tool: the caller hears it out, then the line closes."""
    goodbye = Turn(after="create", say="goodbye.wav", calls=(ToolCall("hang_up"),))
    options = SimulatorOptions(script=Script((goodbye,)))
    plan = CallPlan(hang_up="agent", hang_up_after_s=15.0)
    outcomes = _together(
        *(
            _call(
                replace(plan, provider=provider),
                options,
                lambda settings: with_agent(settings, can_hang_up=True),
            )
            for provider in ("twilio", "asterisk")
        )
    )

    for outcome in outcomes:
        assert outcome.ended.termination.reason == "agent_hangup"
        assert outcome.report.ended_by == "gateway"
        assert outcome.is_gone
        assert min(outcome.likeness_down()) > GOOD


@pytest.mark.xdist_group("calls")
def test_an_interruption_is_confirmed_by_the_provider() -> None:
    """Both providers acknowledge the clear in their own way, so its effect is a measured number."""
    plan = CallPlan(says=(INTERRUPTION,), hang_up_after_s=4.0)
    outcomes = _together(
        *(_call(replace(plan, provider=provider)) for provider in ("twilio", "asterisk"))
    )

    for outcome in outcomes:
        assert outcome.facts.of(BargeInConfirmed)
        assert max(fact.heard_after_ms for fact in outcome.facts.of(BargeInConfirmed)) < 250
