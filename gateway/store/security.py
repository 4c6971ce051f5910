"""What secures the way to etcd: which files, as the settings name them, and what was read from those. No connection.

Rule: a key or a password that others than its owner can read is refused, and no text here ever quotes one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gateway.credentials import Secret
from gateway.errors import BadSettings
from gateway.store.certificates import check_authorities, ends_of, fits


@dataclass(frozen=True)
class Security:
    """The settings' words: TLS if there is a `ca_file`, a certificate of our own, a user; each None if left out."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise BadSettings("etcd.certificate_file and etcd.key_file go together: name both, or neither")
        if self.certificate_file is not None and self.ca_file is None:
            raise BadSettings("etcd.certificate_file needs etcd.ca_file: the authorities of etcd's certificates")
        if (self.user is None) != (self.password_file is None):
            raise BadSettings("etcd.user and etcd.password_file go together: name both, or neither")

    @property
    def files(self) -> tuple[Path, ...]:
        """What the identity is read from."""
        return tuple(file for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)


PLAIN = Security()
"""Plain text, and no user."""


@dataclass(frozen=True, repr=False)
class Identity:
    """Authorities to judge etcd by, and a certificate with its key to show it; `ends` is that certificate's, in UTC."""

    authorities: bytes
    chain: bytes | None = None
    key: bytes | None = None
    ends: datetime | None = None

    def __repr__(self) -> str:
        return f"Identity(ends={self.ends})"


def read_identity(security: Security) -> Identity | None:
    """What the files hold now, if it fits together; None where TLS is not spoken; BadSettings says what is wrong."""
    if security.ca_file is None:
        return None
    authorities = _read(security.ca_file)
    check_authorities(authorities, str(security.ca_file))
    if security.certificate_file is None or security.key_file is None:
        return Identity(authorities)
    chain, key = _read(security.certificate_file), _read_private(security.key_file)
    ends = ends_of(chain, str(security.certificate_file))
    if not fits(chain, key, str(security.key_file)):
        raise BadSettings(
            f"{security.key_file} is not the key of the certificate in {security.certificate_file}:"
            " put the two there that were made together"
        )
    return Identity(authorities, chain, key, ends)


def read_password(path: Path) -> Secret:
    """The password in that file, without the newline at its end; BadSettings says what is wrong with the file."""
    try:
        text = _read_private(path).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise BadSettings(f"{path} is no text in UTF-8") from None
    if not text or "\n" in text:
        raise BadSettings(f"{path} should hold one line, the password of etcd's user")
    return Secret(text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from None


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from None
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
        raise BadSettings(f"{path} could be read by others than root: run `chown root {path}; chmod 600 {path}`")
    return content
