"""The line is opened to the right place with the right proof, or says exactly why not."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Response

from gateway import __version__
from gateway.errors import ConnectError, SettingsError, TokenError
from gateway.realtime import Dial, Link
from gateway.realtime.auth import ApiKey, Auth, EntraToken
from gateway.realtime.connection import (
    CLOSE_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    Target,
    _retry_after_s,
    auth_from,
    dial,
    openai_url,
    realtime_url,
    target_from,
)
from gateway.realtime.inbox import messages
from gateway.settings import Settings, load_settings

KEY = "s3cret-key-of-the-resource"
RESOURCE = "https://res.openai.azure.com"
GA = "wss://res.openai.azure.com/openai/v1/realtime?model=voice"
PREVIEW = (
    "wss://res.openai.azure.com/openai/realtime?api-version=2025-04-01-preview&deployment=voice"
)
NOW = 1_800_000_000.0

# ------------------------------------------------------------- where


@pytest.mark.parametrize(
    "endpoint",
    [
        RESOURCE,
        f"{RESOURCE}/",
        f" {RESOURCE} ",
        f"{RESOURCE}/openai",
        f"{RESOURCE}/openai/",
        f"{RESOURCE}/openai/v1",
        f"{RESOURCE}/openai/v1/",
        f"{RESOURCE}/openai/v1/realtime",
        f"{RESOURCE}/openai/realtime",
        f"{RESOURCE}/openai/realtime?api-version=2024-10-01-preview&deployment=old",
        f"{RESOURCE}/openai/v1/realtime?model=voice",
        "wss://res.openai.azure.com/openai/v1/realtime#top",
    ],
)
def test_every_form_of_an_endpoint(endpoint: str) -> None:
    """Whatever part of the URL was copied from the portal, GA's URL comes out."""
    assert realtime_url(endpoint, "voice") == GA


@pytest.mark.parametrize(
    "endpoint",
    [RESOURCE, f"{RESOURCE}/openai", f"{RESOURCE}/openai/v1/", f"{RESOURCE}/openai/realtime"],
)
def test_a_version_means_the_preview(endpoint: str) -> None:
    """With an API version the path and the parameters are the preview's."""
    assert realtime_url(endpoint, "voice", "2025-04-01-preview") == PREVIEW


@pytest.mark.parametrize(
    ("endpoint", "version", "url"),
    [
        (
            "http://127.0.0.1:8091",
            "",
            "ws://127.0.0.1:8091/openai/v1/realtime?model=voice",
        ),
        (
            "ws://[::1]:8091/openai",
            "",
            "ws://[::1]:8091/openai/v1/realtime?model=voice",
        ),
        (
            "https://hub.example/speech/openai",
            "",
            "wss://hub.example/speech/openai/v1/realtime?model=voice",
        ),
        (
            f"{RESOURCE}/openai/v1/realtime?model=other&x=a%20b",
            "",
            "wss://res.openai.azure.com/openai/v1/realtime?model=other&x=a%20b",
        ),
        (
            f"{RESOURCE}/openai/realtime?api-version=2024-12-17",
            "2025-04-01-preview",
            "wss://res.openai.azure.com/openai/realtime?api-version=2024-12-17&deployment=voice",
        ),
        (
            "https://res.services.ai.azure.com/voice-live/realtime",
            "2026-07-15",
            "wss://res.services.ai.azure.com/voice-live/realtime?api-version=2026-07-15&model=voice",
        ),
        (
            "https://proxy.example/v1/realtime",
            "",
            "wss://proxy.example/v1/realtime?model=voice",
        ),
    ],
)
def test_unusual_endpoints(endpoint: str, version: str, url: str) -> None:
    """Stand-ins, path prefixes, explicit queries and Voice Live are kept as they are."""
    assert realtime_url(endpoint, "voice", version) == url


@given(name=st.text(min_size=1))
def test_a_deployment_may_have_any_name(name: str) -> None:
    """Whatever the name holds stays one parameter of the query."""
    with contextlib.suppress(UnicodeEncodeError):
        query = realtime_url(RESOURCE, name).partition("?")[2]

        assert query.startswith("model=")
        assert not set(query.removeprefix("model=")) & set("&=#?/ +")


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com/v1", "wss://api.openai.com/v1/realtime?model=gpt-realtime"),
        ("https://api.openai.com", "wss://api.openai.com/v1/realtime?model=gpt-realtime"),
        ("http://localhost:1/v1/", "ws://localhost:1/v1/realtime?model=gpt-realtime"),
        ("https://a.example/v1/realtime?x=1", "wss://a.example/v1/realtime?x=1&model=gpt-realtime"),
    ],
)
def test_openais_url(base_url: str, url: str) -> None:
    """OpenAI's base URL leads to its GA endpoint."""
    assert openai_url(base_url, "gpt-realtime") == url


