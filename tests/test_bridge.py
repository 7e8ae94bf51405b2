"""One driver moves everything: in order, in one pass, with a bound on every wait."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest

from gateway.bridge import (
    CLOSE_TIMEOUT_S,
    EARLY_LIMIT,
    OUTBOX_LIMIT,
    RELAY_SAMPLING,
    Bridge,
    Outside,
)
from gateway.call import Call, CallOptions
from gateway.errors import CallRejected, ConnectError
from gateway.events import (
    ULAW_8K,
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioReceived,
    BargedIn,
    CallBegan,
    CallEnded,
    CallReady,
    CallStarted,
    CallStopped,
    DtmfReceived,
    Fact,
    FrameRejected,
    HangUp,
    MessageRejected,
    PromptPlayed,
    ProviderCommand,
    ProviderEvent,
    RealtimeCommand,
    RealtimeDialled,
    RealtimeEvent,
    RealtimeLost,
    RealtimeReconnected,
    RelayMeasured,
    ResponseDone,
    ResponseStarted,
    SessionCreated,
    SessionUpdated,
    Termination,
)
from gateway.providers import Capabilities, HttpRequest
from gateway.realtime import Listener
from tests.lab import options
from tests.timeless import run_timeless

_Kind = TypeVar("_Kind")

START = CallStarted("CA1", "MZ1", ULAW_8K, ULAW_8K)
FRAME = AudioReceived(b"\x7f" * 160)
READY: tuple[RealtimeEvent, ...] = (SessionCreated("sess_1", 0.0), SessionUpdated())
REST_HANG_UP = HttpRequest("POST", "http://127.0.0.1/calls/CA1")


class MemoryLink:
    """A socket's one end: the test puts messages in, and sees each that goes out."""

    def __init__(self, name: str, log: list[str], *, close_s: float = 0.0) -> None:
        self.name = name
        self.close_code, self.close_reason = 1006, ""
        self.sent: list[str] = []
        self.sent_clogged: list[str] = []
        self.is_clogged = False
        self.is_closed = False
        self.close_s = close_s
        # The peer takes a message in this time; None: at once.
        self.slow_s: float | None = None
        self._takes: int | None = None
        self._log = log
        self._listener: Listener | None = None
        self._kept: list[str] = []
        self._has_left = False

    def say(self, *messages: str) -> None:
        """The peer sends these."""
        for message in messages:
            if self._listener is None:
                self._kept.append(message)
            else:
                self._log.append(f"{self.name} > {message}")
                self._listener.message_came(message)

    def leave(self, code: int = 1000) -> None:
        """The peer closes."""
        self.close_code = code
        self._has_left = True
        if self._listener is not None:
            self._listener.link_closed()

    def listen(self, listener: Listener) -> None:
        """Tell this listener, beginning with what was kept."""
        self._listener = listener
        kept, self._kept = self._kept, []
        self.say(*kept)
        if self._has_left:
            listener.link_closed()

    def clog(self, *, after: int = 0) -> None:
        """The peer takes so many messages more, then nothing."""
        self._takes = after
        self.is_clogged = after == 0

    def free(self) -> None:
        """The peer has taken what waited."""
        self._takes, self.is_clogged = None, False
        if self._listener is not None and not self.is_closed:
            self._listener.link_freed()

    def send(self, *messages: str | bytes) -> None:
        """Take them; a socket that is clogged takes them too, which is what clogs it."""
        if self.is_closed:
            raise ConnectionResetError(self.name)
        for message in messages:
            assert isinstance(message, str)
            if self.is_clogged:
                self.sent_clogged.append(message)
            self.sent.append(message)
            self._log.append(f"{self.name} < {message}")
        if self._takes is not None:
            self.clog(after=max(0, self._takes - 1))
        elif self.slow_s is not None:
            self.clog()
            asyncio.get_running_loop().call_later(self.slow_s, self.free)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close as slowly as the test wants it."""
        del reason
        self._log.append(f"{self.name} closing")
        await asyncio.sleep(self.close_s)
        if not self.is_closed:
            self.is_closed = True
            self.leave(code)


class Words:
    """A translator for either side: the test says which word means which events."""

    name: ClassVar[str] = "words"
    caps = Capabilities(
        mark=True,
        clear=True,
        status=False,
        clear_echoes_marks=True,
        lead_ms=5000,
        frame_ms=20,
        max_message_bytes=800,
    )

    def __init__(self, *, request: HttpRequest | None = None) -> None:
        self.meanings: dict[str, list[Any]] = {}
        self.commands: list[Any] = []
        self._request = request

    def receive(self, message: str | bytes) -> list[Any]:
        """Look the word up; an unknown one is a bug of the test's."""
        return self.meanings[str(message)]

    def send(self, command: ProviderCommand | RealtimeCommand) -> list[Any]:
        """The command's name and, where it has one, the first byte of its sound."""
        self.commands.append(command)
        payload = getattr(command, "payload", b"")
        return [f"{type(command).__name__}{payload[:1].hex()}"]

    def hang_up(self) -> HttpRequest | None:
        """What was given."""
        return self._request


