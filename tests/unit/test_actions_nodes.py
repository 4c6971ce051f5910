"""What is asked of nodes, on fakes: drains wait and say why, a dead node's clients are fenced before it goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.actions import images, nodes, placing
from gateway.actions.images import Wish
from gateway.actions.waiting import NotReached
from gateway.errors import BadInput, Conflict, FenceUnconfirmed, NotFound, Refused
from gateway.model import HolderRecord, ImageName, Instance, Label, NodeRecord, NodeState
from tests.fakes.agent import FakeAgent
from tests.fakes.operation import Operation, operation

GW1, GW2, GW9 = Label("gw1"), Label("gw2"), Label("gw9")


def serving(count: int = 2, agents: int = 2) -> Operation:
    """A cluster that serves some images."""
    made = operation(agents)
    for number in range(1, count + 1):
        images.create(made.store, made.ceph, ImageName("rbd", f"disk{number}"), 1 << 30, Wish(1), random=made.random)
    made.settle()
    return made


def held_by(made: Operation, node: Label) -> int:
    """How many images a node holds."""
    return sum(claim.node == node for claim in made.store.view().claims.values())


def die(made: Operation, agent: FakeAgent) -> None:
    """Let a node's lease run out; it never takes a turn again."""
    made.agents.remove(agent)
    made.etcd.revoke_lease(agent.lease)


def test_drain_waits_until_the_node_is_empty() -> None:
    """A drained node's images are elsewhere when the wait ends, it takes none, and `resume` makes it active again."""
    made = serving(4)
    assert held_by(made, GW1) == 2
    nodes.drain(made.store, GW1, "new disks")
    nodes.await_empty(made.store, GW1, made.patience())
    assert (held_by(made, GW1), held_by(made, GW2)) == (0, 4)
    assert made.store.view().nodes[GW1] == NodeRecord(NodeState.DRAIN, why="new disks")
    assert any("gw1 still holds 2 images: rbd/disk" in said for said in made.said)
    nodes.resume(made.store, GW1)
    assert made.store.view().nodes[GW1] == NodeRecord()


def test_drain_says_what_nobody_else_takes() -> None:
    """With no other node an image stays served where it is, and the wait ends saying which and why."""
    made = serving(2, agents=2)
    nodes.drain(made.store, GW2, "")
    nodes.await_empty(made.store, GW2, made.patience())
    nodes.drain(made.store, GW1, "")
    with pytest.raises(NotReached, match=r"no other node can take rbd/disk1, rbd/disk2: gw2 is drained"):
        nodes.await_empty(made.store, GW1, made.patience(5))
    assert held_by(made, GW1) == 2


def test_maintenance_is_refused_where_images_would_be_lost() -> None:
    """The last active node that can serve an image goes into maintenance only by force; then a drained one helps."""
    made = serving(2)
    nodes.drain(made.store, GW2, "")
    nodes.await_empty(made.store, GW2, made.patience())
    with pytest.raises(Refused, match=r"no active node could serve rbd/disk1, rbd/disk2; .*--force"):
        nodes.maintain(made.store, GW1, "", force=False)
    assert made.store.view().state_of(GW1) is NodeState.ACTIVE
    placing.stop(made.store, made.ceph, ImageName("rbd", "disk1"))
    with pytest.raises(Refused, match="no active node could serve rbd/disk2;"):
        nodes.maintain(made.store, GW1, "", force=False)
    nodes.maintain(made.store, GW1, "", force=True)
    nodes.await_empty(made.store, GW1, made.patience())
    assert (held_by(made, GW1), held_by(made, GW2)) == (0, 1)


