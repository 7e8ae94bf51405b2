"""The plan of a reply: which pieces, in which order, when."""

import random
from collections.abc import Iterator

from gateway.events import PCM_24K
from gateway.simulator.agents import Part, Reply, Speech, ToolCall, Writing
from gateway.simulator.faults import NO_FAULTS, Faults
from gateway.simulator.plan import Close, Finish, Open, Pace, Planner, Sound, Words, pieces
from tests.simulator.desk import loud

PACE = Pace(speed=4.0, first_delta_s=0.5, delta_ms=200, first_delta_ms=400, jitter_s=0.0)


def _plan(
    *parts: Part, faults: Faults = NO_FAULTS, incomplete: str = ""
) -> Iterator[tuple[float, object]]:
    planner = Planner(PACE, faults, PCM_24K, random.Random(1))
    return planner.steps(Reply(parts, incomplete=incomplete), now=10.0)


def test_speech_is_laid_out_in_time() -> None:
    """Open, words and sound in turn, close when all is generated, finish."""
    speech = Speech(loud(700), "one two")

    plan = list(_plan(speech))

    assert plan == [
        (10.5, Open(speech)),
        (10.5, Words("one")),
        (10.5, Words(" two")),
        (10.5, Sound(loud(700)[:19200], loud(700)[:19200])),
        (10.6, Sound(loud(700)[19200:28800], loud(700)[19200:28800])),
        (10.65, Sound(loud(700)[28800:], loud(700)[28800:])),
        (10.675, Close("completed")),
        (10.675, Finish()),
    ]


def test_parts_follow_one_another() -> None:
    """A second part begins when the first was generated; calls come in pieces."""
    parts = (Speech(loud(400), "Hi"), ToolCall("f", "x" * 45))

    plan = list(_plan(*parts))

    assert [at for at, step in plan if isinstance(step, Open)] == [10.5, 10.6]
    arguments = [step.text for at, step in plan if isinstance(step, Words) and at == 10.6]
    assert arguments == ["x" * 20, "x" * 20, "x" * 5]


def test_an_incomplete_reply_closes_so() -> None:
    """The item of a reply that stops half way is incomplete."""
    closes = [step for _, step in _plan(Writing("Hi"), incomplete="content_filter")]

    assert Close("incomplete") in closes


def test_done_can_be_late() -> None:
    """Only the end waits."""
    *_, (closed, _), (finished, _) = _plan(Writing("Hi"), faults=Faults(late_done_s=2.0))

    assert finished - closed == 2.0


def test_pieces_are_the_text() -> None:
    """Nothing is lost between them."""
    assert pieces("abcde", 2) == ["ab", "cd", "e"]
    assert pieces("", 2) == []
