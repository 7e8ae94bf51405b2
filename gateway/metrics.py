"""Facts become Prometheus series, with labels from closed sets only.

``Metrics`` holds the series of one registry; ``Metrics.call()`` gives the observer of one call.
Every labelled series exists from the start at 0, so that ``rate()`` sees the first event, and a
label value that is in no set becomes "other": peers and callers cannot make series grow. Names and
buckets follow the service levels: 20 ms of added latency, 1 s to set up, 1.5 s a turn.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from gateway import __version__
from gateway.audio.convert import converter_name
from gateway.events import (
    RESULTS,
    AgentSaid,
    AnnouncementHeard,
    AudioAssessed,
    AudioCounted,
    AudioDropped,
    AudioFault,
    BargedIn,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    CostIncurred,
    DeadAir,
    Direction,
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
    RelayMeasured,
    SetUpStage,
    SetUpTimed,
    Side,
    StateChanged,
    Termination,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnLost,
    TurnOutcome,
    TurnTimed,
    TurnTimedOut,
    Underrun,
)

_OTHER = "other"
_TURN_STAGES = tuple(stage for stage, _ in TurnTimed(0, 0, 0, 0, 0).stages())
# Agent audio dropped before it got an account of what was heard of it.
_NEVER_QUEUED = frozenset({"cancelled", "overflow"})
_DIRECTIONS = get_args(Direction)
_SIDES = get_args(Side)
_DIAL_RESULTS = (
    "ok",
    "refused",
    "timeout",
    "dns",
    "tls",
    "token",
    "400",
    "401",
    "403",
    "404",
    "429",
    "5xx",
    "breaker",
    _OTHER,
)
_CLOSE_CODES = ("1000", "1001", "1006", "1011", "4000", _OTHER)
_DROP_REASONS = (
    "gap",
    "overflow",
    "cancelled",
    "unheard",
    "ended",
    "announcing",
    _OTHER,
)
_FRAME_ERRORS = (
    "bad_json",
    "bad_base64",
    "bad_message",
    "unknown_event",
    "out_of_state",
    "duplicate_start",
    "duplicate",
    "empty",
    "media_format",
    "too_big",
    _OTHER,
)
_ERROR_CODES = (
    "account_deactivated",
    "beta_api_shape_disabled",
    "billing_hard_limit_reached",
    "conversation_already_has_active_response",
    "inference_rate_limit_exceeded",
    "input_audio_buffer_commit_empty",
    "insufficient_quota",
    "integer_below_min_value",
    "invalid_api_key",
    "invalid_event",
    "invalid_type",
    "invalid_value",
    "item_delete_invalid_item_id",
    "item_retrieve_invalid_item_id",
    "item_truncate_invalid_item_id",
    "missing_required_parameter",
    "model_not_found",
    "rate_limit_exceeded",
    "response_cancel_not_active",
    "server_error",
    "session_expired",
    "transcription_failed",
    "truncate_beyond_audio",
    "unknown_parameter",
    _OTHER,
)
_REJECT_STAGES = ("webhook", "handshake", "start", "auth", "admission", _OTHER)
_REJECT_REASONS = (
    "auth",
    "bad_request",
    "capacity",
    "closed_before_start",
    "drain",
    "duplicate_call",
    "fd",
    "media_format",
    "memory",
    "protocol_error",
    "rate",
    "start_timeout",
    "supervisor_timeout",
    "unknown_number",
    _OTHER,
)
_AUTH_KINDS = ("missing", "signature", "token", "expired", "replay", "mismatch", _OTHER)
_TOOL_RESULTS = ("ok", "unknown", "invalid", _OTHER)
_PROMPTS = ("apology", "filler", "goodbye", "announcement", _OTHER)
_REFRESH_RESULTS = ("ok", "error", "timeout", "forced", _OTHER)
_TARGETS = ("primary", "secondary", _OTHER)
_TAPE_RESULTS = ("ok", "cut", "failed", _OTHER)
_TAPE_REMOVALS = ("age", "size", _OTHER)
_LIMITS = ("requests", "tokens", _OTHER)
_LISTEN_RESULTS = ("ended", "dropped", "refused", _OTHER)
_PAGE_REFUSALS = ("token", "barred", "role", "origin", _OTHER)
_STORE_RESULTS = ("ok", "dropped", "failed", _OTHER)
_SETUP_RESULTS = ("ok", "error", "rejected", "abandoned")
_TOKENS = (
    ("input", "text"),
    ("input", "audio"),
    ("input", "cached_text"),
    ("input", "cached_audio"),
    ("output", "text"),
    ("output", "audio"),
)

_SETUP_BUCKETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10)
_RELAY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_TURN_BUCKETS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30)
_STAGE_BUCKETS = (
    *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3),
    *(5, 10, 30),
)
_DEAD_AIR_BUCKETS = (3, 4, 6, 8, 10, 15, 30)
_QUEUE_BUCKETS = (0, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 240)
_BARGEIN_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_HEARD_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1, 2)
_LEVEL_BUCKETS = (-75, -65, -60, -55, -50, -45, -42, -40, -35, -30, -25, -20, -15, -12, -9, -6)
_JITTER_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1)
_ECHO_BUCKETS = (5, 10, 15, 20, 25, 30, 35, 40, 45)
_LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)

_Series = TypeVar("_Series", Counter, Gauge, Histogram)
_Labels = tuple[str, ...]
# What the gauges of several workers say together, where it is not their sum.
_Mode = Literal["livesum", "livemin", "livemax", "livemostrecent"]
_TOGETHER: Mapping[str, _Mode] = {
    "calls_limit": "livemax",
    "realtime_rate_limit_remaining": "livemostrecent",
    "realtime_breaker_open": "livemax",
    "token_expiry_timestamp_seconds": "livemin",
    "ready": "livemax",
    "draining": "livemax",
    "insecure_mode": "livemax",
    "database_up": "livemin",
}


class _Family(Generic[_Series]):
    """A labelled metric whose series all exist from the start, and no others ever."""

    def __init__(self, metric: _Series, combinations: Sequence[_Labels]) -> None:
        self._series: dict[_Labels, _Series] = {
            values: metric.labels(*values) for values in combinations
        }
        self._known = tuple(frozenset(column) for column in zip(*combinations, strict=True))

    def of(self, *values: str) -> _Series:
        """The series of these label values; a value in no set counts as "other"."""
        return self._series.get(values) or self._series[self._closed(values)]

    def _closed(self, values: _Labels) -> _Labels:
        pairs = zip(values, self._known, strict=True)
        return tuple(value if value in known else _OTHER for value, known in pairs)


class _Maker:
    """Makes the metrics of one registry under our prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str) -> Counter:
        return Counter(f"gateway_{name}", text, registry=self._registry)

    def counters(self, name: str, text: str, **labels: Sequence[str]) -> _Family[Counter]:
        metric = Counter(f"gateway_{name}", text, tuple(labels), registry=self._registry)
        return _Family(metric, tuple(product(*labels.values())))

    def paired(
        self, name: str, text: str, labels: _Labels, combinations: Sequence[_Labels]
    ) -> _Family[Counter]:
        metric = Counter(f"gateway_{name}", text, labels, registry=self._registry)
        return _Family(metric, combinations)

    def gauge(self, name: str, text: str) -> Gauge:
        return self._gauge(name, text, ())

    def gauges(self, name: str, text: str, **labels: Sequence[str]) -> _Family[Gauge]:
        metric = self._gauge(name, text, tuple(labels))
        return _Family(metric, tuple(product(*labels.values())))

    def _gauge(self, name: str, text: str, labels: _Labels) -> Gauge:
        mode = _TOGETHER.get(name, "livesum")
        registry = self._registry
        return Gauge(f"gateway_{name}", text, labels, registry=registry, multiprocess_mode=mode)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"gateway_{name}", text, buckets=buckets, registry=self._registry)

    def histograms(
        self, name: str, text: str, buckets: Sequence[float], **labels: Sequence[str]
    ) -> _Family[Histogram]:
        metric = Histogram(
            f"gateway_{name}", text, tuple(labels), buckets=buckets, registry=self._registry
        )
        return _Family(metric, tuple(product(*labels.values())))


