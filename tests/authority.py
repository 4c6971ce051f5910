"""A certificate authority for tests: makes certificates for whom and for how long a test wants them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM form."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Replace both files, each atomically."""
        replace_file(certificate, self.certificate, 0o644)
        replace_file(key, self.key, 0o600)


class Authority:
    """Signs what it is asked to; `certificate` is its own, in PEM form."""

    def __init__(self, name: str) -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(self._name, self._name, timedelta(days=365), self._key.public_key())
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = certificate.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, common_name: str, addresses: Sequence[str] = (), lasts: timedelta = timedelta(days=90)) -> Pair:
        """A certificate for a server and a client at these addresses; one that `lasts` less than nothing has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(_name(common_name), self._name, lasts, key.public_key())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = certificate.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            certificate = certificate.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Pair(
            certificate.sign(self._key, SHA256()).public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file in the place of another in one step, as deployment tools do."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    draft.chmod(mode)
    draft.replace(path)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, lasts: timedelta, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + lasts)
    )
