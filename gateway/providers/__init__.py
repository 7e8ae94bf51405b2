"""The contract every telephony provider fulfils, and the one table of those that do.

A provider file holds two things. Its *door* is made once for a process: it checks that a request
really comes from the provider and answers the webhook. Its *stream* is made once for a call: it
turns wire messages into events and commands into wire messages, and holds wire state only. Neither
opens a socket: a hang-up over REST is described as an ``HttpRequest`` and carried out by others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from gateway.events import ProviderCommand, ProviderEvent


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that came in (webhook, upgrade) or that shall go out (hang-up).

    ``url`` is the full URL: for one that came in, the public base URL of the settings followed by
    the path and query exactly as received. ``form`` keeps repeated fields, in order. Header names
    are lower case.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What to answer a webhook with."""

    status: int
    content_type: str
    body: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider's stream can do, and how far ahead of real time it may be fed.

    ``lead_ms``: audio we keep at the provider at most. ``frame_ms``: every payload is a multiple.
    ``max_message_bytes``: largest payload of one ``PlayAudio``. ``clear_echoes_marks``: a clear
    makes outstanding marks come back (they prove nothing then). ``status``: ``QueryPlayout`` works.
    """

    mark: bool
    clear: bool
    status: bool
    clear_echoes_marks: bool
    lead_ms: int
    frame_ms: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """What the answer webhook says about a call that rings."""

    provider_call_id: str
    from_number: str
    to_number: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a status callback says about a stream; ``kind``: started, stopped, error, other."""

    provider_call_id: str
    kind: str
    detail: str = ""


class Provider(Protocol):
    """One call's stream; holds wire state only and never raises for what a peer sent."""

    name: ClassVar[str]
    caps: Capabilities

    def receive(self, message: str | bytes) -> list[ProviderEvent]:
        """Turn one wire message into events. Bad input becomes ``MessageRejected``."""

    def send(self, command: ProviderCommand) -> list[str | bytes]:
        """Turn one command into wire messages; [] where the wire has no such thing."""

    def hang_up(self) -> HttpRequest | None:
        """The request that ends the phone call out of band, where there is one."""


class Door(Protocol):
    """A provider's entrance, one for the process."""

    name: ClassVar[str]
    # False: its calls come over the operations listener, from people who are logged in there, and
    # who may change the agent's settings for their call.
    is_public: ClassVar[bool]
    # WebSocket subprotocols we accept on the upgrade, () for none.
    subprotocols: tuple[str, ...]
    # True when a call must carry a single-use token that the answer webhook minted.
    needs_token: bool

    def verify(self, request: HttpRequest) -> None:
        """Check that a webhook or an upgrade comes from the provider.

        Raises:
            AuthRejected: kind "missing" or "signature".
        """

    def incoming_call(self, request: HttpRequest) -> IncomingCall | None:
        """Read an answer webhook; None when this provider has none or it lacks a call id."""

    def answer(self, call: IncomingCall, media_url: str, status_url: str, token: str) -> HttpReply:
        """The document that connects the call to our media WebSocket."""

    def refuse(self, reason: str) -> HttpReply:
        """The document that turns a call away; reason: capacity, drain, rate, unknown_number."""

    def status(self, request: HttpRequest) -> StatusReport | None:
        """Read a status callback; None when it is not one."""

    def connect(self, upgrade: HttpRequest) -> Provider:
        """A new stream for one media WebSocket."""
