"""Logs tell one event a line, with the call's id, without secrets, numbers or words."""

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.events import (
    RESULTS,
    ULAW_8K,
    AudioAssessed,
    AudioCounted,
    AudioDropped,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    DtmfEntered,
    Fact,
    FrameRejected,
    ItemPlayed,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    Reason,
    RelayMeasured,
    Severity,
    StateChanged,
    Termination,
    TokensUsed,
    TurnTimed,
    Usage,
)
from gateway.logs import _LINES, CallLog, Format, configure, mask_number

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

CANARY = "canary-4711-secret"
LEVELS = ("debug", "info", "warning", "error")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Broken(io.StringIO):
    """A stream whose other end is gone."""

    def write(self, _: str) -> int:
        """Fail like a pipe that nobody reads."""
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def started(
    level: str = "debug", fmt: Format = "json", secrets: tuple[str, ...] = ()
) -> io.StringIO:
    """Logging set up to write here."""
    stream = io.StringIO()
    configure(level, fmt, stream, secrets)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def lines_of(*facts: Fact, level: str = "debug", **options: bool) -> list[dict[str, Any]]:
    """The records of a call of which these facts are told, one a second."""
    stream = started(level)
    log = CallLog("c-1", **options)
    for second, fact in enumerate(facts):
        log.observe(fact, float(second))
    return records(stream)


def ended(reason: Reason) -> CallEnded:
    """The end of a call for this reason."""
    return CallEnded(Termination(reason), 12.34567, 3, 1, 2000, 1500)


# ------------------------------------------------------------- the chain


def test_json_record() -> None:
    """A record has time (UTC), level, event and the fields, in an order people can read."""
    stream = started()
    structlog.get_logger().bind(call_id="c-1").info("hello", size=1, ratio=0.5, none=None)
    [record] = records(stream)
    assert list(record)[:4] == ["timestamp", "level", "event", "call_id"]
    assert record["timestamp"].endswith("Z")
    assert record | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "hello",
        "call_id": "c-1",
        "size": 1,
        "ratio": 0.5,
        "none": None,
    }


def test_console_record() -> None:
    """On a console a record is one line of words, with quotes where a value has blanks."""
    stream = started(fmt="console")
    structlog.get_logger().warning("hello", word="plain", text="two words")
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} warning hello +word=plain text="two words"\n', stream.getvalue()
    )


def test_auto_format() -> None:
    """A terminal gets the console format, everything else JSON."""
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        configure("info", "auto", stream)
        structlog.get_logger().info("hello")
    assert not terminal.getvalue().startswith("{")
    assert file.getvalue().startswith("{")


@pytest.mark.parametrize("level", LEVELS)
def test_level(level: str) -> None:
    """Lines below the level are not printed, the others are."""
    stream = started(level)
    logger = structlog.get_logger()
    for name in LEVELS:
        getattr(logger, name)("x")
    assert [record["level"] for record in records(stream)] == list(LEVELS[LEVELS.index(level) :])


def test_libraries_go_through_the_chain() -> None:
    """What libraries log has the same shape, is redacted, and carries the call of its task."""
    stream = started()
    with structlog.contextvars.bound_contextvars(call_id="c-1"):
        logging.getLogger("websockets.client").warning("failed: token=%s", CANARY)
    [record] = records(stream)
    assert record["logger"] == "websockets.client"
    assert record["level"] == "warning"
    assert record["call_id"] == "c-1"
    assert record["event"] == "failed: token=***"


def test_libraries_are_heard_from_warning_up() -> None:
    """Libraries print headers and frames below warning: not even at debug do we want them."""
    stream = started("debug")
    logging.getLogger("websockets.client").debug("> Authorization: Bearer %s", CANARY)
    logging.getLogger("azure.identity").info("request")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("number", "level"), [(35, "warning"), (60, "critical"), (30, "warning")])
def test_odd_levels_of_libraries(number: int, level: str) -> None:
    """A level that a library invented becomes the usual one below it."""
    stream = started()
    logging.getLogger("x").log(number, "hello")
    assert [record["level"] for record in records(stream)] == [level]


def test_library_record_that_does_not_fit() -> None:
    """A library's own mistake in formatting is still one line, and no traceback elsewhere."""
    stream = started()
    logging.getLogger("x").warning("%d %s", "one")  # noqa: PLE1206 - the mistake in question
    assert records(stream)[0]["event"] == "%d %s"


def test_broken_stream_loses_the_line_only() -> None:
    """A log that cannot be written raises nothing in a call."""
    stream = Broken()
    configure("info", "json", stream)
    structlog.get_logger().info("hello")
    stream.close()
    structlog.get_logger().info("hello")
    assert stream.closed


