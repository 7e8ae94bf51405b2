"""Writes the dashboards of this folder: what is on each stands here, Grafana's JSON comes out.

``python deploy/grafana/make_dashboards.py`` writes them anew, ``--check`` says whether they are as
they would be written. In an expression ``@`` stands for the instances chosen, ``@@`` for these and
the provider and agent chosen (only some metrics have these labels), ``[R]`` for the time between
two points.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).parent / "dashboards"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
Kind = Literal["stat", "timeseries", "table", "heatmap"]


@dataclass(frozen=True)
class Query:
    """What is asked, and what its lines are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What is shown.
        description: What it means and what to do when it is bad.
        queries: What is asked of Prometheus.
        unit: Grafana's name of it: s, ms, percentunit, short, currencyUSD, ...
        warn: Yellow from here on; None for no such colour.
        bad: Red from here on.
        low_is_bad: The two are lower bounds.
        alerts: Whose sections of the runbook are linked.
        is_stacked: Areas on top of each other.
        names: What values are called, such as 0 and 1.
    """

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    warn: float | None = None
    bad: float | None = None
    low_is_bad: bool = False
    alerts: Sequence[str] = ()
    is_stacked: bool = False
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Panels below a heading, laid out from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """One page; ``has_callers`` adds the choice of provider and agent."""

    name: str
    title: str
    description: str
    rows: Sequence[Row]
    has_callers: bool = False


def stat(title: str, description: str, expression: str, **more: Any) -> Panel:
    """One number."""
    size: dict[str, Any] = {"kind": "stat", "width": 3, "height": 4}
    return Panel(title, description, [Query(expression)], **(size | more))


def quantile(share: float, metric: str, labels: str = "", window: str = "[R]") -> str:
    """A quantile of a histogram, over all instances chosen."""
    by = f"le, {labels}" if labels else "le"
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{@}}{window})))"


def heatmap(title: str, description: str, metric: str, unit: str, **more: Any) -> Panel:
    """How the calls of each interval spread over a histogram's buckets."""
    query = Query(f"sum by (le) (increase({metric}_bucket{{@}}[R]))", "{{le}}")
    return Panel(title, description, [query], unit, "heatmap", width=6, **more)


_CUT: Final = "realtime_unavailable|realtime_error|internal_error|overload|protocol_error"

