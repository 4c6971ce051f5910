"""What stands in PEM files: whether a key is a certificate's, and when that ends. No other file of the store asks.

`cryptography` is imported when it is first needed: a command that speaks plain text does not wait for it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.errors import BadSettings

_BEGIN = b"-----BEGIN CERTIFICATE-----"


def ends_of(chain: bytes, where: str) -> datetime:
    """When the first certificate in it ends, in UTC; BadSettings names `where` if there is none that can be read."""
    from cryptography import x509  # noqa: PLC0415 - see above

    try:
        found = x509.load_pem_x509_certificate(chain)
    except ValueError as error:
        raise BadSettings(f"{where} holds no certificate in PEM form: {error}") from None
    # cryptography 42 gave the date its zone and a new name; 38, which Debian 12 has, knows the old one only.
    later: datetime | None = getattr(found, "not_valid_after_utc", None)
    return later or found.not_valid_after.replace(tzinfo=UTC)


def check_authorities(bundle: bytes, where: str) -> None:
    """Read each certificate of a bundle; BadSettings if there is none or one cannot be read."""
    ends_of(bundle, where)
    for part in bundle.split(_BEGIN)[1:]:
        ends_of(_BEGIN + part, where)


def fits(chain: bytes, key: bytes, key_file: str) -> bool:
    """Whether the key is the one of the first certificate; BadSettings if it is no key that can be used."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause could quote what was read: it is left out on purpose.
        raise BadSettings(f"{key_file} holds no key in PEM form without a passphrase") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    mine = private.public_key().public_bytes(*form)
    return x509.load_pem_x509_certificate(chain).public_key().public_bytes(*form) == mine
