"""Two listeners: who may come in is let in once, everybody else learns nothing."""

import asyncio
import base64
import functools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from xml.etree import ElementTree as ET

import aiohttp
import pytest
from twilio.request_validator import RequestValidator

from gateway.app import Running, load_prompts, open_gateway
from gateway.audio.wav import read_wav
from gateway.errors import AudioFileError, PeerRefused
from gateway.events import (
    CallEnded,
    CallReady,
    PromptPlayed,
)
from gateway.settings import load_settings
from gateway.shipped import shipped_sound
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan
from gateway.simulator.server import Simulator
from gateway.usher import RETRY_AFTER_S
from tests.running import (
    PBX_PASSWORD,
    TWILIO_TOKEN,
    Facts,
    fake_rest,
    free_port,
    happens,
    metric,
    ops_url_of,
    sample,
    secrets_for,
    settings_for,
    twilio_stream,
    upgrade_status,
    url_of,
    watched_gateway,
)

VOICE, MEDIA = "/twilio/voice", "/twilio/media"
FORM = {
    "CallSid": "CA" + "2" * 32,
    "From": "+15550100001",
    "To": "+15550100002",
    "AccountSid": "AC" + "0" * 32,
}
SID = FORM["CallSid"]
SHORT = CallPlan(hang_up_after_s=0.4)
TWILIO = CallAuth(twilio_token=TWILIO_TOKEN)
PROXIED = "https://voice.example.com"
EVIL = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-For": "10.1.1.1",
    "Forwarded": "host=evil.example;proto=http",
}


@pytest.fixture
async def secure(simulator: Simulator) -> AsyncIterator[Running]:
    """A gateway that wants a proof of origin from everybody."""
    port = free_port()
    secrets = secrets_for(f"http://127.0.0.1:{port}")
    settings = settings_for(simulator, GATEWAY_PORT=str(port), **secrets)
    async with open_gateway(settings) as running:
        yield running


async def _ask(
    method: str,
    url: str,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=form, headers=headers) as reply,
    ):
        return reply.status, await reply.text()


_post = functools.partial(_ask, "POST")
_get = functools.partial(_ask, "GET")


def _signed(url: str, form: Mapping[str, str] | None = None) -> dict[str, str]:
    """The header as Twilio's own package computes it."""
    signature = RequestValidator(TWILIO_TOKEN).compute_signature(url, dict(form or {}))
    return {"X-Twilio-Signature": str(signature)}


def _signed_upgrade(running: Running) -> dict[str, str]:
    return _signed(url_of(running).replace("http", "ws") + MEDIA)


def _parameters(body: str) -> dict[str, str]:
    stream = ET.fromstring(body).find("Connect/Stream")  # noqa: S314  # our own answer
    assert stream is not None
    return {each.get("name", ""): each.get("value", "") for each in stream}


async def _token(running: Running, call_sid: str = SID) -> str:
    """What the webhook hands out for a call."""
    form, url = FORM | {"CallSid": call_sid}, url_of(running) + VOICE
    status, body = await _post(url, form, _signed(url, form))
    assert status == 200
    return _parameters(body)["token"]


async def _has_begun(running: Running) -> bool:
    return await happens(lambda: running.gateway.admission.calls == 1)


# ------------------------------------------------------------- who gets in


async def test_a_signed_call_gets_through(secure: Running, simulator: Simulator) -> None:
    """Webhook and upgrade signed, token from the answer in the start message: a call."""
    webhook_url = url_of(secure) + VOICE
    report = await place_call("", SHORT, webhook_url=webhook_url, auth=TWILIO)

    assert report.ended_by == "caller"
    assert len(simulator.sessions) == 1
    assert await metric(secure, "gateway_insecure_mode") == 0


async def test_the_answer_names_the_socket_the_status_address_and_a_token(secure: Running) -> None:
    """The document Twilio gets connects the call to our public address, with its numbers."""
    url = url_of(secure) + VOICE
    status, body = await _post(url, FORM, _signed(url, FORM))
    root = ET.fromstring(body)  # noqa: S314  # our own answer
    stream = root.find("Connect/Stream")

    assert status == 200
    assert stream is not None
    assert stream.get("url") == url_of(secure).replace("http", "ws") + MEDIA
    assert stream.get("statusCallback") == url_of(secure) + "/twilio/status"
    assert _parameters(body)["from"] == FORM["From"]


