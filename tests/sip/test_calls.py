"""Real phone calls through the gateway: what the caller hears, what the model hears."""

import asyncio
import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.compare import correlation_per_second
from gateway.audio.wav import read_wav
from gateway.events import (
    AnnouncementHeard,
    BargedIn,
    CallEnded,
    DtmfEntered,
    FirstAudioSent,
    ItemPlayed,
)
from gateway.tape.judge import judge, tapes_at
from gateway.tape.listen import write_call
from gateway.tape.story import story_of
from tests.sip.conftest import StartPbx, StartPhone
from tests.sip.pbx import Extension
from tests.sip.phone import RATE_HZ
from tests.sip.stage import Stage, open_stage

pytestmark = [
    pytest.mark.sip,
    pytest.mark.xdist_group("sip"),
    pytest.mark.timeout(120, func_only=True),  # fetching Asterisk has a limit of its own
]

_ROOT = Path(__file__).parents[2]
_WORDS = _ROOT / "tests/sounds/caller-short.wav"
_HELLO = _ROOT / "gateway/prompts/hello.wav"
_GOODBYE = _ROOT / "gateway/prompts/goodbye.wav"
# Longer than the words.
_ANNOUNCEMENT = _ROOT / "gateway/prompts/apology.wav"
_MODEL_HZ = 24_000
# The greeting lasts three seconds and comes within one; words that wait this long interrupt nobody.
_AFTER_GREETING_S = 4.5
# Into the middle of the greeting.
_INTO_GREETING_S = 2.0
# How exactly the ledger knows what was heard: Asterisk's 20 ms, the phone's jitter buffer of up to
# 100 ms, and the packets that were under way.
_LEDGER_MS = 250


def _pause(seconds: float) -> bytes:
    return bytes(2 * int(seconds * RATE_HZ))


def _alike(sound: Path, heard_pcm: bytes, rate_hz: int = RATE_HZ) -> float:
    """The worst second of a sound in what was heard."""
    return min(correlation_per_second(read_wav(sound, rate_hz), heard_pcm, rate_hz))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A gateway with a parrot behind it."""
    async with open_stage() as stage:
        yield stage


async def test_three_callers_talk_with_the_parrot(
    start_pbx: StartPbx, start_phone: StartPhone, stage: Stage
) -> None:
    """At once, over three formats: each hears the greeting, is heard, and hears their own words."""
    extensions = (
        Extension("700"),
        Extension("701", has_json=False),
        Extension("702", codec="slin24"),
    )
    pbx = await start_pbx(stage.pbx_options(*extensions))
    says = _pause(_AFTER_GREETING_S) + read_wav(_WORDS, RATE_HZ)
    phones = [await start_phone(says) for _ in extensions]

    for phone, extension in zip(phones, extensions, strict=True):
        await phone.call(extension.number, pbx.sip_port)
    # Two items a call: the greeting, then what the parrot heard.
    await stage.wait_for(ItemPlayed, 2 * len(phones), timeout_s=30)
    await asyncio.gather(*(phone.hang_up() for phone in phones))
    ended = await stage.wait_for(CallEnded, len(phones), timeout_s=5)

    assert {fact.termination.reason for fact in ended} == {"caller_hangup"}
    for phone, extension in zip(phones, extensions, strict=True):
        heard = phone.heard_pcm()
        assert _alike(_HELLO, heard) > 0.99, extension
        assert _alike(_WORDS, heard) > 0.99, extension
    for session in stage.simulator.sessions:
        assert _alike(_WORDS, bytes(session.hearing.heard.pcm), _MODEL_HZ) > 0.99
    assert len(stage.simulator.sessions) == len(phones)


async def test_a_caller_interrupts(
    start_pbx: StartPbx, start_phone: StartPhone, stage: Stage
) -> None:
    """The agent falls silent, and the model is told what the phone really played, no more."""
    pbx = await start_pbx(stage.pbx_options(Extension("703")))
    phone = await start_phone(_pause(_INTO_GREETING_S) + read_wav(_WORDS, RATE_HZ))

    await phone.call("703", pbx.sip_port)
    await stage.wait_for(BargedIn, 1, timeout_s=10)
    greeting = (await stage.wait_for(ItemPlayed, 1, timeout_s=10))[0]
    await asyncio.sleep(1)  # long enough for anything still queued to be heard
    await phone.hang_up()

    hello = read_wav(_HELLO, RATE_HZ)
    heard_bytes, slack_bytes = (
        2 * RATE_HZ // 1000 * int(ms) for ms in (greeting.heard_ms, _LEDGER_MS)
    )
    heard = phone.heard_pcm()
    before = correlation_per_second(hello[: heard_bytes - slack_bytes], heard, RATE_HZ)
    after = correlation_per_second(hello[heard_bytes + slack_bytes :], heard, RATE_HZ)
    assert greeting.heard_ms < greeting.received_ms
    assert min(before) > 0.99
    assert max(after, default=0.0) < 0.5


async def test_a_call_through_a_real_pbx_is_replayed_a_hundred_times(
    start_pbx: StartPbx, start_phone: StartPhone, tmp_path: Path
) -> None:
    """Interrupted, keys pressed: the same bytes each time, at the call's own speed as at any."""
    async with open_stage(GATEWAY_TAPE_DIR=str(tmp_path), GATEWAY_TAPE_SHARE="1") as stage:
        pbx = await start_pbx(stage.pbx_options(Extension("706")))
        phone = await start_phone(_pause(_INTO_GREETING_S) + read_wav(_WORDS, RATE_HZ))
        await phone.call("706", pbx.sip_port)
        await stage.wait_for(BargedIn, 1, timeout_s=10)
        await phone.press("7#")
        await stage.wait_for(DtmfEntered, 2, timeout_s=5)
        await stage.wait_for(ItemPlayed, 2, timeout_s=10)
        await phone.hang_up()
        await stage.wait_for(CallEnded, 1, timeout_s=5)

    (tape,) = tapes_at([tmp_path])
    verdicts = await asyncio.to_thread(lambda: [judge(tape) for _ in range(100)])
    # As fast as it was recorded, by the clock of the wall: that is what is compared here.
    began = time.monotonic()
    at_its_speed = await asyncio.to_thread(
        judge, tape, wait_until=lambda t: time.sleep(max(0.0, began + t - time.monotonic()))
    )
    assert [str(found) for found in verdicts[0].found.differences] == []
    assert at_its_speed.is_same
    assert {verdict.replayed.digest for verdict in (*verdicts, at_its_speed)} == {
        verdicts[0].replayed.digest
    }
    assert verdicts[0].replayed.is_whole
    assert verdicts[0].replayed.messages > 300