@pytest.mark.parametrize("url", ["", "res.openai.azure.com", "ftp://res.example", "https://"])
def test_what_is_no_url(url: str) -> None:
    """Without scheme and host there is nothing to dial."""
    with pytest.raises(SettingsError):
        realtime_url(url, "voice")
    with pytest.raises(SettingsError):
        openai_url(url, "gpt-realtime")


def _settings(**environ: str) -> Settings:
    # The telephony side is not the subject here.
    return load_settings({"GATEWAY_INSECURE": "1", **environ}, None)


async def test_settings_for_azure_with_a_key() -> None:
    """Endpoint, deployment and key make a GA target whose key has Azure's header."""
    target = target_from(
        _settings(
            AZURE_OPENAI_ENDPOINT=RESOURCE,
            AZURE_OPENAI_DEPLOYMENT_NAME="voice",
            AZURE_OPENAI_API_KEY=KEY,
        )
    )

    assert (target.url, target.dialect) == (GA, "ga")
    assert await target.auth.headers() == {"api-key": KEY}
    assert KEY not in repr(target)


def test_settings_for_azure_without_a_key() -> None:
    """Without a key it is Microsoft Entra ID, with the scope of the dialect."""
    environ = {"AZURE_OPENAI_ENDPOINT": RESOURCE, "AZURE_OPENAI_DEPLOYMENT_NAME": "voice"}
    ga = target_from(_settings(**environ))
    preview = target_from(_settings(**environ, OPENAI_API_VERSION="2025-04-01-preview"))

    assert repr(ga.auth) == "EntraToken('https://ai.azure.com/.default', ***)"
    assert (preview.url, preview.dialect) == (PREVIEW, "preview")
    assert repr(preview.auth) == "EntraToken('https://cognitiveservices.azure.com/.default', ***)"


async def test_settings_for_openai() -> None:
    """An OpenAI key alone leads to OpenAI, as a bearer token."""
    target = target_from(_settings(OPENAI_API_KEY=KEY))

    assert target.url == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
    assert target.dialect == "ga"
    assert await target.auth.headers() == {"Authorization": f"Bearer {KEY}"}


def test_settings_without_any_credential() -> None:
    """Settings nobody checked still end in words."""
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        auth_from(Settings())


async def test_refreshes_are_reported() -> None:
    """The callback reaches the token that the settings ask for."""
    settings = _settings(AZURE_OPENAI_ENDPOINT=RESOURCE, AZURE_OPENAI_DEPLOYMENT_NAME="voice")
    results: list[str] = []

    entra = auth_from(settings, results.append)

    assert isinstance(entra, EntraToken)
    entra._on_refresh("ok")
    assert results == ["ok"]


def test_auth_may_be_given() -> None:
    """A target takes the credential it is given rather than make another."""
    auth = ApiKey(KEY)

    assert target_from(_settings(OPENAI_API_KEY="other-key"), auth).auth is auth


# ------------------------------------------------------------- a server that says what we want