NOW: Final = Dashboard(
    "now",
    "Gateway: now",
    "Is anything wrong at this moment, and for whom? Begin here when an alert wakes you.",
    has_callers=True,
    rows=[
        Row(
            "Is anything wrong?",
            [
                stat(
                    "Alerts that wake somebody",
                    "Firing now. Their names are in the table below; each has a section in the runbook.",
                    'count(ALERTS{alertname=~"Gateway.*",alertstate="firing",severity="page"}) or vector(0)',
                    bad=1,
                ),
                stat(
                    "Calls now",
                    "Calls that are going on, of the providers and agents chosen.",
                    "sum(gateway_calls_active{@@})",
                ),
                stat(
                    "Room used",
                    "Calls by the limit. Above 80 % start another instance or raise GATEWAY_MAX_CALLS; at 100 % callers are refused.",
                    "sum(gateway_calls_active{@}) / sum(gateway_calls_limit{@})",
                    unit="percentunit",
                    warn=0.8,
                    bad=0.95,
                    alerts=["GatewayNearlyFull", "GatewayRefusing"],
                ),
                stat(
                    "Instances that take calls",
                    "A draining instance does not count. 0: nobody can call.",
                    "sum(gateway_ready{@})",
                    bad=1,
                    low_is_bad=True,
                    alerts=["GatewayNotReady"],
                ),
                stat(
                    "Started, of all that tried (1 h)",
                    "Calls that reached the model; the objective is 99.9 %. Red: look at attempts to connect on the dashboard of the realtime backends.",
                    '1 - sum(increase(gateway_call_setup_total{@,result="error"}[1h])) / clamp_min(sum(increase(gateway_call_setup_total{@,result=~"ok|error"}[1h])), 1)',
                    unit="percentunit",
                    warn=0.999,
                    bad=0.986,
                    low_is_bad=True,
                    alerts=["GatewaySetupFailingFast"],
                ),
                stat(
                    "Not cut (1 h)",
                    "Calls that did not end through a fault of the gateway or the model; the objective is 99.8 %. Red: see by which reason calls end.",
                    f'1 - sum(increase(gateway_calls_ended_total{{@,reason=~"{_CUT}"}}[1h])) / clamp_min(sum(increase(gateway_calls_ended_total{{@}}[1h])), 1)',
                    unit="percentunit",
                    warn=0.998,
                    bad=0.971,
                    low_is_bad=True,
                    alerts=["GatewayCallsCutFast"],
                ),
                stat(
                    "Answer, p95 (15 min)",
                    "From the caller's last word to the first of the agent in the caller's ear. 1.5 s feels quick; above 3 s callers begin to say hello?",
                    quantile(0.95, "gateway_turn_seconds", window="[15m]"),
                    unit="s",
                    warn=1.5,
                    bad=3,
                    alerts=["GatewayAnswersSlow"],
                ),
                stat(
                    "Proof of origin",
                    "Whether callers have to prove where they come from. Red: GATEWAY_INSECURE is set; unset it wherever others can reach the port.",
                    "max(gateway_insecure_mode{@})",
                    bad=1,
                    names={"0": "required", "1": "NOT REQUIRED"},
                    alerts=["GatewayInsecure"],
                ),
                Panel(
                    "Alerts, firing or about to",
                    "What to do about each stands in the runbook under its name. Pending: true, but not yet for long enough.",
                    [
                        Query(
                            'sum by (severity, alertname, alertstate, instance, reason, fault) (ALERTS{alertname=~"Gateway.*"})'
                        )
                    ],
                    kind="table",
                    width=24,
                    height=6,
                ),
            ],
        ),
        Row(
            "Error budget of 30 days",
            [
                stat(
                    "Left for set-up",
                    "100 %: untouched. Below 50 % reliability goes before features, at 0 only fixes are shipped.",
                    "1 - gateway:setup_error_ratio:30d / 0.001",
                    unit="percentunit",
                    width=4,
                    height=7,
                    warn=0.5,
                    bad=0,
                    low_is_bad=True,
                    alerts=["GatewaySetupBudgetAtRisk"],
                ),
                stat(
                    "Left for calls cut",
                    "Of the 0.2 % of calls that the gateway or the model may cut.",
                    "1 - gateway:cut_ratio:30d / 0.002",
                    unit="percentunit",
                    width=4,
                    height=7,
                    warn=0.5,
                    bad=0,
                    low_is_bad=True,
                    alerts=["GatewayCallsCutBudgetAtRisk"],
                ),
                stat(
                    "Left for our own faults",
                    "Of the 0.05 % of calls that may end with internal_error or overload.",
                    "1 - gateway:own_fault_ratio:30d / 0.0005",
                    unit="percentunit",
                    width=4,
                    height=7,
                    warn=0.5,
                    bad=0,
                    low_is_bad=True,
                    alerts=["GatewayOwnFaultsBudgetAtRisk"],
                ),
                stat(
                    "Left for being there",
                    "Of the 0.05 % of the time in which nobody may take calls: 21.6 minutes in 30 days.",
                    "1 - gateway:unavailable_ratio:30d / 0.0005",
                    unit="percentunit",
                    width=4,
                    height=7,
                    warn=0.5,
                    bad=0,
                    low_is_bad=True,
                    alerts=["GatewayAvailabilityBudgetAtRisk"],
                ),
                Panel(
                    "How fast the budgets burn",
                    "1: just so that the month's budget lasts the month. 14.4 over an hour, or 6 over six hours, wakes somebody.",
                    [
                        Query("gateway:setup_error_ratio:1h / 0.001", "set-up, 1 h"),
                        Query("gateway:setup_error_ratio:6h / 0.001", "set-up, 6 h"),
                        Query("gateway:cut_ratio:1h / 0.002", "cut, 1 h"),
                        Query("gateway:cut_ratio:6h / 0.002", "cut, 6 h"),
                        Query("gateway:own_fault_ratio:1h / 0.0005", "our own, 1 h"),
                        Query("gateway:own_fault_ratio:6h / 0.0005", "our own, 6 h"),
                    ],
                    height=7,
                    warn=1,
                    bad=14.4,
                    alerts=["GatewaySetupFailingSlowly", "GatewayCallsCutSlowly"],
                ),
            ],
        ),
        Row(
            "Calls",
            [
                Panel(
                    "Calls at the same time",
                    "By provider, with the limit. Sessions with the model should follow the calls; more sessions than calls is money lost.",
                    [
                        Query("sum by (provider) (gateway_calls_active{@@})", "{{provider}}"),
                        Query(
                            "sum(gateway_realtime_sessions_active{@})", "sessions with the model"
                        ),
                        Query("sum(gateway_calls_limit{@})", "limit"),
                    ],
                    alerts=["GatewaySessionsWithoutCall", "GatewayNearlyFull"],
                ),
                Panel(
                    "Calls by agent",
                    "Who is talking, and how many sockets have yet to say which call they are: many of these are somebody who only opens sockets.",
                    [
                        Query("sum by (agent) (gateway_calls_active{@@})", "{{agent}}"),
                        Query("sum(gateway_calls_waiting{@})", "not yet a call"),
                    ],
                    is_stacked=True,
                ),
                Panel(
                    "Calls begun, a minute",
                    "By provider and agent. A sudden 0 by day: look whether the provider still sends calls here.",
                    [
                        Query(
                            "60 * sum by (provider, agent) (rate(gateway_calls_started_total{@@}[R]))",
                            "{{provider}}, {{agent}}",
                        )
                    ],
                ),
                Panel(
                    "How calls end",
                    "By reason. caller_hangup, agent_hangup and transfer are what you want to see; realtime_* is the model, internal_error and overload are ours. Search the log for call_ended with that reason.",
                    [
                        Query(
                            "sum by (reason) (increase(gateway_calls_ended_total{@}[R])) > 0",
                            "{{reason}}",
                        )
                    ],
                    alerts=[
                        "GatewayCallsCutFast",
                        "GatewayOwnFaultsFast",
                        "GatewayOwnFaultsSlowly",
                    ],
                ),
                Panel(
                    "Set-up",
                    "How attempts to begin a conversation end. error: the caller heard an apology; rejected: busy; abandoned: hung up before.",
                    [
                        Query(
                            "sum by (result) (increase(gateway_call_setup_total{@}[R]))",
                            "{{result}}",
                        )
                    ],
                    alerts=["GatewaySetupFailingFast"],
                ),
                Panel(
                    "Calls not taken",
                    "Refused calls by stage and reason, and requests without a valid proof of origin by kind. signature, by the hundred: GATEWAY_PUBLIC_URL is not what the provider calls.",
                    [
                        Query(
                            "sum by (stage, reason) (increase(gateway_rejected_total{@}[R])) > 0",
                            "{{stage}}: {{reason}}",
                        ),
                        Query(
                            "sum by (kind) (increase(gateway_auth_failures_total{@}[R]))",
                            "no proof: {{kind}}",
                        ),
                    ],
                    alerts=["GatewayRefusing", "GatewayAuthFailing", "GatewayTokenReplayed"],
                ),
            ],
        ),
    ],
)

