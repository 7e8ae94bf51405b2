"""Every knob of the gateway, read once: environment first, then one TOML file.

``load_settings`` reads variables, the file and command-line overrides in that order of weakness
(an override beats the environment, the environment beats the file), and reports every bad value at
once. A problem names the setting and what would be accepted, never the value it had: a secret may
have landed in the wrong variable.
"""

import difflib
import hashlib
import ipaddress
import math
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails

from gateway import __version__
from gateway.capacity import Certificate, cpu_model, read_certificate
from gateway.errors import SettingsError
from gateway.events import (
    ALAW_8K,
    HANG_UP,
    PCM_24K,
    ULAW_8K,
    AudioFormat,
    SessionOptions,
    TurnDetection,
)
from gateway.prices import read_prices
from gateway.roles import LADDER, Role

Dialect = Literal["ga", "preview"]
Credential = Literal["key", "entra"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]

_SESSION_AUDIO: Mapping[str, AudioFormat] = {
    "pcm16": PCM_24K,
    "g711_ulaw": ULAW_8K,
    "g711_alaw": ALAW_8K,
}
_DEFAULT_VOICE: Mapping[Dialect, str] = {"ga": "marin", "preview": "alloy"}
# Microsoft's pages name these two; the older one is the preview's.
_ENTRA_SCOPE: Mapping[Dialect, str] = {
    "ga": "https://ai.azure.com/.default",
    "preview": "https://cognitiveservices.azure.com/.default",
}
_DATABASES = re.compile(r"(sqlite|postgres|postgresql|postgresql\+psycopg)://")
_URL_SCHEMES = ("https", "wss", "http", "ws")
_PLAIN_SCHEMES = ("http", "ws")
# The one place that says which token has which role; what a role may do, ``gateway.roles`` says.
_TOKEN_OF: Mapping[Role, str] = {
    "viewer": "console_view_token",
    "operator": "console_token",
    "listener": "console_listen_token",
}
_PROXIES_ACCEPTED = "addresses, or networks such as 10.1.0.0/16, separated by commas"
# What stands in front of an IPv4 address that is written as one of IPv6.
_MAPPED_BITS = 96
_MAX_TWILIO_TOKENS = 2
_MAX_FILE_BYTES = 1024 * 1024
_MAX_AGENTS = 50


class SettingRow(NamedTuple):
    """One line of the settings tables: what to type, what holds without it, what it does."""

    name: str
    default: str
    description: str


# ------------------------------------------------------------- fields


def _described(
    default: Any, what: str, why: str, *, accepted: str = "", variable: str = "", **limits: Any
) -> Any:
    """A field with the two sentences the README prints about it."""
    extra: JsonDict = {"why": why, "accepted": accepted, "variable": variable}
    return Field(default, description=what, json_schema_extra=extra, **limits)


def _setting(variable: str, default: Any, what: str, why: str, **more: Any) -> Any:
    return _described(default, what, why, variable=variable, **more)


class _Table(BaseModel):
    """A table of the file: unknown keys are problems, values never show up in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TurnDetectionTable(_Table):
    """``[agents.NAME.turn_detection]``: who decides when the caller's turn is over."""

    kind: Literal["server_vad", "semantic_vad", "none"] = _described(
        "server_vad",
        "How the model notices that the caller has finished: by silence, by meaning, or not at all",
        "silence works with every voice and language, and is the fastest",
    )
    threshold: float = _described(
        0.5,
        "How loud speech must be to count (server_vad), 0 to 1",
        "the service's own default; raise it for callers in noisy places",
        ge=0,
        le=1,
    )
    prefix_padding_ms: int = _described(
        300,
        "Audio kept from before the detected start of speech (server_vad)",
        "the service's own default; less cuts off first consonants",
        ge=0,
        le=5000,
    )
    silence_duration_ms: int = _described(
        500,
        "Silence that ends the caller's turn (server_vad)",
        "documented by the service (which reports 200); shorter talks into pauses",
        ge=100,
        le=10000,
    )
    idle_timeout_ms: int | None = _described(
        None,
        "Let the model speak up after this much silence (server_vad)",
        "off: a silent caller is handled by `idle_s`",
        ge=5000,
        le=30000,
    )
    eagerness: Literal["low", "medium", "high", "auto"] = _described(
        "auto",
        "How soon to answer when the meaning seems complete (semantic_vad)",
        "the service's own default",
    )

    @model_validator(mode="after")
    def _idle_timeout_has_its_vad(self) -> Self:
        if self.idle_timeout_ms is not None and self.kind != "server_vad":
            raise ValueError('idle_timeout_ms needs kind = "server_vad"')
        return self


class TranscriptionTable(_Table):
    """``[agents.NAME.transcription]``: the caller's words as text."""

    model: str = _described(
        "", "Transcription model; empty = no transcript of the caller", "costs extra, so off"
    )
    language: str = _described(
        "",
        "Language of the caller as an ISO-639-1 code; empty = detected",
        "callers are not asked for their language",
        accepted='two letters such as "en", or empty',
        pattern=r"^([a-z]{2})?$",
    )

    @model_validator(mode="after")
    def _language_has_a_model(self) -> Self:
        if self.language and not self.model:
            raise ValueError("language needs model")
        return self