@dataclass
class Stage:
    """One bridge between two memory links, what it was told, and when."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    request: HttpRequest | None = None
    start_deadline_s: float = 5.0
    refusals: deque[ConnectError] = field(default_factory=deque)
    close_s: float = 0.0

    def __post_init__(self) -> None:
        """Everything but the call, which needs a start message first."""
        self.loop = asyncio.get_running_loop()
        self.log: list[str] = []
        self._news = asyncio.Event()
        self.facts: list[tuple[float, Fact]] = []
        self.dials: list[tuple[float, float, bool]] = []
        self.performed: list[HttpRequest] = []
        self.provider = MemoryLink("provider", self.log, close_s=self.close_s)
        self.sessions: list[MemoryLink] = []
        self.phone = Words(request=self.request)
        self.model = Words()
        self.phone.meanings |= {"start": [START], "frame": [FRAME], "stop": [CallStopped()]}
        self.model.meanings |= {"ready": list(READY)}
        self.bridge = Bridge(self.phone, self.provider, self.model, self._outside())

    def _outside(self) -> Outside:
        return Outside(
            dial=self._dial,
            observe=self._observe,
            perform=self._perform,
            clock=self.loop.time,
            start_deadline_s=self.start_deadline_s,
        )

    async def _dial(self, *, timeout_s: float, with_fresh_token: bool) -> MemoryLink:
        self.dials.append((self.loop.time(), timeout_s, with_fresh_token))
        if self.refusals:
            raise self.refusals.popleft()
        link = MemoryLink(f"model{len(self.sessions) + 1}", self.log)
        link.say("ready")
        self.sessions.append(link)
        return link

    def _observe(self, fact: Fact) -> None:
        self.facts.append((self.loop.time(), fact))
        self.log.append(f"told {type(fact).__name__}")
        self._news.set()

    async def _perform(self, request: HttpRequest) -> None:
        self.performed.append(request)
        self.log.append("performed")

    def told(self, kind: type[_Kind]) -> list[_Kind]:
        """All facts of one kind."""
        return [fact for _, fact in self.facts if isinstance(fact, kind)]

    def told_at(self, kind: type[Fact]) -> float:
        """When the first fact of a kind was told."""
        return next(at for at, fact in self.facts if isinstance(fact, kind))

    async def start(self) -> "asyncio.Task[Termination]":
        """Place the call and come back when the session is open."""
        self.provider.say("start")
        started = await self.bridge.await_start()
        call = Call(started, self._options(), self.loop.time())
        running = asyncio.create_task(self.bridge.run(call))
        await self.until(CallReady)
        return running

    def _options(self) -> CallOptions:
        usual = {"max_message_bytes": 800, "lead_ms": 400}
        return options(**(usual | dict(self.changes)))

    async def until(self, kind: type[Fact], count: int = 1) -> None:
        """Wait for a fact."""
        async with asyncio.timeout(60):
            while len(self.told(kind)) < count:
                self._news.clear()
                await self._news.wait()

    def speak(self, duration_ms: int, word: str = "answer", value: int = 0x55) -> None:
        """The model sends a whole answer as one message."""
        delta = AudioDelta("r1", f"i_{word}", 0, bytes([value]) * (duration_ms * 8))
        self.model.meanings[word] = [ResponseStarted("r1"), delta]
        self.sessions[-1].say(word)

    async def end(self, running: "asyncio.Task[Termination]") -> CallEnded:
        """The caller hangs up; gives the one record of the call."""
        self.provider.say("stop")
        await running
        (ended,) = self.told(CallEnded)
        return ended


async def _settled() -> None:
    """Let everybody do what can be done now."""
    for _ in range(20):
        await asyncio.sleep(0)


# ------------------------------------------------------------- before the call


def test_the_start_message_is_awaited_and_what_came_with_it_is_kept() -> None:
    """Events behind the start in one message reach the call; noise before it is counted."""

    async def scene() -> None:
        stage = Stage()
        stage.phone.meanings["start"] = [START, FRAME]
        stage.phone.meanings["noise"] = [MessageRejected("bad_json", "x")]
        stage.provider.say("noise")
        running = await stage.start()
        await _settled()

        assert stage.told(FrameRejected) == [FrameRejected("provider", "bad_json", "x")]
        assert "AppendAudio7f" in stage.sessions[0].sent
        await stage.end(running)

    run_timeless(scene())


@pytest.mark.parametrize(
    ("says", "reason", "at_s"),
    [
        (("leave",), "closed_before_start", 0.0),
        ((), "start_timeout", 5.0),
        (("format",), "media_format", 0.0),
    ],
)
def test_a_socket_that_does_not_say_which_call_it_is_is_turned_away(
    says: tuple[str, ...], reason: str, at_s: float
) -> None:
    """Silence, a close and a format nobody can play each have their reason, and no call begins."""

    async def scene() -> None:
        stage = Stage()
        stage.phone.meanings["format"] = [MessageRejected("media_format", "L16 44100 Hz")]
        if "leave" in says:
            stage.provider.leave()
        elif says:
            stage.provider.say(*says)
        with pytest.raises(CallRejected) as raised:
            await stage.bridge.await_start()
        await stage.bridge.turn_away()

        assert (raised.value.stage, raised.value.reason) == ("handshake", reason)
        assert stage.loop.time() == pytest.approx(at_s)
        assert stage.log[-1] == "provider closing"
        assert not stage.dials
        assert not stage.told(CallBegan)

    run_timeless(scene())


async def _begun(stage: Stage) -> "asyncio.Task[Termination]":
    """Run the call whose start message has been awaited."""
    call = Call(START, stage._options(), stage.loop.time())
    return asyncio.create_task(stage.bridge.run(call))


def test_what_comes_between_the_start_and_the_call_reaches_it_in_order() -> None:
    """Frames that come while the call is being admitted are its first words."""

    async def scene() -> None:
        stage = Stage()
        stage.phone.meanings |= {
            f"f{value}": [AudioReceived(bytes([value]) * 160)] for value in range(4)
        }
        stage.provider.say("start", "f0")
        await stage.bridge.await_start()
        stage.provider.say("f1", "f2")
        running = await _begun(stage)
        await stage.until(CallReady)
        stage.provider.say("f3")

        assert _appended(stage) == b"".join(bytes([value]) * 160 for value in range(4))
        await stage.end(running)

    run_timeless(scene())


@pytest.mark.parametrize("frames", [0, 3, EARLY_LIMIT, EARLY_LIMIT + 100])
def test_a_close_between_the_start_and_the_call_ends_it(frames: int) -> None:
    """However much was said before: a provider that has gone is not waited for."""

    async def scene() -> None:
        stage = Stage()
        stage.provider.say("start")
        await stage.bridge.await_start()
        stage.provider.say(*["frame"] * frames)
        stage.provider.leave(1001)
        termination = await (await _begun(stage))

        assert termination == Termination("caller_hangup")
        assert stage.loop.time() == pytest.approx(0.0)
        assert len(stage.told(CallEnded)) == 1
        assert not stage.sessions

    run_timeless(scene())


def _appended(stage: Stage) -> bytes:
    """The caller's audio as it was written to any session; what is held is joined."""
    return b"".join(c.payload for c in stage.model.commands if isinstance(c, AppendAudio))


