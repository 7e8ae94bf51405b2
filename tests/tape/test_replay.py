"""A real call on tape is played again: the same bridge, the same call, the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.call import Call
from gateway.errors import TapeError
from gateway.events import BargedIn, CallEnded, CallerSpoke, DtmfEntered, ItemPlayed
from gateway.tape.reading import Tape
from gateway.tape.replay import Played, Replayed, options_of, replay

Lines = list[dict[str, Any]]


def played_again(path: Path) -> tuple[Replayed, list[Played]]:
    """What came of it, and the passes in which something was sent."""
    passes: list[Played] = []
    with Tape(path) as tape:
        return replay(tape, passes.append), passes


@pytest.fixture
def changed(call_on_tape: Path, tmp_path: Path) -> Callable[[Callable[[Lines], None]], Path]:
    """The same tape, changed by the test."""

    def change(how: Callable[[Lines], None]) -> Path:
        lines = [json.loads(line) for line in call_on_tape.read_bytes().splitlines()]
        how(lines)
        path = tmp_path / "changed.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return change


def _first(lines: Lines, **members: object) -> int:
    """Where the first line with these members is."""
    return next(n for n, line in enumerate(lines) if line.items() >= members.items())


def test_a_call_that_is_played_again_sends_the_same_bytes(call_on_tape: Path) -> None:
    """Every message, in its pass; and the end is the same."""
    replayed, passes = played_again(call_on_tape)

    assert [played.came for played in passes] == [played.expected for played in passes]
    assert sum(len(played.came) for played in passes) > 300
    assert replayed.problems == []
    assert replayed.is_whole


def test_a_hundred_replays_give_one_digest(call_on_tape: Path) -> None:
    """There is no chance in a call."""
    assert len({played_again(call_on_tape)[0].digest for _ in range(100)}) == 1


def test_a_replay_tells_what_happened(call_on_tape: Path) -> None:
    """The facts of the live call, with their times: said, heard, pressed, interrupted."""
    replayed, _ = played_again(call_on_tape)
    facts = [fact for _, fact in replayed.facts]
    times = [t for t, _ in replayed.facts]

    assert sum(isinstance(fact, DtmfEntered) for fact in facts) == 2
    assert any(isinstance(fact, BargedIn) for fact in facts)
    assert any(isinstance(fact, CallerSpoke) and fact.text for fact in facts)
    cut = [fact for fact in facts if isinstance(fact, ItemPlayed)]
    assert any(0 < fact.heard_ms < fact.received_ms for fact in cut)
    assert isinstance(facts[-1], CallEnded)
    assert times == sorted(times)
    assert replayed.duration_s >= times[-1] > 7.0


def test_waiting_changes_nothing(call_on_tape: Path) -> None:
    """At any speed the call reads the tape's clock; who waits is told each moment in order."""
    moments: list[float] = []
    with Tape(call_on_tape) as tape:
        slow = replay(tape, wait_until=moments.append)

    assert slow.digest == played_again(call_on_tape)[0].digest
    assert moments == sorted(moments)
    assert len(moments) > 300


async def test_a_replay_works_within_an_event_loop_too(call_on_tape: Path) -> None:
    """In an async test, or where somebody's service looks into a tape."""
    replayed, _ = played_again(call_on_tape)

    assert replayed.is_whole


