"""Every command does one thing, and every error is one line with the right exit code."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from gateway import __version__
from gateway.app import Running
from gateway.cli import BAD_INPUT, FAILED, main
from gateway.events import CallReady
from gateway.simulator.server import Simulator
from tests.running import (
    ROOT,
    Command,
    Facts,
    command,
    environ_for,
    free_port,
    happens,
    run_command,
    twilio_stream,
    url_of,
)

CALLER = str(ROOT / "tests" / "sounds" / "caller-short.wav")
SERVING = r"taking calls on 127\.0\.0\.1:(\d+), operations on 127\.0\.0\.1:(\d+)"
COMMANDS = ("serve", "demo", "call", "say", "simulator", "check", "bench")

Printed = pytest.CaptureFixture[str]
Gateway = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The command in this process, with an environment of its own; gives the exit code."""

    def run_here(*arguments: str, **environ: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gateway", *arguments])
        monkeypatch.setattr("os.environ", {"TERM": "dumb", "COLUMNS": "200", **environ})
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return run_here


# ------------------------------------------------------------- words


def test_help_names_every_command(run: Gateway, capsys: Printed) -> None:
    """One page, exit code 0."""
    assert run("--help") == 0
    printed = capsys.readouterr().out

    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(run: Gateway, capsys: Printed, name: str) -> None:
    """Each has a page of its own that says what it does."""
    assert run(name, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_version_is_one_line(run: Gateway, capsys: Printed) -> None:
    """For scripts."""
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("serve", "--prot", "80"),
        ("serve", "--port", "eighty"),
        ("call",),
        ("call", CALLER, "--calls", "0"),
        ("simulator", "--port", "70000"),
        ("bench", "--calls", "0"),
        ("bench", "--against", "http://not-a-socket"),
    ],
)
def test_a_wrong_argument_is_bad_input(
    run: Gateway, capsys: Printed, arguments: tuple[str, ...]
) -> None:
    """Exit code 2, words on standard error, nothing on the other."""
    assert run(*arguments) == BAD_INPUT
    printed = capsys.readouterr()

    assert printed.out == ""
    assert printed.err


# ------------------------------------------------------------- bad settings


def test_all_bad_settings_are_named_at_once(run: Gateway, capsys: Printed) -> None:
    """One line each, exit code 2, and no value: it may be a secret in the wrong place."""
    code = run(
        "serve",
        GATEWAY_PORT="canary-1",
        GATEWAY_MAX_CALLS="0",
        GATEWAY_DRIAN_S="5",
        AZURE_OPENAI_ENDPOINT="canary-2",
        AZURE_OPENAI_DEPLOYMENT_NAME="voice",
    )
    lines = capsys.readouterr().err.splitlines()

    assert code == BAD_INPUT
    assert len(lines) == 5
    assert all(line.startswith("gateway: ") for line in lines)
    for name in (
        "GATEWAY_PORT",
        "GATEWAY_MAX_CALLS",
        "GATEWAY_DRIAN_S",
        "AZURE_OPENAI_ENDPOINT",
        "TWILIO_AUTH_TOKEN",
    ):
        assert [line for line in lines if line.startswith(f"gateway: {name}: ")]
    assert "did you mean GATEWAY_DRAIN_S?" in str(lines)
    assert "canary" not in str(lines)


def test_serve_does_not_start_without_a_providers_secret(run: Gateway, capsys: Printed) -> None:
    """Fail closed, with the way out in the message."""
    assert run("serve", OPENAI_API_KEY="k") == BAD_INPUT
    assert "TWILIO_AUTH_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["serve", "check", "say"])
def test_a_configuration_that_is_not_there_is_named(
    run: Gateway, capsys: Printed, tmp_path: Path, name: str
) -> None:
    """Every command that reads settings says which file it could not read."""
    config = str(tmp_path / "nowhere.toml")
    words = ("hello",) if name == "say" else ()

    assert run(name, *words, "--config", config, OPENAI_API_KEY="k") == BAD_INPUT
    assert "nowhere.toml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("call", "nothing.wav"), "nothing.wav"),
        (("call", CALLER, "--provider", "vonage"), "--provider"),
    ],
)
def test_a_call_that_cannot_be_placed_is_bad_input(
    run: Gateway, capsys: Printed, arguments: tuple[str, ...], words: str
) -> None:
    """The file or the option is named, before anybody is called."""
    assert run(*arguments) == BAD_INPUT
    assert words in capsys.readouterr().err


def test_nobody_to_call_is_a_failure(run: Gateway, capsys: Printed) -> None:
    """Exit code 1: the input was fine, the world was not."""
    code = run("call", CALLER, "--url", f"http://127.0.0.1:{free_port()}")
    printed = capsys.readouterr()

    assert code == FAILED
    assert "refused (1): no answer" in printed.out
    assert printed.err == "gateway: not every call came to its end\n"


# ------------------------------------------------------------- commands that talk