def test_what_is_kept_before_the_call_is_bounded() -> None:
    """A provider gone mad between the start message and the call costs no memory."""

    async def scene() -> None:
        stage = Stage()
        stage.provider.say("start")
        await stage.bridge.await_start()
        stage.provider.say(*["frame"] * (EARLY_LIMIT * 3))

        assert len(stage.bridge._early) == EARLY_LIMIT

    run_timeless(scene())


def test_a_bug_of_ours_before_the_start_is_raised_to_who_waits_for_it() -> None:
    """The translator raises on the first message: not a socket that closed, and not a timeout."""

    async def scene() -> None:
        stage = Stage()
        waiting = asyncio.create_task(stage.bridge.await_start())
        await _settled()
        stage.provider.say("a word without meaning")
        with pytest.raises(KeyError):
            await waiting

        assert stage.loop.time() == 0.0

    run_timeless(scene())


def test_a_bug_of_ours_between_the_start_and_the_call_ends_it() -> None:
    """Nobody runs the call yet: it ends as soon as somebody does, as every bug does."""

    async def scene() -> None:
        stage = Stage()
        stage.provider.say("start")
        await stage.bridge.await_start()
        stage.provider.say("a word without meaning")
        running = await _begun(stage)
        with pytest.raises(ExceptionGroup) as raised:
            await running

        assert raised.group_contains(KeyError)
        assert [fact.termination.reason for fact in stage.told(CallEnded)] == ["internal_error"]
        assert stage.provider.is_closed

    run_timeless(scene())


