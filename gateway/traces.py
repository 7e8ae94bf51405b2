"""Calls as OpenTelemetry traces, where the extra ``otel`` is installed and an endpoint is set.

An observer of facts: one root span a call, and below it one for each attempt to reach the model and
one for each turn, from the caller's last word to the end of the agent's answer. What else is told
becomes an event of the turn. No span holds words, numbers or names of people: ids, durations, sizes
and reasons only.

Spans are handed to the SDK's batch processor, whose queue is bounded and whose thread exports. A
collector that is slow or gone costs spans, never a call. The usual ``OTEL_*`` variables set all of
it: endpoint, headers, sampling, the queue.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gateway import __version__
from gateway.errors import SettingsError
from gateway.events import (
    AudioAssessed,
    BargedIn,
    CallBegan,
    CallEnded,
    CallReady,
    Fact,
    FirstAudioSent,
    ItemPlayed,
    PromptPlayed,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeReconnected,
    StateChanged,
    ToolCalled,
    TurnAnswered,
    TurnTimed,
    TurnTimedOut,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# More events than this are left out of one span: a call may be long.
_MOST_EVENTS: Final = 128
_NS: Final = 1_000_000_000
# How long a stop waits for the collector to take the last spans.
_LAST_EXPORT_S: Final = 3.0


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a collector."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not is_off and any(environ.get(name) for name in _ENDPOINTS)


def check_library() -> None:
    """See at the start that what the environment asks for can be done.

    Raises:
        SettingsError: OpenTelemetry's SDK or its exporter is not installed.
    """
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise SettingsError(
            [f"{_ENDPOINTS[0]} is set, but traces need the extra: pip install voice-gateway[otel]"]
        )


class Traces:
    """All calls of one process; ``observe`` is one of ``Gateway.observers``.

    Args:
        provider: of the SDK, with its processors.
        clock: unix nanoseconds.
    """

    def __init__(self, provider: "TracerProvider", clock: Callable[[], int] = time.time_ns) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gateway", __version__)
        self._clock = clock
        self._calls: dict[str, _CallTrace] = {}

    def observe(self, call_id: str, fact: Fact) -> None:
        """One fact of one call; facts of a call that never began are nobody's.

        That it began may be told twice: a tape's first line wants the trace before all others.
        """
        if isinstance(fact, CallBegan) and call_id not in self._calls:
            self._calls[call_id] = _CallTrace(self._tracer, call_id, fact, self._clock())
        elif (trace := self._calls.get(call_id)) is not None:
            trace.observe(fact, self._clock())
            if isinstance(fact, CallEnded):
                del self._calls[call_id]

    def trace_id(self, call_id: str) -> str:
        """The trace of a call that is going on, 32 hex digits; "" where there is none."""
        trace = self._calls.get(call_id)
        return trace.trace_id if trace is not None else ""

    def forget(self, call_id: str) -> None:
        """The call is gone; one whose end nobody told was broken off."""
        trace = self._calls.pop(call_id, None)
        if trace is not None:
            trace.break_off(self._clock())

    def close(self) -> None:
        """Export what is left; blocks for the time a collector is given, no longer."""
        for trace in self._calls.values():
            trace.break_off(self._clock())
        self._calls.clear()
        # The SDK waits for as long as a dead collector is retried: nobody stays for that.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_LAST_EXPORT_S)


class _CallTrace:
    """The spans of one call; ``now`` is unix nanoseconds."""

    def __init__(self, tracer: "Tracer", call_id: str, began: CallBegan, now: int) -> None:
        self._tracer = tracer
        attributes = {
            "gateway.call_id": call_id,
            "gateway.provider": began.provider,
            "gateway.provider_call_id": began.provider_call_id,
            "gateway.agent": began.agent,
        }
        self._call = tracer.start_span("call", attributes=attributes, start_time=now)
        self._turn: Span | None = None
        self._turns = 0
        self._events = 0
        self.trace_id = f"{self._call.get_span_context().trace_id:032x}"

    def observe(self, fact: Fact, now: int) -> None:
        """What this fact means for the spans; most mean nothing."""
        step = self._ON.get(type(fact))
        if step is not None:
            step(self, fact, now)

    def break_off(self, now: int) -> None:
        """The process goes before the call ends, or the call breaks."""
        self._end_turn(now)
        self._fail(self._call, "broken off")
        self._call.end(now)

    def _note(self, fact: Fact, now: int) -> None:
        """An event of the turn, or of the call outside of turns, with the fact's figures."""
        self._events += 1
        if self._events <= _MOST_EVENTS:
            name, attributes = _event(fact)
            (self._turn or self._call).add_event(name, attributes, now)

    def _dialled(self, fact: RealtimeDialled, now: int) -> None:
        span = self._child("dial", now - round(fact.duration_s * _NS))
        span.set_attribute("gateway.result", fact.result)
        if fact.result != "ok":
            self._fail(span, fact.result)
        span.end(now)

    def _answered(self, fact: TurnAnswered, now: int) -> None:
        """The turn began when the caller had spoken; it goes on while the agent speaks."""
        self._end_turn(now)
        self._turns += 1
        self._events = 0
        self._turn = self._child("turn", now - round(fact.latency_s * _NS))
        self._turn.set_attribute("gateway.turn", self._turns)
        self._turn.set_attribute("gateway.latency_s", fact.latency_s)
        self._turn.add_event("first audio sent", None, now)

    def _timed(self, fact: TurnTimed, now: int) -> None:
        """What the caller waited for, stage by stage; known when the answer is heard."""
        stages = {f"gateway.{stage}_s": seconds for stage, seconds in fact.stages()}
        (self._turn or self._call).add_event("turn timed", stages, now)

    def _state_changed(self, fact: StateChanged, now: int) -> None:
        if fact.machine == "turn" and fact.state != "speaking":
            self._end_turn(now)

    def _ended(self, fact: CallEnded, now: int) -> None:
        self._end_turn(now)
        termination = fact.termination
        self._call.set_attributes(
            {
                "gateway.result": termination.result,
                "gateway.reason": termination.reason,
                "gateway.duration_s": fact.duration_s,
                "gateway.turns": fact.turns,
                "gateway.barge_ins": fact.barge_ins,
                "gateway.cost_usd": fact.cost_usd,
            }
        )
        if termination.result.endswith("error"):
            self._fail(self._call, termination.reason)
        self._call.end(now)

    def _assessed(self, fact: AudioAssessed, _now: int) -> None:
        if fact.is_final:
            self._call.set_attribute("gateway.audio_faults", fact.faults)

    def _child(self, name: str, began: int) -> "Span":
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415  # of the extra

        parent = set_span_in_context(self._call)
        return self._tracer.start_span(name, parent, start_time=began)

    def _end_turn(self, now: int) -> None:
        if self._turn is not None:
            self._turn.end(now)
            self._turn = None

    @staticmethod
    def _fail(span: "Span", why: str) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  # of the extra

        span.set_status(StatusCode.ERROR, why)

    _ON: ClassVar[Mapping[type, Callable[[Any, Any, int], None]]] = MappingProxyType(
        {
            RealtimeDialled: _dialled,
            TurnAnswered: _answered,
            TurnTimed: _timed,
            StateChanged: _state_changed,
            AudioAssessed: _assessed,
            CallEnded: _ended,
            **dict.fromkeys(
                (
                    *(BargedIn, CallReady, FirstAudioSent, ItemPlayed, PromptPlayed, TurnTimedOut),
                    *(RealtimeErrorSeen, RealtimeLost, RealtimeReconnected, ToolCalled),
                ),
                _note,
            ),
        }
    )


