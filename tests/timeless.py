"""An event loop in which waiting takes no time: its clock jumps when nobody has anything to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Value = TypeVar("_Value")
_Ready = list[tuple[selectors.SelectorKey, int]]


class _Jumping(selectors.SelectSelector):
    """Polls; where it would have waited, its clock has moved on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> _Ready:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for something that nobody will do")
        if not ready:
            self.now += max(0.0, timeout or 0.0)
        return ready


class TimelessLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and is exact: two runs of one test see the same moments."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that were waited since the loop was made."""
        return self._jumping.now


def run_timeless(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run to the end; no task may be left over.

    Raises:
        RuntimeError: everything stands still for ever.
    """

    async def alone() -> _Value:
        value = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"still running: {left}"
        return value

    with asyncio.Runner(loop_factory=TimelessLoop, debug=True) as runner:
        return runner.run(alone())
