"""A bad tape gets one clear line from every command that reads tapes, and takes no memory."""

import gzip
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.tape.reading import MAX_LINE_BYTES

_GIGABYTE = 1 << 30
COMMANDS = {
    "replay": ("replay", "{tape}"),
    "shape": ("replay", "--shape", "{tape}"),
    "against": ("replay", "--against", "{tape}"),
    "show": ("tape", "show", "{tape}"),
    "wav": ("tape", "wav", "{tape}", "--out", "{out}/a.wav"),
    "report": ("tape", "report", "{tape}", "--out", "{out}/a.html"),
    "shrink": ("tape", "shrink", "{tape}", "--failing", "false", "--out", "{out}/a.jsonl"),
    "renew": ("tape", "renew", "{tape}", "--out", "{out}"),
}
COMPLAINTS = {
    "no-tape": "this is no tape",
    "future": "a tape of format 2, made by gateway 9.9; this gateway reads format 1",
    "garbage": "line 301: no line of a tape: JSON is malformed",
    "gigabyte": f"line 301: longer than {MAX_LINE_BYTES} bytes",
    "packed": f"line 2: longer than {MAX_LINE_BYTES} bytes",
}


@pytest.fixture(scope="module")
def bad(call_on_tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them, and one that is cut short."""
    folder = tmp_path_factory.mktemp("bad")
    lines = call_on_tape.read_bytes().splitlines(keepends=True)
    head = json.loads(lines[0]) | {"tape": 2, "gateway": "9.9"}
    (folder / "no-tape.jsonl").write_bytes(lines[0][:80])
    (folder / "future.jsonl").write_bytes(json.dumps(head).encode() + b"\n")
    (folder / "garbage.jsonl").write_bytes(b"".join([*lines[:300], b"garbage\n", *lines[300:]]))
    (folder / "gigabyte.jsonl").write_bytes(b"".join(lines[:300]))
    with (folder / "gigabyte.jsonl").open("ab") as file:
        file.truncate(_GIGABYTE)  # a hole: takes no room on the disk
    (folder / "packed.jsonl").write_bytes(gzip.compress(lines[0] + bytes(2 * MAX_LINE_BYTES), 1))
    (folder / "short.part").write_bytes(b"".join(lines)[:400_000])
    return folder


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--against` wants to know whom to ask; nobody is there. Logs stay as they are."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.setattr("gateway.logs.configure", lambda *_, **__: None)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str]:
    """The command: its exit code and all it prints."""
    monkeypatch.setattr("sys.argv", ["gateway", *args])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out + told.err


@pytest.mark.parametrize("name", COMPLAINTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_is_wrong(
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    """The file, the line, the reason, once; exit code 2; no file left, no memory filled."""
    tape = bad / f"{name}.jsonl"
    args = [word.format(tape=tape, out=tmp_path) for word in COMMANDS[command]]
    is_large = name in ("gigabyte", "packed")
    if is_large:
        tracemalloc.start()
    code, told = run(monkeypatch, capsys, *args)
    peak_bytes = tracemalloc.get_traced_memory()[1] if is_large else 0
    tracemalloc.stop()

    assert code == 2
    assert [line for line in told.splitlines() if COMPLAINTS[name] in line and str(tape) in line]
    assert told.count(COMPLAINTS[name]) == 1
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())
    assert peak_bytes < 4 * MAX_LINE_BYTES


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"against"}))
def test_every_command_says_that_a_tape_was_cut_short(
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """And does what it can: such a tape is what a crash leaves, when it is needed most."""
    args = [word.format(tape=bad / "short.part", out=tmp_path) for word in COMMANDS[command]]
    code, told = run(monkeypatch, capsys, *args)

    assert code == 0
    assert told.count("the tape was cut short there") + told.count("this tape was cut short") == 1


def test_pytest_says_what_is_wrong_with_each(bad: Path, tmp_path: Path) -> None:
    """A failed test a tape, with the same line, and no traceback."""
    folder = tmp_path / "calls"
    folder.mkdir()
    for name in ("no-tape", "future", "garbage"):
        shutil.copy(bad / f"{name}.jsonl", folder)
    (folder / "gigabyte.jsonl").symlink_to(bad / "gigabyte.jsonl")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--call-tapes", "calls"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    for name in ("no-tape", "future", "garbage", "gigabyte"):
        assert COMPLAINTS[name] in done.stdout
    assert "Traceback" not in done.stdout
    assert "4 failed" in done.stdout


def _words(_: int) -> dict[str, object]:
    """An answer whose words never end."""
    kind = "response.output_audio_transcript.delta"
    return {"type": kind, "response_id": "r", "item_id": "i", "delta": "hello" * 2000}


def _item(number: int) -> dict[str, object]:
    """An answer that says one word, and another, and another."""
    return _words(0) | {"response_id": f"r{number}", "item_id": f"i{number}", "delta": "hello" * 20}


def _nothing(_: int) -> dict[str, object]:
    """A message that means nothing, and is long."""
    return {"type": "input_audio_buffer.committed", "previous_item_id": "i" * 60_000}


HUGE: dict[str, tuple[Callable[[int], dict[str, object]], int]] = {
    "long words": (_words, 2000),
    "many items": (_item, 5000),
    "nothing": (_nothing, 2000),
}
# What a process of its own says last: how much memory it had at most (kB).
_RUN = """
import pathlib, re, sys
from gateway.cli import main
try:
    main()
finally:
    told = pathlib.Path("/proc/self/status").read_text()
    print(re.search(r"VmHWM:\\s+(\\d+)", told)[1])
"""


@pytest.fixture(scope="module", params=HUGE)
def huge(
    call_on_tape: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """A packed tape: a real call, into which the model says much too much; each line is valid."""
    make, count = HUGE[request.param]
    lines = call_on_tape.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    frame = {"t": json.loads(lines[middle - 1])["t"], "link": "realtime", "dir": "in"}
    path = tmp_path_factory.mktemp("huge") / "huge.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        file.writelines(lines[:middle])
        for number in range(count):
            data = {"kind": "text", "data": json.dumps(make(number))}
            file.write(json.dumps(frame | data).encode() + b"\n")
        file.writelines(lines[middle:])
    return path


@pytest.mark.parametrize("command", ["replay", "show"])
def test_no_tape_of_valid_lines_fills_the_memory(huge: Path, command: str) -> None:
    """However much is said on it: of what is kept there is a bound, and the call goes on."""
    args = [word.format(tape=huge, out="") for word in COMMANDS[command]]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *args], capture_output=True, text=True, check=False
    )
    *told, most_kb = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert told
    assert int(most_kb) < 300_000
