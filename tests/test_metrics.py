"""Facts become series with closed labels, and gauges come back to 0."""

import platform
import random
from dataclasses import replace
from itertools import product
from typing import Literal, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway import __version__
from gateway.audio.convert import converter_name
from gateway.events import (
    RESULTS,
    ULAW_8K,
    AudioAssessed,
    AudioCounted,
    AudioDropped,
    BargedIn,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    CostIncurred,
    DeadAir,
    DtmfEntered,
    Fact,
    FirstAudioSent,
    FrameRejected,
    ItemPlayed,
    MarksLost,
    PromptPlayed,
    QueueSeen,
    RateLimitSeen,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeOpened,
    RealtimeReconnected,
    Reason,
    RelayMeasured,
    SetUpTimed,
    StateChanged,
    Termination,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnLost,
    TurnTimed,
    TurnTimedOut,
    Underrun,
    Usage,
)
from gateway.metrics import CallMetrics, Metrics, add_process_metrics, metrics_table
from gateway.prices import MAX_MODELS
from gateway.settings import _MAX_AGENTS

BEGAN = CallBegan("twilio", "default", "CA1", "+15551234567", "+15557654321", ULAW_8K, ULAW_8K)


DOORS = ("twilio", "asterisk")
TIMED = TurnTimed(0.5, 0.7, 0.1, 0.05, 0.15)
ASSESSED = AudioAssessed(
    is_final=True,
    duration_ms=60_000,
    voice_ms=20_000,
    agent_ms=20_000,
    level_dbfs=-22.5,
    noise_dbfs=-61.0,
    clipped_share=0.0,
    dc_offset=0.0,
    lost_ms=120.0,
    jitter_ms=30.0,
    echo_likeness=0.9,
    echo_loss_db=18.0,
    echo_delay_ms=120.0,
    faults=("echo",),
    new_faults=("echo",),
)


def ended(reason: Reason, duration_s: float = 0.0) -> CallEnded:
    """The end of a call for this reason."""
    return CallEnded(Termination(reason), duration_s, 0, 0, 0, 0)


class Exported:
    """A registry with our metrics, and what it exports."""

    def __init__(
        self, agents: tuple[str, ...] = ("default",), models: tuple[str, ...] = ("m-1",)
    ) -> None:
        self.agents = agents
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, DOORS, agents, models)

    def value(self, name: str, **labels: str) -> float:
        """The value of one series, which must exist."""
        value = self.registry.get_sample_value(f"gateway_{name}", labels)
        assert value is not None, (name, labels)
        return value

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """The name and labels of every series."""
        return {
            (sample.name, tuple(sample.labels.items()))
            for family in self.registry.collect()
            for sample in family.samples
        }

    def one_call(self, *facts: Fact) -> CallMetrics:
        """A call of which these facts are told."""
        call = self.metrics.call()
        for fact in facts:
            call.observe(fact)
        return call


@pytest.fixture
def exported() -> Exported:
    """Fresh metrics."""
    return Exported()


