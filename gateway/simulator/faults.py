"""The menu of things that go wrong at a model service, each a switch."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from gateway.errors import SettingsError

# The event after which a "when" switch acts.
MOMENTS = MappingProxyType(
    {
        "created": "session.created",
        "configured": "session.updated",
        "speech": "input_audio_buffer.speech_started",
        "response": "response.created",
        "delta": "response.output_audio.delta",
        "done": "response.done",
    }
)
# A response.done that holds a tool call.
TOOL = "tool"
# After a time, whatever happened.
IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Faults:
    """All switches; the defaults are a service that works.

    Written as ``name=value`` on a command line, or in the URL a client dials, as often as wanted:
    ``?fault=close_code=1011&fault=close_when=delta``. A bare name switches a yes/no fault on.

    Attributes:
        connections: only the first N connections of a server fail (0: all of them).
        response: only the Nth response of a session fails (0: all of them).
        http_status: refuse the handshake with this status.
        retry_after_s: sent along as Retry-After (0: not sent).
        handshake_delay_s: wait before answering the handshake.
        reject_code: accept, then one ``error`` of this code, then close 3000.
        close_code: close with this code (1006: cut the connection) at ``close_when``.
        close_when: created, configured, speech, response, delta, tool, done or idle.
        close_count: at the Nth such event.
        close_after_s: for idle: this long after the start.
        error_code: one ``error`` of this code ("null" for none) at ``error_when``.
        error_when: as ``close_when``, without idle.
        no_session_created: stay silent after the handshake.
        no_session_updated: never confirm a session.update.
        no_pong: leave pings unanswered.
        stall_after_deltas: stop for ever after N audio deltas of a response (0: never).
        delta_ms: cut audio into deltas of this length: 1 for tiny, 600000 for one huge one.
        odd_deltas: cut audio between the two bytes of a sample.
        loose_base64: line breaks in the base64, no padding.
        unknown_events: put events of an unheard-of type between the others.
        unknown_members: put unheard-of members into every event.
        fail_response: responses end as failed with this code.
        incomplete_response: responses end half way as incomplete, with this reason.
        duplicate_done: response.done twice.
        late_done_s: response.done this much later than everything else.
        deltas_after_cancel: this many more audio deltas after a cancel.
        no_speech_stopped: leave out every speech_stopped.
        false_start: 80 ms of "speech" in the middle of the first answer.
        transcription_delay_s: transcripts of the caller come this late (0: as usual).
        no_transcription: transcripts of the caller never come.
        long_arguments_bytes: pad the arguments of tool calls to this size.
        unknown_tool: call a tool that was never offered.
        extra_items: two messages and two tool calls in every response.
        text_answers: text where audio is expected.
        silent: no response after a caller's turn.
        expires_after_s: the session's limit (0: as usual).
        other_dialect: event names of the other dialect.
    """

    connections: int = 0
    response: int = 0
    http_status: int = 0
    retry_after_s: float = 0.0
    handshake_delay_s: float = 0.0
    reject_code: str = ""
    close_code: int = 0
    close_when: str = "created"
    close_count: int = 1
    close_after_s: float = 1.0
    error_code: str = ""
    error_when: str = "configured"
    no_session_created: bool = False
    no_session_updated: bool = False
    no_pong: bool = False
    stall_after_deltas: int = 0
    delta_ms: int = 0
    odd_deltas: bool = False
    loose_base64: bool = False
    unknown_events: bool = False
    unknown_members: bool = False
    fail_response: str = ""
    incomplete_response: str = ""
    duplicate_done: bool = False
    late_done_s: float = 0.0
    deltas_after_cancel: int = 0
    no_speech_stopped: bool = False
    false_start: bool = False
    transcription_delay_s: float = 0.0
    no_transcription: bool = False
    long_arguments_bytes: int = 0
    unknown_tool: bool = False
    extra_items: bool = False
    text_answers: bool = False
    silent: bool = False
    expires_after_s: float = 0.0
    other_dialect: bool = False

    def for_response(self, number: int) -> "Faults":
        """These faults, or none, for the session's Nth response (from 1)."""
        return self if self.response in (0, number) else NO_FAULTS

    def for_connection(self, number: int) -> "Faults":
        """These faults, or none, for the server's Nth connection (from 1)."""
        return self if self.connections == 0 or number <= self.connections else NO_FAULTS


NO_FAULTS = Faults()
_KINDS = {field.name: type(field.default) for field in fields(Faults)}
_YES = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_LARGEST = 1_000_000


def parse_faults(switches: Iterable[str], base: Faults = NO_FAULTS) -> Faults:
    """Read ``name=value`` switches on top of ``base``.

    Raises:
        SettingsError: one problem for each switch that is unknown or has a bad value.
    """
    values: dict[str, Any] = {}
    problems = [problem for switch in switches if (problem := _read(switch, values))]
    problems += _misplaced(values)
    if problems:
        raise SettingsError(problems)
    return replace(base, **values)


def _read(switch: str, values: dict[str, Any]) -> str:
    name, _, text = switch.strip().partition("=")
    if name not in _KINDS:
        return f"fault {name!r:.40}: no such fault; there are {', '.join(sorted(_KINDS))}"
    try:
        values[name] = _value(_KINDS[name], text)
    except (ValueError, KeyError):
        return f"fault {name}: {text!r:.40} is not a usable {_KINDS[name].__name__}"
    return ""


def _value(kind: type, text: str) -> bool | int | float | str:
    if kind is bool:
        return _YES[text.lower()]
    if kind is str:
        return text
    number: int | float = kind(text)
    if not 0 <= number <= _LARGEST:
        raise ValueError(text)
    return number


def _misplaced(values: dict[str, Any]) -> list[str]:
    places = {"close_when": {*MOMENTS, TOOL, IDLE}, "error_when": {*MOMENTS, TOOL}}
    return [
        f"fault {name}: {values[name]!r:.40} is none of {', '.join(sorted(allowed))}"
        for name, allowed in places.items()
        if name in values and values[name] not in allowed
    ]
