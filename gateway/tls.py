"""The public listener's own certificate, where no proxy in front of it has one."""

import ssl

from gateway.errors import SettingsError
from gateway.settings import Settings


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """What the public listener encrypts with, TLS 1.2 at least; None = plain.

    Raises:
        SettingsError: the two files are no certificate and key that belong together.
    """
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, _no_password)
    except (OSError, ValueError) as error:
        raise SettingsError([_problem(error)]) from None
    return context


def _no_password() -> str:
    """Without this OpenSSL asks the terminal, and waits."""
    raise ValueError


def _problem(error: Exception) -> str:
    """One line; OpenSSL's own words name the line of its source rather than the file."""
    if not isinstance(error, OSError):
        return "GATEWAY_TLS_KEY: needs a password; accepted: a PEM file without one"
    if not isinstance(error, ssl.SSLError):
        return f"GATEWAY_TLS_CERTIFICATE: it or its key cannot be read: {error.strerror}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "GATEWAY_TLS_KEY: not the key of GATEWAY_TLS_CERTIFICATE"
    return "GATEWAY_TLS_CERTIFICATE: it or its key is not a usable PEM file"