def test_a_start_that_comes_with_the_deadline_is_a_start() -> None:
    """A loop that runs late reads it in the turn in which its time is up: the caller is there."""

    async def scene() -> None:
        stage = Stage()
        stage.loop.call_later(stage.start_deadline_s, stage.provider.say, "start")

        assert await stage.bridge.await_start() == START
        await stage.bridge.turn_away()

    run_timeless(scene())


# ------------------------------------------------------------- one pass


def test_one_message_is_one_pass() -> None:
    """Each frame has left for the model before the next one is looked at."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.log.clear()
        stage.provider.say("frame", "frame", "frame")
        await _settled()

        passed = [line for line in stage.log if not line.startswith("told")]
        assert passed == ["provider > frame", "model1 < AppendAudio7f"] * 3
        await stage.end(running)

    run_timeless(scene())


def test_an_answer_leaves_in_the_pass_it_came_in_and_the_rest_in_real_time() -> None:
    """Audio up to the lead goes at once, the rest as the caller hears it: never more ahead."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        began = stage.loop.time()
        stage.speak(2000)
        await _settled()
        at_once_ms = _played_ms(stage)
        while _played_ms(stage) < 2000:
            await asyncio.sleep(0.05)
            ahead_ms = _played_ms(stage) - (stage.loop.time() - began) * 1000
            assert ahead_ms <= 400 + 100

        assert at_once_ms == 400
        assert 1.5 < stage.loop.time() - began < 1.75
        await stage.end(running)

    run_timeless(scene())


def _played_ms(stage: Stage) -> float:
    return sum(len(getattr(command, "payload", b"")) / 8 for command in stage.phone.commands)


def test_what_the_gateway_adds_is_measured_now_and_then() -> None:
    """One frame in eight is timed on the way up, and tells how long it waited to be sent."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        for _ in range(RELAY_SAMPLING * 2):
            stage.sessions[0].clog()
            stage.provider.say("frame")
            await asyncio.sleep(0.003)
            stage.sessions[0].free()
            await asyncio.sleep(0.017)

        measured = [fact.latency_s for fact in stage.told(RelayMeasured) if fact.direction == "up"]
        assert measured == pytest.approx([0.003, 0.003])
        await stage.end(running)

    run_timeless(scene())


# ------------------------------------------------------------- the outbox rule


def test_unsent_audio_does_not_follow_a_clear() -> None:
    """The provider is slow: what waits for it is gone before the clear is written."""

    async def scene() -> None:
        stage = Stage(changes={"lead_ms": 2000, "has_marks": False})
        running = await stage.start()
        stage.provider.clog(after=1)
        stage.speak(2000)
        await _settled()
        stage.phone.meanings["key"] = [DtmfReceived("1")]
        await asyncio.sleep(0.5)
        stage.provider.say("key")
        await asyncio.sleep(0.1)
        stage.provider.free()
        await _settled()

        assert stage.provider.sent == ["PlayAudio55", "ClearAudio"]
        assert not stage.provider.sent_clogged
        assert stage.told(BargedIn)[0].clear_s == pytest.approx(0.1)
        await stage.end(running)

    run_timeless(scene())


def test_slow_links_keep_the_order_and_do_not_hold_each_other_up() -> None:
    """What comes while a link is clogged waits behind what waits already; nothing is lost."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        stage.provider.slow_s = stage.sessions[0].slow_s = 0.005
        stage.phone.meanings |= {
            f"f{value:02x}": [AudioReceived(bytes([value]) * 160)] for value in range(40)
        }
        stage.speak(1500)
        spoke_at = stage.loop.time()
        for value in range(40):
            stage.provider.say(f"f{value:02x}")
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.5)

        appends = [sent for sent in stage.sessions[0].sent if sent.startswith("AppendAudio")]
        assert appends == [f"AppendAudio{value:02x}" for value in range(40)]
        assert not stage.provider.sent_clogged
        assert not stage.sessions[0].sent_clogged
        # Half of the lead of 400 ms is always ahead of the phone, and never more than all of it.
        phone_ms = (stage.loop.time() - spoke_at) * 1000
        assert phone_ms + 200 <= _played_ms(stage) <= phone_ms + 400
        await stage.end(running)

    run_timeless(scene())


