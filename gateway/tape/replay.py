"""Plays a tape into the same bridge and call that are live, and shows what they do this time.

What came in comes in again, pass by pass, at the times of the tape; nothing waits, so an hour takes
seconds. What the tape says was sent, and what is sent now, is handed over pass by pass to whoever
compares them.
"""

import asyncio
import dataclasses
import gc
import hashlib
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol, cast, get_args
from urllib.parse import urlencode

import msgspec

from gateway.audio.wav import read_wav
from gateway.bridge import Bridge, Outside
from gateway.call import Call, CallOptions
from gateway.errors import ConnectError, TapeError
from gateway.events import CallStarted, Fact, Reason, Termination
from gateway.providers import HttpRequest
from gateway.providers.table import doors
from gateway.realtime import Link
from gateway.realtime.protocol import RealtimeProtocol
from gateway.shipped import PROMPT_HZ, PROMPTS, shipped_sound
from gateway.tape.passes import (
    MOST_LINES,
    Ahead,
    Aside,
    Pass,
    Sent,
    Step,
    Stop,
    on_the_wire,
    steps,
)
from gateway.tape.reading import LONGEST_S, Head, Line, Tape, named
from gateway.tape.sounds import unpacked
from gateway.tape.stage import Clockwork, Stage, StageLink

# A timer may ring so late on a busy machine; one that is later is missing on the tape.
LATEST_TIMER_S: Final = 1.0
# Of a longer time without a pass only this much counts: the loop may have stood still in it.
LONGEST_GAP_S: Final = 0.1
# A sleep may end so early: some event loops (uvloop) count whole milliseconds.
EARLIEST_TIMER_S: Final = 0.005
# Recorded anew, a timer that the tape does not show for so long rings when it was due.
PATIENCE_S: Final = 0.1
# What came so little behind the time of a timer was read first: an event loop is never on time.
OVERTAKES_S: Final = 0.005
# Timers of a call that a recording lets ring beyond what is on the tape.
MOST_RINGS: Final = 1_000_000
_US: Final = 1e-6
# More than a call of days has; what a forged tape holds beyond is not kept.
MOST_FACTS: Final = 500_000
# Words in them: an item's are told again as they grow.
MOST_FACT_CHARS: Final = 32_000_000
MOST_PROBLEMS: Final = 100
MOST_ASIDES: Final = 10_000
# The longest recording: eleven minutes.
MOST_PROMPT_BYTES: Final = 32 * 1024 * 1024
# New objects that make the interpreter look for cycles; it usually takes 700.
COLLECT_AFTER: Final = 100_000


# What comes in of a link, with data and without.
_MESSAGES: Final = frozenset({"text", "binary"})
_HAPPENINGS: Final[Mapping[str, frozenset[str]]] = {
    "provider": frozenset({"closed", "freed"}),
    "realtime": frozenset({"closed", "freed", "opened", "refused"}),
}
# Settings that are divided by, or stepped with.
_STEPS: Final = frozenset({"frame_ms", "mark_interval_ms", "max_message_bytes"})


class Played(msgspec.Struct, frozen=True):
    """One pass, as it was and as it is now; ``cause`` is None for a timer.

    ``call`` is None before the start message was accepted.
    """

    t: float
    cause: Line | None
    expected: list[Sent]
    came: list[Sent]
    call: Call | None


@dataclass(slots=True)
class Replayed:
    """What came of a replay.

    ``problems``: what is wrong beside the messages, a line each with its time. ``digest``: SHA-256
    of all that was sent, with the time of its pass. ``stopped``: the tape's last line, None where
    it was cut short.
    """

    head: Head
    started: CallStarted | None = None
    call: Call | None = None
    facts: list[tuple[float, Fact]] = field(default_factory=list)
    problems: list[tuple[float, str]] = field(default_factory=list)
    duration_s: float = 0.0
    messages: int = 0
    digest: str = ""
    stopped: Line | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the tape goes to the call's end, and nothing of it is missing."""
        return self.stopped is not None and self.stopped.end is not None and not self.stopped.lost


class Recorder(Protocol):
    """Records a replay as a live call is recorded (``gateway.tape.renew``)."""

    def wrap(self, link: Link, outside: Outside) -> tuple[Link, Outside]:
        """The provider's link and the world, with the recorder in between."""

    def began(self) -> None:
        """The call is admitted, at the time it was given as its start."""

    def hung_up(self, reason: Reason) -> None:
        """The call is about to be ended from outside."""

    def left(self, termination: Termination | None, stopped: Line | None) -> None:
        """Nothing more comes: how the call ended, and the last line of the tape, where it has one.

        Args:
            termination: None where it has not ended.
            stopped: see ``Replayed``.
        """