def _callers_voice(tape: Path, wav: Path) -> tuple[bytes, bytes]:
    """What a tape holds of it: until the announcement was heard, and from there on (8 kHz)."""
    [heard_s] = [t for t, fact in judge(tape).replayed.facts if isinstance(fact, AnnouncementHeard)]
    write_call(tape, story_of(tape), wav)
    with wave.open(str(wav), "rb") as file:
        assert file.getframerate() == RATE_HZ
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    caller, told = both[:, 0], int(heard_s * RATE_HZ)
    return caller[:told].tobytes(), caller[told:].tobytes()


async def test_who_is_recorded_hears_so_before_anything_is_kept(
    start_pbx: StartPbx, start_phone: StartPhone, tmp_path: Path
) -> None:
    """The phone plays the announcement to its end; what its owner says meanwhile is nowhere."""
    folder, words = tmp_path / "tapes", read_wav(_WORDS, RATE_HZ)
    taped = {"GATEWAY_TAPE_DIR": str(folder), "GATEWAY_TAPE_SHARE": "1"}
    async with open_stage(GATEWAY_TAPE_ANNOUNCEMENT=str(_ANNOUNCEMENT), **taped) as stage:
        pbx = await start_pbx(stage.pbx_options(Extension("707")))
        # Talks into the announcement from the first moment, and again when the agent has greeted.
        phone = await start_phone(words + _pause(7) + words)
        await phone.call("707", pbx.sip_port)
        was_there = [folder.exists()]
        await stage.wait_for(AnnouncementHeard, 1, timeout_s=15)
        was_there.append(folder.exists())
        await stage.wait_for(ItemPlayed, 2, timeout_s=30)
        await phone.hang_up()
        await stage.wait_for(CallEnded, 1, timeout_s=5)

    (tape,) = tapes_at([folder])
    before, after = _callers_voice(tape, tmp_path / "call.wav")
    assert was_there == [False, False]
    assert _alike(_ANNOUNCEMENT, phone.heard_pcm()) > 0.99
    assert _alike(_HELLO, phone.heard_pcm()) > 0.99
    assert len(before) > len(read_wav(_ANNOUNCEMENT, RATE_HZ))
    assert set(before) == {0}
    assert _alike(_WORDS, after) > 0.99
    assert _alike(_WORDS, phone.said_pcm()[: len(before)]) > 0.99
    model_heard = bytes(stage.simulator.sessions[-1].hearing.heard.pcm)
    assert len(model_heard) < len(phone.said_pcm()) * _MODEL_HZ // RATE_HZ - 2 * _MODEL_HZ
    assert judge(tape).is_same


async def test_keys_reach_the_call(
    start_pbx: StartPbx, start_phone: StartPhone, stage: Stage
) -> None:
    """Every key pressed on the phone is one fact of the call, and the model is told which."""
    pbx = await start_pbx(stage.pbx_options(Extension("704")))
    phone = await start_phone(b"")

    await phone.call("704", pbx.sip_port)
    await stage.wait_for(FirstAudioSent, 1, timeout_s=10)
    await phone.press("42#")
    await stage.wait_for(DtmfEntered, 3, timeout_s=5)
    await phone.hang_up()
    await stage.wait_for(CallEnded, 1, timeout_s=5)

    assert len(stage.seen(DtmfEntered)) == 3
    assert "The caller pressed the keys 42#" in str(list(stage.simulator.sessions[-1].received))


async def test_the_gateway_hangs_up(
    start_pbx: StartPbx, start_phone: StartPhone, stage: Stage
) -> None:
    """A gateway that drains says goodbye in full, then the phone call is over everywhere."""
    pbx = await start_pbx(stage.pbx_options(Extension("705")))
    phone = await start_phone(b"")

    await phone.call("705", pbx.sip_port)
    await stage.wait_for(ItemPlayed, 1, timeout_s=10)
    await stage.running.drain(0)
    await phone.hung_up(timeout_s=10)

    ended = await stage.wait_for(CallEnded, 1, timeout_s=5)
    assert [fact.termination.reason for fact in ended] == ["drain"]
    assert _alike(_GOODBYE, phone.heard_pcm()) > 0.99
    assert await pbx.active_calls() == 0
