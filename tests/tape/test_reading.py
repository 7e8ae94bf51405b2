"""Tapes are read as far as they are whole, and bad ones say what is wrong with them."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TapeError
from gateway.tape.reading import MAX_LINE_BYTES, Line, Tape

HEAD = {"tape": 1, "gateway": "1.2.3", "provider": "twilio", "dialect": "ga", "call_id": "c1"}
LINES: list[dict[str, Any]] = [
    {"t": 0.1, "link": "provider", "dir": "in", "kind": "text", "data": "é"},
    {"t": 0.1, "link": "provider", "dir": "out", "kind": "binary", "data": "//4="},
    {"t": 0.2, "began": True},
    {"t": 9.0, "end": {"result": "success", "reason": "caller_hangup"}, "lost": 0},
]


def text_of(*lines: dict[str, Any], head: dict[str, Any] = HEAD) -> bytes:
    """The bytes of a tape."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in (head, *lines))


WHOLE = text_of(*LINES)


def read(path: Path) -> tuple[list[Line], bool]:
    """All lines of a tape, and whether it is whole."""
    with Tape(path) as tape:
        return list(tape), tape.is_whole


@pytest.fixture
def tape_of(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a tape."""

    def write(content: bytes) -> Path:
        path = tmp_path / "a.jsonl"
        path.write_bytes(content)
        return path

    return write


def test_a_tape_gives_its_head_and_its_lines(tape_of: Callable[[bytes], Path]) -> None:
    """Text as text, binary as bytes, the end as the end."""
    with Tape(tape_of(WHOLE)) as tape:
        lines = list(tape)

    assert (tape.head.provider, tape.head.gateway, tape.is_whole) == ("twilio", "1.2.3", True)
    assert [line.message for line in lines[:2]] == ["é", b"\xff\xfe"]
    assert lines[2].began
    assert lines[3].end
    assert lines[3].end.reason == "caller_hangup"


def test_a_packed_tape_reads_like_a_plain_one(tape_of: Callable[[bytes], Path]) -> None:
    """Whatever its name is."""
    plain, packed = read(tape_of(WHOLE)), read(tape_of(gzip.compress(WHOLE)))

    assert [line.t for line in plain[0]] == [line.t for line in packed[0]]
    assert packed[1]


@given(st.integers(len(text_of()), len(WHOLE) - 1), st.booleans())
def test_a_tape_cut_short_is_read_up_to_its_last_whole_line(length: int, is_packed: bool) -> None:  # noqa: FBT001  # drawn
    """Wherever the writer died: every line that was finished is there, nothing is made up."""
    import tempfile  # noqa: PLC0415

    content = WHOLE[:length]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl.part"
        path.write_bytes(gzip.compress(content) if is_packed else content)
        lines, is_whole = read(path)

    assert len(lines) == content.count(b"\n") - 1
    assert not is_whole


def test_a_packed_tape_cut_short_is_readable_too(tape_of: Callable[[bytes], Path]) -> None:
    """The end of a gzip file is missing: what was unpacked before counts."""
    filler = [LINES[0] | {"data": f"{number:x}" * 9} for number in range(20_000)]
    lines, is_whole = read(tape_of(gzip.compress(text_of(*filler))[:-2000]))

    assert 0 < len(lines) < len(filler)
    assert not is_whole


BAD: dict[str, tuple[bytes, str]] = {
    "a flipped bit in a text": (
        text_of() + b'{"t": 1.0, "data": "\xff"}\n',
        "line 2: no line of a tape: 'utf-8' codec can't decode",
    ),
    "very deep": (
        text_of() + b'{"t": 1.0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "line 2: no line of a tape: maximum recursion depth",
    ),
    "a very deep head": (b'{"tape": 1, "x": ' + b"[" * 100_000 + b"\n", "this is no tape"),
    "before the call": (text_of({"t": -1.0}), "line 2: no line of a tape: Expected `float` >= 0"),
    "the end of time": (text_of({"t": 1e308}), "line 2: no line of a tape: Expected `float` <= 1"),
    "empty": (b"", "this is no tape"),
    "another format": (b"RIFF\0\0\0\0WAVE\n", "this is no tape"),
    "other JSON": (b'{"some": "json"}\n', "this is no tape"),
    "half a head": (b'{"tape": 1, "provider": "x"}\n', "line 1: Object missing required field"),
    "the future": (text_of(head=HEAD | {"tape": 2}), "format 2, made by gateway 1.2.3"),
    "no version": (text_of(head=HEAD | {"tape": "1"}), "this is no tape"),
    "no time": (text_of(LINES[0], {"t": "soon"}), "line 3: no line of a tape: Expected `float`"),
    "garbage": (text_of(LINES[0]) + b"garbage\n", "line 3: no line of a tape: JSON is malformed"),
    "octets": (text_of(LINES[0]) + b"\0\xff\n", "line 3: no line of a tape"),
    "damaged gzip": (gzip.compress(WHOLE)[:-8] + bytes(8), "damaged: CRC check failed"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_tape_says_what_is_wrong_and_where(
    tape_of: Callable[[bytes], Path], content: bytes, complaint: str
) -> None:
    """One line, with the file's name."""
    path = tape_of(content)

    with pytest.raises(TapeError) as caught:
        read(path)

    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_tape_is_said_to_be_missing(tmp_path: Path) -> None:
    """No traceback for a typing mistake, nor for a folder."""
    with pytest.raises(TapeError, match=r"nowhere\.jsonl: No such file"):
        Tape(tmp_path / "nowhere.jsonl")
    with pytest.raises(TapeError, match="Is a directory"):
        Tape(tmp_path)


def test_binary_data_that_is_no_base64_is_a_bad_tape(tape_of: Callable[[bytes], Path]) -> None:
    """And says at which moment of the call."""
    (line,), _ = read(tape_of(text_of(LINES[1] | {"data": "?"})))

    with pytest.raises(TapeError, match=r"at 0\.100000 s: binary data that is not base64"):
        _ = line.message


def test_a_gigabyte_without_a_line_fills_no_memory(tmp_path: Path) -> None:
    """What is read at once is bounded by the longest line a tape can have."""
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write(WHOLE[: WHOLE.index(b"\n") + 1])
        file.truncate(1 << 30)  # a hole: takes no room on the disk

    tracemalloc.start()
    with pytest.raises(TapeError, match=f"line 2: longer than {MAX_LINE_BYTES} bytes"):
        read(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 3 * MAX_LINE_BYTES
