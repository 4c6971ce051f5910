"""Who is connected to a portal, and the nudge that makes an initiator notice that its target has moved.

LIO's sockets are listed like any other (sock_diag(7), uapi/linux/inet_diag.h).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import KernelRefused
from gateway.model import Address, Connection
from gateway.network.netlink import NETLINK_SOCK_DIAG, Netlink
from gateway.network.packets import checksum
from gateway.observed import Portal

_BY_FAMILY = 20
_ESTABLISHED = 1
_SENDING = 0xFFF & ~(1 << 6 | 1 << 7 | 1 << 10)
"""Every TCP state but TIME_WAIT, CLOSE and LISTEN (include/net/tcp_states.h)."""
_CLOSED = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11
"""FIN_WAIT1, FIN_WAIT2, LAST_ACK and CLOSING: nobody here has the socket any more."""
_REQUEST = struct.Struct("=BBBxI48x")
"""inet_diag_req_v2: family, protocol, extensions, states, and a socket id left empty."""
_ACK = 0x10


@dataclass(frozen=True, order=True)
class Peer:
    """The far end of a TCP connection."""

    address: Address
    port: int


def peers(portals: Iterable[Portal]) -> dict[Portal, tuple[Peer, ...]]:
    """Who has an established connection to each of these portals here; a portal nobody is on has an empty tuple."""
    found: dict[Portal, list[Peer]] = {portal: [] for portal in portals}
    families = {portal.address.version for portal in found}
    with Netlink(NETLINK_SOCK_DIAG) as kernel:
        for version in sorted(families):
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED)
            for _, body in kernel.dump(_BY_FAMILY, request):
                portal, peer = connection(body)
                if portal in found:
                    found[portal].append(peer)
    return {portal: tuple(sorted(ends, key=_order)) for portal, ends in found.items()}


def could_still_send(addresses: Iterable[Address]) -> frozenset[Address]:
    """Those IPv6 addresses from which a TCP socket of this node would still send if its cut were lifted.

    A connection that was closed while cut goes on retransmitting for minutes. IPv4 refuses a source address that is not
    on the node; IPv6 does not (seen on 6.1), so its packets would reach the initiator in the new holder's name.
    """
    asked = frozenset(address for address in addresses if address.version == 6)
    if not asked:
        return asked
    with Netlink(NETLINK_SOCK_DIAG) as kernel:
        request = _REQUEST.pack(socket.AF_INET6, socket.IPPROTO_TCP, 0, _SENDING)
        return asked & {connection(body)[0].address for _, body in kernel.dump(_BY_FAMILY, request)}


def closed_connections(addresses: Iterable[Address]) -> frozenset[Connection]:
    """The connections from these addresses that were closed on this side, and would send on if they could.

    Closed behind a cut, each still has what it had not sent, and retransmits it for minutes.
    """
    asked = frozenset(addresses)
    found: set[Connection] = set()
    with Netlink(NETLINK_SOCK_DIAG) as kernel:
        for version in sorted({address.version for address in asked}):
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            for _, body in kernel.dump(_BY_FAMILY, _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _CLOSED)):
                portal, peer = connection(body)
                if portal.address in asked:
                    found.add(Connection(portal.address, portal.port, peer.address, peer.port))
    return frozenset(found)


def _order(peer: Peer) -> tuple[int, int, int]:
    return peer.address.version, int(peer.address), peer.port


def connection(body: bytes) -> tuple[Portal, Peer]:
    """Both ends of one connection in the kernel's answer (inet_diag_msg)."""
    size = 4 if body[0] == socket.AF_INET else 16
    own_port, peer_port = struct.unpack_from("!HH", body, 4)
    own, peer = ipaddress.ip_address(body[8 : 8 + size]), ipaddress.ip_address(body[24 : 24 + size])
    return Portal(own, own_port), Peer(peer, peer_port)


def nudge(portal: Portal, peer: Peer) -> None:
    """Send one bare ACK from the portal, which must be on this node, to an initiator's port.

    An initiator that still holds the connection answers it; this node knows no such connection and resets it, and the
    initiator logs in anew at once instead of after its retransmission time-out. One that does not ignores it.
    """
    family = socket.AF_INET if portal.address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP) as wire:
            wire.setblocking(False)
            wire.bind((str(portal.address), 0))
            wire.sendto(segment(portal, peer), (str(peer.address), 0))
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        raise KernelRefused(
            f"cannot nudge {peer.address} port {peer.port} from {portal.address}: {error.strerror} ({name})"
        ) from None


def segment(portal: Portal, peer: Peer) -> bytes:
    """The TCP segment of a nudge (RFC 9293 section 3.1), its checksum filled in."""
    bare = struct.pack("!HHIIBBHHH", portal.port, peer.port, 0, 0, 5 << 4, _ACK, 0, 0, 0)
    ends = portal.address.packed + peer.address.packed
    if portal.address.version == 4:
        pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(bare))
    else:
        pseudo = ends + struct.pack("!II", len(bare), socket.IPPROTO_TCP)
    return bare[:16] + struct.pack("!H", checksum(pseudo + bare)) + bare[18:]
