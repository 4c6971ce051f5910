"""What the network room puts on the wire and into netlink, as bytes; and what it makes of what it reads."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import KernelRefused
from gateway.model import Label, Network
from gateway.network.announcement import frames
from gateway.network.blackhole import rule
from gateway.network.interfaces import OUR_PROTOCOL, AddressEntry, Link, ours, serving
from gateway.network.netlink import attribute, attributes, expect
from gateway.network.packets import checksum
from gateway.network.tcp import Peer, connection, segment
from gateway.observed import Portal

MAC = bytes.fromhex("0217a4000001")
V4, V6 = ipaddress.ip_address("10.77.1.100"), ipaddress.ip_address("fd77:1::100")
LAN1 = Network.parse("storage-1=10.77.1.0/24,10.77.1.100-10.77.1.199")
LAN2 = Network.parse("storage-2=10.77.2.0/24,10.77.2.100-10.77.2.199")


@given(st.dictionaries(st.integers(min_value=1, max_value=60), st.binary(max_size=70), max_size=8))
def test_attributes_read_back_as_written(values: dict[int, bytes]) -> None:
    """Padding and lengths of netlink attributes lose nothing."""
    assert attributes(b"".join(attribute(kind, value) for kind, value in values.items())) == values


@given(st.binary(max_size=100))
def test_garbage_is_no_endless_attribute_list(data: bytes) -> None:
    """Whatever the bytes, reading attributes ends."""
    attributes(data)


def test_arp_announces_in_both_forms() -> None:
    """One request and one reply, broadcast, sender and target address both the portal's (RFC 5227)."""
    request, reply = frames(MAC, V4)
    for frame, operation, target in ((request, 1, bytes(6)), (reply, 2, b"\xff" * 6)):
        assert len(frame) == 60
        assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
        assert frame[14:42] == struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + MAC + V4.packed + target + V4.packed


def test_the_neighbour_advertisement_is_whole() -> None:
    """Hop limit 255, override set, own MAC as option, and a checksum that adds up (RFC 4861, RFC 4443)."""
    (frame,) = frames(MAC, V6)
    header, message = frame[14:54], frame[54:]
    assert frame[:6] == bytes.fromhex("333300000001")
    assert (header[6], header[7]) == (socket.IPPROTO_ICMPV6, 255)
    assert header[8:24] == V6.packed
    assert (message[0], message[4], message[8:24], message[24:]) == (136, 0x20, V6.packed, b"\x02\x01" + MAC)
    pseudo = header[8:40] + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    assert checksum(pseudo + message) == 0


@pytest.mark.parametrize("address", [V4, V6])
def test_a_nudge_is_a_bare_ack_with_a_right_checksum(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """No data, no other flag, and the checksum over pseudo header and segment is 0."""
    peer = Peer(type(address)(int(address) + 1), 40000)
    tcp = segment(Portal(address, 3260), peer)
    assert len(tcp) == 20
    assert struct.unpack("!HHIIBB", tcp[:14]) == (3260, 40000, 0, 0, 0x50, 0x10)
    ends = address.packed + peer.address.packed
    pseudo = ends + (struct.pack("!BBH", 0, 6, 20) if address.version == 4 else struct.pack("!II", 20, 6))
    assert checksum(pseudo + tcp) == 0


@pytest.mark.parametrize(("address", "family"), [(V4, socket.AF_INET), (V6, socket.AF_INET6)])
def test_a_cut_is_a_marked_blackhole_rule_for_one_source(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, family: int
) -> None:
    """Family, full prefix length, action blackhole, source, priority below 100 and our mark."""
    body = rule(32, 0, address).body
    assert (body[0], body[2], body[7]) == (family, address.max_prefixlen, 6)
    values = attributes(body[12:])
    assert values[2] == address.packed
    assert int.from_bytes(values[6], "little") < 100
    assert values[21] == bytes((OUR_PROTOCOL,))


@pytest.mark.parametrize(
    ("own", "peer", "family"),
    [("10.77.1.100", "10.77.1.61", socket.AF_INET), ("fd77:1::100", "fd77:1::61", socket.AF_INET6)],
)
def test_a_connection_is_read_from_the_kernels_answer(own: str, peer: str, family: int) -> None:
    """Addresses and ports of inet_diag_msg stand where uapi/linux/inet_diag.h has them."""
    ends = [ipaddress.ip_address(text).packed.ljust(16, b"\0") for text in (own, peer)]
    body = struct.pack("!BBBBHH", family, 1, 0, 0, 3260, 40000) + ends[0] + ends[1] + bytes(40)
    assert connection(body) == (
        Portal(ipaddress.ip_address(own), 3260),
        Peer(ipaddress.ip_address(peer), 40000),
    )


def entry(index: int, address: str, prefix: int, protocol: int = 0) -> AddressEntry:
    """An address as the kernel lists it."""
    return AddressEntry(index, ipaddress.ip_address(address), prefix, protocol)


LINKS = {2: Link(2, "eth0", up=True), 3: Link(3, "eth1", up=False), 4: Link(4, "eth2", up=True)}


def test_a_network_is_served_where_the_node_has_an_address_of_its_own() -> None:
    """The interface with an address in the prefix serves; a portal address alone does not make it serve."""
    found = (
        entry(2, "10.77.1.11", 24),
        entry(3, "10.77.2.100", 32, OUR_PROTOCOL),
        entry(4, "10.77.2.101", 32),
    )
    served = serving((LAN1, LAN2), LINKS, found, frozenset({ipaddress.ip_address("10.77.2.101")}))
    assert {label: interface.name for label, interface in served.items()} == {Label("storage-1"): "eth0"}


def test_of_two_interfaces_in_a_network_the_one_that_is_up_serves() -> None:
    """A link that is down does not hide one that is up."""
    found = (entry(3, "10.77.1.11", 24), entry(4, "10.77.1.12", 24))
    served = serving((LAN1,), LINKS, found, frozenset())
    assert served[Label("storage-1")].name == "eth2"
    assert served[Label("storage-1")].up
    alone = serving((LAN1,), LINKS, found[:1], frozenset())
    assert not alone[Label("storage-1")].up


def test_only_single_host_addresses_that_are_marked_or_known_are_ours() -> None:
    """A node's own address is never taken for a portal, even if somebody lists it as one."""
    known = ipaddress.ip_address("10.77.1.11")
    found = (
        entry(2, "10.77.1.11", 24),
        entry(2, "10.77.1.100", 32, OUR_PROTOCOL),
        entry(2, "10.77.1.101", 32),
        entry(4, "fd77:1::100", 128, OUR_PROTOCOL),
    )
    assert ours(LINKS, found, frozenset({known})) == {V4: "eth0", V6: "eth2"}


def test_an_unexpected_answer_names_its_subject_and_counts_the_others() -> None:
    """The errno that is fine is passed over; the first other one is told with its subject."""
    expect([0, 17, 0], ["a", "b", "c"], "cut", fine=17)
    with pytest.raises(KernelRefused, match=r"cannot cut b: .*\(EPERM\), and 1 more; run as root"):
        expect([17, 1, 19], ["a", "b", "c"], "cut", fine=17)