def test_configure_twice() -> None:
    """Setting up again replaces the first set-up instead of doubling lines."""
    first, second = started(), started()
    structlog.get_logger().info("a")
    logging.getLogger("x").warning("b")
    assert first.getvalue() == ""
    assert len(records(second)) == 2


# ------------------------------------------------------------- secrets


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "field",
    [
        {"token": CANARY},
        {"api-key": CANARY},
        {"AZURE_OPENAI_API_KEY": CANARY},
        {"auth_tokens": [CANARY]},
        {"headers": {"Authorization": f"Bearer {CANARY}", "X-Twilio-Signature": CANARY}},
        {"password": CANARY.encode()},
        {"text": f"Authorization: Bearer {CANARY}"},
        {"text": f"authorization: Basic {CANARY}"},
        {"text": f"X-Twilio-Signature: {CANARY}"},
        {"text": f"wss://host/path?api-key={CANARY}&model=x"},
        {"text": f"https://host/?access_token={CANARY}"},
        {"text": f'{{"client_secret": "{CANARY}"}}'},
        {"text": f"https://user:{CANARY}@host/"},
        {"text": "eyJhbGciOiJub25lIn0.canary.canary"},
        {"text": "sk-canary0123456789"},
        {"value": SecretStr(CANARY)},
        {"value": {"deep": [{"deeper": ({"token": CANARY},)}]}},
        {"value": {"a": {"b": {"c": {"d": {"e": CANARY}}}}}},
    ],
)
def test_secrets_by_shape(fmt: Format, level: str, field: dict[str, Any]) -> None:
    """A secret is hidden by its key, by its header, or by its looks (P77)."""
    stream = started("debug", fmt)
    getattr(structlog.get_logger(), level)("x", **field)
    assert stream.getvalue().count("\n") == 1
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("level", LEVELS)
def test_secrets_by_value(fmt: Format, level: str) -> None:
    """A value that is known to be secret is hidden wherever it stands (P77)."""
    secret = "pass/word+4711 canary"
    stream = started("debug", fmt, (secret, "short"))
    logger = getattr(structlog.get_logger(), level)
    logger(f"event {secret}", **{f"key {secret}": f"a {secret} b", "list": [secret, {secret: 1}]})
    logger("quoted", url="https://host/?x=pass%2Fword%2B4711%20canary")
    logger("failed", exc_info=ValueError(secret))
    assert "canary" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_short_secrets_do_not_eat_words() -> None:
    """A secret too short to protect anything does not turn the log into stars."""
    stream = started(secrets=("a", ""))
    structlog.get_logger().info("a call began")
    assert records(stream)[0]["event"] == "a call began"


def test_a_turn_is_one_line_with_its_stages() -> None:
    """The sum first, then what it is made of."""
    [record] = lines_of(TurnTimed(0.5, 0.7, 0.001, 0.002, 0.1))
    assert record["event"] == "turn_timed"
    assert record["total_s"] == 1.303
    assert record["provider_buffer_s"] == 0.1


def test_the_end_of_a_call_says_what_it_cost() -> None:
    """By list price."""
    [record] = lines_of(replace(ended("caller_hangup"), cost_usd=0.0961))
    assert record["cost_usd"] == 0.0961


def test_counts_of_tokens_are_no_secrets() -> None:
    """Numbers stay, whatever their key is called."""
    [record] = lines_of(TokensUsed(Usage(1, 2, 3, 4, 5, 6)))
    assert record["input_text"] == 1
    stream = started()
    structlog.get_logger().info("x", tokens=5)
    assert records(stream)[0]["tokens"] == 5


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+15551234567", "+*******4567"),
        ("15551234567", "*******4567"),
        ("+1 (555) 123-4567", "+*******4567"),
        ("5551", "**51"),
        ("100", "*00"),
        ("1", "1"),
        ("", ""),
    ],
)
def test_mask_number(number: str, masked: str) -> None:
    """The last digits of a phone number can be read, two of a short one, four of a long one."""
    assert mask_number(number) == masked


def test_numbers_are_masked() -> None:
    """Phone numbers are masked by key and in running text, at every level (P78)."""
    stream = started()
    structlog.get_logger().info(
        "call from +1 555-123-4567", from_number="+15551234567", text="to 15551234567 now"
    )
    assert "1234567" not in stream.getvalue()
    assert "123-4567" not in stream.getvalue()
    assert stream.getvalue().count("4567") == 3


# ------------------------------------------------------------- one event, one line


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_control_characters_are_escaped(fmt: Format) -> None:
    """Line ends, colours, direction overrides and lone surrogates cannot forge a record (P79)."""
    stream = started(fmt=fmt)
    evil = 'x\n{"event": "forged"}\r\x1b[31m\u2028\u202e\x85\ud800\x00'
    structlog.get_logger().info(evil, **{evil: evil, "list": [evil], "map": {evil: evil}})
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert not re.search("[\\x00-\\x09\\x0b-\\x1f\\x85\\u2028\\u202e\\ud800]", text)
    text.encode()


