"""A worker does what its supervisor says, and is gone when there is none."""

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway import worker
from gateway.channel import Channel, channel_pair
from gateway.errors import GatewayError
from gateway.frontdesk import (
    Answer,
    Beat,
    Begin,
    Check,
    Drain,
    Ended,
    Fair,
    FromWorker,
    Handed,
    Left,
    Opened,
    Stop,
    ToWorker,
    Wait,
    encode,
    from_worker,
)
from gateway.simulator.server import Simulator
from gateway.tally import FOLDER_VARIABLE
from gateway.worker import Orders, SupervisorLost, read_orders, work
from tests.running import free_port, happens, run_command, settings_for, twilio_stream

ORDERS = Orders({"port": 1}, 7, 8080, b"k" * 32, 1)


@dataclass
class Supervisor:
    """The other end, in the hands of a test: says yes to everything unless told otherwise."""

    port: int
    heard: list[FromWorker] = field(default_factory=list)
    handed: list[socket.socket] = field(default_factory=list)
    refusal: str = ""
    channel: Channel | None = None
    working: asyncio.Task[None] | None = None

    def received(self, message: bytes, handed: socket.socket | None) -> None:
        """Note what the worker says, and answer its questions."""
        said = from_worker(message)
        self.heard.append(said)
        if handed is not None:
            self.handed.append(handed)
        if isinstance(said, Check | Wait | Begin):
            self.say(Answer(said.number, "admission", self.refusal))

    def say(self, told: ToWorker, handed: socket.socket | None = None) -> None:
        """Tell the worker."""
        assert self.channel is not None
        self.channel.send(encode(told), handed)

    def of(self, kind: type[FromWorker]) -> list[FromWorker]:
        """What the worker said of this kind."""
        return [said for said in self.heard if isinstance(said, kind)]

    @property
    def url(self) -> str:
        """Where the worker listens."""
        return f"http://127.0.0.1:{self.port}"

    async def ended(self) -> BaseException | None:
        """How the worker's work ended."""
        assert self.working is not None
        await asyncio.wait({self.working}, timeout=10)
        return self.working.exception()


@asynccontextmanager
async def _working(simulator: Simulator, pid: int = 0) -> AsyncIterator[Supervisor]:
    """A worker in this process, with a supervisor in the hands of the test, by that process id."""
    ours, theirs = channel_pair()
    supervisor = Supervisor(free_port())
    supervisor.channel = Channel(ours, supervisor.received, lambda: None)
    orders = Orders({}, theirs.detach(), supervisor.port, b"k" * 32, pid)
    with capture_logs():
        supervisor.working = asyncio.create_task(work(orders, settings_for(simulator)))
        try:
            assert await happens(lambda: bool(supervisor.of(Opened)))
            yield supervisor
        finally:
            supervisor.channel.close()
            with suppress(SupervisorLost):
                await supervisor.working
            for each in supervisor.handed:
                each.close()


