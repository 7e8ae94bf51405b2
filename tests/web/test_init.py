"""Who may do what."""

from gateway.web import Session


def test_a_listener_is_a_viewer_too() -> None:
    """Roles include others as the table says, never the other way."""
    assert Session("listener", 0.0).may("viewer")
    assert Session("listener", 0.0).may("listener")
    assert not Session("viewer", 0.0).may("listener")


def test_a_session_does_not_show_its_number() -> None:
    """It would be as good as the cookie."""
    assert "abc" not in repr(Session("viewer", 0.0, "abc"))
