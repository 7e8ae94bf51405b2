"""What a telephone provider can do to a call (P01, P02, ...), each case a test.

P07 counts no race, because a status callback is only noted. P09 listens for a second instead of two
minutes, and P22 lives four hours on the lab's clock.
"""

import asyncio
import binascii
import json
import tracemalloc

import aiohttp
import pytest

from gateway.audio.convert import Converter
from gateway.events import (
    AudioCounted,
    AudioReceived,
    CallEnded,
    CallReady,
    DialRealtime,
    ItemPlayed,
    MarksLost,
    RealtimeConnected,
    RealtimeReconnected,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TokensUsed,
)
from gateway.simulator.agents import Call as ToolCall
from gateway.simulator.agents import Turn
from gateway.simulator.twilio_line import TwilioLine
from gateway.simulator.twilio_webhook import sign
from tests.faults.conftest import OpenScene
from tests.faults.invariants import dropped_ms
from tests.faults.scene import PUBLIC_URL, TWILIO_TOKEN, Scene, says, utterance, words
from tests.faults.stream import CLOSE, TONE, RawSocket, Stream, until
from tests.lab import Lab, options


def _media(stream: Stream, payload: object, **members: object) -> dict[str, object]:
    media = {"track": "inbound", "payload": payload, **members}
    return {"event": "media", "media": media, "streamSid": stream.line.call.stream_sid}


def _as_heard(payload: bytes) -> bytes:
    """What the model hears of mu-law audio: 24 kHz PCM."""
    return Converter("ulaw", 8000, "pcm", 24_000).convert(payload)


async def _started(scene: Scene, stream: Stream) -> None:
    """The stream is up, and the model listens."""
    ready = len(scene.told(CallReady))
    await stream.start()
    await until(lambda: len(scene.told(CallReady)) > ready)


async def _heard(scene: Scene, size: int) -> bytes:
    """The last session's audio, once there is so much of it."""
    session = scene.sessions()[-1]
    await until(lambda: len(session.hearing.heard.pcm) >= size)
    return bytes(session.hearing.heard.pcm)


async def test_p01_orderly_hangup(open_scene: OpenScene) -> None:
    """A caller who hangs up in mid-answer ends call and session, and nothing follows the stop."""
    scene = await open_scene(script=says(Turn(after="create", text=words(6))))

    outcome = await scene.call(hang_up_after_s=0.8)

    assert outcome.reason == "caller_hangup"
    assert scene.metric("calls_ended_total", reason="caller_hangup") == 1
    await until(lambda: scene.simulator.active == 1, 2.0)
    assert scene.metric("calls_active") == 1
    assert scene.sessions()[0].hearing.heard.end_ms <= outcome.report.sent_ms + 20


async def test_p02_hangup_without_stop(open_scene: OpenScene) -> None:
    """A connection that breaks ends the call at once, told in one warning without a traceback."""
    scene = await open_scene()

    outcome = await scene.call(hang_up="abort", hang_up_after_s=0.8)

    assert outcome.reason == "provider_lost"
    (line,) = scene.log_lines("call_ended", "1006")
    assert json.loads(line)["level"] == "warning"
    assert scene.log_lines("Traceback") == []
    await until(lambda: scene.simulator.active == 1, 2.0)


async def test_p03_half_open_peer(open_scene: OpenScene) -> None:
    """A provider that is frozen is found out by its missing pong."""
    scene = await open_scene()

    outcome = await scene.call(hang_up="freeze", hang_up_after_s=0.5, freeze_s=2.5)

    assert outcome.reason == "provider_lost"
    assert outcome.ended.duration_s < 2.6


async def test_p04_close_is_never_answered(open_scene: OpenScene) -> None:
    """A provider that leaves our close unanswered holds neither the record nor a place."""
    scene = await open_scene(GATEWAY_HEARTBEAT_S="60")
    number = scene.new_number()
    async with scene.raw() as socket:
        await _start_raw(scene, socket, number)
        scene.bridge_of(number).hang_up("overload")

        await until(lambda: scene.is_over(number), 0.5)
        assert scene.gateway.admission.calls == 1
        await until(lambda: len(scene.gateway.bridges) == 1, 6.0)


async def _start_raw(scene: Scene, socket: RawSocket, number: str) -> None:
    """Open a call over bare frames."""
    for message in TwilioLine(scene.ticket(number)).start(0.0):
        await socket.send(str(message).encode())
    await until(lambda: any(isinstance(fact, CallReady) for fact in scene.of_number(number)))