def test_another_way_of_working_shows(call_on_tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgets to truncate sends less than the tape says: in that pass, and no other."""
    monkeypatch.setattr("gateway.voice.Voice._is_to_truncate", lambda *_: False)

    _, passes = played_again(call_on_tape)

    missing = {
        json.loads(message)["type"]
        for played in passes
        for link, message in played.expected
        if (link, message) not in played.came and b"truncate" in bytes(str(message), "utf-8")
    }
    assert missing == {"conversation.item.truncate"}


def test_a_timer_that_is_missing_on_the_tape_rings_all_the_same(
    call_on_tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new kind of timer has no line: it rings when it is due, and what it sends is told."""
    began = Call.__init__

    def with_a_timer(call: Call, *args: Any, **kwargs: Any) -> None:
        began(call, *args, **kwargs)
        call._desk.alarms["max call"] = args[2] + 4.0

    monkeypatch.setattr(Call, "__init__", with_a_timer)

    replayed, _ = played_again(call_on_tape)

    ended = [t for t, fact in replayed.facts if isinstance(fact, CallEnded)]
    assert replayed.problems
    assert "expected success, caller_hangup; came" in replayed.problems[-1][1]
    assert not ended or ended[0] > 4.0


def test_a_tape_with_a_gap_is_played_up_to_it(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """Behind it nobody knows what the call had heard."""

    def lose(lines: Lines) -> None:
        lines[200:260] = [{"t": lines[200]["t"], "lost": 60}]

    replayed, passes = played_again(changed(lose))

    assert replayed.stopped is not None
    assert replayed.stopped.lost == 60
    assert not replayed.is_whole
    assert all(played.came == played.expected for played in passes)


def test_a_tape_that_was_cut_short_is_played_to_where_it_is(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """The call is left in the middle; no word about an end it did not reach."""

    def cut(lines: Lines) -> None:
        del lines[600:]

    replayed, passes = played_again(changed(cut))

    assert replayed.stopped is None
    assert replayed.problems == []
    assert all(played.came == played.expected for played in passes)


def test_what_a_closed_socket_did_not_take_is_not_sent_again(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """From where the tape says that it was closed, though nobody had told the call yet."""

    def shut(lines: Lines) -> None:
        began = _first(lines, began=True)
        at = began + 300 + _first(lines[began + 300 :], link="realtime", dir="out", kind="text")
        lines[at] = {"t": lines[at]["t"], "link": "realtime", "dir": "in", "kind": "shut"}
        later = [line for line in lines[at + 1 :] if line.get("link") == "provider"]
        lines[at + 1 :] = [line for line in later[:20] if line["dir"] == "in"]

    replayed, passes = played_again(changed(shut))

    lost = [played for played in passes if played.expected != played.came]
    assert [link for played in lost for link, _ in played.came if link == "realtime"] == []
    assert replayed.problems == []


def test_a_loop_that_stood_still_reads_before_it_looks_at_its_timers(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """However long: a timer that the tape shows behind the messages rings behind them."""
    told: list[float] = []

    def stand_still(lines: Lines) -> None:
        at = next(n for n, line in enumerate(lines) if "pressed the keys" in line.get("data", ""))
        before = next(line for line in reversed(lines[:at]) if line.get("dir") == "in")
        late = lines[at]["t"] + 5.0
        told.append(late)
        lines[at:] = [
            before | {"t": late - 4.999},
            before | {"t": late - 0.001},
            lines[at] | {"t": late},
            {"t": late + 0.1, "rang": True},
            {"t": late + 0.2, "lost": 1},
        ]

    replayed, passes = played_again(changed(stand_still))

    assert replayed.problems == []
    assert told == [played.t for played in passes if "pressed the keys" in str(played.came)]


def test_a_redial_may_be_a_moment_early(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """An event loop that counts whole milliseconds ends a sleep before its time."""

    def refuse_first(lines: Lines) -> None:
        at = _first(lines, kind="opened")
        t = lines[at]["t"]
        how = {"result": "429", "can_retry": True, "retry_after_s": 0.5}
        lines[at:] = [
            lines[at] | {"kind": "refused"} | how,
            lines[_first(lines, kind="dialled")] | {"t": t + 0.4996},
            lines[at] | {"t": t + 0.6},
            lines[at + 1] | {"t": t + 0.6},
            {"t": t + 0.7, "rang": True},
            {"t": t + 0.8, "lost": 1},
        ]

    replayed, passes = played_again(changed(refuse_first))

    assert replayed.problems == []
    assert "session.update" in str(passes[-1].came)
    assert passes[-1].came == passes[-1].expected


def test_a_model_that_the_call_does_not_ask_for_is_told(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """A tape that opens a line twice."""

    def open_again(lines: Lines) -> None:
        at = _first(lines, kind="opened")
        lines.insert(at + 1, lines[at])

    replayed, _ = played_again(changed(open_again))

    assert replayed.problems[0][1] == (
        "the line to the model was opened, but the call did not dial"
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"provider": "pigeon"}, "no provider 'pigeon' in this gateway"),
        ({"settings": {"call": {"lead_ms": "long"}}}, "settings of the call on tape"),
        ({"settings": {"call": {"prompts": {"apology": "x"}}}}, "settings of the call on tape"),
        ({"settings": {"call": {"prompts": 3}}}, "settings of the call on tape"),
    ],
)
def test_a_head_that_cannot_be_used_says_why(
    changed: Callable[[Callable[[Lines], None]], Path], change: dict[str, Any], complaint: str
) -> None:
    """One clear line instead of a traceback."""
    path = changed(lambda lines: lines[0].update(change))

    with pytest.raises(TapeError, match=complaint):
        played_again(path)


def test_a_call_without_its_start_message_says_so(
    changed: Callable[[Callable[[Lines], None]], Path],
) -> None:
    """It was begun on the tape, but not here."""

    def forget(lines: Lines) -> None:
        began = _first(lines, began=True)
        del lines[1:began]

    with pytest.raises(TapeError, match="finds no start message it accepts"):
        played_again(changed(forget))


def test_options_are_those_of_the_call(call_on_tape: Path) -> None:
    """Session, limits and recordings; a recording of one's own is silence of the same length."""
    with Tape(call_on_tape) as tape:
        options = options_of(tape.head)
        own = tape.head.settings.call | {"prompts": {"apology": 4800}}

    assert options.session.voice == "marin"
    assert options.mark_interval_ms == 100
    assert any(options.prompts["apology"])
    settings = type(tape.head.settings)(own)
    head = type(tape.head)(1, "twilio", "ga", settings=settings)
    assert options_of(head).prompts == {"apology": bytes(4800)}
