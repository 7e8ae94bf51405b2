"""The sub-commands, one thin function each."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer

from gateway import __version__, logs
from gateway.errors import AudioFileError, GatewayError, SettingsError, TapeError
from gateway.garbage import leave_alone_what_lasts
from gateway.settings import Settings, load_settings
from gateway.terminal import Terminal

_Value = TypeVar("_Value")

cli = typer.Typer(
    name="gateway",
    help="Puts a speech-to-speech model on a telephone line.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]
Config = Annotated[Path | None, typer.Option("--config", help="The gateway.toml to read.")]

# Exit codes: bad settings or arguments; anything else that went wrong.
BAD_INPUT, FAILED = 2, 1


def main() -> None:
    """The ``gateway`` command: every error is one line, bad input exits with 2."""
    try:
        cli()
    except SettingsError as error:
        _leave(BAD_INPUT, *error.problems)
    except (AudioFileError, TapeError) as error:
        _leave(BAD_INPUT, str(error))
    except GatewayError as error:
        _leave(FAILED, str(error))
    except OSError as error:
        _leave(FAILED, f"{error.strerror or error}")


def _leave(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(f"gateway: {line}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": list(lines)}, indent=2))
    raise SystemExit(code)


@cli.callback(invoke_without_command=True)
def _gateway(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@cli.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Public address (GATEWAY_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Public port (GATEWAY_PORT).")] = None,
    ops_host: Annotated[
        str | None, typer.Option(help="Operations address (GATEWAY_OPS_HOST).")
    ] = None,
    ops_port: Annotated[
        int | None, typer.Option(help="Operations port (GATEWAY_OPS_PORT).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that take calls (GATEWAY_WORKERS).")
    ] = None,
    config: Config = None,
) -> None:
    """Take calls until SIGTERM, then wait for those there are (GATEWAY_DRAIN_S)."""
    overrides = {"host": host, "port": port, "ops_host": ops_host, "ops_port": ops_port}
    overrides["workers"] = workers
    settings = load_settings(os.environ, config, overrides, is_for_serving=True)
    _configure_logs(settings)
    _run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from gateway.audio.convert import converter_name  # noqa: PLC0415  # `--help` needs no numpy

    log = structlog.get_logger("gateway")
    for warning in settings.warnings:
        log.warning("settings_doubtful", detail=warning)
    async with _opened(settings) as running:
        leave_alone_what_lasts()
        # Before anybody is told that it serves: who hears that may stop it at once.
        stop = _stop_signal()
        print(
            f"gateway: taking calls on {settings.host}:{running.port}, "
            f"operations on {settings.ops_host}:{running.ops_port}",
            file=sys.stderr,
        )
        log.info("serving", version=__version__, converter=converter_name())
        await _first_of(stop.wait(), running.failed.wait())
        stop.clear()
        log.warning(
            "draining", calls=running.calls, limit_s=settings.drain_s, again="stops at once"
        )
        await _first_of(running.drain(settings.drain_s), stop.wait())
        log.warning("stopped", calls_cut=running.calls)
        if running.failed.is_set():
            _leave(FAILED, "workers died as fast as they were replaced; the lines above say why")


def _opened(settings: Settings) -> AbstractAsyncContextManager[Any]:
    """The gateway in this process, or in several."""
    if settings.workers == 1:
        from gateway.app import open_gateway  # noqa: PLC0415  # `gateway --help` needs no aiohttp

        return open_gateway(settings)
    from gateway.workers import open_workers  # noqa: PLC0415  # as above

    return open_workers(settings)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is over; the others are given up."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


@cli.command(hidden=True)
def worker() -> None:
    """One process of serve --workers; reads its orders from its supervisor."""
    from gateway.worker import leave_signals_alone, read_orders, work  # noqa: PLC0415  # as above

    leave_signals_alone()
    orders = read_orders(sys.stdin.buffer)
    settings = Settings(**orders.settings)
    _configure_logs(settings)
    _run(work(orders, settings))


def _stop_signal() -> asyncio.Event:
    """Set by SIGTERM or Ctrl-C; a second one means at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@cli.command()
def demo(
    *,
    once: Annotated[bool, typer.Option("--once", help="End after the sample call.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where the WAV files go.")] = Path("demo"),
    port: Annotated[int, typer.Option(help="Public port, if it is free.", min=0, max=65535)] = 8080,
    as_json: Json = False,
) -> None:
    """Carry a recorded caller to a talking agent and show what happened. Needs no account."""
    from gateway.demo import run_demo  # noqa: PLC0415  # as above

    logs.configure("warning", "auto")
    terminal = Terminal(as_json=as_json)
    stays = terminal.is_interactive and not once and not as_json
    if not _run(run_demo(terminal, folder, port, stays=stays)):
        _leave(FAILED, "the call did not come through as it was spoken; see the figures above")