def test_a_clogged_provider_holds_up_nothing_but_itself() -> None:
    """The caller is heard while nothing can be said to them, and what waited comes in order."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        stage.provider.clog()
        stage.model.meanings["more"] = [AudioDelta("r1", "i_answer", 0, b"\x66" * 800)]
        stage.speak(200)
        stage.sessions[0].say("more")
        stage.provider.say("frame")

        assert stage.sessions[0].sent[-1] == "AppendAudio7f"
        assert not stage.provider.sent
        stage.provider.free()
        assert stage.provider.sent == ["PlayAudio55", "PlayAudio55", "PlayAudio66"]
        await stage.end(running)

    run_timeless(scene())


def test_a_link_that_clogs_again_at_once_is_left_alone_at_once() -> None:
    """Freed for one message: one message is written, and the rest waits for the next time."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        stage.provider.clog()
        stage.speak(400)
        for taken in range(1, 4):
            stage.provider._takes, stage.provider.is_clogged = 1, False
            assert stage.provider._listener is not None
            stage.provider._listener.link_freed()
            assert len(stage.provider.sent) == taken

        assert not stage.provider.sent_clogged
        stage.provider.free()
        await stage.end(running)

    run_timeless(scene())


def test_a_slow_provider_is_not_a_lost_one() -> None:
    """Clogged most of the time, but never for as long as a provider that is gone."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        stage.speak(12_000)
        for _ in range(3):
            stage.provider.clog()
            await asyncio.sleep(4.9)  # of run_timeless: takes no time
            stage.provider.free()

        assert _played_ms(stage) == 12_000
        assert not stage.provider.sent_clogged
        assert (await stage.end(running)).termination.reason == "caller_hangup"

    run_timeless(scene())


def test_a_provider_that_takes_one_message_a_second_is_not_lost() -> None:
    """It clogs again in the pass that found it free: that is slow, but it takes what it is sent."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        stage.provider.slow_s = 1.0
        stage.speak(3000)
        await asyncio.sleep(12.5)  # of run_timeless: takes no time

        assert not stage.told(CallEnded)
        assert stage.provider.sent == ["PlayAudio55"] * 13
        assert not stage.provider.sent_clogged
        assert (await stage.end(running)).termination.reason == "caller_hangup"

    run_timeless(scene())


def test_a_provider_that_falls_behind_ends_the_call() -> None:
    """It takes a message now and then: the queue's bound ends the call before its memory does."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False, "lead_ms": (OUTBOX_LIMIT + 2) * 100})
        running = await stage.start()
        stage.provider.slow_s = 1.0
        stage.speak((OUTBOX_LIMIT + 2) * 100)
        termination = await running

        assert termination == Termination("overload")
        assert stage.loop.time() <= 1.0
        assert stage.provider.sent == ["PlayAudio55", "HangUp"]

    run_timeless(scene())


@pytest.mark.parametrize("answer_ms", [300, 3000])
def test_a_provider_that_takes_nothing_is_lost(answer_ms: int) -> None:
    """Clogged in the model's pass or in the timer's: the call ends when its time is up."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()
        if answer_ms > 1000:
            stage.speak(answer_ms)
            await asyncio.sleep(1.0)  # of run_timeless: takes no time
        stage.provider.clog()
        if answer_ms < 1000:
            stage.speak(answer_ms)
        hung_at = stage.loop.time()
        termination = await running

        assert termination == Termination("provider_lost")
        # The timer's pass is the next refill of a lead of 400 ms: half of it later.
        noticed_s = 0.2 if answer_ms > 1000 else 0.0
        assert stage.told_at(CallEnded) - hung_at == pytest.approx(5.0 + noticed_s, abs=0.001)
        assert len(stage.told(CallEnded)) == 1
        assert not stage.provider.sent_clogged
        assert stage.loop.time() - hung_at < 5.2 + 2 * CLOSE_TIMEOUT_S

    run_timeless(scene())


