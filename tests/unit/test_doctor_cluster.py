"""What the doctor says of what a gateway depends on: etcd, Ceph, networks, leftovers and the other gateways."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from gateway.doctor.checks import ceph, etcd, gateways, leftovers, networks
from gateway.doctor.checks.ceph import CephFacts, Connected, PoolFacts
from gateway.doctor.checks.etcd import Certificate, EndpointFacts, EtcdFacts, Rights
from gateway.doctor.checks.gateways import GatewayFacts
from gateway.doctor.checks.leftovers import LeftoverFacts, Tenure
from gateway.doctor.checks.networks import NetworkFacts, Nic
from gateway.doctor.finding import Finding, Severity, Unread
from gateway.model import (
    Claim,
    ClusterSettings,
    ClusterView,
    HolderRecord,
    Identity,
    ImageName,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    LiveNode,
    Network,
    NodeRecord,
    NodeState,
    Path,
)
from gateway.observed import ANCHOR, GENERATION_BASE, Device, DeviceName, Mapping, Portal, Target, Tpg
from gateway.report import NodeReport
from gateway.store.exposition import fsync_p99
from gateway.store.values import Member, MemberStatus

A = ipaddress.ip_address
UNREAD = Unread("something", "a reason")
DAY = 86400.0


def worst(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """What is not good, as (severity, text); each says what to do."""
    bad = [finding for finding in findings if finding.severity is not Severity.OK]
    assert all(finding.what_to_do for finding in bad)
    return [(finding.severity.value, finding.text) for finding in bad]


def only(findings: Iterable[Finding]) -> tuple[str, str]:
    """The one thing that is not good."""
    (bad,) = worst(findings)
    return bad


def endpoint(number: int, **changes: Any) -> EndpointFacts:
    """A healthy member; the first one leads."""
    status = MemberStatus(f"10.0.0.{number}:2379", number, 1, 2, 100, "3.5.21", 20 << 20)
    facts = EndpointFacts(status.endpoint, status, (0.001, 0.002, 0.2), 2 << 30, 0.008)
    own = {
        key: value
        for key, value in changes.items()
        if key in ("reads", "quota", "fsync_p99", "status", "certificate_ends")
    }
    told = {key: value for key, value in changes.items() if key not in own}
    return replace(facts, **({"status": replace(status, **told)} | own))


ETCD = EtcdFacts(
    endpoints=(endpoint(1), endpoint(2), endpoint(3)),
    members=(Member(1, "a"), Member(2, "b"), Member(3, "c")),
    alarms=(),
    cluster="a cluster",
    call_bound=1.5,
)


def members(*endpoints: EndpointFacts) -> EtcdFacts:
    """etcd with these endpoints for the first ones."""
    return replace(ETCD, endpoints=(*endpoints, *ETCD.endpoints[len(endpoints) :]))


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (members(endpoint(1, reads=(0.2, 0.3, 0.01))), "warning", "takes 200 ms"),
        (members(endpoint(1, reads=(0.8, 0.9, 0.01))), "error", "given up after 1.5 s"),
        (members(endpoint(1, reads=UNREAD)), "error", "answers no reads"),
        (members(endpoint(1, leader_id=0)), "error", "knows no leader"),
        (members(endpoint(1, leader_id=2)), "error", "different leaders"),
        (members(endpoint(1, version="3.5.20")), "warning", "different versions"),
        (members(endpoint(1, fsync_p99=0.128)), "warning", "0.128 s or more to write its log"),
        (members(endpoint(1, fsync_p99=float("inf"))), "warning", "to write its log"),
        (members(endpoint(1, database_bytes=1700 << 20)), "warning", "1700 of 2048 MiB"),
        (members(endpoint(1, database_bytes=1700 << 20, quota=None)), "warning", "1700 of 2048 MiB"),
        (replace(ETCD, alarms=((1, "NOSPACE"),)), "error", "NOSPACE"),
        (replace(ETCD, alarms=UNREAD), "warning", "could not be looked at"),
        (replace(ETCD, members=(*ETCD.members, Member(4, "d"))), "warning", "even number"),  # type: ignore[misc]
        (replace(ETCD, cluster=Unread("it", "not initialised")), "warning", "not initialised"),
        (replace(ETCD, members=UNREAD), "warning", "could not be looked at"),
        (replace(ETCD, certificate=UNREAD), "error", "the files that secure the way to etcd are not right: a reason"),
        (replace(ETCD, certificate=Certificate("/crt", 5 * DAY), now=8 * DAY), "error", "/crt, ended 3 days ago"),
        (replace(ETCD, certificate=Certificate("/crt", 13 * DAY)), "warning", "/crt, ends in 13 days"),
        (replace(ETCD, certificate=Certificate("/crt", DAY)), "warning", "/crt, ends in 24 hours"),
        (members(endpoint(1, certificate_ends=13 * DAY)), "warning", "certificate of 10.0.0.1:2379 ends in 13 days"),
        (replace(ETCD, rights=UNREAD), "warning", "could not be looked at"),
        (replace(ETCD, rights=Rights(("/x/",), outside=False)), "error", "not let this node read and write under /x/"),
        (replace(ETCD, rights=Rights((), outside=True)), "warning", "keys of others"),
    ],
)
def test_etcd(facts: EtcdFacts, severity: str, words: str) -> None:
    """Each thing that may be wrong with etcd is told, as bad as it is; the median of reads counts, not the slowest."""
    assert worst(etcd.check(ETCD)) == []
    found = worst(etcd.check(facts))
    assert any(told == severity and words in text for told, text in found), found
    assert found[0][0] != "error" or severity == "error"


@pytest.mark.parametrize(
    ("version", "severity"),
    [("3.3.27", "warning"), ("3.4.23", "warning"), ("3.4.29", "ok"), ("3.5.9", "warning"), ("3.5.11", "ok"),
     ("3.6.0-rc.1", "ok"), ("not told", "ok")],
)  # fmt: skip
def test_etcd_whose_leader_may_end_leases(version: str, severity: str) -> None:
    """Named, with what to run instead; a version that cannot be read is not judged."""
    facts = members(*(endpoint(number, version=version) for number in (1, 2, 3)))
    found = [each for each in etcd.check(facts) if "answers:" in each.text]
    assert [each.severity.value for each in found] == [severity] * 3
    assert all(("3.4.29" in each.what_to_do) == (severity == "warning") for each in found)


def test_etcd_members_that_do_not_answer() -> None:
    """One silent member of three is an error of its own and leaves a warning about the rest; two leave no quorum."""
    silent = [EndpointFacts(f"10.0.0.{n}:2379", UNREAD, UNREAD) for n in (1, 2)]
    one = worst(etcd.check(members(silent[0])))
    assert [severity for severity, _ in one] == ["error", "warning"]
    assert "2 of 3 members answer: when one more goes" in one[1][1]
    two = worst(etcd.check(members(*silent)))
    assert [severity for severity, _ in two] == ["error", "error", "error"]
    assert "1 of 3 members answer" in two[2][1]


def test_etcd_whose_members_are_not_known() -> None:
    """Where nobody lists the members, the settings' endpoints are counted: one of three is no quorum."""
    silent = [EndpointFacts(f"10.0.0.{n}:2379", UNREAD, UNREAD) for n in (1, 2)]
    told = worst(etcd.check(replace(members(*silent), members=UNREAD)))
    assert ("error", "1 of 3 endpoints answer: no quorum in sight") in told


