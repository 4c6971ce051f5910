"""The key that only gateways have, and what is sealed with it: CHAP secrets in etcd.

Form: `sealed` is base64 of a 12-byte random nonce and AES-256-GCM (NIST SP 800-38D) over both secrets, padded to one
length; the associated data are the etcd key and the user names, so a sealed value is worth nothing elsewhere. A key is
64 hex digits in a file that nobody but root can read; its id is the first 16 of its SHA-256, which tells nothing of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.access import Opened
from gateway.credentials import Credentials, SealedCredentials, Secret, Unreadable
from gateway.errors import AlreadyExists, BadInput, Sealed
from gateway.model import ClusterView
from gateway.store.keys import Keys

_NONCE = 12
_PADDED = 512  # two secrets of at most 255 bytes and what parts them


@dataclass(frozen=True, repr=False)
class Vault:
    """Seals and opens with one key of 32 bytes."""

    key: bytes

    @property
    def key_id(self) -> str:
        """What tells keys apart; the key cannot be found from it."""
        return hashlib.sha256(b"rbdgate key id " + self.key).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Vault({self.key_id})"

    def seal(self, credentials: Credentials, where: str) -> SealedCredentials:
        """Credentials in the form they are stored in under the etcd key `where`."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only who has secrets waits for it

        mutual = credentials.mutual_secret.plain if credentials.mutual_secret else ""
        plain = f"{credentials.secret.plain}\0{mutual}".encode("ascii").ljust(_PADDED, b"\0")
        nonce = secrets.token_bytes(_NONCE)
        names = _names(where, credentials.user, credentials.mutual_user)
        sealed = base64.b64encode(nonce + AESGCM(self.key).encrypt(nonce, plain, names)).decode("ascii")
        return SealedCredentials(credentials.user, credentials.mutual_user, self.key_id, sealed)

    def open(self, sealed: SealedCredentials, where: str) -> Credentials:
        """The credentials that were sealed for the etcd key `where`; Sealed, in words that follow "they", if not."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        if sealed.key_id != self.key_id:
            raise Sealed(f"are sealed with key {sealed.key_id}, and this node has key {self.key_id}")
        try:
            raw = base64.b64decode(sealed.sealed, validate=True)
            names = _names(where, sealed.user, sealed.mutual_user)
            plain = AESGCM(self.key).decrypt(raw[:_NONCE], raw[_NONCE:], names)
            secret, mutual, *_ = plain.decode("ascii").split("\0")
            return Credentials(
                sealed.user, Secret(secret), sealed.mutual_user, Secret(mutual) if sealed.mutual_user else None
            )
        except (binascii.Error, ValueError, InvalidTag, BadInput):
            # The cause could quote what was decrypted: it is left out on purpose.
            raise Sealed("are damaged, or were moved here from another place: set them anew") from None


def load(path: Path) -> Vault:
    """The vault of the key in that file; Sealed says what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Sealed(
            f"there is no key of the secrets on this node ({path}): copy it there from another gateway, or make the"
            " first one with `rbdgate secrets create-key`"
        ) from None
    except OSError as error:
        raise Sealed(f"the key of the secrets cannot be read: {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        text = file.read(128)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or stat.S_IMODE(found.st_mode) & 0o177:
        raise Sealed(f"{path} could be read by others than root: run `chown root {path}; chmod 600 {path}`")
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise Sealed(f"{path} holds no key: it should be 64 hex digits")
    return Vault(key)


def create_key(path: Path) -> Vault:
    """Make a key in a file that is not there yet; AlreadyExists if it is. It is on the disk when this returns."""
    vault = Vault(secrets.token_bytes(32))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(vault.key.hex().encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # whole or not at all, and never over another
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already; see `rbdgate secrets show-key-id`") from None
    except OSError as error:
        raise Sealed(f"the key cannot be written: {path}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return vault


def open_all(view: ClusterView, keys: Keys, vault: Callable[[], Vault]) -> Opened:
    """All of a view's credentials as far as they can be opened here; the key is asked for only if there are any."""
    if not view.credentials and view.discovery is None:
        return Opened()
    try:
        held: Vault | Unreadable = vault()
    except Sealed as error:
        held = Unreadable(f"cannot be opened: {error}")

    def opened(value: SealedCredentials | Unreadable, where: str) -> Credentials | Unreadable:
        if isinstance(value, Unreadable):
            return value
        if isinstance(held, Unreadable):
            return held
        try:
            return held.open(value, where)
        except Sealed as error:
            return Unreadable(str(error))

    initiators = {iqn: opened(value, keys.initiator(iqn)) for iqn, value in view.credentials.items()}
    discovery = None if view.discovery is None else opened(view.discovery, keys.discovery)
    return Opened(initiators, discovery)


def _names(*names: str) -> bytes:
    """The associated data: what the sealed value belongs to."""
    return "\0".join(names).encode()
