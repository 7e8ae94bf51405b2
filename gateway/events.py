"""The vocabulary: what happened (events), what we ask for (commands), what we report (facts).

Events are past tense, commands imperative. Every number carries its unit in its name. Nothing here
imports anything of the gateway, so every room can speak these words.

The words of every frame are msgspec structs, which are made in a sixth of the time that a frozen
dataclass takes (0.07 against 0.47 us); the rest are dataclasses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

Encoding = Literal["pcm", "ulaw", "alaw"]
Direction = Literal["up", "down"]
Side = Literal["provider", "realtime"]
Result = Literal["success", "client_error", "server_error", "upstream_error", "indeterminate"]
Reason = Literal[
    "caller_hangup",
    "agent_hangup",
    "operator_hangup",
    "transfer",
    "max_duration",
    "idle_timeout",
    "provider_error",
    "provider_lost",
    "protocol_error",
    "realtime_unavailable",
    "realtime_error",
    "auth_rejected",
    "overload",
    "drain",
    "internal_error",
]

# Who is to blame for each way a call can end; the label pair of gateway_calls_ended_total.
RESULTS: Mapping[Reason, Result] = {
    "caller_hangup": "success",
    "agent_hangup": "success",
    "operator_hangup": "success",
    "transfer": "success",
    "max_duration": "success",
    "idle_timeout": "success",
    "drain": "success",
    "provider_error": "upstream_error",
    "provider_lost": "indeterminate",
    "protocol_error": "client_error",
    "realtime_unavailable": "upstream_error",
    "realtime_error": "upstream_error",
    "auth_rejected": "client_error",
    "overload": "server_error",
    "internal_error": "server_error",
}


@dataclass(frozen=True, slots=True)
class Termination:
    """How a call ended: the reason, and who is to blame for it."""

    reason: Reason

    @property
    def result(self) -> Result:
        """The party to blame."""
        return RESULTS[self.reason]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One channel of audio on a wire: "pcm" is 16-bit little-endian linear, G.711 is 8-bit."""

    encoding: Encoding
    rate_hz: int

    @property
    def bytes_per_ms(self) -> int:
        """Wire bytes in one millisecond."""
        return self.rate_hz // 1000 * (2 if self.encoding == "pcm" else 1)


ULAW_8K = AudioFormat("ulaw", 8000)
ALAW_8K = AudioFormat("alaw", 8000)
PCM_24K = AudioFormat("pcm", 24000)

# ------------------------------------------------------------- events: both links


@dataclass(frozen=True, slots=True)
class MessageRejected:
    """A message of a peer was unknown, malformed or out of place; the call goes on without it.

    ``kind`` comes from a closed set (it is a metric label): bad_json, bad_base64, bad_message,
    unknown_event, out_of_state, duplicate_start, duplicate, empty, media_format, too_big.
    ``detail`` is for a debug log only and is already shortened.
    """

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The socket is gone. ``code`` is the WebSocket close code, 1006 when there was none."""

    code: int
    reason: str = ""


# ------------------------------------------------------------- events: provider link


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The provider's stream is up: who calls whom, and which audio goes each way."""

    provider_call_id: str
    stream_id: str
    audio_in: AudioFormat
    audio_out: AudioFormat
    from_number: str = ""
    to_number: str = ""
    token: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


class AudioReceived(Struct, frozen=True, gc=False):
    """Caller audio as it came, in the format of ``CallStarted.audio_in``; any length above 0."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class AudioLost:
    """The provider's counters say that this much caller audio never arrived."""

    duration_ms: int


class MarkReached(Struct, frozen=True, gc=False):
    """The phone has played everything that was sent before the mark of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class PlayoutReported:
    """Answer to ``QueryPlayout``: this much audio the provider still held when it was asked."""

    queued_ms: int


@dataclass(frozen=True, slots=True)
class PlayoutPaused:
    """The provider's queue is full (XOFF): send no audio until ``PlayoutResumed``."""


@dataclass(frozen=True, slots=True)
class PlayoutResumed:
    """The provider takes audio again (XON)."""


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    """The caller pressed one key: 0-9, *, #, A-D."""

    digit: str


@dataclass(frozen=True, slots=True)
class CallStopped:
    """The provider says the stream ended in good order: the caller hung up."""


