"""The cut: from one moment on no packet leaves from an address, established connections included.

It is a policy rule `from ADDRESS blackhole` (ip-rule(8); uapi/linux/fib_rules.h) of a priority before every table but
`local`: adding a rule makes the kernel drop its cached routes, so the next packet of any socket, the kernel's own
included, meets it. Nothing is torn down, so the peer hears neither FIN nor RST. Neighbour replies (ARP, NA) do not
pass policy rules: take the address off as well.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable

from gateway.model import Address
from gateway.network.netlink import CREATE_NEW, Netlink, Request, attribute, attributes, expect

PRIORITY = 72
"""The rules' priority: behind `local` (0), before anything an operator adds by default (32765 downwards)."""

_PROTOCOL = 0x72
"""The same mark as the addresses carry (gateway.network.interfaces)."""

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_BLACKHOLE = 6
_FRA_SRC, _FRA_PRIORITY, _FRA_PROTOCOL = 2, 6, 21


def cut(addresses: Iterable[Address]) -> None:
    """Cut all these addresses, of both families, in one stream of requests; those that are cut stay so."""
    _apply(_NEWRULE, CREATE_NEW, addresses, "cut", errno.EEXIST)


def uncut(addresses: Iterable[Address]) -> None:
    """Lift the cut of these addresses; those that are not cut stay so.

    While an address is off this node, IPv4 sockets that are left cannot send from it; IPv6 sockets can: for an address
    that is gone, ask `gateway.network.could_still_send` first.
    """
    _apply(_DELRULE, 0, addresses, "lift the cut of", errno.ENOENT)


def cuts(kernel: Netlink) -> frozenset[Address]:
    """The addresses that rules of ours cut now."""
    found: set[Address] = set()
    for _, body in kernel.dump(_GETRULE, struct.pack("=BBBBBBBBI", socket.AF_UNSPEC, *bytes(7), 0)):
        family, action, values = body[0], body[7], attributes(body[12:])
        priority = int.from_bytes(values.get(_FRA_PRIORITY, b""), sys.byteorder)
        mark = values.get(_FRA_PROTOCOL, b"\0")[0]
        ours = (action, priority, mark) == (_BLACKHOLE, PRIORITY, _PROTOCOL)
        if ours and family in (socket.AF_INET, socket.AF_INET6) and _FRA_SRC in values:
            found.add(ipaddress.ip_address(values[_FRA_SRC]))
    return frozenset(found)


def rule(kind: int, flags: int, address: Address) -> Request:
    """The request that adds or deletes the rule of one address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    header = struct.pack("=BBBBBBBBI", family, 0, address.max_prefixlen, 0, 0, 0, 0, _BLACKHOLE, 0)
    body = header + attribute(_FRA_SRC, address.packed) + _TAIL
    return Request(kind, body, flags)


_TAIL = attribute(_FRA_PRIORITY, struct.pack("=I", PRIORITY)) + attribute(_FRA_PROTOCOL, bytes((_PROTOCOL,)))


def _apply(kind: int, flags: int, addresses: Iterable[Address], act: str, fine: int) -> None:
    wanted = sorted(set(addresses), key=lambda address: (address.version, int(address)))
    if not wanted:
        return
    with Netlink() as kernel:
        answers = kernel.apply([rule(kind, flags, address) for address in wanted])
    expect(answers, [str(address) for address in wanted], act, fine=fine)
