"""`gateway tape renew`: lets tapes expect what the present gateway does, and shows the change.

For tapes that are older than a change that was meant. What came in stays as it was recorded.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import TapeError
from gateway.tape.command import plain_verdict, print_verdict
from gateway.tape.judge import Verdict, judge, tapes_at
from gateway.tape.renew import put, renew
from gateway.tape.shelf import is_held
from gateway.terminal import Terminal


@dataclass(slots=True)
class Tally:
    """How it went, tape by tape."""

    renewed: int = 0
    same: int = 0
    failed: int = 0

    def __str__(self) -> str:
        parts = [f"{self.renewed} renewed", f"{self.same} the same already"]
        return ", ".join(parts + [f"{self.failed} not renewed"] * bool(self.failed))


def renew_tapes(terminal: Terminal, paths: list[Path], folder: Path | None) -> Tally:
    """Renew each tape that a replay finds different, and print the differences that are accepted.

    Args:
        terminal: where to.
        paths: tapes, and folders of them.
        folder: where renewed ones go, by their own names; None: over the old ones.

    Raises:
        TapeError: a folder holds no tape.
    """
    tally = Tally()
    results: list[dict[str, object]] = []
    for path in tapes_at(paths):
        try:
            results.append(_renewed(terminal, path, folder, tally))
        except (TapeError, OSError) as error:
            tally.failed += 1
            why = str(error) if isinstance(error, TapeError) else f"{path}: {error.strerror}"
            terminal.say(f"not renewed  {why}")
            results.append({"tape": str(path), "error": why})
    terminal.say(str(tally))
    terminal.result({"tapes": results})
    return tally


def _renewed(
    terminal: Terminal, path: Path, folder: Path | None, tally: Tally
) -> dict[str, object]:
    verdict = judge(path)
    print_verdict(terminal, verdict)
    told = plain_verdict(verdict)
    if verdict.is_same:
        tally.same += 1
        return told
    target = _target(path, folder)
    _renew_one(verdict, target)
    tally.renewed += 1
    terminal.say(f"renewed     {target}")
    return told | {"renewed": str(target)}


def _target(path: Path, folder: Path | None) -> Path:
    """Where the new one goes.

    Raises:
        TapeError: something is there that must not be written over.
    """
    target = (folder / path.name if folder else path).resolve()
    if folder is None and is_held(target):
        raise TapeError(
            f"{path}: a gateway is still writing or packing it; --out leaves it as it is"
        )
    if folder and target.exists():
        raise TapeError(f"{path}: {target} is there already; --in-place writes over old tapes")
    return target


def _renew_one(verdict: Verdict, target: Path) -> None:
    path = verdict.path
    with tempfile.TemporaryDirectory(prefix="renew-") as folder:
        new = Path(folder) / "renewed.jsonl"
        problems = renew(path, new).problems
        problems += [(found.t, found.where) for found in judge(new).found.differences]
        if problems:
            at, what = problems[0]
            raise TapeError(f"{path}: to be recorded anew, not renewed: at {at:.3f} s: {what}")
        put(new, target)