# The figures of each kind of event that may be told: words are not among them.
_FIGURES: Final[Mapping[type, tuple[str, ...]]] = MappingProxyType(
    {
        BargedIn: ("clear_s",),
        CallReady: ("setup_s",),
        FirstAudioSent: ("latency_s",),
        ItemPlayed: ("received_ms", "heard_ms"),
        PromptPlayed: ("name",),
        RealtimeErrorSeen: ("code", "severity"),
        RealtimeLost: ("code", "open_s", "is_expected"),
        RealtimeReconnected: ("gap_s",),
        ToolCalled: ("result",),
        TurnTimedOut: ("is_final",),
    }
)
_NAMES: Final[Mapping[type, str]] = MappingProxyType(
    {
        BargedIn: "barged in",
        CallReady: "call ready",
        FirstAudioSent: "first audio of the call sent",
        ItemPlayed: "item played",
        PromptPlayed: "prompt played",
        RealtimeErrorSeen: "realtime error",
        RealtimeLost: "realtime lost",
        RealtimeReconnected: "realtime reconnected",
        ToolCalled: "tool called",
        TurnTimedOut: "turn timed out",
    }
)


def _event(fact: Fact) -> tuple[str, dict[str, str | float | bool]]:
    figures = {f"gateway.{name}": getattr(fact, name) for name in _FIGURES[type(fact)]}
    return _NAMES[type(fact)], figures


def open_traces(count: Callable[[str, int], None]) -> Traces:
    """Traces that go where the environment says.

    Args:
        count: is told of spans that "ended", were "exported", or "failed" to be, and how many; from
            any thread. What ended and is neither waits, or was dropped by the full queue.

    Raises:
        SettingsError: the extra ``otel`` is not installed.
    """
    check_library()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        SpanExportResult,
    )

    class Counted(OTLPSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            is_done = result is SpanExportResult.SUCCESS
            count("exported" if is_done else "failed", len(spans))
            return result

    class Counting(BatchSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            count("ended", 1)
            super().on_end(span)

    resource = Resource.create({"service.name": _service_name(), "service.version": __version__})
    # Ends with ``Traces.close``, not with the interpreter.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Counting(Counted()))
    return Traces(provider)


def _service_name() -> str:
    return os.environ.get("OTEL_SERVICE_NAME", "voice-gateway")
