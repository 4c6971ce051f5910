"""The end of a membership: the lease before the kernel, never the other way round, and in order when there is time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.shutdown import machine_is_stopping
from gateway.errors import KernelRefused, StoreUnavailable
from gateway.model import ClusterView, Label
from gateway.observed import Kernel
from gateway.report import NodeReport
from gateway.runtime import Tenure
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node that serves an image."""
    made = Member(Cluster(NETWORKS, (SPEC,)), "gw1", tmp_path)
    made.start()
    made.settle()
    yield made
    made.stop()


def is_live(member: Member) -> bool:
    """Whether etcd has a lease of the node's."""
    return member.name in member.cluster.store.view().live


def hang(monkeypatch: pytest.MonkeyPatch, member: Member) -> None:
    """Let no device let go, as krbd does while Ceph is silent."""

    def stuck(number: int) -> None:
        raise KernelRefused("still waiting for Ceph")

    monkeypatch.setattr(member.kernel, "unmap", stuck)


def test_a_resigned_node_is_dead_to_others_before_its_devices_let_go(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once no portal is left the lease ends, with records and header as they are, and the emptying goes on."""
    hang(monkeypatch, member)
    before = member.cluster.store.view()
    member.membership.resign("Ceph is gone", member.lease)
    member.turn()
    assert is_live(member)
    assert not member.kernel.state.addresses
    member.turn()
    view = member.cluster.store.view()
    assert not is_live(member)
    assert SPEC.uid not in view.claims
    assert view.records == before.records
    assert not member.cluster.pool.holders[SPEC.uid].released
    assert member.kernel.state.mappings


def test_no_lease_ends_while_a_portal_answers(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that keeps its addresses keeps the lease: others wait until it has run out."""

    def keep(addresses: object) -> None:
        raise KernelRefused("no")

    monkeypatch.setattr(member.kernel, "remove_addresses", keep)
    monkeypatch.setattr(member.kernel, "teardown", lambda uid, iqns: None)
    member.membership.resign("Ceph is gone", member.lease)
    for _ in range(3):
        member.turn()
    assert is_live(member)


@pytest.mark.parametrize("by_itself", [False, True])
def test_a_look_from_before_ends_no_membership(
    member: Member, monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    """A path that a worker opens between the look and the membership's end is seen before anything is concluded."""
    look, old = member.kernel.observe, member.lease

    def before_the_end(view: ClusterView | None) -> Kernel:
        seen = look(view)
        if by_itself:
            member.cluster.etcd.revoke_lease(old)
            member.membership.prove()
        else:
            member.membership.resign("Ceph is gone", old)
        return Kernel((), (), (), {}, frozenset(), seen.networks)  # as it was before the image was mapped here

    with monkeypatch.context() as patch:
        patch.setattr(member.kernel, "observe", before_the_end)
        member.turn()
    assert is_live(member) is not by_itself
    assert member.lease == old
    assert member.runtime.read_tenure(member.boot_id) is None
    member.turn()
    assert not member.kernel.state.addresses
    member.settle()
    assert member.lease not in (0, old)


def test_a_node_that_ended_its_lease_begins_none_before_it_is_empty(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next membership has new clients, and they come after the old ones have gone."""
    old = member.lease
    with monkeypatch.context() as patch:
        hang(patch, member)
        member.membership.resign("Ceph is gone", old)
        for _ in range(6):
            member.turn()
        assert not is_live(member)
    member.settle()
    assert member.lease not in (0, old)
    assert is_live(member)


def test_etcd_that_does_not_take_the_end_is_asked_again(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile nothing is begun, and what is in the kernel goes all the same."""

    def refuse(lease: int) -> None:
        raise StoreUnavailable("no etcd member answered")

    old = member.lease
    with monkeypatch.context() as patch:
        patch.setattr(member.cluster.etcd, "revoke_lease", refuse)
        member.membership.resign("Ceph is gone", old)
        for _ in range(6):
            member.turn()
        assert member.empty
        assert member.lease == old
    member.settle()
    assert member.lease != old


def test_another_name_takes_up_no_lease(member: Member) -> None:
    """The lease says that the former name lives: it runs out, and the new name begins with an empty kernel."""
    member.stop()
    member.runtime.write_tenure(replace(member.membership.tenure, node="former"))
    assert not member.start()
    assert member.runtime.read_tenure(member.boot_id) is None
    assert member.lease == 0


@pytest.mark.parametrize("node", ["gw1", ""])
def test_the_same_name_takes_it_up(member: Member, node: str) -> None:
    """So does a file that an agent of an older version left, which names none."""
    member.stop()
    member.runtime.write_tenure(Tenure(member.boot_id, member.lease, member.membership.tenure.end, node=node))
    assert member.start()


def test_a_machine_that_goes_down_gives_its_images_away_in_order(member: Member) -> None:
    """Everything is released as clean, then the lease ends: nobody waits for it, and nobody is fenced."""
    member.cycle.leave("its machine is shutting down", 10.0)
    view = member.cluster.store.view()
    assert not view.live
    assert not view.claims
    assert not view.records
    assert member.cluster.pool.holders[SPEC.uid].released
    assert member.empty
    assert not member.cluster.pool.blocklist


def test_a_node_that_leaves_takes_nothing_and_says_so(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its word tells others not to wait for it, before the first image is let go."""
    words: list[tuple[str, bool]] = []
    release = member.cluster.store.release

    def releasing(*arguments: object) -> None:
        word = member.cluster.store.view().live[Label("gw1")]
        words.append((word.obstacle, bool(word.instances)))
        release(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(member.cluster.store, "release", releasing)
    member.cycle.leave("its machine is shutting down", 10.0)
    assert words == [("its machine is shutting down", True)]


def test_what_cannot_be_released_in_time_is_cut_and_left_to_be_fenced(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that hangs, the lease ends all the same, and the records tell whom to fence."""
    hang(monkeypatch, member)
    member.cycle.leave("its machine is shutting down", 1.0)
    view = member.cluster.store.view()
    assert not view.live
    assert view.records
    assert not member.kernel.state.addresses
    assert not member.cluster.pool.holders[SPEC.uid].released


def test_only_systemd_says_that_the_machine_goes_down() -> None:
    """Any other word, and nobody to ask, is a restart: it touches nothing."""
    assert machine_is_stopping(("echo", "stopping"))
    assert not machine_is_stopping(("echo", "running"))
    assert not machine_is_stopping(("echo", "degraded"))
    assert not machine_is_stopping(("false",))
    assert not machine_is_stopping(("/no/such/systemctl",))


def test_a_node_tells_that_ceph_does_not_answer_it(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word, report and sentence have the obstacle, and lose it."""
    monkeypatch.setattr(member.membership, "storage_obstacle", lambda: "Ceph does not answer it")
    member.settle()
    assert member.cluster.store.view().live[member.name].obstacle == "Ceph does not answer it"
    assert isinstance(member.report, NodeReport)
    assert "Ceph does not answer it" in member.report.sentence
    monkeypatch.undo()
    member.settle()
    assert member.cluster.store.view().live[member.name].obstacle == ""
