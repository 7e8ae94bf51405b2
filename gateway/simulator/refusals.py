"""What the service says to a request it will not carry out.

The texts are those seen in public reports of the Realtime API; clients match on some of them.
"""

from typing import Any

ACTIVE_RESPONSE = "conversation_already_has_active_response"


class RequestRefused(Exception):
    """Becomes one ``error`` event; the session goes on."""

    def __init__(self, code: str | None, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def body(self, client_event_id: str | None) -> dict[str, Any]:
        """The ``error`` member of the event."""
        return {
            "type": "invalid_request_error",
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": client_event_id,
        }


def invalid_event(message: str) -> RequestRefused:
    """The message is not JSON, not an object or of no known type."""
    return RequestRefused("invalid_event", message)


def missing_parameter(param: str) -> RequestRefused:
    """A required member is not there."""
    return RequestRefused(
        "missing_required_parameter", f"Missing required parameter: '{param}'.", param
    )


def unknown_parameter(param: str) -> RequestRefused:
    """A member that the dialect does not have."""
    return RequestRefused("unknown_parameter", f"Unknown parameter: '{param}'.", param)


def invalid_value(param: str, value: object) -> RequestRefused:
    """A member's value is outside what is allowed."""
    return RequestRefused("invalid_value", f"Invalid value: {value!r:.80}.", param)


def response_already_active(response_id: str) -> RequestRefused:
    """A response was asked for while another is being made."""
    return RequestRefused(
        ACTIVE_RESPONSE,
        f"Conversation already has an active response in progress: {response_id}. "
        "Wait until the response is finished before creating a new one.",
    )


def cancel_not_active() -> RequestRefused:
    """There is nothing to cancel."""
    return RequestRefused(
        "response_cancel_not_active", "Cancellation failed: no active response found"
    )


def commit_empty(buffered_ms: float) -> RequestRefused:
    """A commit of less than 100 ms."""
    return RequestRefused(
        "input_audio_buffer_commit_empty",
        "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
        f"but buffer only has {buffered_ms:.2f}ms of audio.",
    )


def truncate_too_late(duration_ms: int, audio_end_ms: int) -> RequestRefused:
    """A truncation beyond the end of the item's audio."""
    return RequestRefused(
        "invalid_value",
        f"Audio content of {duration_ms}ms is already shorter than {audio_end_ms}ms",
        "audio_end_ms",
    )


def truncate_negative(audio_end_ms: int) -> RequestRefused:
    """A truncation before the start."""
    return RequestRefused(
        "integer_below_min_value",
        "Invalid 'audio_end_ms': integer below minimum value. Expected a value >= 0, "
        f"but got {audio_end_ms} instead.",
        "audio_end_ms",
    )


def unknown_item(verb: str, item_id: object) -> RequestRefused:
    """An item that is not (or no longer) in the conversation; ``verb`` as in "retrieve"."""
    return RequestRefused(
        f"item_{verb}_invalid_item_id",
        f"Error {verb[:-1]}ing item: the item with id '{item_id!s:.80}' does not exist.",
        "item_id",
    )


def unknown_call(call_id: object) -> RequestRefused:
    """A function output for a call that was never made."""
    return RequestRefused(
        "invalid_tool_call_id", f"Tool call ID '{call_id!s:.80}' not found in conversation."
    )
