"""Who may do what."""

from gateway.web import Session


def test_a_session_may_what_its_role_may() -> None:
    """And what the roles below it may, never the other way."""
    operator = Session("operator", 0.0)

    assert operator.may("viewer")
    assert operator.may("operator")
    assert not operator.may("listener")


def test_a_session_does_not_show_its_number() -> None:
    """It would be as good as the cookie."""
    assert "abc" not in repr(Session("viewer", 0.0, "abc"))
