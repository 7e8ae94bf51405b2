"""Replays a tape and says whether the call still does the same."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import TapeError
from gateway.tape import SUFFIXES
from gateway.tape.compare import TOLERANCE_MS, Comparison, Difference, Exact, Shape
from gateway.tape.masking import LinkName, masking_of
from gateway.tape.reading import Tape
from gateway.tape.replay import Played, Replayed, options_of, replay

_PEERS: Final[Mapping[str, LinkName]] = {"provider": "provider"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a replay showed; ``note`` says what could not be compared, "" if all could."""

    path: Path
    replayed: Replayed
    found: Comparison
    took_s: float
    note: str

    @property
    def is_same(self) -> bool:
        """No difference was found."""
        return not self.found.count

    @property
    def speed(self) -> float:
        """How many times faster than the call was; CPU time."""
        return self.replayed.duration_s / max(self.took_s, 1e-9)


def judge(
    path: Path,
    *,
    is_exact: bool = True,
    tolerance_ms: float = TOLERANCE_MS,
    wait_until: Callable[[float], None] = lambda _: None,
    is_assessed: bool = False,
) -> Verdict:
    """Replay one tape and compare.

    What is compared does not depend on how the caller's sound was assessed: that is told to people
    and written on no tape. So it is left out, unless somebody asks for what the call reports.

    Args:
        path: the tape.
        is_exact: byte for byte; else kinds in order, and durations of sound.
        tolerance_ms: for the latter.
        wait_until: see ``replay``.
        is_assessed: see ``replay``.

    Raises:
        TapeError: the tape cannot be read or played.
    """
    began = time.process_time()
    shape = Shape()
    with Tape(path) as tape:
        mask = masking_of(tape.head.masks)
        exact = Exact(lambda link, text: mask.message(text, _PEERS.get(link, "realtime")))
        watch: Callable[[Played], None] = exact.watch if is_exact else shape.watch
        replayed = replay(tape, watch, wait_until, is_assessed=is_assessed)
    found = exact.found if is_exact else shape.compare(_bytes_per_ms(replayed), tolerance_ms)
    for at, problem in replayed.problems:
        found.add(Difference(at, problem, ()))
    return Verdict(path, replayed, found, time.process_time() - began, _note(replayed))


def _bytes_per_ms(replayed: Replayed) -> dict[str, int]:
    if replayed.started is None:
        return {}
    return {
        "provider": replayed.started.audio_out.bytes_per_ms,
        "realtime": options_of(replayed.head).session.audio.bytes_per_ms,
    }


def _note(replayed: Replayed) -> str:
    stopped, up_to = replayed.stopped, f"compared up to {replayed.duration_s:.3f} s"
    if stopped is None:
        return f"{up_to}: the tape was cut short there"
    if stopped.end is None:
        return f"{up_to}: {stopped.lost} lines are missing there"
    return ""


def tapes_at(paths: Iterable[Path]) -> Iterator[Path]:
    """The tapes that are named, and those in the folders that are named, by name.

    Raises:
        TapeError: a folder holds none.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        tapes = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not tapes:
            raise TapeError(f"{path}: no tape in this folder")
        yield from tapes
