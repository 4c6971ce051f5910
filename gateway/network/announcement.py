"""Telling the neighbours where an address is now, once: gratuitous ARP (RFC 5227 section 3), unsolicited NA (RFC 4861).

The frames go out through a packet socket, past routes and policy rules. Who calls repeats it: one frame can be lost.
"""

from __future__ import annotations

import ipaddress
import socket

from gateway.errors import KernelRefused
from gateway.model import Address
from gateway.network.packets import advertisement, arp_announcements


def announce(interface: str, address: Address) -> None:
    """Send the address's announcement on an Ethernet interface; raises KernelRefused if it cannot be sent."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as wire:
            wire.bind((interface, 0))
            mac = wire.getsockname()[4]
            for frame in frames(mac, address):
                wire.send(frame)
    except OSError as error:
        raise KernelRefused(f"cannot announce {address} on {interface}: {error.strerror}") from None


def frames(mac: bytes, address: Address) -> tuple[bytes, ...]:
    """The Ethernet frames that announce an address at a MAC: ARP in request and in reply form, or one NA."""
    if isinstance(address, ipaddress.IPv6Address):
        return (advertisement(mac, address),)
    return arp_announcements(mac, address)