def test_traceback_on_a_console_cannot_pose_as_a_record() -> None:
    """Each line of a traceback is marked as one."""
    stream = started(fmt="console")
    error = ValueError("first\n12:00:00.000 info    forged\x1b[31m")
    structlog.get_logger().error("failed", exc_info=error)
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert len(others) == 2
    assert all(line.startswith("    | ") for line in others)
    assert "\x1b" not in stream.getvalue()


def test_traceback_in_json_is_one_record() -> None:
    """A traceback is one field of one record, with its lines kept."""
    stream = started()
    structlog.get_logger().error("failed", exc_info=ValueError("first\nsecond"))
    [record] = records(stream)
    assert record["exception"].endswith("ValueError: first\nsecond")


def test_values_are_bounded() -> None:
    """Long texts, long lists and deep nests are cut."""
    stream = started()
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    structlog.get_logger().info("x", text="y" * 10**6, list=list(range(10**4)), deep=deep)
    assert len(stream.getvalue()) < 5000


def test_cut_leaves_no_half_secret() -> None:
    """A secret that the cut of a long text falls into does not show its first half (P77)."""
    stream = started(secrets=(CANARY,))
    for length in range(1960, 4020, 3):
        structlog.get_logger().info("x", text="y" * length + CANARY, many=CANARY * length)
    assert "canary" not in stream.getvalue()


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "piece",
    ["y", "eyJ-", "token", "a-token", "bearer ", "authorization ", "//a:", "//", "sk-", "+1 ", "1"],
)
def test_hiding_takes_linear_time(piece: str) -> None:
    """No text of a peer can keep the event loop busy with looking for secrets."""
    stream = started()
    for _ in range(20):
        structlog.get_logger().info("x", text=piece * 100_000, exception=piece * 100_000)
    assert len(records(stream)) == 20


class _Unprintable:
    """A value that cannot be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError(CANARY)


def test_value_that_cannot_be_printed() -> None:
    """A value whose text cannot be had is named by its type, and raises nothing."""
    stream = started()
    structlog.get_logger().info("x", value=_Unprintable(), payload=b"\x00" * 160)
    [record] = records(stream)
    assert record["value"] == "<_Unprintable>"
    assert record["payload"] == "<160 bytes>"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text(), st.dictionaries(st.text().map(lambda key: f"k{key}"), VALUES))
def test_any_event_is_one_json_line(event: str, values: dict[str, Any]) -> None:
    """Whatever is logged is exactly one line that parses."""
    stream = started()
    structlog.get_logger().info(event, **values)
    assert stream.getvalue().count("\n") == 1
    assert isinstance(json.loads(stream.getvalue()), dict)


# ------------------------------------------------------------- facts


def test_every_fact_is_known() -> None:
    """A kind of fact that is added to the vocabulary must get a line here, or knowingly none."""
    assert set(_LINES) == set(get_args(Fact))


def test_call_began() -> None:
    """The first line of a call joins our id with the provider's, and masks the numbers."""
    fact = CallBegan("twilio", "default", "CA123", "+15551234567", "100", ULAW_8K, ULAW_8K)
    [record] = lines_of(fact, level="info")
    del record["timestamp"]
    assert record == {
        "level": "info",
        "event": "call_began",
        "call_id": "c-1",
        "provider": "twilio",
        "agent": "default",
        "provider_call_id": "CA123",
        "from_number": "+*******4567",
        "to_number": "*00",
        "audio_in": "ulaw/8000",
        "audio_out": "ulaw/8000",
    }


@pytest.mark.parametrize("reason", get_args(Reason))
def test_call_ended(reason: Reason) -> None:
    """A normal end is info, a fault of ours an error, everybody else's a warning."""
    levels = {"success": "info", "server_error": "error"}
    [record] = lines_of(ended(reason))
    assert record["level"] == levels.get(RESULTS[reason], "warning")
    assert (record["result"], record["reason"]) == (RESULTS[reason], reason)
    assert record["duration_s"] == 12.3457


def test_the_last_line_says_how_the_caller_sounded() -> None:
    """The figures of the whole call are on its last line; what could not be told is not."""
    final = replace(ASSESSED, noise_dbfs=None)

    records = lines_of(final, ended("caller_hangup"), level="info")

    assert [record["event"] for record in records] == ["audio_fault", "call_ended"]
    assert records[0]["new_faults"] == ["echo"]
    assert records[1]["caller_level_dbfs"] == -22.5
    assert records[1]["audio_faults"] == ["echo"]
    assert "caller_noise_dbfs" not in records[1]


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        ("ignore", "debug"),
        ("warn", "warning"),
        ("busy", "warning"),
        ("retry", "warning"),
        ("expired", "info"),
        ("fatal", "error"),
    ],
)
def test_realtime_error(severity: Severity, level: str) -> None:
    """An error of the model is as loud as it matters."""
    [record] = lines_of(RealtimeErrorSeen("other", severity, "what it said"))
    assert (record["level"], record["message"]) == (level, "what it said")


