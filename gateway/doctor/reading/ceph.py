"""Reads what `checks/ceph.py` judges. Nothing is written and nobody blocklisted; the key is used, never shown."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from gateway.actions.looking import ClusterStatus
from gateway.doctor.checks.ceph import CephFacts, Connected, PoolFacts
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt
from gateway.doctor.sources import Sources
from gateway.errors import Unavailable
from gateway.images.krbd import Krbd
from gateway.model import Instance
from gateway.settings import CephSettings

if TYPE_CHECKING:
    from gateway.images.cluster import CephConnection

OPERATION_BOUND = 4.0
"""Seconds an operation may take; the doctor is less patient than a gateway, which waits for Ceph to recover."""


def read(sources: Sources) -> CephFacts | Unread:
    """Ceph as this node reaches it."""
    if isinstance(sources.settings, Unread):
        return sources.settings
    ceph, status = sources.settings.ceph, sources.status()
    mode = attempt(f"{ceph.keyring}", lambda: ceph.keyring.stat().st_mode & 0o7777)
    return CephFacts(
        user=ceph.user,
        keyring=str(ceph.keyring),
        keyring_mode=mode,
        key_denied=ceph.keyring.exists() and not os.access(ceph.keyring, os.R_OK),
        connected=attempt("Ceph", lambda: _connected(ceph, _pools(status))),
        expected_fsid=status if isinstance(status, Unread) else status.view.settings.fsid,
        fences={} if isinstance(status, Unread) else _fences(status),
        own=attempt("this node's kernel clients", _own),
    )


def _pools(status: ClusterStatus | Unread) -> tuple[str, ...]:
    if isinstance(status, Unread):
        return ()
    return tuple(sorted({status.view.settings.anchor_pool, *(name.pool for name in status.view.images)}))


def _fences(status: ClusterStatus) -> dict[Instance, str]:
    return {victim: str(intent.node or "?") for victim, intent in status.view.fences.items()}


def _own() -> frozenset[Instance]:
    return frozenset(mapping.instance for mapping in Krbd().mappings() if mapping.generation is not None)


def _connected(ceph: CephSettings, pools: tuple[str, ...]) -> Connected:
    try:
        from gateway.images.cluster import CephConnection  # noqa: PLC0415 - librados is slow to load, or not there
    except ImportError as error:
        raise Unavailable(f"Python cannot load librados ({error}); install python3-rados and python3-rbd") from None
    with CephConnection(ceph.conf, ceph.user, ceph.keyring, op_timeout=OPERATION_BOUND) as connection:
        return _asked(connection, pools)


def _asked(connection: CephConnection, pools: tuple[str, ...]) -> Connected:
    from gateway.images.fence import blocklist  # noqa: PLC0415 - as above
    from gateway.images.permissions import may_administer, may_fence  # noqa: PLC0415

    return Connected(
        fsid=connection.fsid,
        health=attempt("Ceph's health", lambda: str(json.loads(connection.command("health", format="json"))["status"])),
        may_fence=attempt("the right to fence", lambda: may_fence(connection)),
        may_administer=attempt("the right to administer", lambda: may_administer(connection)),
        blocklist=attempt("Ceph's blocklist", lambda: frozenset(blocklist(connection))),
        pools=tuple(_pool(connection, name) for name in pools),
    )


def _pool(connection: CephConnection, name: str) -> PoolFacts:
    from gateway.images.permissions import may_read, may_write  # noqa: PLC0415 - as above

    began = time.monotonic()
    readable = attempt(f"pool {name}", lambda: may_read(connection, name))
    took = time.monotonic() - began
    if isinstance(readable, Unread):
        return PoolFacts(name, readable, readable, took)
    return PoolFacts(name, readable, attempt(f"pool {name}", lambda: may_write(connection, name)), took)
