"""The report of a call's tape, made in a process of its own: a replay must not hold up calls."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

# A report of an hour takes minutes where calls need the machine.
LONGEST_S: Final = 300.0
NICE: Final = 19


def reporter(folder: Path, log: Callable[[str], None]) -> Callable[[str], str | None]:
    """What makes the page of a call's tape in this folder, one at a time.

    Args:
        folder: where the tapes are.
        log: told why a page could not be made, in a line.

    Returns:
        A function of a call id, to be called in a thread; it gives the page, or None where there is
        no whole tape of this call or its page could not be made.
    """
    turn = threading.Lock()

    def report(call_id: str) -> str | None:
        tape = next(tapes_of(folder, call_id), None)
        if tape is None:
            return None
        with turn:
            return _made(tape, log)

    return report


def tapes_of(folder: Path, call_id: str) -> Iterator[Path]:
    """The whole tapes of a call; their names end with its id."""
    for suffix in (".jsonl.gz", ".jsonl"):
        yield from (path for path in folder.glob(f"*Z-*{suffix}") if _is_of(path, call_id))


def _is_of(path: Path, call_id: str) -> bool:
    return path.name.partition(".jsonl")[0].partition("Z-")[2] == call_id


def _made(tape: Path, log: Callable[[str], None]) -> str | None:
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "gateway", "tape", "report", str(tape), "--out", str(page)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603  # ourselves
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        try:
            _, complaint = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            complaint = b"it took too long"
        if process.returncode:
            log(complaint.decode(errors="replace").strip()[-300:])
            return None
        return page.read_text("utf-8")