@pytest.mark.parametrize("headers", [{}, {"X-Twilio-Signature": "AAAA"}])
async def test_a_socket_without_a_signature_stays_outside(
    secure: Running, simulator: Simulator, headers: dict[str, str]
) -> None:
    """P62: 403 before the upgrade, counted, and the model is not even dialled."""
    assert await upgrade_status(url_of(secure) + MEDIA, headers) == 403
    kind = "signature" if headers else "missing"
    assert await metric(secure, f'gateway_auth_failures_total{{kind="{kind}"}}') == 1
    assert simulator.connections == 0


async def test_a_start_without_a_token_is_turned_away(
    secure: Running, simulator: Simulator
) -> None:
    """P62: a signed socket whose start carries no token is closed with 1008, nothing dialled."""
    async with twilio_stream(url_of(secure), SID, {}, _signed_upgrade(secure)) as stream:
        await stream.start()
        assert await stream.closed() == 1008

    assert await metric(secure, 'gateway_auth_failures_total{kind="missing"}') == 1
    assert simulator.connections == 0
    assert await metric(secure, "gateway_calls_active") == 0


async def test_a_token_is_not_taken_twice(secure: Running, simulator: Simulator) -> None:
    """P63: replayed beside its call and after it, a token opens nothing; the call is unharmed."""
    parameters = {"token": await _token(secure)}
    headers, url = _signed_upgrade(secure), url_of(secure)
    async with twilio_stream(url, SID, parameters, headers) as first:
        await first.start()
        assert await _has_begun(secure)
        async with twilio_stream(url, SID, parameters, headers) as second:
            await second.start()
            assert await second.closed() == 1008
        await first.speak(b"\x7f" * 160)
        assert secure.gateway.admission.calls == 1
        await first.stop()
        assert await first.closed() == 1000
    async with twilio_stream(url, SID, parameters, headers) as third:
        await third.start()
        assert await third.closed() == 1008

    assert await metric(secure, 'gateway_auth_failures_total{kind="replay"}') == 2
    assert simulator.connections == 1


async def test_a_token_opens_its_own_call_only(secure: Running, simulator: Simulator) -> None:
    """P63: a start message with another call id than the webhook's is turned away."""
    parameters = {"token": await _token(secure)}
    other = "CA" + "9" * 32
    async with twilio_stream(url_of(secure), other, parameters, _signed_upgrade(secure)) as stream:
        await stream.start()
        assert await stream.closed() == 1008

    assert await metric(secure, 'gateway_auth_failures_total{kind="mismatch"}') == 1
    assert simulator.connections == 0


