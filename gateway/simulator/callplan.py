"""What a simulated caller does during one call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.audio.wav import read_wav

HangUp = Literal["stop", "close", "abort", "freeze", "agent"]

PLAN_RATE_HZ = 24_000


@dataclass(frozen=True, slots=True)
class When:
    """The moment something is said.

    ``kind``:
        call_start: ``after_s`` after the stream began (at once when that is past).
        agent_starts: ``after_s`` after the agent was first heard speaking since the last utterance
            ended (a barge-in).
        agent_stops: once the agent has spoken since the last utterance ended and was then silent
            for ``after_s`` (polite turn-taking).
        pause: ``after_s`` after the last utterance ended, whatever the agent does.
    """

    kind: Literal["call_start", "agent_starts", "agent_stops", "pause"] = "agent_stops"
    after_s: float = 0.6


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something the caller says: 16-bit mono PCM at ``rate_hz``."""

    pcm: bytes
    rate_hz: int = PLAN_RATE_HZ
    when: When = field(default_factory=When)

    @classmethod
    def from_wav(cls, path: str, when: When | None = None) -> "Utterance":
        """Read a WAV file.

        Raises:
            AudioFileError: it is missing or not 16-bit mono.
        """
        return cls(read_wav(path, PLAN_RATE_HZ), PLAN_RATE_HZ, when or When())


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call: through whom, what is said when, which keys are pressed, how it ends.

    Attributes:
        provider: Whose protocol is spoken.
        says: Utterances, one after the other; each waits for its moment.
        dtmf: Keys with their moments in seconds after the stream began.
        hang_up: How the caller leaves. stop: in good order; close: the socket is closed without a
            word; abort: the TCP connection is reset; freeze: nothing is sent or read any more for
            ``freeze_s``, then a reset; agent: the caller waits for the gateway to end the call.
        hang_up_after_s: The longest the call lasts, whatever ``hang_up`` says ("agent" leaves in
            good order then).
        quiet_s: Leave earlier, once everything has been said, the agent has answered the last
            utterance and was then silent this long; 0 never.
        codec: What Asterisk's line carries (``asterisk_line.CODECS``); Twilio is always mu-law.
        is_json: Asterisk's control format; False for plain text.
        is_answered: False for Asterisk's option "n": no caller audio before ANSWER.
        jitter_ms: What the phone buffers before it plays.
        parameters: Twilio's custom parameters when no webhook is asked; Asterisk's query string.
        variables: Asterisk's channel variables.
        speed: How much faster than real time the call's clock runs; only for far ends without a
            clock of their own.
    """

    provider: Literal["twilio", "asterisk"] = "twilio"
    says: tuple[Utterance, ...] = ()
    dtmf: tuple[tuple[float, str], ...] = ()
    hang_up: HangUp = "stop"
    hang_up_after_s: float = 30.0
    quiet_s: float = 0.0
    freeze_s: float = 30.0
    codec: str = "ulaw"
    is_json: bool = True
    is_answered: bool = True
    jitter_ms: float = 40.0
    from_number: str = "+15550100001"
    to_number: str = "+15550100002"
    parameters: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class CallAuth:
    """The secrets a caller shows.

    ``twilio_token`` signs the webhook and the upgrade, for the URL below ``public_url`` when that
    is given (a gateway behind a proxy) and else for the URL that is really asked. ``username`` and
    ``password`` are Asterisk's Basic credentials.
    """

    twilio_token: str = ""
    public_url: str = ""
    username: str = ""
    password: str = ""
