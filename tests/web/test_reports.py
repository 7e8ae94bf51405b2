"""The page of a call is made from its tape, beside the calls that run."""

from pathlib import Path

from gateway.web.reports import reporter, tapes_of
from tests.tape.conftest import call_on_tape  # noqa: F401  # a fixture


def test_the_page_of_a_call_is_made_from_its_tape(call_on_tape: Path) -> None:  # noqa: F811  # the fixture
    """By its id, which its tape's name ends with; of others there is none."""
    complaints: list[str] = []
    call_id = call_on_tape.name.partition(".jsonl")[0].partition("Z-")[2]
    report = reporter(call_on_tape.parent, complaints.append)
    page = report(call_id)

    assert page is not None
    assert page.startswith("<!doctype html>")
    assert call_id in page
    assert report(call_id[:-1]) is None
    assert report("*") is None
    assert not complaints


def test_a_tape_that_cannot_be_read_has_no_page(tmp_path: Path) -> None:
    """Why is told, in a line."""
    complaints: list[str] = []
    (tmp_path / "20260101T000000.000000Z-a1-1.jsonl").write_text("garbage\n")

    assert reporter(tmp_path, complaints.append)("a1-1") is None
    assert complaints[0].endswith("this is no tape")


def test_packed_and_plain_tapes_are_found_growing_ones_are_not(tmp_path: Path) -> None:
    """A call's tape is looked at when it is whole."""
    for name in ("a-1.jsonl.part", "a-1.jsonl.gz", "a-1.jsonl", "a-11.jsonl", "xa-1.jsonl"):
        (tmp_path / f"20260101T000000.000000Z-{name}").touch()

    found = [path.name.partition("Z-")[2] for path in tapes_of(tmp_path, "a-1")]

    assert found == ["a-1.jsonl.gz", "a-1.jsonl"]