class _CallSeries:
    """From the start message to the one end of a call."""

    def __init__(self, make: _Maker, providers: Sequence[str], agents: Sequence[str]) -> None:
        self.started = make.counters(
            "calls_started", "Calls admitted.", provider=providers, agent=agents
        )
        self.active = make.gauges(
            "calls_active", "Calls right now.", provider=providers, agent=agents
        )
        self.waiting = make.gauge("calls_waiting", "Sockets that have yet to say which call.")
        self.limit = make.gauge("calls_limit", "Calls that may run at the same time.")
        self.ended = make.paired(
            "calls_ended",
            "Calls that ended, by reason and by who is to blame.",
            ("result", "reason"),
            [(result, reason) for reason, result in RESULTS.items()],
        )
        self.seconds = make.counter("call_seconds", "Length of the calls that ended.")
        self.setup = make.counters(
            "call_setup",
            "Attempts to start a conversation; abandoned = the caller left first.",
            result=_SETUP_RESULTS,
        )
        self.setup_s = make.histogram(
            "call_setup_seconds", "From the start message to a ready session.", _SETUP_BUCKETS
        )
        self.setup_stage_s = make.histograms(
            "call_setup_stage_seconds",
            "Set-up by stage; first_audio: from a ready session to the greeting's first sound.",
            _STAGE_BUCKETS,
            stage=get_args(SetUpStage),
        )
        self.first_audio_s = make.histogram(
            "first_audio_seconds", "From the start message to the first sound.", _SETUP_BUCKETS
        )
        self.rejected = make.counters(
            "rejected", "Calls not taken.", stage=_REJECT_STAGES, reason=_REJECT_REASONS
        )
        self.auth_failures = make.counters(
            "auth_failures", "Requests without a valid proof of origin.", kind=_AUTH_KINDS
        )