def test_what_is_good_is_said_only_where_it_is() -> None:
    """That nothing is left, raised or lifted is said where it was seen, and not where it was not."""

    def good(findings: Iterable[Finding], words: str) -> bool:
        return any(finding.severity is Severity.OK and words in finding.text for finding in findings)

    lasting = replace(ETCD, certificate=Certificate("/crt", 30 * DAY), rights=Rights((), outside=False))
    assert good(etcd.check(lasting), "/crt, lasts 30 days")
    assert good(etcd.check(lasting), "and no others")
    assert not good(etcd.check(replace(lasting, rights=Rights(("/x/",), outside=False))), "and no others")
    raised = replace(ETCD, alarms=((1, "CORRUPT"),))
    assert good(etcd.check(ETCD), "no alarm")
    assert not good(etcd.check(raised), "no alarm")
    assert good(leftovers.check(CLEAN), "nothing is here")
    assert not good(leftovers.check(replace(CLEAN, devices=(OLD,))), "nothing is here")
    lifted = replace(CEPH, connected=replace(CONNECTED, blocklist=frozenset()))
    assert good(ceph.check(CEPH), "all 1 fences")
    assert not good(ceph.check(lifted), "all 1 fences")


def test_etcd_with_too_few_or_unnamed_members() -> None:
    """A single member has nobody to spare; members that the settings do not name are told by name."""
    single = replace(ETCD, endpoints=ETCD.endpoints[:1], members=(Member(1, "a"),))
    assert "fewer than 3" in only(etcd.check(single))[1]
    unnamed = worst(etcd.check(replace(ETCD, endpoints=ETCD.endpoints[:2])))
    assert any("no endpoint of c" in text for _, text in unnamed)