# ------------------------------------------------------------- events: realtime link


@dataclass(frozen=True, slots=True)
class RealtimeConnected:
    """The socket to the model is open. ``duration_s`` is what dialling took."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class RealtimeRefused:
    """Dialling failed.

    ``result`` is a label: refused, timeout, dns, tls, token, 400, 401, 403, 404, 429, 5xx, breaker.
    """

    result: str
    can_retry: bool
    retry_after_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """The first message of every session. ``expires_at`` is unix seconds, 0 if unsaid.

    ``model`` is the model's own name, which a deployment's name need not tell; "" if unsaid.
    """

    session_id: str
    expires_at: float
    model: str = ""


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """Our session options are in force."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """VAD: the caller began to speak. Milliseconds count audio appended since session start."""

    item_id: str
    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """VAD: the caller's turn is over (the silence window is already included)."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """The model began an answer."""

    response_id: str


class AudioDelta(Struct, frozen=True, gc=False):
    """Agent audio in the session's output format, faster than real time, any length."""

    response_id: str
    item_id: str
    content_index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class AudioDone:
    """No more audio comes for this item."""

    response_id: str
    item_id: str
    content_index: int


class AgentTranscriptDelta(Struct, frozen=True, gc=False):
    """A piece of what the agent says (spoken) or, with ``is_text``, of a text-only answer."""

    response_id: str
    item_id: str
    text: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class AgentTranscribed:
    """All words of one item of the agent."""

    response_id: str
    item_id: str
    text: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class CallerTranscribed:
    """The caller's words of one turn; comes at any later time, or never."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class FunctionCalled:
    """The model calls a tool. ``arguments`` is the JSON text as the model wrote it, unchecked."""

    response_id: str
    item_id: str
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response; cached tokens are a part of the input tokens."""

    input_text: int = 0
    input_audio: int = 0
    input_cached_text: int = 0
    input_cached_audio: int = 0
    output_text: int = 0
    output_audio: int = 0


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """An answer is complete: status is completed, cancelled, failed or incomplete.

    ``reason`` is the reason of a cancelled or incomplete one, or the error code of a failed one.
    """

    response_id: str
    status: str
    reason: str = ""
    detail: str = ""
    retry_after_s: float = 0.0
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class ItemTruncated:
    """The model now remembers only this much of the item."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class RateLimitReported:
    """What is left of one rate limit ("tokens", "requests")."""

    name: str
    limit: int
    remaining: int
    reset_s: float


Severity = Literal["ignore", "warn", "busy", "retry", "expired", "fatal"]


@dataclass(frozen=True, slots=True)
class RealtimeError:
    """An ``error`` event. ``code`` comes from a closed set, ``other`` for the rest.

    severity: ignore (a race we expected), warn (something is wrong, the call goes on), busy (a
    response is already active), retry (the service failed), expired (session limit), fatal.
    ``about`` says which of our commands it answers: "create", "other", or "" when it does not say.
    """

    code: str
    severity: Severity
    message: str = ""
    event_id: str = ""
    param: str = ""
    about: Literal["", "create", "other"] = ""
    retry_after_s: float = 0.0


# ------------------------------------------------------------- commands: provider link
#
# ``asked_at`` is the moment of the message that caused a command, on the call's clock, so that the
# driver can measure what the gateway added; 0 = nothing to measure. Equality does not look at it.


class _Sound(Struct, frozen=True, gc=False, eq=False):
    payload: bytes
    asked_at: float = 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sound) and (type(other), other.payload) == (
            type(self),
            self.payload,
        )

    def __hash__(self) -> int:
        return hash((type(self), self.payload))


class PlayAudio(_Sound, frozen=True, gc=False, eq=False):
    """Queue this payload for playing, in the format of ``CallStarted.audio_out``."""


class SendMark(Struct, frozen=True, gc=False):
    """Tell us when everything sent so far has been played. Names are at most 16 characters."""

    name: str


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Drop all audio the provider still holds."""

    asked_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class QueryPlayout:
    """Ask how much audio the provider holds; only where ``Capabilities.status`` says so."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the phone call, in band where the protocol can; else see ``Provider.hang_up``."""


# ------------------------------------------------------------- commands: realtime link


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """Who decides when a turn ends. A field that does not belong to ``kind`` is not sent."""

    kind: Literal["server_vad", "semantic_vad", "none"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )


# The one tool there is: without it an agent cannot end a call, and callers wait in silence.
HANG_UP = Tool(
    "hang_up",
    "End the phone call. Say goodbye in the same answer; the call ends when it has been heard.",
)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Everything we set on a session; all of it is sent explicitly.

    ``temperature`` (0.6-1.2) exists in the preview dialect only, ``speed`` (0.25-1.5) in GA only.
    """

    instructions: str = ""
    voice: str = "marin"
    temperature: float = 0.8
    speed: float = 1.0
    audio: AudioFormat = PCM_24K
    turn_detection: TurnDetection = field(default_factory=TurnDetection)
    transcription_model: str = ""
    transcription_language: str = ""
    noise_reduction: Literal["", "near_field", "far_field"] = ""
    max_output_tokens: int | None = None
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class DialRealtime:
    """Open the line to the model after ``delay_s``, giving up ``timeout_s`` after that."""

    delay_s: float
    timeout_s: float
    with_fresh_token: bool = False


@dataclass(frozen=True, slots=True)
class CloseRealtime:
    """Close the line to the model; what it still sends is not wanted."""


@dataclass(frozen=True, slots=True)
class ConfigureSession:
    """Set the session's options."""

    options: SessionOptions


class AppendAudio(_Sound, frozen=True, gc=False, eq=False):
    """Caller audio in the session's input format."""


@dataclass(frozen=True, slots=True)
class CommitInput:
    """End the caller's turn by hand (turn detection "none")."""


@dataclass(frozen=True, slots=True)
class AddMessage:
    """Put a text message into the conversation: DTMF digits, or history after a reconnect."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """Ask for an answer. ``instructions`` replace the session's for this one; "" keeps them."""

    instructions: str = ""


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """Stop generating."""

    response_id: str


@dataclass(frozen=True, slots=True)
class TruncateItem:
    """Make the model forget what the caller did not hear of an item."""

    item_id: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class SendFunctionOutput:
    """Answer a tool call; ``output`` is text, usually JSON."""

    call_id: str
    output: str


ProviderEvent = (
    CallStarted
    | AudioReceived
    | AudioLost
    | MarkReached
    | PlayoutReported
    | PlayoutPaused
    | PlayoutResumed
    | DtmfReceived
    | CallStopped
    | MessageRejected
    | LinkClosed
)
RealtimeEvent = (
    RealtimeConnected
    | RealtimeRefused
    | SessionCreated
    | SessionUpdated
    | SpeechStarted
    | SpeechStopped
    | ResponseStarted
    | AudioDelta
    | AudioDone
    | AgentTranscriptDelta
    | AgentTranscribed
    | CallerTranscribed
    | FunctionCalled
    | ResponseDone
    | ItemTruncated
    | RateLimitReported
    | RealtimeError
    | MessageRejected
    | LinkClosed
)
ProviderCommand = PlayAudio | SendMark | ClearAudio | QueryPlayout | HangUp
RealtimeCommand = (
    DialRealtime
    | CloseRealtime
    | ConfigureSession
    | AppendAudio
    | CommitInput
    | AddMessage
    | CreateResponse
    | CancelResponse
    | TruncateItem
    | SendFunctionOutput
)

