"""The ledger of a taped call is the one the live call had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import TapeError
from gateway.events import ItemPlayed
from gateway.simulator.callreport import CallReport
from gateway.tape.accounts import accounts_of

Change = Callable[[dict[str, object]], dict[str, object] | None]


def changed(path: Path, folder: Path, change: Change) -> Path:
    """A copy of a tape in which each line was changed, or left out."""
    lines = (change(json.loads(line)) for line in path.read_text().splitlines())
    copy = folder / "changed.jsonl"
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))
    return copy


def test_each_item_has_its_place_and_what_was_heard_of_it(
    call_and_report: tuple[Path, CallReport],
) -> None:
    """Spans follow each other without holes; heard is what the phone played, to a few frames."""
    path, report = call_and_report
    accounts = accounts_of(path)
    told = [fact for _, fact in accounts.facts if isinstance(fact, ItemPlayed)]

    spans = [span for account in accounts.items for span in account.spans]
    assert accounts.problem == ""
    assert len(accounts.items) == len(told) >= 3
    assert spans[0][0] == 0
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    heard_ms = sum(account.heard_ms or 0.0 for account in accounts.items)
    assert heard_ms == pytest.approx(report.played_ms, abs=20 * len(told))
    assert [account.heard_text for account in accounts.items] == [fact.text for fact in told]


def test_a_tape_that_replays_otherwise_says_so(call_on_tape: Path, tmp_path: Path) -> None:
    """One mark of another name went out, says the tape: what follows is an estimate."""

    def rename(line: dict[str, object]) -> dict[str, object]:
        data = str(line.get("data", ""))
        if line.get("dir") == "out" and '"name":"m3"' in data:
            return line | {"data": data.replace('"m3"', '"other"')}
        return line

    accounts = accounts_of(changed(call_on_tape, tmp_path, rename))

    assert accounts.differences == 1
    assert "1 differences, the first at" in accounts.problem
    assert accounts.items


def test_a_tape_that_cannot_be_replayed_has_no_accounts(call_on_tape: Path, tmp_path: Path) -> None:
    """Settings of another world: why is said, and nothing raised."""

    def spoil(line: dict[str, object]) -> dict[str, object]:
        return line | {"settings": {"call": {"lead_ms": "soon"}}} if "tape" in line else line

    accounts = accounts_of(changed(call_on_tape, tmp_path, spoil))

    assert accounts.items == []
    assert accounts.problem.startswith("this version cannot replay the tape: settings of the call")


def test_no_tape_is_an_error(tmp_path: Path) -> None:
    """What cannot be read has no story at all."""
    with pytest.raises(TapeError, match="No such file"):
        accounts_of(tmp_path / "none.jsonl")