@pytest.mark.parametrize(
    ("fact", "name", "labels", "value"),
    [
        (BEGAN, "calls_started_total", {"provider": "twilio", "agent": "default"}, 1),
        (BEGAN, "calls_active", {"provider": "twilio", "agent": "default"}, 1),
        (RealtimeDialled("ok", 0.2), "realtime_connect_total", {"result": "ok"}, 1),
        (RealtimeDialled("ok", 0.2), "realtime_connect_seconds_sum", {}, 0.2),
        (RealtimeDialled("ok", 0.2), "realtime_sessions_active", {}, 1),
        (RealtimeDialled("429", 0.2), "realtime_connect_total", {"result": "429"}, 1),
        (RealtimeDialled("429", 0.2), "realtime_sessions_active", {}, 0),
        (
            RealtimeLost(1006, 12.5, is_expected=False),
            "realtime_disconnects_total",
            {"code": "1006", "expected": "no"},
            1,
        ),
        (RealtimeLost(1000, 12.5, is_expected=True), "realtime_seconds_total", {}, 12.5),
        (
            RealtimeLost(3000, 1, is_expected=True),
            "realtime_disconnects_total",
            {"code": "other", "expected": "yes"},
            1,
        ),
        (RealtimeReconnected(0.7), "realtime_reconnect_gap_seconds_sum", {}, 0.7),
        (CallReady(0.4), "call_setup_seconds_sum", {}, 0.4),
        (CallReady(0.4), "call_setup_total", {"result": "ok"}, 1),
        (AudioCounted("up", 980), "audio_ms_total", {"direction": "up"}, 980),
        (
            AudioDropped("down", "unheard", 300),
            "audio_dropped_ms_total",
            {"direction": "down", "reason": "unheard"},
            300,
        ),
        (
            RelayMeasured("down", 0.003),
            "relay_latency_seconds_bucket",
            {"direction": "down", "le": "0.005"},
            1,
        ),
        (ASSESSED, "caller_level_dbfs_bucket", {"le": "-25.0"}, 0),
        (ASSESSED, "caller_level_dbfs_bucket", {"le": "-20.0"}, 1),
        (ASSESSED, "caller_noise_dbfs_bucket", {"le": "-60.0"}, 1),
        (ASSESSED, "caller_jitter_seconds_sum", {}, 0.03),
        (ASSESSED, "caller_audio_missing_ms_total", {}, 120),
        (ASSESSED, "echo_return_loss_db_sum", {}, 18),
        (ASSESSED, "audio_faults_total", {"fault": "echo"}, 1),
        (replace(ASSESSED, is_final=False), "audio_faults_total", {"fault": "echo"}, 1),
        (replace(ASSESSED, is_final=False), "caller_level_dbfs_count", {}, 0),
        (replace(ASSESSED, level_dbfs=None), "caller_level_dbfs_count", {}, 0),
        (replace(ASSESSED, new_faults=()), "audio_faults_total", {"fault": "echo"}, 0),
        (FirstAudioSent(0.9), "first_audio_seconds_sum", {}, 0.9),
        (TurnAnswered(0.8), "turn_latency_seconds_sum", {}, 0.8),
        (TIMED, "turn_seconds_sum", {}, 1.5),
        (TIMED, "turn_stage_seconds_sum", {"stage": "endpointing"}, 0.5),
        (TIMED, "turn_stage_seconds_sum", {"stage": "model"}, 0.7),
        (TIMED, "turn_stage_seconds_sum", {"stage": "conversion"}, 0.1),
        (TIMED, "turn_stage_seconds_sum", {"stage": "send"}, 0.05),
        (TIMED, "turn_stage_seconds_sum", {"stage": "provider_buffer"}, 0.15),
        (TIMED, "turns_total", {"outcome": "answered"}, 1),
        (TurnLost("timed_out"), "turns_total", {"outcome": "timed_out"}, 1),
        (DeadAir(4.5), "dead_air_seconds_sum", {}, 4.5),
        (Underrun(120), "underruns_total", {}, 1),
        (Underrun(120), "underrun_ms_total", {}, 120),
        (QueueSeen("down", 1500), "queue_seconds_sum", {"direction": "down"}, 1.5),
        (SetUpTimed("dial", 0.3), "call_setup_stage_seconds_sum", {"stage": "dial"}, 0.3),
        (CostIncurred("m-1", 0.25, 9), "cost_usd_total", {"model": "m-1"}, 0.25),
        (CostIncurred("", 0.0, 9), "unpriced_tokens_total", {}, 9),
        (CostIncurred("", 0.0, 9), "cost_usd_total", {"model": "other"}, 0),
        (TurnTimedOut(is_final=False), "turn_timeouts_total", {"outcome": "retried"}, 1),
        (TurnTimedOut(is_final=True), "turn_timeouts_total", {"outcome": "gave_up"}, 1),
        (BargedIn(0.004), "bargein_clear_seconds_sum", {}, 0.004),
        (BargeInConfirmed(180), "bargein_heard_seconds_sum", {}, 0.18),
        (ItemPlayed("i", 2000, 1500, "hi"), "audio_unheard_ms_total", {}, 500),
        (ItemPlayed("i", 2000, 1500, "hi"), "audio_generated_ms_total", {}, 2000),
        (AudioDropped("down", "cancelled", 300), "audio_generated_ms_total", {}, 300),
        (AudioDropped("down", "cancelled", 300), "audio_unheard_ms_total", {}, 300),
        (AudioDropped("down", "unheard", 300), "audio_unheard_ms_total", {}, 0),
        (AudioDropped("up", "overflow", 300), "audio_unheard_ms_total", {}, 0),
        (DtmfEntered(), "dtmf_total", {}, 1),
        (ToolCalled("unknown"), "tool_calls_total", {"result": "unknown"}, 1),
        (
            RealtimeErrorSeen("session_expired", "expired", "x"),
            "realtime_errors_total",
            {"code": "session_expired"},
            1,
        ),
        (RateLimitSeen("tokens", 77), "realtime_rate_limit_remaining", {"limit": "tokens"}, 77),
        (
            FrameRejected("provider", "bad_json", "x"),
            "frame_errors_total",
            {"side": "provider", "kind": "bad_json"},
            1,
        ),
        (MarksLost(), "marks_lost_total", {}, 1),
        (PromptPlayed("apology"), "prompts_played_total", {"prompt": "apology"}, 1),
    ],
)
def test_fact_is_counted(
    exported: Exported, fact: Fact, name: str, labels: dict[str, str], value: float
) -> None:
    """Each fact moves its series by what it says."""
    exported.one_call(fact)
    assert exported.value(name, **labels) == pytest.approx(value)