async def test_p05_connects_and_says_nothing(open_scene: OpenScene) -> None:
    """Fifty silent sockets are closed with 1008 by the start deadline, and reach no model."""
    scene = await open_scene(GATEWAY_START_DEADLINE_S="0.3")

    async def be_silent() -> int:
        async with scene.raw() as socket:
            return await socket.close_code(5.0)

    codes = await asyncio.gather(*(be_silent() for _ in range(50)))

    assert set(codes) == {1008}
    assert scene.metric("rejected_total", stage="handshake", reason="start_timeout") == 50
    assert scene.sessions() == []


async def test_p06_media_before_start(open_scene: OpenScene) -> None:
    """Audio before the start is counted, logged once, and never reaches the model."""
    scene = await open_scene()
    async with scene.stream() as stream:
        connected, start = stream.line.start(0.0)
        await stream.send(connected, *(_media(stream, "fn5+") for _ in range(10)), start)
        await until(lambda: scene.told(CallReady))
        await stream.frames(5, TONE)

        expected = _as_heard(TONE * 5)
        assert await _heard(scene, len(expected)) == expected
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", side="provider", kind="out_of_state") == 10
    assert len(scene.log_lines('"frame_rejected"')) == 1


async def test_p07_call_control_before_the_stream(open_scene: OpenScene) -> None:
    """A status callback that overtakes the stream is answered with nothing and changes nothing."""
    scene = await open_scene()
    call = scene.ticket()
    form = {"CallSid": call.call_sid, "StreamEvent": "stream-started", "AccountSid": "AC1"}
    signature = sign(TWILIO_TOKEN, f"{PUBLIC_URL}/twilio/status", form)
    url = f"http://127.0.0.1:{scene.running.port}/twilio/status"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form, headers={"X-Twilio-Signature": signature}) as answer,
    ):
        assert (answer.status, await answer.read()) == (204, b"")

    async with scene.stream(call) as stream:
        await _started(scene, stream)
        await stream.talk(1.2)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert len(stream.line.phone.spans) == 1
    assert len(stream.audio()) / 8 == pytest.approx(600, abs=20)


async def test_p08_agent_ends_the_call(open_scene: OpenScene) -> None:
    """The whole goodbye is heard, then the line drops within two seconds, told over REST."""
    script = says(
        Turn(after="create", text=words(0.3)),
        Turn(after="speech", text=words(1.2), calls=(ToolCall("hang_up"),)),
    )
    scene = await open_scene(script=script)

    outcome = await scene.call(utterance("call_start", 0.6), hang_up="agent", hang_up_after_s=9)

    report = outcome.report
    assert outcome.reason == "agent_hangup"
    assert report.ended_by == "gateway"
    assert report.played_ms == pytest.approx(1500, abs=40)
    last = report.spans[-1]
    assert 0 <= report.duration_s - (last.starts_at_s + last.size_bytes / 8000) < 2.0
    assert len(scene.hung_up) == 1


async def test_p09_outbound_framing(open_scene: OpenScene) -> None:
    """Only media, marks and clears leave, in whole frames, and nothing follows the close."""
    script = says(Turn(after="create", text=words(1.0)))
    scene = await open_scene(script=script, GATEWAY_HEARTBEAT_S="60")
    number = scene.new_number()
    async with scene.raw() as socket:
        await _start_raw(scene, socket, number)
        reading = asyncio.create_task(socket.close_code(5.0))
        await until(lambda: len(socket.frames) > 10)
        scene.bridge_of(number).hang_up("overload")
        assert await reading == 1000
        assert await socket.read() is None, "a frame after the close"

    messages = [json.loads(frame.payload) for frame in socket.frames if frame.opcode == 1]
    assert {message["event"] for message in messages} == {"media", "mark"}
    coded = [m["media"]["payload"] for m in messages if m["event"] == "media"]
    payloads = [binascii.a2b_base64(text, strict_mode=True) for text in coded]
    assert {len(payload) % 160 for payload in payloads} == {0}
    assert max(map(len, payloads)) <= 8000
    assert not payloads[0].startswith(b"RIFF")
    assert [frame.opcode for frame in socket.frames].count(CLOSE) == 1


