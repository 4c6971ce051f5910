"""A cephx key, and how it reaches the kernel: through a keyring that only the calling thread can see.

krbd also takes the key as `secret=` in the map string, but shows that whole string in `config_info` for as long as
the image is mapped (drivers/block/rbd.c); `key=NAME` there holds a name only (net/ceph/ceph_common.c).
"""

from __future__ import annotations

import base64
import binascii
import configparser
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import BadInput, KernelRefused

_THREAD_KEYRING = -1
"""KEY_SPEC_THREAD_KEYRING (keyctl(2)): seen by request_key() of this thread alone, gone with it."""


@dataclass(frozen=True)
class CephKey:
    """The secret of a cephx user, as the raw bytes of Ceph's CryptoKey encoding; it prints as `***`."""

    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> CephKey:
        """Read the base64 text a keyring file holds."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BadInput("a cephx key is base64 text; this one is not") from None
        if len(raw) < 12:  # type, creation time and length come before the secret itself (src/auth/Crypto.cc)
            raise BadInput("a cephx key has at least 12 bytes; this one is cut short")
        return cls(raw)

    def __repr__(self) -> str:
        return "CephKey(***)"

    __str__ = __repr__


@dataclass(frozen=True)
class MonAddresses:
    """The monitors as `ADDRESS:PORT`, by protocol: krbd speaks version 1 unless it is told otherwise."""

    v1: tuple[str, ...]
    v2: tuple[str, ...]


def read_keyring(path: Path, entity: str) -> CephKey:
    """The key of `entity` (as `client.rbdgate`) in a keyring file."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        # Ceph indents the lines under a section, which configparser would take for continuations.
        parser.read_string("\n".join(line.strip() for line in path.read_text().splitlines()))
        text = parser.get(entity, "key")
    except OSError as error:
        raise BadInput(f"keyring {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:  # it quotes the file
        raise BadInput(f"keyring {path} is damaged: it is no text in UTF-8") from None
    except configparser.NoSectionError:
        raise BadInput(f"keyring {path} has no [{entity}]; name the keyring of that user") from None
    except configparser.Error:  # its message quotes lines of the file
        raise BadInput(f"keyring {path} is damaged, or [{entity}] in it has no key") from None
    return CephKey.parse(text.strip().strip('"'))


@contextmanager
def lent_to_kernel(key: CephKey, name: str) -> Iterator[str]:
    """Let the kernel find the key as `name` while the block runs, in this thread only; yields the name."""
    library = ctypes.CDLL("libkeyutils.so.1", use_errno=True)  # librados itself comes with it
    library.add_key.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int32,
    ]
    library.add_key.restype = ctypes.c_int32
    serial = library.add_key(b"ceph", name.encode(), key.raw, len(key.raw), _THREAD_KEYRING)
    if serial < 0:
        reason = os.strerror(ctypes.get_errno())
        raise KernelRefused(
            f"the kernel does not take a key of type ceph: {reason}; are the modules libceph, cbc and aes there?"
        )
    try:
        yield name
    finally:
        library.keyctl_unlink(ctypes.c_int32(serial), ctypes.c_int32(_THREAD_KEYRING))