class _TurnSeries:
    """What makes a conversation feel quick."""

    def __init__(self, make: _Maker) -> None:
        self.total_s = make.histogram(
            "turn_seconds",
            "Caller silent to answer heard: the sum of its stages.",
            _TURN_BUCKETS,
        )
        self.stage_s = make.histograms(
            "turn_stage_seconds",
            "Turns by stage: to speech_stopped, to first audio, converted, sent, heard.",
            _STAGE_BUCKETS,
            stage=_TURN_STAGES,
        )
        self.outcomes = make.counters(
            "turns",
            "Turns of callers; those not answered are in no latency.",
            outcome=("answered", *get_args(TurnOutcome)),
        )
        self.dead_air_s = make.histogram(
            "dead_air_seconds",
            "Silences of 3 s and more while it was the agent's turn.",
            _DEAD_AIR_BUCKETS,
        )
        self.latency_s = make.histogram(
            "turn_latency_seconds",
            "Heard of the end of speech to first sound of the answer sent.",
            _TURN_BUCKETS,
        )
        self.timeouts = make.counters(
            "turn_timeouts", "Answers that did not come.", outcome=("retried", "gave_up")
        )
        self.bargein_clear_s = make.histogram(
            "bargein_clear_seconds", "Speech heard of to clear sent.", _BARGEIN_BUCKETS
        )
        self.bargein_heard_s = make.histogram(
            "bargein_heard_seconds", "Agent audio heard after the caller spoke.", _HEARD_BUCKETS
        )
        self.tools = make.counters("tool_calls", "Tool calls answered.", result=_TOOL_RESULTS)
        self.prompts = make.counters("prompts_played", "Recordings played.", prompt=_PROMPTS)
        self.dtmf = make.counter("dtmf", "Keys pressed by callers.")
        self.marks_lost = make.counter("marks_lost", "Calls whose provider stopped sending marks.")


class _AudioSeries:
    """What the audio path carried, lost and added."""

    def __init__(self, make: _Maker) -> None:
        self.carried_ms = make.counters(
            "audio_ms", "Audio carried, in milliseconds.", direction=_DIRECTIONS
        )
        self.dropped_ms = make.counters(
            "audio_dropped_ms",
            "Audio that did not get through, in milliseconds.",
            direction=_DIRECTIONS,
            reason=_DROP_REASONS,
        )
        self.generated_ms = make.counter(
            "audio_generated_ms", "Agent speech the model sent, in milliseconds."
        )
        self.unheard_ms = make.counter(
            "audio_unheard_ms", "Of that, what the caller did not hear, in milliseconds."
        )
        self.underruns = make.counter(
            "underruns", "Times a phone ran dry in the middle of what the agent said."
        )
        self.underrun_ms = make.counter(
            "underrun_ms", "Silence callers heard in the middle of it, in milliseconds."
        )
        self.queue_s = make.histograms(
            "queue_seconds",
            "Audio waiting: down, unsent, once in a second of it; up, kept until a session began.",
            _QUEUE_BUCKETS,
            direction=_DIRECTIONS,
        )
        self.relay_s = make.histograms(
            "relay_latency_seconds",
            "Time a message spent in the gateway.",
            _RELAY_BUCKETS,
            direction=_DIRECTIONS,
        )
        self.frame_errors = make.counters(
            "frame_errors", "Messages of peers dropped.", side=_SIDES, kind=_FRAME_ERRORS
        )


