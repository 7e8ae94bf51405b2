"""The line to the model: where it is, and how it is opened."""

import asyncio
import logging
import re
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote, unquote_plus, urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import (
    InvalidHeaderValue,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.frames import DATA_OPCODES, Close, CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import Event, State

from gateway import __version__
from gateway.errors import ConnectError, SettingsError, TokenError
from gateway.frames import client_frame, masks
from gateway.realtime import Dialect, Link, Listener
from gateway.realtime.auth import ApiKey, Auth, EntraToken, RefreshResult
from gateway.settings import Settings

# One delta of a long answer is tens of kB; an append may be 15 MiB, so may what comes back of it.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Messages kept while nobody listens, before the socket stops reading.
MAX_KEPT_MESSAGES = 64
# Parts of one message, as websockets bounds them where it joins them itself.
MAX_FRAGMENTS = 4096
# What OpenAI's own clients rely on; the service sends no pings itself.
PING_S = 20.0
# A close is answered within one round trip, or never.
CLOSE_TIMEOUT_S = 0.5
NO_CLOSE_CODE = 1006
LONGEST_RETRY_AFTER_S = 3600.0

_SCHEMES = {"https": "wss", "wss": "wss", "http": "ws", "ws": "ws"}
_CLOSE_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame carries 125, two of them the code
_DETAIL_CHARS = 240
_BODY_BYTES = 4096
_SERVER_ERROR = 500
_SECRET_CHARS = 8
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_LABELLED = frozenset({400, 401, 403, 404, 429})

# ------------------------------------------------------------- where


def _query(raw: str, unwanted: frozenset[str], wanted: Mapping[str, str]) -> str:
    """The query as given, without ``unwanted``, with what of ``wanted`` it lacks."""
    given = [(unquote_plus(part.partition("=")[0]), part) for part in raw.split("&") if part]
    names = {name for name, _ in given}
    kept = [part for name, part in given if name not in unwanted]
    lacking = [(name, value) for name, value in wanted.items() if name not in names]
    return "&".join([*kept, *(f"{name}={quote(value, safe='')}" for name, value in lacking)])


def _path(path: str, ending: str) -> str:
    """The full path behind an endpoint given bare, to /openai, to /openai/v1 or in full."""
    path = path.rstrip("/")
    known = ("/openai/v1/realtime", "/openai/realtime", "/openai/v1", "/openai")
    cut = next((suffix for suffix in known if path.endswith(suffix)), "")
    if not cut and path.endswith("/realtime"):
        return path  # a path of its own, such as Voice Live's /voice-live/realtime
    return path.removesuffix(cut) + ending


def _join(url: str, path: str, query: str) -> str:
    parts = urlsplit(url)
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}?{query}"


def _checked(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise SettingsError(["the model's URL needs https:// (or wss, http, ws) and a host name"])
    return url.strip()


def realtime_url(endpoint: str, deployment: str, api_version: str = "") -> str:
    """The WebSocket URL of a deployment at Azure.

    Args:
        endpoint: the resource's URL, bare, or with /openai, /openai/v1 or the whole path; what
            its query holds is kept. ``http`` means ``ws``, for stand-ins.
        deployment: its name, any characters.
        api_version: set = the preview path and dialect; "" = GA.

    Raises:
        SettingsError: ``endpoint`` is no URL.

    Source: Microsoft Learn, "GPT Realtime API via WebSockets" (2026-01-29): GA takes ``model=`` and
    answers 401 when ``api-version`` is left in; the preview takes ``api-version`` and
    ``deployment``.
    """
    parts = urlsplit(_checked(endpoint))
    if not api_version:
        path = _path(parts.path, "/openai/v1/realtime")
        unwanted = frozenset({"api-version", "deployment"})
        return _join(endpoint.strip(), path, _query(parts.query, unwanted, {"model": deployment}))
    path = _path(parts.path, "/openai/realtime")
    # Voice Live speaks the preview dialect too, but names a model.
    name = "deployment" if path.endswith("/openai/realtime") else "model"
    wanted = {"api-version": api_version, name: deployment}
    return _join(endpoint.strip(), path, _query(parts.query, frozenset(), wanted))


def openai_url(base_url: str, model: str) -> str:
    """The WebSocket URL of a model at OpenAI, from a base URL such as https://api.openai.com/v1.

    Raises:
        SettingsError: ``base_url`` is no URL.
    """
    parts = urlsplit(_checked(base_url))
    path = parts.path.rstrip("/") or "/v1"
    if not path.endswith("/realtime"):
        path += "/realtime"
    return _join(base_url.strip(), path, _query(parts.query, frozenset(), {"model": model}))


@dataclass(frozen=True)
class Target:
    """Whom to dial: made once for a process, dialled once for a call.

    ``tls`` is used for wss:// only. It is made once, because reading the system's certificates
    takes tens of milliseconds in which no call would get its audio.
    """

    url: str = field(repr=False)  # its query may hold a key
    dialect: Dialect
    auth: Auth
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context, repr=False)


