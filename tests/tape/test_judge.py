"""A verdict on a whole tape: the same, or where it is not."""

import gzip
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from gateway.audio import compiled, resample
from gateway.errors import TapeError
from gateway.events import AppendAudio, SendMark
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


def _later(ms: int) -> Callable[[Any], Any]:
    return lambda truncate: lambda item, index, end_ms: truncate(item, index, end_ms + ms)


def _without_the_fifth(is_it: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A translator that forgets one command."""

    def forgetful(send: Any) -> Any:
        count = itertools.count(1)
        return lambda self, command: (
            [] if is_it(command) and next(count) == 5 else send(self, command)
        )

    return forgetful


def _with_tracing(send: Any) -> Any:
    return lambda self, command: [
        text.replace(b'"session":{', b'"session":{"tracing":"auto",')
        for text in send(self, command)
    ]


def _half_lead(options: Any) -> Any:
    return lambda head: replace(options(head), lead_ms=options(head).lead_ms // 2)


def _louder(taps: Any) -> Any:
    return lambda up, down: taps(up, down) * 1.001


def _forget_filters() -> None:
    for made_once in (resample.low_pass, resample._bank, compiled._filter):
        made_once.cache_clear()


PROTOCOL, TWILIO = "gateway.realtime.protocol.RealtimeProtocol", "gateway.providers.twilio"
CHANGES: dict[str, tuple[str, Callable[[Any], Any], str, bool]] = {
    "heard 1 ms more": ("gateway.voice.TruncateItem", _later(1), '"audio_end_ms":', False),
    "heard 1 s more": ("gateway.voice.TruncateItem", _later(1000), "truncate", True),
    "no truncate": ("gateway.voice.Voice._is_to_truncate", lambda _: lambda *_: False, "- ", True),
    "a frame forgotten": (
        f"{PROTOCOL}.send",
        _without_the_fifth(lambda command: isinstance(command, AppendAudio)),
        '- to the model: {"type":"input_audio_buffer.append"',
        False,
    ),
    "a mark forgotten": (
        f"{TWILIO}.TwilioStream.send",
        _without_the_fifth(lambda command: isinstance(command, SendMark)),
        '- to the provider: {"event":"mark"',
        False,
    ),
    "another option": (f"{PROTOCOL}.send", _with_tracing, '"tracing":"auto"', False),
    "half the lead": ("gateway.tape.replay.options_of", _half_lead, '{"event":"media"', True),
    "a louder resampler": ("gateway.audio.resample._prototype", _louder, '{"event":"media"', False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(call_on_tape: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each in words for engineers; the shape tolerates a little sound, and no other message."""
    target, change, words, is_shape_changed = CHANGES[name]
    owner, attribute = resolve_name(target.rpartition(".")[0]), target.rpartition(".")[2]
    monkeypatch.setattr(owner, attribute, change(getattr(owner, attribute)))
    _forget_filters()
    try:
        exact, shape = judge(call_on_tape), judge(call_on_tape, is_exact=False)
    finally:
        monkeypatch.undo()
        _forget_filters()

    assert not exact.is_same
    assert any(words in str(found) for found in exact.found.differences)
    assert shape.is_same is not is_shape_changed, [str(found) for found in shape.found.differences]


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