def test_every_fact_is_known() -> None:
    """A kind of fact that is added to the vocabulary must be measured here, or knowingly not."""
    assert set(CallMetrics._OBSERVERS) == set(get_args(Fact))


@pytest.mark.parametrize(
    "fact",
    [
        CallerSpoke("my card is 4111"),
        RealtimeOpened("sess_1", "gpt-realtime"),
        StateChanged("turn", "speaking"),
    ],
)
def test_what_is_for_logs_only(exported: Exported, fact: Fact) -> None:
    """Facts for the log change no series."""
    before = generate_latest(exported.registry)
    exported.one_call(fact)
    assert generate_latest(exported.registry) == before


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_end_is_counted_under_its_result(exported: Exported, reason: Reason) -> None:
    """Each reason has a series from the start, beside the party to blame."""
    labels = {"result": RESULTS[reason], "reason": reason}
    assert exported.value("calls_ended_total", **labels) == 0
    exported.one_call(BEGAN, CallReady(0.1), ended(reason, 30.5))
    assert exported.value("calls_ended_total", **labels) == 1
    assert exported.value("call_seconds_total") == 30.5
    assert exported.value("calls_active", provider="twilio", agent="default") == 0


@pytest.mark.parametrize(
    ("reason", "result"),
    [
        ("caller_hangup", "abandoned"),
        ("provider_lost", "abandoned"),
        ("realtime_unavailable", "error"),
        ("internal_error", "error"),
    ],
)
def test_set_up_that_did_not_succeed(exported: Exported, reason: Reason, result: str) -> None:
    """A call that ends before it is ready is an error, unless the caller left first."""
    exported.one_call(BEGAN, ended(reason))
    assert exported.value("call_setup_total", result=result) == 1
    assert exported.value("call_setup_total", result="ok") == 0


def test_set_up_is_counted_once(exported: Exported) -> None:
    """A call whose session was replaced and configured again was set up once."""
    exported.one_call(BEGAN, CallReady(0.1), CallReady(9), ended("realtime_error"))
    assert exported.value("call_setup_total", result="ok") == 1
    assert exported.value("call_setup_total", result="error") == 0
    assert exported.value("call_setup_seconds_count") == 1


def test_tokens_add_up(exported: Exported) -> None:
    """Cached tokens are a part of the input, so they are counted once."""
    exported.one_call(TokensUsed(Usage(100, 200, 30, 40, 50, 60)))
    values = {
        pair: exported.value("realtime_tokens_total", direction=pair[0], kind=pair[1])
        for pair in [
            ("input", "text"),
            ("input", "audio"),
            ("input", "cached_text"),
            ("input", "cached_audio"),
            ("output", "text"),
            ("output", "audio"),
        ]
    }
    assert list(values.values()) == [70, 160, 30, 40, 50, 60]


def test_counters_never_go_back(exported: Exported) -> None:
    """Nonsense amounts count as nothing instead of raising."""
    exported.one_call(
        BEGAN,
        AudioCounted("up", -5),
        TokensUsed(Usage(input_text=1, input_cached_text=9)),
        ItemPlayed("i", 10, 20, ""),
        ended("caller_hangup", -1),
    )
    assert exported.value("audio_ms_total", direction="up") == 0
    assert exported.value("realtime_tokens_total", direction="input", kind="text") == 0
    assert exported.value("call_seconds_total") == 0


def test_call_that_never_ended_is_our_bug(exported: Exported) -> None:
    """Closing an observer puts the gauges right and blames us, once."""
    call = exported.one_call(BEGAN, RealtimeDialled("ok", 0.1), RealtimeDialled("ok", 0.1))
    call.close()
    call.close()
    assert exported.value("calls_active", provider="twilio", agent="default") == 0
    assert exported.value("realtime_sessions_active") == 0
    labels = {"result": "server_error", "reason": "internal_error"}
    assert exported.value("calls_ended_total", **labels) == 1


