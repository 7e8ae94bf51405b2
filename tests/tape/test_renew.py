"""A tape that is recorded anew replays exactly, and says that it is not what was on the wire."""

import gzip
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.call import Call
from gateway.errors import TapeError
from gateway.tape.judge import judge
from gateway.tape.masking import masked
from gateway.tape.reading import Tape
from gateway.tape.renew import check_place, mark, put, renew
from gateway.voice import Voice

TAPES = sorted((Path(__file__).parents[1] / "tapes").glob("*.jsonl.gz"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All lines of a tape, the first one too."""
    raw = path.read_bytes()
    return [
        json.loads(line)
        for line in (gzip.decompress(raw) if raw[:1] == b"\x1f" else raw).splitlines()
    ]


def messages(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was said on both links, up to the hang-up, in the order of the wire."""
    return [line for line in lines if "data" in line]


def kinds_sent(lines: list[dict[str, Any]]) -> set[str]:
    """What kinds of messages went to the model."""
    sent = [m for m in messages(lines) if (m["link"], m["dir"]) == ("realtime", "out")]
    return {json.loads(message["data"])["type"] for message in sent}


def is_same(one: object, other: object) -> bool:
    """A comparison without a diff, which for a whole call would take minutes."""
    return one == other


@pytest.mark.parametrize("path", TAPES, ids=[path.name.split(".")[0] for path in TAPES])
def test_without_a_change_nothing_changes(path: Path, tmp_path: Path) -> None:
    """Every message that came and went, and its time; the end; only the first line has more."""
    replayed = renew(path, tmp_path / "new.jsonl")
    was, now = lines_of(path), lines_of(tmp_path / "new.jsonl")

    assert replayed.problems == []
    # What the provider says while the line is being closed nobody hears in a replay.
    assert is_same(messages(now), messages(was)[: len(messages(now))])
    assert {line["dir"] for line in messages(was)[len(messages(now)) :]} <= {"in"}
    assert now[-1] == was[-1]
    assert now[0] == was[0] | {key: now[0][key] for key in ("renewed_by", "renewed_at")}
    assert judge(tmp_path / "new.jsonl").replayed.digest == judge(path).replayed.digest


def test_after_a_change_the_new_tape_expects_it(
    call_on_tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is on it, what came in is untouched; the gateway before the change differs."""
    with monkeypatch.context() as changed:
        changed.setattr(Voice, "_is_to_truncate", lambda *_: False)
        renew(call_on_tape, tmp_path / "new.jsonl")
        assert judge(tmp_path / "new.jsonl").is_same
        assert not judge(call_on_tape).is_same
    was, now = lines_of(call_on_tape), lines_of(tmp_path / "new.jsonl")

    assert not judge(tmp_path / "new.jsonl").is_same
    assert is_same(*([m for m in messages(each) if m["dir"] == "in"] for each in (was, now)))
    assert "conversation.item.truncate" not in kinds_sent(now)
    assert "conversation.item.truncate" in kinds_sent(was)


def test_a_timer_that_the_tape_does_not_show_rings_when_it_is_due(
    call_on_tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a second later, as in a comparison; and it stays where it is when it is renewed again."""
    began = Call.__init__

    def with_a_limit(call: Call, *args: Any, **kwargs: Any) -> None:
        began(call, *args, **kwargs)
        call._desk.alarms["max call"] = args[2] + 3.0

    monkeypatch.setattr(Call, "__init__", with_a_limit)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    renew(call_on_tape, first)
    renew(first, second)
    lines = lines_of(first)
    began_s = next(line["t"] for line in lines if line.get("began"))
    fetched = [line["t"] for line in lines if began_s + 3 <= line.get("t", 0) < began_s + 3.01]

    assert fetched, "the goodbye begins with the alarm"
    assert lines[-1]["end"] == {"result": "success", "reason": "max_duration"}
    assert judge(first).is_same
    assert is_same(lines_of(second)[1:], lines[1:])


def test_a_call_whose_end_was_left_out_ends_by_itself(call_on_tape: Path, tmp_path: Path) -> None:
    """Time goes on behind the tape until nobody waits for the caller any more."""
    lines = call_on_tape.read_bytes().splitlines(keepends=True)
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join([*lines[:300], lines[-1]]))
    renew(short, tmp_path / "new.jsonl")

    assert lines_of(tmp_path / "new.jsonl")[-1]["end"]["reason"] == "idle_timeout"
    assert judge(tmp_path / "new.jsonl").is_same


@pytest.mark.parametrize("ending", [b"", b'{"t":900.0,"lost":7}\n'], ids=["cut short", "a gap"])
def test_a_tape_that_is_not_whole_does_not_become_so(
    call_on_tape: Path, tmp_path: Path, ending: bytes
) -> None:
    """And loses nothing more each time."""
    lines = call_on_tape.read_bytes().splitlines(keepends=True)
    short, first, second = (tmp_path / f"{name}.jsonl" for name in ("short", "first", "second"))
    short.write_bytes(b"".join(lines[:600]) + ending)
    renew(short, first)
    renew(first, second)

    assert judge(first).is_same
    assert not judge(first).replayed.is_whole
    assert judge(first).replayed.digest == judge(short).replayed.digest
    assert is_same(lines_of(second)[1:], lines_of(first)[1:])


def test_a_call_that_breaks_says_so(
    call_on_tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be renewed, to be made smaller; it is not to be relied on."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Voice, "mark_reached", broken)
    replayed = renew(call_on_tape, tmp_path / "new.jsonl")

    assert "the call broke: " in replayed.problems[0][1]
    assert lines_of(tmp_path / "new.jsonl")[-1]["end"]["reason"] == "internal_error"


def test_what_was_hidden_stays_hidden(call_on_tape: Path, tmp_path: Path) -> None:
    """The recorder masks as it did when the call was live."""
    renew(call_on_tape, tmp_path / "new.jsonl")

    for line in messages(lines_of(tmp_path / "new.jsonl")):
        assert line["data"] == masked(line["data"], line["link"])


def test_a_tape_without_a_call_has_nothing_to_renew(call_on_tape: Path, tmp_path: Path) -> None:
    """One line, and no file."""
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(call_on_tape.read_bytes().splitlines(keepends=True)[0])

    with pytest.raises(TapeError, match=r"bare\.jsonl: no call begins on this tape"):
        renew(bare, tmp_path / "new.jsonl")
    assert list(tmp_path.iterdir()) == [bare]


def test_a_tape_names_its_gateway(call_on_tape: Path, tmp_path: Path) -> None:
    """Who renewed it and when; whatever name the call has, the file is where it was asked for."""
    strange = tmp_path / "strange.jsonl"
    first, rest = call_on_tape.read_bytes().split(b"\n", 1)
    strange.write_bytes(
        json.dumps(json.loads(first) | {"call_id": "../../x"}).encode() + b"\n" + rest
    )
    renew(strange, tmp_path / "new.jsonl")

    with Tape(tmp_path / "new.jsonl") as tape:
        assert (tape.head.renewed_by, tape.head.call_id) == (__version__, "../../x")
        assert tape.head.renewed_at.endswith("+00:00")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "strange.jsonl"]


def test_a_tape_takes_its_place_all_at_once(tmp_path: Path) -> None:
    """Packed where its name says so, the same bytes each time; with the mode of the one before."""
    source, plain, packed = tmp_path / "s", tmp_path / "a.jsonl", tmp_path / "deep" / "a.jsonl.gz"
    source.write_bytes(b"line\n" * 1000)
    plain.touch(0o644)
    put(source, plain)
    put(source, packed)
    before = packed.read_bytes()
    put(source, packed)

    assert plain.read_bytes() == gzip.decompress(before) == source.read_bytes()
    assert packed.read_bytes() == before
    assert stat.S_IMODE(plain.stat().st_mode) == 0o644
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert [path.name for path in packed.parent.iterdir()] == ["a.jsonl.gz"]


def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a tape nor a file of our own."""
    target = tmp_path / "a.jsonl"
    target.write_text("as it was")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        put(target, target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.parent.touch()])
def test_a_place_that_cannot_be_is_told(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Before a search of minutes."""
    place = tmp_path / "folder" / "tape.jsonl"
    if make is Path.mkdir:
        place.parent.mkdir()
    make(place)

    with pytest.raises(OSError, match=r"directory|exists"):
        check_place(place)


def test_a_mark_says_what_was_done() -> None:
    """Two members of the first line."""
    assert mark("shrunk").keys() == {"shrunk_by", "shrunk_at"}