def test_the_histogram_of_a_members_log() -> None:
    """The 99th percentile is the first bucket that has 99 of 100 syncs; few syncs say nothing."""
    name = "etcd_disk_wal_fsync_duration_seconds_bucket"
    text = "".join(f'{name}{{le="{end}"}} {count}\n' for end, count in (("0.001", 900), ("0.008", 990), ("+Inf", 1000)))
    assert fsync_p99(text) == 0.008
    assert fsync_p99(text.replace("990", "989")) == float("inf")
    assert fsync_p99(text.replace("1000", "999").replace("990", "999")) is None
    assert fsync_p99("") is None


VICTIM, MINE = Instance("10.0.0.9:0/1"), Instance("10.0.0.1:0/7")
CONNECTED = Connected(
    fsid="f",
    health="HEALTH_WARN",
    may_fence=True,
    may_administer=False,
    blocklist=frozenset({VICTIM}),
    pools=(PoolFacts("rbd", readable=True, writable=True, took=0.002),),
)
CEPH = CephFacts(
    user="rbdgate",
    keyring="/etc/ceph/k",
    keyring_mode=0o640,
    key_denied=False,
    connected=CONNECTED,
    expected_fsid="f",
    fences={VICTIM: "gw2"},
    own=frozenset({MINE}),
)


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"keyring_mode": 0o644}, "error", "has mode 0644"),
        ({"keyring_mode": 0o660}, "error", "has mode 0660"),
        ({"keyring_mode": UNREAD}, "warning", "could not be looked at"),
        ({"user": "admin"}, "warning", "client.admin"),
        ({"connected": UNREAD}, "error", "Ceph cannot be asked: a reason"),
        ({"connected": UNREAD, "key_denied": True}, "warning", "only root may read"),
        ({"expected_fsid": "other"}, "error", "gateways' is other"),
        ({"fences": {VICTIM: "gw2", Instance("10.0.0.9:0/2"): "gw2"}}, "error", "10.0.0.9:0/2 of node gw2"),
        ({"own": frozenset({VICTIM})}, "error", "another gateway fenced it"),
        ({"own": UNREAD}, "warning", "could not be looked at"),
    ],
)
def test_ceph(change: dict[str, Any], severity: str, words: str) -> None:
    """Each thing that may be wrong with this node's way to Ceph is told alone."""
    assert worst(ceph.check(CEPH)) == []
    found = only(ceph.check(replace(CEPH, **change)))
    assert found[0] == severity
    assert words in found[1]


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"health": "HEALTH_ERR"}, "warning", "HEALTH_ERR"),
        ({"health": UNREAD}, "warning", "could not be looked at"),
        ({"may_fence": False}, "error", "may not blocklist"),
        ({"may_fence": UNREAD}, "warning", "could not be looked at"),
        ({"may_administer": True}, "warning", "no gateway needs"),
        ({"blocklist": UNREAD}, "warning", "could not be looked at"),
        ({"pools": (PoolFacts("p", readable=False, writable=False, took=0),)}, "error", "may not read pool p"),
        ({"pools": (PoolFacts("p", readable=True, writable=False, took=0),)}, "error", "may not write pool p"),
        ({"pools": (PoolFacts("p", UNREAD, UNREAD, 0),)}, "error", "pool p: a reason"),
        ({"pools": (PoolFacts("p", readable=True, writable=True, took=0.6),)}, "warning", "took 600 ms"),
    ],
)
def test_rights_in_ceph(change: dict[str, Any], severity: str, words: str) -> None:
    """Rights that are missing are errors, rights beyond what a gateway needs a warning."""
    found = only(ceph.check(replace(CEPH, connected=replace(CONNECTED, **change))))
    assert found[0] == severity
    assert words in found[1]


NETWORK = Network.parse("lan1=10.1.0.0/24,10.1.0.100-10.1.0.199")
SECOND = Network.parse("lan2=10.2.0.0/24,10.2.0.100-10.2.0.199")
SIX = Network.parse("six=fd00:1::/64,fd00:1::100-fd00:1::199")
LOOSE = {"arp_ignore": 1, "arp_announce": 2, "rp_filter": 2, "disable_ipv6": 0}


def nic(name: str, *addresses: str, up: bool = True, broken: tuple[str, ...] = (), **sysctls: int) -> Nic:
    """An interface with those addresses of its own."""
    return Nic(name, up, 1500, tuple(map(A, addresses)), tuple(map(A, broken)), LOOSE | sysctls)


ETH1, ETH2 = nic("eth1", "10.1.0.11", "fd00:1::11"), nic("eth2", "10.2.0.11")
NETWORKS = NetworkFacts((NETWORK, SECOND, SIX), (nic("eth0", "192.0.2.1", arp_ignore=0), ETH1, ETH2))


@pytest.mark.parametrize(
    ("nics", "severity", "words"),
    [
        ((ETH1,), "error", "no interface of this node has an address of its own in network lan2"),
        ((ETH1, nic("eth2", "10.2.0.11", up=False)), "error", "eth2, which serves network lan2, has no link"),
        ((ETH1, ETH2, nic("eth3", "10.2.0.12")), "warning", "eth2 and eth3 all have addresses in network lan2"),
        ((ETH1, nic("eth2", "10.2.0.150")), "error", "lies in the portals' range of network lan2"),
        ((nic("eth1", "10.1.0.11", "fd00:1::11", "10.2.0.11"),), "warning", "lan1 and lan2 and six are on one"),
        ((ETH1, nic("eth2", "10.2.0.11", arp_ignore=0)), "warning", "arp_ignore is below 1 on eth2"),
        ((ETH1, nic("eth2", "10.2.0.11", arp_announce=1)), "warning", "arp_announce is below 2 on eth2"),
        ((ETH1, nic("eth2", "10.2.0.11", rp_filter=1)), "warning", "rp_filter is strict on eth2"),
        ((nic("eth1", "10.1.0.11", "fd00:1::11", disable_ipv6=1), ETH2), "error", "IPv6 is switched off on eth1"),
        ((nic("eth1", "10.1.0.11", "fd00:1::11", broken=("fd00:1::11",)), ETH2), "error", "failed IPv6's duplicate"),
    ],
)
def test_networks(nics: tuple[Nic, ...], severity: str, words: str) -> None:
    """Each thing that may be wrong with an interface is told alone; IPv4 and IPv6 on one interface are no fault."""
    assert worst(networks.check(NETWORKS)) == []
    found = only(networks.check(replace(NETWORKS, nics=nics)))
    assert found[0] == severity
    assert words in found[1]


def test_networks_that_are_not_known() -> None:
    """Without the cluster's settings no interface is judged, and that is said."""
    assert "which networks" in only(networks.check(replace(NETWORKS, networks=UNREAD)))[1]
    assert only(networks.check(replace(NETWORKS, nics=UNREAD)))[0] == "warning"


