"""A Twilio caller that measures; sans-I/O.

Sends 50 media messages a second, once a second a burst; keeps the clock of a phone that plays what
it is sent, echoes marks by it, and on ``clear`` echoes what is outstanding at once, as Twilio does.
Message shapes: twilio.com/docs/voice/media-streams/websocket-messages.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle

from gateway.bench.framing import client_frame
from gateway.bench.script import ANSWER_MS
from gateway.bench.tally import Books
from gateway.bench.tones import BURST_FRAME, FRAME_MS, QUIET_FRAMES, joined, number_frames

BURST_EVERY = 1000 // FRAME_MS
# A burst that took longer is lost.
BURST_LIFE_S = 2.0
# A frame is the least anybody may lose; rounding of a resampler is less.
TOLERANCE_MS = FRAME_MS

_BYTES_PER_MS = 8
_FIRST_TIMESTAMP_MS = 155


def _media_template(stream_sid: str) -> bytes:
    return (
        b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d",'
        b'"timestamp":"%d","payload":"%b"},"streamSid":"' + stream_sid.encode() + b'"}'
    )


class Caller:
    """One call as the telephone side sees it.

    Args:
        number: its own, below ``tones.NUMBERS``; what it says until the model has understood it.
        books: where everything is counted.
        send: writes bytes to the gateway.
        frames: so many in one message; Twilio sends one.
    """

    def __init__(
        self, number: int, books: Books, send: Callable[[bytes], None], frames: int = 1
    ) -> None:
        self.number = number
        self.sent_frames = 0
        self.bursts: deque[tuple[float, int]] = deque()
        self.is_paired = False
        self.started_s = 0.0
        self._books = books
        self._send = send
        self._stream_sid = f"MZ{number:032x}"
        self._media = _media_template(self._stream_sid)
        self._sequence = 1
        self._frames = frames
        self._chunk = 0
        self._says: Iterator[bytes] = cycle(number_frames(number))
        # Bursts of all callers are spread over the second.
        self._until_burst = BURST_EVERY + number % BURST_EVERY
        self._marks: deque[tuple[float, bytes]] = deque()
        self._played_until_s = 0.0
        self._answer_s = -math.inf
        self._answer_ms = 0.0
        self._is_awaiting_audio = False
        self._is_to_be_cut = False
        self._speech_started_s = 0.0
        self._is_cleared = False

    # -- what Twilio sends

    def start(self, now: float) -> None:
        """``connected`` and ``start``."""
        self.started_s = now
        call = f'"accountSid":"AC{0:032x}","callSid":"CA{self.number:032x}"'
        audio = '{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}'
        self._send(client_frame(b'{"event":"connected","protocol":"Call","version":"1.0.0"}'))
        text = (
            f'{{"event":"start","sequenceNumber":"1","start":{{{call},'
            f'"streamSid":"{self._stream_sid}","tracks":["inbound"],"mediaFormat":{audio},'
            f'"customParameters":{{}}}},"streamSid":"{self._stream_sid}"}}'
        )
        self._send(client_frame(text.encode()))

    def stop(self) -> None:
        """``stop``: the caller hangs up."""
        self._sequence += 1
        text = (
            f'{{"event":"stop","sequenceNumber":"{self._sequence}","stop":{{"accountSid":'
            f'"AC{0:032x}","callSid":"CA{self.number:032x}"}},"streamSid":"{self._stream_sid}"}}'
        )
        self._send(client_frame(text.encode()))

    def tick(self, now: float) -> None:
        """The next message of the caller's voice, after the marks that are due."""
        if self._marks:
            self._echo(now)
        payload = self._next(now)
        if self._frames > 1:
            payload = joined(payload, *(self._next(now) for _ in range(1, self._frames)))
        self._chunk += 1
        self._sequence += 1
        timestamp_ms = int((now - self.started_s) * 1000) + _FIRST_TIMESTAMP_MS
        numbers = (self._sequence, self._chunk, timestamp_ms, payload)
        self._send(client_frame(self._media % numbers))

    def _next(self, now: float) -> bytes:
        """The next 20 ms."""
        payload = QUIET_FRAMES[self.sent_frames % len(QUIET_FRAMES)]
        if not self.is_paired:
            payload = next(self._says)
        else:
            self._until_burst -= 1
            if self._until_burst <= 0:
                payload = self._burst(now)
        self.sent_frames += 1
        return payload

    def _burst(self, now: float) -> bytes:
        self._until_burst = BURST_EVERY
        self.bursts.append((now, self.sent_frames))
        self._books.tally.bursts += self._books.tally.covers(now)
        return BURST_FRAME

    def _echo(self, now: float) -> None:
        while self._marks and self._marks[0][0] <= now:
            self._send_mark(self._marks.popleft()[1])

    def _send_mark(self, name: bytes) -> None:
        self._sequence += 1
        text = b'{"event":"mark","sequenceNumber":"%d","streamSid":"%b","mark":{"name":"%b"}}'
        self._send(client_frame(text % (self._sequence, self._stream_sid.encode(), name)))

    # -- what the gateway sends

    def receive(self, text: bytes, now: float) -> None:
        """One message of the gateway."""
        payload = _member(text, b'"payload"')
        if payload is not None:
            self._play(_decoded_bytes(payload) / _BYTES_PER_MS, now)
        elif b'"clear"' in text:
            self._clear(now)
        elif (name := _member(text, b'"name"')) is not None:
            self._receive_mark(name, now)

    def _play(self, duration_ms: float, now: float) -> None:
        tally = self._books.tally
        if self._is_cleared:
            tally.stale_messages += tally.covers(now)
            return
        if self._is_awaiting_audio:
            self._is_awaiting_audio = False
            if tally.covers(self._answer_s):
                tally.downlink_ms.append((now - self._answer_s) * 1000)
        elif now > self._played_until_s and self._is_within_answer() and tally.covers(now):
            tally.gaps_ms.append((now - self._played_until_s) * 1000)
        self._answer_ms += duration_ms
        self._played_until_s = max(now, self._played_until_s) + duration_ms / 1000

    def _is_within_answer(self) -> bool:
        return 0 < self._answer_ms < ANSWER_MS

    def _receive_mark(self, name: bytes, now: float) -> None:
        if self._played_until_s <= now:
            self._send_mark(name)
        else:
            self._marks.append((self._played_until_s, name))

    def _clear(self, now: float) -> None:
        self._played_until_s = now
        while self._marks:
            self._send_mark(self._marks.popleft()[1])
        begun_s, self._speech_started_s = self._speech_started_s, 0.0
        if begun_s:
            self._is_cleared = True
            if self._books.tally.covers(begun_s):
                self._books.tally.barge_in_ms.append((now - begun_s) * 1000)

    # -- what its model session does, told by the load

    def pair(self, first_append_s: float) -> None:
        """Its session has understood who calls."""
        self.is_paired = True
        self._books.tally.setup_ms.append((first_append_s - self.started_s) * 1000)

    def answer_starts(self, now: float, *, is_to_be_cut: bool) -> None:
        """The first delta of an answer is being written: the one before is closed."""
        tally = self._books.tally
        # The one before may have begun ahead of the window: calls were complete by then.
        if self._answer_s > 0 and not self._is_to_be_cut and tally.covers(now):
            self._close_answer()
        self._answer_s, self._answer_ms = now, 0.0
        self._is_awaiting_audio, self._is_cleared = True, False
        self._is_to_be_cut, self._speech_started_s = is_to_be_cut, 0.0
        tally.first_deltas += tally.covers(now)

    def _close_answer(self) -> None:
        tally = self._books.tally
        tally.answers += 1
        missing_ms = ANSWER_MS - self._answer_ms
        if missing_ms > TOLERANCE_MS:
            tally.answers_short += 1
            tally.lost_down_ms += missing_ms
        tally.answers_long += missing_ms < -TOLERANCE_MS

    def speech_started(self, now: float) -> None:
        """The model has heard this caller interrupt."""
        self._speech_started_s = now
        self._books.tally.barge_ins += self._books.tally.covers(now)

    def burst_heard(self, now: float, lag_ms: float) -> None:
        """A burst has come through; ``lag_ms`` is how much audio is on its way altogether.

        Where the audio is not a second late, a burst that waits behind a younger one is lost.
        """
        while len(self.bursts) > 1 and lag_ms < BURST_EVERY * FRAME_MS / 2:
            self.bursts.popleft()
        sent_s, _ = self.bursts.popleft()
        tally = self._books.tally
        if tally.covers(sent_s) and now - sent_s <= BURST_LIFE_S:
            tally.uplink_ms.append((now - sent_s) * 1000)

    def drop_old_bursts(self, now: float) -> None:
        """Forget bursts that will not come any more."""
        while self.bursts and now - self.bursts[0][0] > BURST_LIFE_S:
            self.bursts.popleft()


def _member(text: bytes, name: bytes) -> bytes | None:
    """The string value of a member, found without parsing."""
    at = text.find(name)
    if at < 0:
        return None
    start = text.find(b'"', at + len(name)) + 1
    stop = text.find(b'"', start)
    return text[start:stop] if 0 < start <= stop else None


def _decoded_bytes(base64: bytes) -> int:
    padding = base64.endswith(b"=") + base64.endswith(b"==")
    return len(base64) * 3 // 4 - padding