QUALITY: Final = Dashboard(
    "quality",
    "Gateway: conversation quality",
    "How calls feel to those who make them: waiting, interrupting, hearing, being heard.",
    rows=[
        Row(
            "How long callers wait",
            [
                Panel(
                    "Turn",
                    "From the caller's last sound to the first sound of the answer in the caller's ear. The next panel says where the time goes.",
                    [
                        Query(quantile(0.5, "gateway_turn_seconds"), "p50"),
                        Query(quantile(0.95, "gateway_turn_seconds"), "p95"),
                        Query(
                            quantile(0.95, "gateway_turn_latency_seconds"),
                            "p95 without endpointing and the phone's buffer",
                        ),
                    ],
                    "s",
                    warn=1.5,
                    bad=3,
                    alerts=["GatewayAnswersSlow"],
                ),
                Panel(
                    "Turn by stage, mean",
                    "Together they are the mean turn. endpointing large: the agent's silence_duration_ms; model: the service; conversion or send: this machine is too busy; provider_buffer: the phone's side.",
                    [
                        Query(
                            "sum by (stage) (rate(gateway_turn_stage_seconds_sum{@}[R])) / sum by (stage) (rate(gateway_turn_stage_seconds_count{@}[R]))",
                            "{{stage}}",
                        )
                    ],
                    "s",
                    is_stacked=True,
                    alerts=["GatewayAnswersSlow"],
                ),
                Panel(
                    "Turn by stage, p95",
                    "The bad cases of each stage; these do not add up.",
                    [Query(quantile(0.95, "gateway_turn_stage_seconds", "stage"), "{{stage}}")],
                    "s",
                ),
                Panel(
                    "Set-up and first sound",
                    "From the start message to a session that is ready, and to the first sound the caller gets.",
                    [
                        Query(quantile(0.5, "gateway_call_setup_seconds"), "ready p50"),
                        Query(quantile(0.95, "gateway_call_setup_seconds"), "ready p95"),
                        Query(quantile(0.95, "gateway_first_audio_seconds"), "first sound p95"),
                    ],
                    "s",
                    warn=1,
                    bad=2.5,
                    alerts=["GatewaySetupSlow"],
                ),
                Panel(
                    "Set-up by stage, p95",
                    "Where a call's beginning takes its time: dialling the model, configuring the session, the greeting.",
                    [
                        Query(
                            quantile(0.95, "gateway_call_setup_stage_seconds", "stage"),
                            "{{stage}}",
                        )
                    ],
                    "s",
                    alerts=["GatewaySetupSlow"],
                ),
                Panel(
                    "Dead air",
                    "Share of turns with 3 s of silence or more while it was the agent's turn, and seconds of it a minute, all calls together. Look at the model's latency and its errors.",
                    [
                        Query("gateway:dead_air_ratio:15m", "share of turns, 15 min"),
                        Query(
                            "60 * sum(rate(gateway_dead_air_seconds_sum{@}[R]))",
                            "seconds a minute",
                        ),
                    ],
                    "none",
                    alerts=["GatewayDeadAir"],
                ),
            ],
        ),
        Row(
            "Turns and interruptions",
            [
                Panel(
                    "Turns by outcome, a minute",
                    "answered is good. interrupted: the caller went on; timed_out: the model did not answer.",
                    [
                        Query(
                            "60 * sum by (outcome) (rate(gateway_turns_total{@}[R]))",
                            "{{outcome}}",
                        ),
                        Query(
                            "60 * sum by (outcome) (rate(gateway_turn_timeouts_total{@}[R]))",
                            "waited 15 s: {{outcome}}",
                        ),
                    ],
                    alerts=["GatewayTurnsGivenUp"],
                ),
                Panel(
                    "Interruptions",
                    "How soon an interruption is passed on to the provider (the objective is 20 ms), and how much of the agent the caller hears after it, where the provider tells (250 ms is good).",
                    [
                        Query(quantile(0.95, "gateway_bargein_clear_seconds"), "passed on, p95"),
                        Query(quantile(0.95, "gateway_bargein_heard_seconds"), "still heard, p95"),
                    ],
                    "s",
                    bad=0.25,
                    alerts=["GatewayBargeInSlow"],
                ),
                Panel(
                    "Generated and not heard",
                    "The part of the agent's speech that is paid for and reaches nobody. High: the agent talks too long, or is interrupted by noise (raise the threshold of turn detection).",
                    [
                        Query(
                            "sum(rate(gateway_audio_unheard_ms_total{@}[R])) / clamp_min(sum(rate(gateway_audio_generated_ms_total{@}[R])), 1e-9)",
                            "not heard",
                        )
                    ],
                    "percentunit",
                    warn=0.5,
                    alerts=["GatewaySpeechUnheard"],
                ),
                Panel(
                    "Recordings played",
                    "Apologies and fillers: each one is a caller the model did not serve. Goodbyes are ends by us.",
                    [
                        Query(
                            "sum by (prompt) (increase(gateway_prompts_played_total{@}[R]))",
                            "{{prompt}}",
                        )
                    ],
                ),
                Panel(
                    "Keys and tools",
                    "Keys pressed, and tool calls by result: unknown is an agent that calls what was never offered.",
                    [
                        Query("sum(increase(gateway_dtmf_total{@}[R]))", "keys"),
                        Query(
                            "sum by (result) (increase(gateway_tool_calls_total{@}[R]))",
                            "tool: {{result}}",
                        ),
                    ],
                ),
                Panel(
                    "Calls without marks",
                    "Calls whose provider stopped saying what was heard; from then on it is an estimate.",
                    [Query("sum(increase(gateway_marks_lost_total{@}[R]))", "calls")],
                    alerts=["GatewayMarksLost"],
                ),
            ],
        ),
        Row(
            "What callers hear",
            [
                Panel(
                    "Time in the gateway, p99",
                    "What the gateway adds to a message, by direction; the objective is 20 ms. Above: look at loop lag and CPU on the dashboard of the host.",
                    [
                        Query(
                            quantile(0.99, "gateway_relay_latency_seconds", "direction"),
                            "{{direction}}",
                        )
                    ],
                    "s",
                    warn=0.01,
                    bad=0.02,
                    alerts=["GatewayRelaySlow"],
                ),
                Panel(
                    "Underruns",
                    "Silence in the middle of what the agent says, as a part of it: the model or this machine sends too late.",
                    [
                        Query(
                            "sum(rate(gateway_underrun_ms_total{@}[R])) / clamp_min(sum(rate(gateway_audio_generated_ms_total{@}[R])), 1e-9)",
                            "of the audio",
                        ),
                        Query("sum(rate(gateway_underruns_total{@}[R]))", "times a second"),
                    ],
                    "none",
                    bad=0.01,
                    alerts=["GatewayAgentStutters"],
                ),
                Panel(
                    "Audio waiting, p95",
                    "down: agent audio that has not left yet, which is normal as the model is faster than speech; up: caller audio kept until a session began.",
                    [Query(quantile(0.95, "gateway_queue_seconds", "direction"), "{{direction}}")],
                    "s",
                ),
                Panel(
                    "Audio carried",
                    "Seconds of audio a second: how many speak at the same time. up without down: agents are silent; down without up: callers are not heard.",
                    [
                        Query(
                            "sum by (direction) (rate(gateway_audio_ms_total{@}[R])) / 1000",
                            "{{direction}}",
                        )
                    ],
                ),
                Panel(
                    "Audio not delivered",
                    "Milliseconds a second, by reason. cancelled, unheard and ended follow from interruptions and hang-ups; gap and overflow are faults.",
                    [
                        Query(
                            "sum by (direction, reason) (rate(gateway_audio_dropped_ms_total{@}[R]))",
                            "{{direction}}: {{reason}}",
                        )
                    ],
                    "ms",
                    alerts=["GatewayAudioLost"],
                ),
                Panel(
                    "Messages dropped",
                    "Messages of a peer that made no sense, a second, by kind. The log has frame_rejected lines.",
                    [
                        Query(
                            "sum by (side, kind) (rate(gateway_frame_errors_total{@}[R])) > 0",
                            "{{side}}: {{kind}}",
                        )
                    ],
                    alerts=["GatewayBadMessages"],
                ),
            ],
        ),
        Row(
            "How callers sound",
            [
                Panel(
                    "Calls with a fault, an hour",
                    "Each kind once a call. no_audio, silent: one-way audio, ask the carrier; echo: the phone's side returns the agent; gaps, jitter: the network between; the rest: lines and headsets.",
                    [
                        Query(
                            "3600 * sum by (fault) (rate(gateway_audio_faults_total{@}[R]))",
                            "{{fault}}",
                        )
                    ],
                    width=12,
                    alerts=["GatewayCallersUnheard", "GatewayCallersSoundBad"],
                ),
                Panel(
                    "Share of calls with a fault, 1 h",
                    "By kind; above a fifth it is not the caller's phone any more.",
                    [Query("gateway:audio_fault_ratio:1h", "{{fault}}")],
                    "percentunit",
                    width=6,
                    bad=0.2,
                    alerts=["GatewayCallersUnheard", "GatewayCallersSoundBad"],
                ),
                Panel(
                    "Audio that never came",
                    "Seconds of caller audio missing, a minute: gaps between the provider and us.",
                    [
                        Query(
                            "60 * sum(rate(gateway_caller_audio_missing_ms_total{@}[R])) / 1000",
                            "missing",
                        )
                    ],
                    "s",
                    width=6,
                    alerts=["GatewayCallersSoundBad"],
                ),
                heatmap(
                    "Level",
                    "The caller's voice, calls by level in dBFS: quiet below -40, loud above -12.",
                    "gateway_caller_level_dbfs",
                    "short",
                    alerts=["GatewayCallersSoundBad"],
                ),
                heatmap(
                    "Noise",
                    "Between the caller's words, calls by dBFS. Above -42 the model hears speech where there is none.",
                    "gateway_caller_noise_dbfs",
                    "short",
                    alerts=["GatewayCallersSoundBad"],
                ),
                heatmap(
                    "Jitter",
                    "How late 95 % of a call's frames came at most, in its worst 5 s. Above 60 ms it is heard.",
                    "gateway_caller_jitter_seconds",
                    "s",
                    alerts=["GatewayCallersSoundBad"],
                ),
                heatmap(
                    "Echo",
                    "Calls in which the agent's voice comes back: how far down, in dB. The lower, the louder.",
                    "gateway_echo_return_loss_db",
                    "short",
                    alerts=["GatewayCallersSoundBad"],
                ),
            ],
        ),
    ],
)

