"""The options of a single response."""

from typing import Any

import pytest

from gateway.simulator.options import Dialect
from gateway.simulator.overrides import overrides
from gateway.simulator.refusals import RequestRefused

GA = Dialect("ga", "azure")
PREVIEW = Dialect("preview", "azure")


def test_nothing_asked_overrides_nothing() -> None:
    """Without a response member, or an empty one, there is no metadata either."""
    assert overrides(None, GA) == overrides({}, PREVIEW) == {"metadata": None}


def test_both_dialects_ask_for_text() -> None:
    """Each has its own names for modalities and token limit."""
    wanted = {"output_modalities": ["text"], "max_output_tokens": 9, "metadata": {"a": "b"}}
    flat = {"modalities": ["text"], "max_response_output_tokens": 9, "metadata": {"a": "b"}}

    assert overrides(wanted, GA) == overrides(flat, PREVIEW) == wanted


def test_both_modalities_mean_audio() -> None:
    """The preview way to ask for audio."""
    asked = overrides({"modalities": ["audio", "text"]}, PREVIEW)

    assert asked["output_modalities"] == ["audio"]


@pytest.mark.parametrize(
    ("response", "dialect", "param"),
    [
        ([], GA, "response"),
        ({"modalities": ["text"]}, GA, "response.modalities"),
        ({"output_modalities": ["text"]}, PREVIEW, "response.output_modalities"),
        ({"output_modalities": "text"}, GA, "response.output_modalities"),
        ({"output_modalities": [[]]}, GA, "response.output_modalities"),
        ({"output_modalities": []}, GA, "response.output_modalities"),
        ({"max_output_tokens": "many"}, GA, "response.max_output_tokens"),
        ({"conversation": "none"}, GA, "response.conversation"),
    ],
)
def test_what_cannot_be_asked_is_refused(response: Any, dialect: Dialect, param: str) -> None:
    """The member is named."""
    with pytest.raises(RequestRefused) as raised:
        overrides(response, dialect)

    assert raised.value.param == param