@pytest.mark.parametrize(
    ("fact", "level"),
    [
        (RealtimeDialled("ok", 0.1), "info"),
        (RealtimeDialled("429", 0.1), "warning"),
        (RealtimeLost(1000, 1, is_expected=True), "info"),
        (RealtimeLost(1006, 1, is_expected=False), "warning"),
        (AudioDropped("down", "unheard", 20), "debug"),
        (AudioDropped("up", "overflow", 20), "warning"),
        (ASSESSED, "warning"),
        (replace(ASSESSED, new_faults=()), "debug"),
        (CallReady(0.3), "info"),
        (StateChanged("turn", "speaking"), "debug"),
        (DtmfEntered(), "debug"),
    ],
)
def test_level_of_a_fact(fact: Fact, level: str) -> None:
    """What was expected is quiet, what was not is a warning; each line has the call's id."""
    [record] = lines_of(fact)
    assert (record["level"], record["call_id"]) == (level, "c-1")


def test_what_is_for_metrics_only() -> None:
    """Facts that come many times a second make no line, not even at debug."""
    assert lines_of(AudioCounted("up", 1000), RelayMeasured("up", 0.001)) == []


def test_words_are_not_logged() -> None:
    """What caller and agent say is logged at no level unless the operator asked for it (P78)."""
    facts = (CallerSpoke("my canary"), ItemPlayed("item_1", 2000, 1500, "your canary"))
    assert "canary" not in json.dumps(lines_of(*facts))
    assert [r["text"] for r in lines_of(*facts, log_transcripts=True)] == [
        "my canary",
        "your canary",
    ]


def test_bad_frames_are_sampled() -> None:
    """A flood of bad frames is a line per kind in five seconds, with the number held back."""
    stream = started("info")
    log = CallLog("c-1")
    for number in range(1000):
        log.observe(FrameRejected("provider", "bad_json", "x"), number / 100)
    log.observe(FrameRejected("provider", "empty", "x"), 10.0)
    log.observe(ended("caller_hangup"), 10.0)
    found = records(stream)
    assert [(r["event"], r.get("kind"), r.get("suppressed")) for r in found] == [
        ("frame_rejected", "bad_json", None),
        ("frame_rejected", "bad_json", 499),
        ("frame_rejected", "empty", None),
        ("call_ended", None, 499),
    ]


def test_kinds_are_bounded() -> None:
    """A peer that made up kinds without end would still get a bounded number of lines."""
    facts = [FrameRejected("provider", f"kind-{n}", "x") for n in range(1000)]
    assert len(lines_of(*facts, level="info")) == 64


def test_detail_is_for_debug_only() -> None:
    """What exactly a peer sent is told at debug level, sampled like its line."""
    facts = [FrameRejected("provider", "bad_json", "detail")] * 3
    assert "detail" not in json.dumps(lines_of(*facts, level="info"))
    assert [r["event"] for r in lines_of(*facts)] == ["frame_rejected", "frame_rejected_detail"]


def test_calls_are_sampled_apart() -> None:
    """One call's flood does not hide another call's first line."""
    stream = started("info")
    for name in ("c-1", "c-2"):
        CallLog(name).observe(FrameRejected("provider", "bad_json", ""), 0.0)
    assert [record["call_id"] for record in records(stream)] == ["c-1", "c-2"]


def test_canaries_in_every_fact() -> None:
    """No fact can carry a known secret or a whole phone number into the log (P77, P78)."""
    text = f"{CANARY} +15551234567"
    stream = started("debug", secrets=(CANARY,))
    log = CallLog("c-1", log_transcripts=True)
    facts: tuple[Fact, ...] = (
        CallBegan("twilio", "default", text, text, text, ULAW_8K, ULAW_8K),
        RealtimeDialled(text, 0.1),
        CallerSpoke(text),
        ItemPlayed(text, 1, 1, text),
        RealtimeErrorSeen(text, "fatal", text),
        FrameRejected("provider", text, text),
        CallEnded(Termination("internal_error"), 1, 1, 1, 1, 1, text),
    )
    for fact in facts:
        log.observe(fact, 0.0)
    assert len(records(stream)) == len(facts) + 1
    assert "canary" not in stream.getvalue()
    assert "1234567" not in stream.getvalue()