def replay(
    tape: Tape,
    watch: Callable[[Played], None] = lambda _: None,
    wait_until: Callable[[float], None] = lambda _: None,
    recorder: Recorder | None = None,
    *,
    is_assessed: bool = True,
) -> Replayed:
    """Play the tape to its end; may be called from within a running event loop, which then waits.

    Args:
        tape: open, no line of it read yet.
        watch: told each pass in which something was sent, or should have been.
        wait_until: called before each pass with its time; may pass the time until then.
        recorder: records it. Then the call goes its own way: timers ring when they are due, not
            only where the tape shows that they did, and behind the tape too, until the call ends.
        is_assessed: whether the caller's sound is, as it is live. Else the ``facts`` lack every
            ``AudioAssessed`` and all that is sent is the same.

    Raises:
        TapeError: the tape cannot be read or played.
    """

    def play() -> Replayed:
        with (
            named(tape.path),
            _seldom_collected(),
            asyncio.Runner(loop_factory=Clockwork) as runner,
        ):
            played = _Replay(tape, watch, wait_until, recorder, is_assessed=is_assessed)
            # The runner writes its task down in words: a result in it would be written down too.
            runner.run(played.play())
            return played.result

    if not _is_in_a_loop():
        return play()
    with ThreadPoolExecutor(1) as thread:  # a thread has room for one running loop only
        return thread.submit(play).result()


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """A replay makes hardly any cycles, and looking for them takes a quarter of its time."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def options_of(head: Head) -> CallOptions:
    """What the call was like.

    Raises:
        TapeError: the first line's settings cannot be used.
    """
    call = head.settings.call
    prompts = call.get("prompts") or {}
    try:
        _check_numbers(call)
        sounds = {
            name: _own_prompt(head, name, _bounded(name, size)) or _prompt(name, size)
            for name, size in prompts.items()
        }
        fields: dict[str, Any] = call | {"prompts": {}}
        options = msgspec.convert(fields, CallOptions)
    except (msgspec.ValidationError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise TapeError(f"settings of the call on tape: {error}") from None
    return dataclasses.replace(options, prompts=sounds)


def _bounded(name: str, size_bytes: int) -> int:
    if not 0 <= size_bytes <= MOST_PROMPT_BYTES:
        raise ValueError(f"prompts: {name} of {size_bytes} bytes")
    return size_bytes


def _own_prompt(head: Head, name: str, size_bytes: int) -> bytes:
    """The recording that is on the tape, b"" where there is none."""
    sound = head.sounds.get(name)
    return unpacked(sound, size_bytes) if sound is not None else b""


def _check_numbers(call: Mapping[str, Any]) -> None:
    """No call has such settings, and a core that was given them might not come to an end.

    Raises:
        ValueError: names the first.
    """
    for name, value in call.items():
        least = 1 if name in _STEPS else 0
        if type(value) in {int, float} and not least <= value <= LONGEST_S:
            raise ValueError(f"{name}: {value} is not between {least} and {LONGEST_S:.0f}")


@lru_cache(maxsize=16)
def _prompt(name: str, size_bytes: int) -> bytes:
    """The shipped recording if it is as long as the one on tape; else silence of that length."""
    if name in PROMPTS:
        pcm = read_wav(shipped_sound(PROMPTS[name]), PROMPT_HZ)
        if len(pcm) == size_bytes:
            return pcm
    return bytes(size_bytes)


class _Replay:
    """One tape being played."""

    def __init__(
        self,
        tape: Tape,
        watch: Callable[[Played], None],
        wait_until: Callable[[float], None],
        recorder: Recorder | None,
        *,
        is_assessed: bool,
    ) -> None:
        self._tape = tape
        self._is_assessed = is_assessed
        self._recorder = recorder
        self._head = tape.head
        self._watch = watch
        self._wait_until = wait_until
        self._loop = cast("Clockwork", None)
        self._stage = Stage()
        self.result = Replayed(tape.head)
        self._hash = hashlib.sha256()
        self._asides: list[str] = []
        self._tail: Played | None = None
        self._shut_late: set[str] = set()
        self._late: tuple[float, float] | None = None
        self._calls = self._rings = self._told_chars = 0

    async def play(self) -> None:
        """To the tape's end, or as far as it goes."""
        self._loop = cast("Clockwork", asyncio.get_running_loop())
        self._bridge = self._make_bridge()
        self._set_going(self._bridge.await_start())
        await self._rest()
        if self._recorder is None:
            await self._play_steps(steps(self._tape))
        else:
            ahead = Ahead(steps(self._tape))
            await self._play_steps(ahead, ahead)
            await self._record_end(self._recorder)
        await self._finish()

    async def _play_steps(self, those: Iterable[Step], ahead: Ahead | None = None) -> None:
        for step in those:
            if ahead is not None and not (isinstance(step, Stop) and step.line.end is None):
                await self._ring_missing(step.t, ahead)
            if isinstance(step, Pass):
                await self._play_pass(step)
            elif isinstance(step, Aside):
                await self._stand_aside(step.line)
            else:
                self.result.stopped = step.line
                return

    def _set_going(self, work: Coroutine[Any, Any, Any]) -> None:
        self._task: asyncio.Task[Any] = self._loop.create_task(work)
        # Where the tape is given up, nobody asks how the call ended: that is no news for a log.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _make_bridge(self) -> Bridge:
        head = self._head
        door = doors(public_url="", has_softphone=True, insecure=True).get(head.provider)
        if door is None:
            raise TapeError(f"no provider {head.provider!r} in this gateway")
        url = f"ws://tape/?{urlencode(head.query, errors='replace')}"
        link: Link = self._stage.provider
        self._outside = Outside(
            dial=self._stage.dial,
            observe=self._observe,
            perform=_perform_nothing,
            clock=self._loop.time,
            start_deadline_s=head.settings.start_deadline_s,
            send_timeout_s=head.settings.send_timeout_s,
        )
        if self._recorder is not None:
            link, self._outside = self._recorder.wrap(link, self._outside)
        stream = door.connect(HttpRequest("GET", url))
        return Bridge(stream, link, RealtimeProtocol(head.dialect), self._outside)

    def _observe(self, fact: Fact) -> None:
        facts = self.result.facts
        chars = len(getattr(fact, "text", "")) + len(getattr(fact, "unheard", ""))
        if len(facts) < MOST_FACTS and self._told_chars + chars <= MOST_FACT_CHARS:
            self._told_chars += chars
            facts.append((self._loop.now, fact))

    # ------------------------------------------------------------------ steps

    async def _play_pass(self, step: Pass) -> None:
        loop, stage, cause = self._loop, self._stage, step.cause
        if cause is not None:
            if step.t < loop.now:
                raise TapeError(
                    f"at {step.t:.6f} s: stands behind {loop.now:.6f} s: lines are out of order"
                )
            is_to_look = self._late is not None or loop.may_ring(step.t)
            if is_to_look and self._recorder is None and self._is_overdue(step.t):
                await self._ring_aside()
        self._wait_until(step.t)
        # What is sent behind the end carries the time of the last pass.
        loop.now = self.result.duration_s = max(step.t, loop.now)
        stage.expect(step.changes)
        if cause is not None and cause.data is not None and _can_happen(cause):
            link = stage.provider if cause.link == "provider" else stage.realtime
            link.hear(on_the_wire(cause))
        else:
            await self._set_off(cause)
        if loop.calls != self._calls:
            await self._rest()
        self._show(step)

    def _is_overdue(self, now: float) -> bool:
        """Whether a timer should have been on the tape long ago; it happens all the same.

        A loop that stood still reads what came meanwhile before it looks at its timers: what counts
        is how long it has been seen working since the timer was due.
        """
        due = self._loop.next_timer()
        if due is None or due > now or self.result.call is None:
            self._late = None
        elif self._late is None or self._late[0] != due:
            self._late = due, 0.0
        elif self._late[1] <= LATEST_TIMER_S:
            self._late = due, self._late[1] + min(now - self._loop.now, LONGEST_GAP_S)
        else:
            self._late = None
            return True
        return False

    async def _ring_missing(self, until: float, ahead: Ahead) -> None:
        """What the tape does not show happens when it is due."""
        while (
            self.result.call is not None
            and (at := self._next_ring()) < until
            and (self._loop.next_timer() or 0.0) + OVERTAKES_S < until
            and not ahead.has_timer(at + PATIENCE_S)
        ):
            await self._ring_at(at)

    def _next_ring(self) -> float:
        """When the next timer rings, in whole microseconds, behind the pass before."""
        due = self._loop.next_timer()
        if due is None:
            return math.inf
        return max(math.ceil(due / _US), round(self._loop.now / _US) + 1) / 1e6

    async def _ring_at(self, now: float) -> None:
        self._rings += 1
        if self._rings > MOST_RINGS:
            raise TapeError(f"at {now:.6f} s: the call does not come to an end")
        self._loop.now = self.result.duration_s = now
        await self._ring_aside()

    async def _record_end(self, recorder: Recorder) -> None:
        """A call that ended on the tape ends in the recording too, when its own time has come."""
        stopped, call = self.result.stopped, self.result.call
        if stopped is not None and stopped.end is not None:
            while not self._is_over and (at := self._next_ring()) < LONGEST_S:
                await self._ring_at(at)
            self._loop.now = max(self._loop.now, stopped.t)
        recorder.left(call.termination if call else None, stopped)

    async def _ring_aside(
        self, is_wanted: Callable[..., bool] = lambda _: True, early_s: float = 0.0
    ) -> None:
        """Timers ring that have no pass on the tape."""
        self._stage.expect([])
        self._loop.ring(is_wanted, early_s)
        await self._rest()
        self._show(Pass(self._loop.now, None))

    def _show(self, step: Pass) -> None:
        came, self._stage.sent = self._stage.sent, []
        expected, call = step.sent, self.result.call
        self.result.messages += len(expected) + (step.cause is not None)
        if came:
            octets = b"\n".join([m if type(m) is bytes else _octets(m) for _, m in came])
            self._hash.update(b"%.6f%b" % (step.t, octets))
        played = Played(step.t, step.cause, expected, came, call)
        if call is not None and call.termination is not None:
            self._shut_late.update(link for link, _, kind in step.changes if kind == "shut")
            self._keep_tail(played)
        elif expected or came:
            self._watch(played)

    @property
    def _is_over(self) -> bool:
        return self.result.call is not None and self.result.call.termination is not None

    def _keep_tail(self, played: Played) -> None:
        """Behind the end tasks take their time: what they send has no pass of its own."""
        if self._tail is None:
            self._tail = played
        else:
            self._tail.expected.extend(played.expected)
            self._tail.came.extend(played.came)
            if len(self._tail.expected) > MOST_LINES:
                raise TapeError(f"more than {MOST_LINES} messages were sent behind the end")

    async def _stand_aside(self, line: Line) -> None:
        self._asides.append(_aside(line))
        if len(self._asides) > MOST_ASIDES:
            raise TapeError(f"dials and closes more than {MOST_ASIDES} times")
        if len(self._asides) > len(self._stage.asides):
            self._loop.now = max(self._loop.now, line.t)
            await self._ring_aside(lambda callback: not self._is_alarm(callback), EARLIEST_TIMER_S)

    def _is_alarm(self, callback: Callable[..., object]) -> bool:
        """Whether this is the call's own alarm, each ring of which is on the tape."""
        return getattr(callback, "__self__", None) is self._bridge

    async def _set_off(self, cause: Line | None) -> None:
        if cause is None:
            self._loop.ring(self._is_alarm)
        elif cause.began:
            await self._begin(cause.t)
        elif cause.hang_up:
            self._hang_up(cause)
        elif cause.stopped:
            self._task.cancel()
            await self._rest()
        elif _can_happen(cause):
            self._link_did(cause)
        else:
            what = " ".join(filter(None, (cause.link, cause.dir, cause.kind))) or "an empty line"
            raise TapeError(f"at {cause.t:.6f} s: {what}: nothing that can happen to a call")

    async def _begin(self, now: float) -> None:
        if self.result.call is not None:
            raise TapeError(f"at {now:.6f} s: the call was begun before")
        await self._rest()
        now = self._outside.clock()
        try:
            started = self._task.result()
        except Exception as error:  # noqa: BLE001  # a call that breaks so early cannot be played
            raise TapeError(
                f"at {now:.6f} s: the call was begun, but this gateway finds no start message it "
                f"accepts ({error})"
            ) from None
        options = options_of(self._head)
        try:
            call = self._make_call(started, options, now)
        except Exception as error:  # noqa: BLE001  # whatever it does not like of its options
            raise TapeError(f"settings of the call on tape: {error!r}") from None
        self.result.started, self.result.call = started, call
        if self._recorder is not None:
            self._recorder.began()
        self._set_going(self._bridge.run(call))

    def _make_call(self, started: CallStarted, options: CallOptions, now: float) -> Call:
        offset_s, is_assessed = self._head.unix_offset_s, self._is_assessed
        return Call(started, options, now, unix_offset_s=offset_s, is_assessed=is_assessed)

    def _hang_up(self, cause: Line) -> None:
        if cause.hang_up not in get_args(Reason):
            raise TapeError(f"at {cause.t:.6f} s: nobody hangs up because of {cause.hang_up!r}")
        if self.result.call is None:
            return
        reason = cast("Reason", cause.hang_up)
        if self._recorder is not None:
            self._recorder.hung_up(reason)
        self._bridge.hang_up(reason)

    def _link(self, cause: Line) -> StageLink:
        return self._stage.provider if cause.link == "provider" else self._stage.realtime

    def _link_did(self, cause: Line) -> None:
        link = self._link(cause)
        if cause.kind == "closed":
            link.leave(cause.code, cause.reason)
        elif cause.kind == "freed":
            self._stage.set(cause.link, "freed")
            link.free()
        elif not self._answer_dial(cause) and not self._is_over:
            self._note(f"the line to the model was {cause.kind}, but the call did not dial")

    def _answer_dial(self, cause: Line) -> bool:
        if cause.kind == "opened":
            return self._stage.open()
        return self._stage.refuse(
            ConnectError(
                cause.result,
                cause.detail,
                can_retry=cause.can_retry,
                retry_after_s=cause.retry_after_s,
            )
        )

    # ------------------------------------------------------------------ the end

    async def _finish(self) -> None:
        await self._rest()
        if self._stage.sent:
            self._show(Pass(self._loop.now, None))
        if self._tail is not None:
            self._watch(self._without_lost(self._tail))
        if self._recorder is None:
            self._compare_end()
        await self._leave()
        if self._recorder is not None:
            self._note_unanswered()
        self.result.digest = self._hash.hexdigest()

    def _without_lost(self, tail: Played) -> Played:
        """What was sent behind the end on a socket that turned out to be closed is not on tape."""
        came = tail.came
        for name in self._shut_late:
            taken = sum(link == name for link, _ in tail.expected)
            places = [at for at, (link, _) in enumerate(came) if link == name][taken:]
            came = [sent for at, sent in enumerate(came) if at not in places]
        return msgspec.structs.replace(tail, came=came)

    def _compare_end(self) -> None:
        stopped, call = self.result.stopped, self.result.call
        if stopped is None or stopped.end is None:
            return
        expected = f"{stopped.end.result}, {stopped.end.reason}"
        ended = call.termination if call else None
        came = f"{ended.result}, {ended.reason}" if ended else "not over"
        if came != expected:
            self._note(f"the call ended otherwise: expected {expected}; came {came}")
        elif self._asides != self._stage.asides:
            was, is_now = (", ".join(told) for told in (self._asides, self._stage.asides))
            self._note(f"dialled and closed otherwise: expected {was}; came {is_now}")

    def _note_unanswered(self) -> None:
        """A recording would expect a call to fail that nobody has ever let fail."""
        for at in self._stage.unanswered:
            self._note("the call dialled the model, and nobody on tape answers", at)

    async def _leave(self) -> None:
        """A call that the tape left in the middle is left there too."""
        if not self._task.done():
            self._task.cancel()
            await self._rest()
        if not self._task.done():
            raise TapeError("the call cannot be left")
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            self._note(f"the call broke: {type(error).__name__}: {error}")

    def _note(self, problem: str, at: float | None = None) -> None:
        if len(self.result.problems) < MOST_PROBLEMS:
            self.result.problems.append((self._loop.now if at is None else at, problem))

    async def _rest(self) -> None:
        await self._loop.rest()
        self._calls = self._loop.calls


async def _perform_nothing(_: HttpRequest) -> None:
    """What a provider is asked over HTTP is not on tape."""


def _octets(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _can_happen(cause: Line) -> bool:
    if cause.dir != "in" or cause.link not in _HAPPENINGS:
        return False
    return cause.kind in (_HAPPENINGS[cause.link] if cause.data is None else _MESSAGES)


def _aside(line: Line) -> str:
    return f"{line.link} {line.kind}" + (f" {line.code}" if line.kind == "closed" else "")
