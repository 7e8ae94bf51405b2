"""Places, call ids and tokens are counted for all workers, and no question waits for ever."""

import asyncio
from collections import Counter

import pytest
from hypothesis import settings as tuned
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.admission import Proof
from gateway.channel import MAX_MESSAGE_BYTES
from gateway.errors import AuthRejected, CallRejected
from gateway.frontdesk import (
    MAX_ASKED,
    Answer,
    Begin,
    Check,
    DeskAdmission,
    Ended,
    FrontDesk,
    Left,
    Message,
    Wait,
    encode,
    from_worker,
    to_worker,
)

NOW = 1_800_000_000.0
PROOF = Proof(b"n" * 16, NOW + 60)


class _Line:
    """A worker's admission and the desk, with every message in between in our hands."""

    def __init__(self, desk: FrontDesk, worker: int = 1, answer_s: float = 5.0) -> None:
        self._desk = desk
        self._worker = worker
        self.said: list[Message] = []
        self.is_cut = False
        self.late: list[Answer] = []
        self.while_asking = False
        self.admission = DeskAdmission(self._send, answer_s)

    def _send(self, raw: bytes) -> None:
        said = from_worker(raw)
        self.said.append(said)
        if isinstance(said, Left):
            self._desk.leave(self._worker)
        elif isinstance(said, Ended):
            self._desk.end(self._worker, said.key)
        elif isinstance(said, Check | Wait | Begin):
            self.while_asking = self.admission.is_waited_for
            answer = self._desk.decide(self._worker, said)
            if self.is_cut:
                self.late.append(answer)
            else:
                self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        heard = to_worker(encode(answer))
        assert isinstance(heard, Answer)
        asyncio.get_running_loop().call_soon(self.admission.answered, heard)

    def deliver_late(self) -> None:
        """What was held back comes after all."""
        while self.late:
            self.admission.answered(self.late.pop(0))


async def _reason(line: _Line, call_id: str, proof: Proof | None = None) -> str:
    try:
        await line.admission.begin("twilio", call_id, proof, NOW)
    except AuthRejected as rejected:
        return rejected.kind
    except CallRejected as rejected:
        return rejected.reason
    return ""


# ------------------------------------------------------------- several workers


async def test_what_one_worker_holds_the_other_cannot_have() -> None:
    """Places, call ids and tokens: all are refused at the second worker, and free again later."""
    desk = FrontDesk(2)
    one, two = _Line(desk, 1), _Line(desk, 2)
    await one.admission.wait()
    await two.admission.wait()
    with pytest.raises(CallRejected, match="capacity"):
        await two.admission.check()
    one.admission.stop_waiting()
    assert await _reason(one, "CA1", PROOF) == ""
    two.admission.stop_waiting()
    assert await _reason(two, "CA1") == "duplicate_call"
    assert await _reason(two, "CA2", PROOF) == "replay"
    assert (desk.calls, one.admission.calls, two.admission.calls) == (1, 1, 0)
    one.admission.end("twilio", "CA1")
    one.admission.end("twilio", "CA1")

    assert await _reason(two, "CA1") == ""
    assert desk.calls_of(2) == 1


async def test_a_socket_and_its_call_change_places_in_one_step() -> None:
    """Nobody gets in between: one message frees the waiting place and takes the call's."""
    desk = FrontDesk(1)
    line = _Line(desk)
    await line.admission.wait()
    line.admission.stop_waiting()
    before = line.admission.is_waited_for
    assert await _reason(line, "CA1") == ""
    began = [said for said in line.said if isinstance(said, Begin)]

    assert [said.has_left for said in began] == [True]
    assert not [said for said in line.said if isinstance(said, Left)]
    assert (before, line.while_asking, line.admission.is_waited_for) == (False, True, False)
    assert desk.calls == 1


async def test_the_dead_leave_their_places() -> None:
    """Waiting sockets and calls of a worker that died are free at once; others keep theirs."""
    desk = FrontDesk(3)
    one, two = _Line(desk, 1), _Line(desk, 2)
    await one.admission.wait()
    assert await _reason(one, "CA1") == await _reason(two, "CA2") == ""
    assert desk.forget(1) == 1
    assert desk.forget(1) == 0

    assert await _reason(two, "CA1") == ""
    await two.admission.wait()
    with pytest.raises(CallRejected, match="capacity"):
        await two.admission.check()


async def test_the_desk_knows_who_has_which_call() -> None:
    """By the worker, until the call has ended; sockets that wait are a part of its load."""
    desk = FrontDesk(3)
    line = _Line(desk)
    await line.admission.wait()
    assert await _reason(line, "CA1") == ""
    assert (desk.calls_of(1), desk.load_of(1), desk.load_of(2)) == (1, 2, 0)
    assert [desk.has(1, "twilio", "CA1"), desk.has(2, "twilio", "CA1")] == [True, False]
    assert not desk.has(1, "asterisk", "CA1")
    desk.check()
    assert await _reason(line, "CA2") == ""
    with pytest.raises(CallRejected, match="capacity"):
        desk.check()
    line.admission.end("twilio", "CA1")

    assert not desk.has(1, "twilio", "CA1")


async def test_a_drain_is_known_on_both_sides() -> None:
    """The desk says so to those who do not know yet, and a worker that knows does not ask."""
    desk = FrontDesk(3)
    line = _Line(desk)
    desk.drain()
    with pytest.raises(CallRejected, match="drain"):
        await line.admission.wait()
    asked = len(line.said)
    line.admission.is_draining = True
    for question in (line.admission.check(), line.admission.wait()):
        with pytest.raises(CallRejected, match="drain"):
            await question

    assert len(line.said) == asked


# ------------------------------------------------------------- no answer


async def test_no_answer_is_a_refusal_and_a_late_one_is_given_back() -> None:
    """Nobody waits longer than the limit, and no place stays taken for nobody."""
    desk = FrontDesk(2)
    line = _Line(desk, answer_s=0.01)
    line.is_cut = True
    with pytest.raises(CallRejected) as refused:
        await line.admission.wait()
    assert await _reason(line, "CA1") == "supervisor_timeout"
    held = desk.calls
    line.deliver_late()

    assert (refused.value.stage, refused.value.reason) == ("admission", "supervisor_timeout")
    assert held == 1
    assert desk.calls == 0
    assert not line.admission.is_waited_for
    line.is_cut = False
    await line.admission.wait()
    assert await _reason(line, "CA1") == ""


async def test_who_leaves_in_the_moment_of_the_answer_gives_it_back() -> None:
    """Granted and cancelled in one turn of the loop: the place is free."""
    desk = FrontDesk(1)
    line = _Line(desk)
    line.is_cut = True
    waiting = asyncio.create_task(line.admission.wait())
    await asyncio.sleep(0)
    line.deliver_late()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    line.is_cut = False
    await line.admission.wait()
    assert line.admission.is_waited_for


async def test_questions_do_not_pile_up() -> None:
    """A supervisor that is stuck costs a bounded list, and the socket's place is not forgotten."""
    desk = FrontDesk(2 * MAX_ASKED)
    line = _Line(desk)
    await line.admission.wait()
    line.is_cut = True
    asked = [asyncio.create_task(line.admission.wait()) for _ in range(MAX_ASKED)]
    await asyncio.sleep(0)
    line.admission.stop_waiting()
    assert await _reason(line, "CA1") == "supervisor_timeout"
    await asyncio.sleep(0)

    assert [said for said in line.said if isinstance(said, Left)] == [Left()]
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_messages_are_short_whatever_a_peer_calls_its_call() -> None:
    """A call id of 64 KiB, or no text at all, is a message like any other and no personal data."""
    line = _Line(FrontDesk(5))
    for call_id in ("x" * 65536, "\ud800", "\0" * 1000, ""):
        assert await _reason(
            line, call_id, PROOF._replace(nonce=call_id.encode("utf-8", "replace")[:16])
        ) in {"", "replay"}

    assert max(len(encode(said)) for said in line.said) < MAX_MESSAGE_BYTES / 10


# ------------------------------------------------------------- any order


class Desk(RuleBasedStateMachine):
    """Two workers that come, go and die in any order, against plain counting."""

    LIMIT = 4

    def __init__(self) -> None:
        super().__init__()
        self.desk = FrontDesk(self.LIMIT)
        self.waiting: Counter[int] = Counter()
        self.calls: dict[str, int] = {}

    @property
    def taken(self) -> int:
        """Places that should be taken."""
        return self.waiting.total() + len(self.calls)

    @rule(worker=st.integers(1, 2))
    def wait(self, worker: int) -> None:
        """A socket comes; it is let in exactly when there is room."""
        answer = self.desk.decide(worker, Wait(1))
        assert answer.reason == ("" if self.taken < self.LIMIT else "capacity")
        self.waiting[worker] += not answer.reason

    @precondition(lambda self: self.waiting.total() > 0)
    @rule(data=st.data(), key=st.sampled_from("abcdef"), goes=st.booleans())
    def speak(self, data: st.DataObject, key: str, *, goes: bool) -> None:
        """A socket leaves, or says which call it is: one that runs is refused everywhere."""
        worker = data.draw(st.sampled_from(sorted(self.waiting.elements())))
        self.waiting[worker] -= 1
        if goes:
            self.desk.leave(worker)
            return
        answer = self.desk.decide(worker, Begin(1, key, b"", 0.0, NOW, has_left=True))
        assert answer.reason == ("duplicate_call" if key in self.calls else "")
        self.calls.setdefault(key, worker)

    @rule(worker=st.integers(1, 2), key=st.sampled_from("abcdef"))
    def end(self, worker: int, key: str) -> None:
        """A call ends; nobody can end another worker's."""
        self.desk.end(worker, key)
        if self.calls.get(key) == worker:
            del self.calls[key]

    @rule(worker=st.integers(1, 2))
    def die(self, worker: int) -> None:
        """All of it is free."""
        assert self.desk.forget(worker) == list(self.calls.values()).count(worker)
        del self.waiting[worker]
        self.calls = {key: owner for key, owner in self.calls.items() if owner != worker}

    @invariant()
    def counts_match(self) -> None:
        """The desk knows what is taken."""
        assert self.desk.calls == len(self.calls)
        full = self.desk.decide(3, Check(1)).reason == "capacity"
        assert full == (self.taken >= self.LIMIT)


TestDesk = Desk.TestCase
TestDesk.settings = tuned(max_examples=60, stateful_step_count=30)