REALTIME: Final = Dashboard(
    "realtime",
    "Gateway: realtime backends and cost",
    "Whether the model can be reached, what it says is wrong, and what it costs.",
    rows=[
        Row(
            "Reaching the model",
            [
                Panel(
                    "Attempts to connect",
                    "By result. 401, 403, token: the credential or its role; 404: the deployment's name; 429: the quota; 5xx, timeout, dns, refused: the service or the way there. Run gateway check.",
                    [
                        Query(
                            "sum by (result) (increase(gateway_realtime_connect_total{@}[R])) > 0",
                            "{{result}}",
                        )
                    ],
                    alerts=["GatewayModelDeniesAccess", "GatewayModelThrottled"],
                ),
                Panel(
                    "Time to connect",
                    "How long it took when it worked, and the pause when a lost session had to be replaced.",
                    [
                        Query(quantile(0.5, "gateway_realtime_connect_seconds"), "connect p50"),
                        Query(quantile(0.95, "gateway_realtime_connect_seconds"), "connect p95"),
                        Query(quantile(0.95, "gateway_realtime_reconnect_gap_seconds"), "gap p95"),
                    ],
                    "s",
                    warn=1,
                    bad=2.5,
                    alerts=["GatewaySetupSlow"],
                ),
                stat(
                    "Dialling",
                    "Paused: too many attempts failed, callers hear the apology until one succeeds.",
                    "max(gateway_realtime_breaker_open{@})",
                    width=4,
                    height=8,
                    bad=1,
                    names={"0": "yes", "1": "PAUSED"},
                    alerts=["GatewayModelNotDialled"],
                ),
                stat(
                    "Entra token lives for",
                    "-1 s: a key is used, there is no token. It is renewed five minutes ahead; below that something is wrong with the identity.",
                    "(min(gateway_token_expiry_timestamp_seconds{@} > 0) - time()) or vector(-1)",
                    unit="s",
                    width=4,
                    height=8,
                    alerts=["GatewayTokenExpiring"],
                ),
                Panel(
                    "Tokens of Microsoft Entra",
                    "Attempts to get one, by result. error, timeout: look at the managed identity or at az login.",
                    [
                        Query(
                            "sum by (result) (increase(gateway_token_refresh_total{@}[R]))",
                            "{{result}}",
                        )
                    ],
                    alerts=["GatewayTokenRefreshFailing", "GatewayTokenExpiring"],
                ),
                Panel(
                    "Sessions",
                    "Open sessions beside the calls. More sessions than calls: sessions leak.",
                    [
                        Query("sum(gateway_realtime_sessions_active{@})", "sessions"),
                        Query("sum(gateway_calls_active{@})", "calls"),
                    ],
                    alerts=["GatewaySessionsWithoutCall"],
                ),
                Panel(
                    "Session time by call time, 1 h",
                    "Should be 1. Above 1.3 sessions outlive their calls, and are paid for.",
                    [
                        Query(
                            "sum(increase(gateway_realtime_seconds_total{@}[1h])) / clamp_min(sum(increase(gateway_call_seconds_total{@}[1h])), 1)",
                            "sessions by calls",
                        )
                    ],
                    "none",
                    bad=1.3,
                    alerts=["GatewaySpendingTooFast"],
                ),
            ],
        ),
        Row(
            "What the model says is wrong",
            [
                Panel(
                    "Errors",
                    "Error events and failed responses, by code. The log has realtime_error lines with the call's id.",
                    [
                        Query(
                            "sum by (code) (increase(gateway_realtime_errors_total{@}[R])) > 0",
                            "{{code}}",
                        )
                    ],
                    alerts=["GatewayModelErrors", "GatewayModelThrottled"],
                ),
                Panel(
                    "Sessions lost",
                    "Sessions that closed although nobody asked, by WebSocket close code; 1006 is a broken connection.",
                    [
                        Query(
                            'sum by (code) (increase(gateway_realtime_disconnects_total{@,expected="no"}[R]))',
                            "{{code}}",
                        )
                    ],
                    alerts=["GatewaySessionsLost"],
                ),
                Panel(
                    "Quota left",
                    "What the service last said is left, the least of all instances; 0 as well while it has said nothing.",
                    [
                        Query(
                            "min by (limit) (gateway_realtime_rate_limit_remaining{@})",
                            "{{limit}}",
                        )
                    ],
                    alerts=["GatewayModelThrottled"],
                ),
            ],
        ),
        Row(
            "Cost, an estimate by list price",
            [
                stat(
                    "An hour, now",
                    "US dollars, at the pace of the last hour.",
                    "sum(increase(gateway_cost_usd_total{@}[1h]))",
                    unit="currencyUSD",
                    width=4,
                    alerts=["GatewayCostSurge"],
                ),
                stat(
                    "24 hours",
                    "US dollars of the last day.",
                    "sum(increase(gateway_cost_usd_total{@}[1d]))",
                    unit="currencyUSD",
                    width=4,
                    alerts=["GatewayCostSurge"],
                ),
                stat(
                    "A minute of call (1 h)",
                    "US dollars. Long calls cost more a minute, as the model reads all that was said for every answer.",
                    "60 * sum(increase(gateway_cost_usd_total{@}[1h])) / clamp_min(sum(increase(gateway_call_seconds_total{@}[1h])), 1)",
                    unit="currencyUSD",
                    width=4,
                    warn=0.3,
                    bad=0.5,
                    alerts=["GatewayCostPerMinuteHigh"],
                ),
                stat(
                    "A call (1 h)",
                    "US dollars, calls that ended in the last hour.",
                    "sum(increase(gateway_cost_usd_total{@}[1h])) / clamp_min(sum(increase(gateway_calls_ended_total{@}[1h])), 1)",
                    unit="currencyUSD",
                    width=4,
                ),
                stat(
                    "Input from the cache (1 h)",
                    "Share of input tokens that cost a fraction. Low: instructions change within a call.",
                    'sum(increase(gateway_realtime_tokens_total{@,direction="input",kind=~"cached_.*"}[1h])) / clamp_min(sum(increase(gateway_realtime_tokens_total{@,direction="input"}[1h])), 1)',
                    unit="percentunit",
                    width=4,
                ),
                stat(
                    "Tokens without a price (1 h)",
                    "They are in no figure of cost: name the model in a price file (GATEWAY_PRICES).",
                    "sum(increase(gateway_unpriced_tokens_total{@}[1h]))",
                    width=4,
                    warn=1,
                    alerts=["GatewayCostUnknown"],
                ),
                Panel(
                    "Cost an hour, by model",
                    "US dollars an hour.",
                    [
                        Query(
                            "3600 * sum by (model) (rate(gateway_cost_usd_total{@}[R])) > 0",
                            "{{model}}",
                        )
                    ],
                    "currencyUSD",
                    width=12,
                    is_stacked=True,
                    alerts=["GatewayCostSurge", "GatewayCostPerMinuteHigh"],
                ),
                Panel(
                    "Tokens a minute",
                    "What the bill is made of; audio out is the dearest.",
                    [
                        Query(
                            "60 * sum by (direction, kind) (rate(gateway_realtime_tokens_total{@}[R]))",
                            "{{direction}}: {{kind}}",
                        )
                    ],
                    width=12,
                    is_stacked=True,
                ),
            ],
        ),
    ],
)