class Agent(_Table):
    """``[agents.NAME]``: whom the caller talks to."""

    name: str = Field(
        "default",
        pattern=r"^[a-z0-9_-]{1,32}$",
        json_schema_extra={"hidden": True, "accepted": "1 to 32 of a-z 0-9 _ -"},
    )
    instructions: str = _described(
        "You are the friendly voice that answers this phone. Use one or two short sentences, in "
        "the caller's language. Say numbers and addresses slowly. If you did not understand, ask.",
        "What the model is told about its part",
        "short spoken answers suit a telephone",
        max_length=32768,
    )
    greeting: str = _described(
        "Greet the caller in one short sentence and ask how you can help.",
        "What the model is asked to say first; empty = wait for the caller",
        "callers hang up on silence",
        max_length=4096,
    )
    voice: str = _described(
        "",
        "The model's voice; empty = marin, or alloy on the preview dialect",
        "each dialect has its own set of voices",
        max_length=64,
    )
    temperature: float = _described(
        0.8,
        "Sampling temperature (preview dialect only)",
        "the service's own default",
        ge=0.6,
        le=1.2,
    )
    speed: float = _described(
        1.0, "Speed of speech (GA dialect only)", "as the voice was made", ge=0.25, le=1.5
    )
    turn_detection: TurnDetectionTable = Field(default_factory=TurnDetectionTable)
    transcription: TranscriptionTable = Field(default_factory=TranscriptionTable)
    noise_reduction: Literal["", "near_field", "far_field"] = _described(
        "",
        "Noise reduction before the model listens; empty = off",
        "telephones already reduce noise, and twice sounds worse",
    )
    audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = _described(
        "pcm16",
        "Audio between gateway and model",
        "24 kHz keeps everything the model says; G.711 saves bandwidth",
    )
    max_output_tokens: int | None = _described(
        None, "Longest answer in tokens; absent = no limit", "cut answers confuse", ge=1, le=4096
    )
    allow_barge_in: bool = _described(
        default=True, what="The caller may interrupt the agent", why="people do"
    )
    can_hang_up: bool = _described(
        default=True,
        what="The agent may end the call, once its goodbye has been heard",
        why="else the caller has to wait for silence to run out",
    )
    idle_s: float = _described(
        60.0, "Hang up after this long without a word from either side", "lines cost", ge=5, le=3600
    )
    max_call_s: float = _described(
        3600.0,
        "Hang up after this long, whatever happens",
        "the longest session the model allows",
        ge=10,
        le=14400,
    )
    goodbye_s: float = _described(
        10.0,
        "Longest wait for the agent's last words when we hang up",
        "a model that talks on must not keep the line",
        ge=0,
        le=60,
    )
    tape_share: float | None = _described(
        None,
        "Share of this agent's calls that are taped, 0 to 1, where GATEWAY_TAPE_DIR is set; absent "
        "= none, for the agent named default GATEWAY_TAPE_SHARE",
        "a tape is personal data: each agent is asked for",
        ge=0,
        le=1,
    )
    numbers: tuple[str, ...] = _described(
        (),
        "Dialled numbers this agent answers",
        "the agent named default answers all others",
        max_length=1000,
    )

    @field_validator("numbers")
    @classmethod
    def _number_is_dialable(cls, numbers: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_plain_number(number) for number in numbers):
            raise ValueError('one of the numbers is empty; accepted: numbers such as "+15551234"')
        return numbers

    def changed(self, changes: Mapping[str, Any]) -> "Agent":
        """This agent with other values for one call, each of ``CALL_CHANGES``.

        Raises:
            SettingsError: a line for each value that cannot be used, with its dotted key.
        """
        unknown = [key for key in changes if key not in CALL_CHANGES]
        if unknown:
            raise SettingsError([f"{key[:32]}: cannot be changed for a call" for key in unknown])
        values = self.model_dump()
        for key, value in changes.items():
            is_table = isinstance(value, Mapping) and isinstance(values[key], dict)
            values[key] = {**values[key], **value} if is_table else value
        try:
            return Agent(**values)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        raise SettingsError([_agent_problem(detail) for detail in details])

    def session_options(self, dialect: Dialect) -> SessionOptions:
        """What to set on a session of the model for a call to this agent."""
        return SessionOptions(
            instructions=self.instructions,
            voice=self.voice or _DEFAULT_VOICE[dialect],
            temperature=self.temperature,
            speed=self.speed,
            audio=_SESSION_AUDIO[self.audio_format],
            turn_detection=self._turn_detection(),
            transcription_model=self.transcription.model,
            transcription_language=self.transcription.language,
            noise_reduction=self.noise_reduction,
            max_output_tokens=self.max_output_tokens,
            tools=(HANG_UP,) if self.can_hang_up else (),
        )

    def _turn_detection(self) -> TurnDetection:
        table = self.turn_detection.model_dump()
        return TurnDetection(**table, interrupt_response=self.allow_barge_in)


# What a call may have otherwise than its agent; nothing that costs money or lets the agent do more.
CALL_CHANGES: Final = (
    "instructions",
    "greeting",
    "voice",
    "temperature",
    "speed",
    "turn_detection",
    "transcription",
)


def _plain_number(number: str) -> str:
    return re.sub(r"[\s+().-]", "", number).lower()