def test_two_operators_at_once_are_not_both_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who decides on a maintenance while another node is put into one decides anew, and is refused."""
    made = serving(2)
    view, others = made.store.view, [GW2]

    def meanwhile():  # type: ignore[no-untyped-def]
        seen = view()
        if others:
            made.store.change_node(
                GW2, NodeRecord(NodeState.MAINTENANCE), {GW2: made.store.node_records()[others.pop()][1]}
            )
        return seen

    monkeypatch.setattr(made.store, "view", meanwhile)
    with pytest.raises(Refused, match="no active node could serve"):
        nodes.maintain(made.store, GW1, "", force=False)
    assert made.store.view().state_of(GW1) is NodeState.ACTIVE


def test_weights() -> None:
    """A weight is kept over a drain, and one there is not is refused."""
    made = serving(0)
    nodes.weigh(made.store, GW1, 200)
    nodes.drain(made.store, GW1, "")
    assert made.store.view().nodes[GW1] == NodeRecord(NodeState.DRAIN, 200)
    with pytest.raises(BadInput, match="weight 1001"):
        nodes.weigh(made.store, GW1, 1001)
    with pytest.raises(NotFound, match="node gw9: none of that name ever joined"):
        nodes.weigh(made.store, GW9, 100)


def test_a_live_node_is_not_removed() -> None:
    """A node with a lease is refused, with what to do, and nothing is fenced."""
    made = serving(2)
    with pytest.raises(Refused, match=r"node gw1 is live: .*systemctl disable"):
        nodes.remove(made.store, made.ceph, GW1, GW2, force=True)
    with pytest.raises(NotFound, match="there is no node gw9"):
        nodes.remove(made.store, made.ceph, GW9, GW2, force=True)
    assert (made.ceph.fenced, made.store.fences()) == ([], {})


def test_a_dead_nodes_clients_are_fenced_first() -> None:
    """Intents, fences, records, node: in this order; whatever it fails at stands, and the next run finishes it."""
    made = serving(2)
    dead = made.agents[0]
    die(made, dead)
    left = [record for record in made.store.view().records if record.node == GW1]
    assert left
    made.ceph.fail["fence"] = FenceUnconfirmed("no monitor answers")
    with pytest.raises(FenceUnconfirmed):
        nodes.remove(made.store, made.ceph, GW1, GW2, force=False)
    view = made.store.view()
    assert (set(view.fences), GW1 in view.nodes) == ({dead.instance}, True)
    assert [record for record in view.records if record.node == GW1] == left
    del made.ceph.fail["fence"]
    removed = nodes.remove(made.store, made.ceph, GW1, GW2, force=False)
    view = made.store.view()
    assert (removed.fenced, removed.warnings, GW1 in view.nodes) == (1, (), False)
    assert [record for record in view.records if record.node == GW1] == []
    assert made.ceph.fenced == [dead.instance]
    intent = view.fences[dead.instance]
    assert (intent.node, intent.by, intent.image_uid) == (GW1, GW2, left[0].image_uid)
    assert intent.boot_id == ""  # so that no machine forgets it, not even the very one that comes back


def test_removal_by_force_leaves_what_is_not_fenced() -> None:
    """Without Ceph's word the node is forgotten by force only; intents and records stay for who takes the images up."""
    made = serving(2)
    die(made, made.agents[0])
    placing.pin(made.store, made.ceph, ImageName("rbd", "disk2"), GW1)
    before = [record for record in made.store.view().records if record.node == GW1]
    made.ceph.fail["fence"] = FenceUnconfirmed("no monitor answers")
    removed = nodes.remove(made.store, made.ceph, GW1, GW2, force=True)
    view = made.store.view()
    assert (GW1 in view.nodes, [record for record in view.records if record.node == GW1]) == (False, before)
    assert set(view.fences) == {record.instance for record in before}
    assert "no monitor answers; its records stay" in removed.warnings[0]
    assert removed.warnings[-1] == "still pinned to gw1: rbd/disk2; see `rbdgate image unpin`"


def test_a_client_that_a_live_node_uses_is_not_fenced() -> None:
    """A machine that was given another name keeps its clients: a record under its old name fences nobody."""
    made = serving(1)
    uid, claim = next(iter(made.store.view().claims.items()))
    holder = next(agent for agent in made.agents if agent.node == claim.node)
    made.store.add_records(uid, claim.token, (HolderRecord(uid, holder.instance, GW9, claim.token, "krbd"),))
    made.store.join(replace(made.store.view().live[GW1], name=GW9, lease=made.etcd.grant_lease(60).id))
    lease = made.store.view().live[GW9].lease
    made.etcd.revoke_lease(lease)
    with pytest.raises(Refused, match=f"is used by live node {claim.node}"):
        nodes.remove(made.store, made.ceph, GW9, GW2, force=True)
    assert (made.ceph.fenced, made.store.fences()) == ([], {})


def test_moves_to_a_removed_node_are_forgotten() -> None:
    """A machine that takes the name up later does not get images that were once to move there."""
    made = serving(1)
    uid, claim = next(iter(made.store.view().claims.items()))
    other = next(agent for agent in made.agents if agent.node != claim.node)
    made.store.request_move(uid, other.node)
    die(made, other)
    nodes.remove(made.store, made.ceph, other.node, claim.node, force=False)
    assert made.store.view().moves == {}


def test_a_node_that_comes_back_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that joins while it is removed stays."""
    made = serving(1)
    gone = made.agents[0]
    word = made.store.view().live[gone.node]
    die(made, gone)
    fence_dead = made.store.fence_dead_node

    def meanwhile(*arguments):  # type: ignore[no-untyped-def]
        fence_dead(*arguments)
        made.store.join(replace(word, lease=made.etcd.grant_lease(60).id, instances=(Instance("10.0.0.1:0/99"),)))

    monkeypatch.setattr(made.store, "fence_dead_node", meanwhile)
    with pytest.raises(Refused, match="is live"):
        nodes.remove(made.store, made.ceph, gone.node, GW2, force=False)
    assert gone.node in made.store.view().nodes


def test_a_change_that_is_always_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who changes the node again and again is named, and the change is not made."""
    made = serving(0)

    def late(*_):  # type: ignore[no-untyped-def]
        raise Conflict("changed by somebody else")

    monkeypatch.setattr(made.store, "change_node", late)
    with pytest.raises(Conflict):
        nodes.drain(made.store, GW1, "")
