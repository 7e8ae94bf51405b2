"""What is known of calls: fed with facts and a clock, within its bounds whatever comes."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import (
    ULAW_8K,
    AgentSaid,
    AnnouncementHeard,
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
from gateway.web import roster as room
from gateway.web.roster import (
    CallRecord,
    Line,
    Roster,
    Timing,
    Trouble,
    details,
    remains,
    summary,
)

BEGAN = CallBegan("twilio", "sales", "CA1", "+15550100001", "+15550100002", ULAW_8K, ULAW_8K)
ENDED = CallEnded(Termination("caller_hangup"), 20.0, 1, 1, 2000, 1500)


def told(*facts: Fact, roster: Roster | None = None, call_id: str = "c-1") -> CallRecord:
    """The record of a call after these facts, one second apart, the first at 1000."""
    roster = roster or Roster()
    for second, fact in enumerate(facts):
        roster.observe(call_id, fact, 1000.0 + second)
    record = roster.get(call_id)
    assert record is not None
    return record


def test_a_call_begins_with_masked_numbers() -> None:
    """Who calls whom can be told apart, and not be dialled."""
    record = told(BEGAN)

    assert (record.call_id, record.began_at) == ("c-1", 1000.0)
    assert (record.provider, record.agent, record.provider_call_id) == ("twilio", "sales", "CA1")
    assert record.from_number == "+*******0001"
    assert record.to_number == "+*******0002"
    assert "5550" not in repr(record)


def test_states_and_times() -> None:
    """Set-up, first sound, both states, and every turn with its latency."""
    record = told(
        BEGAN,
        CallReady(0.25),
        FirstAudioSent(0.75),
        StateChanged("lifecycle", "active"),
        StateChanged("turn", "thinking"),
        TurnAnswered(0.61234567),
        StateChanged("turn", "speaking"),
        TurnTimedOut(is_final=False),
    )

    assert (record.setup_s, record.first_audio_s) == (0.25, 0.75)
    assert (record.state, record.turn) == ("active", "speaking")
    assert record.timings == [Timing(5.0, 0.6123), Timing(7.0, None)]


def test_words_stand_where_they_were_spoken() -> None:
    """The caller's words come after the answer began, and belong before it."""
    record = told(
        BEGAN,
        StateChanged("turn", "thinking"),
        AgentSaid("item_1", "The answer."),
        CallerSpoke("A question?"),
        CallerSpoke("One more."),
    )

    in_order = sorted(record.lines, key=lambda line: line.at_s)
    assert [(line.who, line.at_s) for line in in_order] == [
        ("caller", 1.0),
        ("agent", 2.0),
        ("caller", 4.0),
    ]


def test_a_clock_that_is_set_back_changes_no_order() -> None:
    """What follows does not stand before what was."""
    roster = Roster()
    for now, fact in ((1000.0, BEGAN), (1005.0, CallerSpoke("One.")), (400.0, CallerSpoke("Two."))):
        roster.observe("c-1", fact, now)
    roster.observe("c-1", ENDED, 402.0)
    record = roster.get("c-1")

    assert record is not None
    assert [(line.at_s, line.text) for line in record.lines] == [(5.0, "One."), (5.0, "Two.")]
    assert record.ended_at == 1005.0


def test_said_is_not_heard() -> None:
    """Words are open until they were played; then heard and unheard are apart."""
    roster = Roster()
    record = told(BEGAN, AgentSaid("item_1", "One two three."), roster=roster)
    assert record.lines == [
        Line(1, "agent", 1.0, unheard="One two three.", is_open=True, changed=2)
    ]

    roster.observe("c-1", ItemPlayed("item_1", 900, 600, "One two", "three."), 1003.0)
    assert record.lines == [
        Line(1, "agent", 1.0, "One two", "three.", received_ms=900, heard_ms=600, changed=3)
    ]


def test_words_that_come_after_the_barge_in() -> None:
    """A transcript that ends after its item was cut adds what nobody heard."""
    record = told(
        BEGAN,
        ItemPlayed("item_1", 900, 300, "One", "two"),
        AgentSaid("item_1", "One two three."),
    )

    (line,) = record.lines
    assert (line.text, line.unheard, line.is_open) == ("One", "two three.", False)


def test_speech_without_words_is_a_line() -> None:
    """A model that sends no transcript was heard all the same."""
    record = told(BEGAN, ItemPlayed("item_1", 900, 900, ""))

    (line,) = record.lines
    assert (line.text, line.heard_ms) == ("", 900)


