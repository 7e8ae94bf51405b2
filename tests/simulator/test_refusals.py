"""The words of refusals, which clients match on."""

from gateway.simulator import refusals


def test_truncation_texts_are_the_services() -> None:
    """Both truncation errors read as public reports have them."""
    late = refusals.truncate_too_late(3700, 3760)

    assert late.message == "Audio content of 3700ms is already shorter than 3760ms"
    assert (late.code, late.param) == ("invalid_value", "audio_end_ms")
    assert refusals.truncate_negative(-1).code == "integer_below_min_value"


def test_races_have_their_documented_prefixes() -> None:
    """The three texts that clients look for begin as documented."""
    active = refusals.response_already_active("resp_1").message

    assert active.startswith("Conversation already has an active response")
    assert "resp_1" in active
    assert refusals.cancel_not_active().message.startswith("Cancellation failed")
    assert "only has 0.00ms of audio" in refusals.commit_empty(0.0).message


def test_the_body_names_the_clients_event() -> None:
    """The client's own event id comes back inside the error."""
    body = refusals.unknown_parameter("session.voice").body("mine")

    assert body == {
        "type": "invalid_request_error",
        "code": "unknown_parameter",
        "message": "Unknown parameter: 'session.voice'.",
        "param": "session.voice",
        "event_id": "mine",
    }


def test_endless_values_are_cut_short() -> None:
    """A refusal does not send back a message of any length."""
    assert len(refusals.invalid_value("x", "y" * 5000).message) < 200
    assert len(refusals.unknown_item("delete", "y" * 5000).message) < 200
