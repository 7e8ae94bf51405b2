"""The ledger of what the caller has heard, kept while agent audio is handed over in time order.

Theory of operation. Everything sent to the provider lies on one time line, counted in bytes of the
provider's format. Each item of agent speech owns spans of it. Audio leaves in pieces, each followed
by a mark, so marks are at most ``mark_interval_ms`` apart; a mark that comes back anchors the line:
"at this moment the phone had played up to here". Between anchors the phone plays in real time, so
the best estimate is the anchor plus the time gone by, never beyond the next mark that has not come
back. A phone that plays late (a jitter buffer) therefore never makes us believe more was heard.

Only where marks do not come back at all does the clock alone have to do; that is said once.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.events import AudioFormat, PlayAudio, ProviderCommand, SendMark

# The longest answer a model gives is about 4,096 tokens, some 200 s of speech; more is a fault.
QUEUE_LIMIT_MS = 240_000
# Marks remembered while none comes back: at ten a second, what one lead needs and far more.
MARKS_KEPT = 600
# Silence of each encoding, to fill the last frame of an item.
_SILENCE = {"pcm": b"\x00", "ulaw": b"\xff", "alaw": b"\xd5"}


@dataclass(frozen=True, slots=True)
class PlayoutOptions:
    """How audio is handed to one provider.

    ``lead_ms``: how far ahead of the phone we feed at most; half of it is refilled at a time.
    ``frame_ms``: every payload is a multiple. ``max_message_bytes``: largest payload.
    """

    audio: AudioFormat
    lead_ms: int
    frame_ms: int = 20
    mark_interval_ms: int = 100
    max_message_bytes: int = 8000
    has_marks: bool = True


@dataclass(slots=True)
class Item:
    """One item of agent speech, or of a local prompt (then ``response_id`` is empty)."""

    item_id: str
    response_id: str
    content_index: int
    received_ms: float = 0.0
    is_done: bool = False
    pending: bytearray = field(default_factory=bytearray)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def played_bytes(self, position: int) -> int:
        """How much of this item lies before a position of the time line."""
        return sum(min(end, position) - start for start, end in self.spans if start < position)


@dataclass(frozen=True, slots=True)
class Heard:
    """The closed account of one item: what the model made of it and what the caller heard."""

    item_id: str
    response_id: str
    content_index: int
    received_ms: float
    heard_ms: float
    is_done: bool


@dataclass(slots=True)
class _Cut:
    """A barge-in whose exact position the provider has yet to tell."""

    items: list[Item]
    sent: int
    estimate: int
    floor: int


class Playout:
    """Hands agent audio over and knows how much of each item was heard."""

    def __init__(self, options: PlayoutOptions) -> None:
        self._options = options
        self._rate = options.audio.bytes_per_ms
        self._frame = options.frame_ms * self._rate
        most = min(options.mark_interval_ms * self._rate, options.max_message_bytes)
        self._piece = max(self._frame, _whole(most, self._frame))
        self._lead = options.lead_ms * self._rate
        # Half of the lead is refilled at a time: a release is a timer and a write.
        self._refill_at = self._lead - options.lead_ms // 2 * self._rate
        self._silence = _SILENCE[options.audio.encoding]
        self._items: deque[Item] = deque()
        self._queued = 0
        self._sent = 0
        self._confirmed = 0
        self._anchor = (0, 0.0)
        self._marks: deque[tuple[str, int]] = deque(maxlen=MARKS_KEPT)
        self._mark_count = 0
        self._is_paused = False
        self._current: Item | None = None
        self._cut: _Cut | None = None
        self._wake_at: float | None = None
        # How long the phone was dry in the middle of an item; set back by whoever tells of it.
        self.gap_ms = 0.0
        self.marks_are_lost = not options.has_marks

    # ------------------------------------------------------------------ taking audio in

    def add(self, item_id: str, response_id: str, content_index: int, payload: bytes) -> Item:
        """Queue audio of an item; audio of another answer's item closes the one before it."""
        item = self._find(item_id, content_index)
        if item is None:
            item = Item(item_id, response_id, content_index)
            if response_id:
                self._finish_all()
            self._items.append(item)
        item.is_done = False
        item.pending += payload
        self._queued += len(payload)
        return item

    def _find(self, item_id: str, content_index: int) -> Item | None:
        """The open account of an item; a prompt may have been played in the middle of it."""
        for item in reversed(self._items):
            if (item.item_id, item.content_index) == (item_id, content_index):
                return item
        return None

    def _finish_all(self) -> None:
        for item in self._items:
            self._finish(item)

    def finish(self, item_id: str) -> None:
        """No more audio comes for this item: its last frame may be filled with silence."""
        for item in self._items:
            if item.item_id == item_id:
                self._finish(item)

    def finish_response(self, response_id: str) -> None:
        """No more audio comes for any item of this response."""
        for item in self._items:
            if item.response_id == response_id:
                self._finish(item)

    def _finish(self, item: Item) -> None:
        item.is_done = True
        short = -len(item.pending) % self._frame
        item.pending += self._silence * short
        self._queued += short

    # ------------------------------------------------------------------ handing audio over

    def release(self, now: float, asked_at: float = 0.0) -> list[ProviderCommand]:
        """What shall be sent now: pieces up to the lead, each followed by its mark."""
        commands: list[ProviderCommand] = []
        ahead = self._ahead(now)
        if self._queued and not self._is_paused and ahead <= self._refill_at:
            if self._is_silent(now):
                self._note_gap(now)
                self._anchor = (self._sent, now)
            while ahead < self._lead and (piece := self._take()):
                commands.append(PlayAudio(piece, 0.0 if commands else asked_at))
                ahead += len(piece)
                self._sent += len(piece)
                if self._options.has_marks:
                    commands.append(self._mark())
        self._plan(now)
        return commands

    def _note_gap(self, now: float) -> None:
        """The phone is silent; if it stopped in the middle of an item that goes on, it ran dry."""
        item = self._current
        if item is None or not item.spans or len(item.pending) < self._frame:
            return
        if item.spans[-1][1] == self._sent:
            self.gap_ms += max(0.0, now - self._due_at(self._sent)) * 1000

    def _mark(self) -> SendMark:
        self._mark_count += 1
        name = f"m{self._mark_count}"
        self._marks.append((name, self._sent))
        return SendMark(name)

    def _take(self) -> bytes:
        """The next piece of one item; b"" while its next frame is incomplete.

        A prompt that has begun is played to its end before the item it stands in goes on.
        """
        started = [self._current] if self._current is not None else []
        for item in (*started, *self._items):
            size = min(_whole(len(item.pending), self._frame), self._piece)
            if size:
                self._current = item
                return self._cut_off(item, size)
        return b""

    def _cut_off(self, item: Item, size: int) -> bytes:
        piece = bytes(item.pending[:size])
        del item.pending[:size]
        self._queued -= size
        _extend(item.spans, self._sent, self._sent + size)
        return piece

    def pause(self) -> None:
        """The provider's queue is full."""
        self._is_paused = True

    def resume(self) -> None:
        """The provider takes audio again."""
        self._is_paused = False

    # ------------------------------------------------------------------ what was heard

    def mark_reached(self, name: str, now: float) -> bool:
        """A mark came back; false for one we do not know: cleared or made up, it proves nothing."""
        marks = self._marks
        if not marks or (name != marks[0][0] and all(name != known for known, _ in marks)):
            return False
        known, position = marks.popleft()
        while known != name:
            known, position = marks.popleft()
        self._confirmed = position
        self._anchor = (position, now)
        self.marks_are_lost = False
        return True

    def _position(self, now: float) -> int:
        """The best estimate of how far the phone has played."""
        start, at = self._anchor
        if now <= at:
            return min(self._limit(), start)
        return min(self._limit(), start + int((now - at) * 1000 * self._rate))

    def _limit(self) -> int:
        """No estimate goes beyond the next mark, nor beyond what was sent."""
        return self._marks[0][1] if self._marks and not self.marks_are_lost else self._sent

    def _ahead(self, now: float) -> int:
        return self._sent - self._position(now)

    def _is_silent(self, now: float) -> bool:
        """Everything sent has been played."""
        if self._marks and not self.marks_are_lost:
            return False
        return self._position(now) >= self._sent

    def heard_since(self, item: Item, now: float) -> float | None:
        """When the phone began to play an item: by its first mark, else by the clock.

        None while it has not, or while its mark has yet to come back.
        """
        if not item.spans:
            return None
        start = item.spans[0][0]
        at = self._due_at(start)
        is_heard = at <= now if self.marks_are_lost else self._confirmed > start
        return at if is_heard else None

    def is_drained(self, now: float) -> bool:
        """No whole frame is queued and everything sent has been played."""
        return self._is_silent(now) and all(len(i.pending) < self._frame for i in self._items)

    def queued_ms(self) -> float:
        """Audio that has not been sent yet."""
        return self._queued / self._rate

    def ahead_ms(self, now: float) -> float:
        """Audio that was sent and has not been heard yet."""
        return self._ahead(now) / self._rate

    def unheard_ms(self, now: float) -> float:
        """Audio the caller has not heard yet, wherever it is."""
        return (self._queued + self._ahead(now)) / self._rate

    def is_full(self) -> bool:
        """More is queued than any answer needs."""
        return self.queued_ms() > QUEUE_LIMIT_MS

    def collect(self, now: float) -> list[Heard]:
        """Close the accounts of items that were played to their end."""
        if not self._items or not self._items[0].is_done:
            return []
        position, heard = self._position(now), []
        while self._items and _is_played(self._items[0], position):
            heard.append(self._close(self._items.popleft(), position))
        return heard

    def _close(self, item: Item, position: int) -> Heard:
        heard_ms = min(item.played_bytes(position) / self._rate, item.received_ms)
        return Heard(
            item.item_id,
            item.response_id,
            item.content_index,
            item.received_ms,
            heard_ms,
            item.is_done,
        )

    # ------------------------------------------------------------------ barge-in

    def unsend(self, commands: Sequence[ProviderCommand]) -> float:
        """Take back the last commands, which never reached the socket; returns ms of audio."""
        unsent_ms = self.sent_ms(commands)
        self._sent -= int(unsent_ms * self._rate)
        names = {c.name for c in commands if isinstance(c, SendMark)}
        kept = [mark for mark in self._marks if mark[0] not in names]
        self._marks = deque(kept, MARKS_KEPT)
        for item in self._items:
            item.spans = [(a, min(b, self._sent)) for a, b in item.spans if a < self._sent]
        return unsent_ms

    def sent_ms(self, commands: Sequence[ProviderCommand]) -> float:
        """How much audio is in some commands."""
        return sum(len(c.payload) for c in commands if isinstance(c, PlayAudio)) / self._rate

    @property
    def items(self) -> tuple[Item, ...]:
        """The open accounts, to look at."""
        return tuple(self._items)

    def open_items(self) -> tuple[str, ...]:
        """The items whose accounts are not closed yet, in the order they are played."""
        return tuple(dict.fromkeys(item.item_id for item in self._items))

    def clear(self, now: float) -> float:
        """Forget what has not been heard; returns the ms that had not left yet.

        The accounts stay open until ``settle``: a provider that can be asked knows better than
        the marks how much it still held.
        """
        unsent_ms = self.queued_ms()
        self._cut = _Cut(list(self._items), self._sent, self._position(now), self._confirmed)
        self._items.clear()
        self._current = None
        self._queued = 0
        self._marks.clear()
        self._anchor = (self._sent, now)
        self._is_paused = False
        self._wake_at = None
        return unsent_ms

    def settle(self, queued_ms: int | None = None) -> list[Heard]:
        """Close the accounts of the items that were cut; ``queued_ms`` is the provider's word."""
        cut, self._cut = self._cut, None
        if cut is None:
            return []
        position = cut.estimate
        if queued_ms is not None:
            position = max(cut.floor, cut.sent - queued_ms * self._rate)
        return [self._close(item, position) for item in cut.items]

    # ------------------------------------------------------------------ time

    def next_timer(self) -> float | None:
        """When ``timer_fired`` wants to be called; later than the time of the last call."""
        return self._wake_at

    def timer_fired(self, now: float) -> bool:
        """Look at the clock; true when marks have just been found lost."""
        was_lost = self.marks_are_lost
        if self._marks and now >= self._overdue_at():
            self.marks_are_lost = True
        self._plan(now)
        return self.marks_are_lost and not was_lost

    def _overdue_at(self) -> float:
        # Half the lead: found out before the phone runs dry; but no phone's buffer is a second.
        patience_s = max(1.0, self._options.lead_ms / 2000)
        return self._due_at(self._marks[0][1]) + patience_s

    def _due_at(self, position: int) -> float:
        start, at = self._anchor
        return at + (position - start) / self._rate / 1000

    def _plan(self, now: float) -> None:
        """Wake when the lead wants refilling, when all was played, or when a mark is overdue."""
        waits_for_mark = self._marks and not self.marks_are_lost
        if self._ahead(now) <= 0 and not waits_for_mark:
            self._wake_at = None
            return
        at = self._overdue_at() if waits_for_mark else self._due_at(self._sent)
        self._wake_at = max(min(at, self._refill_due_at()), now + 0.005)

    def _refill_due_at(self) -> float:
        """When the clock brings the refill; inf while that waits for a mark, a frame or a word."""
        position = self._sent - self._refill_at
        if self._is_paused or self._queued < self._frame or position > self._limit():
            return math.inf
        return self._due_at(position)


def _whole(size: int, frame: int) -> int:
    return size // frame * frame


def _extend(spans: list[tuple[int, int]], start: int, end: int) -> None:
    if spans and spans[-1][1] == start:
        start = spans.pop()[0]
    spans.append((start, end))


def _is_played(item: Item, position: int) -> bool:
    return item.is_done and not item.pending and (not item.spans or item.spans[-1][1] <= position)
