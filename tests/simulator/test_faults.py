"""The switches: how they are written, what is refused, when they hold."""

import pytest

from gateway.errors import SettingsError
from gateway.simulator.faults import NO_FAULTS, Faults, parse_faults


def test_switches_are_read_by_their_kind() -> None:
    """Numbers, texts and bare yes/no names each become what the field holds."""
    faults = parse_faults(["close_code=1011", "close_when=delta", "late_done_s=0.5", "no_pong"])

    assert faults == Faults(close_code=1011, close_when="delta", late_done_s=0.5, no_pong=True)


def test_no_switch_is_no_fault() -> None:
    """Nothing asked for is nothing wrong."""
    assert parse_faults([]) == NO_FAULTS


def test_later_switches_stand_on_earlier_ones() -> None:
    """A base keeps what is not mentioned; yes/no can be switched off again."""
    base = Faults(no_pong=True, delta_ms=10)

    assert parse_faults(["no_pong=no"], base) == Faults(delta_ms=10)


@pytest.mark.parametrize(
    "switch",
    ["nonsense", "close_code=abc", "close_code=-1", "delta_ms=1e99", "no_pong=maybe", "delta_ms=",
     "late_done_s=nan", "close_when=lunch", "error_when=idle", "=", ""],
)  # fmt: skip
def test_a_bad_switch_is_named(switch: str) -> None:
    """Each unusable switch is one problem that says its name."""
    with pytest.raises(SettingsError) as raised:
        parse_faults([switch])

    (problem,) = raised.value.problems
    assert switch.partition("=")[0] in problem


def test_all_bad_switches_are_told_at_once() -> None:
    """Two mistakes are two problems."""
    with pytest.raises(SettingsError) as raised:
        parse_faults(["a=1", "no_pong", "b=2"])

    assert len(raised.value.problems) == 2


def test_faults_can_be_for_one_response_or_the_first_connections() -> None:
    """Outside of them the service works."""
    second = Faults(response=2, text_answers=True)
    assert second.for_response(1) == NO_FAULTS
    assert second.for_response(2) is second

    first = Faults(connections=1, http_status=503)
    assert first.for_connection(1) is first
    assert first.for_connection(2) == NO_FAULTS


def test_every_switch_is_explained() -> None:
    """The docstring that people read for the menu names every field."""
    menu = {line.strip().partition(": ")[0] for line in (Faults.__doc__ or "").splitlines()}

    assert [name for name in Faults.__slots__ if name not in menu] == []
