"""What ARP and neighbour discovery say about who has an address: asked, told and read, byte by byte."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Address
from gateway.network.announcement import frames
from gateway.network.packets import Assertion, assertion, checksum
from gateway.network.probe import question

MAC, MAC_TEXT = bytes.fromhex("02a4b6000001"), "02:a4:b6:00:00:01"
OTHER, OTHER_TEXT = bytes.fromhex("02a4b60000ff"), "02:a4:b6:00:00:ff"
V4, V6 = ipaddress.IPv4Address("10.77.1.100"), ipaddress.IPv6Address("fd77:1::12:3456")
PEER4, PEER6 = ipaddress.IPv4Address("10.77.1.61"), ipaddress.IPv6Address("fd77:1::61")


def arp(operation: int, sender_mac: bytes, sender: Address, target: Address) -> bytes:
    """An ARP packet of another host's in Ethernet, unpadded (RFC 826)."""
    body = struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + sender_mac + sender.packed + bytes(6) + target.packed
    return b"\xff" * 6 + sender_mac + b"\x08\x06" + body


def neighbour(source: Address, kind: int, target: Address, options: bytes = b"", hops: int = 255) -> bytes:
    """A neighbour solicitation (135) or advertisement (136) in Ethernet from OTHER, without a checksum."""
    message = struct.pack("!BBHI", kind, 0, 0, 0) + target.packed + options
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, hops) + source.packed + bytes(16)
    return bytes.fromhex("333300000001") + OTHER + b"\x86\xdd" + header + message


def test_the_arp_question_is_asked_in_nobodys_name() -> None:
    """Broadcast request with sender 0.0.0.0 and target MAC 0 (RFC 5227 section 1.1): no table changes by it."""
    frame = question(MAC, V4)
    assert len(frame) == 60
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    assert frame[14:42] == struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + MAC + bytes(4) + bytes(6) + V4.packed


def test_the_solicitation_is_duplicate_detections() -> None:
    """From ::, to the solicited-node group, hop limit 255, no option, checksum right (RFC 4862 section 5.4.2)."""
    frame = question(MAC, V6)
    header, message = frame[14:54], frame[54:]
    assert frame[:12] == bytes.fromhex("3333ff123456") + MAC
    assert (header[6], header[7], header[8:24]) == (58, 255, bytes(16))
    assert ipaddress.IPv6Address(header[24:40]) == ipaddress.IPv6Address("ff02::1:ff12:3456")
    assert message[0] == 135
    assert message[8:] == V6.packed
    pseudo = header[8:40] + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    assert checksum(pseudo + message) == 0


SAID: dict[str, tuple[bytes, Address, str]] = {
    "an ARP reply": (arp(2, OTHER, V4, PEER4), V4, OTHER_TEXT),
    "a gratuitous ARP request": (arp(1, OTHER, V4, V4), V4, OTHER_TEXT),
    "an ARP question of the address's": (arp(1, OTHER, V4, PEER4), V4, OTHER_TEXT),
    "an ARP probe": (arp(1, OTHER, ipaddress.IPv4Address(0), V4), V4, OTHER_TEXT),
    "an ARP question for the address is the asker's": (arp(1, OTHER, PEER4, V4), PEER4, OTHER_TEXT),
    "an advertisement with its option": (neighbour(V6, 136, V6, b"\x02\x01" + MAC), V6, MAC_TEXT),
    "an advertisement without one": (neighbour(V6, 136, V6), V6, OTHER_TEXT),
    "an advertisement from another address": (neighbour(PEER6, 136, V6), V6, OTHER_TEXT),
    "duplicate detection": (neighbour(ipaddress.IPv6Address(0), 135, V6), V6, OTHER_TEXT),
    "duplicate detection with a nonce": (
        neighbour(ipaddress.IPv6Address(0), 135, V6, b"\x0e\x01" + b"n" * 6),
        V6,
        OTHER_TEXT,
    ),
    "a solicitation is the asker's": (neighbour(PEER6, 135, V6, b"\x01\x01" + MAC), PEER6, MAC_TEXT),
    "an option after another": (
        neighbour(V6, 136, V6, b"\x0e\x02" + bytes(14) + b"\x02\x01" + MAC),
        V6,
        MAC_TEXT,
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_what_a_frame_says_is_read(case: str) -> None:
    """Whoever sends with the address, or probes for it, says so; a question for it says something of the asker only."""
    frame, address, mac = SAID[case]
    assert assertion(frame) == Assertion(address, mac)


@pytest.mark.parametrize("address", [V4, V6])
def test_own_words_are_read_back(address: Address) -> None:
    """What announces and what asks is read as what it says."""
    for frame in (*frames(MAC, address), question(MAC, address)):
        assert assertion(frame) == Assertion(address, MAC_TEXT)


SILENT = {
    "IPv4": b"\xff" * 12 + b"\x08\x00" + bytes(60),
    "ARP for another protocol": arp(1, OTHER, V4, V4).replace(b"\x00\x01\x08\x00", b"\x00\x01\x08\x01"),
    "ARP of an unknown operation": arp(9, OTHER, V4, V4),
    "an advertisement that was routed": neighbour(V6, 136, V6, hops=254),
    "an echo": neighbour(V6, 128, V6),
    "an advertisement that is cut": neighbour(V6, 136, V6)[:70],
}


@pytest.mark.parametrize("case", SILENT)
def test_what_says_nothing_is_passed_over(case: str) -> None:
    """Other protocols, frames from beyond a router and malformed ones say nothing of who has an address."""
    assert assertion(SILENT[case]) is None


@given(st.sampled_from(list(SAID.values())), st.data())
def test_no_frame_is_too_broken_to_be_read(said: tuple[bytes, Address, str], data: st.DataObject) -> None:
    """Whatever the bytes and wherever they end, reading them returns."""
    frame = bytearray(said[0][: data.draw(st.integers(0, len(said[0])))])
    for _ in range(data.draw(st.integers(0, 3)) if frame else 0):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assertion(bytes(frame))
    assertion(bytes(frame[:14]) + data.draw(st.binary(max_size=80)))
