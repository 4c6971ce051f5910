"""What a cephx user may do, found out by asking for things that change nothing whatever the answer.

The monitors and OSDs look at a user's caps before they look at the request: a request that can only fail says by the
way it fails whether it would have been permitted. (`auth get` is not for a user of `profile rbd`.)
"""

from __future__ import annotations

import errno

import rados

from gateway.errors import StorageUnavailable
from gateway.images.cluster import CephConnection, storage_errors

_NOTHING = "rbdgate.doctor.nothing"
"""An object that nobody makes."""


def may_fence(connection: CephConnection) -> bool:
    """Whether the user may add a client to the blocklist; the client asked for is no address, so none is added.

    `profile rbd` permits what looks like NAME/NUMBER (mon/MonCap.cc); the address itself is parsed after that.
    """
    return _permitted(
        connection.refusal("osd blocklist", blocklistop="add", addr="rbdgate-doctor/1"), done=errno.EINVAL
    )


def may_administer(connection: CephConnection) -> bool:
    """Whether the user may do far more than a gateway needs: look into the monitors' key-value store."""
    return _permitted(connection.refusal("config-key exists", key="rbdgate-doctor"), done=errno.ENOENT)


def may_read(connection: CephConnection, pool: str) -> bool:
    """Whether the user may read objects of the pool; NotFound without that pool."""
    with connection.pool(pool) as ioctx, storage_errors(f"pool {pool!r}"):
        try:
            ioctx.stat(_NOTHING)
        except rados.ObjectNotFound:
            return True
        except rados.PermissionError:
            return False
        return True


def may_write(connection: CephConnection, pool: str) -> bool:
    """Whether the user may write objects of the pool, asked by removing one that does not exist."""
    with connection.pool(pool) as ioctx, storage_errors(f"pool {pool!r}"):
        try:
            ioctx.remove_object(_NOTHING)
        except rados.ObjectNotFound:
            return True
        except rados.PermissionError:
            return False
        return True


def _permitted(answer: int, done: int) -> bool:
    if answer in (0, done):
        return True
    if answer in (errno.EPERM, errno.EACCES):
        return False
    raise StorageUnavailable(f"the monitors answered with error {answer}, which says nothing about permissions")
