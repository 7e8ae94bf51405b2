"""What can go wrong, each error saying who is to blame.

GatewayError
  LocalProtocolError     our bug: a command in a state that has no place for it
  SettingsError          the operator's: one line for each bad setting
  CallRejected           the provider's or caller's: a call we do not take
  AuthRejected           the same, for want of a valid secret
  ConnectError           the model's: the line could not be opened
  TokenError             Microsoft Entra's: no token in time
  AudioFileError         the operator's: a sound file that cannot be used
  TapeError              the operator's: a file that is no tape, or one that cannot be read
  PeerRefused            a far end refused what a tool of ours asked (demo, call, say)
"""

from collections.abc import Sequence


class GatewayError(Exception):
    """Everything this package raises on purpose."""


class LocalProtocolError(GatewayError):
    """A state machine was asked for a step it does not have; names the state and the step."""


class SettingsError(GatewayError):
    """Settings that cannot be used; ``problems`` has one line for each, naming the setting."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class CallRejected(GatewayError):
    """A call is not taken. ``stage`` and ``reason`` are metric labels."""

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail


class AuthRejected(CallRejected):
    """A signature, password or token is missing, wrong, expired or used twice (``kind``)."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__("auth", "auth", detail or kind)
        self.kind = kind


class ConnectError(GatewayError):
    """The line to the model could not be opened; ``result`` as in ``events.RealtimeRefused``."""

    def __init__(
        self, result: str, detail: str = "", *, can_retry: bool = False, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"{result}: {detail}" if detail else result)
        self.result = result
        self.detail = detail
        self.can_retry = can_retry
        self.retry_after_s = retry_after_s


class TokenError(ConnectError):
    """No Microsoft Entra token could be had."""

    def __init__(self, detail: str) -> None:
        super().__init__("token", detail, can_retry=False)


class AudioFileError(GatewayError):
    """A sound file is missing, too long or not 16-bit mono PCM; the message names the file."""


class TapeError(GatewayError):
    """A tape is missing, damaged, of another format, or no tape; names file and line."""


class PeerRefused(GatewayError):
    """The far end said no to one of our tools; the message says what it said."""
