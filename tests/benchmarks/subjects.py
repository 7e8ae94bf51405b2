"""What is measured: conversion, codecs, the core's step, the links' writes, the whole pass."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from websockets.protocol import State

from gateway.audio.convert import Converter, Encoding
from gateway.call import Call
from gateway.events import (
    AppendAudio,
    AudioDelta,
    AudioDone,
    AudioReceived,
    MarkReached,
    PlayAudio,
    RealtimeConnected,
    ResponseDone,
    ResponseStarted,
    SendMark,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
)
from gateway.links import ServerLink
from gateway.providers.asterisk import AsteriskStream
from gateway.providers.twilio import TwilioStream
from gateway.realtime.connection import _SocketLink
from gateway.realtime.protocol import RealtimeProtocol
from tests.benchmarks.corridor import (
    Corridor,
    audio_delta,
    corridor,
    media,
    said,
    transcript_delta,
)
from tests.benchmarks.gate import Timing, Work, measured
from tests.benchmarks.references import REFERENCES, Kind
from tests.lab import options, started

# Distinct sounds of a batch: enough that none repeats, few enough for the nearest cache.
FRAMES = 10
# Less than half the lead, so that all of an answer goes out at once.
ANSWER_PIECES = 10
CALLS = 8
CUT_PIECES = 5
_WORDS = "certainly, I can "


@dataclass(frozen=True, slots=True)
class Subject:
    """Its name, what makes it ready to be measured, and what it is compared with."""

    name: str
    ready: Callable[[], AbstractContextManager[Work]]
    kind: Kind = "words"

    def race(self) -> Timing:
        """Measure it once, from a new start."""
        with self.ready() as work:
            return measured(work, REFERENCES[self.kind]())


def noise(encoding: Encoding, rate_hz: int, duration_ms: int, count: int) -> list[bytes]:
    """Sounds of which no two are alike: the converter remembers what repeats."""
    generator = np.random.default_rng(count)
    samples = generator.integers(-9000, 9000, (count, rate_hz * duration_ms // 1000), np.int16)
    return [Converter("pcm", rate_hz, encoding, rate_hz).convert(row.tobytes()) for row in samples]


def _each(action: Callable[[Any], object], items: Sequence[Any]) -> Work:
    """Do the same with one after the other."""

    def run() -> None:
        for item in items:
            action(item)

    return Work(run, len(items))


# ------------------------------------------------------------------ sound


def _conversion(
    source: Encoding, source_hz: int, target: Encoding, target_hz: int, duration_ms: int = 20
) -> Subject:
    @contextmanager
    def ready() -> Iterator[Work]:
        converter = Converter(source, source_hz, target, target_hz)
        yield _each(converter.convert, noise(source, source_hz, duration_ms, FRAMES) * 5)

    way = f"{source} {source_hz // 1000} -> {target} {target_hz // 1000} kHz"
    return Subject(f"convert {duration_ms} ms, {way}", ready, "sound")


# ------------------------------------------------------------------ codecs


def _twilio() -> TwilioStream:
    stream = TwilioStream()
    stream.receive(
        '{"event":"start","streamSid":"MZ1","start":{"callSid":"CA1","streamSid":"MZ1"}}'
    )
    return stream


def _asterisk() -> AsteriskStream:
    stream = AsteriskStream()
    stream.receive(
        '{"event":"MEDIA_START","channel":"c1","channel_id":"c1","format":"ulaw",'
        '"optimal_frame_size":160}'
    )
    return stream


@contextmanager
def _media_in() -> Iterator[Work]:
    frames = cycle(noise("ulaw", 8000, 20, FRAMES))
    messages = (media(number, next(frames)) for number in range(1, 1 << 62))
    batch: list[str] = []
    stream = _twilio()

    def refill() -> None:
        batch[:] = islice(messages, 200)

    def run() -> None:
        for message in batch:
            stream.receive(message)

    yield Work(run, 200, refill)


@contextmanager
def _mark_in() -> Iterator[Work]:
    mark = '{{"event":"mark","sequenceNumber":"5","streamSid":"MZ1","mark":{{"name":"m{}"}}}}'
    yield _each(_twilio().receive, [mark.format(number) for number in range(300)])


@contextmanager
def _play_out() -> Iterator[Work]:
    yield _each(_twilio().send, [PlayAudio(p) for p in noise("ulaw", 8000, 100, FRAMES)] * 20)


@contextmanager
def _marks_out() -> Iterator[Work]:
    yield _each(_twilio().send, [SendMark(f"m{number}") for number in range(400)])


@contextmanager
def _asterisk_audio_in() -> Iterator[Work]:
    yield _each(_asterisk().receive, noise("ulaw", 8000, 20, FRAMES) * 200)


@contextmanager
def _asterisk_mark_in() -> Iterator[Work]:
    mark = '{{"event":"MEDIA_MARK_PROCESSED","channel_id":"c1","correlation_id":"m{}"}}'
    yield _each(_asterisk().receive, [mark.format(number) for number in range(200)])


@contextmanager
def _asterisk_play_out() -> Iterator[Work]:
    yield _each(_asterisk().send, [PlayAudio(p) for p in noise("ulaw", 8000, 100, FRAMES)] * 40)


@contextmanager
def _append_out() -> Iterator[Work]:
    payloads = noise("pcm", 24000, 20, FRAMES) * 20
    yield _each(RealtimeProtocol("ga").send, [AppendAudio(payload) for payload in payloads])


@contextmanager
def _delta_in() -> Iterator[Work]:
    deltas = [audio_delta(1, pcm) for pcm in noise("pcm", 24000, 100, FRAMES)]
    yield _each(RealtimeProtocol("ga").receive, deltas * 8)


@contextmanager
def _transcript_in() -> Iterator[Work]:
    yield _each(RealtimeProtocol("ga").receive, [transcript_delta(1, _WORDS)] * 300)


# ------------------------------------------------------------------ core


class _Core:
    """A call whose audio passes through, so that only the core's own steps cost anything."""

    def __init__(self) -> None:
        self.now, self.answers = 1.0, 0
        self.call = Call(started(), options(), self.now)
        self.hear(RealtimeConnected(0.01), SessionCreated("s1", 0.0), SessionUpdated())
        self.drain()

    def hear(self, *events: Any) -> None:
        """The model says this."""
        for event in events:
            self.call.realtime_received(event, self.now)

    def drain(self) -> list[str]:
        """Take what came out; the names of the marks in it."""
        call = self.call
        marks = [c.name for c in call.to_provider if type(c) is SendMark]
        call.to_provider.clear()
        call.to_realtime.clear()
        call.facts.clear()
        return marks

    def receive(self, payload: bytes) -> None:
        """A frame of the caller, and its append is taken."""
        self.now += 0.02
        self.call.provider_received(AudioReceived(payload), self.now)
        self.call.to_realtime.popleft()
        self.call.facts.clear()

    def begin_answer(self) -> None:
        """Another response."""
        self.answers += 1
        self.hear(ResponseStarted(f"r{self.answers}"))

    def deltas(self, payloads: Sequence[bytes]) -> list[str]:
        """So many pieces of it; the names of their marks."""
        marks: list[str] = []
        for payload in payloads:
            self.hear(AudioDelta(f"r{self.answers}", f"i{self.answers}", 0, payload))
            marks += self.drain()
        return marks

    def end_answer(self, status: str = "completed") -> list[str]:
        """Nothing more comes of it but the last marks."""
        number = self.answers
        self.hear(AudioDone(f"r{number}", f"i{number}", 0), ResponseDone(f"r{number}", status))
        return self.drain()

    def reach(self, marks: Sequence[str]) -> None:
        """The phone plays on, mark by mark."""
        for mark in marks:
            self.now += 0.1
            self.call.provider_received(MarkReached(mark), self.now)
            self.drain()


