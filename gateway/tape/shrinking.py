"""`gateway tape shrink`: runs the command that fails, again and again, on ever smaller tapes."""

import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import TapeError
from gateway.tape.shrink import Film, Shrinker, load
from gateway.terminal import Terminal

# Where the command wants the tape's path.
PLACE: Final = "{}"
_OUTPUT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wishes:
    """``matching``: what the command must print beside failing, "" for nothing."""

    command: str
    matching: str = ""
    most_runs: int = 1000
    timeout_s: float = 60.0


class Trial:
    """One command, run on tapes; remembers how it failed at first."""

    def __init__(self, wishes: Wishes, folder: Path) -> None:
        self._wishes = wishes
        self._path = folder / "smaller.jsonl"
        self._words = _words(wishes.command)
        self._code = 0

    def fails_at_first(self, film: Film) -> bool:
        """Whether it fails on the tape as it is; that is how it must go on failing."""
        self._code, output = self._run(film)
        return self._code != 0 and self._wishes.matching in output

    def still_fails(self, film: Film) -> bool:
        """Whether it fails in the same way: the same exit code, the same words."""
        code, output = self._run(film)
        return code == self._code and self._wishes.matching in output

    def _run(self, film: Film) -> tuple[int, str]:
        self._path.write_bytes(film.content())
        command = [word.replace(PLACE, str(self._path)) for word in self._words]
        try:
            done = subprocess.run(  # noqa: S603  # the user's own command
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._wishes.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -1, ""
        except OSError as error:
            raise TapeError(f"--failing: {command[0]}: {error.strerror}") from None
        return done.returncode, done.stdout[:_OUTPUT_BYTES].decode(errors="replace")


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
        TapeError: the tape cannot be read, or the command cannot be run or does not fail on it.
    """
    film = load(path)
    with tempfile.TemporaryDirectory(prefix="shrink-") as folder:
        trial = Trial(wishes, Path(folder))
        if not trial.fails_at_first(film):
            like = f" with {wishes.matching!r} in its output" if wishes.matching else ""
            raise TapeError(f"{path}: the command does not fail on this tape{like}")
        shrinker = Shrinker(trial.still_fails, wishes.most_runs)
        smaller = shrinker.shrink(film)
    out.write_bytes(smaller.content())
    terminal.table(
        [
            ("lines", f"{film.lines} -> {smaller.lines}"),
            ("bytes", f"{len(film.content())} -> {len(smaller.content())}"),
            ("runs of the command", str(shrinker.runs)),
            ("written to", str(out)),
        ]
    )
    if shrinker.runs >= wishes.most_runs:
        terminal.say("  stopped at --most-runs: it may get smaller still")
    terminal.result(
        {"tape": str(out), "lines": smaller.lines, "was": film.lines, "runs": shrinker.runs}
    )
