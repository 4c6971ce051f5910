"""Making a cluster: its settings in etcd, and the anchor image that every gateway keeps mapped."""

from __future__ import annotations

from gateway.actions.ceph import Ceph
from gateway.errors import AlreadyExists, NotFound
from gateway.model import ClusterSettings, Network
from gateway.store.cluster import ClusterStore


def initialise(
    store: ClusterStore,
    ceph: Ceph,
    *,
    networks: tuple[Network, ...],
    anchor_pool: str,
    iqn_prefix: str | None,
) -> ClusterSettings:
    """Make a cluster under the store's prefix; AlreadyExists if there is one, NotFound for an unknown pool.

    The anchor comes first: without the settings no agent starts, so an act that was cut short in between has left a
    1 MiB image that the next run finds and uses.
    """
    try:
        store.view()
    except NotFound:
        pass
    else:
        raise AlreadyExists(f"there is a cluster under {store.keys.prefix} already; see `rbdgate cluster show`")
    fsid = ceph.fsid()
    settings = ClusterSettings(fsid=fsid, networks=networks, anchor_pool=anchor_pool)
    if iqn_prefix is not None:
        settings = ClusterSettings(fsid, networks, anchor_pool, iqn_prefix)
    ceph.make_anchor(anchor_pool)
    store.initialise(settings)
    return settings