GAUGED = st.sampled_from(
    [
        BEGAN,
        RealtimeDialled("ok", 0.1),
        RealtimeDialled("refused", 0.1),
        RealtimeLost(1006, 1, is_expected=False),
        CallReady(0.1),
        ended("caller_hangup"),
    ]
)


@given(st.lists(GAUGED), st.lists(GAUGED))
def test_gauges_come_back_to_zero(before: list[Fact], after: list[Fact]) -> None:
    """Facts in any order, before and after closing, leave no gauge above or below 0 (P84)."""
    exported = Exported()
    for facts in (before, after):
        call = exported.metrics.call()
        for fact in facts:
            call.observe(fact)
            assert exported.value("calls_active", provider="twilio", agent="default") in (0, 1)
            assert exported.value("realtime_sessions_active") >= 0
        call.close()
    assert exported.value("calls_active", provider="twilio", agent="default") == 0
    assert exported.value("realtime_sessions_active") == 0


@given(st.lists(st.sampled_from(get_args(Reason)), max_size=20))
def test_started_equals_ended_plus_active(reasons: list[Reason]) -> None:
    """Calls are conserved: started = ended + active (P85)."""
    exported = Exported()
    exported.one_call(BEGAN)
    for reason in reasons:
        exported.one_call(BEGAN, ended(reason))
    text = "gateway_calls_ended_total"
    total = sum(s.value for f in exported.registry.collect() for s in f.samples if s.name == text)
    assert total == len(reasons)
    labels = {"provider": "twilio", "agent": "default"}
    assert exported.value("calls_started_total", **labels) == total + 1


def test_labels_are_closed(exported: Exported) -> None:
    """Ten thousand calls full of random words add no series at all (P83)."""
    before = exported.series()
    dice = random.Random(1)
    for _ in range(10_000):
        word = f"{dice.getrandbits(64):x}"
        call = exported.one_call(
            replace(BEGAN, provider=word, agent=word, provider_call_id=word, from_number=word),
            RealtimeDialled(word, 0.1),
            RealtimeErrorSeen(word, "warn", word),
            RealtimeLost(dice.randrange(5000), 1, is_expected=False),
            FrameRejected("provider", word, word),
            AudioDropped("up", word, 20),
            ToolCalled(word),
            PromptPlayed(word),
            RateLimitSeen(word, 1),
            CostIncurred(word, 0.1, 1),
            RealtimeOpened(word, word),
        )
        call.close()
        exported.metrics.rejected(word, word)
        exported.metrics.auth_failed(word)
        exported.metrics.token_refreshed(word)
        exported.metrics.set_breaker(is_open=True, target=word)
    assert exported.series() == before
    assert exported.value("rejected_total", stage="other", reason="other") == 10_000
    assert exported.value("calls_started_total", provider="other", agent="other") == 10_000


def test_number_of_series() -> None:
    """With all providers, agents and models there may be, one process stays under 3,000 series."""
    exported = Exported(
        agents=tuple(f"agent-{n}" for n in range(_MAX_AGENTS)),
        models=tuple(f"model-{n}" for n in range(MAX_MODELS)),
    )
    add_process_metrics(exported.registry)
    before = exported.series()
    for provider, agent in product(DOORS, exported.agents):
        exported.one_call(replace(BEGAN, provider=provider, agent=agent))
    assert exported.series() == before
    assert 300 < len(before) < 3000
    assert len(generate_latest(exported.registry)) < 1024 * 1024


def test_agents_have_their_own_series() -> None:
    """Calls are told apart by the agent that answers."""
    exported = Exported(agents=("default", "sales"))
    exported.one_call(replace(BEGAN, agent="sales"))
    assert exported.value("calls_started_total", provider="twilio", agent="sales") == 1


def test_nothing_of_a_call_is_exported(exported: Exported) -> None:
    """No number, id, word or error text of a call can be found in a scrape (P77)."""
    exported.one_call(
        replace(BEGAN, provider_call_id="canary", from_number="canary", to_number="canary"),
        CallerSpoke("canary"),
        ItemPlayed("canary", 1, 1, "canary"),
        RealtimeErrorSeen("canary", "fatal", "canary"),
        FrameRejected("realtime", "canary", "canary"),
        replace(ended("realtime_error"), detail="canary"),
    )
    assert b"canary" not in generate_latest(exported.registry)