class Stub:
    """An HTTP server that records each request and answers with what ``reply`` returns."""

    def __init__(self, reply: Callable[[int], bytes | None]) -> None:
        self._reply = reply
        self._server: asyncio.Server | None = None
        self._answers: set[asyncio.Task[None] | None] = set()
        self.requests: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*filter(None, self._answers))

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/openai/v1/realtime"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answers.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            reply = self._reply(len(self.requests))
            if reply is None:
                await reader.read()  # hold the line until the far end lets go
            else:
                writer.write(reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _always(reply: bytes | None) -> Stub:
    return Stub(lambda _: reply)


def _target(url: str, auth: Auth | None = None) -> Target:
    return Target(url, "ga", auth or ApiKey(KEY))


async def _refused(target: Target, timeout_s: float = 5.0, **options: bool) -> ConnectError:
    with pytest.raises(ConnectError) as got:
        await dial(target, timeout_s=timeout_s, **options)
    assert KEY not in str(got.value)
    return got.value


@pytest.mark.parametrize(
    ("reply", "expected", "detail"),
    [
        (
            _http("401 Unauthorized", b'{"error":{"code":"401","message":"Access denied."}}'),
            ("401", False, 0.0),
            "HTTP 401: 401: Access denied.",
        ),
        (_http("403 Forbidden", b"<h1>No\r\n\tway</h1>"), ("403", False, 0.0), "<h1>No way</h1>"),
        (
            _http("404 Not Found", b'{"error":{"code":"DeploymentNotFound","message":"None."}}'),
            ("404", False, 0.0),
            "DeploymentNotFound: None.",
        ),
        (_http("400 Bad", b'{"error":{"message":null}}'), ("400", False, 0.0), "HTTP 400"),
        (_http("429 Slow Down", b"", "Retry-After: 20"), ("429", True, 20.0), "HTTP 429"),
        (_http("429 Slow Down", b"", "retry-after-ms: 250"), ("429", True, 0.25), "HTTP 429"),
        (_http("500 Oops", b"\xff\xfe"), ("5xx", True, 0.0), "HTTP 500"),
        (_http("503 Away", b"", "Retry-After: 1"), ("5xx", True, 1.0), "HTTP 503"),
        (_http("200 OK", b"hello"), ("400", False, 0.0), "HTTP 200: hello"),
        (_http("418 Teapot"), ("400", False, 0.0), "HTTP 418"),
        (b"", ("refused", True, 0.0), "InvalidMessage"),
        (b"SSH-2.0-x\r\n", ("refused", True, 0.0), "InvalidMessage"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: web", ("refused", True, 0.0), "InvalidMessage"),
        (
            _http("101 Switching Protocols", b"", "Upgrade: websocket", "Connection: Upgrade"),
            ("refused", False, 0.0),
            "InvalidHeader",
        ),
    ],
    ids=lambda value: value[9:20].decode() if isinstance(value, bytes) else "",
)
async def test_each_refusal_has_its_label(
    reply: bytes, expected: tuple[str, bool, float], detail: str
) -> None:
    """Status, retry advice and the server's words come out; the request is on record."""
    async with _always(reply) as stub:
        error = await _refused(_target(stub.url))

    assert (error.result, error.can_retry, error.retry_after_s) == expected
    assert detail in error.detail
    assert "(request " in error.detail


async def test_an_echoed_key_is_blotted_out() -> None:
    """A server that repeats our key in its refusal does not get it into our logs."""
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}).encode()

    async with _always(_http("401 Unauthorized", body)) as stub:
        for auth in (ApiKey(KEY), ApiKey(KEY, is_bearer=True)):
            error = await _refused(_target(stub.url, auth))

            assert "provided: ***." in error.detail


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_stand_ins_key_spoils_no_words(key: str) -> None:
    """A key of nothing or of one letter is the server's to refuse, in words one can read."""
    async with _always(_http("401 Unauthorized", b"unknown key")) as stub:
        error = await _refused(_target(stub.url, ApiKey(key)))

    assert error.detail.startswith("HTTP 401: unknown key (request ")


@pytest.mark.parametrize("key", ["snow-\N{SNOWMAN}-man", "two\nlines", "nul\0"])
async def test_a_key_that_is_no_header(key: str) -> None:
    """A key that no header can carry is never sent, which is said without showing it."""
    async with _always(None) as stub:
        error = await _refused(_target(stub.url, ApiKey(key)))

    assert (error.result, error.can_retry) == ("refused", False)
    assert "api-key" in error.detail
    assert key.encode("unicode_escape").decode()[:5] not in error.detail
    assert stub.requests == []


async def test_a_redirect_is_not_followed() -> None:
    """No second request carries our key, not even to the same place."""
    async with _always(None) as elsewhere:
        reply = _http("307 Over There", b"", f"Location: {elsewhere.url}")
        async with _always(reply) as stub:
            error = await _refused(_target(stub.url))

            assert (error.result, error.can_retry) == ("400", False)
            assert "HTTP 307" in error.detail
            assert (len(stub.requests), len(elsewhere.requests)) == (1, 0)


async def test_nobody_listens() -> None:
    """A closed port is a refusal that may pass (P24)."""
    async with _always(None) as stub:
        url = stub.url

    error = await _refused(_target(url))

    assert (error.result, error.can_retry) == ("refused", True)


async def test_a_name_that_does_not_exist() -> None:
    """A failing name lookup has a label of its own (P26)."""
    error = await _refused(_target("ws://nowhere.invalid/openai/v1/realtime"))

    assert (error.result, error.can_retry) == ("dns", True)


async def test_a_black_hole() -> None:
    """A server that takes the connection and says nothing costs the budget, no more (P25)."""
    async with _always(None) as stub:
        began = asyncio.get_running_loop().time()
        error = await _refused(_target(stub.url), timeout_s=0.05)
        took_s = asyncio.get_running_loop().time() - began

    assert (error.result, error.can_retry) == ("timeout", True)
    assert 0.04 < took_s < 2.0