# ------------------------------------------------------------- facts: what observers are told


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A valid start was admitted: from here on the call ends in exactly one ``CallEnded``."""

    provider: str
    agent: str
    provider_call_id: str
    from_number: str
    to_number: str
    audio_in: AudioFormat
    audio_out: AudioFormat


@dataclass(frozen=True, slots=True)
class RealtimeDialled:
    """One attempt to reach the model ended; ``result`` is "ok" or one of ``RealtimeRefused``."""

    result: str
    duration_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RealtimeOpened:
    """A session answers, with the name it gives itself and the model it says it is ("": unsaid)."""

    session_id: str
    model: str


@dataclass(frozen=True, slots=True)
class RealtimeLost:
    """A session that was open closed; ``is_expected`` when we closed it ourselves."""

    code: int
    open_s: float
    is_expected: bool


@dataclass(frozen=True, slots=True)
class RealtimeReconnected:
    """The conversation goes on over a new session."""

    gap_s: float


@dataclass(frozen=True, slots=True)
class CallReady:
    """The session took our options: the conversation can start. Measured from the start message."""

    setup_s: float


SetUpStage = Literal["start", "admission", "dial", "configure", "first_audio"]


@dataclass(frozen=True, slots=True)
class SetUpTimed:
    """One stage of a call's beginning, told when it is over.

    start: socket opened to start message. admission: from there until the call was taken. dial:
    until the line to the model was open, second attempts included. configure: until the session
    took our options. first_audio: until the first sound of the greeting left.
    """

    stage: SetUpStage
    duration_s: float


@dataclass(frozen=True, slots=True)
class AudioCounted:
    """This much audio was carried since the last such fact (about once a second)."""

    direction: Direction
    duration_ms: float


@dataclass(frozen=True, slots=True)
class AudioDropped:
    """This much audio did not get through.

    reason: gap (lost before us), overflow (held too long), cancelled (late audio of an answer that
    was interrupted), unheard (cut by a barge-in before it left), ended (the call was ending),
    announcing (the caller had yet to hear that the call is recorded).
    """

    direction: Direction
    reason: str
    duration_ms: float


AudioFault = Literal[
    "quiet",
    "loud",
    "noisy",
    "clipped",
    "dc_offset",
    "silent",
    "no_audio",
    "gaps",
    "jitter",
    "echo",
]


@dataclass(frozen=True, slots=True)
class AudioAssessed:
    """How the caller's side sounds: the last few seconds, or all of the call (``is_final``).

    None = nothing to tell it from. ``level_dbfs``: of the caller's voice. ``noise_dbfs``: between
    words. ``clipped_share``: of all samples. ``dc_offset``: share of full scale. ``lost_ms``: audio
    that never came, told by the provider's counters or by the clock. ``jitter_ms``: how late 95 %
    of the frames were at most (the worst few seconds of a call). ``echo_likeness``: 0 to 1, how
    much of the caller's audio is the agent's voice; ``echo_loss_db``: how far below what the phone
    played. ``faults``: what was wrong; ``new_faults``: of these, what was not told before.
    """

    is_final: bool
    duration_ms: float
    voice_ms: float
    agent_ms: float
    level_dbfs: float | None
    noise_dbfs: float | None
    clipped_share: float
    dc_offset: float
    lost_ms: float
    jitter_ms: float
    echo_likeness: float
    echo_loss_db: float | None
    echo_delay_ms: float | None
    faults: tuple[AudioFault, ...] = ()
    new_faults: tuple[AudioFault, ...] = ()


@dataclass(frozen=True, slots=True)
class RelayMeasured:
    """What the gateway added to one message: from its arrival to the end of our send."""

    direction: Direction
    latency_s: float


@dataclass(frozen=True, slots=True)
class FirstAudioSent:
    """The caller's first sound from the agent left, this long after the start message."""

    latency_s: float


@dataclass(frozen=True, slots=True)
class TurnAnswered:
    """From the end of the caller's speech (as the model saw it) to our first audio out."""

    latency_s: float


@dataclass(frozen=True, slots=True)
class TurnTimed:
    """One turn from the caller's last sound to the first sound of the answer in the caller's ear.

    endpointing: caller silent (by the model's audio clock) to ``speech_stopped`` here. model: to
    the first audio here. conversion: to audio in the provider's format. send: to the end of our
    write. provider_buffer: to the caller's ear, by marks, else by the clock of what was sent.
    """

    endpointing_s: float
    model_s: float
    conversion_s: float
    send_s: float
    provider_buffer_s: float

    @property
    def total_s(self) -> float:
        """The whole turn: nothing but its stages."""
        return sum(seconds for _, seconds in self.stages())

    def stages(self) -> tuple[tuple[str, float], ...]:
        """Each stage by its name, in their order."""
        return (
            ("endpointing", self.endpointing_s),
            ("model", self.model_s),
            ("conversion", self.conversion_s),
            ("send", self.send_s),
            ("provider_buffer", self.provider_buffer_s),
        )

    def with_way_out(self, conversion_s: float, send_s: float) -> "TurnTimed":
        """With the driver's part told apart from the provider's."""
        rest_s = max(0.0, self.provider_buffer_s - conversion_s - send_s)
        return TurnTimed(self.endpointing_s, self.model_s, conversion_s, send_s, rest_s)


