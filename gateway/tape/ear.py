"""Where on the call's clock the caller heard what was sent, told from marks and clears.

Everything sent lies on one line of bytes, as in the ledger (``gateway.playout``). A mark that comes
back says: by now the phone has played up to here. While a call runs, the ledger has to say at once
how far the phone is; afterwards one knows what came later, and can do better. A phone plays without
a gap until it runs dry, and never catches up. So the delay between a byte's place on the line and
the moment it is heard only grows until the next clear, every mark is an upper bound of it, and the
least of all later marks is the best one: what a mark was late on its way back drops out.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

# The phone ran dry where the delay grows by more than this; less is the network's doing.
GAP_S: Final = 0.010
# Sound that left so long before it was due is hardly late, however late the last marks behind it
# come: so few marks are no proof of a gap.
EARLY_S: Final = 0.150
FEW_MARKS: Final = 10
# Of one tape; 100 ms each, these are fourteen hours of speech. What a forged tape holds beyond is
# taken for sound that was sent with the piece before it, and clears beyond for none.
MOST_PIECES: Final = 500_000
MOST_PASSAGES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes ``start`` to ``end`` of the line, heard without a gap from ``at_s`` on."""

    start: int
    end: int
    at_s: float


@dataclass(slots=True)
class _Piece:
    """Sound that was sent at one time; ``name`` is the mark behind it ("": none)."""

    start: int
    end: int
    sent_at: float
    name: str = ""
    came_at: float = inf


@dataclass(slots=True)
class Passage:
    """What was sent between two clears.

    ``estimate``: how far the phone was at the clear, by what was known then; ``end`` without one.
    """

    start: int
    end: int = 0
    cleared_at: float | None = None
    estimate: int = 0
    pieces: list[_Piece] = field(default_factory=list)


