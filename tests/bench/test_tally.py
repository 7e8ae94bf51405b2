"""What belongs to a window."""

from gateway.bench.tally import Books


def test_a_window_covers_what_begins_in_it() -> None:
    """From its first moment up to, but not with, its last."""
    books = Books()
    before = books.tally
    tally = books.open(10.0)
    tally.ended_s = 12.0

    assert books.tally is tally
    assert not before.covers(10.0)
    assert [tally.covers(at) for at in (9.9, 10.0, 11.9, 12.0)] == [False, True, True, False]
