"""The page of a call is made from its tape, beside the calls that run."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.web.reports import MAX_WAITING, Reports, ReportsBusy, tapes_of
from tests.tape.conftest import call_on_tape  # noqa: F401  # a fixture


@contextmanager
def _reports(folder: Path) -> Iterator[tuple[Reports, list[str]]]:
    """What makes the pages of a folder's tapes, and its complaints."""
    complaints: list[str] = []
    reports = Reports(folder, complaints.append)
    try:
        yield reports, complaints
    finally:
        reports.close()


async def test_the_page_of_a_call_is_made_from_its_tape(call_on_tape: Path) -> None:  # noqa: F811  # the fixture
    """By its id, which its tape's name ends with; of others there is none."""
    call_id = call_on_tape.name.partition(".jsonl")[0].partition("Z-")[2]
    with _reports(call_on_tape.parent) as (reports, complaints):
        page = await reports.page(call_id)

        assert page is not None
        assert page.startswith(b"<!doctype html>")
        assert call_id.encode() in page
        assert await reports.page(call_id[:-1]) is None
        assert await reports.page("*") is None
        assert not complaints


async def test_a_tape_that_cannot_be_read_has_no_page(tmp_path: Path) -> None:
    """Why is told, in a line."""
    (tmp_path / "20260101T000000.000000Z-a1-1.jsonl").write_text("garbage\n")
    with _reports(tmp_path) as (reports, complaints):
        assert await reports.page("a1-1") is None
        assert complaints[0].endswith("this is no tape")


async def test_who_waits_for_a_report_holds_up_nobody_else(tmp_path: Path) -> None:
    """The threads that look up the model's address are free, and too many are told to come again.

    When the gateway stops, the report in work is given up, and those that wait are not begun.
    """
    # Nobody writes there: whoever reads it waits for ever.
    os.mkfifo(tmp_path / "20260101T000000.000000Z-a1-1.jsonl")
    with _reports(tmp_path) as (reports, complaints):
        asked = [asyncio.create_task(reports.page("a1-1")) for _ in range(40)]
        refused, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.wait_for(asyncio.to_thread(str.upper, "free"), 5) == "FREE"
        assert len(waiting) == MAX_WAITING
        for task in refused:
            assert isinstance(task.exception(), ReportsBusy)
    ended, hanging = await asyncio.wait(waiting, timeout=10)

    assert not hanging
    assert [task.result() for task in ended if not task.cancelled()] == [None]
    assert len(complaints) == 1


async def test_a_place_is_free_again(tmp_path: Path) -> None:
    """Also where the one who waited has gone."""
    with _reports(tmp_path) as (reports, _):
        for _ in range(2 * MAX_WAITING):
            task = asyncio.create_task(reports.page("nobody"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await reports.page("nobody") is None


def test_packed_and_plain_tapes_are_found_growing_ones_are_not(tmp_path: Path) -> None:
    """A call's tape is looked at when it is whole."""
    for name in ("a-1.jsonl.part", "a-1.jsonl.gz", "a-1.jsonl", "a-11.jsonl", "xa-1.jsonl"):
        (tmp_path / f"20260101T000000.000000Z-{name}").touch()

    found = [path.name.partition("Z-")[2] for path in tapes_of(tmp_path, "a-1")]

    assert found == ["a-1.jsonl.gz", "a-1.jsonl"]
