"""What a run came to, for people and for scripts."""

from dataclasses import asdict
from typing import Any

from gateway.bench.figures import Figures, Spread
from gateway.bench.findings import Findings, Measured

CERTIFICATE_VERSION = 1

Row = tuple[str, ...]


def line(measured: Measured) -> str:
    """One step on one line."""
    step = measured.figures
    words = [f"{step.calls:>5} calls  {measured.verdict.outcome:<12}"]
    if step.cpu_ms_per_call_s is not None and step.cpu_share is not None:
        words.append(f"{step.cpu_ms_per_call_s:5.2f} ms/call-s ({step.cpu_share:4.0%})")
    words.append(f"up {_pair(step.uplink)}  first audio {_pair(step.first_audio)} ms")
    words.append(f"load {step.load_cpu_share:4.0%}, late {step.lateness.p99_ms:.1f} ms")
    return "  ".join([*words, "; ".join(measured.verdict.reasons)]).rstrip()


def _pair(values: Spread) -> str:
    return f"{values.p50_ms:6.2f} /{values.p99_ms:7.2f}" if values.count else "      - /      -"


def table(findings: Findings) -> list[Row]:
    """Every step, a heading first."""
    links = _links(findings)
    return [_HEADING, *((*_row(measured), links) for measured in findings.steps)]


def _links(findings: Findings) -> str:
    return "wss" if findings.has_tls else "ws"


_HEADING = (
    "step",
    "calls",
    "result",
    "CPU ms/call-s",
    "up p50/p99/max ms",
    "first audio p50/p99/max ms",
    "barge-in p50/p99/max ms",
    "KiB a call",
    "load CPU",
    "links",
)


def _row(measured: Measured) -> Row:
    step = measured.figures
    return (
        measured.name,
        str(step.calls),
        measured.verdict.outcome,
        _number(step.cpu_ms_per_call_s, 2),
        _triple(step.uplink),
        _triple(step.first_audio),
        _triple(step.barge_in),
        _number(step.memory_per_call_kib, 0),
        f"{step.load_cpu_share:.0%}",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _triple(values: Spread) -> str:
    if not values.count:
        return "-"
    return f"{values.p50_ms:.2f}/{values.p99_ms:.2f}/{values.max_ms:.2f}"


def conclusion(findings: Findings) -> list[str]:
    """The last lines: what was found, or why nothing is."""
    lines = []
    if findings.refusal:
        lines.append(f"no conclusion: {findings.refusal}")
    if findings.capacity is not None:
        lines.append(f"calls one core carries: {findings.capacity}{_with(findings)}")
    if findings.latency is not None:
        lines += _closer("at half of it", findings.latency.figures)
    if findings.setup is not None:
        values = findings.setup.figures.setup
        lines.append(f"set-up, caller's start to first audio at the model: {_triple(values)} ms")
    return lines


def _with(findings: Findings) -> str:
    parts = ["TLS on both sides"] * findings.has_tls + ["every call taped"] * findings.has_tapes
    return f" ({', '.join(parts)})" if parts else ""


def _closer(name: str, step: Figures) -> list[str]:
    return [
        f"{name} ({step.calls} calls), p50/p99/max in ms:",
        f"  caller to model   {_triple(step.uplink)}",
        f"  model to caller   {_triple(step.first_audio)}",
        f"  barge-in to clear {_triple(step.barge_in)}",
        f"  gaps heard        {step.gaps.count}, longest {step.gaps.max_ms:.1f}",
    ]


def as_json(findings: Findings, machine: dict[str, Any], command: str) -> dict[str, Any]:
    """Everything, for ``--json``."""
    return {
        "command": command,
        "machine": machine,
        "tls": findings.has_tls,
        "tape": findings.has_tapes,
        "calls_per_core": findings.capacity,
        "refusal": findings.refusal or None,
        "steps": [_step_json(measured) for measured in findings.steps],
        "latency": _step_json(findings.latency) if findings.latency else None,
        "setup": _step_json(findings.setup) if findings.setup else None,
    }


def _step_json(measured: Measured) -> dict[str, Any]:
    step = measured.figures
    verdict = asdict(measured.verdict)
    per_call = {"memory_per_call_kib": step.memory_per_call_kib}
    return {"step": measured.name, **verdict, **asdict(step), **per_call}


def certificate(
    findings: Findings, machine: dict[str, Any], version: str, measured_at: str
) -> dict[str, Any]:
    """What ``GATEWAY_CERTIFICATE`` reads; ``findings`` come to a capacity."""
    return {
        "version": CERTIFICATE_VERSION,
        "calls_per_core": findings.capacity,
        "tls": findings.has_tls,
        "tape": findings.has_tapes,
        "machine": machine,
        "gateway": version,
        "measured_at": measured_at,
    }
