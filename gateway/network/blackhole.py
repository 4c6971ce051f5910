"""The cut: from one moment on no packet leaves from an address, established connections included.

It is a policy rule `from ADDRESS blackhole` (ip-rule(8); uapi/linux/fib_rules.h) of a priority before every table but
`local`: adding a rule makes the kernel drop its cached routes, so the next packet of any socket, the kernel's own
included, meets it. Nothing is torn down, so the peer hears neither FIN nor RST. Neighbour replies (ARP, NA) do not
pass policy rules: take the address off as well.

A single connection is *muted* by the same rule with both its ends. A connection that was closed while its address was
cut goes on retransmitting what it had not sent, answers among it, for minutes: the cut of an address that is to answer
again is lifted only behind such rules, and new connections, from other ports, pass.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

from gateway.model import Address, Connection
from gateway.network.netlink import CREATE_NEW, Netlink, Request, attribute, attributes, expect

PRIORITY = 72
"""The rules' priority: behind `local` (0), before anything an operator adds by default (32765 downwards)."""

_PROTOCOL = 0x72
"""The same mark as the addresses carry (gateway.network.interfaces)."""

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_BLACKHOLE = 6
_FRA_DST, _FRA_SRC, _FRA_PRIORITY, _FRA_PROTOCOL = 1, 2, 6, 21
_FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 22, 23, 24


def cut(addresses: Iterable[Address]) -> None:
    """Cut all these addresses, of both families, in one stream of requests; those that are cut stay so."""
    _apply(_NEWRULE, CREATE_NEW, addresses, "cut", errno.EEXIST)


def uncut(addresses: Iterable[Address]) -> None:
    """Lift the cut of these addresses; those that are not cut stay so.

    While an address is off this node, IPv4 sockets that are left cannot send from it; IPv6 sockets can: for an address
    that is gone, ask `gateway.network.could_still_send` first.
    """
    _apply(_DELRULE, 0, addresses, "lift the cut of", errno.ENOENT)


def mute(connections: Iterable[Connection]) -> None:
    """Let no packet of these connections leave, whatever is cut; those that are muted stay so."""
    _apply_to(_NEWRULE, CREATE_NEW, connections, "mute", errno.EEXIST)


def unmute(connections: Iterable[Connection]) -> None:
    """Forget that these connections are muted; those that are not stay so."""
    _apply_to(_DELRULE, 0, connections, "unmute", errno.ENOENT)


def cuts(kernel: Netlink) -> frozenset[Address]:
    """The addresses that rules of ours cut now."""
    rules = (values for values in _rules(kernel) if _FRA_SRC in values and _FRA_DST not in values)
    return frozenset(ipaddress.ip_address(values[_FRA_SRC]) for values in rules)


def muted(kernel: Netlink) -> frozenset[Connection]:
    """The connections that rules of ours mute now."""
    parts = (_FRA_SRC, _FRA_DST, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE)
    rules = (values for values in _rules(kernel) if all(part in values for part in parts))
    return frozenset(
        Connection(
            ipaddress.ip_address(values[_FRA_SRC]),
            struct.unpack_from("=H", values[_FRA_SPORT_RANGE])[0],
            ipaddress.ip_address(values[_FRA_DST]),
            struct.unpack_from("=H", values[_FRA_DPORT_RANGE])[0],
        )
        for values in rules
    )


def _rules(kernel: Netlink) -> Iterator[dict[int, bytes]]:
    """The attributes of each rule of ours."""
    for _, body in kernel.dump(_GETRULE, struct.pack("=BBBBBBBBI", socket.AF_UNSPEC, *bytes(7), 0)):
        family, action, values = body[0], body[7], attributes(body[12:])
        priority = int.from_bytes(values.get(_FRA_PRIORITY, b""), sys.byteorder)
        mark = values.get(_FRA_PROTOCOL, b"\0")[0]
        ours = (action, priority, mark) == (_BLACKHOLE, PRIORITY, _PROTOCOL)
        if ours and family in (socket.AF_INET, socket.AF_INET6):
            yield values


def rule(kind: int, flags: int, address: Address) -> Request:
    """The request that adds or deletes the rule of one address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    header = struct.pack("=BBBBBBBBI", family, 0, address.max_prefixlen, 0, 0, 0, 0, _BLACKHOLE, 0)
    body = header + attribute(_FRA_SRC, address.packed) + _TAIL
    return Request(kind, body, flags)


def _rule_of(kind: int, flags: int, connection: Connection) -> Request:
    """The same of one connection."""
    bits = connection.portal.max_prefixlen
    family = socket.AF_INET if connection.portal.version == 4 else socket.AF_INET6
    header = struct.pack("=BBBBBBBBI", family, bits, bits, 0, 0, 0, 0, _BLACKHOLE, 0)
    ends = attribute(_FRA_SRC, connection.portal.packed) + attribute(_FRA_DST, connection.peer.packed)
    ends += attribute(_FRA_IP_PROTO, bytes((socket.IPPROTO_TCP,)))
    for what, port in ((_FRA_SPORT_RANGE, connection.portal_port), (_FRA_DPORT_RANGE, connection.peer_port)):
        ends += attribute(what, struct.pack("=HH", port, port))
    return Request(kind, header + ends + _TAIL, flags)


def _apply_to(kind: int, flags: int, connections: Iterable[Connection], act: str, fine: int) -> None:
    wanted = sorted(set(connections), key=str)
    if not wanted:
        return
    with Netlink() as kernel:
        answers = kernel.apply([_rule_of(kind, flags, connection) for connection in wanted])
    expect(answers, [str(connection) for connection in wanted], act, fine=fine)


_TAIL = attribute(_FRA_PRIORITY, struct.pack("=I", PRIORITY)) + attribute(_FRA_PROTOCOL, bytes((_PROTOCOL,)))


def _apply(kind: int, flags: int, addresses: Iterable[Address], act: str, fine: int) -> None:
    wanted = sorted(set(addresses), key=lambda address: (address.version, int(address)))
    if not wanted:
        return
    with Netlink() as kernel:
        answers = kernel.apply([rule(kind, flags, address) for address in wanted])
    expect(answers, [str(address) for address in wanted], act, fine=fine)
