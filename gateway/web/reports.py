"""The report of a call's tape, made in a process of its own: a replay must not hold up calls.

It is waited for in a thread of its own, too: those that asyncio lends to everybody look up the
addresses of the model, and new calls would wait with whoever waits for a report.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError

# A report of an hour takes minutes where calls need the machine.
LONGEST_S: Final = 300.0
NICE: Final = 19
# So many may wait for theirs; the next one is told to come again.
MAX_WAITING: Final = 4


class ReportsBusy(GatewayError):
    """Too many wait for a report."""


class Reports:
    """Makes the pages of calls' tapes, one at a time.

    Args:
        folder: where the tapes are.
        log: told why a page could not be made, in a line; called in a thread.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._log = log
        self._thread = ThreadPoolExecutor(1, "reports")
        self._waiting = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    async def page(self, call_id: str) -> bytes | None:
        """The page of a call; None where there is no whole tape of it or no page could be made.

        Raises:
            ReportsBusy: too many wait for theirs.
        """
        if self._waiting >= MAX_WAITING:
            raise ReportsBusy("too many wait for a report")
        asked = asyncio.get_running_loop().run_in_executor(self._thread, self._page, call_id)
        self._waiting += 1
        asked.add_done_callback(self._has_made)
        # Whoever goes away meanwhile does not free the thread.
        return await asyncio.shield(asked)

    def _has_made(self, asked: "asyncio.Future[bytes | None]") -> None:
        self._waiting -= 1
        if not asked.cancelled():
            asked.exception()  # whoever waited no longer is not told

    def close(self) -> None:
        """Make no more; the one that is being made is given up."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------- in the thread

    def _page(self, call_id: str) -> bytes | None:
        tape = next(tapes_of(self._folder, call_id), None)
        if tape is None:
            return None
        with tempfile.TemporaryDirectory(prefix="report-") as folder:
            page = Path(folder) / "report.html"
            complaint = self._made(tape, page)
            if complaint:
                self._log(complaint)
                return None
            return page.read_bytes()

    def _made(self, tape: Path, page: Path) -> str:
        """Write the page; what was wrong, in a line."""
        command = [sys.executable, "-m", "gateway", "tape", "report", str(tape), "--out", str(page)]
        process = self._start(command)
        if process is None:
            return "the gateway was stopped"
        try:
            _, complaint = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "it took too long"
        finally:
            with self._lock:
                self._process = None
        lines = complaint.decode(errors="replace").strip()[-300:]
        return (lines or f"it ended with {process.returncode}") if process.returncode else ""

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._is_closed:
                return None
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603  # ourselves
            self._process = process
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        return process


def tapes_of(folder: Path, call_id: str) -> Iterator[Path]:
    """The whole tapes of a call; their names end with its id."""
    for suffix in (".jsonl.gz", ".jsonl"):
        yield from (path for path in folder.glob(f"*Z-*{suffix}") if _is_of(path, call_id))


def _is_of(path: Path, call_id: str) -> bool:
    return path.name.partition(".jsonl")[0].partition("Z-")[2] == call_id
