"""Does this node reach the initiators' networks as it should: interfaces, links, addresses, ARP, the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread
from gateway.model import Address, Label, Network

NETWORKS = Subject("networks")

_SYSCTL = (
    "copy sysctl.conf of the package's gateway/doctor/host to /etc/sysctl.d/60-rbdgate.conf, then `sysctl --system`"
)


@dataclass(frozen=True)
class Nic:
    """An interface: whether it has link, its MTU, its own addresses (no portals), and some of its sysctls by name.

    `broken` are its IPv6 addresses that failed duplicate detection.
    """

    name: str
    up: bool
    mtu: int | None
    addresses: tuple[Address, ...]
    broken: tuple[Address, ...]
    sysctls: Mapping[str, int]


@dataclass(frozen=True)
class NetworkFacts:
    """The cluster's networks, and this node's interfaces."""

    networks: tuple[Network, ...] | Unread
    nics: tuple[Nic, ...] | Unread


def check(facts: NetworkFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.nics, Unread):
        yield NETWORKS.unread(facts.nics)
        return
    if isinstance(facts.networks, Unread):
        yield NETWORKS.unread(Unread("which networks the cluster has", facts.networks.why), "see what is said of etcd")
        return
    for network in facts.networks:
        yield from _network(network, facts.nics)
    yield from _shared(facts.networks, facts.nics)
    serving = [nic for nic in facts.nics if any(_own(nic, network) for network in facts.networks)]
    yield from _arp(serving)
    for nic in serving:
        yield from _interface(nic, facts.networks)


def _network(network: Network, nics: tuple[Nic, ...]) -> Iterator[Finding]:
    here = [nic for nic in nics if _own(nic, network)]
    if not here:
        yield NETWORKS.error(
            f"no interface of this node has an address of its own in network {network.name} ({network.cidr}): paths in"
            " it are down here",
            "give this node's interface in that network an address outside of the portals' range",
        )
        return
    up = [nic for nic in here if nic.up]
    if not up:
        names = ", ".join(nic.name for nic in here)
        yield NETWORKS.error(f"{names}, which serves network {network.name}, has no link", "see its cable and switch")
    else:
        mtus = " and ".join(sorted({str(nic.mtu) for nic in up if nic.mtu}))
        yield NETWORKS.ok(f"network {network.name} is served by {up[0].name}: it has link, MTU {mtus}")
    if len(here) > 1:
        names = " and ".join(nic.name for nic in here)
        yield NETWORKS.warning(
            f"{names} all have addresses in network {network.name}: portals go to one of them only",
            "bond them, or make them two networks of the cluster",
        )
    for nic in here:
        for address in _own(nic, network):
            if int(network.first) <= int(address) <= int(network.last):
                yield NETWORKS.error(
                    f"{nic.name}'s own address {address} lies in the portals' range of network {network.name}: an"
                    " image may be given the same",
                    "give this node another address, outside of that range",
                )


def _shared(networks: tuple[Network, ...], nics: tuple[Nic, ...]) -> Iterator[Finding]:
    for nic in nics:
        served = [str(network.name) for network in networks if _own(nic, network)]
        versions = [network.cidr.version for network in networks if _own(nic, network)]
        if len(versions) != len(set(versions)):  # IPv4 and IPv6 on one wire are one path each of the same network
            yield NETWORKS.warning(
                f"networks {' and '.join(served)} are on one interface, {nic.name}: one cable takes both away",
                "serve each on an interface of its own",
            )


def _arp(nics: list[Nic]) -> Iterator[Finding]:
    four = [nic for nic in nics if any(address.version == 4 for address in nic.addresses)]
    if len(four) < 2:
        return
    for sysctl, least, consequence in (
        ("arp_ignore", 1, "every interface answers ARP for the portals of all others"),
        ("arp_announce", 2, "an interface may announce a portal of another one"),
    ):
        loose = [nic.name for nic in four if nic.sysctls.get(sysctl, 0) < least]
        if loose:
            yield NETWORKS.warning(f"{sysctl} is below {least} on {', '.join(loose)}: {consequence}", _SYSCTL)
        else:
            yield NETWORKS.ok(f"{sysctl} is {least} or more on {', '.join(nic.name for nic in four)}")


def _interface(nic: Nic, networks: tuple[Network, ...]) -> Iterator[Finding]:
    for address in nic.broken:
        yield NETWORKS.error(
            f"{address} on {nic.name} failed IPv6's duplicate detection: another machine has it",
            "find that machine (`ip -6 neigh`), or give this node another address",
        )
    mine = {network.name for network in networks if _own(nic, network)}
    if nic.sysctls.get("disable_ipv6") and _six(networks, mine):
        yield NETWORKS.error(
            f"IPv6 is switched off on {nic.name}, which serves an IPv6 network",
            f"`sysctl net.ipv6.conf.{nic.name}.disable_ipv6=0`",
        )
    if nic.sysctls.get("rp_filter") == 1:
        yield NETWORKS.warning(
            f"rp_filter is strict on {nic.name}: initiators that are routed to it, and back over another interface,"
            " are dropped without a word",
            f"if initiators come from other subnets: `sysctl net.ipv4.conf.{nic.name}.rp_filter=2` (loose)",
        )


def _six(networks: tuple[Network, ...], names: set[Label]) -> bool:
    return any(network.cidr.version == 6 for network in networks if network.name in names)


def _own(nic: Nic, network: Network) -> list[Address]:
    return [address for address in nic.addresses if address in network]
