"""Errors say who is to blame, and what to look at."""

import inspect

import pytest

from gateway import errors
from gateway.errors import (
    AuthRejected,
    CallRejected,
    ConnectError,
    GatewayError,
    SettingsError,
    TokenError,
)


def test_the_tree_at_the_top_is_the_tree() -> None:
    """The list people read first names every error there is."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in found if kind.__module__ == errors.__name__]

    assert kinds
    assert all(issubclass(kind, GatewayError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_settings_error_has_a_line_for_each_problem() -> None:
    """An operator mends everything in one go."""
    error = SettingsError(["A: bad", "B: worse"])

    assert error.problems == ("A: bad", "B: worse")
    assert str(error) == "A: bad\nB: worse"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CallRejected("admission", "capacity"), "admission: capacity"),
        (CallRejected("handshake", "media_format", "l16"), "handshake: media_format (l16)"),
        (AuthRejected("replay"), "auth: auth (replay)"),
        (ConnectError("dns"), "dns"),
        (ConnectError("404", "DeploymentNotFound"), "404: DeploymentNotFound"),
    ],
)
def test_errors_read_well(error: GatewayError, text: str) -> None:
    """What a log line will show is one short sentence."""
    assert str(error) == text


def test_a_missing_token_is_not_tried_again() -> None:
    """Dialling again within the same second would only ask the same endpoint."""
    error = TokenError("no answer")

    assert (error.result, error.can_retry, error.retry_after_s) == ("token", False, 0.0)