def test_troubles_are_counted_by_kind() -> None:
    """What repeats is one entry; a model's own words, which may hold a key, are none."""
    record = told(
        BEGAN,
        RealtimeDialled("timeout", 1.0),
        RealtimeDialled("ok", 1.0),
        RealtimeLost(1006, 5.0, is_expected=False),
        RealtimeLost(1000, 5.0, is_expected=True),
        RealtimeReconnected(0.5),
        RealtimeErrorSeen("server_error", "retry", "key sk-abc"),
        RealtimeErrorSeen("server_error", "retry", "key sk-abc"),
        RealtimeErrorSeen("response_cancel_not_active", "ignore", ""),
        AudioDropped("up", "gap", 20),
        AudioDropped("down", "unheard", 20),
        FrameRejected("provider", "bad_json", "<b>"),
        MarksLost(),
        PromptPlayed("apology"),
        PromptPlayed("filler"),
        TurnTimedOut(is_final=True),
    )

    assert record.troubles == [
        Trouble("model not reached: timeout", 1.0),
        Trouble("line to the model lost: 1006", 3.0),
        Trouble("line to the model is back", 5.0),
        Trouble("error of the model: server_error", 7.0, 2),
        Trouble("caller's audio lost: gap", 9.0),
        Trouble("bad message of the provider: bad_json", 11.0),
        Trouble("the provider stopped sending marks", 12.0),
        Trouble("the caller heard the apology", 13.0),
        Trouble("no answer of the model, gave up", 15.0),
    ]


def test_a_turn_is_made_of_stages() -> None:
    """They are told once the answer was heard, and belong to it."""
    record = told(
        BEGAN,
        TurnTimed(9, 9, 9, 9, 9),
        TurnAnswered(0.6),
        TurnTimed(0.5, 0.3, 0.001, 0.002, 0.05),
    )

    (timing,) = record.timings
    assert timing.stages == {
        "endpointing": 0.5,
        "model": 0.3,
        "conversion": 0.001,
        "send": 0.002,
        "provider_buffer": 0.05,
    }


def test_costs_add_up() -> None:
    """What has a price; a call of a model without one costs nobody knows what."""
    priced = told(BEGAN, CostIncurred("gpt", 0.25, 9), CostIncurred("gpt", 0.5, 9))

    assert priced.cost_usd == 0.75
    assert told(BEGAN, CostIncurred("", 0.0, 9)).cost_usd is None


def test_tokens_add_up() -> None:
    """What every answer used, by kind."""
    record = told(
        BEGAN,
        TokensUsed(Usage(input_text=1, output_audio=5)),
        TokensUsed(Usage(input_text=2, input_cached_audio=3)),
        BargedIn(0.001),
    )

    assert record.tokens["input_text"] == 3
    assert record.tokens["input_cached_audio"] == 3
    assert record.tokens["output_audio"] == 5
    assert record.barge_ins == 1


def test_the_end_is_told_once() -> None:
    """The end hands the record on, and nothing stays open."""
    roster = Roster()
    told(BEGAN, AgentSaid("item_1", "Hello"), roster=roster)

    record = roster.observe("c-1", ENDED, 1020.0)

    assert record is roster.get("c-1")
    assert record is not None
    assert (record.state, record.result, record.reason) == ("ended", "success", "caller_hangup")
    assert (record.ended_at, record.duration_s) == (1020.0, 20.0)
    assert [line.is_open for line in record.lines] == [False]
    assert summary(record)["last_words"] == "Hello"


def test_facts_of_nobody_make_no_call() -> None:
    """Before its beginning there is no call: not one that was turned away, for one."""
    roster = Roster()
    roster.observe("c-1", FrameRejected("provider", "bad_json", ""), 1000.0)

    assert roster.get("c-1") is None
    assert roster.version == 0


def test_only_news_are_told() -> None:
    """Whoever saw a number gets what is newer: calls in a list, lines of a call."""
    roster = Roster()
    told(BEGAN, CallerSpoke("old"), roster=roster, call_id="c-1")
    told(BEGAN, CallerSpoke("old"), roster=roster, call_id="c-2")
    seen = roster.version
    record = told(BEGAN, CallerSpoke("new"), roster=roster, call_id="c-1")

    assert [each.call_id for each in roster.changed_since(0)] == ["c-1", "c-2"]
    assert roster.changed_since(seen) == [record]
    assert roster.changed_since(roster.version) == []
    assert [line.text for line in details(record, seen)["lines"]] == ["new"]
    assert [line.text for line in details(record)["lines"]] == ["old", "new"]


def test_calls_are_found_by_either_id() -> None:
    """A part of our id or of the provider's is enough, in any case."""
    roster = Roster()
    for number in range(20):
        told(BEGAN, roster=roster, call_id=f"ab-{number}")

    assert [record.call_id for record in roster.find(" AB-13 ", 10)] == ["ab-13"]
    assert len(roster.find("ca1", 10)) == 10
    assert roster.find("nobody", 10) == []


def test_a_tape_is_known() -> None:
    """The call's page links to the report of the tape."""
    roster = Roster()
    record = told(BEGAN, roster=roster)
    roster.has_tape("c-1")
    roster.has_tape("c-2")

    assert record.has_tape


