"""What etcd lets this node do, found out by asking for things that change nothing whatever the answer.

etcd holds a transaction against the user's role before it runs it, both branches, whichever will be taken
(`etcdserver/apply_auth.go`): so one whose guard can never hold tells whether its writes would be permitted.
"""

from __future__ import annotations

from gateway.errors import StoreRefused
from gateway.store.client import EtcdClient
from gateway.store.values import ModRevisionIs, Put

_NEVER = 1 << 62
"""A revision that no key will have."""


def may_write(client: EtcdClient, key: str) -> bool:
    """Whether the key may be read and written; StoreUnavailable if that cannot be told."""
    try:
        client.transact([ModRevisionIs(key, _NEVER)], [Put(key, b"")])
    except StoreRefused:
        return False
    return True


def may_read(client: EtcdClient, key: str) -> bool:
    """Whether the key may be read, be it there or not; StoreUnavailable if that cannot be told."""
    try:
        client.get(key)
    except StoreRefused:
        return False
    return True
