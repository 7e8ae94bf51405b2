"""The agent's voice at the caller's ear: handed over, accounted for, silenced by a barge-in."""

from collections.abc import Sequence
from typing import Final

from gateway.audio.echo import Played
from gateway.conversation import Conversation
from gateway.desk import CallOptions, Desk
from gateway.downlink import PROMPT_ITEM, Downlink
from gateway.events import (
    AddMessage,
    AudioDelta,
    BargeInConfirmed,
    CallStarted,
    ClearAudio,
    ItemPlayed,
    MarksLost,
    PlayAudio,
    PromptPlayed,
    ProviderCommand,
    QueryPlayout,
    QueueSeen,
    SendMark,
    TruncateItem,
    Underrun,
)
from gateway.playout import Heard, Item, Playout, PlayoutOptions

# A model counts a little less than it sent (85 ms seen, pipecat#2106): near the end is the end.
TRUNCATE_MARGIN_MS: Final = 100
# How long the provider may take to say what it still held before marks have to do.
STATUS_WAIT_S: Final = 0.1
ANNOUNCEMENT: Final = "announcement"
# A report later than this is none.
REPORT_LIMIT_S: Final = 5.0


class Voice:
    """Plays, counts what was heard, and stops."""

    def __init__(self, desk: Desk, options: CallOptions, started: CallStarted) -> None:
        self._desk = desk
        self._options = options
        self._downlink = Downlink(options.session.audio, _playout_options(started, options))
        self._playout = self._downlink.playout
        self.played = Played(started.audio_out.encoding, started.audio_out.rate_hz)
        self._foreign_items: tuple[str, ...] = ()
        self._newest: Item | None = None
        self._watched: Item | None = None
        self._cleared: tuple[float, float] | None = None
        self._queries = 0
        self._queried_at = 0.0
        self.conversation = Conversation()
        self.barge_ins = 0
        self.received_ms = 0.0
        self.heard_ms = 0.0
        # Whether the caller has yet to hear the announcement to its end.
        self.is_announcing = False

    @property
    def ledger(self) -> Playout:
        """What was handed over and heard, to look at."""
        return self._playout

    # ------------------------------------------------------------------ playing

    def play(self, delta: AudioDelta, now: float) -> bool:
        """Queue a delta and hand over what may go; true when something went."""
        self._newest = self._downlink.accept(delta)
        commands = self._playout.release(now, now)
        self._hand_over(commands, now)
        return bool(commands)

    def _hand_over(self, commands: Sequence[ProviderCommand], now: float) -> None:
        if commands:
            self._desk.to_provider.extend(commands)
            sent_ms = self._playout.sent_ms(commands)
            if self._desk.count("down", sent_ms):
                self._desk.tell(QueueSeen("down", self._playout.queued_ms()))
            payloads = [command.payload for command in commands if isinstance(command, PlayAudio)]
            self.played.add(payloads, now, follows=self._playout.ahead_ms(now) > sent_ms)
            if self._playout.gap_ms:
                self._desk.tell(Underrun(self._playout.gap_ms))
                self._playout.gap_ms = 0.0

    def watch(self) -> None:
        """Look out for the moment the sound that was just taken in is heard."""
        self._watched = self._newest

    def heard_since(self, now: float) -> float | None:
        """When the caller began to hear what is watched; None while that is not known."""
        return self._playout.heard_since(self._watched, now) if self._watched else None

    def play_prompt(self, name: str, now: float) -> bool:
        """Let the caller hear a local recording, behind what is queued; false if there is none."""
        pcm = self._options.prompts.get(name, b"")
        if pcm:
            self._desk.tell(PromptPlayed(name))
            self._hand_over(self._downlink.play_prompt(name, pcm, now), now)
        return bool(pcm)

    def announce(self, now: float) -> None:
        """Let the caller hear that the call is recorded, where there is such a recording."""
        self.is_announcing = bool(self._options.prompts.get(ANNOUNCEMENT))
        self.play_prompt(ANNOUNCEMENT, now)

    def duration_ms(self, delta: AudioDelta) -> float:
        """How long a delta is."""
        return self._downlink.duration_ms(delta.payload)

    def is_full(self) -> bool:
        """The caller is minutes behind the model."""
        return self._playout.is_full()

    def end_item(self) -> None:
        """No more audio comes for the present item."""
        self._downlink.end_item()

    def end_response(self, response_id: str) -> None:
        """No more audio comes for this answer."""
        self._downlink.end_response(response_id)

    def is_cancelled(self, response_id: str) -> bool:
        """Whether this answer was interrupted: its late audio never plays."""
        return self._downlink.is_cancelled(response_id)

    def cancel(self, response_id: str) -> None:
        """Let nothing more of this answer be played."""
        self._downlink.cancel(response_id)

    def is_drained(self, now: float) -> bool:
        """Everything has been played."""
        return self._playout.is_drained(now)

    def unheard_ms(self, now: float) -> float:
        """Audio the caller has not heard yet."""
        return self._playout.unheard_ms(now)

    def advance(self, now: float) -> None:
        """Hand over what may go, and close the accounts of what was heard to its end."""
        self._hand_over(self._playout.release(now), now)
        for heard in self._playout.collect(now):
            self._account(heard)
            if heard.item_id == PROMPT_ITEM + ANNOUNCEMENT:
                self.is_announcing = False

    # ------------------------------------------------------------------ the provider's word

    def mark_reached(self, name: str, now: float) -> None:
        """The phone has played so far; a mark that was cleared confirms the clear."""
        if not self._playout.mark_reached(name, now):
            self._clear_confirmed(now)

    def playout_reported(self, queued_ms: int, now: float) -> None:
        """The provider says what it still held when we cleared, the last time we asked."""
        self._queries = max(0, self._queries - 1)
        if self._queries:
            return
        self._desk.silence("cut")
        self.settle(queued_ms)
        self._clear_confirmed(now)

    def pause(self) -> None:
        """The provider's queue is full."""
        self._playout.pause()

    def resume(self) -> None:
        """The provider takes audio again."""
        self._playout.resume()

    def next_timer(self) -> float | None:
        """When ``timer_fired`` wants to be called."""
        return self._playout.next_timer()

    def timer_fired(self, now: float) -> None:
        """Time has passed for the phone too."""
        if self._playout.timer_fired(now):
            self._desk.tell(MarksLost())

    # ------------------------------------------------------------------ stopping

    def stop(self, now: float, *, is_barge_in: bool = True) -> None:
        """Silence the agent wherever its voice is; nothing happens when all was heard.

        It is no barge-in when we do so ourselves, to make room for last words.
        """
        self.settle()
        if self._playout.is_drained(now):
            self._cut_stalled(now)
            return
        unheard_ms = self._playout.unheard_ms(now)
        unsent_ms = self._take_back_unsent()
        self.played.cut(now)
        self._desk.drop("down", "unheard", unsent_ms + self._playout.clear(now))
        self._downlink.forget()
        if is_barge_in:
            self.barge_ins += 1
            self._cleared = (now, unheard_ms - unsent_ms)
        self._clear(now if is_barge_in else 0.0, now)

    def _clear(self, asked_at: float, now: float) -> None:
        if self._options.has_status:
            # A report that never came is not waited for at the next barge-in.
            self._queries = 1 + (self._queries if now < self._queried_at + REPORT_LIMIT_S else 0)
            self._queried_at = now
            self._desk.to_provider.extend((QueryPlayout(), ClearAudio(asked_at)))
            self._desk.alarms["cut"] = now + STATUS_WAIT_S
        else:
            self._desk.to_provider.append(ClearAudio(asked_at))
            self.settle()

    def _cut_stalled(self, now: float) -> None:
        """Nothing is to be silenced, but an item that never ended is cut where it stopped."""
        self._desk.drop("down", "unheard", self._playout.clear(now))
        self._downlink.forget()
        self.settle()

    def _take_back_unsent(self) -> float:
        """Audio that waits for the socket must not follow the clear; returns its ms."""
        queue = self._desk.to_provider
        unsent: list[ProviderCommand] = [c for c in queue if isinstance(c, PlayAudio | SendMark)]
        kept = [c for c in queue if not isinstance(c, PlayAudio | SendMark)]
        queue.clear()
        queue.extend(kept)
        unsent_ms = self._playout.unsend(unsent)
        self._desk.count("down", -unsent_ms)
        return unsent_ms

    def settle(self, queued_ms: int | None = None) -> None:
        """Close the accounts of what was cut, and make the model forget what was not heard."""
        for heard in self._playout.settle(queued_ms):
            self._downlink.cancel(heard.response_id)
            self._account(heard)
            if self._is_to_truncate(heard):
                self._desk.to_realtime.append(
                    TruncateItem(heard.item_id, heard.content_index, int(heard.heard_ms))
                )

    def _is_to_truncate(self, heard: Heard) -> bool:
        if not heard.response_id or heard.item_id in self._foreign_items:
            return False
        return not heard.is_done or heard.received_ms - heard.heard_ms > TRUNCATE_MARGIN_MS

    def _account(self, heard: Heard) -> None:
        if not heard.response_id:
            return
        words = self.conversation.words(heard.item_id)
        text = self.conversation.heard(heard.item_id, heard.received_ms, heard.heard_ms)
        self.received_ms += heard.received_ms
        self.heard_ms += heard.heard_ms
        self._desk.tell(
            ItemPlayed(
                *(heard.item_id, heard.received_ms, heard.heard_ms, text),
                unheard=words[len(text) :].strip(),
            )
        )

    def _clear_confirmed(self, now: float) -> None:
        if self._cleared is not None:
            at, unheard_ms = self._cleared
            self._cleared = None
            self._desk.tell(BargeInConfirmed(min(unheard_ms, (now - at) * 1000)))

    def outlive_session(self, response_id: str) -> None:
        """The session is gone: what is queued plays on, but its items cannot be truncated."""
        self.settle()
        self._queries = 0
        self._downlink.end_response(response_id)
        self._foreign_items = self._playout.open_items()

    def replay(self) -> list[AddMessage]:
        """The conversation for a new session, with what is just being said."""
        playing = (self.conversation.words(item) for item in self._foreign_items)
        unfinished = [AddMessage("assistant", words) for words in playing if words.strip()]
        return self.conversation.replay() + unfinished

    def finish(self, now: float) -> None:
        """The call is over: close every account."""
        self.settle()
        self._desk.drop("down", "ended", self._playout.clear(now))
        self.settle()


def _playout_options(started: CallStarted, options: CallOptions) -> PlayoutOptions:
    return PlayoutOptions(
        audio=started.audio_out,
        lead_ms=options.lead_ms,
        frame_ms=options.frame_ms,
        mark_interval_ms=options.mark_interval_ms,
        max_message_bytes=options.max_message_bytes,
        has_marks=options.has_marks,
    )
