"""Portal addresses on an interface: added and removed with our mark, and read back.

Each is a single-host prefix (/32, /128), so that traffic leaves by the prefix route of the interface's own address. It
is *deprecated* from the start (preferred lifetime 0): the node's own outgoing connections never choose it as their
source (RFC 6724 rule 3), while a portal bound to it works all the same.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from gateway.errors import Inconsistent, NotFound
from gateway.model import Address
from gateway.network.interfaces import OUR_PROTOCOL, AddressEntry, addresses, links
from gateway.network.netlink import CREATE_NEW, Netlink, Request, attribute, expect

_NEWADDR, _DELADDR, _GETADDR, _GETROUTE = 20, 21, 22, 26
_RTA_DST, _RTN_LOCAL = 1, 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_NODAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_FOREVER = 0xFFFFFFFF


def add_address(interface: str, address: Address) -> None:
    """Put a portal address on an interface; nothing happens if it is there. IPv6 skips duplicate detection.

    The cost does not grow with the addresses on the node. Raises NotFound if there is no such interface, Inconsistent
    if the address is on another one.
    """
    with Netlink() as kernel:
        index = _index(interface)
        if _is_here(kernel, address):
            _expect_nowhere_else(kernel, interface, index, address)
        answers = kernel.apply([Request(_NEWADDR, _body(index, address, new=True), CREATE_NEW)])
        expect(answers, [f"{address} to {interface}"], "add", fine=errno.EEXIST)
        if not _is_here(kernel, address):
            raise Inconsistent(f"{address} was added to {interface} and is not there")


def remove_address(address: Address) -> None:
    """Take a portal address off this node."""
    remove_addresses([address])


def remove_addresses(unwanted: Iterable[Address]) -> None:
    """Take portal addresses off whatever interfaces they are on; those that are nowhere are fine.

    Only single-host prefixes are touched. Raises Inconsistent if one is still there afterwards.
    """
    wanted_gone = frozenset(unwanted)
    with Netlink() as kernel:
        present = _entries(kernel, wanted_gone)
        answers = kernel.apply([Request(_DELADDR, _body(e.index, e.address, new=False)) for e in present])
        expect(answers, [str(e.address) for e in present], "remove", fine=errno.EADDRNOTAVAIL)
        left = _entries(kernel, wanted_gone) if present else ()
    if left:
        raise Inconsistent(f"{left[0].address} was removed and is still there")


def _entries(kernel: Netlink, wanted: Iterable[Address]) -> tuple[AddressEntry, ...]:
    chosen = frozenset(wanted)
    return tuple(e for e in addresses(kernel) if e.address in chosen and e.single_host)


def _expect_nowhere_else(kernel: Netlink, interface: str, index: int, address: Address) -> None:
    elsewhere = [entry.index for entry in addresses(kernel) if entry.address == address and entry.index != index]
    if elsewhere:
        name = links(kernel)[elsewhere[0]].name
        raise Inconsistent(f"{address} is on interface {name}, not on {interface}; remove it there first")


def _is_here(kernel: Netlink, address: Address) -> bool:
    """Whether some interface of this node has the address, asked for it alone.

    IPv4 has no such question, but the local route that comes with an address is there at once (RTN_LOCAL); IPv6 makes
    that route a moment later, but can be asked for an address.
    """
    if address.version == 6:
        body = struct.pack("=BBBBI", socket.AF_INET6, address.max_prefixlen, 0, 0, 0)
        code, _ = kernel.ask(_GETADDR, body + attribute(_IFA_ADDRESS, address.packed))
        return code == 0
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, address.max_prefixlen, *bytes(6), 0)
    code, answer = kernel.ask(_GETROUTE, body + attribute(_RTA_DST, address.packed))
    return code == 0 and answer[7] == _RTN_LOCAL


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise NotFound(f"there is no interface {interface} on this node") from None


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _body(index: int, address: Address, *, new: bool) -> bytes:
    body = struct.pack("=BBBBI", _family(address), address.max_prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    if new:
        body += attribute(_IFA_PROTO, bytes((OUR_PROTOCOL,)))
        body += attribute(_IFA_FLAGS, struct.pack("=I", _NODAD | _NO_PREFIX_ROUTE))
        body += attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, _FOREVER, 0, 0))
    return body
