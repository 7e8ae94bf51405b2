"""One front desk for all workers: who may come in is decided where everything is known.

The supervisor has the ``FrontDesk``; each worker asks it through a ``DeskAdmission``, over a
private channel. An answer that does not come in time is a refusal, never a wait; one that comes too
late is given back.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.admission import Places, Proof, UsedTokens
from gateway.errors import AuthRejected, CallRejected

# A decision takes well under a millisecond; a caller waits for it in silence.
ANSWER_S: Final = 1.0
# Questions under way; a flood of sockets must not grow the list without end.
MAX_ASKED: Final = 1000


# ------------------------------------------------------------- what is said


class Message(msgspec.Struct, tag=True):
    """What goes through the channel."""


class Check(Message):
    """May one more call come? For the answer webhook."""

    number: int


class Wait(Message):
    """May a media socket come in?"""

    number: int


class Begin(Message):
    """May this call begin? ``has_left``: with it, one socket stops waiting."""

    number: int
    key: str
    nonce: bytes
    expires_at: float
    now: float
    has_left: bool


class Left(Message):
    """A media socket stopped waiting, and no call came of it."""


class Ended(Message):
    """A call has ended."""

    key: str


class Opened(Message):
    """The worker takes calls."""


class Beat(Message):
    """The worker's event loop runs, and it has so many connections."""

    connections: int


class Handed(Message):
    """With it comes a connection that the freest worker shall have; the worker has so many."""

    connections: int


class Answer(Message):
    """To a question; no reason means yes. ``kind`` as in ``errors.AuthRejected``."""

    number: int
    stage: str = ""
    reason: str = ""
    kind: str = ""


class Fair(Message):
    """The freest worker has so many connections."""

    least: int


class Drain(Message):
    """Take nobody new, wait so long for those there are, then say goodbye, and end."""

    limit_s: float


class Stop(Message):
    """End at once."""


Question = Check | Wait | Begin
News = Left | Ended | Opened | Beat | Handed
FromWorker = Question | News
ToWorker = Answer | Fair | Handed | Drain | Stop

encode: Final = msgspec.json.Encoder().encode
from_worker: Final = msgspec.json.Decoder(FromWorker).decode
to_worker: Final = msgspec.json.Decoder(ToWorker).decode


# ------------------------------------------------------------- the supervisor's side


@dataclass(slots=True)
class _Guests:
    """What one worker holds."""

    waiting: int = 0
    calls: set[str] = field(default_factory=set)


class FrontDesk:
    """Counts places, call ids and used tokens of all workers; sans-I/O."""

    def __init__(self, limit: int) -> None:
        self._places = Places(limit)
        self._used = UsedTokens()
        self._guests: dict[int, _Guests] = {}

    @property
    def calls(self) -> int:
        """Calls that are running, in all workers."""
        return self._places.calls

    def calls_of(self, worker: int) -> int:
        """Calls that are running in one worker."""
        return len(self._guests_of(worker).calls)

    def load_of(self, worker: int) -> int:
        """The same, with the sockets that wait to become calls."""
        guests = self._guests_of(worker)
        return guests.waiting + len(guests.calls)

    def has(self, worker: int, provider: str, call_id: str) -> bool:
        """Whether this call is running in this worker."""
        return call_key(provider, call_id) in self._guests_of(worker).calls

    def check(self) -> None:
        """See whether one more call could be taken.

        Raises:
            CallRejected: as ``Places.check``.
        """
        self._places.check()

    def drain(self) -> None:
        """Nobody new comes in."""
        self._places.is_draining = True

    def decide(self, worker: int, question: Question) -> Answer:
        """The answer to a worker's question; what it takes is taken."""
        try:
            self._take(self._guests_of(worker), question)
        except AuthRejected as rejected:
            return Answer(question.number, rejected.stage, rejected.reason, rejected.kind)
        except CallRejected as rejected:
            return Answer(question.number, rejected.stage, rejected.reason)
        return Answer(question.number)

    def _take(self, guests: _Guests, question: Question) -> None:
        if isinstance(question, Check):
            self._places.check()
        elif isinstance(question, Wait):
            self._places.wait()
            guests.waiting += 1
        else:
            self._begin(guests, question)

    def _begin(self, guests: _Guests, call: Begin) -> None:
        if call.has_left:
            self._leave(guests)
        if call.nonce:
            self._used.use(Proof(call.nonce, call.expires_at), call.now)
        self._places.begin("", call.key)
        guests.calls.add(call.key)

    def leave(self, worker: int) -> None:
        """A socket of this worker has stopped waiting."""
        self._leave(self._guests_of(worker))

    def _leave(self, guests: _Guests) -> None:
        if guests.waiting:
            guests.waiting -= 1
            self._places.stop_waiting()

    def end(self, worker: int, key: str) -> None:
        """A call of this worker has ended."""
        guests = self._guests_of(worker)
        if key in guests.calls:
            guests.calls.remove(key)
            self._places.end("", key)

    def forget(self, worker: int) -> int:
        """The worker is dead, and its places are free; returns how many calls it had."""
        guests = self._guests.pop(worker, _Guests())
        for _ in range(guests.waiting):
            self._places.stop_waiting()
        for key in guests.calls:
            self._places.end("", key)
        return len(guests.calls)

    def _guests_of(self, worker: int) -> _Guests:
        return self._guests.setdefault(worker, _Guests())


