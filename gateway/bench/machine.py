"""On what it was measured."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("aiohttp", "websockets", "picows", "msgspec", "numpy", "audioop-lts", "uvloop")


def describe(cpu_info: str, libraries: dict[str, str]) -> dict[str, Any]:
    """The machine, from the text of /proc/cpuinfo and the versions of what is installed."""
    return {
        "cpu": _model(cpu_info),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": libraries,
        "uvloop": "uvloop" in libraries,
    }


def _model(cpu_info: str) -> str:
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "Hardware"}:
            return value.strip()
    return platform.machine()


def this_machine() -> dict[str, Any]:
    """The machine this runs on."""
    return describe(Path("/proc/cpuinfo").read_text(encoding="utf-8"), _versions())


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