@cli.command()
def call(
    file: Annotated[Path, typer.Argument(help="WAV file the caller plays (16-bit mono).")],
    *,
    url: Annotated[str, typer.Option(help="Any gateway's base URL.")] = "http://127.0.0.1:8080",
    provider: Annotated[str, typer.Option(help="twilio or asterisk")] = "twilio",
    calls: Annotated[int, typer.Option(help="So many calls at the same time.", min=1)] = 1,
    barge_in_s: Annotated[
        float, typer.Option(help="Talk this long after the agent began to; 0 = be polite.", min=0)
    ] = 0.0,
    keys: Annotated[str, typer.Option(help="Press these keys, one a second.")] = "",
    codec: Annotated[
        str, typer.Option(help="Asterisk's: ulaw, alaw, slin, slin16, slin24.")
    ] = "ulaw",
    hang_up: Annotated[
        str, typer.Option(help="How to leave: stop, close, abort, freeze, or wait: agent.")
    ] = "stop",
    hang_up_after_s: Annotated[float, typer.Option(help="Longest call.", min=0.1)] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Folder for WAVs of the first call.")] = None,
    as_json: Json = False,
) -> None:
    """Play a provider and a caller against any gateway that speaks the provider's protocol."""
    from gateway.dialout import Wishes, place_calls  # noqa: PLC0415  # as above

    wishes = Wishes(
        file,
        url,
        provider=provider,
        calls=calls,
        barge_in_s=barge_in_s,
        keys=keys,
        codec=codec,
        hang_up=hang_up,
        hang_up_after_s=hang_up_after_s,
        out=out,
    )
    if not _run(place_calls(Terminal(as_json=as_json), wishes, os.environ)):
        _leave(FAILED, "not every call came to its end")