def test_state_of_the_process(exported: Exported) -> None:
    """What the process says of itself is exported as said."""
    metrics = exported.metrics
    metrics.set_ready(is_ready=True)
    metrics.drain_began(7)
    metrics.socket_waits(1)
    metrics.set_insecure(is_insecure=True)
    metrics.set_calls_limit(40)
    metrics.set_token_expiry(1_800_000_000)
    metrics.set_breaker(is_open=True)
    metrics.loop_lag(0.03)
    metrics.loop_lag(-1)
    metrics.token_refreshed("timeout")
    metrics.tape_ended("cut")
    metrics.tape_lost(7)
    metrics.tape_removed("age")
    names = ("ready", "draining", "insecure_mode")
    assert [exported.value(name) for name in names] == [1, 1, 1]
    assert exported.value("calls_limit") == 40
    assert exported.value("drain_calls_total") == 7
    assert exported.value("calls_waiting") == 1
    assert exported.value("token_expiry_timestamp_seconds") == 1_800_000_000
    assert exported.value("realtime_breaker_open", target="primary") == 1
    assert exported.value("event_loop_lag_seconds_bucket", le="0.05") == 2
    assert exported.value("event_loop_lag_seconds_bucket", le="0.02") == 1
    assert exported.value("token_refresh_total", result="timeout") == 1
    assert exported.value("tapes_total", result="cut") == 1
    assert exported.value("tape_lost_messages_total") == 7
    assert exported.value("tapes_removed_total", reason="age") == 1
    metrics.set_ready(is_ready=False)
    assert exported.value("ready") == 0


def test_what_the_console_does(exported: Exported) -> None:
    """Pages, listeners, hang-ups and the database are counted; gauges come back."""
    metrics = exported.metrics
    metrics.view_opened()
    metrics.view_opened()
    metrics.view_closed(is_dropped=True)
    metrics.listening_began()
    metrics.listening_refused()
    metrics.hung_up_by_hand()
    metrics.call_stored("ok", 3)
    metrics.set_database_up(is_up=True)
    names = ("console_views", "listeners", "database_up")
    assert [exported.value(name) for name in names] == [1, 1, 1]
    metrics.view_closed(is_dropped=False)
    metrics.listening_ended("dropped")
    metrics.set_database_up(is_up=False)
    assert [exported.value(name) for name in names] == [0, 0, 0]
    assert exported.value("console_views_dropped_total") == 1
    assert exported.value("console_hang_ups_total") == 1
    assert exported.value("calls_stored_total", result="ok") == 3
    results = ("ended", "dropped", "refused")
    counted = [exported.value("listen_ins_total", result=result) for result in results]
    assert counted == [0, 1, 1]


def test_rejected_calls(exported: Exported) -> None:
    """A call that was not taken counts by stage and reason, and as a set-up that was rejected."""
    exported.metrics.rejected("handshake", "start_timeout")
    exported.metrics.auth_failed("replay")
    labels = {"stage": "handshake", "reason": "start_timeout"}
    assert exported.value("rejected_total", **labels) == 1
    assert exported.value("call_setup_total", result="rejected") == 1
    assert exported.value("auth_failures_total", kind="replay") == 1


def test_registries_do_not_share(exported: Exported) -> None:
    """Two sets of metrics in one process know nothing of each other."""
    Exported().one_call(BEGAN)
    assert exported.value("calls_active", provider="twilio", agent="default") == 0


def test_unknown_fact_is_ignored(exported: Exported) -> None:
    """Something that is no fact changes nothing and raises nothing."""
    before = generate_latest(exported.registry)
    exported.one_call(cast("Fact", Literal))
    assert generate_latest(exported.registry) == before


def test_the_build_says_what_runs() -> None:
    """Version, Python and converter are labels of one series."""
    registry = CollectorRegistry()
    Metrics(registry)
    (build,) = (family for family in registry.collect() if family.name == "gateway_build")
    assert build.samples[0].labels == {
        "version": __version__,
        "python": platform.python_version(),
        "converter": converter_name(),
    }


def test_table_for_people() -> None:
    """The table has every metric of ours once, with a sentence."""
    rows = {row.name: row for row in metrics_table()}
    assert rows["gateway_calls_ended_total"].labels == "result, reason"
    assert rows["gateway_relay_latency_seconds"].kind == "histogram"
    assert rows["gateway_build_info"].kind == "info"
    assert all(row.description.endswith(".") for row in rows.values())
    assert len(rows) == len(metrics_table()) >= 38