@contextmanager
def _core_frames() -> Iterator[Work]:
    core = _Core()
    yield _each(core.receive, noise("ulaw", 8000, 20, FRAMES) * 40)


class _Speaker:
    """The agent of one core: an answer, then its marks, for ever."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._core, self._payloads = _Core(), payloads
        self._marks: list[str] = []

    def speak(self) -> None:
        """Every piece of the answer that was begun."""
        self._marks += self._core.deltas(self._payloads)

    def listen(self) -> None:
        """The phone plays all of it."""
        self._core.reach(self._marks)
        self._marks.clear()

    def begin(self) -> None:
        """Another answer, once the one before was heard."""
        self._core.begin_answer()

    def end(self) -> None:
        """Nothing more comes; all that was said is on its way."""
        self._marks += self._core.end_answer()
        assert len(self._marks) == ANSWER_PIECES


def _all(speakers: Sequence[_Speaker], *steps: Callable[[_Speaker], None]) -> None:
    for speaker in speakers:
        for step in steps:
            step(speaker)


@contextmanager
def _core_deltas() -> Iterator[Work]:
    speakers = [_Speaker(noise("ulaw", 8000, 100, ANSWER_PIECES)) for _ in range(CALLS)]
    _all(speakers, _Speaker.begin, _Speaker.speak)

    yield Work(
        lambda: _all(speakers, _Speaker.speak),
        CALLS * ANSWER_PIECES,
        lambda: _all(speakers, _Speaker.end, _Speaker.listen, _Speaker.begin),
    )


@contextmanager
def _core_marks() -> Iterator[Work]:
    speakers = [_Speaker(noise("ulaw", 8000, 100, ANSWER_PIECES)) for _ in range(CALLS)]

    yield Work(
        lambda: _all(speakers, _Speaker.listen),
        CALLS * ANSWER_PIECES,
        lambda: _all(speakers, _Speaker.begin, _Speaker.speak, _Speaker.end),
    )


@contextmanager
def _core_barge_ins() -> Iterator[Work]:
    core, payloads = _Core(), noise("ulaw", 8000, 100, CUT_PIECES)

    def interrupt() -> None:
        core.begin_answer()
        marks = core.deltas(payloads)
        core.reach(marks[:3])
        core.hear(SpeechStarted(f"u{core.answers}", 0))
        core.drain()
        core.reach(marks[3:] + core.end_answer("cancelled"))
        core.hear(SpeechStopped(f"u{core.answers}", 0))

    def run() -> None:
        for _ in range(4):
            interrupt()

    yield Work(run, 4)


# ------------------------------------------------------------------ links


def _wire() -> Any:
    """A transport that takes everything."""
    return SimpleNamespace(write=lambda _frame: None, is_closing=lambda: False)


@contextmanager
def _websockets_send() -> Iterator[Work]:
    socket = SimpleNamespace(
        protocol=SimpleNamespace(state=State.OPEN), transport=_wire(), listen=None
    )
    link = _SocketLink(cast("Any", socket))
    appends = [base64.b64encode(payload) for payload in noise("pcm", 24000, 20, FRAMES)]
    yield _each(link.send, appends * 20)


@contextmanager
def _aiohttp_send() -> Iterator[Work]:
    socket, request = SimpleNamespace(closed=False), SimpleNamespace(transport=_wire())
    link = ServerLink(cast("Any", socket), cast("Any", request))
    messages = [media(number, b"\x55" * 800) for number in range(FRAMES)]
    yield _each(link.send, messages * 30)


# ------------------------------------------------------------------ the whole pass


@contextmanager
def _pass_up() -> Iterator[Work]:
    with corridor() as call:
        frames = cycle(noise("ulaw", 8000, 20, FRAMES))
        messages = (media(number, next(frames)) for number in range(1, 1 << 62))
        batch: list[str] = []

        def refill() -> None:
            batch[:] = islice(messages, 20)

        def run() -> None:
            for message in batch:
                call.now += 0.02
                call.phone.say(message)

        yield Work(run, 20, refill)
        assert call.model.taken > call.phone.taken


class _Answers:
    """The agent's answers on a corridor, made before they are timed."""

    def __init__(self, call: Corridor, pieces: int) -> None:
        self._call = call
        self._sounds = noise("pcm", 24000, 100, pieces)
        self._number = 0
        self.pieces: list[bytes] = []

    def refill(self) -> None:
        """The next one."""
        self._number += 1
        number = self._number
        self.pieces[:] = [said("response.created", response={"id": f"r{number}"})]
        for sound in self._sounds:
            self.pieces += [transcript_delta(number, _WORDS), audio_delta(number, sound)]

    def end(self, status: str) -> list[bytes]:
        """The last words about it."""
        number = self._number
        return [
            said(
                "response.output_audio.done",
                response_id=f"r{number}",
                item_id=f"i{number}",
                content_index=0,
            ),
            said("response.done", response={"id": f"r{number}", "status": status}),
        ]

    def speak(self, messages: Sequence[bytes]) -> None:
        """The model says these."""
        for message in messages:
            self._call.model.say(message)


