"""What a call costs, to the cent, by a list that can be replaced."""

import re
from datetime import date
from pathlib import Path

import pytest

from gateway.events import (
    CallEnded,
    CostIncurred,
    DtmfEntered,
    Fact,
    RealtimeOpened,
    Termination,
    TokensUsed,
    Usage,
)
from gateway.prices import MAX_FILE_BYTES, MAX_MODELS, Bill, Prices, read_prices

TODAY = date(2026, 11, 21)
ENTRY = """
[[price]]
model = "{model}"
from = {since}
text_input = {text_input}
text_cached = 1
text_output = 1
audio_input = 1
audio_cached = 1
audio_output = 1
"""


def entry(model: str = "m", since: str = "2026-01-01", text_input: str = "4") -> str:
    """One price as it stands in a file."""
    return ENTRY.format(model=model, since=since, text_input=text_input)


def listed(folder: Path, text: str) -> Prices:
    """The prices of a file with this text."""
    path = folder / "prices.toml"
    path.write_text(text)
    return read_prices(str(path))


# Worked out by hand from the table of list prices (USD for a million): text input, cached, output,
# then audio input, cached, output.
#   gpt-realtime      4.00  0.40  16.00   32.00  0.40  64.00
#   gpt-realtime-mini 0.60  0.06   2.40   10.00  0.30  20.00
#   gpt-realtime-2.1  4.00  0.40  24.00   32.00  0.40  64.00
@pytest.mark.parametrize(
    ("model", "usage", "cost_usd"),
    [
        # 100,000 fresh text 0.40, 400,000 cached 0.16; 250,000 fresh audio 8.00, 750,000 cached
        # 0.30; 10,000 text out 0.16, 50,000 audio out 3.20: 12.22 in all.
        (
            "gpt-realtime",
            Usage(500_000, 1_000_000, 400_000, 750_000, 10_000, 50_000),
            12.22,
        ),
        # All of the input was cached: 0.06 + 0.30, and nothing at the price of fresh tokens.
        (
            "gpt-realtime-mini",
            Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 0, 0),
            0.36,
        ),
        # One minute of the caller (600) and one of the agent (1,200): 0.0192 + 0.0768.
        ("gpt-realtime-2.1", Usage(input_audio=600, output_audio=1200), 0.096),
        # The recorded answer: 12 text in, 11 text out, 24 audio out.
        (
            "gpt-realtime-mini",
            Usage(input_text=12, output_text=11, output_audio=24),
            (12 * 0.60 + 11 * 2.40 + 24 * 20) / 1e6,
        ),
        # More cached than there was: a peer's mistake is no refund.
        ("gpt-realtime", Usage(input_text=1_000_000, input_cached_text=9_000_000), 0.40),
        ("gpt-realtime", Usage(), 0.0),
    ],
)
def test_cost_of_a_response(model: str, usage: Usage, cost_usd: float) -> None:
    """Cached tokens are a part of the input: each is paid once, at its own price."""
    price = read_prices().of(model, TODAY)
    assert price is not None
    assert price.cost_usd(usage) == pytest.approx(cost_usd, abs=1e-12)


def test_the_shipped_list_is_what_was_published() -> None:
    """The models of the list, each with every price above 0, cached ones no dearer than fresh."""
    prices = read_prices()
    assert {"gpt-realtime", "gpt-realtime-mini", "gpt-realtime-2.1"} <= set(prices.models)
    for model in prices.models:
        price = prices.of(model, TODAY)
        assert price is not None, model
        assert 0 < price.text_cached < price.text_input < price.text_output
        assert 0 < price.audio_cached < price.audio_input < price.audio_output


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-realtime-2025-08-28", "gpt-realtime"),
        ("gpt-realtime-mini-2025-12-15", "gpt-realtime-mini"),
        ("gpt-4o-realtime-preview-2024-10-01", "gpt-4o-realtime-preview-2024-10-01"),
        ("gpt-4o-realtime-preview-2025-06-03", "gpt-4o-realtime-preview"),
        ("gpt-realtime-3", None),
        ("gpt-realtime-mini-turbo", None),
        ("", None),
    ],
)
def test_a_snapshot_costs_what_its_model_costs(model: str, name: str | None) -> None:
    """Unless it has a price of its own; a model that only begins alike is another one."""
    price = read_prices().of(model, TODAY)
    assert (price and price.model) == name


def test_the_price_of_the_day_counts(tmp_path: Path) -> None:
    """A change of price is a second entry; before the first there is none."""
    prices = listed(
        tmp_path,
        entry(since="2026-01-01", text_input="4") + entry(since="2026-07-01", text_input="3"),
    )
    days = (date(2025, 12, 31), date(2026, 1, 1), date(2026, 6, 30), date(2026, 7, 1), TODAY)
    found = [prices.of("m", day) for day in days]
    assert [price and price.text_input for price in found] == [None, 4, 4, 3, 3]
    assert prices.models == ("m",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "missing required field `price`"),
        ("price = []", "length >= 1"),
        ("price = 7", "Expected `array`"),
        ("[[price", "Expected|Invalid|expected"),
        (entry(text_input="-1"), ">= 0.0"),
        (entry(text_input='"4"'), "Expected `float`"),
        (entry(text_input="nan"), ">= 0.0"),
        (entry(text_input="inf"), "<= 1000000"),
        (entry(since="2026"), "Expected `date`"),
        (entry(model=""), "length >= 1"),
        (entry() + "image_input = 5", "unknown field `image_input`"),
        ("".join(entry(model=f"m{n}") for n in range(MAX_MODELS + 1)), "40 at most"),
        ("#" * (MAX_FILE_BYTES + 1), "longer than"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(ValueError, match=complaint) as raised:
        listed(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_list_that_is_missing_is_refused(tmp_path: Path) -> None:
    """It was named, so it was meant."""
    with pytest.raises(ValueError, match=re.escape("No such file")):
        read_prices(str(tmp_path / "none.toml"))


ENDED = CallEnded(Termination("caller_hangup"), 60, 2, 0, 0, 0)


def _billed(*facts: Fact) -> list[Fact]:
    bill = Bill(read_prices(), TODAY, "my-deployment")
    return [told for fact in facts for told in bill.of(fact)]


def test_a_call_is_billed_by_the_model_its_session_names() -> None:
    """Each response by itself, and the whole call at its end."""
    used = TokensUsed(Usage(input_audio=600, output_audio=1200))
    told = _billed(RealtimeOpened("sess_1", "gpt-realtime-2.1"), used, used, ENDED)
    costs = [fact for fact in told if isinstance(fact, CostIncurred)]
    assert [(fact.model, fact.tokens) for fact in costs] == [("gpt-realtime-2.1", 1800)] * 2
    assert [fact.cost_usd for fact in costs] == pytest.approx([0.096, 0.096])
    (ended,) = [fact for fact in told if isinstance(fact, CallEnded)]
    assert ended.cost_usd == pytest.approx(0.192)
    assert told.index(used) < told.index(costs[0])


def test_a_model_without_a_price_costs_nothing_and_says_how_much_that_was() -> None:
    """Not even where a name in the settings stands in for one the session does not say."""
    told = _billed(RealtimeOpened("sess_1", ""), TokensUsed(Usage(1, 2, 1, 2, 4, 8)), ENDED)
    assert CostIncurred("", 0.0, 15) in told
    assert told[-1] == ENDED


def test_what_costs_nothing_passes_by() -> None:
    """A fact without tokens is handed on as it is."""
    assert _billed(DtmfEntered()) == [DtmfEntered()]