# ------------------------------------------------------------- a worker's side


class DeskAdmission:
    """The ``Admission`` of a worker: asks the front desk, for at most ``ANSWER_S``."""

    def __init__(self, send: Callable[[bytes], None], answer_s: float = ANSWER_S) -> None:
        self.is_draining = False
        self._send = send
        self._answer_s = answer_s
        self._asked: dict[int, tuple[asyncio.Future[Answer], Message | None]] = {}
        self._last_number = 0
        self._waiting = 0
        self._arriving = 0
        self._to_leave = 0
        self._calls: Counter[str] = Counter()

    async def check(self) -> None:
        """As ``Admission``."""
        self._refuse_in_drain()
        await self._ask(Check(self._next_number()), None)

    async def wait(self) -> None:
        """As ``Admission``."""
        self._refuse_in_drain()
        await self._ask(Wait(self._next_number()), Left())
        self._waiting += 1

    def stop_waiting(self) -> None:
        """As ``Admission``; told at the end of this turn, so that ``begin`` can tell it instead."""
        self._waiting -= 1
        self._to_leave += 1
        asyncio.get_running_loop().call_soon(self._tell_left)

    def _tell_left(self) -> None:
        for _ in range(self._to_leave):
            self._send(encode(Left()))
        self._to_leave = 0

    async def begin(self, provider: str, call_id: str, proof: Proof | None, now: float) -> None:
        """As ``Admission``; in one step from the socket's place to the call's."""
        number, key = self._next_number(), call_key(provider, call_id)
        has_left, self._to_leave = self._to_leave > 0, max(0, self._to_leave - 1)
        nonce, expires_at = proof or Proof(b"", 0.0)
        call = Begin(number, key, nonce, expires_at, now, has_left)
        self._arriving += 1
        try:
            await self._ask(call, Ended(key))
        finally:
            self._arriving -= 1
        self._calls[key] += 1

    def end(self, provider: str, call_id: str) -> None:
        """As ``Admission``."""
        key = call_key(provider, call_id)
        if self._calls.pop(key, 0):
            self._send(encode(Ended(key)))

    @property
    def is_waited_for(self) -> bool:
        """As ``Admission``."""
        return self._waiting + self._arriving > 0

    @property
    def calls(self) -> int:
        """As ``Admission``."""
        return len(self._calls)

    def answered(self, answer: Answer) -> None:
        """The front desk has spoken."""
        future, undo = self._asked.pop(answer.number, (None, None))
        if future is None:
            return
        if not future.done():
            future.set_result(answer)
        elif not answer.reason and undo is not None:
            # Nobody waits for it any more.
            self._send(encode(undo))

    def _refuse_in_drain(self) -> None:
        if self.is_draining:
            raise CallRejected("admission", "drain")

    def _next_number(self) -> int:
        if len(self._asked) >= MAX_ASKED:
            raise CallRejected("admission", "supervisor_timeout", "too many questions are open")
        self._last_number += 1
        return self._last_number

    async def _ask(self, question: Question, undo: Message | None) -> None:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[question.number] = (future, undo)
        self._send(encode(question))
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await future
        except (TimeoutError, asyncio.CancelledError) as error:
            self._give_back(future, undo)
            if isinstance(error, TimeoutError):
                raise CallRejected("admission", "supervisor_timeout") from None
            raise
        _raise_refusal(answer)

    def _give_back(self, future: asyncio.Future[Answer], undo: Message | None) -> None:
        """Answered and given up in the same moment: nobody will use what was granted."""
        is_granted = future.done() and not future.cancelled() and not future.result().reason
        if is_granted and undo is not None:
            self._send(encode(undo))


def _raise_refusal(answer: Answer) -> None:
    if answer.kind:
        raise AuthRejected(answer.kind)
    if answer.reason:
        raise CallRejected(answer.stage, answer.reason)


def call_key(provider: str, call_id: str) -> str:
    """A call's name on the channel: short however long a peer's id is, and no personal data."""
    return hashlib.sha256(f"{provider}\0{call_id}".encode("utf-8", "surrogatepass")).hexdigest()
