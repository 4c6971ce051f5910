"""Image metadata without opening the image: RBD's own class methods, called on the header object.

librbd's `metadata_set` asks whoever owns the image's lock to let go of it first (seen on 16.2: it fails as "read-only
image" when that takes too long). The class method needs no lock, and runs inside a guarded write.
Encoding: little-endian 32-bit lengths before each string and map (src/include/encoding.h; src/cls/rbd/cls_rbd.cc).
"""

from __future__ import annotations

import struct

import rados

from gateway.errors import Conflict, Inconsistent, NotFound
from gateway.images.cluster import storage_errors
from gateway.images.header import ImageHeader

SPEC_KEY = "rbdgate.spec"
"""Under this key an image carries a copy of its spec, so that a lost etcd can be rebuilt from the pool."""

_ATTEMPTS = 5


def write_metadata(header: ImageHeader, key: str, value: str) -> None:
    """Set one key; NotFound if the image is gone, Conflict if the header never held still."""
    request = struct.pack("<I", 1) + _string(key) + _string(value)

    def fill(operation: rados.WriteOp) -> None:
        operation.execute("rbd", "metadata_set", request)

    for _ in range(_ATTEMPTS):
        try:
            return header.write_guarded(header.read().version, fill)
        except Conflict:
            continue
    raise Conflict(f"{header} changed {_ATTEMPTS} times while its metadata was to be written; try again")


def read_metadata(header: ImageHeader, key: str) -> str | None:
    """The value of one key; None if the image has no such key, or is gone."""
    with header.connection.pool(header.pool, header.namespace) as ioctx:
        try:
            with storage_errors(f"reading metadata of {header}"):
                _, answer = ioctx.execute(header.object_name, "rbd", "metadata_get", _string(key), 1 << 20)
        except NotFound:
            return None
    (length,) = struct.unpack_from("<I", answer)
    if len(answer) != 4 + length:
        raise Inconsistent(f"metadata {key!r} of {header} came back cut short")
    return str(answer[4:].decode())


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw
