"""The lease calls of the keeper and the membership, on an etcd client of their own: nobody else's call delays them."""

from __future__ import annotations

from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore


class EtcdLeases:
    """Grants, renews and revokes leases, and reads the claims under one."""

    def __init__(self, client: EtcdClient, store: ClusterStore) -> None:
        self._client, self._store = client, store

    def keepalive(self, lease: int, *, timeout: float) -> float:
        """Renew the lease with one call to one member; `LeaseGone` when it is no more."""
        return float(self._client.keepalive_once(lease, timeout=timeout))

    def own_claims(self, lease: int, *, timeout: float) -> dict[str, int]:
        """The claims under the lease, read linearizably."""
        return dict(self._store.own_claims(lease, timeout=timeout))

    def grant(self, ttl: int) -> int:
        """A new lease of so many seconds."""
        return self._client.grant_lease(ttl).id

    def revoke(self, lease: int) -> None:
        """End the lease and all keys under it."""
        self._client.revoke_lease(lease)
