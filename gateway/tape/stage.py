"""The world a taped call is played in: its clock stands still, its links and dial do as the tape.

Nothing in here waits: a timer rings when the tape says so, and never before.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import Context
from typing import Final, TypeVarTuple

from gateway.errors import TapeError
from gateway.realtime import Link, Listener
from gateway.tape.passes import Change, Sent

# Steps of waiting tasks that one thing may set off; more is a task that never comes to rest.
_MOST_STEPS: Final = 1000

_Args = TypeVarTuple("_Args")
_Callback = Callable[..., object]
_Timer = tuple[float, int, asyncio.TimerHandle, _Callback, tuple[object, ...]]


def _all(_: _Callback) -> bool:
    """Every timer rings."""
    return True


class Clockwork(asyncio.SelectorEventLoop):
    """An event loop whose time is set, and whose timers ring when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        # Everything that was asked to run; tells whether somebody still has something to do.
        self.calls = 0
        self._timers: list[_Timer] = []
        self._count = itertools.count()
        super().__init__()

    def time(self) -> float:
        """As it was set."""
        return self.now

    def call_soon(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """As ever, but counted."""
        self.calls += 1
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Keep it until ``ring``."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._count), timer, callback, args))
        return timer

    def may_ring(self, now: float) -> bool:
        """Whether a timer is due by then, unless it was taken back."""
        return bool(self._timers) and self._timers[0][0] <= now

    def next_timer(self) -> float | None:
        """When the first timer is due that was not taken back."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def ring(
        self, is_wanted: Callable[[Callable[..., object]], bool] = _all, early_s: float = 0.0
    ) -> None:
        """Let those ring that are due now, or so soon, and whose callback is wanted, each once."""
        due: list[_Timer] = []
        while (at := self.next_timer()) is not None and at <= self.now + early_s:
            due.append(heapq.heappop(self._timers))
        for timer in due:
            _, _, handle, callback, args = timer
            if not is_wanted(callback):
                heapq.heappush(self._timers, timer)
            elif not handle.cancelled():
                callback(*args)

    async def rest(self) -> None:
        """Until every task waits for something that has yet to happen.

        Raises:
            TapeError: they do not come to rest.
        """
        for _ in range(_MOST_STEPS):
            before = self.calls
            await asyncio.sleep(0)
            if self.calls == before + 1:  # nobody but us
                return
        raise TapeError(f"at {self.now:.6f} s: the call does not come to rest")


class StageLink:
    """A link that hears what the tape heard, and keeps what is sent for comparison."""

    def __init__(self, name: str, stage: "Stage") -> None:
        self.close_code, self.close_reason = 1006, ""
        self._name = name
        self._stage = stage
        self._listener: Listener | None = None

    @property
    def is_clogged(self) -> bool:
        """Whether the peer takes no more, as it was."""
        stage, name = self._stage, self._name
        if stage.changes:
            stage.change(name)
        return name in stage.clogged

    def listen(self, listener: Listener) -> None:
        """Tell this listener."""
        self._listener = listener

    def hear(self, message: str | bytes) -> None:
        """The peer sent this."""
        if self._listener is not None:
            self._listener.message_came(message)

    def free(self) -> None:
        """The peer takes messages again."""
        if self._listener is not None:
            self._listener.link_freed()

    def leave(self, code: int, reason: str) -> None:
        """The peer is gone."""
        self.close_code, self.close_reason = code, reason
        if self._listener is not None:
            self._listener.link_closed()

    def send(self, *messages: str | bytes) -> None:
        """Keep them.

        Raises:
            ConnectionError: by then the socket was closed.
        """
        stage, name = self._stage, self._name
        if stage.changes:
            stage.change(name)
        if name in stage.shut:
            raise ConnectionResetError("the socket is closed")
        for message in messages:
            stage.sent.append((name, message))

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: ARG002  # the contract
        """Keep that it was closed."""
        self._stage.asides.append(f"{self._name} closed {code}")


class Stage:
    """Both links of one call and its dial; collects what the call does."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        # What the call did that takes its time: lines to compare with the tape's asides.
        self.asides: list[str] = []
        self.provider = StageLink("provider", self)
        self.realtime = StageLink("realtime", self)
        # What links will be like in this pass; which are clogged, which sockets closed by now.
        self.changes: list[Change] = []
        self.clogged: set[str] = set()
        self.shut: set[str] = set()
        self._answer: asyncio.Future[Link] | None = None
        # When the call dialled and waited longer than a live one ever does.
        self.unanswered: list[float] = []

    def expect(self, changes: list[Change]) -> None:
        """In the pass that begins, links change like this."""
        self.sent = []
        self.changes = changes

    def change(self, name: str) -> None:
        """Let this link become what it was by now: after so many messages of this pass."""
        taken = sum(link == name for link, _ in self.sent)
        for change in [one for one in self.changes if one[0] == name and one[1] <= taken]:
            self.changes.remove(change)
            self.set(name, change[2])

    def set(self, name: str, kind: str) -> None:
        """This link is "clogged" from now on, "freed", or "shut"."""
        if kind == "shut":
            self.shut.add(name)
        else:
            (self.clogged.add if kind == "clogged" else self.clogged.discard)(name)

    async def dial(self, *, timeout_s: float, with_fresh_token: bool) -> Link:  # noqa: ARG002  # the contract
        """Wait for the tape's answer.

        Raises:
            ConnectError: as it was.
        """
        self.asides.append("realtime dialled")
        loop = asyncio.get_running_loop()
        self._answer, asked_at = loop.create_future(), loop.time()
        try:
            return await self._answer
        except asyncio.CancelledError:
            if loop.time() > asked_at + timeout_s:
                self.unanswered.append(asked_at)
            raise

    @property
    def is_dialling(self) -> bool:
        """Whether the call waits for a line to the model."""
        return self._answer is not None and not self._answer.done()

    def open(self) -> bool:
        """The line is open; false where nobody asked for one."""
        if self._answer is None or self._answer.done():
            return False
        self.realtime = StageLink("realtime", self)
        self.clogged.discard("realtime")
        self.shut.discard("realtime")
        self._answer.set_result(self.realtime)
        return True

    def refuse(self, error: Exception) -> bool:
        """The line could not be opened; false where nobody asked for one."""
        if self._answer is None or self._answer.done():
            return False
        self._answer.set_exception(error)
        return True