class _HealthSeries:
    """How calls sound from the caller's side; each call counts once, when it is over."""

    def __init__(self, make: _Maker) -> None:
        self.level_dbfs = make.histogram(
            "caller_level_dbfs",
            "Level of the caller's voice, a call; speech is quiet below -40, loud above -12.",
            _LEVEL_BUCKETS,
        )
        self.noise_dbfs = make.histogram(
            "caller_noise_dbfs", "Noise between the caller's words, a call.", _LEVEL_BUCKETS
        )
        self.jitter_s = make.histogram(
            "caller_jitter_seconds",
            "How late 95 % of a call's frames came at most, in its worst 5 s.",
            _JITTER_BUCKETS,
        )
        self.echo_loss_db = make.histogram(
            "echo_return_loss_db",
            "Calls with echo of the agent: how far below what was played it came back.",
            _ECHO_BUCKETS,
        )
        self.faults = make.counters(
            "audio_faults",
            "Calls with a fault in the caller's audio, each kind once a call.",
            fault=(*get_args(AudioFault), _OTHER),
        )
        self.missing_ms = make.counter(
            "caller_audio_missing_ms", "Caller audio that never came, in milliseconds."
        )


class _RealtimeSeries:
    """The line to the model."""

    def __init__(self, make: _Maker) -> None:
        self.connects = make.counters(
            "realtime_connect", "Attempts to reach the model.", result=_DIAL_RESULTS
        )
        self.connect_s = make.histogram(
            "realtime_connect_seconds", "Time of attempts that succeeded.", _SETUP_BUCKETS
        )
        self.sessions = make.gauge("realtime_sessions_active", "Open sessions with the model.")
        self.seconds = make.counter("realtime_seconds", "Length of the sessions that closed.")
        self.disconnects = make.counters(
            "realtime_disconnects",
            "Sessions closed, by WebSocket close code.",
            code=_CLOSE_CODES,
            expected=("yes", "no"),
        )
        self.reconnects_s = make.histogram(
            "realtime_reconnect_gap_seconds", "Gap until a lost session went on.", _SETUP_BUCKETS
        )
        self.errors = make.counters(
            "realtime_errors", "Error events and failed responses.", code=_ERROR_CODES
        )
        self.remaining = make.gauges(
            "realtime_rate_limit_remaining", "What the service last said is left.", limit=_LIMITS
        )
        self.breaker = make.gauges(
            "realtime_breaker_open", "1 while the model is not dialled.", target=_TARGETS
        )
        self.refreshes = make.counters(
            "token_refresh", "Attempts to get an Entra token.", result=_REFRESH_RESULTS
        )
        self.token_expiry = make.gauge(
            "token_expiry_timestamp_seconds", "When the Entra token expires; 0 without one."
        )


class _CostSeries:
    """What was used of the model, and what that costs."""

    def __init__(self, make: _Maker, models: Sequence[str]) -> None:
        self.tokens = make.paired(
            "realtime_tokens",
            "Tokens used; text and audio do not include the cached ones.",
            ("direction", "kind"),
            _TOKENS,
        )
        self.cost_usd = make.counters(
            "cost_usd", "Cost of the tokens by list price, an estimate.", model=models
        )
        self.unpriced = make.counter("unpriced_tokens", "Tokens of models that have no price.")


class _ProcessSeries:
    """The state of the process, or of the workers together."""

    def __init__(self, make: _Maker) -> None:
        self.ready = make.gauge("ready", "1 while new calls are welcome.")
        self.draining = make.gauge("draining", "1 while waiting for the last calls.")
        self.insecure = make.gauge("insecure_mode", "1 when callers need no proof of origin.")
        self.drain_calls = make.counter(
            "drain_calls", "Calls that were going on when a drain began."
        )
        self.workers = make.gauge("workers", "Processes that take calls.")
        self.restarts = make.counter("worker_restarts", "Workers that died and were replaced.")
        self.loop_lag_s = make.histogram(
            "event_loop_lag_seconds", "How late the event loop runs timers.", _LAG_BUCKETS
        )
        self.tapes = make.counters("tapes", "Tapes that ended.", result=_TAPE_RESULTS)
        self.spans = make.counters(
            "trace_spans",
            "Spans of traces; what ended and is neither was dropped, or waits.",
            result=("ended", "exported", "failed", _OTHER),
        )
        self.tape_lost = make.counter(
            "tape_lost_messages", "Messages missing on tapes: the disk was too slow."
        )
        self.tapes_removed = make.counters(
            "tapes_removed", "Tapes removed for their age or total size.", reason=_TAPE_REMOVALS
        )


