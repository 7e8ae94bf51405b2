"""A call becomes one trace, decoded as a collector would; a dead collector costs calls nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from gateway import traces
from gateway.audio.wav import read_wav
from gateway.errors import SettingsError
from gateway.events import (
    ULAW_8K,
    BargedIn,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    ItemPlayed,
    RealtimeDialled,
    StateChanged,
    Termination,
    TurnAnswered,
    TurnTimed,
)
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan, Utterance, When
from gateway.simulator.server import Simulator
from gateway.tape import record
from gateway.tape.judge import judge
from gateway.tape.reading import Tape
from gateway.tape.report import report_html
from gateway.tape.show import printed
from gateway.tape.story import story_of
from gateway.traces import Traces, is_wanted, open_traces
from tests.running import (
    Facts,
    free_port,
    metric,
    settings_for,
    twilio_stream,
    url_of,
    watched_gateway,
)

NUMBER = "+15551234567"
WORDS = Utterance(read_wav(shipped_sound("caller.wav"), 24_000)[:96_000], 24_000, When())
BEGAN = CallBegan("twilio", "default", "CA1", NUMBER, "+15557654321", ULAW_8K, ULAW_8K)
ENDED = CallEnded(Termination("caller_hangup"), 9.0, 1, 1, 3000.0, 2000.0)


@dataclass
class Collector:
    """What a collector was sent."""

    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """OTLP over HTTP: one protobuf message a request."""
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for part in sent.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in part.resource.attributes})
            self.spans += [span for scope in part.scope_spans for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")


@asynccontextmanager
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector that listens, named in the environment."""
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    try:
        yield collector
    finally:
        await runner.cleanup()


async def one_call(url: str, facts: Facts) -> None:
    """A caller who hears the greeting and hangs up."""
    async with twilio_stream(url, parameters={"caller": NUMBER}) as stream:
        await stream.start()
        await facts.wait_for(ItemPlayed)
        await stream.stop()
        await facts.wait_for(CallEnded)


def attributes_of(span: Span) -> dict[str, object]:
    """Name and value of each."""
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
        for one in span.attributes
    }


