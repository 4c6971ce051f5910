"""Choosing what a new target is known by: its name, its serial and its portal addresses. Pure.

What an operator names is checked against the cluster; what is left open is chosen: addresses from the networks in
turn, the network with the fewest paths of this image first, so that two paths lie in two networks if there are two.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import AlreadyExists, BadInput, NotFound, Refused
from gateway.model import Address, ClusterSettings, ClusterView, Identity, ImageName, Iqn, Label, Network, Path

IQN_LENGTH = 223
"""RFC 7143 section 4.2.7.1: an iSCSI name has at most 223 bytes."""


@dataclass(frozen=True)
class IdentityWish:
    """What an operator wants an image to be known by; None is chosen."""

    iqn: Iqn | None = None
    serial: str | None = None
    vendor: str | None = None
    product: str | None = None


def choose_identity(prefix: str, name: ImageName, uid: str, serial: str, wish: IdentityWish) -> Identity:
    """The identity with the wish's words, and for the rest a name like `<prefix>:<pool>-<name>-<8 hex digits>`."""
    default = Identity(wish.iqn or legal_iqn(prefix, name, uid), wish.serial or serial)
    return Identity(
        iqn=default.iqn,
        serial=default.serial,
        vendor=wish.vendor or default.vendor,
        product=wish.product or default.product,
    )


def legal_iqn(prefix: str, name: ImageName, uid: str) -> Iqn:
    """A target name made of an image's: what a name may not have becomes `-`, and the uid's digits keep it unique."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{name.pool}-{name.name}".lower()).strip("-.")
    room = IQN_LENGTH - len(prefix) - len(":-") - 8
    return Iqn(f"{prefix}:{words[:room].rstrip('-.') or 'image'}-{uid[:8]}")


def choose_paths(
    view: ClusterView, taken: Mapping[Address, str], named: Sequence[tuple[Label, Address]], count: int
) -> tuple[Path, ...]:
    """`count` paths, those with a named address first; `taken` maps each reserved address to its image.

    BadInput or NotFound for an address or network that can never be right, AlreadyExists for an address in use,
    Refused when the ranges have no free address left.
    """
    if count < max(1, len(named)):
        raise BadInput(
            f"{len(named)} addresses were named for {count} paths; ask for at least that many, and at least 1"
        )
    chosen: list[tuple[Network, Address]] = []
    for label, address in named:
        chosen.append((_check_named(view, taken, label, address), address))
    used = set(taken) | gateway_addresses(view) | {address for _, address in chosen}
    while len(chosen) < count:
        network, address = _next_free(view.settings, used, [network for network, _ in chosen])
        chosen.append((network, address))
        used.add(address)
    return tuple(Path(tag, address, network.name) for tag, (network, address) in enumerate(chosen, 1))


def paths_with_tags(view: ClusterView, taken: Mapping[Address, str], tagged: Mapping[int, Address]) -> tuple[Path, ...]:
    """Paths that keep the tags and addresses they had elsewhere; errors as `choose_paths`."""
    paths = []
    for tag, address in sorted(tagged.items()):
        network = view.settings.network_of(address)
        if network is None:
            raise BadInput(f"address {address} is outside every network of this cluster ({_networks(view.settings)})")
        _check_named(view, taken, network.name, address)
        paths.append(Path(tag, address, network.name))
    return tuple(paths)


def gateway_addresses(view: ClusterView) -> set[Address]:
    """The live gateways' own addresses, on the initiators' networks and those they reach Ceph from: never portals."""
    texts = (instance.text.rpartition(":")[0] for live in view.live.values() for instance in live.instances)
    own = {address for live in view.live.values() for address in live.addresses}
    return own | {ipaddress.ip_address(text.strip("[]")) for text in texts}


def _check_named(view: ClusterView, taken: Mapping[Address, str], label: Label, address: Address) -> Network:
    network = view.settings.network(label)
    if network is None:
        raise NotFound(f"there is no network {label}; the cluster has {_networks(view.settings)}")
    if address not in network:
        home = view.settings.network_of(address)
        where = f"in network {home.name}" if home else f"outside every network ({_networks(view.settings)})"
        raise BadInput(f"address {address} is not in network {label} ({network.cidr}) but {where}")
    edges = (network.cidr.network_address, network.cidr.broadcast_address)
    if network.cidr.version == 4 and network.cidr.prefixlen < 31 and address in edges:
        raise BadInput(f"address {address} is the network or broadcast address of {network.cidr}; choose a host's")
    if address in taken:
        raise AlreadyExists(f"address {address} is taken by image {taken[address]}; choose another")
    if address in gateway_addresses(view):
        raise AlreadyExists(f"address {address} is a gateway's own; choose one that no machine has")
    return network


def _next_free(settings: ClusterSettings, used: set[Address], so_far: Sequence[Network]) -> tuple[Network, Address]:
    for network in sorted(settings.networks, key=so_far.count):  # stable: the settings' order among equals
        number = int(network.first)
        while number <= int(network.last):
            address = type(network.first)(number)
            if address not in used:
                return network, address
            number += 1
    raise Refused(
        f"no portal address is free in any network ({_networks(settings)}); name one with --address, or delete an image"
    )


def _networks(settings: ClusterSettings) -> str:
    return ", ".join(f"{network.name} {network.cidr} {network.first}-{network.last}" for network in settings.networks)
