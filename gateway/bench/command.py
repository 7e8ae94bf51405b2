"""``gateway bench``: checks its arguments, measures, prints and writes."""

import datetime as dt
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway import __version__
from gateway.bench import report
from gateway.bench.chart import check_library, draw
from gateway.bench.findings import Findings
from gateway.bench.machine import this_machine
from gateway.bench.process import is_alive
from gateway.bench.run import Plan, bench
from gateway.errors import SettingsError
from gateway.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Files:
    """Where results go, if anywhere."""

    json: Path | None = None
    chart: Path | None = None
    certificate: Path | None = None


def checked_plan(**wishes: Any) -> Plan:
    """The plan of the command line.

    Raises:
        SettingsError: a wish that cannot be met.
    """
    plan = Plan(**wishes)
    problems = []
    if plan.against and not _is_socket_url(plan.against):
        problems.append("--against: accepted: a URL such as ws://127.0.0.1:5050/media-stream")
    if plan.against and not plan.realtime_port:
        problems.append("--against needs --realtime-port: where the other dials its model")
    if plan.has_tls and plan.against:
        problems.append("--tls is for our own gateway; another one does not know our certificate")
    if plan.has_tapes and plan.against:
        problems.append("--tape is for our own gateway; another one writes no tapes")
    if plan.pid is not None and not plan.against:
        problems.append("--pid is for --against; our own gateway's process is known")
    elif plan.pid is not None and not is_alive(plan.pid):
        problems.append(f"--pid: there is no process {plan.pid}")
    if problems:
        raise SettingsError(problems)
    return plan


def _is_socket_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "ws" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


async def measure(terminal: Terminal, plan: Plan, files: Files, arguments: Sequence[str]) -> bool:
    """Measure and tell; false when no conclusion is drawn.

    Raises:
        SettingsError: a file that cannot be written, or drawn.
        PeerRefused: our gateway does not start.
        OSError: a port is taken.
    """
    _check_files(files)
    findings = await bench(plan, _progress)
    _print(terminal, findings)
    _write(files, findings, " ".join(["gateway", *arguments[1:]]), is_ours=not plan.against)
    return not findings.refusal and findings.capacity is not None


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  progress is not the result


def _check_files(files: Files) -> None:
    """Before minutes are spent: can every file be written?"""
    if files.chart is not None:
        check_library()
    problems = []
    for path in (files.json, files.chart, files.certificate):
        if path is not None:
            try:
                has_been = path.exists()
                path.open("ab").close()
                if not has_been:
                    path.unlink()
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
    if problems:
        raise SettingsError(problems)


def _print(terminal: Terminal, findings: Findings) -> None:
    rows = report.table(findings)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        terminal.say("  ".join(cells).rstrip())
    for text in report.conclusion(findings):
        terminal.say(text)


def _write(files: Files, findings: Findings, command: str, *, is_ours: bool) -> None:
    machine = this_machine()
    measured_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    if files.json is not None:
        about = {"gateway": __version__, "measured_at": measured_at}
        _dump(files.json, {**about, **report.as_json(findings, machine, command)})
    if files.chart is not None:
        draw(findings, files.chart)
    if files.certificate is not None and findings.capacity is not None and is_ours:
        made = report.certificate(findings, machine, __version__, measured_at)
        _dump(files.certificate, made)


def _dump(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