async def test_p10_second_start(open_scene: OpenScene) -> None:
    """A second start on a socket is counted and ignored: the first call goes on as it was."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        await until(lambda: stream.received)
        other = scene.ticket()
        start = {"callSid": other.call_sid, "streamSid": other.stream_sid}
        await stream.send({"event": "start", "start": start, "streamSid": other.stream_sid})
        await stream.frames(5, TONE)
        assert await _heard(scene, len(_as_heard(TONE * 5))) == _as_heard(TONE * 5)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", kind="duplicate_start") == 1
    assert len(scene.sessions()) == 1
    assert {m["streamSid"] for m in stream.received} == {stream.line.call.stream_sid}


async def test_p11_two_sockets_for_one_call(open_scene: OpenScene) -> None:
    """A second socket for a running call is closed with 1008, and the first goes on."""
    scene = await open_scene()
    call = scene.ticket()
    async with scene.stream(call) as first:
        await _started(scene, first)
        again = scene.ticket(call_sid=call.call_sid)
        async with scene.stream(again) as second:
            await second.start()
            await until(second.is_over.is_set)
            assert second.socket.close_code == 1008
        await first.frames(5, TONE)
        assert await _heard(scene, len(_as_heard(TONE * 5))) == _as_heard(TONE * 5)
        await first.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("rejected_total", reason="duplicate_call") == 1
    assert len(scene.sessions()) == 1


async def test_p12_frame_gaps(open_scene: OpenScene) -> None:
    """Frames that never came are counted in ms, and silence keeps the model's clock right."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        await stream.frames(49)
        for _ in range(11):
            stream.line.send_audio(b"\xff" * 160, 0.0)  # made, counted, lost
        await stream.frames(40)

        heard = await _heard(scene, (100 * 20 - 10) * 48)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert len(heard) / 48 == pytest.approx(2000, abs=20)
    assert scene.metric("audio_dropped_ms_total", direction="up", reason="gap") == 220


async def test_p13_duplicate_frames(open_scene: OpenScene) -> None:
    """A frame that comes twice is heard, and paid for, once."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        for number in range(50):
            (message,) = stream.line.send_audio(bytes([0x80 + number]) * 160, 0.0)
            await stream.send(*[message] * (2 if number % 10 == 0 else 1))
        sent = b"".join(bytes([0x80 + number]) * 160 for number in range(50))

        assert await _heard(scene, len(_as_heard(sent))) == _as_heard(sent)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", kind="duplicate") == 5


async def test_p14_burst_after_stall(open_scene: OpenScene) -> None:
    """Three seconds that come at once are heard at once, in order, complete."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        await stream.talk(0.2)
        await asyncio.sleep(0.5)
        sent = b"".join(bytes([0x60 + number]) * 160 for number in range(150))
        for number in range(150):
            await stream.frames(1, bytes([0x60 + number]) * 160)

        expected = _as_heard(b"\xff" * 1600 + sent)
        async with asyncio.timeout(1.0):
            assert await _heard(scene, len(expected)) == expected
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])


