"""TLS for one run: a throw-away certificate of 127.0.0.1, and what both sides make of it.

Its key is on P-256, as public authorities give them out by default: an RSA key of 2048 bits costs
whoever serves it some ten times as much CPU a handshake.
"""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HOST = "127.0.0.1"
_VALID_DAYS = 2


@dataclass(frozen=True, slots=True)
class Encryption:
    """Two PEM files: a certificate that signs itself, and its key without a password."""

    certificate: Path
    key: Path

    def serving(self) -> ssl.SSLContext:
        """For the model's port, TLS 1.2 at least."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context

    def trusting(self) -> ssl.SSLContext:
        """For callers, who trust this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def throw_away(folder: Path) -> Encryption:
    """Write a new certificate and its key, readable by us only, into ``folder``.

    Raises:
        OSError: they cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    made = Encryption(folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(_certificate(key).public_bytes(serialization.Encoding.PEM))
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _HOST)])
    address = x509.IPAddress(ipaddress.ip_address(_HOST))
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