class Settings(_Table):
    """Everything the gateway can be told; made by ``load_settings``."""

    # -- doors
    host: str = _setting(
        "GATEWAY_HOST",
        "0.0.0.0",  # noqa: S104 - providers call in from outside; the operator can narrow it
        "Address of the public listener (webhooks and media)",
        "providers must reach it",
        min_length=1,
    )
    port: int = _setting(
        "GATEWAY_PORT", 8080, "Port of the public listener", "needs no root", ge=0, le=65535
    )
    ops_host: str = _setting(
        "GATEWAY_OPS_HOST",
        "127.0.0.1",
        "Address of the operations listener (metrics and health)",
        "nobody outside should see it",
        min_length=1,
    )
    ops_port: int = _setting(
        "GATEWAY_OPS_PORT",
        9464,
        "Port of the operations listener",
        "the usual port of metrics exporters",
        ge=0,
        le=65535,
    )
    trusted_proxies: str = _setting(
        "GATEWAY_TRUSTED_PROXIES",
        "",
        "Reverse proxies in front of the operations listener, addresses or networks such as "
        "127.0.0.1, 10.1.0.0/16: what they say in X-Forwarded-For about who asks is believed",
        "anybody can write such a header; without a word about whom to believe it is not read",
        accepted=_PROXIES_ACCEPTED,
        max_length=4096,
    )
    public_url: str = _setting(
        "GATEWAY_PUBLIC_URL",
        "",
        "How the provider reaches the public listener, such as https://voice.example.com",
        "signatures cover it, and what a request says about its own host proves nothing",
        accepted="an https:// URL without a query",
    )
    tls_certificate: str = _setting(
        "GATEWAY_TLS_CERTIFICATE",
        "",
        "PEM file with the public listener's certificate chain; empty = plain http, ws",
        "usually a proxy in front has the certificate",
        accepted="a PEM file, or nothing",
    )
    tls_key: str = _setting(
        "GATEWAY_TLS_KEY",
        "",
        "PEM file with the key to it, without a password",
        "set both or none",
        accepted="a PEM file, or nothing",
    )
    token_key: SecretStr | None = _setting(
        "GATEWAY_TOKEN_KEY",
        None,
        "Seals the tokens of the answer webhook; the same for all gateways behind one webhook",
        "without it each start draws its own, which its workers share",
        accepted="a text of at least 32 characters",
        min_length=32,
    )
    insecure: bool = _setting(
        "GATEWAY_INSECURE",
        default=False,
        what="Take calls without any proof of who calls, and plain http to the model",
        why="only for a laptop and for tests",
    )

    # -- providers
    twilio_auth_token: SecretStr | None = _setting(
        "TWILIO_AUTH_TOKEN",
        None,
        "Twilio's auth token; two separated by a comma while it is being rotated",
        "switches Twilio on",
        accepted="one token, or two separated by a comma",
        min_length=1,
    )
    twilio_api_url: str = _setting(
        "GATEWAY_TWILIO_API_URL",
        "https://api.twilio.com",
        "Where calls are hung up over REST",
        "Twilio's own",
        accepted="an https:// URL",
    )
    asterisk_username: str = _setting(
        "GATEWAY_ASTERISK_USERNAME",
        "",
        "User name Asterisk's websocket client gives",
        "switches Asterisk on, together with the password",
        max_length=256,
    )
    asterisk_password: SecretStr | None = _setting(
        "GATEWAY_ASTERISK_PASSWORD",
        None,
        "The password to it",
        "switches Asterisk on",
        min_length=1,
    )

    # -- the model
    azure_openai_endpoint: str = _setting(
        "AZURE_OPENAI_ENDPOINT",
        "",
        "Your Azure OpenAI resource, such as https://RESOURCE.openai.azure.com",
        "set = Azure is used",
        accepted="an https:// URL; http:// for loopback addresses",
    )
    azure_openai_deployment_name: str = _setting(
        "AZURE_OPENAI_DEPLOYMENT_NAME",
        "",
        "Name of the realtime deployment in that resource",
        "yours to choose, so there is none to assume",
        max_length=256,
    )
    azure_openai_api_key: SecretStr | None = _setting(
        "AZURE_OPENAI_API_KEY",
        None,
        "Key of that resource; absent = keyless with Microsoft Entra ID",
        "keyless has no secret to lose",
        min_length=1,
    )
    openai_api_version: str = _setting(
        "OPENAI_API_VERSION",
        "",
        "Set = Azure's preview path and dialect; absent = GA",
        "the preview is deprecated since 2026-04-30",
        accepted="a version such as 2025-04-01-preview, or nothing for GA",
        pattern=r"^(\d{4}-\d{2}-\d{2}(-preview)?)?$",
    )
    openai_api_key: SecretStr | None = _setting(
        "OPENAI_API_KEY",
        None,
        "Key for OpenAI itself",
        "used when no Azure endpoint is set",
        min_length=1,
    )
    openai_base_url: str = _setting(
        "OPENAI_BASE_URL",
        "https://api.openai.com/v1",
        "Where OpenAI's API is",
        "OpenAI's own; change it for stand-ins",
        accepted="an https:// URL; http:// for loopback addresses",
    )
    realtime_model: str = _setting(
        "GATEWAY_REALTIME_MODEL",
        "gpt-realtime",
        "Model to ask OpenAI for (on Azure the deployment decides)",
        "the GA model's name",
        min_length=1,
        max_length=256,
    )
    entra_scope: str = _setting(
        "GATEWAY_ENTRA_SCOPE",
        "",
        "Scope of the Entra token; empty = the dialect's own",
        "GA and preview document different ones",
        max_length=256,
    )

    # -- limits
    workers: int = _setting(
        "GATEWAY_WORKERS",
        1,
        "Processes that take calls, all on the same ports",
        "one carries as many calls as one core can; more need a core each",
        ge=1,
        le=64,
    )
    max_calls: int = _setting(
        "GATEWAY_MAX_CALLS",
        100,
        "Calls at the same time, of all workers together; more are refused in the provider's words",
        "a careful start for one core; measure, then raise it",
        ge=1,
        le=10000,
    )
    certificate: str = _setting(
        "GATEWAY_CERTIFICATE",
        "",
        "File of gateway bench --certificate: without GATEWAY_MAX_CALLS, its calls a core times "
        "the share times the workers are the limit",
        "a measured limit is better than a careful one",
        accepted="a file that gateway bench --certificate has written",
    )
    capacity_share: float = _setting(
        "GATEWAY_CAPACITY_SHARE",
        0.7,
        "How much of the measured capacity to use",
        "calls come in bursts, and a machine has other things to do",
        ge=0.05,
        le=1,
    )
    drain_s: float = _setting(
        "GATEWAY_DRAIN_S",
        3600.0,
        "How long a stop waits for calls to end by themselves",
        "as long as the longest call",
        ge=0,
        le=86400,
    )
    start_deadline_s: float = _setting(
        "GATEWAY_START_DEADLINE_S",
        5.0,
        "A media socket must say which call it is within this time",
        "providers do so at once",
        ge=0.1,
        le=60,
    )
    connect_budget_s: float = _setting(
        "GATEWAY_CONNECT_BUDGET_S",
        5.0,
        "Time to reach the model, all attempts together, before the caller hears an apology",
        "callers hang up after more silence",
        ge=0.1,
        le=60,
    )
    mark_interval_ms: int = _setting(
        "GATEWAY_MARK_INTERVAL_MS",
        100,
        "Audio between two marks, which tell what the caller has heard",
        "precise enough for a word, cheap enough for the wire",
        ge=20,
        le=100,
    )
    send_timeout_s: float = _setting(
        "GATEWAY_SEND_TIMEOUT_S",
        5.0,
        "A peer that takes nothing for this long is gone",
        "longer than any network hiccup a call survives",
        ge=0.1,
        le=60,
    )
    heartbeat_s: float = _setting(
        "GATEWAY_HEARTBEAT_S",
        10.0,
        "Pause between pings to the provider",
        "finds a dead line before the caller has given up",
        ge=1,
        le=300,
    )
    max_message_bytes: int = _setting(
        "GATEWAY_MAX_MESSAGE_BYTES",
        65536,
        "Largest message a provider may send",
        "a hundred times what they do send",
        ge=4096,
        le=1048576,
    )

    # -- telling
    log_level: LogLevel = _setting(
        "GATEWAY_LOG_LEVEL", "info", "Least important log lines to print", "one line a call event"
    )
    log_format: LogFormat = _setting(
        "GATEWAY_LOG_FORMAT",
        "auto",
        "How log lines look; auto = console on a terminal, else json",
        "people read terminals, machines read the rest",
    )
    log_transcripts: bool = _setting(
        "GATEWAY_LOG_TRANSCRIPTS",
        default=False,
        what="Log what caller and agent say",
        why="it is personal data",
    )

    # -- pages for people
    console_token: SecretStr | None = _setting(
        "GATEWAY_CONSOLE_TOKEN",
        None,
        "Opens the pages of the operations listener to somebody who may act there, too; unset = "
        "there are none",
        "they show what callers say",
        accepted="a text of at least 32 characters",
        min_length=32,
        max_length=512,
    )
    console_view_token: SecretStr | None = _setting(
        "GATEWAY_CONSOLE_VIEW_TOKEN",
        None,
        "Opens them to somebody who may look and do nothing",
        "not everybody who sees calls should end them",
        accepted="a text of at least 32 characters, not another token of the pages",
        min_length=32,
        max_length=512,
    )
    console_listen_token: SecretStr | None = _setting(
        "GATEWAY_CONSOLE_LISTEN_TOKEN",
        None,
        "Opens them to somebody who may also listen in to calls",
        "not everybody who sees calls should hear them",
        accepted="a text of at least 32 characters, not another token of the pages",
        min_length=32,
        max_length=512,
    )
    softphone: bool = _setting(
        "GATEWAY_SOFTPHONE",
        default=False,
        what="Offer a page that talks to the agents from a browser; needs GATEWAY_CONSOLE_TOKEN",
        why="each of its calls costs what a call costs",
    )

    listen_in: bool = _setting(
        "GATEWAY_LISTEN_IN",
        default=False,
        what="Let holders of GATEWAY_CONSOLE_LISTEN_TOKEN hear calls while they are going on",
        why="callers have to be told first, and in many places to agree",
    )
    database_url: SecretStr | None = _setting(
        "GATEWAY_DATABASE_URL",
        None,
        "Where the console keeps calls that ended: sqlite:////folder/file.db, "
        "postgresql://user:password@host/name, or sqlite:// to keep none; unset = the SQLite file "
        "~/.local/state/voice-gateway/calls.db",
        "works without a database server; only with GATEWAY_CONSOLE_TOKEN",
        accepted="a URL that begins with sqlite:// or postgresql://",
        min_length=1,
    )
    calls_transcripts: bool = _setting(
        "GATEWAY_CALLS_TRANSCRIPTS",
        default=False,
        what="Keep in the database what caller and agent said, too",
        why="it is personal data",
    )
    calls_keep_days: float = _setting(
        "GATEWAY_CALLS_KEEP_DAYS",
        30.0,
        "Calls that ended longer ago are deleted from the database",
        "long enough to answer a complaint",
        gt=0,
        le=3660,
    )
    calls_keep: int = _setting(
        "GATEWAY_CALLS_KEEP",
        100_000,
        "The oldest of more calls than this are deleted from the database",
        "a few hundred megabytes",
        ge=1,
        le=10_000_000,
    )

    # -- tapes
    tape_dir: str = _setting(
        "GATEWAY_TAPE_DIR",
        "",
        "Folder for tapes, one file a call with every message of both links; empty = no tapes",
        "a tape holds both voices and what was said: personal data, so off",
        accepted="a folder that can be written to, or made",
    )
    tape_max_bytes: int = _setting(
        "GATEWAY_TAPE_MAX_BYTES",
        1_000_000_000,
        "Longest tape, not yet compressed; one that grows beyond it ends there and says so",
        "the longest call (`max_call_s`) with 24 kHz audio fits: at most 13 MB a minute",
        ge=65536,
        le=10_000_000_000,
    )
    tape_share: float = _setting(
        "GATEWAY_TAPE_SHARE",
        0.0,
        "Share of the calls of the agent named default that are taped, 0 to 1; other agents, and "
        "this one too, say it as `tape_share` in the file",
        "opt-in; which calls they are follows from the provider's call id",
        ge=0,
        le=1,
    )
    tape_mask: bool = _setting(
        "GATEWAY_TAPE_MASK",
        default=True,
        what="Hide phone numbers, all other digits in texts, and keys pressed; secrets are always "
        "hidden",
        why="card numbers are said, typed and written down by the model",
    )
    tape_announcement: str = _setting(
        "GATEWAY_TAPE_ANNOUNCEMENT",
        "",
        "WAV file of at most 30 s that a caller whose call is taped hears first; before its end "
        "nobody hears the caller and nothing is kept; empty = none",
        "in many countries the law asks for it; its words are yours",
        accepted="a WAV file, or nothing",
    )
    tape_keep_days: float = _setting(
        "GATEWAY_TAPE_KEEP_DAYS",
        30.0,
        "Tapes older than this are removed; 0 = kept",
        "personal data must not be kept for ever",
        ge=0,
        le=36500,
    )
    tape_total_bytes: int = _setting(
        "GATEWAY_TAPE_TOTAL_BYTES",
        20_000_000_000,
        "All tapes in the folder together; beyond it the oldest are removed; 0 = no limit",
        "a disk that is full stops more than tapes",
        ge=0,
    )

    prices: str = _setting(
        "GATEWAY_PRICES",
        "",
        "TOML file with the list prices of models, by date; empty = the shipped one",
        "prices change, and yours may be others",
        accepted="a file such as gateway/prices.toml",
    )

    # -- sounds
    apology_file: str = _setting(
        "GATEWAY_APOLOGY_FILE",
        "",
        "WAV file for callers who cannot be helped; empty = the shipped one",
        "works out of the box",
    )
    filler_file: str = _setting(
        "GATEWAY_FILLER_FILE",
        "",
        "WAV file for a pause that became too long; empty = the shipped one",
        "works out of the box",
    )
    goodbye_file: str = _setting(
        "GATEWAY_GOODBYE_FILE",
        "",
        "WAV file for the end of a call by us; empty = the shipped one",
        "works out of the box",
    )

    agents: dict[str, Agent] = Field(
        default_factory=lambda: {"default": Agent()}, max_length=_MAX_AGENTS
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator(
        "public_url", "twilio_api_url", "azure_openai_endpoint", "openai_base_url", mode="after"
    )
    @classmethod
    def _url(cls, value: str, info: ValidationInfo) -> str:
        url = value.strip()
        wrong = _wrong_with_url(url) if url else ""
        if wrong:
            raise ValueError(f"{wrong}; accepted: {_extra(cls, str(info.field_name))['accepted']}")
        return url

    @field_validator("database_url", mode="after")
    @classmethod
    def _is_a_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_database(value.get_secret_value()):
            raise ValueError(f"accepted: {_extra(cls, 'database_url')['accepted']}")
        return value

    @field_validator("certificate", mode="after")
    @classmethod
    def _is_a_certificate(cls, value: str) -> str:
        if value:
            read_certificate(value)
        return value

    @field_validator("prices", mode="after")
    @classmethod
    def _are_prices(cls, value: str) -> str:
        if value:
            read_prices(value)
        return value

    @field_validator("public_url", mode="after")
    @classmethod
    def _base_url(cls, value: str) -> str:
        if urlsplit(value).query or urlsplit(value).fragment:
            raise ValueError("has a query or fragment; accepted: an https:// URL without them")
        return value.rstrip("/")

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _proxies_are_some(cls, value: str) -> str:
        try:
            networks = _networks(value)
        except ValueError:
            raise ValueError(f"accepted: {_PROXIES_ACCEPTED}") from None
        if any(network.prefixlen == 0 for network in networks):
            raise ValueError("trusts everybody, so that anybody could be anybody; name fewer")
        return value

    @field_validator("twilio_auth_token", mode="after")
    @classmethod
    def _at_most_two_tokens(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(_split(value)) not in range(1, _MAX_TWILIO_TOKENS + 1):
            raise ValueError("accepted: one token, or two separated by a comma")
        return value

    @field_validator("agents", mode="before")
    @classmethod
    def _agents_know_their_names(cls, tables: Any) -> Any:
        if not isinstance(tables, Mapping):
            return tables
        return {key: _with_name(key, table) for key, table in tables.items()}

    @field_validator("agents", mode="after")
    @classmethod
    def _somebody_answers(cls, agents: dict[str, Agent]) -> dict[str, Agent]:
        if any(agent.name != key for key, agent in agents.items()):
            raise ValueError("name is not a setting; accepted: the name in [agents.NAME]")
        return {"default": Agent()} | agents

    # -- what follows from the fields

    @property
    def uses_azure(self) -> bool:
        """Whether the model is reached at Azure; an Azure endpoint wins over an OpenAI key."""
        return bool(self.azure_openai_endpoint)

    @property
    def dialect(self) -> Dialect:
        """The Realtime API's dialect; only Azure still has a preview."""
        return "preview" if self.uses_azure and self.openai_api_version else "ga"

    @property
    def model_name(self) -> str:
        """What the model is called in the settings; a deployment may be called anything."""
        return self.azure_openai_deployment_name if self.uses_azure else self.realtime_model

    @property
    def credential(self) -> Credential:
        """How we prove to the model who we are."""
        return "entra" if self.uses_azure and self.azure_openai_api_key is None else "key"

    @property
    def credential_reason(self) -> str:
        """Why this credential, in words for ``gateway check``."""
        if not self.uses_azure:
            return "key: AZURE_OPENAI_ENDPOINT is not set, so OPENAI_API_KEY is used"
        if self.credential == "key":
            return "key: AZURE_OPENAI_API_KEY is set"
        return "keyless with Microsoft Entra ID: AZURE_OPENAI_API_KEY is not set"

    @property
    def token_scope(self) -> str:
        """The scope to ask Microsoft Entra ID for."""
        return self.entra_scope or _ENTRA_SCOPE[self.dialect]

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The reverse proxies whose word about who asks is taken; an address is a small network."""
        return _networks(self.trusted_proxies)

    @property
    def twilio_auth_tokens(self) -> tuple[str, ...]:
        """The live Twilio tokens in the clear, none to two."""
        return _split(self.twilio_auth_token) if self.twilio_auth_token else ()

    @property
    def console_tokens(self) -> dict[Role, str]:
        """The token of each role of the pages in the clear; {} = no pages."""
        if self.console_token is None:
            return {}
        given = ((role, getattr(self, field)) for role, field in _TOKEN_OF.items())
        return {role: token.get_secret_value() for role, token in given if token is not None}

    @property
    def token_key_bytes(self) -> bytes | None:
        """The key that seals tokens; None = draw one."""
        if self.token_key is None:
            return None
        return hashlib.sha256(self.token_key.get_secret_value().encode()).digest()

    @cached_property
    def _measured(self) -> Certificate | None:
        """The certificate that sets the limit; None when a setting does."""
        is_used = bool(self.certificate) and "max_calls" not in self.model_fields_set
        return read_certificate(self.certificate) if is_used else None

    @property
    def call_limit(self) -> int:
        """Calls at the same time, of all workers together."""
        if self._measured is None:
            return self.max_calls
        carried = self._measured.calls_per_core * self.capacity_share * self.workers
        # 0.7 of 10 is 7, not the 6.999... that binary fractions make of it.
        return max(1, math.floor(round(carried, 6)))

    @property
    def call_limit_reason(self) -> str:
        """Where the limit comes from, in words for ``gateway check``."""
        if self._measured is not None:
            core, share = self._measured.calls_per_core, self.capacity_share
            return f"GATEWAY_CERTIFICATE: {core:g} a core x {share:g} x {self.workers} workers"
        is_given = "max_calls" in self.model_fields_set
        return "GATEWAY_MAX_CALLS is set" if is_given else "the default: nothing was measured"

    def for_worker(self) -> dict[str, Any]:
        """What ``Settings(**values)`` makes these settings of again; plain values, no reading.

        Secrets are in the clear: for a pipe between two processes of ours, nothing else.
        """
        values = self.model_dump(mode="json", exclude={"certificate"})
        secrets = {key: value for key, value in self if isinstance(value, SecretStr)}
        clear = {key: value.get_secret_value() for key, value in secrets.items()}
        return values | clear | {"max_calls": self.call_limit}

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Every secret in the clear, for the log's redaction."""
        secrets = (value for _, value in self if isinstance(value, SecretStr))
        spellings = chain.from_iterable(map(_spellings, secrets))
        password = urlsplit(self._database_text).password or ""
        return tuple(dict.fromkeys(chain(spellings, filter(None, (password, unquote(password))))))

    @property
    def _database_text(self) -> str:
        return self.database_url.get_secret_value() if self.database_url else ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, but probably not meant."""
        return tuple(text for is_so, text in self._doubts() if is_so)

    def _doubts(self) -> Iterator[tuple[bool, str]]:
        has_azure_key = self.azure_openai_api_key is not None
        yield (
            self.uses_azure and has_azure_key,
            "AZURE_OPENAI_API_KEY is set, so keyless Microsoft Entra ID is not used",
        )
        yield (
            self.uses_azure and self.openai_api_key is not None,
            "OPENAI_API_KEY is not used: AZURE_OPENAI_ENDPOINT is set, and Azure comes first",
        )
        yield (
            not self.uses_azure and has_azure_key,
            "AZURE_OPENAI_API_KEY is not used: AZURE_OPENAI_ENDPOINT is not set",
        )
        yield (
            not self.uses_azure and bool(self.openai_api_version),
            "OPENAI_API_VERSION is not used: OpenAI has the GA dialect only",
        )
        yield (
            self.dialect == "preview",
            "OPENAI_API_VERSION selects the deprecated preview dialect; unset it for GA",
        )
        if self._measured is not None:
            yield from _certificate_doubts(self._measured)
        yield (
            bool(self.tape_dir) and not self.taped_agents,
            (
                "GATEWAY_TAPE_DIR is set, but no agent is taped: set GATEWAY_TAPE_SHARE, or "
                "tape_share in [agents.NAME]"
            ),
        )
        yield (
            not self.tape_dir and bool(self.taped_agents),
            "tapes are asked for, but GATEWAY_TAPE_DIR is not set, so there are none",
        )
        yield self.insecure, "GATEWAY_INSECURE is on: anybody who reaches the port can call"

    def tape_share_of(self, agent: Agent) -> float:
        """The share of an agent's calls that are taped, where tapes are on."""
        if agent.tape_share is not None:
            return agent.tape_share
        return self.tape_share if agent.name == "default" else 0.0

    @property
    def taped_agents(self) -> tuple[str, ...]:
        """The agents of whose calls some are taped."""
        return tuple(agent.name for agent in self.agents.values() if self.tape_share_of(agent))

    def is_taped(self, agent: Agent, provider_call_id: str) -> bool:
        """Whether this call is; the same answer for the same call at any time, in any process."""
        digest = hashlib.sha256(provider_call_id.encode()).digest()
        drawn = int.from_bytes(digest[:8]) / 2**64
        return bool(self.tape_dir) and drawn < self.tape_share_of(agent)

    def agent_for(self, number: str) -> Agent:
        """The agent for a dialled number: its own one, else the one named default."""
        return self._agents_by_number.get(_plain_number(number), self.agents["default"])

    @cached_property
    def _agents_by_number(self) -> Mapping[str, Agent]:
        """Made once: going through 49,000 numbers took 55 ms, in which no call got its audio."""
        return {
            _plain_number(number): agent
            for agent in reversed(self.agents.values())
            for number in agent.numbers
        }

    def problems_for_serving(self) -> list[str]:
        """What keeps ``gateway serve`` from taking calls; the other commands do not mind.

        Returns:
            One line for each problem, as in ``SettingsError``; [] when calls can be taken.
        """
        rules = chain(
            _door_problems(self),
            _port_problems(self),
            _tls_problems(self),
            _sound_problems(self),
            _tape_problems(self),
        )
        return [f"{_variable(field)}: {problem}" for field, problem in rules]


def _with_name(key: str, table: Any) -> Any:
    return {**table, "name": key} if isinstance(table, Mapping) and "name" not in table else table


def _split(secret: SecretStr) -> tuple[str, ...]:
    parts = (part.strip() for part in secret.get_secret_value().split(","))
    return tuple(part for part in parts if part)


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    parts = filter(None, (part.strip() for part in text.split(",")))
    return tuple(_unmapped(ipaddress.ip_network(part)) for part in parts)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """``::ffff:10.1.0.0/112`` is 10.1.0.0/16: who asks is looked up by the older address."""
    address = getattr(network.network_address, "ipv4_mapped", None)
    if address is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((address, network.prefixlen - _MAPPED_BITS))


def _spellings(secret: SecretStr) -> tuple[str, ...]:
    return (secret.get_secret_value(), *_split(secret))


def _is_database(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return _DATABASES.match(url) is not None


def _extra(model: type[BaseModel], field: str) -> dict[str, Any]:
    extra = model.model_fields[field].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _variable(field: str) -> str:
    return str(_extra(Settings, field)["variable"])


def _variables() -> dict[str, str]:
    return {_variable(field): field for field in Settings.model_fields if field != "agents"}


# ------------------------------------------------------------- rules over several fields

_Problem = tuple[str, str]


def _wrong_with_url(url: str) -> str:
    """What is wrong with a URL taken alone, "" when nothing is."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "not a URL"
    if parts.scheme not in _URL_SCHEMES:
        return "the URL's scheme is missing or unknown"
    if parts.username is not None or parts.password is not None:
        return "the URL must not contain a user name or password"
    return "" if is_usable else "the URL has no host"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_problems(settings: Settings) -> Iterator[_Problem]:
    """Secrets and speech travel over these: plain text stays on this machine."""
    for field in ("public_url", "twilio_api_url", "azure_openai_endpoint", "openai_base_url"):
        url = getattr(settings, field)
        if urlsplit(url).scheme in _PLAIN_SCHEMES and not (settings.insecure or _is_loopback(url)):
            yield (
                field,
                (
                    "not encrypted; accepted: https:// (http:// for loopback addresses, or "
                    "anywhere with GATEWAY_INSECURE=1)"
                ),
            )


def _model_problems(settings: Settings) -> Iterator[_Problem]:
    """Exactly one way to the model must be complete."""
    if settings.uses_azure and not settings.azure_openai_deployment_name:
        yield (
            "azure_openai_deployment_name",
            "not set, but AZURE_OPENAI_ENDPOINT is; set it to the name of your realtime deployment",
        )
    if not settings.uses_azure and settings.openai_api_key is None:
        yield (
            "azure_openai_endpoint",
            (
                "not set, nor is OPENAI_API_KEY; set it to https://RESOURCE.openai.azure.com for "
                "Azure, or set OPENAI_API_KEY for OpenAI"
            ),
        )


def _asterisk_problems(settings: Settings) -> Iterator[_Problem]:
    has_password = settings.asterisk_password is not None
    if bool(settings.asterisk_username) != has_password:
        missing = "asterisk_username" if has_password else "asterisk_password"
        yield missing, "not set, but its partner is; set both or none"


def _agent_problems(settings: Settings) -> Iterator[_Problem]:
    """Every agent can be reached, and every number reaches one agent."""
    owners: dict[str, str] = {}
    for agent in settings.agents.values():
        if agent.name != "default" and not agent.numbers:
            yield (
                f"agents.{agent.name}.numbers",
                'empty, so no call comes here; accepted: a list such as ["+15551234"]',
            )
        for number in dict.fromkeys(map(_plain_number, agent.numbers)):
            if owners.setdefault(number, agent.name) != agent.name:
                yield (
                    f"agents.{agent.name}.numbers",
                    f"one is also in agents.{owners[number]}.numbers; accepted: each once",
                )


def _door_problems(settings: Settings) -> Iterator[_Problem]:
    """Fail closed: somebody must be able to prove who calls."""
    if settings.insecure:
        return
    if not settings.twilio_auth_token and not settings.asterisk_password:
        yield (
            "twilio_auth_token",
            (
                "not set, nor are GATEWAY_ASTERISK_USERNAME and GATEWAY_ASTERISK_PASSWORD, so no "
                "call could prove where it comes from; set one of them (or GATEWAY_INSECURE=1 for "
                "a test)"
            ),
        )
    if settings.twilio_auth_token and not settings.public_url:
        yield (
            "public_url",
            (
                "not set, but TWILIO_AUTH_TOKEN is; set it to the https:// URL Twilio calls, "
                "without the path"
            ),
        )


def _console_problems(settings: Settings) -> Iterator[_Problem]:
    """Pages without a login there are none."""
    if settings.console_token is None:
        for field in ("console_view_token", "console_listen_token", "softphone", "listen_in"):
            if getattr(settings, field):
                yield field, "set, but GATEWAY_CONSOLE_TOKEN is not; set that too"
    elif settings.listen_in and settings.console_listen_token is None:
        yield "listen_in", "set, but GATEWAY_CONSOLE_LISTEN_TOKEN is not; set that too"


def _token_problems(settings: Settings) -> Iterator[_Problem]:
    """Each token of the pages has one role."""
    owners: dict[SecretStr, str] = {}
    for field in ("console_token", "console_view_token", "console_listen_token"):
        token = getattr(settings, field)
        if token is not None and owners.setdefault(token, field) != field:
            yield field, f"the same as {_variable(owners[token])}; accepted: another text"


def _port_problems(settings: Settings) -> Iterator[_Problem]:
    if settings.port == settings.ops_port != 0:
        yield "ops_port", "the same as GATEWAY_PORT; accepted: any other port"


def _tls_problems(settings: Settings) -> Iterator[_Problem]:
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        missing = "tls_key" if settings.tls_certificate else "tls_certificate"
        yield missing, "not set, but its partner is; set both or none"
    for field in ("tls_certificate", "tls_key"):
        path = getattr(settings, field)
        if path and not Path(path).is_file():
            yield field, "no such file; accepted: a PEM file, or nothing"


def _certificate_doubts(measured: Certificate) -> Iterator[tuple[bool, str]]:
    """A figure holds for the machine and the code it was measured with."""
    yield (
        bool(measured.cpu) and measured.cpu != cpu_model(),
        "GATEWAY_CERTIFICATE was measured on another model of processor; measure again here",
    )
    yield (
        measured.gateway.split(".")[:2] != __version__.split(".")[:2],
        "GATEWAY_CERTIFICATE was measured with another version of the gateway; measure again",
    )


def _sound_problems(settings: Settings) -> Iterator[_Problem]:
    for field in ("apology_file", "filler_file", "goodbye_file", "tape_announcement"):
        path = getattr(settings, field)
        if path and not Path(path).is_file():
            instead = "" if field == "tape_announcement" else " for the shipped one"
            yield field, f"no such file; accepted: a WAV file, or nothing{instead}"


def _tape_problems(settings: Settings) -> Iterator[_Problem]:
    """The folder is made and tried here: a call's end is too late to learn of it."""
    if not settings.tape_dir:
        return
    try:
        Path(settings.tape_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.tape_dir):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        yield "tape_dir", f"{why}; accepted: a folder that can be written to, or made"


_RULES: tuple[Callable[[Settings], Iterator[_Problem]], ...] = (
    _url_problems,
    _model_problems,
    _asterisk_problems,
    _agent_problems,
    _console_problems,
    _token_problems,
)

# ------------------------------------------------------------- reading


def load_settings(
    environ: Mapping[str, str],
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    is_for_serving: bool = False,
) -> Settings:
    """Read every setting once.

    Args:
        environ: the environment, usually ``os.environ``. An empty variable counts as unset.
        config: the TOML file; without it ``GATEWAY_CONFIG`` says which, and without that there is
            none. Its keys are the field names of ``Settings``.
        overrides: values from the command line by field name; None means not given.
        is_for_serving: report what keeps calls from being taken as well.

    Raises:
        SettingsError: at least one setting cannot be used; ``problems`` has a line for each.
    """
    path = config or (Path(environ["GATEWAY_CONFIG"]) if environ.get("GATEWAY_CONFIG") else None)
    file, file_problems = _read_file(path) if path else ({}, [])
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    layers = _Layers(file, _read_environ(environ), given, path.name if path else "")
    settings, problems = _validate(layers)
    if is_for_serving:
        named = {problem.partition(":")[0] for problem in problems}
        more = settings.problems_for_serving()
        problems += [problem for problem in more if problem.partition(":")[0] not in named]
    if all_problems := [*file_problems, *_unknown_variables(environ), *problems]:
        raise SettingsError(all_problems)
    return settings


class _Layers(NamedTuple):
    """Where values came from, weakest first; all by field name."""

    file: dict[str, Any]
    environ: dict[str, Any]
    overrides: dict[str, Any]
    file_name: str

    def merged(self) -> dict[str, Any]:
        return self.file | self.environ | self.overrides

    def name(self, loc: tuple[int | str, ...]) -> str:
        """What the operator typed to set this value."""
        field = str(loc[0])
        if field == "agents" or len(loc) > 1:
            return ".".join(str(part) for part in loc)
        if field in self.overrides:
            return "--" + field.replace("_", "-")
        if field in self.file and field not in self.environ:
            return f"{field} in {self.file_name}"
        return _variable(field)


def _read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1).decode()
        if len(text) > _MAX_FILE_BYTES:
            return {}, [f"GATEWAY_CONFIG: {path} is larger than 1 MiB; accepted: a TOML file"]
        return tomllib.loads(text), []
    except OSError as error:
        return {}, [f"GATEWAY_CONFIG: {path} cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        return {}, [f"GATEWAY_CONFIG: {path} is not UTF-8 text; accepted: a TOML file"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return {}, [f"GATEWAY_CONFIG: {path} is not a TOML file: {_place(error)}"]


def _place(error: Exception) -> str:
    """Where a TOML file is broken; the parser's own words may quote a secret."""
    place = re.search(r"\(at .*\)$", str(error))
    return place.group()[1:-1] if place else "it cannot be parsed"


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ[name].strip() for name in _variables() if name in environ}
    return {_variables()[name]: value for name, value in given.items() if value}


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {*_variables(), "GATEWAY_CONFIG"}
    # GATEWAY_TEST* steers the test suite, which starts real gateways.
    ours = (n for n in environ if n.startswith("GATEWAY_") and not n.startswith("GATEWAY_TEST"))
    return [
        f"{name}: unknown setting{_service_link(name) or _did_you_mean(name, known)}"
        for name in sorted(set(ours) - known)
    ]


def _service_link(name: str) -> str:
    """Kubernetes gives every pod such variables for a service that is called gateway."""
    is_link = re.fullmatch(r"GATEWAY_(SERVICE_(HOST|PORT.*)|PORT_\d+_(TCP|UDP).*)", name)
    return "; a Kubernetes service link? Set enableServiceLinks: false" if is_link else ""


def _did_you_mean(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _validate(layers: _Layers) -> tuple[Settings, list[str]]:
    """Settings made of what is usable, with the problems of the rest."""
    values = layers.merged()
    try:
        return _checked(Settings(**values), set(), [])
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    problems = [_problem(layers, detail) for detail in details]
    bad = {str(detail["loc"][0]) for detail in details}
    usable = {key: value for key, value in values.items() if key not in bad}
    return _checked(Settings(**usable), bad, problems)


def _checked(settings: Settings, bad: set[str], problems: list[str]) -> tuple[Settings, list[str]]:
    """Adds the problems of rules over several fields, save those that follow from bad fields."""
    found = chain.from_iterable(rule(settings) for rule in _RULES)
    lines = [f"{_display(field)}: {text}" for field, text in found if field not in bad]
    return settings, [*problems, *lines]


def _display(field: str) -> str:
    return _variable(field) if field in Settings.model_fields else field


_WRONG: Mapping[str, str] = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "int_parsing_size": "too large",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "finite_number": "not a finite number",
    "bool_parsing": "neither yes nor no",
    "bool_type": "neither yes nor no",
    "literal_error": "not an accepted word",
    "greater_than_equal": "too small",
    "less_than_equal": "too large",
    "string_type": "not a text",
    "string_too_short": "too short",
    "string_too_long": "too long",
    "string_pattern_mismatch": "not of the accepted form",
    "tuple_type": "not a list",
    "too_long": "too many",
    "dict_type": "not a table",
    "model_type": "not a table",
}


def _problem(layers: _Layers, detail: ErrorDetails) -> str:
    loc = detail["loc"]
    if detail["type"] == "extra_forbidden":
        return _unknown_key(layers, loc)
    if detail["type"] == "value_error":
        return f"{layers.name(loc)}: {detail['ctx']['error']}"
    wrong = _WRONG.get(detail["type"], "not usable")
    return f"{layers.name(loc)}: {wrong}; accepted: {_accepted(_node(loc))}{_hint(layers, loc)}"


def _agent_problem(detail: ErrorDetails) -> str:
    """As ``_problem``, for one agent alone."""
    prefix = ("agents", "default")
    whole: ErrorDetails = {**detail, "loc": (*prefix, *detail["loc"])}
    return _problem(_Layers({}, {}, {}, ""), whole).removeprefix(".".join(prefix) + ".")


def _hint(layers: _Layers, loc: tuple[int | str, ...]) -> str:
    value = layers.environ.get(str(loc[0]))
    is_link = isinstance(value, str) and value.startswith("tcp://")
    return " (a Kubernetes service link? Set enableServiceLinks: false)" if is_link else ""


def _unknown_key(layers: _Layers, loc: tuple[int | str, ...]) -> str:
    key = str(loc[-1]).lower().removeprefix("gateway_")
    where = f" in {layers.file_name}" if layers.file_name else ""
    return f"{'.'.join(map(str, loc))}: unknown setting{where}{_did_you_mean(key, _siblings(loc))}"


def _siblings(loc: tuple[int | str, ...]) -> set[str]:
    properties = _node(loc[:-1]).get("properties", {})
    return {key for key, node in properties.items() if not node.get("hidden")}


def _node(loc: tuple[int | str, ...]) -> dict[str, Any]:
    """The JSON schema of a setting, which knows its limits."""
    root = Settings.model_json_schema()
    node: dict[str, Any] = root
    for part in loc:
        node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        node = _resolved(node if isinstance(node, dict) else {}, root["$defs"])
    return node


def _resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    node = {**next(iter(node.get("anyOf", [])), {}), **node}
    reference = node.get("$ref", "").rpartition("/")[2]
    return {**definitions[reference], **node} if reference else node


_ACCEPTED: Mapping[str, str] = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "1 or 0, true or false, yes or no, on or off",
    "string": "a text",
    "array": "a list of texts",
    "object": "a table",
}


def _accepted(node: dict[str, Any]) -> str:
    if node.get("accepted"):
        return str(node["accepted"])
    if "enum" in node:
        return "one of " + ", ".join(str(word) or '""' for word in node["enum"])
    return _ACCEPTED.get(node.get("type", ""), "another value") + _range(node)


def _range(node: dict[str, Any]) -> str:
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in node or high in node:
            lowest, highest = node.get(low, 0), node.get(high)
            return f" from {lowest} to {highest}{unit}" if highest else f", at least {lowest}{unit}"
    return ""


# ------------------------------------------------------------- tables for people


def settings_table() -> list[SettingRow]:
    """Every variable with its default and meaning, in the order of the fields."""
    fields = (name for name in Settings.model_fields if name != "agents")
    return [_row(Settings, name, _variable(name)) for name in fields]


def roles_table() -> list[tuple[str, str, str]]:
    """Each role of the pages with the variable of its token and what it may, from least to most."""
    return [(role, _variable(_TOKEN_OF[role]), may) for role, may in LADDER.items()]


def agent_table() -> list[SettingRow]:
    """Every key of ``[agents.NAME]`` with its default and meaning; inner tables are dotted."""
    return list(_agent_rows(Agent, ""))


def _agent_rows(model: type[BaseModel], prefix: str) -> Iterator[SettingRow]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Table):
            yield from _agent_rows(kind, f"{prefix}{name}.")
        elif not _extra(model, name).get("hidden"):
            yield _row(model, name, prefix + name)


def _row(model: type[BaseModel], field: str, name: str) -> SettingRow:
    info = model.model_fields[field]
    why = _extra(model, field)["why"]
    return SettingRow(name, _shown(info.default), f"{info.description}. Why: {why}.")


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return (
        ""
        if default in (None, "", ())
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )
