"""What is chosen for a new target, and what an operator may not choose."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.actions.choosing import IdentityWish, choose_identity, choose_paths, legal_iqn, paths_with_tags
from gateway.errors import AlreadyExists, BadInput, NotFound, RbdgateError, Refused
from gateway.model import ClusterView, ImageName, Iqn, Label, parse_address
from tests.fakes.operation import operation

S1, S2 = Label("storage-1"), Label("storage-2")
NAME = ImageName.parse("rbd/disk1")


def view() -> ClusterView:
    """A cluster with the networks storage-1 (IPv4, four addresses) and storage-2 (IPv6)."""
    return operation(agents=1).store.view()


def test_paths_lie_in_the_networks_in_turn() -> None:
    """Paths are spread evenly, tags count from 1, and what is taken is passed over."""
    taken = {parse_address("10.0.1.100"): "rbd/other"}
    paths = choose_paths(view(), taken, (), 3)
    assert [(p.tag, str(p.address), p.network) for p in paths] == [
        (1, "10.0.1.101", S1),
        (2, "fd77:2::100", S2),
        (3, "10.0.1.102", S1),
    ]


def test_named_addresses_come_first() -> None:
    """What is named is taken as named, and the rest evens the networks out."""
    paths = choose_paths(view(), {}, [(S1, parse_address("10.0.1.7"))], 2)
    assert [str(p.address) for p in paths] == ["10.0.1.7", "fd77:2::100"]


def test_a_full_range_is_left_for_another() -> None:
    """When one network's range is full the others are used; when all are, that is said."""
    full = {parse_address(f"10.0.1.{n}"): "x" for n in range(100, 104)}
    assert {p.network for p in choose_paths(view(), full, (), 2)} == {S2}
    small = view()
    small = replace(small, settings=replace(small.settings, networks=small.settings.networks[:1]))
    with pytest.raises(Refused, match="no portal address is free in any network"):
        choose_paths(small, full, (), 1)


@pytest.mark.parametrize(
    ("network", "address", "kind", "reason"),
    [
        ("storage-1", "10.0.9.1", BadInput, r"not in network storage-1 .* but outside every network"),
        ("storage-1", "fd77:2::1", BadInput, r"but in network storage-2"),
        ("storage-3", "10.0.1.1", NotFound, r"no network storage-3; the cluster has storage-1"),
        ("storage-1", "10.0.1.0", BadInput, "network or broadcast address"),
        ("storage-1", "10.0.1.255", BadInput, "network or broadcast address"),
        ("storage-1", "10.0.1.50", AlreadyExists, "taken by image rbd/other"),
    ],
)
def test_named_addresses_are_checked(network: str, address: str, kind: type[RbdgateError], reason: str) -> None:
    """An address that cannot be a portal here is refused with the reason."""
    taken = {parse_address("10.0.1.50"): "rbd/other"}
    with pytest.raises(kind, match=reason):
        choose_paths(view(), taken, [(Label(network), parse_address(address))], 1)


def test_a_gateways_own_address_is_no_portal() -> None:
    """The address a gateway reaches Ceph from is neither taken nor given."""
    made = operation(agents=0)
    made.add_agents(1)
    looked = made.store.view()
    live = next(iter(looked.live.values()))
    own = type(live.instances[0])("10.0.1.100:0/5")
    looked = replace(looked, live={live.name: replace(live, instances=(own,))})
    assert [str(p.address) for p in choose_paths(looked, {}, (), 1)] == ["10.0.1.101"]
    with pytest.raises(AlreadyExists, match="a gateway's own"):
        choose_paths(looked, {}, [(S1, parse_address("10.0.1.100"))], 1)


def test_tags_are_kept() -> None:
    """An adopted target's paths keep their tags, in the networks their addresses lie in."""
    paths = paths_with_tags(view(), {}, {2: parse_address("10.0.1.9"), 1: parse_address("fd77:2::9")})
    assert [(p.tag, p.network) for p in paths] == [(1, S2), (2, S1)]


RBD_NAMES = st.from_regex(r"[A-Za-z0-9_.+:=-][A-Za-z0-9_.+:=\- ]{0,300}", fullmatch=True)


@given(RBD_NAMES, RBD_NAMES, st.text(alphabet="0123456789abcdef", min_size=16, max_size=16))
def test_any_image_name_makes_a_legal_iqn(pool: str, name: str, uid: str) -> None:
    """Whatever RBD allows in a name, the target name made of it is a legal iSCSI name with the uid's digits."""
    iqn = legal_iqn("iqn.2026-11.io.rbdgate", ImageName(pool, name), uid)
    assert iqn.text.endswith(uid[:8])


def test_iqn_of_a_plain_name() -> None:
    """A plain name stays readable."""
    assert str(legal_iqn("iqn.2026-11.io.rbdgate", NAME, "00112233445566aa")) == (
        "iqn.2026-11.io.rbdgate:rbd-disk1-00112233"
    )


def test_a_kept_identity() -> None:
    """What an image was known by elsewhere is kept, the rest is chosen."""
    wish = IdentityWish(iqn=Iqn("iqn.2016-05.com.petasan:00001"), vendor="PETASAN")
    identity = choose_identity("iqn.2026-11.x", NAME, "0" * 16, "the-serial", wish)
    assert (str(identity.iqn), identity.serial) == ("iqn.2016-05.com.petasan:00001", "the-serial")
    assert (identity.vendor, identity.product) == ("PETASAN", "RBD")
    with pytest.raises(BadInput, match="vendor"):
        choose_identity("iqn.2026-11.x", NAME, "0" * 16, "s", IdentityWish(vendor="much too long"))


def test_more_addresses_than_paths() -> None:
    """Naming more addresses than paths, or asking for none, is refused."""
    two = [(S1, parse_address("10.0.1.7")), (S1, parse_address("10.0.1.8"))]
    for named, count in ((two, 1), ([], 0)):
        with pytest.raises(BadInput, match="ask for at least that many"):
            choose_paths(view(), {}, named, count)


def test_an_ipv6_range_is_walked_as_far_as_needed() -> None:
    """A large range costs only what is looked at."""
    wide = view()
    network = wide.settings.networks[1]
    network = replace(network, last=ipaddress.ip_address("fd77:2::ffff:ffff:ffff:fffe"))
    wide = replace(wide, settings=replace(wide.settings, networks=(network,)))
    assert len(choose_paths(wide, {}, (), 3)) == 3
