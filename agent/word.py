"""What a node says of itself in its word: what others must know to take, to fence and to probe. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model import Address, ClusterView, Instance, Label
from gateway.observed import Kernel
from gateway.plan import anchor_of


@dataclass(frozen=True)
class Fitness:
    """What it can serve: the networks that are steadily up, and why it can serve nothing now; empty if it can."""

    networks: tuple[Label, ...]
    obstacle: str = ""


def clients(view: ClusterView, kernel: Kernel, rados: Instance | None) -> tuple[Instance, ...]:
    """Its clients of Ceph that others must not fence for one image: the anchor's, and its own if it is connected."""
    anchor = anchor_of(kernel.mappings, view.settings.anchor_pool)
    return tuple(sorted({each for each in (anchor.instance if anchor else None, rados) if each is not None}))


def own_addresses(view: ClusterView, kernel: Kernel) -> tuple[Address, ...]:
    """Its own addresses in the cluster's networks, none of which is a portal."""
    found = {address for link in kernel.networks.values() for address in link.addresses}
    own = {address for address in found if view.settings.network_of(address) is not None}
    return tuple(sorted(own - kernel.addresses.keys(), key=str))


def macs(kernel: Kernel) -> tuple[str, ...]:
    """The hardware addresses of its interfaces in those networks."""
    return tuple(sorted({link.mac for link in kernel.networks.values() if link.mac}))