# ------------------------------------------------------------- TLS


_LOOPBACK = ipaddress.ip_address("127.0.0.1")
# From Python 3.13 on, a certificate that vouches for others has to say so.
_SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context for 127.0.0.1 that nobody trusts, and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    for extension, is_critical in (
        (x509.SubjectAlternativeName([x509.IPAddress(_LOOPBACK)]), False),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (_SIGNS, True),
    ):
        builder = builder.add_extension(extension, critical=is_critical)
    certificate = builder.sign(key, hashes.SHA256())
    path = folder / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


async def test_tls_is_checked(tmp_path: Path) -> None:
    """A certificate nobody vouches for ends the dial before a key is sent; a trusted one works."""
    context, path = _certificate(tmp_path)
    seen: list[str] = []

    async def greet(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers["api-key"])
        await connection.wait_closed()

    async with serve(greet, "127.0.0.1", 0, ssl=context) as server:
        url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        error = await _refused(_target(url))
        assert not seen
        trusting = ssl.create_default_context(cafile=str(path))
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT
        link = await dial(Target(url, "ga", ApiKey(KEY), tls=trusting), timeout_s=5.0)
        await link.close()

    assert (error.result, error.can_retry) == ("tls", False)
    assert seen == [KEY]


async def test_tls_to_a_plain_server() -> None:
    """A server that answers TLS in plain text is a TLS failure."""
    answered = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http("400 Bad Request"))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        answered.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await _refused(_target(f"wss://127.0.0.1:{port}/"))
        await answered.wait()

    assert (error.result, error.can_retry) == ("tls", False)


# ------------------------------------------------------------- tokens


class Tokens:
    """An Entra token source of which each part can be watched; the first token is stale."""

    can_refresh = True

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.asked: list[bool] = []
        self._gate = gate

    async def headers(self, *, fresh: bool = False) -> dict[str, str]:
        """A token a call."""
        self.asked.append(fresh)
        if self._gate is not None:
            await self._gate.wait()
        return {"Authorization": f"Bearer token-{len(self.asked)}"}

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_401_is_worth_one_fresh_token() -> None:
    """After a 401 a new token may help, once; a second 401 is final (P27)."""
    async with _always(_http("401 Unauthorized")) as stub:
        target = _target(stub.url, Tokens())
        first = await _refused(target)
        second = await _refused(target, with_fresh_token=True)

    assert (first.result, first.can_retry) == ("401", True)
    assert (second.result, second.can_retry) == ("401", False)
    assert target.auth.asked == [False, True]  # type: ignore[attr-defined]  # a Tokens
    assert "authorization: bearer token-2" in stub.requests[1].lower()


async def test_a_slow_token_is_part_of_the_budget() -> None:
    """Waiting for a token ends with the dial's own time, as a token failure (P40)."""
    error = await _refused(_target("ws://127.0.0.1:1/", Tokens(asyncio.Event())), timeout_s=0.02)

    assert isinstance(error, TokenError)
    assert error.result == "token"


# ------------------------------------------------------------- Retry-After


def _response(**headers: str) -> Response:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Response(429, "Slow Down", Headers(pairs))


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 0.0),
        ("20", 20.0),
        (" 1.5 ", 1.5),
        ("999999999", 3600.0),
        (format_datetime(dt.datetime.fromtimestamp(NOW + 30, dt.UTC), usegmt=True), 30.0),
        (format_datetime(dt.datetime.fromtimestamp(NOW - 30, dt.UTC), usegmt=True), 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, wait_s: float) -> None:
    """Both forms of RFC 9110 are read, bounded to an hour; anything else is no advice."""
    assert _retry_after_s(_response(Retry_After=value), NOW) == wait_s


