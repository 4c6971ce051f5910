"""The membership: taken up by a successor without a touch, left only with an empty kernel, begun with new clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.errors import LeaseGone, StorageUnavailable
from gateway.model import LiveNode
from gateway.store.values import Lease
from gateway.timers import Timers
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)
Join = Callable[[str], Member]


@pytest.fixture
def cluster() -> Cluster:
    """A cluster with one image and no node."""
    return Cluster(NETWORKS, (SPEC,))


@pytest.fixture
def join(cluster: Cluster, tmp_path: Path) -> Iterator[Join]:
    """Makes nodes whose agents run, and ends them."""
    members: list[Member] = []

    def make(name: str) -> Member:
        member = Member(cluster, name, tmp_path)
        member.start()
        members.append(member)
        return member

    yield make
    for member in members:
        member.stop()


def serves(member: Member) -> bool:
    """Whether the image's portals are on this node."""
    return {path.address for path in SPEC.paths} <= set(member.kernel.state.addresses)


def lose_lease(member: Member) -> None:
    """Let the lease run out, and the agent learn of it."""
    member.cluster.now += 100
    member.membership.prove()
    assert not member.membership.tenure.runs(0.0)


def test_a_node_joins_claims_and_serves(join: Join) -> None:
    """From nothing: lease, anchor, word, claim, fence, export, and then rest."""
    member = join("gw1")
    member.settle()
    assert serves(member)
    view = member.cluster.store.view()
    assert view.claims[SPEC.uid].lease == member.lease
    anchor = member.kernel.anchor_instance()
    assert set(view.live[member.name].instances) == {anchor, member.link.instance}
    assert {record.instance for record in view.records} == {anchor, member.link.instance}


def test_a_successor_touches_nothing(join: Join) -> None:
    """A restarted agent takes up lease and claims; all it changes is the name of its own new RADOS client."""
    member = join("gw1")
    member.settle()
    before, lease = member.kernel.state, member.lease
    member.acts.clear()
    assert member.restart()
    member.settle()
    assert member.acts == []
    assert (member.kernel.state, member.lease) == (before, lease)
    view = member.cluster.store.view()
    present = {member.kernel.anchor_instance(), member.link.instance}
    assert {record.instance for record in view.records} == present
    assert set(view.live[member.name].instances) == present
    assert set(member.cluster.pool.holders[SPEC.uid].instances) == present


def test_a_successor_without_etcd_touches_nothing(join: Join) -> None:
    """While the tenure its predecessor proved runs, an agent that cannot reach etcd leaves the kernel as it is."""
    member = join("gw1")
    member.settle()
    before = member.kernel.state
    member.acts.clear()
    member.stop()
    member.cluster.etcd.down = True
    assert member.start()
    for _ in range(3):
        assert member.turn() is None
    assert (member.acts, member.kernel.state) == ([], before)
    member.cluster.etcd.down = False
    member.settle()
    assert (member.acts, member.kernel.state) == ([], before)


def test_a_successor_without_tenure_withdraws_before_it_joins(join: Join) -> None:
    """With no word in `/run` what is in the kernel is nobody's: it goes, then a membership is begun."""
    member = join("gw1")
    member.settle()
    old = member.lease
    member.stop()
    member.runtime.drop_tenure()
    assert not member.start()
    while not member.empty:
        assert member.lease == 0
        member.turn()
    assert member.lease == 0
    member.cluster.now += 100  # the former lease ran out: nobody renews it
    member.settle()
    assert member.lease not in (0, old)


def test_a_device_that_somebody_holds_open_keeps_a_node_out_for_a_while_only(join: Join) -> None:
    """A mapping that does not go blocks the next membership for its bound; then the node is a member with
    another client, free for other images, and takes this one only when the device is gone."""
    member = join("gw1")
    member.settle()
    old = member.lease
    (stuck,) = member.kernel.state.mappings_of(SPEC)
    member.kernel.held_open = {stuck.number}
    lose_lease(member)
    for _ in range(8):
        member.turn()
    assert member.lease == old
    assert not member.membership.tenure.runs(0.0)
    assert member.kernel.state.mappings == (stuck,)
    member.now += Timers().osd_request_timeout + 16
    for _ in range(8):
        member.turn()
    assert member.lease != old
    assert member.kernel.anchor_instance() != stuck.instance
    assert not serves(member)
    assert "in use" in (member.workers.error(SPEC.uid) or "")
    assert member.report is not None
    assert f"{stuck.dev_path} of an earlier membership did not let go" in member.report.sentence
    member.kernel.held_open = set()
    member.settle()
    assert serves(member)
    assert stuck.instance in member.cluster.pool.blocklist