class _ConsoleSeries:
    """Who watches, who listens in, and what becomes of the calls that are kept."""

    def __init__(self, make: _Maker) -> None:
        self.views = make.gauge("console_views", "Pages that are told of calls live.")
        self.views_dropped = make.counter(
            "console_views_dropped", "Pages that were too slow to be told."
        )
        self.hang_ups = make.counter("console_hang_ups", "Calls ended by somebody in the console.")
        self.refused = make.counters(
            "console_refused",
            "Requests for pages refused: wrong token, too many of them, role, origin.",
            reason=_PAGE_REFUSALS,
        )
        self.listeners = make.gauge("listeners", "People who listen in to calls.")
        self.listen_ins = make.counters(
            "listen_ins",
            "Times somebody listened in; dropped = was too slow, refused = not allowed.",
            result=_LISTEN_RESULTS,
        )
        self.stored = make.counters(
            "calls_stored",
            "Ended calls for the database; dropped = too many waited, failed = it refused one.",
            result=_STORE_RESULTS,
        )
        self.database_up = make.gauge("database_up", "1 while the database takes calls.")


class Metrics:
    """The series of one process, in one registry."""

    def __init__(
        self,
        registry: CollectorRegistry,
        providers: Sequence[str] = ("twilio", "asterisk"),
        agents: Sequence[str] = ("default",),
        models: Sequence[str] = (),
    ) -> None:
        make = _Maker(registry)
        self.calls = _CallSeries(make, _with_other(providers), _with_other(agents))
        self.turns = _TurnSeries(make)
        self.audio = _AudioSeries(make)
        self.health = _HealthSeries(make)
        self.realtime = _RealtimeSeries(make)
        self.costs = _CostSeries(make, _with_other(models))
        self.process = _ProcessSeries(make)
        self.console = _ConsoleSeries(make)
        build = Info("gateway_build", "What is running.", registry=registry)
        build.info(
            {
                "version": __version__,
                "python": platform.python_version(),
                "converter": converter_name(),
            }
        )

    def call(self) -> "CallMetrics":
        """The observer of one call; give it every fact, then ``close`` it."""
        return CallMetrics(self)

    def rejected(self, stage: str, reason: str) -> None:
        """A call was not taken; the attributes of ``errors.CallRejected``."""
        self.calls.rejected.of(stage, reason).inc()
        self.calls.setup.of("rejected").inc()

    def auth_failed(self, kind: str) -> None:
        """A request had no valid proof of origin; the ``kind`` of ``errors.AuthRejected``."""
        self.calls.auth_failures.of(kind).inc()

    def socket_waits(self, count: int) -> None:
        """So many sockets more (or less) have yet to say which call they are."""
        self.calls.waiting.inc(count)

    def drain_began(self, calls: int) -> None:
        """No new calls are taken; so many are going on."""
        self.process.drain_calls.inc(calls)
        self.set_draining(is_draining=True)

    def loop_lag(self, lag_s: float) -> None:
        """A timer of the event loop ran this late."""
        self.process.loop_lag_s.observe(max(0.0, lag_s))

    def token_refreshed(self, result: str) -> None:
        """An attempt to get an Entra token ended: ok, error, timeout or forced."""
        self.realtime.refreshes.of(result).inc()

    def tape_ended(self, result: str) -> None:
        """A tape is whole, was cut for its length, or failed; from any thread."""
        self.process.tapes.of(result).inc()

    def spans(self, result: str, count: int) -> None:
        """Spans of traces ended, were exported, or failed to be; from any thread."""
        self.process.spans.of(result).inc(count)

    def tape_lost(self, messages: int) -> None:
        """So many messages are missing on tapes; from any thread."""
        self.process.tape_lost.inc(messages)

    def tape_removed(self, reason: str) -> None:
        """A tape was too old or one too many; from any thread."""
        self.process.tapes_removed.of(reason).inc()

    def view_opened(self) -> None:
        """A page is told of calls from now on."""
        self.console.views.inc()

    def view_closed(self, *, is_dropped: bool) -> None:
        """It is not any more; it may have been too slow."""
        self.console.views.dec()
        self.console.views_dropped.inc(is_dropped)

    def listening_began(self) -> None:
        """Somebody listens in to a call."""
        self.console.listeners.inc()

    def listening_ended(self, result: str) -> None:
        """Nobody is behind any more: ended, or dropped for being too slow."""
        self.console.listeners.dec()
        self.console.listen_ins.of(result).inc()

    def listening_refused(self) -> None:
        """Somebody wanted to listen in, and must not, or there are too many."""
        self.console.listen_ins.of("refused").inc()

    def page_refused(self, reason: str) -> None:
        """Somebody was not let in, or not to this: token, barred, role, origin."""
        self.console.refused.of(reason).inc()

    def hung_up_by_hand(self) -> None:
        """Somebody ended a call in the console."""
        self.console.hang_ups.inc()

    def call_stored(self, result: str, count: int) -> None:
        """What became of calls for the database: ok, dropped, failed; from any thread."""
        self.console.stored.of(result).inc(count)

    def set_database_up(self, *, is_up: bool) -> None:
        """The database takes calls, or does not; from any thread."""
        self.console.database_up.set(is_up)

    def set_token_expiry(self, expires_at: float) -> None:
        """The Entra token at hand expires then, in unix seconds."""
        self.realtime.token_expiry.set(expires_at)

    def set_breaker(self, *, is_open: bool, target: str = "primary") -> None:
        """The model is not dialled for a while, or is again."""
        self.realtime.breaker.of(target).set(is_open)

    def set_ready(self, *, is_ready: bool) -> None:
        """New calls are welcome, or not."""
        self.process.ready.set(is_ready)

    def set_draining(self, *, is_draining: bool) -> None:
        """The process waits for its last calls."""
        self.process.draining.set(is_draining)

    def set_insecure(self, *, is_insecure: bool) -> None:
        """Callers need no proof of origin."""
        self.process.insecure.set(is_insecure)

    def set_workers(self, count: int) -> None:
        """So many processes take calls."""
        self.process.workers.set(count)

    def worker_restarted(self) -> None:
        """A worker died and is replaced."""
        self.process.restarts.inc()

    def calls_lost(self, count: int) -> None:
        """So many calls ended because their process died: nobody else is left to say so."""
        self.calls.ended.of(RESULTS["internal_error"], "internal_error").inc(count)

    def set_calls_limit(self, max_calls: int) -> None:
        """So many calls may run at the same time."""
        self.calls.limit.set(max_calls)


