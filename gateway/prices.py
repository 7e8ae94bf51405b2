"""What a response costs: list prices by model and date, from a file that can be replaced.

Cached tokens are a part of the input and are never counted twice. The figures are estimates: the
service's own account may differ, and input transcription is billed apart.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from gateway.events import (
    CallEnded,
    CostIncurred,
    Fact,
    RealtimeOpened,
    TokensUsed,
    Usage,
)

# Each model is a label's value; a file that names more than this is a mistake.
MAX_MODELS: Final = 40
MAX_FILE_BYTES: Final = 256 * 1024
_PER_TOKEN: Final = 1e-6
_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")

_Usd = Annotated[float, Meta(ge=0, le=1_000_000)]


class Price(Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """US dollars for one million tokens of each kind, from a day on."""

    model: Annotated[str, Meta(min_length=1, max_length=80)]
    since: date
    text_input: _Usd
    text_cached: _Usd
    text_output: _Usd
    audio_input: _Usd
    audio_cached: _Usd
    audio_output: _Usd

    def cost_usd(self, usage: Usage) -> float:
        """What these tokens cost; the cached ones are a part of the input."""
        cached_text = min(usage.input_cached_text, usage.input_text)
        cached_audio = min(usage.input_cached_audio, usage.input_audio)
        millionths = (
            (usage.input_text - cached_text) * self.text_input
            + cached_text * self.text_cached
            + (usage.input_audio - cached_audio) * self.audio_input
            + cached_audio * self.audio_cached
            + usage.output_text * self.text_output
            + usage.output_audio * self.audio_output
        )
        return millionths * _PER_TOKEN


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    price: Annotated[list[Price], Meta(min_length=1, max_length=1000)]


class Prices:
    """The prices of a file."""

    def __init__(self, prices: Iterable[Price]) -> None:
        # The latest first: the first whose day has come is in force.
        self._prices = sorted(prices, key=lambda price: price.since, reverse=True)
        self.models = tuple(sorted({price.model for price in self._prices}))

    def of(self, model: str, day: date) -> Price | None:
        """The price of a model on a day; a dated snapshot has its model's unless it has its own."""
        name = model if model in self.models else _SNAPSHOT.sub("", model)
        in_force = (p for p in self._prices if p.model == name and p.since <= day)
        return next(in_force, None)


def read_prices(path: str = "") -> Prices:
    """The prices of a TOML file; "" is the one that comes with the gateway.

    Raises:
        ValueError: the file cannot be read, or is not such a file; says what is wrong with it.
    """
    file = Path(path) if path else Path(str(resources.files("gateway") / "prices.toml"))
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ValueError(f"longer than {MAX_FILE_BYTES} bytes")
        prices = Prices(msgspec.toml.decode(raw, type=_File).price)
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if len(prices.models) > MAX_MODELS:
        raise ValueError(f"{len(prices.models)} models; accepted: {MAX_MODELS} at most")
    return prices


class Bill:
    """What one call costs: adds it to the facts that pass by.

    Args:
        prices: the list.
        day: the day of the call.
        model: what to take the model for while its session does not say.
    """

    def __init__(self, prices: Prices, day: date, model: str) -> None:
        self._prices = prices
        self._day = day
        self.model = model
        self.total_usd = 0.0

    def of(self, fact: Fact) -> tuple[Fact, ...]:
        """The fact as everybody shall see it, and what follows from it."""
        if isinstance(fact, TokensUsed):
            return fact, self._cost(fact.usage)
        if isinstance(fact, CallEnded):
            return (replace(fact, cost_usd=self.total_usd),)
        if isinstance(fact, RealtimeOpened):
            self.model = fact.model or self.model
        return (fact,)

    def _cost(self, usage: Usage) -> CostIncurred:
        tokens = usage.input_text + usage.input_audio + usage.output_text + usage.output_audio
        price = self._prices.of(self.model, self._day)
        if price is None:
            return CostIncurred("", 0.0, tokens)
        cost_usd = price.cost_usd(usage)
        self.total_usd += cost_usd
        return CostIncurred(price.model, cost_usd, tokens)