async def test_a_call_is_one_trace_at_the_collector(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real SDK, over HTTP: the tree is right, joined with the log, without numbers."""
    async with collecting(monkeypatch) as collector:
        with capture_logs() as logs:
            async with watched_gateway(settings_for(simulator)) as (running, facts):
                await one_call(url_of(running), facts)

    [call] = [span for span in collector.spans if span.name == "call"]
    children = [span for span in collector.spans if span is not call]
    found = attributes_of(call)
    call_id = facts.told[0][0]
    assert not call.parent_span_id
    assert {span.name for span in children} >= {"dial"}
    assert {span.parent_span_id for span in children} == {call.span_id}
    assert {span.trace_id for span in children} == {call.trace_id}
    assert (found["gateway.call_id"], found["gateway.reason"]) == (call_id, "caller_hangup")
    assert collector.resources[0]["service.name"] == "voice-gateway"
    assert all(NUMBER[1:] not in str(span) for span in collector.spans)
    lines = [line for line in logs if line.get("call_id") == call_id]
    # A trace begins with the call; what was told of its set-up before has none yet.
    began = [line["event"] for line in lines].index("call_began")
    assert {line.get("trace_id") for line in lines[began:]} == {call.trace_id.hex()}


def _look_into_tape(folder: Path, call_id: str, trace_id: str) -> None:
    """Its first line, its name and what people see of it; a replay does not mind."""
    [path] = folder.iterdir()
    with Tape(path) as tape:
        assert (tape.head.call_id, tape.head.trace_id) == (call_id, trace_id)
    assert f"{call_id}.jsonl" in path.name
    assert f"trace: {trace_id}" in list(printed(story_of(path)))
    assert trace_id in report_html(path)
    assert judge(path).is_same


async def test_logs_spans_metrics_and_tape_of_a_call_are_joined(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A caller who speaks: from a bucket of the turn histogram to the call's trace and tape."""
    plan = CallPlan(says=(WORDS,), quiet_s=0.2, hang_up_after_s=15.0)
    openmetrics = {"Accept": "application/openmetrics-text;version=1.0.0"}
    async with collecting(monkeypatch) as collector:
        with capture_logs():
            taped = settings_for(simulator, GATEWAY_TAPE_DIR=str(tmp_path), GATEWAY_TAPE_SHARE="1")
            async with watched_gateway(taped) as (running, facts):
                await place_call(f"{url_of(running)}/twilio/media", plan)
                page = f"http://127.0.0.1:{running.ops_port}/metrics"
                async with (
                    aiohttp.ClientSession() as http,
                    http.get(page, headers=openmetrics) as reply,
                    http.get(page) as plain,
                ):
                    text, without = await reply.text(), await plain.text()

    [call] = [span for span in collector.spans if span.name == "call"]
    turns = [span for span in collector.spans if span.name == "turn"]
    [bucket] = [
        line for line in text.splitlines() if "turn_seconds_bucket" in line and " # {" in line
    ]
    assert turns
    assert {turn.trace_id for turn in turns} == {call.trace_id}
    trace_id, call_id = call.trace_id.hex(), facts.told[0][0]
    assert attributes_of(call)["gateway.call_id"] == call_id
    assert f'{{call_id="{call_id}",trace_id="{trace_id}"}}' in bucket
    _look_into_tape(tmp_path, call_id, trace_id)
    assert text.endswith("# EOF\n")
    assert "trace_id" not in without


async def test_a_call_that_breaks_leaves_no_trace_open(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Told of before its tape begins, and nobody tells its end: it was broken off."""

    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(record.Tape, "begin", fail)
    async with collecting(monkeypatch) as collector:
        taped = settings_for(simulator, GATEWAY_TAPE_DIR=str(tmp_path), GATEWAY_TAPE_SHARE="1")
        with capture_logs() as logs:
            async with watched_gateway(taped) as (running, _), twilio_stream(url_of(running)) as it:
                await it.start()
                await it.closed()
                assert running.gateway.traces is not None
                assert not running.gateway.traces._calls
                assert running.gateway.admission.calls == 0

    [call] = [span for span in collector.spans if span.name == "call"]
    assert call.status.message == "broken off"
    assert [entry["event"] for entry in logs].count("call_broke") == 1


async def test_a_dead_collector_touches_no_call(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there: calls go on, and the gateway stops in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with capture_logs():
        async with asyncio.timeout(30), watched_gateway(settings_for(simulator)) as watched:
            await one_call(url_of(watched[0]), watched[1])
            ended = await metric(watched[0], 'gateway_trace_spans_total{result="ended"}')
            exported = await metric(watched[0], 'gateway_trace_spans_total{result="exported"}')

    [end] = watched[1].of(CallEnded)
    assert end.termination.reason == "caller_hangup"
    assert (ended >= 2, exported) == (True, 0)


# ------------------------------------------------------------- spans, on a clock of our own


@dataclass
class Told:
    """Traces in memory, and a clock that is set."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    now_s: float = 100.0

    def __post_init__(self) -> None:
        """Real spans, exported as they end."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Traces(provider, lambda: round(self.now_s * 1e9))

    def tell(self, *facts: tuple[float, object]) -> None:
        """Each at its time, of one call."""
        for self.now_s, fact in facts:
            self.traces.observe("c-1", fact)  # type: ignore[arg-type]  # facts, all of them

    def spans(self) -> dict[str, tuple[float, float]]:
        """Name, and from when to when, in seconds."""
        return {
            span.name: ((span.start_time or 0) / 1e9, (span.end_time or 0) / 1e9)
            for span in self.exporter.get_finished_spans()
        }


@pytest.fixture
def told() -> Iterator[Told]:
    """Fresh traces."""
    told = Told()
    yield told
    told.traces.close()


def test_spans_begin_and_end_when_it_happened(told: Told) -> None:
    """Dialling ends when it is told; a turn begins with the caller's last word."""
    told.tell(
        (100.0, BEGAN),
        (100.5, RealtimeDialled("ok", 0.4)),
        (100.6, CallReady(0.6)),
        (104.0, TurnAnswered(0.8)),
        (104.5, BargedIn(0.001)),
        (105.0, StateChanged("turn", "listening")),
        (109.0, ENDED),
    )

    assert told.spans() == {
        "dial": pytest.approx((100.1, 100.5)),
        "turn": pytest.approx((103.2, 105.0)),
        "call": (100.0, 109.0),
    }


def test_what_happened_is_an_event_of_its_turn_without_words(told: Told) -> None:
    """Figures are told, text is not; outside of turns the call has the event."""
    told.tell(
        (100.0, BEGAN),
        (100.6, CallReady(0.6)),
        (104.0, TurnAnswered(0.8)),
        (104.1, TurnTimed(0.5, 0.2, 0.0, 0.1, 0.25)),
        (104.5, ItemPlayed("i1", 2000.0, 1500.0, "canary")),
        (104.6, CallerSpoke("canary")),
        (109.0, ENDED),
    )

    turn, call = told.exporter.get_finished_spans()
    assert [event.name for event in call.events] == ["call ready"]
    assert [event.name for event in turn.events] == [
        "first audio sent",
        "turn timed",
        "item played",
    ]
    assert dict(turn.events[1].attributes or {}) == {
        "gateway.endpointing_s": 0.5,
        "gateway.model_s": 0.2,
        "gateway.conversion_s": 0.0,
        "gateway.send_s": 0.1,
        "gateway.provider_buffer_s": 0.25,
    }
    assert dict(turn.events[2].attributes or {}) == {
        "gateway.received_ms": 2000.0,
        "gateway.heard_ms": 1500.0,
    }
    assert "canary" not in turn.to_json() + call.to_json()
    assert NUMBER not in call.to_json()


def test_failures_are_marked(told: Told) -> None:
    """A refused dial and a call that ended by a fault are errors."""
    told.tell(
        (100.0, BEGAN),
        (100.5, RealtimeDialled("429", 0.4)),
        (101.0, CallEnded(Termination("realtime_unavailable"), 1.0, 0, 0, 0, 0)),
    )

    spans = told.exporter.get_finished_spans()
    assert [span.status.description for span in spans] == ["429", "realtime_unavailable"]
    assert not any(span.status.is_ok for span in spans)


def test_a_long_call_has_no_endless_span(told: Told) -> None:
    """What happens thousands of times in a span is left out after a while."""
    told.tell((100.0, BEGAN), *[(101.0, CallReady(0.1))] * 1000, (102.0, ENDED))

    [call] = told.exporter.get_finished_spans()
    assert len(call.events) == traces._MOST_EVENTS


def test_nothing_is_kept_of_calls_that_are_over(told: Told) -> None:
    """The end of a call forgets it; facts behind it are nobody's."""
    told.tell((100.0, BEGAN))
    during = told.traces.trace_id("c-1")
    told.tell((101.0, ENDED), (102.0, CallReady(0.1)))

    assert len(during) == 32
    assert told.traces.trace_id("c-1") == ""
    assert not told.traces._calls


def test_a_call_that_is_cut_off_by_the_end_is_told(told: Told) -> None:
    """The process goes: its spans end, marked."""
    told.tell((100.0, BEGAN), (104.0, TurnAnswered(0.8)))

    told.traces.close()

    assert [span.name for span in told.exporter.get_finished_spans()] == ["turn", "call"]


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_switches_traces_on(environ: dict[str, str], wanted: bool) -> None:  # noqa: FBT001
    """An endpoint is what it takes, unless the SDK is off."""
    assert is_wanted(environ) is wanted


def test_without_the_extra_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install, at the start."""
    monkeypatch.setattr(traces, "find_spec", lambda _: None)

    with pytest.raises(SettingsError, match=r"voice-gateway\[otel\]"):
        open_traces(lambda _result, _count: None)
