"""Several processes are one gateway: to callers, to the operator, and when one of them dies."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from twilio.request_validator import RequestValidator

from gateway import workers
from gateway.channel import channel_pair
from gateway.errors import AudioFileError
from gateway.frontdesk import Begin, Ended, FromWorker, Opened, encode
from gateway.settings import load_settings
from gateway.simulator.server import Simulator
from gateway.tally import FOLDER_VARIABLE
from gateway.workers import (
    DEATHS_WITHIN_S,
    MAX_DEATHS,
    Crew,
    Deaths,
    WorkersFailed,
    claim_port,
    open_workers,
)
from tests.running import (
    TWILIO_TOKEN,
    Listening,
    Stream,
    children_of,
    command,
    environ_for,
    free_port,
    happens,
    metric,
    ops_url_of,
    secrets_for,
    settings_for,
    twilio_stream,
    url_of,
)

pytestmark = pytest.mark.xdist_group("workers")

SERVING = r"taking calls on 127\.0\.0\.1:(\d+), operations on 127\.0\.0\.1:(\d+)"
# So many calls that neither worker has none: see ``listener.SLACK``.
BOTH = 6
ACTIVE = 'gateway_calls_active{agent="default",provider="twilio"}'


def _sid(number: int) -> str:
    return f"CA{number:032d}"


@asynccontextmanager
async def _two_workers(simulator: Simulator, **changes: str) -> AsyncIterator[Crew]:
    settings = settings_for(simulator, **({"GATEWAY_WORKERS": "2"} | changes))
    with capture_logs():
        async with open_workers(settings) as crew:
            yield crew


async def _calls(stack: AsyncExitStack, running: Listening, count: int) -> list[Stream]:
    """So many calls that have begun, one after the other."""
    streams = []
    for number in range(count):
        stream = await stack.enter_async_context(twilio_stream(url_of(running), _sid(number)))
        await stream.start()
        streams.append(stream)
    begun = await _metric_becomes(running, ACTIVE, count)
    assert begun
    return streams


async def _has_ended(stream: Stream, within_s: float = 5.0) -> bool:
    """Whether the other side is gone; a call that goes on sends audio or marks all the time."""
    try:
        await stream.closed(within_s)
    except TimeoutError:
        return False
    return True


async def _metric_becomes(running: Listening, line: str, value: float) -> bool:
    until = time.monotonic() + 8
    while await metric(running, line) != value:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.05)
    return True


async def _answer(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.text()


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _folder_of(pid: int) -> str:
    """Where a worker counts."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    name = f"{FOLDER_VARIABLE}="
    return next(each.removeprefix(name) for each in environ if each.startswith(name))


def _exists(folder: str) -> bool:
    return Path(folder).is_dir()


# ------------------------------------------------------------- one that dies


async def test_calls_whose_end_a_dead_worker_had_told_are_not_lost(simulator: Simulator) -> None:
    """However much of what it said still lay unread when it died, only what went on is lost."""
    crew = Crew(settings_for(simulator, GATEWAY_WORKERS="2"), 0)
    ours, theirs = channel_pair()
    dead = await asyncio.create_subprocess_exec("true")
    worker = crew._enter(dead, ours)
    await dead.wait()
    keys = [f"call {number}" for number in range(40)]
    said: list[FromWorker] = [
        Opened(),
        *(Begin(n, key, b"", 0.0, 0.0, has_left=False) for n, key in enumerate(keys)),
    ]
    said += [Ended(key) for key in keys[1:]]
    with theirs:
        for each in said:
            theirs.send(encode(each))
    try:
        assert crew._bury(worker) == 1
        assert (crew.calls, list(crew._pids())) == (0, [])
    finally:
        await crew.stop()


async def test_a_dead_worker_takes_its_own_calls_only_and_is_replaced(
    simulator: Simulator,
) -> None:
    """SIGKILL in mid-call: its callers are cut off, the others are not, nothing is forgotten."""
    async with _two_workers(simulator) as crew, AsyncExitStack() as stack:
        streams = await _calls(stack, crew, BOTH)
        victim, survivor = (crew._desk.calls_of(pid) for pid in crew._pids())
        carried = 'gateway_calls_started_total{agent="default",provider="twilio"}'
        before = (await metric(crew, carried), await metric(crew, ACTIVE))
        os.kill(next(iter(crew._pids())), signal.SIGKILL)
        replaced = await _metric_becomes(crew, "gateway_worker_restarts_total", 1)
        ended = [await _has_ended(stream, 0.2) for stream in streams]
        after = (await metric(crew, carried), await metric(crew, ACTIVE))
        lost = await metric(
            crew, 'gateway_calls_ended_total{reason="internal_error",result="server_error"}'
        )
        both_again = await _metric_becomes(crew, "gateway_workers", 2)
        # The dead one's call ids are free again, and there is room.
        again = 0
        for number in range(BOTH):
            if ended[number]:
                retry = await stack.enter_async_context(twilio_stream(url_of(crew), _sid(number)))
                await retry.start()
                await retry.socket.receive(timeout=10)
                again += 1

    assert victim > 0
    assert survivor > 0
    assert replaced
    assert ended.count(True) == victim
    assert (before, after) == ((BOTH, BOTH), (BOTH, survivor))
    assert lost == victim
    assert both_again
    assert again == victim