def target_from(settings: Settings, auth: Auth | None = None) -> Target:
    """The target the settings describe, with ``auth`` in place of theirs where given.

    Raises:
        SettingsError: a URL or key is missing.
    """
    if settings.uses_azure:
        url = realtime_url(
            settings.azure_openai_endpoint,
            settings.azure_openai_deployment_name,
            settings.openai_api_version,
        )
    else:
        url = openai_url(settings.openai_base_url, settings.realtime_model)
    return Target(url, settings.dialect, auth or auth_from(settings))


def auth_from(
    settings: Settings, on_refresh: Callable[[RefreshResult], None] | None = None
) -> Auth:
    """A key where the settings have one, else Microsoft Entra ID; ``on_refresh`` as there.

    Raises:
        SettingsError: neither is possible.
    """
    if settings.credential == "entra":
        if on_refresh is None:
            return EntraToken(settings.token_scope)
        return EntraToken(settings.token_scope, on_refresh=on_refresh)
    key = settings.azure_openai_api_key if settings.uses_azure else settings.openai_api_key
    if key is None:
        raise SettingsError(["OPENAI_API_KEY: not set, nor is AZURE_OPENAI_ENDPOINT"])
    return ApiKey(key.get_secret_value(), is_bearer=not settings.uses_azure)


# ------------------------------------------------------------- what can go wrong