@pytest.fixture
async def supervisor(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    """The same; what ends a lonely process must not end the tests'."""
    monkeypatch.setattr(worker, "_leave_at_once", lambda: None)
    async with _working(simulator) as supervised:
        yield supervised


async def test_a_call_is_asked_for_and_given_back(supervisor: Supervisor) -> None:
    """A place for the socket, a place for the call, the end: each told once."""
    async with twilio_stream(supervisor.url) as stream:
        await stream.start()
        await stream.socket.receive(timeout=10)
        await stream.stop()
        assert await stream.closed() == 1000
    (begun,) = supervisor.of(Begin)
    assert isinstance(begun, Begin)

    assert len(supervisor.of(Wait)) == 1
    assert begun.has_left
    assert supervisor.of(Ended) == [Ended(begun.key)]
    assert supervisor.of(Left) == []
    assert supervisor.of(Beat)


async def test_a_refusal_is_the_callers_answer(supervisor: Supervisor) -> None:
    """The front desk's no reaches the provider; a socket that says nothing gives its place back."""
    async with twilio_stream(supervisor.url) as stream:
        supervisor.refusal = "duplicate_call"
        await stream.start()
        assert await stream.closed() == 1008
    supervisor.refusal = ""
    async with twilio_stream(supervisor.url):
        pass

    assert await happens(lambda: len(supervisor.of(Left)) == 1)
    assert supervisor.of(Ended) == []


async def test_connections_beyond_the_share_go_to_the_supervisor(supervisor: Supervisor) -> None:
    """And what the supervisor hands on is served, whoever has most."""
    supervisor.say(Fair(-10))
    async with AsyncExitStack() as stack:
        while not supervisor.handed:
            _, writer = await asyncio.open_connection("127.0.0.1", supervisor.port)
            stack.callback(writer.close)
            await asyncio.sleep(0.01)
        held = len(supervisor.handed)
        assert isinstance(supervisor.of(Handed)[-1], Handed)
        reader, writer = await asyncio.open_connection("127.0.0.1", supervisor.port)
        stack.callback(writer.close)
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await happens(lambda: len(supervisor.handed) == held + 1)
        supervisor.say(Handed(0), supervisor.handed.pop())
        status = await asyncio.wait_for(reader.readline(), 5)

    assert status.startswith(b"HTTP/1.1 404")


async def test_a_drain_ends_the_work_with_the_last_call(supervisor: Supervisor) -> None:
    """Told twice it is the same drain."""
    async with twilio_stream(supervisor.url) as stream:
        await stream.start()
        await stream.socket.receive(timeout=10)
        supervisor.say(Drain(30.0))
        supervisor.say(Drain(0.0))
        assert supervisor.working is not None
        done, _ = await asyncio.wait({supervisor.working}, timeout=0.3)
        await stream.stop()
        await stream.closed()

    assert not done
    assert await supervisor.ended() is None


async def test_a_stop_waits_for_nobody(supervisor: Supervisor) -> None:
    """The call is ended at once."""
    async with twilio_stream(supervisor.url) as stream:
        await stream.start()
        await stream.socket.receive(timeout=10)
        supervisor.say(Stop())
        assert await supervisor.ended() is None
        await stream.closed()


async def test_a_worker_without_its_supervisor_ends(supervisor: Supervisor) -> None:
    """The line breaks, as it does when the supervisor is killed: an error, and no call goes on."""
    async with twilio_stream(supervisor.url) as stream:
        await stream.start()
        await stream.socket.receive(timeout=10)
        assert supervisor.channel is not None
        supervisor.channel.close()
        assert isinstance(await supervisor.ended(), SupervisorLost)
        await stream.closed()


def test_orders_are_read_from_standard_input() -> None:
    """All of them, or an error that says who starts workers."""
    raw = msgspec.json.encode(ORDERS)

    assert read_orders(io.BytesIO(raw)) == ORDERS
    for other in (b"", raw[:-1], b"\xff", b"{}"):
        with pytest.raises(GatewayError, match="gateway serve --workers"):
            read_orders(io.BytesIO(other))


@pytest.mark.xdist_group("cli")
async def test_nobody_starts_a_worker_by_hand() -> None:
    """One line and exit code 1; the help does not mention it."""
    by_hand, shown = await asyncio.gather(run_command("worker"), run_command("--help"))

    assert by_hand.code == 1
    assert by_hand.err.splitlines() == [
        "gateway: gateway worker is started by gateway serve --workers only"
    ]
    assert "worker " not in shown.out


@pytest.mark.parametrize("is_alive", [False, True])
async def test_the_folder_of_all_is_cleared_for_the_dead_only(
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_alive: bool,  # noqa: FBT001  # a parameter
) -> None:
    """A line that broke says nothing of the supervisor, whose other workers count on it."""
    monkeypatch.setattr(worker, "_leave_at_once", lambda: None)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    async with _working(simulator, os.getppid() if is_alive else 0):
        pass

    assert (tmp_path / "run").exists() == is_alive
