"""What the node's network is now: which interface serves which network, which portal addresses are here, what is cut.

A portal address of ours is one with a single-host prefix that carries our protocol mark (`IFA_PROTO`, Linux 5.18 and
newer) or that the caller names; so leftovers are known even when etcd has forgotten them.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.model import Address, ClusterSettings, Connection, Label, Network
from gateway.network.blackhole import cuts, muted
from gateway.network.netlink import Netlink, attributes
from gateway.network.packets import Assertion, mac_text
from gateway.observed import Interface

OUR_PROTOCOL = 0x72
"""The protocol mark (`IFA_PROTO`, `FRA_PROTOCOL`) of what this project adds: "r", a number nobody has registered."""

_GETLINK, _GETADDR = 18, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_UP, _RUNNING, _LOWER_UP = 0x1, 0x40, 0x10000
"""IFF_UP (set by the operator), IFF_RUNNING (operational), IFF_LOWER_UP (carrier): uapi/linux/if.h."""


@dataclass(frozen=True)
class AddressEntry:
    """One address of an interface as the kernel lists it."""

    index: int
    address: Address
    prefix: int
    protocol: int

    @property
    def single_host(self) -> bool:
        """Whether its prefix is /32 or /128, as that of every portal."""
        return self.prefix == self.address.max_prefixlen


@dataclass(frozen=True)
class Link:
    """One interface as the kernel lists it; `up` includes the carrier, `mac` is empty where it has none."""

    index: int
    name: str
    up: bool
    mac: str = ""


@dataclass(frozen=True)
class NetworkView:
    """The node's network at one look, in the parts `observed.Kernel` has."""

    networks: Mapping[Label, Interface]
    addresses: Mapping[Address, str]
    cuts: frozenset[Address]
    muted: frozenset[Connection] = frozenset()


def observe(settings: ClusterSettings, portals: frozenset[Address]) -> NetworkView:
    """Look once; `portals` are the portal addresses the cluster knows of."""
    with Netlink() as kernel:
        found_links, found, cut, mute = links(kernel), addresses(kernel), cuts(kernel), muted(kernel)
    serves = serving(settings.networks, found_links, found, portals)
    return NetworkView(serves, ours(found_links, found, portals), cut, mute)


def observe_own() -> NetworkView:
    """What can be seen of ours without knowing the cluster: marked addresses and cuts, no networks."""
    with Netlink() as kernel:
        found = ours(links(kernel), addresses(kernel), frozenset())
        return NetworkView({}, found, cuts(kernel), muted(kernel))


def contested(heard: Iterable[tuple[str, Assertion]]) -> tuple[tuple[str, Assertion], ...]:
    """Those of the heard (interface, assertion) by which another machine has a portal address that is there, too."""
    with Netlink() as kernel:
        found_links, found = links(kernel), addresses(kernel)
    here, own = ours(found_links, found, frozenset()), {link.mac for link in found_links.values()}
    return tuple((name, said) for name, said in heard if here.get(said.address) == name and said.mac not in own)


def links(kernel: Netlink) -> dict[int, Link]:
    """Every interface by its index."""
    found = {}
    for _, body in kernel.dump(_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
        values = attributes(body[16:])
        name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode()
        wanted = _UP | _RUNNING | _LOWER_UP
        found[index] = Link(index, name, flags & wanted == wanted, mac_text(values.get(_IFLA_ADDRESS, b"")))
    return found


def addresses(kernel: Netlink) -> tuple[AddressEntry, ...]:
    """Every IPv4 and IPv6 address of every interface."""
    found = []
    for _, body in kernel.dump(_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = attributes(body[8:])
        # On a point-to-point link IFA_ADDRESS is the far end's; IFA_LOCAL, where there is one, is always ours.
        raw = values.get(_IFA_LOCAL) or values[_IFA_ADDRESS]
        protocol = values.get(_IFA_PROTO, b"\0")[0]
        found.append(AddressEntry(index, ipaddress.ip_address(raw), prefix, protocol))
    return tuple(found)


def serving(
    networks: Iterable[Network],
    found_links: Mapping[int, Link],
    found: Iterable[AddressEntry],
    portals: frozenset[Address],
) -> dict[Label, Interface]:
    """The interface that serves each network: the one with an address of its own in it.

    Of several one that is up, and of those the one that has portals already: a link that comes back moves nothing.
    """
    found = tuple(found)
    ported = {e for e in found if e.protocol == OUR_PROTOCOL or e.address in portals}
    own = [e for e in found if e not in ported and e.index in found_links]
    result = {}
    for network in networks:
        indexes = {entry.index for entry in own if entry.address in network}
        busy = {entry.index for entry in ported if entry.address in network}
        ranked = sorted((not found_links[index].up, index not in busy, index) for index in indexes)
        chosen = ranked[0][2] if ranked else None
        if chosen is not None:
            link = found_links[chosen]
            here = frozenset(entry.address for entry in found if entry.index == chosen)
            result[network.name] = Interface(link.name, link.index, link.up, here, link.mac)
    return result


def ours(
    found_links: Mapping[int, Link], found: Iterable[AddressEntry], portals: frozenset[Address]
) -> dict[Address, str]:
    """The portal addresses on this node and the interface each is on."""
    return {
        entry.address: found_links[entry.index].name
        for entry in found
        if entry.single_host
        and entry.index in found_links
        and (entry.protocol == OUR_PROTOCOL or entry.address in portals)
    }
