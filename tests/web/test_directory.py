"""The rows of all workers as one list: who has which call, what is new, what is found."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web import directory as module
from gateway.web.directory import Directory


def _row(call_id: str, *, is_over: bool = False, number: int = 0) -> msgspec.Raw:
    ended_at = 2.0 if is_over else None
    row = {
        "call_id": call_id,
        "provider_call_id": f"CA-{call_id}",
        "ended_at": ended_at,
        "n": number,
    }
    return msgspec.Raw(json.dumps(row).encode())


def _plain(rows: Sequence[msgspec.Raw]) -> list[Any]:
    return [json.loads(bytes(row)) for row in rows]


def _ids(rows: Sequence[msgspec.Raw]) -> list[str]:
    return [row["call_id"] for row in _plain(rows)]


def test_who_has_a_call() -> None:
    """The worker that told of it, until it is forgotten."""
    directory = Directory()
    directory.tell(1, [_row("a")])
    directory.tell(2, [_row("b")])
    directory.tell(None, [_row("c", is_over=True)])
    assert [directory.worker_of(name) for name in "abcd"] == [1, 2, None, None]

    directory.forget("a")
    directory.forget("nobody")
    assert directory.worker_of("a") is None


def test_one_row_that_cannot_be_read_and_none_is_taken() -> None:
    """Whoever told them tells them all again."""
    directory = Directory()
    with pytest.raises(msgspec.DecodeError):
        directory.tell(1, [_row("a"), msgspec.Raw(b'{"call_id":5}')])
    assert (directory.version, directory.worker_of("a")) == (0, None)


def test_rows_are_told_as_they_came_and_once() -> None:
    """Whoever has seen a number is told what came after it: each call's last row."""
    directory = Directory()
    directory.tell(1, [_row("a"), _row("b")])
    seen = directory.version
    directory.tell(2, [_row("c", number=1)])
    directory.tell(1, [_row("a", number=7)])

    assert _plain(directory.changed_since(seen, 9)) == _plain(
        [_row("a", number=7), _row("c", number=1)]
    )
    assert directory.changed_since(directory.version, 9) == []


def test_calls_that_go_on_are_all_told_and_before_those_that_ended() -> None:
    """Of the others so many, the latest."""
    directory = Directory()
    directory.tell(1, [_row(f"old-{number}", is_over=True) for number in range(5)])
    directory.tell(1, [_row("a"), _row("b")])
    directory.tell(1, [_row("new", is_over=True)])

    assert _ids(directory.changed_since(0, 2)) == ["b", "a", "new", "old-4"]


def test_a_call_is_found_by_a_part_of_an_id() -> None:
    """Its own or its provider's, in any case, the latest change first."""
    directory = Directory()
    directory.tell(1, [_row("Ab1"), _row("aB2"), _row("x")])

    assert [entry.call_id for entry in directory.find(" ab ", 9)] == ["aB2", "Ab1"]
    assert [entry.call_id for entry in directory.find("ca-x", 9)] == ["x"]
    assert [entry.call_id for entry in directory.find("", 2)] == ["x", "aB2"]


def test_a_worker_that_is_gone_leaves_what_went_on() -> None:
    """What had ended is somebody else's to know; calls of others stay."""
    directory = Directory()
    directory.tell(1, [_row("a"), _row("b", is_over=True)])
    directory.tell(2, [_row("c")])

    assert [entry.plain()["call_id"] for entry in directory.lose(1)] == ["a"]
    assert _ids(directory.changed_since(0, 9)) == ["c"]


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=60))
def test_it_does_not_grow(told: list[tuple[int, bool]]) -> None:
    """Calls that ended have a bound, those that go on are all there; nothing is there twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ENDED", 3)
        directory = Directory()
        last: dict[str, bool] = {}
        for number, is_over in told:
            # What has ended goes on no more.
            is_over_now = is_over or last.get(str(number), False)
            last[str(number)] = is_over_now
            directory.tell(number % 2, [_row(str(number), is_over=is_over_now)])
        ids = _ids(directory.changed_since(0, 99))

    going_on = {name for name, is_over in last.items() if not is_over}
    assert len(ids) == len(set(ids))
    assert going_on <= set(ids) <= set(last)
    assert len(set(ids) - going_on) == min(3, len(last) - len(going_on))
