"""Tokens and seals: only ours open anything, and not for ever; guesses are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.roles import Role
from gateway.web import Session
from gateway.web.gate import (
    FAILURES_WITHIN_S,
    MAX_ENDED,
    MAX_FAILURES,
    MAX_SOURCES,
    SESSION_S,
    Failures,
    Gate,
)

VIEW, ACT, LISTEN = "v" * 32, "o" * 32, "l" * 32
NOW = 1_800_000_000.0
TOKENS: dict[Role, str] = {"viewer": VIEW, "operator": ACT, "listener": LISTEN}


def _sealed(gate: Gate, token: str = VIEW) -> tuple[Session, str]:
    session = gate.admit(token, NOW)
    assert session is not None
    return session, gate.seal(session)


@pytest.mark.parametrize(
    ("token", "role"), [(VIEW, "viewer"), (ACT, "operator"), (LISTEN, "listener")]
)
def test_each_token_opens_its_role(token: str, role: Role) -> None:
    """A token becomes a session of its role, a seal, and the same session again."""
    gate = Gate(TOKENS)
    session, seal = _sealed(gate, token)

    assert session.role == role
    assert session.expires_at == NOW + SESSION_S
    assert gate.open(seal, NOW) == session


@given(st.text(max_size=80))
def test_no_other_token_opens_anything(token: str) -> None:
    """Whatever is typed, only the token itself opens."""
    assert (Gate(TOKENS).admit(token, NOW) is None) == (token not in TOKENS.values())


@given(st.text(max_size=200))
def test_no_made_up_seal_opens_anything(seal: str) -> None:
    """A seal nobody made is nothing, and no reason to fail."""
    assert Gate(TOKENS).open(seal, NOW) is None


@given(st.data())
def test_no_changed_seal_opens_anything(data: st.DataObject) -> None:
    """One other character anywhere: another role, another time, another number do not help."""
    gate = Gate(TOKENS)
    _, seal = _sealed(gate)
    at = data.draw(st.integers(0, len(seal) - 1))
    other = data.draw(st.sampled_from("Aaz09-_.=l"))
    # The last character of base64 carries bits that nobody reads; it is "=" here or "A".
    changed = seal[:at] + other + seal[at + 1 :]

    assert changed == seal or gate.open(changed, NOW) is None


def test_the_role_in_a_seal_cannot_be_exchanged() -> None:
    """A viewer's seal under a listener's name is nothing."""
    gate = Gate(TOKENS)
    _, seal = _sealed(gate)

    assert gate.open(seal.replace("viewer", "listener"), NOW) is None


def test_a_seal_expires() -> None:
    """To the second."""
    gate = Gate(TOKENS)
    _, seal = _sealed(gate)

    assert gate.open(seal, NOW + SESSION_S - 1) is not None
    assert gate.open(seal, NOW + SESSION_S) is None


def test_a_restart_logs_nobody_out_and_a_new_token_everybody_of_its_role() -> None:
    """The seal's key is made of the token."""
    _, seal = _sealed(Gate(TOKENS))

    assert Gate(TOKENS).open(seal, NOW) is not None
    assert Gate({"viewer": "n" * 32, "listener": LISTEN}).open(seal, NOW) is None
    assert Gate({"listener": LISTEN}).open(seal, NOW) is None


def test_a_seal_is_worth_nothing_after_the_logout() -> None:
    """Of this session only; and what is remembered is bounded."""
    gate = Gate(TOKENS)
    first, first_seal = _sealed(gate)
    _, second_seal = _sealed(gate)
    gate.end(first)

    assert gate.open(first_seal, NOW) is None
    assert gate.open(second_seal, NOW) is not None

    for number in range(2 * MAX_ENDED):
        gate.end(Session("viewer", NOW, str(number)))
    assert len(gate._ended) == MAX_ENDED


def test_a_seal_does_not_show_the_token() -> None:
    """Neither as it is nor in a session's representation."""
    session, seal = _sealed(Gate(TOKENS))

    assert VIEW not in seal
    assert session.number not in repr(session)


def test_too_many_wrong_tokens_bar_an_address_for_a_while() -> None:
    """The address that guesses waits; others do not; after the time all is forgotten."""
    failures = Failures()
    for _ in range(MAX_FAILURES):
        assert not failures.is_barred("a", NOW)
        failures.note("a", NOW)

    assert failures.is_barred("a", NOW)
    assert failures.is_barred("a", NOW + FAILURES_WITHIN_S - 1)
    assert not failures.is_barred("b", NOW)
    assert not failures.is_barred("a", NOW + FAILURES_WITHIN_S)


def test_a_new_failure_after_the_time_counts_as_the_first() -> None:
    """Old failures weigh nothing."""
    failures = Failures()
    for _ in range(MAX_FAILURES):
        failures.note("a", NOW)
    failures.note("a", NOW + FAILURES_WITHIN_S)

    assert not failures.is_barred("a", NOW + FAILURES_WITHIN_S)


def test_addresses_without_end_take_bounded_memory() -> None:
    """The oldest is forgotten."""
    failures = Failures()
    for number in range(2 * MAX_SOURCES):
        failures.note(str(number), NOW)

    assert len(failures._counts) == MAX_SOURCES
