"""The certificate of one run: good for both sides, trusted by nobody else."""

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.bench.encryption import throw_away
from gateway.settings import load_settings
from gateway.tls import server_tls


async def _shaken(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> str | None:
    """The version that both ends agree on."""
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        version = writer.get_extra_info("ssl_object").version()
        assert await reader.read() == b""
        writer.close()
    return str(version)


async def test_callers_trust_the_model_and_the_gateway_that_have_it(tmp_path: Path) -> None:
    """The gateway loads both files as it loads any; the name in it is that of the address."""
    encryption = throw_away(tmp_path)
    files = {
        "GATEWAY_TLS_CERTIFICATE": str(encryption.certificate),
        "GATEWAY_TLS_KEY": str(encryption.key),
    }
    gateway = server_tls(load_settings({"OPENAI_API_KEY": "k", "GATEWAY_INSECURE": "1"} | files))

    assert gateway is not None
    assert await _shaken(gateway, encryption.trusting()) == "TLSv1.3"
    assert await _shaken(encryption.serving(), encryption.trusting()) == "TLSv1.3"
    assert encryption.key.stat().st_mode & 0o077 == 0


async def test_another_run_does_not_trust_it(tmp_path: Path) -> None:
    """Each run has one of its own."""
    (tmp_path / "other").mkdir()
    ours, other = throw_away(tmp_path), throw_away(tmp_path / "other")

    with pytest.raises(ssl.SSLCertVerificationError):
        await _shaken(ours.serving(), other.trusting())