TurnOutcome = Literal["interrupted", "timed_out", "ended"]


@dataclass(frozen=True, slots=True)
class TurnLost:
    """A turn whose answer was not heard, as far as we know: it is in no latency.

    outcome: interrupted (the caller went on), timed_out (given up), ended (the call was over).
    """

    outcome: TurnOutcome


@dataclass(frozen=True, slots=True)
class DeadAir:
    """The caller heard nothing for this long (3 s or more) while it was the agent's turn."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Underrun:
    """The phone ran dry in the middle of what the agent said; ``gap_ms`` until more came."""

    gap_ms: float


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """So much audio waited in the gateway.

    down: agent audio ahead of the phone's buffer, looked at once in a second of it. up: caller
    audio that was kept until a session listened.
    """

    direction: Direction
    queued_ms: float


@dataclass(frozen=True, slots=True)
class TurnTimedOut:
    """The model owed an answer and gave none; ``is_final`` when we gave up on the session."""

    is_final: bool


@dataclass(frozen=True, slots=True)
class BargedIn:
    """The caller interrupted: ``clear_s`` from hearing of it to our clear being written."""

    clear_s: float


@dataclass(frozen=True, slots=True)
class BargeInConfirmed:
    """The provider acknowledged the clear: at most this much was heard after the speech start."""

    heard_after_ms: float


@dataclass(frozen=True, slots=True)
class ItemPlayed:
    """The account of one item of agent speech is closed: what came, what was heard of it.

    ``text`` is the words that were heard, ``unheard`` those that came behind them so far.
    """

    item_id: str
    received_ms: float
    heard_ms: float
    text: str
    unheard: str = ""


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """All words so far of one item of the agent; told again as they grow.

    What is heard of them is told by ``ItemPlayed``; one of these that comes after it says nothing
    new.
    """

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class CallerSpoke:
    """What the caller said in one turn."""

    text: str


@dataclass(frozen=True, slots=True)
class DtmfEntered:
    """The caller pressed a key (the digit itself is nobody's business)."""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool call was answered. result: ok, unknown, invalid."""

    result: str


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """Tokens of one response."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class CostIncurred:
    """What one response costs by the list prices in force; ``model`` is a name of that list.

    Of a model without a price ``model`` is "" and the cost is 0; ``tokens`` are then unpriced.
    """

    model: str
    cost_usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class RealtimeErrorSeen:
    """An error event or a failed response, by code."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class RateLimitSeen:
    """What the service says is left."""

    name: str
    remaining: int


@dataclass(frozen=True, slots=True)
class FrameRejected:
    """A message of a peer was dropped."""

    side: Side
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class MarksLost:
    """The provider stopped echoing marks; from now on the clock is all we have."""


@dataclass(frozen=True, slots=True)
class PromptPlayed:
    """The caller hears a local recording: apology, filler, goodbye, announcement."""

    name: str


@dataclass(frozen=True, slots=True)
class AnnouncementHeard:
    """The caller has heard to its end that the call is recorded."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The call moved on in one of its two state tables."""

    machine: Literal["lifecycle", "turn"]
    state: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The one record of an accepted call; ``cost_usd`` is added by whoever knows prices."""

    termination: Termination
    duration_s: float
    turns: int
    barge_ins: int
    received_ms: float
    heard_ms: float
    detail: str = ""
    cost_usd: float = 0.0


Fact = (
    CallBegan
    | RealtimeDialled
    | RealtimeOpened
    | RealtimeLost
    | RealtimeReconnected
    | CallReady
    | SetUpTimed
    | AudioCounted
    | AudioDropped
    | AudioAssessed
    | RelayMeasured
    | FirstAudioSent
    | TurnAnswered
    | TurnTimed
    | TurnLost
    | DeadAir
    | Underrun
    | QueueSeen
    | TurnTimedOut
    | BargedIn
    | BargeInConfirmed
    | ItemPlayed
    | AgentSaid
    | CallerSpoke
    | DtmfEntered
    | ToolCalled
    | TokensUsed
    | CostIncurred
    | RealtimeErrorSeen
    | RateLimitSeen
    | FrameRejected
    | MarksLost
    | PromptPlayed
    | AnnouncementHeard
    | StateChanged
    | CallEnded
)
