"""What the model's service can do to a call (P24, P25, ...), each case a test.

Not written: P42 and P43 need a tool that takes time, and the one there is does not; the overflow
deployment of P28 needs a second target, which does not exist either. P34's close code is our own
1000, because the session is left as soon as the service says that it has expired.
"""

import asyncio
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import pytest

import gateway.breaker
import gateway.realtime.auth
import gateway.realtime.connection
import gateway.usher
from gateway.audio.convert import Converter
from gateway.call import CallOptions
from gateway.events import (
    AudioDropped,
    CallReady,
    CallStopped,
    PromptPlayed,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeReconnected,
    TurnTimedOut,
)
from gateway.realtime.auth import EntraToken
from gateway.simulator.agents import Call, Turn
from gateway.simulator.plan import Pace
from gateway.simulator.realtime import RealtimeSession
from tests.faults.conftest import OpenScene
from tests.faults.invariants import dropped_ms
from tests.faults.scene import Outcome, Scene, says, utterance, words
from tests.faults.stream import until
from tests.lab import Lab

# An answer that comes after the test.
LATE = Turn(after="speech", text=words(0.3), latency_ms=5000)


def _results(scene: Scene) -> list[str]:
    """How the dials of all calls but the bystander's ended."""
    return [dialled.result for dialled in scene.told(RealtimeDialled)]


def _assert_apologised(outcome: Outcome, within_s: float = 2.0) -> None:
    """The caller heard the apology soon, and nothing but it, before the line was dropped."""
    assert [prompt.name for prompt in outcome.told(PromptPlayed)] == ["apology"]
    assert outcome.report.first_audio_s is not None
    assert outcome.report.first_audio_s < within_s
    assert outcome.report.played_ms >= 400
    assert outcome.report.ended_by == "gateway"
    assert outcome.reason == "realtime_unavailable"


def _requests(session: RealtimeSession, kind: str) -> list[dict[str, Any]]:
    """What a session was asked for."""
    return [event for event in session.received if event["type"] == kind]


async def _call_in_vain(scene: Scene, **plan: Any) -> Outcome:
    """A call to a model that cannot be reached: the gateway is expected to end it."""
    return await scene.call(hang_up="agent", **{"hang_up_after_s": 6.0, **plan})


async def test_p24_connection_refused(open_scene: OpenScene) -> None:
    """A closed port means an apology, two attempts a call at most, and a breaker that opens."""
    scene = await open_scene()
    scene.gate.refuse()

    outcomes = await asyncio.gather(*(_call_in_vain(scene) for _ in range(3)))
    late = await _call_in_vain(scene)

    for outcome in (*outcomes, late):
        _assert_apologised(outcome)
        assert len(outcome.told(RealtimeDialled)) <= 2
    assert scene.metric("realtime_connect_total", result="refused") >= 5
    assert {dialled.result for dialled in late.told(RealtimeDialled)} == {"breaker"}
    assert scene.gateway.breaker.is_open


async def test_p24_retries_stop_at_hangup(open_scene: OpenScene) -> None:
    """A caller who hangs up between two attempts is not dialled for again."""
    scene = await open_scene()
    scene.gate.refuse()

    outcome = await scene.call(hang_up_after_s=0.1)

    assert outcome.reason == "caller_hangup"
    await asyncio.sleep(0.3)
    assert len(outcome.told(RealtimeDialled)) == 1
    assert scene.simulator.active == 1


def test_p24_audio_for_nobody_is_accounted_for() -> None:
    """What the caller said to a model that never came is told as dropped, all of it."""
    lab = Lab(is_ready=False)
    lab.frames(10)
    lab.provider(CallStopped())

    assert dropped_ms(lab.facts, "up") == 200


async def test_p25_upgrade_never_answered(open_scene: OpenScene) -> None:
    """A port that accepts and says nothing costs the budget, then the caller hears an apology."""
    scene = await open_scene()
    scene.gate.mode = "deaf"

    outcome = await _call_in_vain(scene)

    _assert_apologised(outcome)
    assert "timeout" in _results(scene)
    assert scene.gateway.admission.calls == 1


