"""Telling the neighbours where an address is now, once: gratuitous ARP (RFC 5227 section 3), unsolicited NA (RFC 4861).

The frames go out through a packet socket, past routes and policy rules. Who calls repeats it: one frame can be lost.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from gateway.errors import KernelRefused
from gateway.model import Address

_ARP, _IPV6 = 0x0806, 0x86DD
_EVERYBODY = b"\xff" * 6
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")


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
        return (_ALL_NODES_MAC + mac + struct.pack("!H", _IPV6) + _advertisement(mac, address),)
    ethernet = _EVERYBODY + mac + struct.pack("!H", _ARP)
    # Some neighbours update their tables on requests only, others on replies only.
    return tuple(ethernet + _arp(operation, mac, address) for operation in (1, 2))


def _arp(operation: int, mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    target = bytes(6) if operation == 1 else _EVERYBODY
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return (header + mac + address.packed + target + address.packed).ljust(46, b"\0")


def _advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    # Type 136, flag O (override); option 2, target link-layer address (RFC 4861 sections 4.4 and 4.6.1).
    message = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + address.packed + struct.pack("!BB", 2, 1) + mac
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    checked = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255)
    return header + address.packed + _ALL_NODES.packed + checked


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