def test_old_calls_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number of ended calls is kept, and no call that is going on is forgotten."""
    monkeypatch.setattr(room, "MAX_LATELY", 3)
    roster = Roster()
    told(BEGAN, roster=roster, call_id="running")
    for number in range(5):
        told(BEGAN, ENDED, roster=roster, call_id=f"c-{number}")

    ids = {record.call_id for record in roster.changed_since(0)}
    assert ids == {"running", "c-2", "c-3", "c-4"}


def test_an_ended_call_can_be_erased() -> None:
    """One that is going on cannot."""
    roster = Roster()
    told(BEGAN, ENDED, roster=roster, call_id="ended")
    told(BEGAN, roster=roster, call_id="running")

    assert roster.forget("ended")
    assert not roster.forget("ended")
    assert not roster.forget("running")
    assert [record.call_id for record in roster.changed_since(0)] == ["running"]


def test_words_of_old_calls_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """All transcripts of ended calls together have a bound."""
    monkeypatch.setattr(room, "MAX_LATELY_CHARS", 25)
    roster = Roster()
    records = [
        told(BEGAN, CallerSpoke("0123456789"), ENDED, roster=roster, call_id=f"c-{number}")
        for number in range(4)
    ]

    assert [len(record.lines) for record in records] == [0, 0, 1, 1]
    assert [record.lines_dropped for record in records] == [1, 1, 0, 0]


def test_a_long_call_keeps_its_latest_words() -> None:
    """Lines and characters of one call are bounded, and the page can say that some are missing."""
    many = told(BEGAN, *(CallerSpoke(str(number)) for number in range(500)))
    assert len(many.lines) == room.MAX_LINES
    assert many.lines[-1].text == "499"
    assert many.lines_dropped == 300
    assert details(many)["first_line"] == 301

    long = told(BEGAN, *(CallerSpoke("x" * 10_000) for _ in range(100)))
    assert long.chars <= room.MAX_CALL_CHARS
    assert max(len(line.text) for line in long.lines) == room.MAX_LINE_CHARS


_TEXTS = st.text(max_size=3000)
_ITEMS = st.sampled_from([f"item_{number}" for number in range(300)])
_FACTS: st.SearchStrategy[Fact] = st.one_of(
    st.just(BEGAN),
    st.just(ENDED),
    st.builds(CallerSpoke, _TEXTS),
    st.builds(AgentSaid, _ITEMS, _TEXTS),
    st.builds(ItemPlayed, _ITEMS, st.just(900.0), st.just(600.0), _TEXTS, _TEXTS),
    st.builds(TurnAnswered, st.floats(0, 9)),
    st.builds(RealtimeErrorSeen, _TEXTS, st.just("warn"), _TEXTS),
    st.builds(FrameRejected, st.just("provider"), _TEXTS, _TEXTS),
)


@given(st.lists(st.tuples(_FACTS, st.integers(1, 150)), max_size=15))
def test_nothing_grows_without_end(facts: list[tuple[Fact, int]]) -> None:
    """Whatever a caller and a model do, a record stays within its bounds and versions rise."""
    roster = Roster()
    roster.observe("c-1", BEGAN, 0.0)
    for fact, times in facts:
        for _ in range(times):
            roster.observe("c-1", fact, 1.0)
    record = roster.get("c-1")

    assert record is not None
    assert len(record.lines) <= room.MAX_LINES
    assert record.chars <= room.MAX_CALL_CHARS
    assert len(record.timings) <= room.MAX_TIMINGS
    assert len(record.troubles) <= room.MAX_TROUBLES
    assert record.changed == roster.version
    assert max((line.changed for line in record.lines), default=0) <= roster.version


def test_every_fact_is_shown_or_left_out_on_purpose() -> None:
    """A new kind of fact is thought about: those of every frame must not wake any page."""
    left_out = {
        *(AnnouncementHeard, AudioAssessed, AudioCounted, BargeInConfirmed, DeadAir, DtmfEntered),
        *(QueueSeen, RateLimitSeen, RealtimeOpened, RelayMeasured, SetUpTimed, ToolCalled),
        *(TurnLost, Underrun),
    }

    assert set(get_args(Fact)) == set(room._NOTES) | left_out


@pytest.mark.parametrize("end", [Termination("internal_error"), None])
def test_what_is_left_of_a_call_is_a_call_that_ended(end: Termination | None) -> None:
    """All that its last row told; how it ended only where that is known."""
    row = summary(told(BEGAN, StateChanged("lifecycle", "active"), CostIncurred("m", 0.5, 10)))
    record = remains(row, 1010.0, end)

    expected = row | {
        "state": "ended",
        "ended_at": 1010.0,
        "duration_s": 10.0,
        "result": end.result if end else "",
        "reason": end.reason if end else "",
        "troubles": int(end is not None),
    }
    assert summary(record) == expected
    assert details(record)["lines"] == []


def test_a_call_that_ended_elsewhere_is_one_of_those_that_ended() -> None:
    """Found, told as news, forgotten like others."""
    roster = Roster()
    seen = roster.version
    roster.adopt(remains(summary(told(BEGAN)), 1010.0, None))

    assert [record.call_id for record in roster.changed_since(seen)] == ["c-1"]
    assert [record.call_id for record in roster.find("ca1", 9)] == ["c-1"]
    assert roster.forget("c-1")
    assert roster.get("c-1") is None
