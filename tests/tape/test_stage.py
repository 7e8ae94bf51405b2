"""The stage's clock stands still, and its links and dial do what they are told."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from gateway.errors import ConnectError, TapeError
from gateway.realtime import Listener
from gateway.tape.stage import Clockwork, Stage

_Value = TypeVar("_Value")


def on_stage(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run this by a clock that is set by hand."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(work)


def clockwork() -> Clockwork:
    """The running one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clockwork)
    return loop


def test_timers_ring_in_order_when_they_are_told_to() -> None:
    """Not before, not when taken back, and the ones that are due only."""

    async def scene() -> list[str]:
        loop, rang = clockwork(), list[str]()
        loop.call_later(2.0, rang.append, "second")
        loop.call_later(1.0, rang.append, "first")
        loop.call_later(1.5, rang.append, "never").cancel()
        loop.call_at(9.0, rang.append, "later")
        loop.now = 5.0
        await loop.rest()
        assert not rang
        assert loop.next_timer() == 1.0
        loop.ring()
        assert loop.next_timer() == 9.0
        return rang

    assert on_stage(scene()) == ["first", "second"]


def test_timers_ring_apart_and_once() -> None:
    """Those that are wanted; one that sets itself anew rings next time, the others wait."""

    async def scene() -> list[str]:
        loop, rang = clockwork(), list[str]()

        def again() -> None:
            rang.append("again")
            loop.call_later(0.0, again)

        loop.call_later(1.0, again)
        loop.call_later(1.0, rang.append, "other")
        loop.now = 2.0
        loop.ring(lambda callback: callback is again)
        loop.ring(lambda callback: callback is again)
        loop.ring(lambda callback: callback is not again)
        return rang

    assert on_stage(scene()) == ["again", "again", "other"]


def test_rest_lets_tasks_go_as_far_as_they_can() -> None:
    """A task that sleeps has come to rest; when its timer rings it goes on."""

    async def scene() -> list[int]:
        loop, done = clockwork(), list[int]()

        async def work() -> None:
            for step in range(5):
                await asyncio.sleep(0)
                done.append(step)
            await asyncio.sleep(3.0)
            done.append(99)

        task = loop.create_task(work())
        await loop.rest()
        assert done == [0, 1, 2, 3, 4]
        loop.now = 3.0
        loop.ring()
        await task
        return done

    assert on_stage(scene())[-1] == 99


def test_tasks_that_never_rest_are_an_error() -> None:
    """A replay ends, whatever the call does."""

    async def scene() -> None:
        loop = clockwork()

        def again() -> None:
            loop.call_soon(again)

        again()
        with pytest.raises(TapeError, match="does not come to rest"):
            await loop.rest()

    on_stage(scene())


def test_a_link_clogs_once_it_took_so_much() -> None:
    """As on the tape: behind so many messages of this pass, on this link."""
    stage = Stage()
    stage.expect([("provider", 2, "clogged"), ("provider", 3, "freed")])

    clogged = []
    for link, message in (
        (stage.provider, "one"),
        (stage.realtime, "other"),
        (stage.provider, "two"),
        (stage.provider, "three"),
    ):
        link.send(message)
        clogged.append((stage.provider.is_clogged, stage.realtime.is_clogged))

    assert clogged == [(False, False), (False, False), (True, False), (False, False)]
    assert stage.sent == [
        ("provider", "one"),
        ("realtime", "other"),
        ("provider", "two"),
        ("provider", "three"),
    ]


def test_a_socket_that_is_closed_takes_nothing() -> None:
    """From where the tape says so, and until the model is dialled anew."""
    stage = Stage()
    stage.expect([("realtime", 1, "shut")])
    stage.realtime.send("taken")
    with pytest.raises(ConnectionResetError):
        stage.realtime.send("lost")
    stage.provider.send("another socket")

    assert stage.sent == [("realtime", "taken"), ("provider", "another socket")]


def test_links_tell_whoever_listens() -> None:
    """Messages, room, and the end with its code."""
    stage, heard = Stage(), list[object]()
    link = stage.provider
    link.hear("nobody listens")
    link.listen(
        Listener(heard.append, lambda: heard.append("freed"), lambda: heard.append("closed"))
    )
    link.hear("hello")
    link.free()
    link.leave(4000, "bye")

    assert heard == ["hello", "freed", "closed"]
    assert (link.close_code, link.close_reason) == (4000, "bye")


def test_a_dial_waits_for_the_tapes_answer() -> None:
    """Opened or refused, as it was; where nobody dialled there is nothing to answer."""

    async def scene() -> None:
        stage, loop = Stage(), clockwork()
        assert not stage.open()
        first = loop.create_task(stage.dial(timeout_s=1.0, with_fresh_token=False))
        await loop.rest()
        assert stage.refuse(ConnectError("dns"))
        assert not stage.refuse(ConnectError("dns"))
        with pytest.raises(ConnectError, match="dns"):
            await first
        second = loop.create_task(stage.dial(timeout_s=1.0, with_fresh_token=False))
        await loop.rest()
        assert stage.open()
        assert await second is stage.realtime
        await stage.realtime.close(1000)
        assert stage.asides == ["realtime dialled", "realtime dialled", "realtime closed 1000"]

    on_stage(scene())


@pytest.mark.parametrize(("waited_s", "unanswered"), [(0.9, []), (1.1, [5.0])])
def test_a_dial_that_was_given_up_too_late_had_no_answer(
    waited_s: float, unanswered: list[float]
) -> None:
    """A live one ends by itself when its time is over; one may be given up before."""

    async def scene() -> None:
        stage, loop = Stage(), clockwork()
        loop.now = 5.0
        dial = loop.create_task(stage.dial(timeout_s=1.0, with_fresh_token=False))
        await loop.rest()
        loop.now += waited_s
        dial.cancel()
        await loop.rest()
        assert dial.cancelled()
        assert stage.unanswered == unanswered

    on_stage(scene())