GW1, GW2 = Label("gw1"), Label("gw2")
UID, OTHER = "00000000000000aa", "00000000000000bb"


def spec(name: str, uid: str, last: int) -> ImageSpec:
    """An image with one path."""
    identity = Identity(Iqn(f"iqn.2026-11.io.rbdgate:{name}"), f"serial-{uid}")
    return ImageSpec(
        ImageName("rbd", name), uid, f"id{uid}", 1 << 30, identity, (Path(1, A(f"10.1.0.{last}"), Label("lan1")),)
    )


MINE_SPEC, THEIRS = spec("a", UID, 100), spec("b", OTHER, 101)


def live(node: Label, version: str = "0.1.0") -> LiveNode:
    """A node with a lease."""
    return LiveNode(node, 1, "boot", version, (), ())


VIEW = ClusterView(
    revision=9,
    settings=ClusterSettings("f", (NETWORK,), "rbd"),
    images={MINE_SPEC.name: MINE_SPEC, THEIRS.name: THEIRS},
    revisions={MINE_SPEC.name: 2, THEIRS.name: 3},
    broken={},
    nodes={GW1: NodeRecord(), GW2: NodeRecord()},
    live={GW1: live(GW1), GW2: live(GW2)},
    claims={UID: Claim(GW1, 1, 5), OTHER: Claim(GW2, 2, 6)},
    records=(HolderRecord(OTHER, VICTIM, GW2, 6, "krbd"),),
    moves={},
    fences={},
)


def target(of: ImageSpec, device: DeviceName | None, *, portal: str = "10.1.0.100", enabled: bool = True) -> Target:
    """A target with one TPG."""
    portals = frozenset({Portal(A(portal), 3260)})
    return Target(of.identity.iqn, (Tpg(1, enabled, device, portals, {}, {}),))


def mapping(of: ImageSpec, number: int, options: dict[str, str] | None = None) -> Mapping:
    """The image mapped; by us unless other options are given."""
    ours = {"osd_idle_ttl": str(GENERATION_BASE + 1)} if options is None else options
    return Mapping(number, of.name.pool, "", of.name.name, of.image_id, MINE, ours, read_only=False, size=of.size)


DEVICE = DeviceName(UID, 5)
ANCHORED = replace(mapping(MINE_SPEC, 0), name=ANCHOR, image_id="anchor", read_only=True)
CLEAN = LeftoverFacts(
    node=GW1,
    view=VIEW,
    devices=(Device(DEVICE, "iblock_29282", "/dev/rbd1", enabled=True, attributes={}, identity={}),),
    targets=((target(MINE_SPEC, DEVICE), ()),),
    mappings=(ANCHORED, mapping(MINE_SPEC, 1)),
    addresses=frozenset({A("10.1.0.100")}),
    cuts=frozenset(),
    tenure=Tenure(this_boot=True, left=7.5),
    strays=(),
)
OLD = Device(DeviceName(UID, 4), "iblock_29282", "/dev/rbd2", enabled=True, attributes={}, identity={})
THEIR_DEVICE = replace(OLD, name=DeviceName(OTHER, 6))
STRANGER = replace(target(MINE_SPEC, None), iqn=Iqn("iqn.2003-01.org.linux-iscsi:x"))


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"devices": (OLD,)}, "error", f"backstore rbdgate.{UID}.4 of image rbd/a is built here"),
        ({"devices": (THEIR_DEVICE,)}, "error", "of image rbd/b is built here"),
        ({"targets": ((target(THEIRS, None), ()),)}, "error", "target iqn.2026-11.io.rbdgate:b of image rbd/b"),
        (
            {"targets": ((target(MINE_SPEC, None), ("fileio_0/x",)),)},
            "error",
            "another tool built it here on fileio_0/x",
        ),
        ({"targets": ((STRANGER, ("fileio_0/x",)),)}, "warning", "is another tool's"),
        ({"mappings": (mapping(THEIRS, 3),)}, "warning", "/dev/rbd3 maps rbd/b, which this node does not hold"),
        ({"mappings": (mapping(THEIRS, 3, {}),)}, "warning", "no gateway made that mapping"),
        ({"addresses": frozenset({A("10.1.0.101")})}, "error", "the portal address 10.1.0.101 is on this node"),
        ({"cuts": frozenset({A("10.1.0.100")})}, "warning", "is here and cut off"),
        ({"tenure": Tenure(this_boot=True, left=-3.0)}, "error", "the tenure ended 3 s ago"),
        ({"tenure": Tenure(this_boot=False, left=9.0)}, "error", "an earlier boot"),
        ({"tenure": None}, "error", "there is no tenure"),
        ({"strays": ("/run/rbdgate/.tenure.77",)}, "warning", "half-written"),
        (
            {"view": replace(VIEW, live={GW1: live(GW1)})},
            "warning",
            "node gw2 is not live and may have 1 image(s) open",
        ),
        ({"view": UNREAD}, "warning", "what of this node's exports should be here"),
        ({"mappings": UNREAD}, "warning", "could not be looked at"),
    ],
)
def test_leftovers(change: dict[str, Any], severity: str, words: str) -> None:
    """What is here under no claim of this node's, or not made by us, is told alone; what is held is not."""
    assert worst(leftovers.check(CLEAN)) == []
    found = only(leftovers.check(replace(CLEAN, **change)))
    assert found[0] == severity
    assert words in found[1]


