"""Reads what `checks/networks.py` judges: rtnetlink, sysctls, and IPv6's flags (/proc/net/if_inet6)."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from gateway.doctor.checks.networks import NetworkFacts, Nic
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt, text_of
from gateway.doctor.sources import Sources
from gateway.model import Address
from gateway.network.interfaces import OUR_PROTOCOL, addresses, links
from gateway.network.netlink import Netlink

_DAD_FAILED = 0x08
"""IFA_F_DADFAILED (uapi/linux/if_addr.h)."""


def read(sources: Sources) -> NetworkFacts:
    """This node's interfaces, beside the cluster's networks."""
    status = sources.status()
    if isinstance(status, Unread):
        return NetworkFacts(status, attempt("this node's interfaces", lambda: _nics(frozenset())))
    portals = frozenset(path.address for spec in status.view.images.values() for path in spec.paths)
    return NetworkFacts(status.view.settings.networks, attempt("this node's interfaces", lambda: _nics(portals)))


def _nics(portals: frozenset[Address]) -> tuple[Nic, ...]:
    with Netlink() as kernel:
        found, entries = links(kernel), addresses(kernel)
    failed = _failed()
    own = [e for e in entries if e.protocol != OUR_PROTOCOL and e.address not in portals and not e.address.is_loopback]
    return tuple(
        Nic(
            name=link.name,
            up=link.up,
            mtu=_number(Path("/sys/class/net", link.name, "mtu")),
            addresses=tuple(e.address for e in own if e.index == link.index),
            broken=tuple(address for index, address in failed if index == link.index),
            sysctls=_sysctls(link.name),
        )
        for link in found.values()
        if any(e.index == link.index for e in own)
    )


def _sysctls(name: str) -> dict[str, int]:
    """The effective values: of these the kernel takes the larger of the interface's and that of `all`."""
    found = {}
    for sysctl in ("arp_ignore", "arp_announce", "rp_filter"):
        values = [_number(Path("/proc/sys/net/ipv4/conf", place, sysctl)) for place in ("all", name)]
        found[sysctl] = max((value for value in values if value is not None), default=0)
    disabled = _number(Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6"))
    return found | ({"disable_ipv6": disabled} if disabled is not None else {})


def _number(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if text is not None else None


def _failed() -> list[tuple[int, Address]]:
    """IPv6 addresses that duplicate detection found elsewhere, with their interface's index."""
    rows = [line.split() for line in (text_of(Path("/proc/net/if_inet6")) or "").splitlines()]
    return [
        (int(row[1], 16), ipaddress.IPv6Address(bytes.fromhex(row[0]))) for row in rows if int(row[4], 16) & _DAD_FAILED
    ]
