"""`gateway tape shrink`: runs the command that fails, again and again, on ever smaller tapes.

Each of them is renewed before the command sees it: a call from which a turn is missing goes another
way, and a tape that says otherwise would fail for that reason alone.
"""

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import TapeError
from gateway.tape.judge import Verdict, judge
from gateway.tape.renew import mark, put, renew
from gateway.tape.shrink import Film, Shrinker, load
from gateway.terminal import Terminal

# Where the command wants the tape's path.
PLACE: Final = "{}"
_OUTPUT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to run on the tapes, and on which.

    ``matching``: what the command must print beside failing, "" for nothing. ``is_as_recorded``:
    the tapes keep what went out in the call, whatever was left out of what came in.
    """

    command: str
    matching: str = ""
    most_runs: int = 1000
    timeout_s: float = 60.0
    is_as_recorded: bool = False


class Trial:
    """One command, run on tapes; remembers how it failed at first.

    Args:
        original: the tape, for messages.
        wishes: the command.
        folder: for the smaller tapes.
    """

    def __init__(self, original: Path, wishes: Wishes, folder: Path) -> None:
        self._original = original
        self._wishes = wishes
        self._raw = folder / "smaller.jsonl"
        # The tape on which the command runs.
        self.path = self._raw if wishes.is_as_recorded else folder / "renewed.jsonl"
        self._words = _words(wishes.command)
        self._code = 0

    def fails_at_first(self, film: Film) -> bool:
        """Whether it fails on the tape as it is; that is how it must go on failing.

        Raises:
            TapeError: the command cannot be run, or the tape not be played.
        """
        self.make(film)
        self._code, output = self._run()
        return self._code != 0 and self._wishes.matching in output

    def still_fails(self, film: Film) -> bool:
        """Whether it fails in the same way: the same exit code, the same words."""
        try:
            self.make(film)
        except TapeError:
            return False
        code, output = self._run()
        return code == self._code and self._wishes.matching in output

    def make(self, film: Film) -> None:
        """Write the tape that the command is to see.

        Raises:
            TapeError: it cannot be played.
        """
        self._raw.write_bytes(film.content())
        if self._wishes.is_as_recorded:
            return
        try:
            renew(self._raw, self.path)
        except TapeError as error:
            text = str(error).replace(str(self._raw), str(self._original))
            raise TapeError(text) from None

    def _run(self) -> tuple[int, str]:
        command = [word.replace(PLACE, str(self.path)) for word in self._words]
        try:
            code, output = _ran(command, self._wishes.timeout_s)
        except subprocess.TimeoutExpired:
            return -1, ""
        except OSError as error:
            raise TapeError(f"--failing: {command[0]}: {error.strerror}") from None
        return code, output[:_OUTPUT_BYTES].decode(errors="replace")


def _ran(command: list[str], timeout_s: float) -> tuple[int, bytes]:
    """Its exit code, and what it printed; whatever it started ends with it when it takes too long.

    Raises:
        TimeoutExpired: so long.
        OSError: it cannot be run.
    """
    with subprocess.Popen(  # noqa: S603  # the user's own command
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            with suppress(OSError):  # it has just ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TapeError(f"--failing: {error}") from None
    if not words:
        raise TapeError("--failing: no command")
    return words if any(PLACE in word for word in words) else [*words, PLACE]


def shrink_tape(terminal: Terminal, path: Path, out: Path, wishes: Wishes) -> None:
    """Write the smallest tape on which the command still fails.

    Raises:
        TapeError: the tape cannot be read or played, or the command cannot be run or does not fail
            on it.
        OSError: the smaller tape cannot be written.
    """
    was = load(path, needs_timers=wishes.is_as_recorded)
    with tempfile.TemporaryDirectory(prefix="shrink-") as folder:
        trial = Trial(path, wishes, Path(folder))
        film = was.with_head(mark("shrunk"))
        if not trial.fails_at_first(film):
            raise TapeError(f"{path}: the command does not fail on this tape{_unlike(wishes)}")
        shrinker = Shrinker(trial.still_fails, wishes.most_runs)
        trial.make(shrinker.shrink(film))
        smaller = load(trial.path)
        put(trial.path, out)
    _tell(terminal, was, smaller, shrinker.runs, judge(out))
    if shrinker.runs >= wishes.most_runs:
        terminal.say("  stopped at --most-runs: it may get smaller still")


def _unlike(wishes: Wishes) -> str:
    like = f" with {wishes.matching!r} in its output" if wishes.matching else ""
    if wishes.is_as_recorded:
        return like
    return f"{like}, once renewed by this gateway (--as-recorded leaves it as it is)"


def _tell(terminal: Terminal, was: Film, smaller: Film, runs: int, verdict: Verdict) -> None:
    if verdict.note:
        terminal.say(f"note: {verdict.note}")
    terminal.table(
        [
            ("lines", f"{was.lines} -> {smaller.lines}"),
            ("bytes", f"{len(was.content())} -> {len(smaller.content())}"),
            ("runs of the command", str(runs)),
            ("written to", str(verdict.path)),
            ("gateway replay", "the same" if verdict.is_same else _differs(verdict)),
        ]
    )
    told = {"tape": str(verdict.path), "lines": smaller.lines, "was": was.lines, "runs": runs}
    terminal.result(told | {"is_same": verdict.is_same})


def _differs(verdict: Verdict) -> str:
    return f"differs, {str(verdict.found.differences[0]).splitlines()[0]}"
