"""ARP and IPv6 neighbour discovery as bytes, both ways. Pure: what is sent is built here, what is heard is read here.

Formats: RFC 826 and RFC 5227 (ARP), RFC 4861 section 4 (neighbour discovery), on Ethernet.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from gateway.model import Address

ARP, IPV6 = 0x0806, 0x86DD
"""EtherTypes (uapi/linux/if_ether.h)."""
ARP_REQUEST, ARP_REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
"""ICMPv6 types (RFC 4861 sections 4.3 and 4.4)."""

EVERYBODY = b"\xff" * 6
ALL_NODES = ipaddress.IPv6Address("ff02::1")
_UNSPECIFIED = ipaddress.IPv6Address("::")
_SOURCE_MAC, _TARGET_MAC = 1, 2
_OVERRIDE = 0x20000000
_HOP_LIMIT = 255
_ARP_HEADER = struct.pack("!HHBB", 1, 0x0800, 6, 4)


@dataclass(frozen=True)
class Assertion:
    """What one frame says: that the machine with this MAC has this address, or (a probe) is about to take it."""

    address: Address
    mac: str
    """As `aa:bb:cc:dd:ee:ff`, in lower case."""


def mac_text(mac: bytes) -> str:
    """A hardware address as people write it, in lower case."""
    return mac.hex(":")


def multicast_mac(group: ipaddress.IPv6Address) -> bytes:
    """The Ethernet address of an IPv6 multicast group (RFC 2464 section 7)."""
    return b"\x33\x33" + group.packed[-4:]


def solicited_node(address: ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    """The group that whoever has the address listens to (RFC 4291 section 2.7.1)."""
    return ipaddress.IPv6Address(ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def arp_probe(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """The question whether anybody has the address, in the name of nobody (RFC 5227 section 2.1.1)."""
    return _arp(ARP_REQUEST, mac, bytes(4), bytes(6), address)


def arp_announcements(mac: bytes, address: ipaddress.IPv4Address) -> tuple[bytes, bytes]:
    """The address's announcement in request and in reply form: some neighbours heed only one of them."""
    own = address.packed
    return _arp(ARP_REQUEST, mac, own, bytes(6), address), _arp(ARP_REPLY, mac, own, EVERYBODY, address)


def solicitation_probe(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """The same question in IPv6: a solicitation from the unspecified address (RFC 4862 section 5.4.2)."""
    message = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + address.packed
    return _neighbour(mac, _UNSPECIFIED, solicited_node(address), message)


def advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """The unsolicited advertisement to all nodes, with the override flag (RFC 4861 section 7.2.6)."""
    message = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed
    return _neighbour(mac, address, ALL_NODES, message + struct.pack("!BB", _TARGET_MAC, 1) + mac)


def assertion(frame: bytes) -> Assertion | None:
    """What a received Ethernet frame says about who has an address; None if that is nothing, or it is malformed.

    Checksums are not looked at: a frame that never left this machine has none yet.
    """
    kind = frame[12:14]
    if kind == ARP.to_bytes(2, "big"):
        return _read_arp(frame[14:])
    if kind == IPV6.to_bytes(2, "big"):
        return _read_neighbour(frame[6:12], frame[14:])
    return None


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _arp(operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: ipaddress.IPv4Address) -> bytes:
    """A broadcast ARP frame, filled up to Ethernet's least length."""
    ethernet = EVERYBODY + mac + struct.pack("!H", ARP)
    packet = _ARP_HEADER + struct.pack("!H", operation) + mac + sender + target_mac + target.packed
    return ethernet + packet.ljust(46, b"\0")


def _neighbour(mac: bytes, source: ipaddress.IPv6Address, destination: ipaddress.IPv6Address, message: bytes) -> bytes:
    """An ICMPv6 message in IPv6 in a multicast Ethernet frame, its checksum filled in."""
    pseudo = source.packed + destination.packed + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    checked = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, _HOP_LIMIT)
    ethernet = multicast_mac(destination) + mac + struct.pack("!H", IPV6)
    return ethernet + header + source.packed + destination.packed + checked


def _read_arp(packet: bytes) -> Assertion | None:
    if len(packet) < 28 or packet[:6] != _ARP_HEADER or packet[6:8] not in (b"\0\x01", b"\0\x02"):
        return None
    mac, sender, target = packet[8:14], packet[14:18], packet[24:28]
    claimed = sender if any(sender) else target  # a sender of 0 is a probe for the target
    return Assertion(ipaddress.IPv4Address(claimed), mac_text(mac))


def _read_neighbour(ethernet_source: bytes, packet: bytes) -> Assertion | None:
    header, message = packet[:40], packet[40:]
    if len(message) < 24 or (header[6], header[7]) != (socket.IPPROTO_ICMPV6, _HOP_LIMIT):
        return None
    source, target = ipaddress.IPv6Address(header[8:24]), ipaddress.IPv6Address(message[8:24])
    if message[0] == ADVERTISEMENT:
        return Assertion(target, mac_text(_option(message[24:], _TARGET_MAC) or ethernet_source))
    if message[0] == SOLICITATION:
        if source == _UNSPECIFIED:
            return Assertion(target, mac_text(ethernet_source))
        return Assertion(source, mac_text(_option(message[24:], _SOURCE_MAC) or ethernet_source))
    return None


def _option(options: bytes, wanted: int) -> bytes | None:
    """The MAC in the link-layer address option of that type (RFC 4861 section 4.6.1), if there is one."""
    while len(options) >= 8 and options[1]:
        if options[0] == wanted:
            return options[2:8]
        options = options[8 * options[1] :]
    return None