@cli.command()
def say(
    text: Annotated[str, typer.Argument(help="What to say to the model.")],
    *,
    out: Annotated[Path, typer.Option(help="The WAV file to write.")] = Path("answer.wav"),
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Text in, speech out, straight to the model: prints what arrives and writes a WAV."""
    from gateway.say import say as converse  # noqa: PLC0415  # as above

    settings = load_settings(os.environ, config)
    _configure_logs(settings)
    _check_writable(out)
    terminal = Terminal(as_json=as_json)
    spoken = _run(converse(terminal, settings, text, out))
    seconds = len(spoken.pcm) / 48_000
    terminal.say(f"\n{spoken.text}\n\n{out}: {seconds:.1f} s of speech")
    terminal.result(
        {
            "text": spoken.text,
            "file": str(out),
            "speech_s": seconds,
            "first_audio_s": spoken.first_audio_s,
        }
    )


@cli.command()
def simulator(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8090,
    key: Annotated[str, typer.Option(help="Accept this key only; empty = any.")] = "",
    script: Annotated[
        Path | None, typer.Option(help="A file of turns instead of a parrot.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="A fault to show, as name=value; may be repeated.")
    ] = None,
) -> None:
    """Be the Realtime API: a parrot (or a script) any client can talk to, without an account."""
    from gateway.simulator.faults import parse_faults  # noqa: PLC0415  # as above
    from gateway.simulator.server import SimulatorOptions  # noqa: PLC0415

    logs.configure("info", "auto")
    _run(_simulate(SimulatorOptions(host, port, key, (), script, parse_faults(fault or []))))


async def _simulate(options: Any) -> None:
    from gateway.simulator.server import start_simulator  # noqa: PLC0415

    running = await start_simulator(options)
    agent = "a scripted agent" if options.script else "a parrot"
    print(f"gateway: {agent} listens on {running.url}; stop with Ctrl-C", file=sys.stderr)
    try:
        await _stop_signal().wait()
    finally:
        await running.close()


@cli.command()
def check(
    *,
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody.")] = False,
    as_json: Json = False,
) -> None:
    """Look at settings, credential and reachability; say what is wrong and how to mend it."""
    from gateway.check import report  # noqa: PLC0415  # as above

    settings = load_settings(os.environ, config)
    logs.configure("warning", settings.log_format, secrets=settings.secret_values)
    raise SystemExit(_run(report(Terminal(as_json=as_json), settings, is_offline=offline)))


@cli.command()
def replay(
    tapes: Annotated[list[Path], typer.Argument(help="Tapes, or folders of them.")],
    *,
    shape: Annotated[
        bool,
        typer.Option("--shape", help="Compare kinds, order and durations only: for old tapes."),
    ] = False,
    tolerance_ms: Annotated[
        float, typer.Option(help="With --shape: how much a stretch of sound may differ.", min=0)
    ] = 60.0,
    speed: Annotated[
        float, typer.Option(help="Times real time; 0 = as fast as it goes.", min=0)
    ] = 0.0,
    times: Annotated[
        int, typer.Option(help="Each tape so often: the results must be the same.", min=1)
    ] = 1,
    against: Annotated[
        bool,
        typer.Option("--against", help="Let the caller talk to the model of the settings instead."),
    ] = False,
    config: Config = None,
    agent: Annotated[str, typer.Option(help="With --against: to this agent.")] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --against: a field of the agent, as NAME=VALUE."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --against: folder for the new tapes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Play recorded calls again and compare what comes out; exits with 1 where it differs."""
    if against:
        _try_against(Terminal(as_json=as_json), tapes, config, (agent, changes or [], speed, out))
        return
    from gateway.tape.command import Wishes, replay_tapes  # noqa: PLC0415  # as above

    wishes = Wishes(not shape, tolerance_ms, speed, times)
    tally = replay_tapes(Terminal(as_json=as_json), tapes, wishes)
    if tally.unreadable or tally.different:
        raise SystemExit(BAD_INPUT if tally.unreadable else FAILED)


def _try_against(
    terminal: Terminal,
    tapes: list[Path],
    config: Path | None,
    wishes: tuple[str, list[str], float, Path | None],
) -> None:
    """The caller's side of tapes, in real time, through a gateway with these settings."""
    from gateway.whatif import Trial, what_if  # noqa: PLC0415  # as above

    agent, changes, speed, out = wishes
    settings = load_settings(os.environ, config, {"insecure": True})
    logs.configure("warning", settings.log_format, secrets=settings.secret_values)
    _run(what_if(terminal, tapes, settings, Trial(agent, tuple(changes), speed or 1.0, out)))


WithTls = Annotated[
    bool, typer.Option("--tls", help="TLS on both sides, with a throw-away certificate.")
]
WithTapes = Annotated[
    bool, typer.Option("--tape", help="Every call taped, in a folder that is thrown away.")
]


@cli.command()
def bench(
    *,
    calls: Annotated[
        int | None, typer.Option(help="Measure one step with so many calls.", min=1, max=4000)
    ] = None,
    step_s: Annotated[float, typer.Option(help="Seconds a step measures.", min=4, max=600)] = 8.0,
    quick: Annotated[bool, typer.Option("--quick", help="Short steps: a rough number.")] = False,
    max_calls: Annotated[int, typer.Option(help="Try no more calls.", min=1, max=4000)] = 2000,
    against: Annotated[
        str, typer.Option(help="The media WebSocket of another gateway: ws://HOST:PORT/PATH.")
    ] = "",
    realtime_port: Annotated[
        int, typer.Option(help="Where its model listens; 0 takes a free port.", min=0, max=65535)
    ] = 0,
    pid: Annotated[
        int | None, typer.Option(help="Its process: pinned, CPU and memory measured.", min=1)
    ] = None,
    tls: WithTls = False,
    tapes: WithTapes = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw an SVG.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Write what GATEWAY_CERTIFICATE reads.")
    ] = None,
) -> None:
    """Find out how many calls one core carries, with callers and a model of its own."""
    from gateway.bench.command import Files, checked_plan, measure  # noqa: PLC0415  # as above

    plan = checked_plan(
        calls=calls,
        step_s=min(step_s, 4.0) if quick else step_s,
        max_calls=max_calls,
        against=against,
        realtime_port=realtime_port,
        pid=pid,
        has_tls=tls,
        has_tapes=tapes,
    )
    files = Files(json_file, chart, certificate)
    if not _run(measure(Terminal(), plan, files, sys.argv)):
        raise SystemExit(FAILED)


tape = typer.Typer(
    help="Look at taped calls, listen to them, make tests of them. Tapes are the files of "
    "GATEWAY_TAPE_DIR, one a call; gateway replay plays them again.",
    short_help="Look at taped calls, make tests of them.",
    no_args_is_help=True,
)
cli.add_typer(tape, name="tape")

TapeFile = Annotated[
    Path, typer.Argument(metavar="TAPE", help="A file .jsonl, .jsonl.gz or .part.")
]


@tape.command("show")
def tape_show(file: TapeFile, *, as_json: Json = False) -> None:
    """Print the conversation.

    Words heard and not heard, keys, tools, errors, latencies.
    """
    from gateway.tape.show import as_json as story_json  # noqa: PLC0415  # as above
    from gateway.tape.show import printed  # noqa: PLC0415
    from gateway.tape.story import story_of  # noqa: PLC0415

    story, terminal = story_of(file), Terminal(as_json=as_json)
    for line in printed(story):
        terminal.say(line)
    terminal.result(story_json(story))