async def test_p15_invalid_base64(open_scene: OpenScene) -> None:
    """What is no base64 is counted and logged once; the frames around it are heard."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        await stream.frames(3, TONE)
        bad = ["%%%", "AA=A", "!!!!", "AAA"]
        await stream.send(*(_media(stream, payload) for payload in bad))
        await stream.frames(3, TONE)

        assert await _heard(scene, len(_as_heard(TONE * 6))) == _as_heard(TONE * 6)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", kind="bad_base64") == len(bad)
    assert len(scene.log_lines('"frame_rejected"', "bad_base64")) == 1


async def test_p16_odd_sizes(open_scene: OpenScene) -> None:
    """Payloads of any length make one unbroken sound; an empty one is counted."""
    scene = await open_scene()
    sizes = (1, 159, 161, 3200, 1, 1, 318)
    sent = bytes(range(0x40, 0xC0)) * 31
    async with scene.stream() as stream:
        await _started(scene, stream)
        await stream.send(_media(stream, ""))
        at = 0
        for size in sizes:
            await stream.frames(1, sent[at : at + size])
            at += size

        expected = _as_heard(sent[:at])
        assert await _heard(scene, len(expected)) == expected
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", kind="empty") == 1


async def test_p17_wrong_media_format(open_scene: OpenScene) -> None:
    """A format that is not ours is refused, with what it was in the log."""
    scene = await open_scene()
    async with scene.stream() as stream:
        connected, start = (json.loads(message) for message in stream.line.start(0.0))
        wrong = {"encoding": "audio/l16", "sampleRate": 16000, "channels": 2}
        start["start"]["mediaFormat"] = wrong
        await stream.send(connected, start)
        await until(stream.is_over.is_set)
        assert stream.socket.close_code == 1008

    assert scene.metric("rejected_total", reason="media_format") == 1
    assert len(scene.log_lines("call_rejected", "audio/l16", "16000", "2 channels")) == 1
    assert scene.sessions() == []


ABUSE = (
    "{",
    "[]",
    '{"event":"media","media":{"payload":NaN}}',
    "[" * 30_000,
    '{"a":' * 5_000,
    '{"event":"media","event":"media"}',
    '{"event":"media","media":{"payload":"\\ud800"}}',
    '"media"',
    "null",
)


async def test_p18_json_abuse(open_scene: OpenScene) -> None:
    """Any abuse of JSON costs one frame; fifty in a row cost the call, with code 1008."""
    scene = await open_scene()
    async with scene.stream() as stream:
        await _started(scene, stream)
        await stream.send(*ABUSE)
        await stream.frames(3, TONE)
        assert await _heard(scene, len(_as_heard(TONE * 3))) == _as_heard(TONE * 3)
        assert scene.reasons() == []

        await stream.send(*["{"] * 50)
        await until(stream.is_over.is_set)
        code = stream.socket.close_code
    await until(lambda: scene.reasons() == ["protocol_error"])

    assert scene.metric("frame_errors_total", side="provider") == len(ABUSE) + 50
    assert scene.log_lines("Traceback") == []
    assert code == 1008


async def test_p19_unknown_events_and_members(open_scene: OpenScene) -> None:
    """What we have never heard of is counted under one label and harms nothing."""
    scene = await open_scene()
    async with scene.stream() as stream:
        connected, start = (json.loads(message) for message in stream.line.start(0.0))
        start["start"]["aNewMember"] = {"of": [1]}
        await stream.send(connected, start)
        await until(lambda: scene.told(CallReady))
        await stream.send({"event": "foo", "foo": {}}, {"event": "x" * 300})
        await stream.frames(3, TONE)
        (message,) = stream.line.send_audio(TONE, 0.0)
        media = json.loads(message)
        media["media"]["aNewMember"] = media["another"] = 1
        await stream.send(media)

        assert await _heard(scene, len(_as_heard(TONE * 4))) == _as_heard(TONE * 4)
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    assert scene.metric("frame_errors_total", kind="unknown_event") == 2
    assert "foo" not in scene.exported()


async def test_p20_marks_never_come_back(open_scene: OpenScene) -> None:
    """Without marks the clock has to do: said once, and a barge-in still stops the agent."""
    scene = await open_scene(script=says(Turn(after="create", text=words(9))))
    async with scene.stream() as stream:
        stream.echoes_marks = False
        await _started(scene, stream)
        await stream.talk(3.2)
        await until(lambda: scene.told(MarksLost))
        await stream.talk(0.4, TONE)
        await until(lambda: stream.of("clear"))
        await until(lambda: scene.sessions()[0].truncations)
        sent_ms = len(stream.audio()) / 8
        await stream.stop()
    await until(lambda: scene.reasons() == ["caller_hangup"])

    ((_, audio_end_ms),) = scene.sessions()[0].truncations
    assert 2500 < audio_end_ms <= sent_ms
    assert scene.metric("marks_lost_total") == 1
    assert len(scene.log_lines('"marks_lost"')) == 1


async def test_p21_slow_consumer(open_scene: OpenScene) -> None:
    """A provider that hardly reads is fed no further ahead than the lead, in bounded memory."""
    script = says(Turn(after="create", text=words(60)))
    scene = await open_scene(script=script, GATEWAY_HEARTBEAT_S="60")
    number = scene.new_number()
    async with scene.raw(receive_bytes=4096) as socket:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await _start_raw(scene, socket, number)
        await until(lambda: any(isinstance(f, TokensUsed) for f in scene.of_number(number)), 20.0)
        for _ in range(20):
            await socket.reader.read(50)  # 1 kB a second
            await asyncio.sleep(0.05)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        stop = {"event": "stop", "stop": {}}
        await socket.send(json.dumps(stop).encode())
        await until(lambda: scene.is_over(number))
        facts = scene.of_number(number)

    # At most what went by in real time and five seconds of lead, at least that lead: no mark comes
    # back, and the clock refills it.
    (ended,) = (fact for fact in facts if isinstance(fact, CallEnded))
    left_ms = 60_000 - dropped_ms(facts, "down")
    assert 5000 <= left_ms <= ended.duration_s * 1000 + 5000
    # The simulated model's own copies of a minute of sound are about 12 MiB of this.
    assert grown < 24 * 1024 * 1024


TURNS_AN_HOUR = 30


def test_p22_four_hours() -> None:
    """Four hours with a renewed session every hour: no drift in the counters, memory flat."""
    lab = Lab(options(idle_s=1e6, max_call_s=1e6), is_ready=False)
    counts = _Hours()
    tracemalloc.start()
    for hour in range(4):
        for turn in range(TURNS_AN_HOUR):
            _turn(lab, counts, f"resp_{hour}_{turn}")
        counts.memory_bytes.append(_held_by_calls())
    tracemalloc.stop()
    counts.note(lab)

    assert counts.reconnects >= 3
    assert counts.up_ms == pytest.approx(4 * 3600 * 1000, abs=2000)
    assert counts.down_ms == pytest.approx(4 * TURNS_AN_HOUR * 5000, abs=2000)
    assert counts.played_ms == pytest.approx(counts.down_ms, abs=2000)
    assert lab.call.termination is None
    assert counts.memory_bytes[3] - counts.memory_bytes[0] < 3 * 1024 * 1024


class _Hours:
    """Sums over a long call, so that the lab may forget."""

    def __init__(self) -> None:
        self.up_ms = self.down_ms = self.played_ms = 0.0
        self.reconnects = 0
        self.memory_bytes: list[int] = []

    def note(self, lab: Lab) -> None:
        """Add up what was told, then let the lab forget it."""
        for fact in lab.told(AudioCounted):
            if fact.direction == "up":
                self.up_ms += fact.duration_ms
            else:
                self.down_ms += fact.duration_ms
        self.played_ms += sum(fact.heard_ms for fact in lab.told(ItemPlayed))
        self.reconnects += len(lab.told(RealtimeReconnected))
        for told in (lab.facts, lab.sent, lab.asked):
            told.clear()


def _turn(lab: Lab, counts: _Hours, response: str) -> None:
    """Five seconds of answer, the caller's words, and silence; sound comes by the second."""
    _serve(lab)
    lab.realtime(SpeechStarted("item_u", 0), SpeechStopped("item_u", 0))
    lab.answer(response, f"item_{response}", 5000)
    for _ in range(3600 // TURNS_AN_HOUR):
        lab.provider(AudioReceived(b"\xff" * 8000))
        lab.run_for(1.0)
        _serve(lab)
    counts.note(lab)


def _serve(lab: Lab) -> None:
    """Open a session wherever one was asked for; each is good for an hour."""
    is_asked = any(isinstance(command, DialRealtime) for _, command in lab.asked)
    lab.asked.clear()
    if is_asked:
        session = SessionCreated("sess", lab.now + 3600)
        lab.realtime(RealtimeConnected(0.01), session, SessionUpdated())


def _held_by_calls() -> int:
    """Bytes that the call's own code holds."""
    snapshot = tracemalloc.take_snapshot()
    ours = snapshot.filter_traces(
        [
            tracemalloc.Filter(inclusive=True, filename_pattern="*/gateway/*.py"),
            tracemalloc.Filter(inclusive=False, filename_pattern="*/simulator/*"),
        ]
    )
    return sum(statistic.size for statistic in ours.statistics("filename"))


async def test_p23_zero_duration_calls(open_scene: OpenScene) -> None:
    """A hundred calls that stop as they start leave as many records and nothing else."""
    scene = await open_scene()
    scene.break_model("handshake_delay_s=0.2")

    async def hang_up_at_once() -> None:
        async with scene.stream() as stream:
            await stream.start()
            await stream.stop()

    for _ in range(10):
        await asyncio.gather(*(hang_up_at_once() for _ in range(10)))
    await until(lambda: len(scene.told(CallEnded)) == 100)

    assert set(scene.reasons()) == {"caller_hangup"}
    assert scene.log_lines('"level": "error"') == []
    assert scene.metric("rejected_total") == 0