def test_a_model_that_takes_nothing_is_dialled_again() -> None:
    """The model's link stays clogged: after its time the call goes on over a new session."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.sessions[0].clog()
        clogged_at = stage.loop.time()
        for _ in range(300):
            stage.provider.say("frame")
            await asyncio.sleep(0.02)

        assert len(stage.dials) == 2
        assert stage.dials[1][0] - clogged_at == pytest.approx(5.0)
        assert not stage.sessions[0].sent_clogged
        assert stage.sessions[0].is_closed
        assert stage.told(RealtimeReconnected)
        assert "AppendAudio7f" in stage.sessions[1].sent
        assert (await stage.end(running)).termination.reason == "caller_hangup"

    run_timeless(scene())


def test_a_model_that_falls_behind_is_dialled_again() -> None:
    """It takes a message now and then: the queue's bound ends the session, not the memory."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.sessions[0].slow_s = 1.0
        for _ in range(OUTBOX_LIMIT * 2):
            stage.provider.say("frame")
            await asyncio.sleep(0.02)

        assert len(stage.dials) == 2
        assert stage.dials[1][0] > OUTBOX_LIMIT * 0.02
        assert (await stage.end(running)).termination.reason == "caller_hangup"

    run_timeless(scene())


def test_a_clogged_model_that_is_given_up_on_is_left_at_once() -> None:
    """The call wants a new session: that does not wait until the old one takes what it must not."""

    async def scene() -> None:
        stage = Stage(changes={"answer_s": 1.0, "give_up_s": 2.0, "has_marks": False})
        running = await stage.start()
        stage.model.meanings["owed"] = [ResponseStarted("r0")]
        stage.sessions[0].say("owed")
        stage.sessions[0].clog()
        stage.provider.say("frame", "frame")
        await stage.until(RealtimeReconnected)

        assert len(stage.dials) == 2
        assert stage.dials[1][0] == pytest.approx(2.0)
        assert not stage.sessions[0].sent_clogged
        await stage.end(running)

    run_timeless(scene())


def test_a_clogged_model_that_leaves_is_replaced_at_once() -> None:
    """Its close is news of its own: nothing waits for the time a clog may last."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.sessions[0].clog()
        stage.provider.say("frame", "frame")
        stage.sessions[0].leave(1011)
        await stage.until(RealtimeReconnected)

        assert stage.loop.time() == pytest.approx(0.0)
        assert stage.told(RealtimeLost)[0].code == 1011
        # Two frames were not sent, and are said again.
        assert _appended(stage) == FRAME.payload * 2
        await stage.end(running)

    run_timeless(scene())


def test_what_is_meant_for_a_closed_socket_is_lost_without_a_word() -> None:
    """A write that finds the socket gone is the reader's news, not an exception."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.provider.is_closed = True
        stage.speak(200)
        await _settled()
        assert not stage.told(CallEnded)
        stage.provider.leave(1001)
        await running

        assert stage.told(CallEnded)[0].termination.reason == "caller_hangup"

    run_timeless(scene())


# ------------------------------------------------------------- the line to the model


def test_a_refused_dial_is_told_and_tried_again_after_its_delay() -> None:
    """The second attempt waits, asks for a fresh token after a 401, and has what time is left."""

    async def scene() -> None:
        stage = Stage(refusals=deque([ConnectError("401", can_retry=True)]))
        running = await stage.start()

        (first_at, _, first_fresh), (second_at, timeout_s, second_fresh) = stage.dials
        assert second_at - first_at == pytest.approx(0.2)
        assert (first_fresh, second_fresh) == (False, True)
        assert timeout_s == pytest.approx(4.7)
        assert [fact.result for fact in stage.told(RealtimeDialled)] == ["401", "ok"]
        await stage.end(running)

    run_timeless(scene())