def test_a_lost_lease_empties_the_kernel_before_another_is_asked_for(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut first, everything withdrawn, and only then a new lease, with new instances; the old ones get fenced."""
    member = join("gw1")
    member.settle()
    old = {member.kernel.anchor_instance(), member.link.instance}
    grant, granted_empty = member.cluster.etcd.grant_lease, list[bool]()

    def granted(ttl: int, *, timeout: float | None = None) -> Lease:
        granted_empty.append(member.empty)
        return grant(ttl, timeout=timeout)

    monkeypatch.setattr(member.cluster.etcd, "grant_lease", granted)
    member.acts.clear()
    lose_lease(member)
    member.settle()
    assert member.acts[:2] == ["cut", "remove_addresses"]
    assert granted_empty == [True]
    assert serves(member)
    assert not {member.kernel.anchor_instance(), member.link.instance} & old
    assert old <= member.cluster.pool.blocklist


def test_a_device_that_stays_mapped_keeps_the_node_out(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one mapping of the former membership is there, its client is, and no lease is asked for."""
    member = join("gw1")
    member.settle()
    unmap = member.kernel.unmap

    def busy(number: int) -> None:
        raise StorageUnavailable("the device does not let go")

    monkeypatch.setattr(member.kernel, "unmap", busy)
    lose_lease(member)
    for _ in range(6):
        member.turn()
    assert not member.kernel.state.addresses
    assert not member.membership.tenure.runs(0.0)
    assert member.name not in member.cluster.store.view().live
    monkeypatch.setattr(member.kernel, "unmap", unmap)
    member.settle()
    assert serves(member)


def test_a_blocklisted_node_resigns_and_comes_back_new(join: Join) -> None:
    """The check finds an own instance on the blocklist: everything goes, the lease too, and the node starts over."""
    member = join("gw1")
    member.settle()
    old, anchor = member.lease, member.kernel.anchor_instance()
    member.cluster.pool.blocklist.add(anchor)
    member.membership.check_blocklist(frozenset(), frozenset({anchor}), old)
    assert not member.membership.tenure.runs(0.0)
    assert member.turn() is not None
    assert not member.kernel.state.addresses
    member.settle()
    assert member.lease != old
    assert all(claim.lease == member.lease for claim in member.cluster.store.view().claims.values())
    assert member.kernel.anchor_instance() not in member.cluster.pool.blocklist
    assert serves(member)


def test_a_step_that_meets_the_blocklist_resigns(join: Join) -> None:
    """A RADOS client that was fenced takes nothing more: its node begins anew with another one."""
    member = join("gw1")
    member.turn()
    first = member.link.instance
    assert first is not None
    member.cluster.pool.blocklist.add(first)
    member.settle()
    assert member.link.instance != first
    assert serves(member)


def test_late_word_of_an_old_client_ends_no_new_membership(join: Join) -> None:
    """Work that hung since the last membership and now meets the blocklist speaks of clients that are gone."""
    member = join("gw1")
    member.settle()
    old, anchor = member.lease, member.kernel.anchor_instance()
    lose_lease(member)
    member.settle()
    member.membership.resign("the client of former times is on the blocklist", old)
    member.membership.check_blocklist(frozenset(), frozenset({anchor}), old)
    assert anchor in member.cluster.pool.blocklist
    assert member.membership.tenure.runs(0.0)


def test_a_name_that_is_live_elsewhere_is_not_taken(join: Join, tmp_path: Path) -> None:
    """A second machine with the same name waits and serves nothing; the first one is not disturbed."""
    first = join("gw1")
    first.settle()
    twin = Member(first.cluster, "gw1", tmp_path / "another machine")
    twin.start()
    for _ in range(3):
        twin.turn()
    assert twin.lease == 0
    assert twin.empty
    assert first.cluster.store.view().live[first.name].lease == first.lease
    assert serves(first)


def test_a_refused_join_gives_its_lease_back(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lost the race for its name between look and join leaves no lease behind."""
    member = join("gw1")
    store, etcd = member.cluster.store, member.cluster.etcd
    revoked: list[int] = []
    revoke = etcd.revoke_lease

    def revoking(lease: int, *, timeout: float | None = None) -> None:
        revoked.append(lease)
        revoke(lease, timeout=timeout)

    grant = etcd.grant_lease

    def granted(ttl: int, *, timeout: float | None = None) -> Lease:
        other = grant(ttl).id
        store.join(LiveNode(member.name, other, "other boot", "1", (), ()))
        return grant(ttl, timeout=timeout)

    monkeypatch.setattr(etcd, "revoke_lease", revoking)
    monkeypatch.setattr(etcd, "grant_lease", granted)
    member.turn()
    assert len(revoked) == 1
    assert member.lease == 0
    with pytest.raises(LeaseGone):
        etcd.keepalive_once(revoked[0])


def test_vanished_fences_are_added_again(join: Join) -> None:
    """What is on record as fenced and has no entry any more gets one."""
    first = join("gw1")
    first.settle()
    lose_lease(first)
    first.settle()
    fenced = frozenset(first.cluster.pool.blocklist)
    assert fenced
    first.cluster.pool.blocklist.clear()
    first.membership.check_blocklist(fenced, frozenset(), first.lease)
    assert first.cluster.pool.blocklist == fenced
    assert first.membership.tenure.runs(0.0)
