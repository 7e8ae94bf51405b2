"""A verdict on a whole tape: the same, or where it is not."""

import gzip
from pathlib import Path

import pytest

from gateway.errors import TapeError
from gateway.tape.judge import judge, tapes_at
from gateway.voice import Voice


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_call_of_today_is_the_same(call_on_tape: Path, is_exact: bool) -> None:  # noqa: FBT001  # a parameter
    """Byte for byte, and so in its shape."""
    verdict = judge(call_on_tape, is_exact=is_exact)

    assert verdict.is_same
    assert verdict.note == ""
    assert verdict.speed > 1


def test_a_changed_order_is_named(call_on_tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who truncates before it clears: the diff shows both messages, and the state of the call."""
    usual = Voice._clear

    def late(voice: Voice, asked_at: float, now: float) -> None:
        usual(voice, asked_at, now)
        queue = voice._desk.to_provider
        voice._desk.alarms["cut"] = now + 0.05
        queue.clear()

    monkeypatch.setattr(Voice, "_clear", late)
    verdict = judge(call_on_tape)
    first = str(verdict.found.differences[0])

    assert not verdict.is_same
    assert first.startswith("at ")
    assert ", when the " in first
    assert "the call was active and" in first
    assert '- to the provider: {"event":"clear"' in first
    assert not judge(call_on_tape, is_exact=False).is_same


def test_a_tape_that_is_not_whole_is_compared_as_far_as_it_goes(
    call_on_tape: Path, tmp_path: Path
) -> None:
    """And the note says how far."""
    short = tmp_path / "short.jsonl.part"
    short.write_bytes(call_on_tape.read_bytes()[:400_000])
    verdict = judge(short)

    assert verdict.is_same
    assert verdict.note.endswith("s: the tape was cut short there")


def test_a_packed_tape_gives_the_same_digest(call_on_tape: Path, tmp_path: Path) -> None:
    """What is in the file counts."""
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(call_on_tape.read_bytes()))

    assert judge(packed).replayed.digest == judge(call_on_tape).replayed.digest


def test_tapes_are_found_in_folders(tmp_path: Path) -> None:
    """Whole ones, by name; a folder without any is a mistake."""
    (tmp_path / "deep").mkdir()
    names = ["b.jsonl", "a.jsonl.gz", "c.jsonl.part", "deep/d.jsonl", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()

    found = [path.relative_to(tmp_path).as_posix() for path in tapes_at([tmp_path])]

    assert found == ["a.jsonl.gz", "b.jsonl", "deep/d.jsonl"]
    assert list(tapes_at([tmp_path / "notes.txt"])) == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TapeError, match="no tape in this folder"):
        list(tapes_at([tmp_path / "empty"]))