def test_a_lost_session_is_replaced() -> None:
    """The model's socket closes with a code: told, and a new one carries the caller on."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.sessions[0].leave(1011)
        await stage.until(RealtimeReconnected)
        stage.provider.say("frame")
        await _settled()

        assert stage.told(RealtimeLost)[0].code == 1011
        assert stage.sessions[1].sent[-1] == "AppendAudio7f"
        await stage.end(running)

    run_timeless(scene())


def test_what_an_unwanted_session_still_says_is_not_heard() -> None:
    """The old session talks on while it is being closed: the caller hears none of it."""

    async def scene() -> None:
        stage = Stage(changes={"answer_s": 1.0, "give_up_s": 2.0, "has_marks": False})
        running = await stage.start()
        old = stage.sessions[0]
        stage.model.meanings["owed"] = [ResponseStarted("r0")]
        stage.model.meanings["late"] = [AudioDelta("r0", "i0", 0, b"\x66" * 800)]
        old.say("owed")
        closing = old.close

        async def talkative(code: int = 1000, reason: str = "") -> None:
            old.say("late")
            await asyncio.sleep(0.05)
            await closing(code, reason)

        old.close = talkative  # type: ignore[method-assign]  # the far end's manners
        await stage.until(RealtimeReconnected)

        assert "model1 > late" in stage.log
        assert not [sent for sent in stage.provider.sent if sent.startswith("PlayAudio")]
        await stage.end(running)

    run_timeless(scene())


# ------------------------------------------------------------- the end


def test_facts_are_told_before_anybody_is_seen_off() -> None:
    """A slow goodbye delays nobody's accounts: the record comes first, the caller's link last."""

    async def scene() -> None:
        stage = Stage(request=REST_HANG_UP, close_s=1.0)
        running = await stage.start()
        stage.log.clear()
        stage.bridge.hang_up("overload")
        await running

        ended = stage.log.index("told CallEnded")
        rest = [line for line in stage.log[ended + 1 :] if not line.startswith("told")]
        assert set(rest[:3]) == {"provider < HangUp", "performed", "model1 closing"}
        assert rest[3:4] == ["provider closing"]
        assert stage.performed == [REST_HANG_UP]
        assert stage.provider.is_closed

    run_timeless(scene())


def test_a_caller_who_has_gone_is_not_hung_up_on() -> None:
    """After the provider's own stop nothing is asked of it: the call is over there."""

    async def scene() -> None:
        stage = Stage(request=REST_HANG_UP)
        running = await stage.start()
        ended = await stage.end(running)

        assert ended.termination == Termination("caller_hangup")
        assert not stage.performed
        assert "HangUp" not in stage.provider.sent
        assert stage.sessions[0].is_closed

    run_timeless(scene())


def test_the_hang_up_is_not_swallowed_by_a_link_that_just_got_free() -> None:
    """It is freed in the very moment the call ends: the phone call is still hung up over REST."""

    async def scene() -> None:
        stage = Stage(request=REST_HANG_UP, changes={"has_marks": False})
        running = await stage.start()
        stage.provider.clog()
        stage.speak(100)
        await _settled()
        stage.provider.free()
        stage.bridge.hang_up("overload")
        await running

        assert stage.performed == [REST_HANG_UP]
        assert stage.phone.commands.count(HangUp()) == 1

    run_timeless(scene())


def test_a_far_end_that_does_not_let_go_is_left_behind() -> None:
    """Neither a hanging close nor a hanging hang-up holds a finished call for long."""

    async def scene() -> None:
        stage = Stage(request=REST_HANG_UP, close_s=1000.0)
        running = await stage.start()
        stage.provider.clog()
        ended_at = stage.loop.time()
        stage.bridge.hang_up("overload")
        await running

        assert stage.loop.time() - ended_at < 2 * CLOSE_TIMEOUT_S + 0.1
        assert stage.told_at(CallEnded) == pytest.approx(ended_at)

    run_timeless(scene())


def test_a_cancelled_call_still_tells_its_end() -> None:
    """The process stops: one record with reason drain, both links closed, the cancel passed on."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert [fact.termination.reason for fact in stage.told(CallEnded)] == ["drain"]
        assert stage.provider.is_closed
        assert stage.sessions[0].is_closed

    run_timeless(scene())


@pytest.mark.parametrize("side", ["provider", "model"])
def test_a_bug_of_ours_ends_one_call_with_one_record(side: str) -> None:
    """A translator raises: internal_error, told once, and nobody is left on an open line."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        if side == "provider":
            stage.provider.say("a word without meaning")
        else:
            stage.sessions[0].say("a word without meaning")
        with pytest.raises(ExceptionGroup) as raised:
            await running

        assert raised.group_contains(KeyError)
        assert [fact.termination.reason for fact in stage.told(CallEnded)] == ["internal_error"]
        assert stage.provider.is_closed
        assert stage.sessions[0].is_closed
        assert "HangUp" in stage.provider.sent

    run_timeless(scene())


