"""Which interface serves a network: decided from links and addresses alone."""

from __future__ import annotations

from gateway.model import Network, parse_address
from gateway.network.interfaces import OUR_PROTOCOL, AddressEntry, Link, serving

NETWORK = Network.parse("storage-1=10.1.0.0/24,10.1.0.100-10.1.0.199")
OWN = (AddressEntry(2, parse_address("10.1.0.2"), 24, 0), AddressEntry(3, parse_address("10.1.0.3"), 24, 0))
PORTAL = AddressEntry(3, parse_address("10.1.0.100"), 32, OUR_PROTOCOL)


def served_by(first_up: bool, second_up: bool, *entries: AddressEntry) -> str:
    """The interface that serves, of two that could."""
    links = {2: Link(2, "eth2", first_up), 3: Link(3, "eth3", second_up)}
    return serving((NETWORK,), links, (*OWN, *entries), frozenset())[NETWORK.name].name


def test_of_several_the_first_that_is_up_serves() -> None:
    """Without portals on either the order of the interfaces decides, and a link that is down goes last."""
    assert served_by(True, True) == "eth2"
    assert served_by(False, True) == "eth3"
    assert served_by(False, False) == "eth2"


def test_a_link_that_comes_back_moves_nothing() -> None:
    """The interface that has the portals serves on for as long as it is up."""
    assert served_by(True, True, PORTAL) == "eth3"
    assert served_by(True, False, PORTAL) == "eth2"