HOST: Final = Dashboard(
    "host",
    "Gateway: host",
    "The processes and the machine: is there room, does anything leak, does anything die?",
    rows=[
        Row(
            "Room",
            [
                Panel(
                    "Event loop lag, p99",
                    "How late timers run. Above 50 ms every call on the instance is heard to stutter: lower GATEWAY_MAX_CALLS, or add workers or an instance.",
                    [
                        Query(
                            quantile(0.99, "gateway_event_loop_lag_seconds", "instance"),
                            "{{instance}}",
                        )
                    ],
                    "s",
                    warn=0.02,
                    bad=0.05,
                    alerts=["GatewayEventLoopLag"],
                ),
                Panel(
                    "CPU",
                    "Cores used. Each worker can use one; above 0.7 of them sound begins to wait.",
                    [
                        Query(
                            'rate(process_cpu_seconds_total{job="gateway",@}[R])',
                            "{{instance}}",
                        )
                    ],
                    alerts=["GatewayEventLoopLag"],
                ),
                Panel(
                    "CPU a call",
                    "Cores by calls, in thousandths. A step up after a release is a regression.",
                    [
                        Query(
                            'sum(rate(process_cpu_seconds_total{job="gateway",@}[R])) * 1000 / clamp_min(sum(gateway_calls_active{@}), 1)',
                            "thousandths of a core",
                        )
                    ],
                ),
                Panel(
                    "Memory",
                    "Resident memory. It should follow the calls and come back.",
                    [
                        Query(
                            'process_resident_memory_bytes{job="gateway",@}',
                            "{{instance}}",
                        )
                    ],
                    "bytes",
                    alerts=["GatewayMemoryGrowing"],
                ),
                Panel(
                    "Files open, of those allowed",
                    "Two for each call and a few more. Raise the limit (ulimit -n) well before 100 %.",
                    [
                        Query(
                            'process_open_fds{job="gateway",@} / process_max_fds{job="gateway",@}',
                            "{{instance}}",
                        )
                    ],
                    "percentunit",
                    warn=0.6,
                    bad=0.8,
                    alerts=["GatewayFilesRunningOut"],
                ),
                Panel(
                    "Garbage collections a minute",
                    "Of the oldest generation: each stops the event loop for a moment. Not told by a gateway with several workers.",
                    [
                        Query(
                            '60 * sum by (instance) (rate(python_gc_collections_total{@,generation="2"}[R])) or sum by (instance) (up{job="gateway",@}) * 0',
                            "{{instance}}",
                        )
                    ],
                    alerts=["GatewayEventLoopLag"],
                ),
            ],
        ),
        Row(
            "Life and death",
            [
                Panel(
                    "Instances",
                    "What runs where, since when (hours), with how many calls, and whether it drains.",
                    [
                        Query(
                            "sum by (instance, version, python, converter) (gateway_build_info{@})"
                        ),
                        Query("sum by (instance) (gateway_calls_active{@})", "calls"),
                        Query("max by (instance) (gateway_draining{@})", "draining"),
                        Query(
                            'max by (instance) (time() - process_start_time_seconds{job="gateway",@}) / 3600',
                            "hours up",
                        ),
                    ],
                    kind="table",
                    width=24,
                    height=6,
                    alerts=["GatewayDown", "GatewayDrainStuck"],
                ),
                Panel(
                    "Answering",
                    "1: Prometheus reaches the operations listener. 0: the process or its network is gone.",
                    [Query('up{job="gateway",@}', "{{instance}}")],
                    bad=1,
                    low_is_bad=True,
                    alerts=["GatewayDown"],
                ),
                Panel(
                    "Workers",
                    "Processes that take calls, and how many died and were replaced within an hour: each took its calls with it.",
                    [
                        Query("gateway_workers{@}", "{{instance}} workers"),
                        Query(
                            "increase(gateway_worker_restarts_total{@}[1h])",
                            "{{instance}} replaced",
                        ),
                    ],
                    alerts=["GatewayWorkerDied", "GatewayWorkersDying"],
                ),
                Panel(
                    "Drains",
                    "Draining instances, calls that were going on when a drain began, and those that it ended (1 h).",
                    [
                        Query("sum(gateway_draining{@})", "draining"),
                        Query("sum(increase(gateway_drain_calls_total{@}[1h]))", "calls at a stop"),
                        Query(
                            'sum(increase(gateway_calls_ended_total{@,reason="drain"}[1h]))',
                            "calls that a stop ended",
                        ),
                    ],
                    alerts=["GatewayDrainStuck", "GatewayDrainLong", "GatewayDrainCutsCalls"],
                ),
            ],
        ),
        Row(
            "The console",
            [
                Panel(
                    "Who looks in",
                    "Pages that are told of calls live, people who listen in, and what they did. dropped: too slow; refused: not allowed to listen, ask who it was. Kept out: token and barred: somebody guesses; role: a viewer wants more than to look; origin: a page of somebody else used their login.",
                    [
                        Query("sum(gateway_console_views{@})", "pages"),
                        Query("sum(gateway_listeners{@})", "listeners"),
                        Query(
                            "sum by (result) (increase(gateway_listen_ins_total{@}[R]))",
                            "listened in: {{result}}",
                        ),
                        Query(
                            "sum(increase(gateway_console_views_dropped_total{@}[R]))",
                            "pages dropped",
                        ),
                        Query(
                            "sum(increase(gateway_console_hang_ups_total{@}[R]))", "calls hung up"
                        ),
                        Query(
                            "sum by (reason) (increase(gateway_console_refused_total{@}[R]))",
                            "kept out: {{reason}}",
                        ),
                    ],
                    width=12,
                ),
                Panel(
                    "Calls kept",
                    "Ended calls written to the database, by what became of them, and whether it takes calls (0 as well where there is none).",
                    [
                        Query(
                            "sum by (result) (increase(gateway_calls_stored_total{@}[R]))",
                            "{{result}}",
                        ),
                        Query("min(gateway_database_up{@})", "database up"),
                    ],
                    width=12,
                    alerts=["GatewayDatabaseDown", "GatewayCallsNotKept"],
                ),
            ],
        ),
        Row(
            "What is written down",
            [
                Panel(
                    "Tapes",
                    "How recordings of calls ended; lost: messages missing because the disk was too slow. Failed: look at the disk's free space and at tape_ended in the log.",
                    [
                        Query(
                            "sum by (result) (increase(gateway_tapes_total{@}[R]))",
                            "{{result}}",
                        ),
                        Query(
                            "sum(increase(gateway_tape_lost_messages_total{@}[R]))",
                            "messages lost",
                        ),
                        Query(
                            "sum(increase(gateway_tapes_removed_total{@}[R]))", "old ones removed"
                        ),
                    ],
                    alerts=["GatewayTapesFailing"],
                ),
                Panel(
                    "Spans of traces",
                    "A second, by what became of them. ended without exported: no collector, or it is slow.",
                    [
                        Query(
                            "sum by (result) (rate(gateway_trace_spans_total{@}[R]))",
                            "{{result}}",
                        )
                    ],
                    alerts=["GatewayTracesFailing"],
                ),
                Panel(
                    "Series",
                    "Series of each instance; above 3,000 a label is out of hand.",
                    [Query('scrape_samples_scraped{job="gateway",@}', "{{instance}}")],
                    bad=3000,
                    alerts=["GatewayTooManySeries"],
                ),
            ],
        ),
    ],
)