def test_a_foreign_target_that_listens_everywhere() -> None:
    """Another tool's portal on all addresses keeps ours from being opened, so it is an error."""
    wide = replace(target(MINE_SPEC, None, portal="0.0.0.0"), iqn=STRANGER.iqn)
    assert "listens on every address" in only(leftovers.check(replace(CLEAN, targets=((wide, ("fileio_0/x",)),))))[1]


GATEWAYS = GatewayFacts(GW1, "0.1.0", VIEW, {GW1: NodeReport(GW1, "0.1.0", "holds 1 image", ())})


@pytest.mark.parametrize(
    ("view", "severity", "words"),
    [
        ({"live": {GW2: live(GW2), Label("gw3"): live(Label("gw3"))}}, "error", "this node, gw1, is not live"),
        ({"nodes": {GW1: NodeRecord(NodeState.DRAIN), GW2: NodeRecord()}}, "warning", "into drain"),
        ({"live": {GW1: live(GW1), GW2: live(GW2, "0.2.0")}}, "warning", "0.1.0 on gw1, 0.2.0 on gw2"),
        ({"broken": {"rbd/c": "no JSON"}}, "error", "what etcd has of rbd/c"),
    ],
)
def test_gateways(view: dict[str, Any], severity: str, words: str) -> None:
    """A node that is no member, versions that differ and values that cannot be read are told alone."""
    assert worst(gateways.check(GATEWAYS)) == []
    found = only(gateways.check(replace(GATEWAYS, view=replace(VIEW, **view))))
    assert found[0] == severity
    assert words in found[1]


def test_a_gateway_that_is_alone() -> None:
    """With one live gateway nobody takes over, and the other one is told as not live."""
    found = [text for _, text in worst(gateways.check(replace(GATEWAYS, view=replace(VIEW, live={GW1: live(GW1)}))))]
    assert "node gw2 is not live" in found[0]
    assert "nobody takes over" in found[1]


def test_obstacles() -> None:
    """What keeps this node from taking images is an error here, and a warning where it is another's."""
    told = {node: NodeReport(node, "0.1.0", "", (), "no guard") for node in (GW1, GW2)}
    assert [severity for severity, _ in worst(gateways.check(replace(GATEWAYS, reports=told)))] == ["error", "warning"]


def test_an_agent_that_was_not_restarted_after_an_upgrade() -> None:
    """A newer program than the agent that runs is told, with what to do."""
    assert "0.2.0 is installed" in only(gateways.check(replace(GATEWAYS, version="0.2.0")))[1]
