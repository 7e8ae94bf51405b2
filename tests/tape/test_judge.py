"""A verdict on a whole tape: the same, or where it is not."""

import gzip
import itertools
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio import compiled, resample
from gateway.errors import TapeError
from gateway.events import AppendAudio, AudioAssessed, SendMark
from gateway.tape.judge import judge, tapes_at
from gateway.tape.shrink import load
from gateway.voice import Voice

TAPES = sorted((Path(__file__).parents[1] / "tapes").glob("*.jsonl.gz"))


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_call_of_today_is_the_same(call_on_tape: Path, is_exact: bool) -> None:  # noqa: FBT001  # a parameter
    """Byte for byte, and so in its shape."""
    verdict = judge(call_on_tape, is_exact=is_exact)

    assert verdict.is_same
    assert verdict.note == ""
    assert verdict.speed > 1


@pytest.mark.parametrize("path", TAPES, ids=[path.name.split(".")[0] for path in TAPES])
def test_whether_the_sound_is_assessed_changes_nothing_that_is_compared(path: Path) -> None:
    """Every message, its moment, every alarm and the end are the same; only one fact is not told.

    A verdict may therefore leave it out. Nor does assessing break any of these calls.
    """
    bare, told = judge(path), judge(path, is_assessed=True)
    kept = [(t, fact) for t, fact in told.replayed.facts if not isinstance(fact, AudioAssessed)]

    assert (bare.is_same, told.is_same) == (True, True)
    assert bare.replayed.digest == told.replayed.digest
    assert bare.replayed.messages == told.replayed.messages
    assert bare.replayed.duration_s == told.replayed.duration_s
    assert bare.replayed.facts == kept
    assert (len(kept) < len(told.replayed.facts)) == (told.replayed.call is not None)


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


_ABSURD: tuple[Any, ...] = (
    1e308,
    -1,
    0,
    2**63,
    10**30,
    "",
    "x",
    None,
    [],
    {},
    True,
    "\0" * 9,
    1_000_000.0,
)
_NAMES = ("t", "link", "dir", "kind", "data", "began", "hang_up", "rang", "lost", "end", "cut")
_WORDS = ("in", "out", "provider", "realtime", "opened", "refused", "freed", "clogged", "closed")


def _spoilt(lines: list[bytes], chance: random.Random) -> bytes:
    """A tape that was cut, bent, mixed up or filled with nonsense."""
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            return b"".join(lines)[: chance.randrange(sum(map(len, lines)))]
        case 1:
            raw = bytearray(b"".join(lines))
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            return bytes(raw)
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at:at] = lines[other : other + 1] * 50
        case 4:
            rest = lines[1:]
            chance.shuffle(rest)
            lines[1:] = rest
        case _:
            place = members = json.loads(lines[at])
            place = members["settings"]["call"] if "settings" in members else members
            place[chance.choice((*place, *_NAMES))] = chance.choice((*_ABSURD, *_WORDS))
            lines[at] = json.dumps(members).encode() + b"\n"
    return b"".join(lines)


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_bad_tape_is_a_difference_or_one_clear_line(
    call_on_tape: Path, chance: random.Random
) -> None:
    """Whatever was done to it: no traceback, no hang."""
    lines = call_on_tape.read_bytes().splitlines(keepends=True)[:500]
    if chance.random() < 0.5:
        lines = lines[:60]
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.jsonl"
        bad.write_bytes(_spoilt(lines, chance))
        for play in (judge, partial(judge, is_exact=False), load):
            try:
                play(bad)
            except TapeError as error:
                assert str(error).startswith(str(bad))  # noqa: PT017  # most do not raise
                assert "\n" not in str(error)  # noqa: PT017  # as above


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            {"t": 9000.0, "link": "pigeon", "dir": "in", "kind": "text", "data": "x"},
            "pigeon in text",
        ),
        (
            {"t": 9000.0, "link": "realtime", "dir": "in", "kind": "text"},
            "realtime in text: nothing",
        ),
        (
            {"t": 9000.0, "link": "provider", "dir": "in", "kind": "opened"},
            "provider in opened: not",
        ),
        ({"t": 9000.0, "hang_up": "boredom"}, "nobody hangs up because of 'boredom'"),
        ({"t": 9000.0, "began": True}, "the call was begun before"),
        ({"t": 0.0, "link": "provider", "dir": "in", "kind": "closed"}, "lines are out of order"),
        (
            {"t": 9000.0, "link": "provider", "dir": "in", "kind": "binary", "data": "é"},
            "binary data that is not base64",
        ),
    ],
)
def test_a_line_that_no_call_has_is_named(
    call_on_tape: Path, tmp_path: Path, line: dict[str, object], complaint: str
) -> None:
    """The file, the moment, and what is wrong."""
    bad = tmp_path / "bad.jsonl"
    lines = call_on_tape.read_bytes().splitlines(keepends=True)[:200]
    bad.write_bytes(
        b"".join([*lines, json.dumps(line).encode() + b"\n", b'{"t": 9001, "rang": true}\n'])
    )

    with pytest.raises(TapeError, match=complaint) as raised:
        judge(bad)
    assert str(raised.value).startswith(f"{bad}: at {line['t']:.6f} s: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("frame_ms", 0), ("lead_ms", 10**12), ("idle_s", -1.0), ("prompts", {"apology": 10**12})],
)
def test_settings_that_no_call_has_are_named(
    call_on_tape: Path, tmp_path: Path, name: str, value: object
) -> None:
    """Instead of a call that takes all memory, or never comes to an end."""
    first, rest = call_on_tape.read_bytes().split(b"\n", 1)
    head = json.loads(first)
    head["settings"]["call"][name] = value
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(json.dumps(head).encode() + b"\n" + rest)

    with pytest.raises(TapeError, match=f"settings of the call on tape: {name}: "):
        judge(bad)
