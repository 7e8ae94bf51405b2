"""`gateway tape renew` shows what it accepts, and writes over nothing it was not told to."""

import fcntl
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import cli, main
from gateway.events import DialRealtime, SessionCreated
from gateway.session import Session
from gateway.tape.judge import judge
from gateway.voice import Voice


def run(*args: str | Path) -> Result:
    """The command."""
    return CliRunner().invoke(cli, ["tape", "renew", *map(str, args)])


@pytest.fixture
def calls(call_on_tape: Path, tmp_path: Path) -> Path:
    """A folder with one tape, packed."""
    folder = tmp_path / "calls"
    folder.mkdir()
    packed = gzip.compress(call_on_tape.read_bytes())
    (folder / "interrupted.jsonl.gz").write_bytes(packed)
    return folder


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deliberate change: nobody truncates any more."""
    monkeypatch.setattr(Voice, "_is_to_truncate", lambda *_: False)


@pytest.mark.usefixtures("changed")
def test_a_change_is_shown_and_accepted(calls: Path) -> None:
    """In place, packed as it was; the next time there is nothing to do."""
    tape = calls / "interrupted.jsonl.gz"
    first, second = run(calls, "--in-place"), run(calls, "--in-place")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert '- to the model: {"type":"conversation.item.truncate"' in first.stdout
    assert first.stdout.endswith(f"renewed     {tape}\n1 renewed, 0 the same already\n")
    assert second.stdout.endswith("0 renewed, 1 the same already\n")
    assert tape.read_bytes()[:2] == b"\x1f\x8b"
    assert judge(tape).is_same
    assert list(calls.iterdir()) == [tape]


@pytest.mark.usefixtures("changed")
def test_into_a_folder_the_old_ones_stay(calls: Path, tmp_path: Path) -> None:
    """And a script is told where the new ones are."""
    before = (calls / "interrupted.jsonl.gz").read_bytes()
    (told,) = json.loads(run(calls, "--out", tmp_path / "new", "--json").stdout)["tapes"]

    assert (calls / "interrupted.jsonl.gz").read_bytes() == before
    assert judge(Path(told["renewed"])).is_same
    assert told["differences"] >= 1
    assert Path(told["renewed"]) == tmp_path / "new" / "interrupted.jsonl.gz"


@pytest.mark.usefixtures("changed")
def test_nothing_is_written_over_by_accident(calls: Path, tmp_path: Path) -> None:
    """The folder they are in, two of one name, bad ones: told, and the others are renewed."""
    before = (calls / "interrupted.jsonl.gz").read_bytes()
    (calls / "deep").mkdir()
    shutil.copy(calls / "interrupted.jsonl.gz", calls / "deep")
    (calls / "garbage.jsonl").write_text("garbage\n")
    result, beside = run(calls, "--out", tmp_path / "new"), run(calls, "--out", calls)

    assert (result.exit_code, beside.exit_code) == (2, 2)
    assert f"{tmp_path / 'new' / 'interrupted.jsonl.gz'} is there already" in result.stdout
    assert "garbage.jsonl: this is no tape" in result.stdout
    assert result.stdout.endswith("1 renewed, 0 the same already, 2 not renewed\n")
    assert beside.stdout.count("is there already; --in-place writes over old tapes") == 2
    assert (calls / "interrupted.jsonl.gz").read_bytes() == before


@pytest.mark.parametrize("args", [(), ("--in-place", "--out", "new")])
def test_it_asks_where_to(
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
) -> None:
    """No default: one would write over tapes, the other litter."""
    monkeypatch.setattr("sys.argv", ["gateway", "tape", "renew", str(calls), *args])
    with pytest.raises(SystemExit, match="2"):
        main()

    assert capsys.readouterr().err == (
        "gateway: say where renewed tapes go: --out FOLDER, or --in-place, over the old\n"
    )


def test_a_call_that_breaks_is_not_renewed(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that expects a bug would be worse than none."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Voice, "mark_reached", broken)
    before = (calls / "interrupted.jsonl.gz").read_bytes()
    result = run(calls, "--in-place")

    assert result.exit_code == 2
    assert "to be recorded anew, not renewed: at " in result.stdout
    assert "the call broke: " in result.stdout
    assert (calls / "interrupted.jsonl.gz").read_bytes() == before


def _all_later(make: Callable[..., DialRealtime]) -> Callable[..., DialRealtime]:
    return lambda delay_s, *args: make(delay_s + 0.5, *args)


def _once_more(created: Callable[..., None]) -> Callable[..., None]:
    """Whoever has a session asks for the next one three seconds later."""

    def roll_over(session: Session, event: SessionCreated, now: float) -> None:
        created(session, event, now)
        session._rollover_by = session._desk.alarms["rollover"] = now + 3.0

    return roll_over


@pytest.mark.parametrize(
    ("target", "change", "complaint"),
    [
        ("DialRealtime", _all_later, "the line to the model was opened, but the call did not dial"),
        ("Session.created", _once_more, "the call dialled the model, and nobody on tape answers"),
    ],
)
def test_a_call_that_dials_at_other_times_is_not_renewed(
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    change: Callable[[Any], Any],
    complaint: str,
) -> None:
    """What the model said to the old dials was not said to these: such a call never was."""
    name = f"gateway.session.{target}"
    monkeypatch.setattr("gateway.session.RENEWAL_PAUSE_S", 0.0)
    monkeypatch.setattr(name, change(resolve_name(name)))
    before = (calls / "interrupted.jsonl.gz").read_bytes()
    result = run(calls, "--in-place")

    assert result.exit_code == 2
    assert "to be recorded anew, not renewed: at " in result.stdout
    assert f" s: {complaint}\n" in result.stdout
    assert result.stdout.endswith("0 renewed, 0 the same already, 1 not renewed\n")
    assert (calls / "interrupted.jsonl.gz").read_bytes() == before


@pytest.mark.usefixtures("changed")
def test_a_tape_that_is_being_written_is_not_replaced_under_the_writer(calls: Path) -> None:
    """A call that goes on holds the lock of its part; when it is over, the part can be renewed."""
    part = calls / "20260102T030405.678901Z-ab-1.jsonl.part"
    part.write_bytes(gzip.decompress((calls / "interrupted.jsonl.gz").read_bytes()))
    before = part.stat()
    with part.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run(part, "--in-place")
        aside = run(part, "--out", calls / "new")
    after = part.stat()

    assert (result.exit_code, aside.exit_code) == (2, 0)
    assert f"not renewed  {part}: a gateway is still writing or packing it" in result.stdout
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert run(part, "--in-place").exit_code == 0