def _with_other(names: Sequence[str]) -> _Labels:
    return tuple(dict.fromkeys((*names, _OTHER)))


class CallMetrics:
    """The observer of one call; knows what it has raised, so that gauges come back to 0."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._active: Gauge | None = None
        self._is_ready = False
        self._sessions = 0
        self._exemplar: dict[str, str] | None = None

    def join(self, call_id: str, trace_id: str) -> None:
        """Turns have the call and its trace as their exemplar, where the page's format can."""
        self._exemplar = {"call_id": call_id, "trace_id": trace_id}

    def observe(self, fact: Fact) -> None:
        """Count one fact of the call."""
        observer = self._OBSERVERS.get(type(fact))
        if observer is not None:
            observer(self, fact)

    def close(self) -> None:
        """The call is gone, whatever facts came: one that did not end counts as our bug."""
        if self._active is not None:
            self.observe(CallEnded(Termination("internal_error"), 0, 0, 0, 0, 0))
        self._metrics.realtime.sessions.dec(self._sessions)
        self._sessions = 0

    def _call_began(self, fact: CallBegan) -> None:
        if self._active is not None:
            return
        self._metrics.calls.started.of(fact.provider, fact.agent).inc()
        self._active = self._metrics.calls.active.of(fact.provider, fact.agent)
        self._active.inc()

    def _call_ready(self, fact: CallReady) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._metrics.calls.setup.of("ok").inc()
            self._metrics.calls.setup_s.observe(fact.setup_s)

    def _set_up_timed(self, fact: SetUpTimed) -> None:
        self._metrics.calls.setup_stage_s.of(fact.stage).observe(fact.duration_s)

    def _call_ended(self, fact: CallEnded) -> None:
        if self._active is None:
            return
        self._active.dec()
        self._active = None
        calls = self._metrics.calls
        calls.ended.of(fact.termination.result, fact.termination.reason).inc()
        _add(calls.seconds, fact.duration_s)
        if not self._is_ready:
            calls.setup.of(_setup_result(fact.termination)).inc()

    def _dialled(self, fact: RealtimeDialled) -> None:
        realtime = self._metrics.realtime
        realtime.connects.of(fact.result).inc()
        if fact.result == "ok":
            realtime.connect_s.observe(fact.duration_s)
            realtime.sessions.inc()
            self._sessions += 1

    def _lost(self, fact: RealtimeLost) -> None:
        realtime = self._metrics.realtime
        realtime.disconnects.of(str(fact.code), "yes" if fact.is_expected else "no").inc()
        _add(realtime.seconds, fact.open_s)
        if self._sessions:
            realtime.sessions.dec()
            self._sessions -= 1

    def _reconnected(self, fact: RealtimeReconnected) -> None:
        self._metrics.realtime.reconnects_s.observe(fact.gap_s)

    def _audio_counted(self, fact: AudioCounted) -> None:
        _add(self._metrics.audio.carried_ms.of(fact.direction), fact.duration_ms)

    def _audio_dropped(self, fact: AudioDropped) -> None:
        audio = self._metrics.audio
        _add(audio.dropped_ms.of(fact.direction, fact.reason), fact.duration_ms)
        if fact.direction == "down" and fact.reason in _NEVER_QUEUED:
            _add(audio.generated_ms, fact.duration_ms)
            _add(audio.unheard_ms, fact.duration_ms)

    def _audio_assessed(self, fact: AudioAssessed) -> None:
        health = self._metrics.health
        for fault in fact.new_faults:
            health.faults.of(fault).inc()
        if fact.is_final:
            _observe(health.level_dbfs, fact.level_dbfs)
            _observe(health.noise_dbfs, fact.noise_dbfs)
            _observe(health.echo_loss_db, fact.echo_loss_db)
            health.jitter_s.observe(fact.jitter_ms / 1000)
            _add(health.missing_ms, fact.lost_ms)

    def _relayed(self, fact: RelayMeasured) -> None:
        self._metrics.audio.relay_s.of(fact.direction).observe(fact.latency_s)

    def _first_audio(self, fact: FirstAudioSent) -> None:
        self._metrics.calls.first_audio_s.observe(fact.latency_s)

    def _turn_answered(self, fact: TurnAnswered) -> None:
        self._metrics.turns.latency_s.observe(fact.latency_s)

    def _turn_timed(self, fact: TurnTimed) -> None:
        turns = self._metrics.turns
        turns.outcomes.of("answered").inc()
        turns.total_s.observe(fact.total_s, self._exemplar)
        for stage, duration_s in fact.stages():
            turns.stage_s.of(stage).observe(duration_s, self._exemplar)

    def _turn_lost(self, fact: TurnLost) -> None:
        self._metrics.turns.outcomes.of(fact.outcome).inc()

    def _dead_air(self, fact: DeadAir) -> None:
        self._metrics.turns.dead_air_s.observe(fact.duration_s)

    def _underrun(self, fact: Underrun) -> None:
        self._metrics.audio.underruns.inc()
        _add(self._metrics.audio.underrun_ms, fact.gap_ms)

    def _queue_seen(self, fact: QueueSeen) -> None:
        self._metrics.audio.queue_s.of(fact.direction).observe(fact.queued_ms / 1000)

    def _cost_incurred(self, fact: CostIncurred) -> None:
        costs = self._metrics.costs
        if fact.model:
            _add(costs.cost_usd.of(fact.model), fact.cost_usd)
        else:
            _add(costs.unpriced, fact.tokens)

    def _turn_timed_out(self, fact: TurnTimedOut) -> None:
        self._metrics.turns.timeouts.of("gave_up" if fact.is_final else "retried").inc()

    def _barged_in(self, fact: BargedIn) -> None:
        self._metrics.turns.bargein_clear_s.observe(fact.clear_s)

    def _barge_in_confirmed(self, fact: BargeInConfirmed) -> None:
        self._metrics.turns.bargein_heard_s.observe(fact.heard_after_ms / 1000)

    def _item_played(self, fact: ItemPlayed) -> None:
        _add(self._metrics.audio.generated_ms, fact.received_ms)
        _add(self._metrics.audio.unheard_ms, fact.received_ms - fact.heard_ms)

    def _dtmf_entered(self, _: DtmfEntered) -> None:
        self._metrics.turns.dtmf.inc()

    def _tool_called(self, fact: ToolCalled) -> None:
        self._metrics.turns.tools.of(fact.result).inc()

    def _tokens_used(self, fact: TokensUsed) -> None:
        usage, tokens = fact.usage, self._metrics.costs.tokens
        _add(tokens.of("input", "text"), usage.input_text - usage.input_cached_text)
        _add(tokens.of("input", "audio"), usage.input_audio - usage.input_cached_audio)
        _add(tokens.of("input", "cached_text"), usage.input_cached_text)
        _add(tokens.of("input", "cached_audio"), usage.input_cached_audio)
        _add(tokens.of("output", "text"), usage.output_text)
        _add(tokens.of("output", "audio"), usage.output_audio)

    def _realtime_error(self, fact: RealtimeErrorSeen) -> None:
        self._metrics.realtime.errors.of(fact.code).inc()

    def _rate_limit(self, fact: RateLimitSeen) -> None:
        self._metrics.realtime.remaining.of(fact.name).set(fact.remaining)

    def _frame_rejected(self, fact: FrameRejected) -> None:
        self._metrics.audio.frame_errors.of(fact.side, fact.kind).inc()

    def _marks_lost(self, _: MarksLost) -> None:
        self._metrics.turns.marks_lost.inc()

    def _prompt_played(self, fact: PromptPlayed) -> None:
        self._metrics.turns.prompts.of(fact.name).inc()

    def _not_measured(
        self, _: AgentSaid | AnnouncementHeard | CallerSpoke | RealtimeOpened | StateChanged
    ) -> None:
        """These are for logs and tapes."""

    _OBSERVERS: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = MappingProxyType(
        {
            CallBegan: _call_began,
            RealtimeDialled: _dialled,
            RealtimeOpened: _not_measured,
            RealtimeLost: _lost,
            RealtimeReconnected: _reconnected,
            CallReady: _call_ready,
            SetUpTimed: _set_up_timed,
            AudioCounted: _audio_counted,
            AudioDropped: _audio_dropped,
            AudioAssessed: _audio_assessed,
            RelayMeasured: _relayed,
            FirstAudioSent: _first_audio,
            TurnAnswered: _turn_answered,
            TurnTimed: _turn_timed,
            TurnLost: _turn_lost,
            DeadAir: _dead_air,
            Underrun: _underrun,
            QueueSeen: _queue_seen,
            TurnTimedOut: _turn_timed_out,
            BargedIn: _barged_in,
            BargeInConfirmed: _barge_in_confirmed,
            ItemPlayed: _item_played,
            AgentSaid: _not_measured,
            CallerSpoke: _not_measured,
            DtmfEntered: _dtmf_entered,
            ToolCalled: _tool_called,
            TokensUsed: _tokens_used,
            CostIncurred: _cost_incurred,
            RealtimeErrorSeen: _realtime_error,
            RateLimitSeen: _rate_limit,
            FrameRejected: _frame_rejected,
            MarksLost: _marks_lost,
            PromptPlayed: _prompt_played,
            AnnouncementHeard: _not_measured,
            StateChanged: _not_measured,
            CallEnded: _call_ended,
        }
    )