@tape.command("wav")
def tape_wav(
    file: TapeFile,
    *,
    out: Annotated[
        Path | None, typer.Option(help="The WAV file to write; else TAPE.wav here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a stereo WAV file.

    Left the caller, right the agent as the caller heard it.
    """
    from gateway.tape.listen import write_call  # noqa: PLC0415  # as above
    from gateway.tape.story import story_of  # noqa: PLC0415

    story, terminal = story_of(file), Terminal(as_json=as_json)
    target = out or Path(f"{tape_name(file)}.wav")
    _check_writable(target, is_private=True)
    duration_s = write_call(file, story, target)
    if story.note:
        terminal.say(f"note: {story.note}")
    terminal.say(f"{target}: {duration_s:.1f} s, left the caller, right the agent as it was heard")
    terminal.result({"file": str(target), "duration_s": duration_s, "note": story.note})


@tape.command("report")
def tape_report(
    file: TapeFile,
    *,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; else TAPE.html here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a page to look at and listen to.

    One HTML file with both voices, lanes of what happened, words, latencies.
    """
    from gateway.tape.report import report_html  # noqa: PLC0415  # as above
    from gateway.tape.story import story_of  # noqa: PLC0415

    target, story = out or Path(f"{tape_name(file)}.html"), story_of(file)
    page = report_html(file, story)
    _check_writable(target, is_private=True)
    target.write_text(page, "utf-8")
    terminal = Terminal(as_json=as_json)
    if story.note:
        terminal.say(f"note: {story.note}")
    terminal.say(f"{target}: {len(page) / 1e6:.2f} MB; open it in a browser")
    terminal.result({"file": str(target), "bytes": len(page), "note": story.note})


@tape.command("shrink")
def tape_shrink(
    file: TapeFile,
    *,
    failing: Annotated[
        str, typer.Option(help="The command that fails; {} is where the tape's path goes.")
    ],
    matching: Annotated[str, typer.Option(help="What it must print beside failing.")] = "",
    out: Annotated[Path | None, typer.Option(help="The tape; else TAPE.small.jsonl here.")] = None,
    as_recorded: Annotated[
        bool, typer.Option("--as-recorded", help="Do not record anew what went out.")
    ] = False,
    most_runs: Annotated[int, typer.Option(help="Runs of the command at most.", min=1)] = 1000,
    timeout_s: Annotated[float, typer.Option(help="Longest run.", min=0.1)] = 60.0,
    as_json: Json = False,
) -> None:
    """Make a fault into a small test.

    Turns and frames are left out while the command still fails. What went out is recorded anew by
    this gateway each time, so that the small tape replays.
    """
    from gateway.tape.renew import check_place  # noqa: PLC0415  # as above
    from gateway.tape.shrinking import Wishes, shrink_tape  # noqa: PLC0415

    target = out or Path(f"{tape_name(file)}.small.jsonl")
    try:
        check_place(target)
    except OSError as error:
        _leave(BAD_INPUT, f"--out: {target}: {error.strerror}")
    wishes = Wishes(failing, matching, most_runs, timeout_s, as_recorded)
    shrink_tape(Terminal(as_json=as_json), file, target, wishes)


@tape.command("renew")
def tape_renew(
    tapes: Annotated[list[Path], typer.Argument(help="Tapes, or folders of them.")],
    *,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Write over the tapes that differ.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the renewed tapes.")] = None,
    as_json: Json = False,
) -> None:
    """Accept a change that was meant.

    Prints what is different now, and records anew what goes out. What came in stays as it was
    recorded. Tapes that replay the same are left alone.
    """
    from gateway.tape.renewing import renew_tapes  # noqa: PLC0415  # as above

    if in_place == (out is not None):
        _leave(BAD_INPUT, "say where renewed tapes go: --out FOLDER, or --in-place, over the old")
    if renew_tapes(Terminal(as_json=as_json), tapes, out).failed:
        raise SystemExit(BAD_INPUT)


def tape_name(file: Path) -> str:
    """A tape's name without what its endings say about its state."""
    return re.sub(r"(\.jsonl)?(\.gz)?(\.part)?$", "", file.name) or "tape"


def _check_writable(path: Path, *, is_private: bool = False) -> None:
    """Before anything is paid for: can the file be written where it shall go?"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_private and not path.exists():
            path.touch(0o600)
        with path.open("ab"):
            pass
    except OSError as error:
        _leave(BAD_INPUT, f"--out: {path}: {error.strerror}")


def _configure_logs(settings: Settings) -> None:
    logs.configure(settings.log_level, settings.log_format, secrets=settings.secret_values)


def _run(work: Coroutine[Any, Any, _Value]) -> _Value:
    """On uvloop where the platform has it; Ctrl-C is an ordinary end."""
    try:
        import uvloop  # noqa: PLC0415  # not on Windows
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner:
        try:
            return runner.run(work)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