@pytest.mark.parametrize("step", ["alarm", "freed", "left", "dial"])
def test_a_bug_of_ours_in_any_pass_ends_one_call(step: str) -> None:
    """Not only what a link says has passes: time does, a freed link, a lost one, and a dial."""

    async def scene() -> None:
        stage = Stage(changes={"has_marks": False})
        running = await stage.start()

        def broken(command: ProviderCommand | RealtimeCommand | ProviderEvent) -> list[Any]:
            if isinstance(command, HangUp):
                return []
            raise ZeroDivisionError

        if step == "freed":
            stage.provider.clog()
        stage.speak(1000)
        await _settled()
        if step == "dial":
            stage.model.send = broken  # type: ignore[method-assign]  # the bug
            stage.sessions[0].leave(1011)
        elif step == "left":

            def refuse(_event: ProviderEvent, _now: float) -> None:
                raise ZeroDivisionError

            call: Any = stage.bridge._call
            call.provider_received = refuse
            stage.provider.leave(1011)
        else:
            stage.phone.send = broken  # type: ignore[method-assign]  # the bug
        if step == "freed":
            stage.provider.free()
        with pytest.raises(ExceptionGroup) as raised:
            await running

        assert raised.group_contains(ZeroDivisionError)
        assert [fact.termination.reason for fact in stage.told(CallEnded)] == ["internal_error"]
        assert stage.provider.is_closed

    run_timeless(scene())


def test_what_is_said_after_the_end_is_not_told() -> None:
    """Both ends talk on while they are being closed: the call's accounts stay as they were."""

    async def scene() -> None:
        stage = Stage(close_s=1.0)
        running = await stage.start()
        stage.bridge.hang_up("overload")
        await _settled()
        told = len(stage.facts)
        stage.provider.say("frame", "stop")
        stage.sessions[0].say("ready")
        stage.provider.free()
        stage.provider.leave(1001)
        await running

        assert stage.log.count("provider > frame") == 1
        assert len(stage.facts) == told

    run_timeless(scene())


def test_a_provider_that_talks_nonsense_is_told_so() -> None:
    """Nothing but bad messages end the call, and the close says whose doing it was."""

    async def scene() -> None:
        stage = Stage()
        running = await stage.start()
        stage.phone.meanings["nonsense"] = [MessageRejected("bad_json")]
        stage.provider.say(*["nonsense"] * 50)

        assert await running == Termination("protocol_error")
        assert stage.provider.close_code == 1008
        assert stage.sessions[0].close_code == 1000

    run_timeless(scene())


def test_a_drain_from_outside_lets_the_last_words_be_heard() -> None:
    """The goodbye is played to its end before the line is closed."""

    async def scene() -> None:
        stage = Stage(changes={"prompts": {"goodbye": bytes(24 * 2 * 800)}, "has_marks": False})
        running = await stage.start()
        began = stage.loop.time()
        stage.bridge.hang_up("drain")
        assert await running == Termination("drain")

        assert 800 <= _played_ms(stage) <= 820
        assert stage.loop.time() - began >= 0.8

    run_timeless(scene())


def test_a_model_that_closes_slowly_makes_no_gap_in_the_goodbye() -> None:
    """Accounts are told and audio goes on leaving in time while the model is being closed."""

    async def scene() -> None:
        changes = {"prompts": {"goodbye": bytes(24 * 2 * 1500)}, "has_marks": False}
        stage = Stage(changes=changes)
        running = await stage.start()
        stage.sessions[0].close_s = 2.0
        began = stage.loop.time()
        stage.bridge.hang_up("drain")
        while _played_ms(stage) < 1500:
            await asyncio.sleep(0.02)
            assert _played_ms(stage) > (stage.loop.time() - began - 0.02) * 1000
        await running

        assert stage.told_at(PromptPlayed) == pytest.approx(began)

    run_timeless(scene())


def test_a_whole_call_is_the_same_twice() -> None:
    """Time and messages are all that decide: two runs tell the same facts at the same moments."""

    async def scene() -> list[tuple[float, Fact]]:
        stage = Stage()
        running = await stage.start()
        stage.speak(700)
        stage.model.meanings["done"] = [AudioDone("r1", "i_answer", 0), _DONE]
        stage.sessions[0].say("done")
        for _ in range(100):
            stage.provider.say("frame")
            await asyncio.sleep(0.02)
        await stage.end(running)
        return stage.facts

    first, second = run_timeless(scene()), run_timeless(scene())

    assert first == second
    assert len(first) > 10


_DONE: ProviderEvent | RealtimeEvent = ResponseDone("r1", "completed")