class _ErrorBody(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Refusal(msgspec.Struct):
    error: _ErrorBody


def _retry_after_s(response: Response, now_s: float) -> float:
    """Seconds to wait as the server says: RFC 9110, 10.2.3, or Azure's ``retry-after-ms``."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        for value in response.headers.get_all(name):
            wait_s = _wait_s(value, unit_s, now_s)
            if wait_s is not None:
                return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)
    return 0.0


def _wait_s(value: str, unit_s: float, now_s: float) -> float | None:
    if _SECONDS.fullmatch(value.strip()):
        return float(value) * unit_s
    try:
        return parsedate_to_datetime(value).timestamp() - now_s
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _words(body: bytes) -> str:
    """What the body of a refusal says, on one line."""
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
        text = ": ".join(filter(None, (error.code, error.message)))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        text = body.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _without(secrets: list[str], text: str) -> str:
    for secret in secrets:
        # A stand-in's key of a letter or two is no secret, and would blot out half the words.
        if len(secret) >= _SECRET_CHARS:
            text = text.replace(secret, "***")
    return text[:_DETAIL_CHARS]


def _http_error(response: Response, now_s: float, *, can_refresh: bool) -> ConnectError:
    """A refusal in HTTP; retrying helps for 429, 5xx and, with a fresh token, once for 401."""
    status = response.status_code
    # Labels are a closed set: a redirect or a 418 is a refusal of the request as it was made.
    result = str(status) if status in _LABELLED else "5xx" if status >= _SERVER_ERROR else "400"
    return ConnectError(
        result,
        f"HTTP {status}: {_words(bytes(response.body or b'')[:_BODY_BYTES])}",
        can_retry=result in {"429", "5xx"} or (result == "401" and can_refresh),
        retry_after_s=_retry_after_s(response, now_s),
    )


def _connect_error(error: Exception) -> ConnectError:
    """A refusal below or beside HTTP."""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, InvalidHeaderValue):
        # Its own words quote the header's value, which may be the key.
        return ConnectError("refused", f"{type(error).__name__}: {error.name}")
    if isinstance(error, TimeoutError):
        return ConnectError("timeout", "no answer in time", can_retry=True)
    if isinstance(error, socket.gaierror):
        return ConnectError("dns", detail, can_retry=True)
    if isinstance(error, ssl.SSLError):
        return ConnectError("tls", detail)
    # InvalidMessage: the line was cut in the middle of the handshake.
    return ConnectError("refused", detail, can_retry=isinstance(error, OSError | InvalidMessage))


# ------------------------------------------------------------- the line


class _Connect(connect):
    """No redirects: websockets would drop Authorization on the way, but hand on ``api-key``."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Socket(ClientConnection):
    """A connection that hands messages over as they are read: no queue, no task between."""

    def __init__(self, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._listener: Listener | None = None
        self._kept: list[bytes] = []
        self._fragments: list[bytes] = []
        self._is_gone = False
        self.is_clogged = False

    def process_event(self, event: Event) -> None:
        """Take data frames out of websockets' way; the rest is its own."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._fragments.append(bytes(event.data))
            if event.fin:
                self._came(b"".join(self._fragments))
                self._fragments.clear()
            elif len(self._fragments) == MAX_FRAGMENTS:
                self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
                self.send_data()
        else:
            super().process_event(event)

    def _came(self, message: bytes) -> None:
        if self._listener is not None:
            # Text stays bytes: the JSON decoder wants them, and checks the UTF-8 itself.
            self._listener.message_came(message)
            return
        self._kept.append(message)
        if len(self._kept) >= MAX_KEPT_MESSAGES:
            self.transport.pause_reading()

    def listen(self, listener: Listener) -> None:
        """Tell this listener from now on, beginning with what was kept."""
        self._listener = listener
        kept, self._kept = self._kept, []
        for message in kept:
            listener.message_came(message)
        if self._is_gone:
            self._listener = None
            listener.link_closed()
        elif len(kept) >= MAX_KEPT_MESSAGES:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The peer is slow."""
        super().pause_writing()
        self.is_clogged = True

    def resume_writing(self) -> None:
        """The peer has taken what waited."""
        super().resume_writing()
        self.is_clogged = False
        if self._listener is not None:
            self._listener.link_freed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        super().connection_lost(exc)
        self._is_gone = True
        # Kept no longer than it is told: it points at a call, which points here.
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.link_closed()


class _SocketLink:
    """A ``gateway.realtime.Link`` over one open socket."""

    def __init__(self, socket: _Socket) -> None:
        self._socket = socket
        self._masks = masks()
        self.listen = socket.listen

    @property
    def _close(self) -> Close | None:
        # What we sent counts where nothing came back: 1009 too big, 1011 no pong.
        protocol = self._socket.protocol
        return protocol.close_rcvd or protocol.close_sent

    @property
    def close_code(self) -> int:
        return self._close.code if self._close else NO_CLOSE_CODE

    @property
    def close_reason(self) -> str:
        return self._close.reason if self._close else ""

    @property
    def is_clogged(self) -> bool:
        return self._socket.is_clogged

    def send(self, *messages: str | bytes) -> None:
        socket = self._socket
        if socket.protocol.state is not State.OPEN:
            raise ConnectionResetError("the line to the model is closed")
        for message in messages:
            text = message.encode() if isinstance(message, str) else message
            socket.transport.write(client_frame(text, next(self._masks)))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        shortened = reason.encode()[:_CLOSE_REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close(code, shortened)
        except TimeoutError:
            # Whoever does not answer a close does not get to delay the next session.
            self._socket.transport.abort()


def _quiet_logger() -> logging.Logger:
    # At debug level websockets writes every header, the key among them.
    # A logger of our own, so that no log setting can turn that on, and none is changed for others.
    logger = logging.Logger("gateway.realtime.socket", logging.INFO)  # noqa: LOG001  # see above
    logger.parent = logging.getLogger()
    return logger


async def _credentials(target: Target, deadline: float, *, fresh: bool) -> dict[str, str]:
    try:
        async with asyncio.timeout_at(deadline):
            return await target.auth.headers(fresh=fresh)
    except TimeoutError:
        raise TokenError("no token within the time there was for dialling") from None


async def _open(target: Target, headers: Mapping[str, str], deadline: float) -> ClientConnection:
    async with asyncio.timeout_at(deadline):
        return await _Connect(
            target.url,
            additional_headers=headers,
            user_agent_header=f"voice-gateway/{__version__}",
            ssl=target.tls if target.url.startswith("wss:") else None,
            compression=None,  # base64 of sound hardly shrinks: 82 us a delta for 20 % less
            proxy=None,
            open_timeout=None,
            max_size=MAX_MESSAGE_BYTES,
            create_connection=_Socket,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_TIMEOUT_S,
            logger=_quiet_logger(),
        )


async def dial(target: Target, *, timeout_s: float, with_fresh_token: bool = False) -> Link:
    """Open a line; ``timeout_s`` covers everything: token, name lookup, TLS, handshake.

    Args:
        target: whom to dial.
        timeout_s: the whole budget.
        with_fresh_token: after a 401: discard the cached token first.

    Raises:
        ConnectError: why it failed, with a label and whether trying again may help; its detail
            never holds a secret we sent.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    secret_headers = await _credentials(target, deadline, fresh=with_fresh_token)
    request_id = str(uuid.uuid4())
    headers = {**target.headers, **secret_headers, "x-ms-client-request-id": request_id}
    try:
        return _SocketLink(cast("_Socket", await _open(target, headers, deadline)))
    except InvalidStatus as error:
        can_refresh = target.auth.can_refresh and not with_fresh_token
        failure = _http_error(error.response, time.time(), can_refresh=can_refresh)
    except (OSError, WebSocketException, ValueError) as error:
        failure = _connect_error(error)
    secrets = [value.removeprefix("Bearer ") for value in secret_headers.values()]
    raise ConnectError(
        failure.result,
        f"{_without(secrets, failure.detail)} (request {request_id})",
        can_retry=failure.can_retry,
        retry_after_s=failure.retry_after_s,
    )