async def test_an_old_token_opens_nothing(
    secure: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P63: a minute after the webhook its token is worth nothing."""
    now = time.time()
    parameters = {"token": await _token(secure)}
    monkeypatch.setattr(time, "time", lambda: now + 61)
    async with twilio_stream(url_of(secure), SID, parameters, _signed_upgrade(secure)) as stream:
        await stream.start()
        assert await stream.closed() == 1008

    assert await metric(secure, 'gateway_auth_failures_total{kind="expired"}') == 1
    assert simulator.connections == 0


@pytest.mark.parametrize(
    ("path", "form", "has_header"),
    [
        (VOICE, FORM | {"From": "+15550109999"}, True),
        (VOICE, FORM | {"Extra": "1"}, True),
        (VOICE + "?campaign=7", FORM, True),
        ("/twilio/status", FORM, True),
        (VOICE, FORM, False),
    ],
)
async def test_a_webhook_that_was_tampered_with_is_refused(
    secure: Running, path: str, form: dict[str, str], *, has_header: bool
) -> None:
    """P64: a changed field, query or path, or no header: 403, counted, no document."""
    headers = _signed(url_of(secure) + VOICE, FORM) if has_header else {}
    status, body = await _post(url_of(secure) + path, form, headers)
    kind = "signature" if has_header else "missing"

    assert status == 403
    assert "<" not in body
    assert await metric(secure, f'gateway_auth_failures_total{{kind="{kind}"}}') == 1


async def test_what_a_request_says_about_its_own_host_is_ignored(simulator: Simulator) -> None:
    """P66: signatures are checked for the public URL and answers name it, whatever headers say."""
    async with open_gateway(settings_for(simulator, **secrets_for(PROXIED))) as running:
        url = url_of(running) + VOICE
        status, body = await _post(url, FORM, EVIL | _signed(PROXIED + VOICE, FORM))
        forged, _ = await _post(url, FORM, EVIL | _signed("http://evil.example" + VOICE, FORM))

    assert status == 200
    assert "evil" not in body
    assert 'url="wss://voice.example.com/twilio/media"' in body
    assert forged == 403


async def test_a_browser_is_refused(gateway: Running, simulator: Simulator) -> None:
    """P76: an upgrade with an Origin is 403 even where no proof of origin is asked for."""
    headers = {"Origin": "https://evil.example"}

    assert await upgrade_status(url_of(gateway) + MEDIA, headers) == 403
    assert simulator.connections == 0


@pytest.mark.parametrize(
    ("username", "password", "kind"),
    [("pbx", PBX_PASSWORD, ""), ("pbx", "wrong", "signature"), ("", "", "missing")],
)
async def test_asterisk_shows_its_password(
    secure: Running, simulator: Simulator, username: str, password: str, kind: str
) -> None:
    """Basic credentials open the door to a call; wrong or none are 403 and counted."""
    plan = CallPlan(provider="asterisk", hang_up_after_s=0.3)
    auth = CallAuth(username=username, password=password)
    url = url_of(secure) + "/asterisk/media"
    if kind:
        with pytest.raises(PeerRefused, match="403"):
            await place_call(url, plan, auth=auth)
        assert await metric(secure, f'gateway_auth_failures_total{{kind="{kind}"}}') == 1
    else:
        await place_call(url, plan, auth=auth)
    assert simulator.connections == (0 if kind else 1)


# ------------------------------------------------------------- places


async def test_a_full_gateway_says_so_in_the_providers_words(simulator: Simulator) -> None:
    """At its limit: the webhook rejects as busy, an upgrade gets 503 with Retry-After."""
    async with open_gateway(settings_for(simulator, GATEWAY_MAX_CALLS="1")) as running:
        url = url_of(running)
        async with twilio_stream(url) as stream:
            await stream.start()
            assert await _has_begun(running)
            _, body = await _post(url + VOICE, FORM)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with twilio_stream(url, SID):
                    pass
            await stream.stop()
            await stream.closed()
        assert await happens(lambda: running.gateway.admission.calls == 0)
        after, _ = await _post(url + VOICE, FORM)
        counted = 'gateway_rejected_total{reason="capacity",stage="admission"}'
        assert await metric(running, counted) == 2

    assert '<Reject reason="busy"' in body
    assert refused.value.status == 503
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == str(RETRY_AFTER_S)
    assert after == 200


# ------------------------------------------------------------- what peers may get wrong


@pytest.mark.parametrize("path", ["/vonage/voice", "/vonage/media", "/vonage/status", "/", "/x"])
async def test_an_unknown_provider_is_not_found(gateway: Running, path: str) -> None:
    """Nothing but the three routes of a provider that is open answers."""
    statuses = {(await _get(url_of(gateway) + path))[0], (await _post(url_of(gateway) + path))[0]}

    assert statuses <= {404, 405}


async def test_a_provider_without_a_secret_is_not_there(simulator: Simulator) -> None:
    """Fail closed: what nobody configured is 404, not open."""
    secrets = secrets_for(PROXIED) | {"TWILIO_AUTH_TOKEN": ""}
    async with open_gateway(settings_for(simulator, **secrets)) as running:
        assert (await _post(url_of(running) + VOICE, FORM))[0] == 404
        assert await upgrade_status(url_of(running) + MEDIA) == 404


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/debug", "/twilio/metrics"])
async def test_operations_are_not_on_the_public_listener(gateway: Running, path: str) -> None:
    """P80: metrics and health answer on their own listener only."""
    status, body = await _get(url_of(gateway) + path)

    assert status == 404
    assert "gateway_" not in body


async def test_the_operations_listener_tells_metrics_and_health(gateway: Running) -> None:
    """Alive, ready, and a metrics page that Prometheus can read."""
    assert await _get(f"{ops_url_of(gateway)}/livez") == (200, "alive\n")
    assert await _get(f"{ops_url_of(gateway)}/readyz") == (200, "ready\n")
    status, body = await _get(f"{ops_url_of(gateway)}/metrics")
    assert status == 200
    assert "# TYPE gateway_calls_active gauge" in body
    assert await metric(gateway, "gateway_insecure_mode") == 1
    assert await metric(gateway, "gateway_ready") == 1


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/x-www-form-urlencoded"),
        (b"\xff\xfe%zz&=&&", "application/x-www-form-urlencoded"),
        (b"CallSid=CA1", "application/x-www-form-urlencoded; charset=klingon"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data"),
        (b"{}", "application/json"),
        (b"a" * 70_000, "application/x-www-form-urlencoded"),
    ],
)
async def test_a_webhook_without_a_call_is_a_clear_refusal(
    gateway: Running, body: bytes, content_type: str
) -> None:
    """Whatever is posted, the answer is a 4xx and never a crash."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            url_of(gateway) + VOICE, data=body, headers={"Content-Type": content_type}
        ) as reply,
    ):
        assert reply.status in {400, 403, 413, 415}


async def test_a_status_callback_is_noted(secure: Running) -> None:
    """Signed: 204 and nothing happens; unsigned: 403."""
    url = url_of(secure) + "/twilio/status"
    form = {"CallSid": SID, "StreamEvent": "stream-error", "StreamError": "31921"}

    assert await _post(url, form, _signed(url, form)) == (204, "")
    assert (await _post(url, form))[0] == 403


# ------------------------------------------------------------- hanging up


@pytest.mark.parametrize("rest_status", [200, 404, 500])
async def test_we_hang_up_over_rest(simulator: Simulator, rest_status: int) -> None:
    """A call that we end is completed at Twilio, with the right proof; its answer matters not."""
    port = free_port()
    secrets = secrets_for(f"http://127.0.0.1:{port}") | {"GATEWAY_PORT": str(port)}
    async with fake_rest(rest_status) as rest:
        settings = settings_for(simulator, GATEWAY_TWILIO_API_URL=rest.url, **secrets)
        async with watched_gateway(settings) as (running, facts):
            parameters, headers = {"token": await _token(running)}, _signed_upgrade(running)
            async with twilio_stream(url_of(running), SID, parameters, headers) as stream:
                await stream.start()
                await facts.wait_for(CallReady)
                await asyncio.gather(running.drain(0.0), stream.closed(15.0))
            (ended,) = facts.of(CallEnded)
    ((path, authorization, form),) = rest.requests
    account = base64.b64encode(f"{FORM['AccountSid']}:{TWILIO_TOKEN}".encode()).decode()

    assert path == f"/2010-04-01/Accounts/{FORM['AccountSid']}/Calls/{SID}.json"
    assert authorization == f"Basic {account}"
    assert form == {"Status": "completed"}
    assert ended.termination.reason == "drain"


# ------------------------------------------------------------- draining


async def test_a_drain_takes_nobody_new_and_waits_for_those_there_are(
    gateway: Running, facts: Facts
) -> None:
    """Not ready, webhook busy, upgrade 503; it is over when the last caller has hung up."""
    async with twilio_stream(url_of(gateway), SID) as stream:
        await stream.start()
        await facts.wait_for(CallReady)
        draining = asyncio.create_task(gateway.drain(30.0))
        await asyncio.sleep(0)
        readiness, _ = await _get(f"{ops_url_of(gateway)}/readyz")
        _, body = await _post(url_of(gateway) + VOICE, FORM)
        upgrade = await upgrade_status(url_of(gateway) + MEDIA)
        still_there = not draining.done()
        await stream.stop()
        await stream.closed()
        await asyncio.wait_for(draining, 5)

    assert (readiness, upgrade) == (503, 503)
    assert "<Reject" in body
    assert still_there
    assert facts.of(CallEnded)[0].termination.reason == "caller_hangup"
    assert await metric(gateway, "gateway_draining") == 1


