"""One socket and its call: its place, who answers, what is told of it, what it cost."""

import re
from datetime import date
from importlib import resources
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.app import Running, open_gateway
from gateway.events import (
    CallBegan,
    CallEnded,
    CallReady,
    CostIncurred,
    RealtimeOpened,
    SetUpTimed,
    TokensUsed,
)
from gateway.prices import read_prices
from gateway.settings import Agent, Settings
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallPlan
from gateway.simulator.server import Simulator
from tests.running import (
    Facts,
    happens,
    metric,
    sample,
    settings_for,
    twilio_stream,
    upgrade_status,
    url_of,
    watched_gateway,
)

MEDIA = "/twilio/media"
SID = "CA" + "2" * 32


async def test_a_socket_that_says_nothing_loses_its_place(simulator: Simulator) -> None:
    """Silent sockets count as calls until their deadline, then the place is free."""
    settings = settings_for(simulator, GATEWAY_MAX_CALLS="1", GATEWAY_START_DEADLINE_S="0.2")
    async with open_gateway(settings) as running:
        async with twilio_stream(url_of(running)) as stream:
            assert await upgrade_status(url_of(running) + MEDIA) == 503
            assert await stream.closed() == 1008
        assert await upgrade_status(url_of(running) + MEDIA) == 101
        counted = 'gateway_rejected_total{reason="start_timeout",stage="handshake"}'
        assert await metric(running, counted) == 1

    assert simulator.connections == 0


async def test_one_call_id_is_one_call(
    gateway: Running, facts: Facts, simulator: Simulator
) -> None:
    """P11: a second stream of a running call is closed; the first goes on; one session."""
    async with twilio_stream(url_of(gateway), SID) as first:
        await first.start()
        await facts.wait_for(CallReady)
        async with twilio_stream(url_of(gateway), SID) as second:
            await second.start()
            assert await second.closed() == 1008
        assert gateway.gateway.admission.calls == 1
        assert not facts.of(CallEnded)
        await first.stop()
        await first.closed()
    counted = 'gateway_rejected_total{reason="duplicate_call",stage="admission"}'

    assert await metric(gateway, counted) == 1
    assert simulator.connections == 1
    assert len(facts.of(CallEnded)) == 1


async def test_a_call_that_is_still_closing_does_not_give_the_next_ones_place_away(
    gateway: Running, facts: Facts
) -> None:
    """The same id comes back at once (a new stream of one call): its place is its own."""
    async with twilio_stream(url_of(gateway), SID) as first:
        await first.start()
        await facts.wait_for(CallReady)
        # Nobody reads on this side now, so the close handshake takes its whole time.
        await first.stop()
        await facts.wait_for(CallEnded)
        async with twilio_stream(url_of(gateway), SID) as second:
            await second.start()
            await facts.wait_for(CallReady, 2)
            assert len(gateway.gateway.bridges) == 2
            assert await happens(lambda: len(gateway.gateway.bridges) == 1)
            assert gateway.gateway.admission.calls == 1
            await second.stop()
            await second.closed()


async def test_a_stream_in_a_format_nobody_plays_is_turned_away(gateway: Running) -> None:
    """The start names another codec: closed with 1008, with its own reason."""
    async with twilio_stream(url_of(gateway), SID) as stream:
        await stream.socket.send_json(
            {
                "event": "start",
                "streamSid": "MZ1",
                "start": {"callSid": SID, "mediaFormat": {"encoding": "audio/L16"}},
            }
        )
        assert await stream.closed() == 1008
    counted = 'gateway_rejected_total{reason="media_format",stage="handshake"}'

    assert await metric(gateway, counted) == 1


async def test_the_one_who_answers_is_chosen_by_the_dialled_number(simulator: Simulator) -> None:
    """A number of an agent's own reaches that agent, any other the default, unless one is named."""
    sales = Agent(name="sales", numbers=("+1 555 010 0002",))
    settings = settings_for(simulator).model_copy(
        update={"agents": {"default": Agent(), "sales": sales}}
    )
    async with watched_gateway(settings) as (running, facts):
        url = f"{url_of(running)}/twilio/media"
        for number in ("+15550100002", "+15550100003"):
            await place_call(
                url, CallPlan(hang_up_after_s=0.2, to_number=number, parameters={"to": number})
            )

        named = {"to": "+15550100003", "agent": "sales"}
        await place_call(url, CallPlan(hang_up_after_s=0.2, parameters=named))

    assert [fact.agent for fact in facts.of(CallBegan)] == ["sales", "default", "sales"]


async def _greeted(settings: Settings) -> tuple[Running, Facts]:
    """A call in which the agent's greeting was heard."""
    async with watched_gateway(settings) as (running, facts):
        async with twilio_stream(url_of(running), SID) as stream:
            await stream.start()
            await facts.wait_for(CostIncurred)
            await stream.stop()
            await facts.wait_for(CallEnded)
        return running, facts


async def test_the_beginning_of_a_call_is_timed_by_stage(simulator: Simulator) -> None:
    """From the open socket to the first sound; nobody waits any more when it is over."""
    running, facts = await _greeted(settings_for(simulator))
    stages = [fact.stage for fact in facts.of(SetUpTimed)]
    assert stages == ["start", "admission", "dial", "configure", "first_audio"]
    assert all(fact.duration_s >= 0 for fact in facts.of(SetUpTimed))
    assert sample(running, "calls_waiting") == 0


async def test_a_call_says_what_it_cost(simulator: Simulator) -> None:
    """The model's tokens at its list price: in the metrics, and in the one record of the call."""
    settings = settings_for(simulator, AZURE_OPENAI_DEPLOYMENT_NAME="gpt-realtime-2025-08-28")
    running, facts = await _greeted(settings)

    costs = facts.of(CostIncurred)
    price = read_prices().of("gpt-realtime", date(2026, 11, 21))
    assert price is not None
    expected_usd = sum(price.cost_usd(fact.usage) for fact in facts.of(TokensUsed))
    assert expected_usd > 0
    assert {fact.model for fact in costs} == {"gpt-realtime"}
    assert facts.of(CallEnded)[0].cost_usd == pytest.approx(expected_usd)
    assert sample(running, "cost_usd_total", model="gpt-realtime") == pytest.approx(expected_usd)


async def test_a_model_without_a_price_is_said_once(simulator: Simulator, tmp_path: Path) -> None:
    """Its tokens are counted, it costs nothing, and the log has one line about it."""
    shipped = (resources.files("gateway") / "prices.toml").read_text()
    prices = tmp_path / "prices.toml"
    prices.write_text(re.sub(r'model = "', 'model = "other-', shipped))
    settings = settings_for(simulator, GATEWAY_PRICES=str(prices))
    with capture_logs() as lines:
        async with watched_gateway(settings) as (running, facts):
            for number in range(2):
                async with twilio_stream(url_of(running), f"CA{number:032}") as stream:
                    await stream.start()
                    await facts.wait_for(CostIncurred, number + 1)
                    await stream.stop()
            await facts.wait_for(CallEnded, 2)
    said = [line for line in lines if line["event"] == "model_without_price"]
    assert [line["model"] for line in said] == [facts.of(RealtimeOpened)[0].model]
    assert [fact.cost_usd for fact in facts.of(CallEnded)] == [0.0, 0.0]
    tokens = sum(fact.tokens for fact in facts.of(CostIncurred))
    assert sample(running, "unpriced_tokens_total") == tokens > 0
