"""The public listener with a certificate of its own: TLS 1.2 at least, and clear errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from gateway.app import open_gateway
from gateway.errors import SettingsError
from gateway.settings import load_settings
from gateway.simulator.server import Simulator
from gateway.tls import server_tls
from tests.certificates import trusting, write_certificate
from tests.running import environ_for, run_command, settings_for

USUAL = {"OPENAI_API_KEY": "k", "GATEWAY_INSECURE": "1"}


def _files(certificate: Path, key: Path) -> dict[str, str]:
    return {"GATEWAY_TLS_CERTIFICATE": str(certificate), "GATEWAY_TLS_KEY": str(key)}


def _problem(certificate: Path, key: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        server_tls(load_settings(USUAL | _files(certificate, key)))
    (line,) = caught.value.problems
    return line


async def test_calls_and_webhooks_come_in_over_tls(simulator: Simulator, tmp_path: Path) -> None:
    """HTTPS and WSS on the public listener, which names itself so; old versions get nothing."""
    certificate, key = write_certificate(tmp_path)
    form = {"CallSid": "CA" + "1" * 32, "From": "+15550100001", "To": "+15550100002"}
    async with (
        open_gateway(settings_for(simulator, **_files(certificate, key))) as running,
        aiohttp.ClientSession() as session,
    ):
        url, context = f"https://127.0.0.1:{running.port}", trusting(certificate)
        async with session.post(f"{url}/twilio/voice", data=form, ssl=context) as reply:
            answer = await reply.text()
        async with session.ws_connect(f"{url}/twilio/media", ssl=context) as socket:
            version = socket.get_extra_info("ssl_object").version()
        old = trusting(certificate)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url, ssl=old)
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.replace("https", "http"))

    assert f'url="wss://127.0.0.1:{running.port}/twilio/media"' in answer
    assert version in {"TLSv1.2", "TLSv1.3"}


@pytest.mark.xdist_group("cli")
async def test_the_models_certificate_may_be_trusted_by_ssl_cert_file(
    simulator: Simulator, tmp_path: Path
) -> None:
    """A company's own authority in front of the model: the usual variable names it."""
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with _tls_in_front_of(simulator, context) as endpoint:
        environ = environ_for(simulator, AZURE_OPENAI_ENDPOINT=endpoint, GATEWAY_INSECURE="")
        environ |= {"GATEWAY_ASTERISK_USERNAME": "pbx", "GATEWAY_ASTERISK_PASSWORD": "password"}
        trusted, untrusted = await asyncio.gather(
            run_command("check", SSL_CERT_FILE=str(certificate), **environ),
            run_command("check", **environ),
        )

    assert (trusted.code, untrusted.code) == (0, 1)
    assert "BAD session: tls" in untrusted.out


@asynccontextmanager
async def _tls_in_front_of(simulator: Simulator, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A proxy that does nothing but decrypt."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while some := await reader.read(65536):
                writer.write(some)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = simulator.url.rpartition("/")[2].partition(":")
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, back), carry(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_without_files_it_speaks_plainly() -> None:
    """As behind a proxy that has the certificate."""
    assert server_tls(load_settings(USUAL)) is None


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    """One line each, at the start; a key with a password does not make OpenSSL ask for it."""
    (tmp_path / "other").mkdir()
    certificate, key = write_certificate(tmp_path)
    _, other_key = write_certificate(tmp_path / "other")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n")
    assert _problem(certificate, other_key).startswith("GATEWAY_TLS_KEY: not the key of")
    assert _problem(broken, key).startswith("GATEWAY_TLS_CERTIFICATE: it or its key is not")
    assert "cannot be read" in _problem(tmp_path / "nowhere.pem", key)
    _, locked = write_certificate(tmp_path / "other", b"secret")
    assert _problem(certificate, locked).startswith("GATEWAY_TLS_KEY: needs a password")


def test_both_files_or_none(tmp_path: Path) -> None:
    """One alone, or one that is not there, keeps ``serve`` from starting."""
    certificate, key = write_certificate(tmp_path)
    for given, named in (
        ({"GATEWAY_TLS_CERTIFICATE": str(certificate)}, "GATEWAY_TLS_KEY"),
        ({"GATEWAY_TLS_KEY": str(key)}, "GATEWAY_TLS_CERTIFICATE"),
        (_files(certificate, tmp_path / "nowhere.pem"), "GATEWAY_TLS_KEY"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(USUAL | given, is_for_serving=True)
        (line,) = caught.value.problems
        assert line.startswith(f"{named}: ")