DASHBOARDS: Final = (NOW, QUALITY, REALTIME, HOST)


def expanded(expression: str) -> str:
    """The expression as Grafana is given it."""
    callers = 'instance=~"$instance",provider=~"$provider",agent=~"$agent"'
    written = expression.replace("@@", callers).replace("@", 'instance=~"$instance"')
    return written.replace("[R]", "[$__rate_interval]")


def as_json(dashboard: Dashboard) -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(_dashboard(dashboard), indent=1, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"gateway-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["voice-gateway"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables(dashboard))},
        "links": _links(),
        "annotations": {"list": [_alerts_annotation()]},
        "panels": list(_panels(dashboard.rows)),
    }


def _alerts_annotation() -> dict[str, Any]:
    return {
        "name": "Alerts that wake somebody",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'max by (alertname) (ALERTS{alertname=~"Gateway.*",alertstate="firing",severity="page"})',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def _links() -> list[dict[str, Any]]:
    pages = {
        "type": "dashboards",
        "title": "Gateway",
        "tags": ["voice-gateway"],
        "asDropdown": False,
    }
    runbook = {"type": "link", "title": "Runbook", "url": "$runbook", "icon": "doc"}
    console = {"type": "link", "title": "Console", "url": "$console", "icon": "external link"}
    kept = {"includeVars": True, "keepTime": True, "targetBlank": False}
    return [pages | kept, runbook | {"targetBlank": True}, console | {"targetBlank": True}]


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield _choice("instance", "label_values(gateway_ready, instance)")
    if dashboard.has_callers:
        for label in ("provider", "agent"):
            yield _choice(
                label, f'label_values(gateway_calls_active{{instance=~"$instance"}}, {label})'
            )
    # Both are yours to change, in make_dashboards.py or in the settings of an imported dashboard.
    yield _constant("runbook", "/public/gateway/runbook.md")
    yield _constant("console", "http://127.0.0.1:9464/console")


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _constant(name: str, value: str) -> dict[str, Any]:
    current = {"text": value, "value": value}
    return {"name": name, "type": "constant", "query": value, "hide": 2, "current": current}


def _panels(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number = top = 0
    for row in rows:
        number += 1
        yield _heading(row.title, number, top)
        left, top, tallest = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield _panel(panel, number, place)
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _heading(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "gridPos": place,
        "collapsed": False,
        "panels": [],
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "links": [
            {
                "title": f"Runbook: {alert}",
                "url": f"${{runbook}}#{alert.lower()}",
                "targetBlank": True,
            }
            for alert in panel.alerts
        ],
        "targets": [_target(panel, query, index) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    } | _columns(panel)


def _columns(panel: Panel) -> dict[str, Any]:
    """Several queries of one instance become one line; a value without a name is left out."""
    if panel.kind != "table":
        return {}
    letters = [chr(ord("A") + index) for index in range(len(panel.queries))]
    columns = [f"Value #{letter}" for letter in letters] if len(letters) > 1 else ["Value"]
    named = dict(zip(columns, (query.legend for query in panel.queries), strict=True))
    hidden = {"Time": True} | {column: True for column, name in named.items() if not name}
    shown = {column: name for column, name in named.items() if name}
    organize = {"excludeByName": hidden, "renameByName": shown}
    merge = {"id": "merge", "options": {}}
    return {"transformations": [merge, {"id": "organize", "options": organize}]}


def _target(panel: Panel, query: Query, index: int) -> dict[str, Any]:
    is_instant = panel.kind in ("stat", "table")
    shape = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    return {
        "refId": chr(ord("A") + index),
        "datasource": _SOURCE,
        "expr": expanded(query.expression),
        "legendFormat": query.legend,
        "instant": is_instant,
        "range": not is_instant,
        "format": shape,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
        "mappings": _mappings(panel),
    }
    if panel.kind == "timeseries":
        has_lines = panel.warn is not None or panel.bad is not None
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 30 if panel.is_stacked else 5,
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if has_lines else "off"},
            "showPoints": "never",
        }
    return defaults


def _steps(panel: Panel) -> list[dict[str, Any]]:
    marks = [(panel.warn, "yellow"), (panel.bad, "red")]
    known = [(value, color) for value, color in marks if value is not None]
    if not panel.low_is_bad:
        rising = [{"color": color, "value": value} for value, color in known]
        return [{"color": "green", "value": None}, *rising]
    # Each bound is where the better colour begins.
    falling = sorted(known)
    colors = [*(color for _, color in falling), "green"]
    bounds = [None, *(value for value, _ in falling)]
    return [{"color": color, "value": value} for color, value in zip(colors, bounds, strict=True)]


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.names:
        return []
    options = {
        value: {"text": text, "index": i} for i, (value, text) in enumerate(panel.names.items())
    }
    return [{"type": "value", "options": options}]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduced, "colorMode": "background", "graphMode": "none"}
    if panel.kind == "heatmap":
        color = {"mode": "scheme", "scheme": "Blues", "steps": 32}
        return {"calculate": False, "color": color, "yAxis": {"unit": panel.unit}}
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them; 1 where they differ."""
    wanted = {FOLDER / f"{each.name}.json": as_json(each) for each in DASHBOARDS}
    if "--check" not in arguments:
        for path, text in wanted.items():
            path.write_text(text, "utf-8")
        return 0
    stale = [path.name for path, text in wanted.items() if path.read_text("utf-8") != text]
    if stale:
        sys.stderr.write(f"run {Path(__file__).name}: {', '.join(stale)} would be different\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
