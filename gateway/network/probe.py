"""Asking a network who has an address, before a portal is put on it: ARP (RFC 5227), duplicate detection (RFC 4862).

The questions go out in the name of nobody (sender 0.0.0.0, or ::), so that no neighbour's table changes by them, and
through a packet socket, past the cut. It waits for answers, within a bound, and for nothing else.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Set

from gateway.errors import KernelRefused
from gateway.model import Address
from gateway.network.interfaces import links
from gateway.network.netlink import Netlink
from gateway.network.packets import (
    ALL_NODES,
    ARP,
    IPV6,
    Assertion,
    arp_probe,
    assertion,
    multicast_mac,
    solicitation_probe,
    solicited_node,
)
from gateway.timers import PROBE_BOUND, PROBES

_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0
"""SOL_PACKET, PACKET_ADD_MEMBERSHIP and PACKET_MR_MULTICAST (linux/socket.h, uapi/linux/if_packet.h)."""


def stranger_with(
    interface: str, address: Address, known: Set[str], *, clock: Callable[[], float] = time.monotonic
) -> str | None:
    """The MAC of a machine that says it has the address and is neither this one nor among `known`; None if none does.

    A stranger's answer ends it at once, silence takes `PROBE_BOUND` seconds. KernelRefused if it cannot be asked.
    """
    with Netlink() as kernel:  # another card of this node's on the same wire may answer
        ours = {link.mac for link in links(kernel).values()} | known
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as wire:
            wire.setblocking(False)
            wire.bind((interface, ARP if address.version == 4 else IPV6))
            mac = wire.getsockname()[4]
            if isinstance(address, ipaddress.IPv6Address):
                _listen_to_groups(wire, interface, address)
            heard = _heard(wire, question(mac, address), clock)
            return next((said.mac for said in heard if said.address == address and said.mac not in ours), None)
    except OSError as error:
        raise KernelRefused(f"cannot ask on {interface} who has {address}: {error.strerror}") from None


def question(mac: bytes, address: Address) -> bytes:
    """The Ethernet frame that asks who has the address."""
    return solicitation_probe(mac, address) if isinstance(address, ipaddress.IPv6Address) else arp_probe(mac, address)


def _heard(wire: socket.socket, frame: bytes, clock: Callable[[], float]) -> Iterator[Assertion]:
    """What is said on the wire until the bound, while the question is put at its times."""
    began = clock()
    left = list(PROBES)
    poll = select.poll()
    poll.register(wire, select.POLLIN)
    while (now := clock() - began) < PROBE_BOUND:
        if left and left[0] <= now:
            del left[0]
            wire.send(frame)
            continue
        if poll.poll(1000 * ((left[0] if left else PROBE_BOUND) - now) + 1):
            said = assertion(wire.recv(2048))
            if said is not None:
                yield said


def _listen_to_groups(wire: socket.socket, interface: str, address: ipaddress.IPv6Address) -> None:
    """Have the card pass on what goes to all nodes (answers) and to the address's group (others' probes)."""
    index = socket.if_nametoindex(interface)
    for group in (ALL_NODES, solicited_node(address)):
        request = struct.pack("=iHH8s", index, _MULTICAST, 6, multicast_mac(group))
        wire.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