async def test_a_worker_that_does_nothing_is_dead(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alive for the kernel, which still gives it calls: it is killed, and replaced."""
    monkeypatch.setattr(workers, "HUNG_S", 1.0)
    async with _two_workers(simulator) as crew:
        hung = next(iter(crew._pids()))
        os.kill(hung, signal.SIGSTOP)
        assert await _metric_becomes(crew, "gateway_worker_restarts_total", 1)
        assert not _is_alive(hung)


async def test_workers_that_cannot_start_are_an_error(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash loop ends, with one line that says so."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkersFailed, match=f"died {MAX_DEATHS} times within"):
        async with _two_workers(simulator):
            pytest.fail("there is nobody to take calls")


async def test_a_crash_loop_ends_the_gateway_with_an_error(simulator: Simulator) -> None:
    """One worker dies again and again: the others' calls may end, then exit code 1 and one line."""
    async with command("serve", "--workers", "2", **environ_for(simulator)) as served:
        await served.says(SERVING)
        stays = children_of(served.process.pid)[0]
        until = time.monotonic() + 8
        while served.process.returncode is None and time.monotonic() < until:
            for pid in children_of(served.process.pid):
                if pid != stays:
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
        stopped = await served.finish(5)

    assert stopped.code == 1
    assert stopped.err.count("worker_died") == MAX_DEATHS
    assert stopped.err.splitlines()[-1].startswith("gateway: workers died as fast as")
    assert not _is_alive(stays)


async def test_a_fault_of_the_supervisors_own_is_not_silent(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that nobody keeps any more is a failure, not a gateway with one worker less."""

    async def break_down(_: Crew) -> None:
        await asyncio.sleep(0)
        raise RuntimeError

    monkeypatch.setattr(Crew, "_one_life", break_down)
    with pytest.raises(WorkersFailed):
        async with _two_workers(simulator):
            pytest.fail("there is nobody to take calls")


@given(st.lists(st.floats(0, 40), max_size=40))
def test_only_deaths_close_together_are_a_crash_loop(gaps_s: list[float]) -> None:
    """The pause grows while they come fast, and the end comes with the fifth in 30 s."""
    deaths, now = Deaths(), 0.0
    times: list[float] = []
    for gap_s in gaps_s:
        now += gap_s
        times = [at for at in times if at > now - DEATHS_WITHIN_S] + [now]
        pause_s = deaths.note(now)

        assert (pause_s is None) == (len(times) >= MAX_DEATHS)
        assert pause_s is None or pause_s == (0, 0.25, 0.5, 1.0)[len(times) - 1]


async def test_workers_do_not_outlive_their_supervisor(simulator: Simulator) -> None:
    """SIGKILL leaves it no time to say anything: they notice, and clear up behind it."""
    async with command("serve", "--workers", "2", **environ_for(simulator)) as served:
        await served.says(SERVING)
        crew = children_of(served.process.pid)
        folder = _folder_of(crew[0])
        was_there = _exists(folder)
        served.process.kill()
        assert await happens(lambda: not any(map(_is_alive, crew)))

    assert len(crew) == 2
    assert was_there
    assert not _exists(folder)


# ------------------------------------------------------------- who may come in


async def test_call_ids_and_places_are_counted_over_all_workers(simulator: Simulator) -> None:
    """A running call is refused wherever it comes in again; so is one call more than may be."""
    async with (
        _two_workers(simulator, GATEWAY_MAX_CALLS=str(BOTH + 1)) as crew,
        AsyncExitStack() as stack,
    ):
        streams = await _calls(stack, crew, BOTH)
        held = [crew._desk.calls_of(pid) for pid in crew._pids()]
        codes = []
        for _ in range(4):
            async with twilio_stream(url_of(crew), _sid(0)) as double:
                await double.start()
                codes.append(await double.closed())
        extra = await stack.enter_async_context(twilio_stream(url_of(crew), _sid(BOTH)))
        await extra.start()
        await extra.socket.receive(timeout=10)
        media = f"{url_of(crew)}/twilio/media"
        full = [(await _upgrade_status(media)) for _ in range(4)]
        await streams[0].stop()
        await streams[0].closed()
        assert await happens(lambda: crew.calls == BOTH)
        room = await _upgrade_status(media)

    assert all(held)
    assert codes == [1008] * 4
    assert full == [503] * 4
    assert room == 101


async def _upgrade_status(url: str) -> int:
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(url):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


async def test_a_token_is_good_at_every_worker_and_once_at_all_of_them(
    simulator: Simulator,
) -> None:
    """Minted by one, taken by any; used at one, a replay at each."""
    port = free_port()
    public_url = f"http://127.0.0.1:{port}"
    secrets = secrets_for(public_url) | {"GATEWAY_PORT": str(port)}
    headers = {"X-Twilio-Signature": _signature(f"ws://127.0.0.1:{port}/twilio/media", {})}
    async with _two_workers(simulator, **secrets) as crew, AsyncExitStack() as stack:
        for number in range(BOTH):
            parameters = {"token": await _token(public_url, _sid(number))}
            stream = await stack.enter_async_context(
                twilio_stream(public_url, _sid(number), parameters, headers)
            )
            await stream.start()
            await stream.socket.receive(timeout=10)
        held = [crew._desk.calls_of(pid) for pid in crew._pids()]
        codes = []
        for _ in range(4):
            async with twilio_stream(public_url, _sid(BOTH - 1), parameters, headers) as replay:
                await replay.start()
                codes.append(await replay.closed())
        # The files of workers are read, not asked: what they count is there at once.
        replays = await metric(crew, 'gateway_auth_failures_total{kind="replay"}')

    assert sum(held) == BOTH
    assert all(held)
    assert codes == [1008] * 4
    assert replays == 4


def _signature(url: str, form: dict[str, str]) -> str:
    return str(RequestValidator(TWILIO_TOKEN).compute_signature(url, form))


async def _token(public_url: str, call_sid: str) -> str:
    form = {"CallSid": call_sid, "From": "+15550100001", "To": "+15550100002", "AccountSid": "AC1"}
    url = f"{public_url}/twilio/voice"
    headers = {"X-Twilio-Signature": _signature(url, form)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form, headers=headers) as reply,
    ):
        root = ET.fromstring(await reply.text())  # noqa: S314  # our own answer
    return next(each.get("value", "") for each in root.iter() if each.get("name") == "token")


def _has_calls(crew: Crew, calls: int) -> bool:
    return crew.calls == calls


async def test_calls_are_spread_evenly(simulator: Simulator) -> None:
    """The kernel tosses a coin, which may well give 26 of 40 to one; the workers even it out."""
    async with _two_workers(simulator) as crew, AsyncExitStack() as stack:
        for number in range(40):
            stream = await stack.enter_async_context(twilio_stream(url_of(crew), _sid(number)))
            await stream.start()
            # Evened out by what the workers know: one call after the other, not a burst.
            assert await happens(partial(_has_calls, crew, number + 1))
        held = [crew._desk.calls_of(pid) for pid in crew._pids()]

    assert max(held) - min(held) <= 6


# ------------------------------------------------------------- the operator's view


async def test_one_page_tells_of_all_workers(simulator: Simulator) -> None:
    """Every series of a process alone is there from the start, once, with no label of a worker."""
    tokens = {"GATEWAY_CONSOLE_TOKEN": "o" * 32, "GATEWAY_CONSOLE_VIEW_TOKEN": "v" * 32}
    async with _two_workers(simulator, GATEWAY_MAX_CALLS="77", **tokens) as crew:
        refused = await _erase_as_a_viewer(crew)
        status, page = await _answer(f"{ops_url_of(crew)}/metrics")
        ready = await _answer(f"{ops_url_of(crew)}/readyz")
        alive = await _answer(f"{ops_url_of(crew)}/livez")
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    names = [line.rpartition(" ")[0] for line in lines]

    assert refused == 403
    assert (status, ready, alive) == (200, (200, "ready\n"), (200, "alive\n"))
    assert len(names) == len(set(names))
    assert 'pid="' not in page
    for line in (
        *("gateway_workers 2.0", "gateway_worker_restarts_total 0.0", "gateway_ready 1.0"),
        *("gateway_calls_limit 77.0", "gateway_insecure_mode 1.0", "gateway_draining 0.0"),
        'gateway_console_refused_total{reason="role"} 1.0',
    ):
        assert line in lines


async def _erase_as_a_viewer(crew: Crew) -> int:
    headers = {"Authorization": f"Bearer {'v' * 32}"}
    async with (
        aiohttp.ClientSession(ops_url_of(crew), headers=headers) as session,
        session.delete("/console/calls/x") as reply,
    ):
        return reply.status


async def test_a_stop_drains_all_workers_and_a_second_one_does_not_wait(
    simulator: Simulator,
) -> None:
    """Nobody new anywhere, calls go on; Ctrl-C reaches workers too and means nothing to them."""
    async with command("serve", "--workers", "2", **environ_for(simulator)) as served:
        port, ops_port = map(int, await served.says(SERVING))
        url = f"http://127.0.0.1:{port}"
        async with AsyncExitStack() as stack:
            streams = await _calls(stack, _At(port, ops_port), BOTH)
            crew = children_of(served.process.pid)
            for pid in (*crew, served.process.pid):
                os.kill(pid, signal.SIGINT)
            await served.says("draining")
            ready, _ = await _answer(f"http://127.0.0.1:{ops_port}/readyz")
            refused = [await _upgrade_status(f"{url}/twilio/media") for _ in range(4)]
            for stream in streams:
                await stream.speak(b"\x7f" * 160)
            going_on = [not await _has_ended(stream, 0.1) for stream in streams]
            served.process.send_signal(signal.SIGTERM)
            stopped = await served.finish(8)
    ends = stopped.err.count('"event": "call_ended"')

    assert ready == 503
    assert refused == [503] * 4
    assert all(going_on)
    assert stopped.code == 0
    assert ends == BOTH
    assert not any(map(_is_alive, crew))


class _At:
    """A gateway in other processes."""

    def __init__(self, port: int, ops_port: int) -> None:
        self.port = port
        self.ops_port = ops_port


async def test_a_drain_is_over_when_the_last_caller_has_left(simulator: Simulator) -> None:
    """On whichever worker: those without calls end first, the goodbye is said by each."""
    async with _two_workers(simulator) as crew, AsyncExitStack() as stack:
        streams = await _calls(stack, crew, BOTH)
        draining = asyncio.create_task(crew.drain(30.0))
        for stream in streams[:-1]:
            await stream.stop()
            await stream.closed()
        assert await happens(lambda: crew.calls == 1)
        still_there = not draining.done()
        await streams[-1].stop()
        await streams[-1].closed()
        await asyncio.wait_for(draining, 5)

        assert still_there
        assert not list(crew._pids())
        counted = 'gateway_calls_ended_total{reason="caller_hangup",result="success"}'
        assert await metric(crew, counted) == BOTH
        assert await metric(crew, "gateway_draining") == 1
        assert await metric(crew, "gateway_workers") == 0


async def test_a_drain_that_runs_out_of_patience_says_goodbye_everywhere(
    simulator: Simulator,
) -> None:
    """At the deadline every call ends with the reason drain, and the crew is gone."""
    async with _two_workers(simulator) as crew, AsyncExitStack() as stack:
        streams = await _calls(stack, crew, BOTH)
        await asyncio.wait_for(
            asyncio.gather(crew.drain(0.0), *(stream.closed(15) for stream in streams)), 15
        )
        counted = 'gateway_calls_ended_total{reason="drain",result="success"}'
        assert await metric(crew, counted) == BOTH


# ------------------------------------------------------------- opening


async def test_what_would_end_every_worker_is_found_before_the_first(
    simulator: Simulator, tmp_path: Path
) -> None:
    """A recording that cannot be used is one clear error, not a crash loop."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    with pytest.raises(AudioFileError, match=r"broken\.wav"):
        async with _two_workers(simulator, GATEWAY_APOLOGY_FILE=str(broken)):
            pytest.fail("opened")


def test_a_port_is_shared_with_nobody_but_our_own_workers() -> None:
    """A port of another gateway is taken, although the kernel would let us share it."""
    with claim_port("127.0.0.1", 0) as ours:
        port = ours.getsockname()[1]
        with claim_port("127.0.0.1", port) as again:
            again.listen()
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
                claim_port("127.0.0.1", port)
    with pytest.raises(OSError, match=r"cannot listen on no-such-host\.invalid"):
        claim_port("no-such-host.invalid", 8080)


def test_workers_get_the_settings_and_read_nothing() -> None:
    """What the supervisor was told, secrets and all; files and variables may have changed since."""
    environ = {
        "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com",
        "AZURE_OPENAI_DEPLOYMENT_NAME": "voice",
        "AZURE_OPENAI_API_KEY": "canary",
        "TWILIO_AUTH_TOKEN": "one,two",
        "GATEWAY_PUBLIC_URL": "https://voice.example.com",
        "GATEWAY_WORKERS": "3",
    }
    settings = load_settings(environ)
    again = type(settings)(**settings.for_worker())

    assert again == settings
    assert again.twilio_auth_tokens == ("one", "two")