class Ear:
    """Takes what passed on the provider's link, in order; afterwards says what was heard when.

    Args:
        bytes_per_ms: of the line to the phone.
    """

    def __init__(self, bytes_per_ms: int) -> None:
        self._bytes_per_s = bytes_per_ms * 1000
        self._sent = self._pieces = 0
        self.passages = [Passage(0)]
        self._waiting: dict[str, _Piece] = {}
        self._anchor = (0, 0.0)
        self._stretches: list[Stretch] = []
        self._starts: list[int] = []

    @property
    def sent_bytes(self) -> int:
        """How long the line is so far."""
        return self._sent

    def sound_sent(self, size_bytes: int, t: float) -> None:
        """Sound left."""
        passage = self.passages[-1]
        if self._position(t) >= self._sent:
            self._anchor = (self._sent, t)
        last = passage.pieces[-1] if passage.pieces else None
        is_full = self._pieces >= MOST_PIECES
        if last is not None and (is_full or (not last.name and last.sent_at == t)):
            last.end += size_bytes
        else:
            passage.pieces.append(_Piece(self._sent, self._sent + size_bytes, t))
            self._pieces += 1
        self._sent += size_bytes
        passage.end = self._sent

    def mark_sent(self, name: str) -> None:
        """A mark left behind what was sent so far."""
        pieces = self.passages[-1].pieces
        if pieces and len(self._waiting) < MOST_PIECES:
            pieces[-1].name = name
            self._waiting[name] = pieces[-1]

    def mark_came(self, name: str, t: float) -> None:
        """A mark came back; one that was cleared proves nothing."""
        piece = self._waiting.get(name)
        if piece is None:
            return
        for waiting in list(self._waiting):
            self._waiting.pop(waiting).came_at = t
            if waiting == name:
                break
        self._anchor = (piece.end, t)

    def cleared(self, t: float) -> None:
        """A clear left: what the phone has not played by now is never heard."""
        passage = self.passages[-1]
        if len(self.passages) >= MOST_PASSAGES:
            self._waiting.clear()
            return
        passage.cleared_at, passage.estimate = t, max(self._position(t), passage.start)
        self._waiting.clear()
        self._anchor = (self._sent, t)
        self.passages.append(Passage(self._sent))

    def _position(self, t: float) -> int:
        """How far the phone is, as the ledger says it."""
        start, at = self._anchor
        limit = next(iter(self._waiting.values())).end if self._waiting else self._sent
        return min(limit, start + int(max(0.0, t - at) * self._bytes_per_s))

    # ------------------------------------------------------------------ afterwards

    def settle(self, cuts: dict[int, int], ended_at: float) -> None:
        """The tape is over: work out what was heard when.

        Args:
            cuts: start of a passage -> how far of it was heard, where somebody knows better.
            ended_at: when the call was over; nothing is heard behind that.
        """
        self._stretches = []
        for passage in self.passages:
            end = passage.end if passage.cleared_at is None else passage.estimate
            end = min(cuts.get(passage.start, end), passage.end)
            self._stretches += self._heard(passage, end, ended_at)
        self._starts = [stretch.start for stretch in self._stretches]

    def _heard(self, passage: Passage, end: int, ended_at: float) -> Iterator[Stretch]:
        pieces = [piece for piece in passage.pieces if piece.start < end]
        start, at_s, delay_s = passage.start, 0.0, -inf
        for piece, (latest_s, marks) in zip(pieces, _least(self._delays(pieces)), strict=True):
            # Nothing is heard before it was sent.
            sent_s = piece.sent_at - piece.start / self._bytes_per_s
            new_s = max(sent_s, delay_s) if latest_s == inf else max(sent_s, latest_s)
            is_proved = marks >= FEW_MARKS or sent_s > delay_s - EARLY_S
            if new_s - delay_s > GAP_S and is_proved:
                yield from self._up_to(start, piece.start, at_s, ended_at)
                start, delay_s = piece.start, new_s
                at_s = delay_s + start / self._bytes_per_s
        yield from self._up_to(start, end, at_s, ended_at)

    def _delays(self, pieces: list[_Piece]) -> list[float]:
        """Each mark's bound of the delay."""
        return [piece.came_at - piece.end / self._bytes_per_s for piece in pieces]

    def _up_to(self, start: int, end: int, at_s: float, ended_at: float) -> Iterator[Stretch]:
        end = min(end, start + int(max(0.0, ended_at - at_s) * self._bytes_per_s))
        if start < end:
            yield Stretch(start, end, at_s)

    @property
    def stretches(self) -> list[Stretch]:
        """What was heard, in order."""
        return self._stretches

    def parts(self, start: int, end: int) -> list[Stretch]:
        """What was heard of some of the line."""
        found = []
        for stretch in self._stretches[max(0, bisect_right(self._starts, start) - 1) :]:
            if stretch.start >= end:
                break
            first, last = max(start, stretch.start), min(end, stretch.end)
            if first < last:
                at_s = stretch.at_s + (first - stretch.start) / self._bytes_per_s
                found.append(Stretch(first, last, at_s))
        return found

    def ends_at_s(self, stretch: Stretch) -> float:
        """When the last of it was heard."""
        return stretch.at_s + (stretch.end - stretch.start) / self._bytes_per_s

    def sent_at(self, position: int) -> float:
        """When the sound at a place of the line left; 0.0 for one that never did."""
        starts = [passage.start for passage in self.passages]
        passage = self.passages[max(0, bisect_right(starts, position) - 1)]
        ends = [piece.end for piece in passage.pieces]
        index = bisect_right(ends, position)
        return passage.pieces[index].sent_at if index < len(ends) else 0.0


def _least(delays: list[float]) -> list[tuple[float, int]]:
    """For each, the least of it and all later ones, and how many of these there are."""
    least, marks, found = inf, 0, []
    for delay in reversed(delays):
        least, marks = min(least, delay), marks + (delay < inf)
        found.append((least, marks))
    return found[::-1]