def _observe(histogram: Histogram, value: float | None) -> None:
    """What could not be told is not counted."""
    if value is not None:
        histogram.observe(value)


def _add(counter: Counter, amount: float) -> None:
    """A clock or a peer's count may be off, a counter must not go back."""
    counter.inc(max(0.0, amount))


def _setup_result(termination: Termination) -> str:
    """What to call a call that ended before its session was ready."""
    is_nobodys_fault = termination.result in ("success", "indeterminate")
    return "abandoned" if is_nobodys_fault else "error"


def add_process_metrics(registry: CollectorRegistry) -> None:
    """Memory, CPU, file descriptors, garbage collection and Python of this process."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class MetricRow(NamedTuple):
    """One line of the metrics table."""

    name: str
    kind: str
    labels: str
    description: str


def metrics_table() -> list[MetricRow]:
    """Every metric of ours with its kind, labels and meaning."""
    registry = CollectorRegistry()
    Metrics(registry)
    return [
        MetricRow(
            _full_name(family.name, family.type), family.type, _labels(family), family.documentation
        )
        for family in registry.collect()
    ]


def _full_name(name: str, kind: str) -> str:
    return name + {"counter": "_total", "info": "_info"}.get(kind, "")


def _labels(family: Any) -> str:
    found = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    return ", ".join(label for label in found if label != "le")