async def test_p26_dns(open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not known, or not in time, means an apology; other calls' audio goes on."""
    loop = asyncio.get_running_loop()
    known, is_slow = loop.getaddrinfo, False

    async def resolve(host: Any, port: Any, **hints: Any) -> Any:
        if host != "model.invalid":
            return await known(host, port, **hints)
        if not is_broken:
            return await known("127.0.0.1", port, **hints)
        if is_slow:
            await loop.run_in_executor(None, time.sleep, 1.5)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    is_broken = False
    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    scene = await open_scene(GATEWAY_INSECURE="1", model_host="model.invalid")
    is_broken = True

    unknown = await _call_in_vain(scene)
    assert {dialled.result for dialled in unknown.told(RealtimeDialled)} == {"dns"}
    is_slow = True
    slow = await _call_in_vain(scene)

    _assert_apologised(unknown)
    _assert_apologised(slow)
    assert "timeout" in {dialled.result for dialled in slow.told(RealtimeDialled)}


@dataclass(frozen=True)
class _Token:
    token: str
    expires_on: int


@dataclass
class Identity:
    """An identity endpoint: a canary for a token, after ``delay_s``."""

    delay_s: float = 0.0
    asked: int = 0
    tokens: list[str] = field(default_factory=list)

    async def get_token(self, *_scopes: str) -> _Token:
        """Ask for a token."""
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        self.tokens.append(f"canary-entra-token-{self.asked}")
        return _Token(self.tokens[-1], int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing to close."""

    def made(self) -> Self:
        """As a factory of credentials."""
        return self


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Identity:
    """Stands in for azure-identity's own chain of credentials."""
    identity = Identity()
    monkeypatch.setattr(gateway.realtime.auth, "_default_credential", identity.made)
    return identity


async def test_p27_one_401(open_scene: OpenScene, identity: Identity) -> None:
    """A token that is refused once is replaced once, and the caller notices nothing."""
    scene = await open_scene(key="")
    scene.break_model("http_status=401", "first=1")

    outcome = await scene.call(hang_up_after_s=1.5)

    assert _results(scene) == ["401", "ok"]
    assert scene.metric("token_refresh_total", result="forced") == 1
    assert outcome.told(PromptPlayed) == []
    assert outcome.report.played_ms > 300
    assert not [token for token in identity.tokens if token in scene.log.getvalue()]


async def test_p27_401_for_good(open_scene: OpenScene, identity: Identity) -> None:
    """A service that goes on refusing is asked twice, not for ever."""
    scene = await open_scene(key="")
    scene.break_model("http_status=401")

    outcome = await _call_in_vain(scene)

    _assert_apologised(outcome)
    assert _results(scene) == ["401", "401"]
    assert identity.asked == 2


async def test_p28_429_with_retry_after(open_scene: OpenScene) -> None:
    """A hint of twenty seconds means an apology now; new calls do not ask until it has passed."""
    scene = await open_scene()
    scene.break_model("http_status=429", "retry_after_s=20")

    first = await _call_in_vain(scene)
    second = await _call_in_vain(scene)

    _assert_apologised(first)
    _assert_apologised(second)
    assert _results(scene) == ["429", "breaker"]
    assert scene.simulator.active == 1


async def test_p29_burst_of_503(open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage one call tries while others are told no, and then all get through."""
    monkeypatch.setattr(gateway.breaker, "OPEN_S", 1.5)
    scene = await open_scene()
    scene.break_model("http_status=503")
    for outcome in await asyncio.gather(*(_call_in_vain(scene) for _ in range(3))):
        _assert_apologised(outcome)
    assert scene.gateway.breaker.is_open

    scene.break_model("handshake_delay_s=0.2")
    await until(lambda: not scene.gateway.breaker.is_open)
    before = scene.simulator.connections
    probe = asyncio.create_task(scene.call())
    await until(lambda: scene.simulator.connections == before + 1)
    refused = await asyncio.gather(*(_call_in_vain(scene) for _ in range(2)))
    recovered = await scene.call()

    assert (await probe).reason == "caller_hangup"
    assert [outcome.reason for outcome in refused] == ["realtime_unavailable"] * 2
    assert scene.simulator.connections == before + 2
    assert recovered.report.played_ms > 100


@pytest.mark.parametrize("moment", ["response", "done"])
async def test_p30_response_already_active(open_scene: OpenScene, moment: str) -> None:
    """A create that is refused for another answer is asked once more, whichever came first."""
    scene = await open_scene()
    scene.break_model(
        "error_code=conversation_already_has_active_response", f"error_when={moment}", "first=1"
    )

    outcome = await scene.call(utterance("call_start", 1.5), hang_up_after_s=2.6)

    code = "conversation_already_has_active_response"
    assert scene.metric("realtime_errors_total", code=code) == 1
    assert len(_requests(scene.sessions()[0], "response.create")) == 2
    assert outcome.report.turns[0].answered_after_s is not None


async def test_p31_barge_in_after_the_answer_was_made(open_scene: OpenScene) -> None:
    """The phone is cleared although no answer is running, and the error about it is harmless."""
    scene = await open_scene(script=says(Turn(after="create", text=words(8)), LATE))
    scene.break_model("error_code=response_cancel_not_active", "error_when=speech", "first=1")

    outcome = await scene.call(utterance("call_start", 0.6), hang_up_after_s=1.6)

    (silenced_after_s,) = outcome.report.barge_in_s
    # Detection takes 60 to 80 ms of speech.
    assert silenced_after_s < 0.35
    assert outcome.report.cleared_ms > 3000
    assert _requests(scene.sessions()[0], "response.cancel") == []
    (error,) = outcome.told(RealtimeErrorSeen)
    assert (error.code, error.severity) == ("response_cancel_not_active", "ignore")
    assert not [
        line for line in scene.log_lines("response_cancel_not_active") if '"debug"' not in line
    ]


async def test_p32_truncation_is_of_its_own_item(open_scene: OpenScene) -> None:
    """Interrupting a young item cuts that item, never at the offset of an older one."""
    script = says(Turn(after="create", text=words(0.9)), Turn(after="speech", text=words(4)))
    scene = await open_scene(script=script)

    await scene.call(
        utterance("agent_stops", 0.1), utterance("agent_starts", 0.1), hang_up_after_s=3.2
    )

    session = scene.sessions()[0]
    ((item_id, audio_end_ms),) = session.truncations
    assert list(session.spoken).index(item_id) == 1
    assert 0 <= audio_end_ms < 1000
    assert scene.told(RealtimeErrorSeen) == []


async def test_p33_late_audio_after_cancel(open_scene: OpenScene) -> None:
    """What the model still sends of a cancelled answer is counted, and no frame of it heard."""
    pace = Pace(speed=1.5, first_delta_s=0.05, jitter_s=0.0)
    scene = await open_scene(script=says(Turn(after="create", text=words(8)), LATE), pace=pace)
    scene.break_model("deltas_after_cancel=10", "first=1")

    outcome = await scene.call(utterance("call_start", 0.8, 0.8), hang_up_after_s=1.9)

    late = [drop for drop in outcome.told(AudioDropped) if drop.reason == "cancelled"]
    assert sum(drop.duration_ms for drop in late) == pytest.approx(2000, abs=50)
    (clear,) = [moment for moment in outcome.report.moments if moment.kind == "clear"]
    assert all(span.starts_at_s < clear.at_s for span in outcome.report.spans)


async def test_p34_session_expired(open_scene: OpenScene) -> None:
    """A session that expires is replaced within a second, and the conversation goes on."""
    scene = await open_scene()
    scene.break_model("expires_after_s=1", "first=1")

    outcome = await scene.call(utterance("call_start", 1.6), hang_up_after_s=2.8)

    (reconnected,) = outcome.told(RealtimeReconnected)
    assert reconnected.gap_s < 1.0
    assert scene.metric("realtime_reconnect_gap_seconds_count") == 1
    assert outcome.reason == "caller_hangup"
    assert outcome.report.turns[0].answered_after_s is not None
    assert len(scene.sessions()) == 2


async def test_p35_abnormal_close_in_a_sentence(open_scene: OpenScene) -> None:
    """A session that breaks off is replaced; what was queued plays, and the answer comes again."""
    script = says(Turn(after="create", text=words(1.2)))
    pace = Pace(speed=1.5, first_delta_s=0.05, jitter_s=0.0)
    scene = await open_scene(script=script, pace=pace)
    scene.break_model("close_code=1006", "close_when=delta", "close_count=2", "first=1")

    outcome = await scene.call(hang_up_after_s=9.0, quiet_s=1.5)

    assert [lost.code for lost in outcome.told(RealtimeLost) if not lost.is_expected] == [1006]
    assert scene.metric("realtime_disconnects_total", code="1006") == 1
    assert len(outcome.told(RealtimeReconnected)) == 1
    assert outcome.report.played_ms >= 600 + 1200 - 100
    assert outcome.reason == "caller_hangup"


async def test_p35_abnormal_close_for_good(open_scene: OpenScene) -> None:
    """When the new session breaks off as well, the caller hears an apology within seconds."""
    scene = await open_scene()
    scene.break_model("close_code=1006", "close_when=configured")

    outcome = await _call_in_vain(scene)

    assert outcome.reason == "realtime_error"
    assert [prompt.name for prompt in outcome.told(PromptPlayed)] == ["apology"]
    assert outcome.report.duration_s < 3.0
    assert len(scene.sessions()) == 2


async def test_p36_silent_model(open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer: first a filler, then a new session, then an apology."""
    hurried = partial(CallOptions, answer_s=0.3, give_up_s=0.6)
    monkeypatch.setattr(gateway.usher, "CallOptions", hurried)
    scene = await open_scene(script=says(Turn(after="create", text=words(0.3))))
    scene.break_model("silent")

    outcome = await _call_in_vain(
        scene, says=(utterance("call_start", 0.6), utterance("pause", 1.2))
    )

    assert [timeout.is_final for timeout in outcome.told(TurnTimedOut)][:2] == [False, True]
    prompts = [prompt.name for prompt in outcome.told(PromptPlayed)]
    assert (prompts[0], prompts[-1]) == ("filler", "apology")
    assert scene.metric("turn_timeouts_total", outcome="retried") >= 1
    assert outcome.reason == "realtime_error"


async def test_p37_faster_than_real_time(open_scene: OpenScene) -> None:
    """Ten seconds at once play at their own speed; what was heard counts, not what was sent."""
    scene = await open_scene(script=says(Turn(after="create", text=words(10)), LATE))

    outcome = await scene.call(utterance("call_start", 1.2), hang_up_after_s=1.8)

    ((_, audio_end_ms),) = scene.sessions()[0].truncations
    (before,) = outcome.report.barge_in_s
    started_s = outcome.report.spans[0].starts_at_s
    heard_ms = (outcome.report.turns[0].starts_at_s + before - started_s) * 1000
    assert audio_end_ms == pytest.approx(heard_ms, abs=120)
    assert outcome.report.played_ms == pytest.approx(heard_ms, abs=60)


async def test_p38_odd_deltas(open_scene: OpenScene) -> None:
    """A delta that ends in the middle of a sample is no reason for a click."""
    scene = await open_scene()
    scene.break_model("odd_deltas", "delta_ms=50")

    outcome = await scene.call(hang_up_after_s=1.6)

    (spoken,) = scene.sessions()[0].spoken.values()
    converter = Converter("pcm", 24_000, "ulaw", 8000)
    expected = converter.convert(bytes(spoken)) + converter.flush()
    assert outcome.report.played[: len(expected)] == expected


async def test_p39_unknown_events(open_scene: OpenScene) -> None:
    """Audio plays under the names of either dialect; the unheard-of is counted under one label."""
    scene = await open_scene()
    scene.break_model("other_dialect", "unknown_events", "unknown_members")

    outcome = await scene.call(hang_up_after_s=1.2)

    assert outcome.report.played_ms >= 550
    assert scene.metric("frame_errors_total", side="realtime", kind="unknown_event") > 0
    assert "mood" not in scene.exported()


async def test_p40_slow_identity(open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token callers hear an apology in time, one fetch serves all, then calls work."""
    identity = Identity(delay_s=0.0)
    slow = partial(EntraToken, credential=identity, timeout_s=1.3)
    monkeypatch.setattr(gateway.realtime.connection, "EntraToken", slow)
    scene = await open_scene(key="")
    auth = scene.gateway.auth
    assert isinstance(auth, EntraToken)

    identity.delay_s = 12.0
    cached = await scene.call()
    assert cached.reason == "caller_hangup"
    assert identity.asked == 1

    auth.expires_at = time.time() + 10
    outcomes = await asyncio.gather(*(_call_in_vain(scene) for _ in range(3)))
    for outcome in outcomes:
        _assert_apologised(outcome)
        assert {dialled.result for dialled in outcome.told(RealtimeDialled)} == {"token"}
    assert identity.asked == 2
    await until(lambda: scene.metric("token_refresh_total", result="timeout") == 1)

    identity.delay_s = 0.0
    assert (await scene.call()).told(CallReady)


async def test_p41_rate_limit_in_a_session(open_scene: OpenScene) -> None:
    """A limit that lasts longer than a caller waits is told in words, not by silence."""
    script = says(
        Turn(after="create", text=words(0.3)), Turn(after="speech", fail="rate_limit_exceeded")
    )
    scene = await open_scene(script=script)

    outcome = await _call_in_vain(scene, says=(utterance("call_start", 0.5),))

    assert [prompt.name for prompt in outcome.told(PromptPlayed)] == ["apology"]
    assert scene.metric("realtime_errors_total", code="rate_limit_exceeded") == 1
    assert outcome.report.duration_s < 4.0


async def test_p41_failed_answer_is_asked_for_again(open_scene: OpenScene) -> None:
    """An answer that fails without a hint is asked for once more behind a filler."""
    script = says(
        Turn(after="create", text=words(0.3)),
        Turn(after="speech", fail="inference_rate_limit_exceeded"),
        Turn(after="any", text=words(0.7)),
    )
    scene = await open_scene(script=script)

    outcome = await scene.call(utterance("call_start", 0.5), hang_up_after_s=9.0, quiet_s=1.0)

    assert [prompt.name for prompt in outcome.told(PromptPlayed)] == ["filler"]
    assert len(_requests(scene.sessions()[0], "response.create")) == 2
    assert outcome.report.played_ms >= 300 + 200 + 700 - 60
    assert outcome.reason == "caller_hangup"


async def test_p44_malformed_tool_arguments(open_scene: OpenScene) -> None:
    """A tool that was never offered, with 50 kB of arguments, is refused in words."""
    script = says(
        Turn(after="create", text=words(0.3)),
        Turn(after="speech", calls=(Call("drop_table", '{"half":'),)),
        Turn(after="tool", text=words(0.7)),
    )
    scene = await open_scene(script=script)
    scene.break_model("long_arguments_bytes=50000")

    outcome = await scene.call(utterance("call_start", 0.5), hang_up_after_s=3.4)

    (output,) = _requests(scene.sessions()[0], "conversation.item.create")
    assert output["item"]["type"] == "function_call_output"
    assert scene.metric("tool_calls_total", result="unknown") == 1
    assert "drop_table" not in scene.exported()
    assert outcome.report.played_ms >= 300 + 700 - 60
    assert outcome.reason == "caller_hangup"
