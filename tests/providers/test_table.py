"""Tests of the table of providers."""

import pytest

from gateway.providers.table import doors


@pytest.mark.parametrize(
    ("tokens", "password", "insecure", "expected"),
    [
        (("t",), "", False, {"twilio"}),
        ((), "p", False, {"asterisk"}),
        (("t",), "p", False, {"twilio", "asterisk"}),
        ((), "", False, set()),
        ((), "", True, {"twilio", "asterisk"}),
    ],
)
def test_a_provider_is_open_when_it_has_a_secret(
    tokens: tuple[str, ...],
    password: str,
    insecure: bool,  # noqa: FBT001 - a row of a table
    expected: set[str],
) -> None:
    """Without a secret a provider is not in the table, unless checks are off altogether."""
    table = doors(
        public_url="https://gw.example",
        twilio_auth_tokens=tokens,
        asterisk_username="gw",
        asterisk_password=password,
        insecure=insecure,
    )

    assert expected == set(table)
    assert all(name == door.name for name, door in table.items())