@contextmanager
def _pass_down() -> Iterator[Work]:
    with corridor() as call:
        answers = _Answers(call, ANSWER_PIECES)

        def refill() -> None:
            answers.refill()
            answers.pieces += answers.end("completed")

        def run() -> None:
            answers.speak(answers.pieces)
            call.now += ANSWER_PIECES * 0.1
            call.reach_marks()

        yield Work(run, ANSWER_PIECES, refill)
        assert call.phone.taken > call.model.taken


@contextmanager
def _pass_barge_in() -> Iterator[Work]:
    with corridor() as call:
        answers = _Answers(call, CUT_PIECES)

        def run() -> None:
            answers.speak(answers.pieces)
            call.now += 0.3
            answers.speak(
                [said("input_audio_buffer.speech_started", item_id="u", audio_start_ms=1)]
            )
            call.reach_marks()
            answers.speak(answers.end("cancelled"))
            answers.speak([said("input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=2)])

        yield Work(run, 1, answers.refill)
        assert call.phone.taken > call.model.taken


SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        _conversion("ulaw", 8000, "pcm", 24000),
        _conversion("pcm", 24000, "ulaw", 8000),
        _conversion("pcm", 24000, "ulaw", 8000, 100),
        _conversion("pcm", 48000, "pcm", 24000),
        _conversion("pcm", 24000, "pcm", 48000),
        Subject("twilio: media in", _media_in),
        Subject("twilio: mark in", _mark_in),
        Subject("twilio: 100 ms of sound out", _play_out),
        Subject("twilio: mark out", _marks_out),
        Subject("asterisk: frame in", _asterisk_audio_in),
        Subject("asterisk: mark in", _asterisk_mark_in),
        Subject("asterisk: 100 ms of sound out", _asterisk_play_out),
        Subject("realtime: append out", _append_out),
        Subject("realtime: audio delta in", _delta_in),
        Subject("realtime: transcript delta in", _transcript_in),
        Subject("core: frame to append", _core_frames),
        Subject("core: delta to sound and mark", _core_deltas),
        Subject("core: mark reached", _core_marks),
        Subject("core: half a second, then a barge-in", _core_barge_ins),
        Subject("websockets link: send an append", _websockets_send),
        Subject("aiohttp link: send 100 ms of sound", _aiohttp_send),
        Subject("whole pass: frame up", _pass_up),
        Subject("whole pass: delta, words, mark down", _pass_down),
        Subject("whole pass: half a second, then a barge-in", _pass_barge_in),
    )
}