@pytest.mark.xdist_group("cli")
async def test_say_writes_what_the_model_said(simulator: Simulator, tmp_path: Path) -> None:
    """One JSON object for scripts, a WAV beside it."""
    path = tmp_path / "answer.wav"
    done = await run_command("say", "hello", "--json", "--out", str(path), **environ_for(simulator))
    told = json.loads(done.out)

    assert (done.code, done.err) == (0, "")
    assert told["text"].startswith("Hello.")
    assert told["speech_s"] == pytest.approx(3.0, abs=0.1)
    assert path.stat().st_size > 100_000


@pytest.mark.xdist_group("cli")
async def test_check_tells_by_its_exit_code(simulator: Simulator) -> None:
    """0 for a set-up that will work, 1 for one that will not, without asking when offline."""
    good = environ_for(simulator)
    bad = good | {"AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    well, unwell, offline = await asyncio.gather(
        run_command("check", "--json", **good),
        run_command("check", **bad),
        run_command("check", "--offline", **bad),
    )

    assert (well.code, unwell.code, offline.code) == (0, FAILED, 0)
    assert json.loads(well.out)["is_well"] is True
    assert "BAD session: refused" in unwell.out
    assert len(simulator.sessions) == 1


@pytest.mark.xdist_group("cli")
async def test_call_reaches_a_running_gateway(gateway: Running, facts: Facts) -> None:
    """The figures of a call, as JSON, from a process of its own."""
    done = await run_command(
        "call", CALLER, "--url", url_of(gateway), "--hang-up-after-s", "0.5", "--json"
    )

    assert done.code == 0
    assert json.loads(done.out)["placed"] == 1
    assert len(facts.of(CallReady)) == 1


# ------------------------------------------------------------- commands that stay


async def _answer(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.text()


def _stop(started: Command) -> None:
    started.process.send_signal(signal.SIGTERM)


@pytest.mark.xdist_group("cli")
async def test_simulator_and_gateway_start_serve_and_stop() -> None:
    """Two processes as an operator starts them: a call goes through, SIGTERM ends both with 0."""
    async with command("simulator", "--port", "0") as model:
        (endpoint,) = await model.says(r"listens on (http://127\.0\.0\.1:\d+)")
        environ = {
            "AZURE_OPENAI_ENDPOINT": endpoint,
            "AZURE_OPENAI_DEPLOYMENT_NAME": "parrot",
            "AZURE_OPENAI_API_KEY": "not-a-secret",
            "GATEWAY_INSECURE": "1",
            "GATEWAY_HOST": "127.0.0.1",
        }
        async with command("serve", "--port", "0", "--ops-port", "0", **environ) as served:
            port, ops_port = await served.says(SERVING)
            ready = await _answer(f"http://127.0.0.1:{ops_port}/readyz")
            async with twilio_stream(f"http://127.0.0.1:{port}") as stream:
                await stream.start()
                first = await stream.socket.receive(timeout=10)
                await stream.stop()
                code = await stream.closed()
            _stop(served)
            stopped = await served.finish()
        _stop(model)
        ended = await model.finish()

    assert ready == (200, "ready\n")
    assert json.loads(first.data)["event"] == "media"
    assert code == 1000
    assert (stopped.code, ended.code) == (0, 0)
    assert '"reason":"caller_hangup"' in stopped.err.replace(" ", "")


@pytest.mark.xdist_group("cli")
async def test_a_stop_waits_for_the_caller_and_a_second_one_does_not(
    simulator: Simulator,
) -> None:
    """SIGTERM drains: not ready, nobody new, the call goes on; another one ends it at once."""
    environ = environ_for(simulator)
    async with command("serve", **environ) as served:
        port, ops_port = await served.says(SERVING)
        async with twilio_stream(f"http://127.0.0.1:{port}") as stream:
            await stream.start()
            await stream.socket.receive(timeout=10)
            _stop(served)
            statuses: list[int] = []
            while 503 not in statuses and len(statuses) < 500:
                statuses.append((await _answer(f"http://127.0.0.1:{ops_port}/readyz"))[0])
            await stream.speak(b"\x7f" * 160)
            still_there = served.process.returncode is None and simulator.active == 1
            _stop(served)
            await stream.closed()
        stopped = await served.finish()

    assert statuses[-1] == 503
    assert still_there
    assert stopped.code == 0
    assert await happens(lambda: simulator.active == 0, 2.0)


@pytest.mark.xdist_group("cli")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_that_is_taken_is_one_line(
    gateway: Running, simulator: Simulator, workers: str
) -> None:
    """No traceback: which address it is, and exit code 1."""
    environ = environ_for(simulator, GATEWAY_PORT=str(gateway.port))
    done = await run_command("serve", "--workers", workers, **environ)
    lines = [line for line in done.err.splitlines() if "warning" not in line]

    assert done.code == FAILED
    assert len(lines) == 1
    assert "address already in use" in lines[0].lower()
    assert str(gateway.port) in lines[0]


def test_a_fault_that_does_not_exist_is_bad_input(run: Gateway, capsys: Printed) -> None:
    """The simulator names the faults there are."""
    assert run("simulator", "--fault", "earthquake=9") == BAD_INPUT
    assert "no such fault" in capsys.readouterr().err
