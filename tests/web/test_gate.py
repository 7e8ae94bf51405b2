"""Tokens and logins: only ours open anything, and not for ever; guesses are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.roles import Role
from gateway.web import Session
from gateway.web.gate import (
    FAILURES_WITHIN_S,
    MAX_FAILURES,
    MAX_LOGINS,
    MAX_SOURCES,
    SESSION_S,
    Failures,
    Gate,
)

VIEW, ACT, LISTEN = "v" * 32, "o" * 32, "l" * 32
NOW = 1_800_000_000.0
TOKENS: dict[Role, str] = {"viewer": VIEW, "operator": ACT, "listener": LISTEN}


def _login(gate: Gate, token: str = VIEW, now: float = NOW) -> Session:
    session = gate.admit(token, now)
    assert session is not None
    return gate.log_in(session)


@pytest.mark.parametrize(
    ("token", "role"), [(VIEW, "viewer"), (ACT, "operator"), (LISTEN, "listener")]
)
def test_each_token_opens_its_role(token: str, role: Role) -> None:
    """A token becomes a session of its role, a cookie, and the same session again."""
    gate = Gate(TOKENS)
    session = _login(gate, token)

    assert session.role == role
    assert session.expires_at == NOW + SESSION_S
    assert gate.open(session.number, NOW) == session


@given(st.text(max_size=80))
def test_no_other_token_opens_anything(token: str) -> None:
    """Whatever is typed, only the token itself opens."""
    assert (Gate(TOKENS).admit(token, NOW) is None) == (token not in TOKENS.values())


@given(st.text(max_size=200))
def test_no_made_up_cookie_opens_anything(cookie: str) -> None:
    """What nobody was given is nothing, and no reason to fail."""
    gate = Gate(TOKENS)
    _login(gate)

    assert gate.open(cookie, NOW) is None


@given(st.data())
def test_no_changed_cookie_opens_anything(data: st.DataObject) -> None:
    """One other character anywhere."""
    gate = Gate(TOKENS)
    cookie = _login(gate).number
    at = data.draw(st.integers(0, len(cookie) - 1))
    changed = cookie[:at] + data.draw(st.sampled_from("Aafz09-_.=")) + cookie[at + 1 :]

    assert changed == cookie or gate.open(changed, NOW) is None


def test_a_login_expires() -> None:
    """To the second."""
    gate = Gate(TOKENS)
    session = _login(gate)

    for after_s, is_over in ((SESSION_S - 1, False), (SESSION_S, True)):
        assert gate.is_over(session, NOW + after_s) == is_over
        assert (gate.open(session.number, NOW + after_s) is None) == is_over


def test_a_restart_logs_everybody_out() -> None:
    """Also whoever had logged out before it: no cookie of an earlier run opens anything."""
    before = Gate(TOKENS)
    gone, there = _login(before), _login(before)
    before.end(gone)

    for session in (gone, there):
        assert Gate(TOKENS).open(session.number, NOW) is None


def test_a_cookie_is_worth_nothing_after_the_logout() -> None:
    """Of this login only, however many come and go after it."""
    gate = Gate(TOKENS)
    first, second = _login(gate), _login(gate)
    gate.end(first)
    gate.end(first)

    assert gate.open(first.number, NOW) is None
    assert gate.is_over(first, NOW)
    assert gate.open(second.number, NOW) == second

    for _ in range(2 * MAX_LOGINS):
        gate.end(_login(gate))
    assert gate.open(first.number, NOW) is None
    assert gate.open(second.number, NOW) == second


def test_logins_without_end_take_bounded_memory() -> None:
    """The oldest of the same role is logged out; those who only look push out no operator."""
    gate = Gate(TOKENS)
    operator, oldest = _login(gate, ACT), _login(gate)
    newest = [_login(gate) for _ in range(MAX_LOGINS)]

    assert gate.open(oldest.number, NOW) is None
    assert gate.is_over(oldest, NOW)
    assert [gate.open(session.number, NOW) for session in newest] == newest
    assert gate.open(operator.number, NOW) == operator


def test_whoever_brings_the_token_each_time_is_not_remembered() -> None:
    """A script's session has no number that would open anything; it expires like others."""
    gate = Gate(TOKENS)
    session = gate.admit(VIEW, NOW)

    assert session is not None
    assert session.number == ""
    assert gate.open("", NOW) is None
    assert not gate.is_over(session, NOW)
    assert gate.is_over(session, NOW + SESSION_S)


def test_a_cookie_does_not_show_the_token_nor_a_session_its_number() -> None:
    """Nor is the number kept: whoever reads our memory finds digests."""
    gate = Gate(TOKENS)
    session = _login(gate)

    assert VIEW not in session.number
    assert session.number not in repr(session)
    assert session.number.encode() not in gate._logins["viewer"]


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