@given(value=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_retry_after_may_hold_anything(value: str) -> None:
    """No header value makes us raise or wait for ever."""
    assert 0.0 <= _retry_after_s(_response(Retry_After=value), NOW) <= 3600.0


def test_retry_after_twice() -> None:
    """A repeated header does not raise: the first readable one counts."""
    headers = Headers([("Retry-After", "soon"), ("Retry-After", "7"), ("Retry-After", "9")])

    assert _retry_after_s(Response(429, "Slow Down", headers), NOW) == 7.0


# ------------------------------------------------------------- the open line


async def _hold(connection: ServerConnection) -> None:
    await connection.wait_closed()


@contextlib.asynccontextmanager
async def _line(
    serve_one: Callable[[ServerConnection], Awaitable[None]],
) -> AsyncIterator[Link]:
    """An open line to a server that treats it with ``serve_one``."""
    async with serve(serve_one, "127.0.0.1", 0, max_size=None) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/openai/v1/realtime?model=v"
        open_line: Dial = partial(dial, _target(url))
        link = await open_line(timeout_s=5.0, with_fresh_token=False)
        yield link
        await link.close()


async def test_what_the_server_sees() -> None:
    """Path, key and user agent arrive; each dial has an id, no compression, no subprotocol."""
    requests = []

    async def look(connection: ServerConnection) -> None:
        requests.append(connection.request)
        await connection.close()

    for _ in range(2):
        async with _line(look):
            pass

    first, second = (request for request in requests if request is not None)
    assert first.path == "/openai/v1/realtime?model=v"
    assert first.headers["api-key"] == KEY
    assert first.headers["User-Agent"] == f"voice-gateway/{__version__}"
    assert "Sec-WebSocket-Extensions" not in first.headers
    assert "Sec-WebSocket-Protocol" not in first.headers
    assert "OpenAI-Beta" not in first.headers
    identifier = "x-ms-client-request-id"
    assert first.headers[identifier] != second.headers[identifier]


async def test_messages_both_ways() -> None:
    """Our bytes arrive as text, the server's text comes as bytes, in order."""
    received: list[str | bytes] = []

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            received.append(message)
            await connection.send(message)

    async with _line(echo) as link:
        echoes = aiter(messages(link))
        for message in (b'{"n": 1}', '{"n": "\N{GRINNING FACE}"}', b"x" * 100_000):
            link.send(message)

        assert await anext(echoes) == b'{"n": 1}'
        assert await anext(echoes) == '{"n": "\N{GRINNING FACE}"}'.encode()
        assert await anext(echoes) == b"x" * 100_000
    assert received[0] == '{"n": 1}'
    assert {type(message) for message in received} == {str}


async def _closed(serve_one: Callable[[ServerConnection], Awaitable[None]]) -> tuple[int, str]:
    """The close code and reason once all messages are read."""
    async with _line(serve_one) as link:
        async for _ in messages(link):
            pass
        return link.close_code, link.close_reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, ""),
        (1001, "Your session hit the maximum duration of 60 minutes."),
        (1011, "keepalive ping timeout"),
        (4000, "invalid_request_error.beta_api_shape_disabled"),
    ],
)
async def test_why_the_server_closed(code: int, reason: str) -> None:
    """Close code and reason are there once the close is told."""

    async def leave(connection: ServerConnection) -> None:
        await connection.close(code, reason)

    assert await _closed(leave) == (code, reason)


async def test_a_cut_line_has_no_code() -> None:
    """A socket that just ends counts as 1006 (P35)."""

    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    assert await _closed(cut) == (1006, "")


async def test_a_message_that_is_too_big() -> None:
    """More than the limit closes the line rather than fill our memory, and says why."""

    async def shout(connection: ServerConnection) -> None:
        await connection.send("x" * (MAX_MESSAGE_BYTES + 1))
        await connection.wait_closed()

    code, _ = await _closed(shout)

    assert code == 1009


async def test_sending_on_a_closed_line() -> None:
    """A late message is a ConnectionError, whatever library is below; closing again is harmless."""
    async with _line(_hold) as link:
        await link.close()

        with pytest.raises(ConnectionError):
            link.send(b"{}")
        await link.close()
        assert link.close_code == 1000


async def test_a_long_reason_is_cut() -> None:
    """A close frame has room for 123 bytes of reason, however many bytes a letter takes."""
    reasons = []

    async def listen(connection: ServerConnection) -> None:
        await connection.wait_closed()
        reasons.append((connection.close_code, connection.close_reason))

    async with _line(listen) as link:
        await link.close(4321, "\N{SNOWMAN}" * 100)

    assert reasons == [(4321, "\N{SNOWMAN}" * 41)]


def test_a_dead_peer_is_not_waited_for() -> None:
    """The close handshake has an end that a hung-up caller would not notice."""
    assert CLOSE_TIMEOUT_S <= 2.0


async def test_an_open_line_has_no_close_code_yet() -> None:
    """Before the end the code is the one for a line without a close."""
    async with _line(_hold) as link:
        assert (link.close_code, link.close_reason) == (1006, "")


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Not even at debug level does the handshake with its headers reach a log."""
    caplog.set_level(logging.DEBUG)

    async with _line(_hold) as link:
        link.send(b"{}")

    assert "api-key" not in _ours(caplog)


def _ours(caplog: pytest.LogCaptureFixture) -> str:
    # The stand-in server in this process logs what it received: that is not ours.
    return "\n".join(
        record.getMessage() for record in caplog.records if record.name != "websockets.server"
    )