async def test_a_drain_waits_for_a_call_that_was_just_coming_in(
    gateway: Running, facts: Facts
) -> None:
    """A socket that was let in may still say which call it is, and has its call."""
    async with twilio_stream(url_of(gateway), SID) as stream:
        draining = asyncio.create_task(gateway.drain(30.0))
        await asyncio.sleep(0)
        await stream.start()
        await facts.wait_for(CallReady)
        still_there = not draining.done()
        await stream.stop()
        await stream.closed()
        await asyncio.wait_for(draining, 5)

    assert still_there
    assert facts.of(CallEnded)[0].termination.reason == "caller_hangup"


async def test_a_drain_that_runs_out_of_patience_says_goodbye(
    gateway: Running, facts: Facts
) -> None:
    """After its limit the callers hear a goodbye to its end, then the line is closed."""
    placed = asyncio.create_task(
        place_call(f"{url_of(gateway)}/twilio/media", CallPlan(hang_up_after_s=20))
    )
    await facts.wait_for(CallReady)
    await gateway.drain(0.0)
    report = await placed

    assert [fact.name for fact in facts.of(PromptPlayed)] == ["goodbye"]
    assert facts.of(CallEnded)[0].termination.reason == "drain"
    assert report.ended_by == "gateway"
    assert not gateway.gateway.bridges


async def test_an_empty_gateway_drains_at_once(gateway: Running) -> None:
    """Nobody to wait for."""
    async with asyncio.timeout(1):
        await gateway.drain(3600.0)


async def test_leaving_ends_what_still_runs(simulator: Simulator) -> None:
    """Closing without a drain: the call's one record is told, the model's session is closed."""
    async with AsyncExitStack() as outlives:
        async with watched_gateway(settings_for(simulator)) as (running, facts):
            stream = await outlives.enter_async_context(twilio_stream(url_of(running), SID))
            await stream.start()
            await facts.wait_for(CallReady)
        assert [fact.termination.reason for fact in facts.of(CallEnded)] == ["drain"]
        assert await happens(lambda: simulator.active == 0, 2.0)


async def test_a_drain_counts_the_calls_it_meets(simulator: Simulator) -> None:
    """How many were cut by it can be said of how many there were."""
    async with watched_gateway(settings_for(simulator)) as (running, facts):
        async with twilio_stream(url_of(running), SID) as stream:
            await stream.start()
            await facts.wait_for(CallReady)
            await asyncio.gather(running.drain(0.0), stream.closed(15.0))
        assert sample(running, "drain_calls_total") == 1


# ------------------------------------------------------------- opening


async def test_a_port_that_is_taken_is_an_os_error(gateway: Running, simulator: Simulator) -> None:
    """The caller of ``open_gateway`` learns it at once, and nothing stays open behind it."""
    settings = settings_for(simulator, GATEWAY_PORT=str(gateway.port))
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match="in use"):
        async with open_gateway(settings):
            pytest.fail("two gateways on one port")
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


def test_every_recording_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    """The shipped ones, or the operator's own; a file that cannot be used is named."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    usual = {"OPENAI_API_KEY": "k", "GATEWAY_INSECURE": "1"}
    prompts = load_prompts(load_settings(usual))
    assert prompts["goodbye"] == read_wav(shipped_sound("goodbye.wav"), 24_000)
    assert set(prompts) == {"apology", "filler", "goodbye"}
    with pytest.raises(AudioFileError, match=r"broken\.wav"):
        load_prompts(load_settings(usual | {"GATEWAY_APOLOGY_FILE": str(broken)}))
