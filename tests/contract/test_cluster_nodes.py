"""What is asked of nodes, on the real etcd and on the fake: changed on its revision, removed only of the dead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import Conflict, Refused
from gateway.model import FenceIntent, Instance, Label, NodeRecord, NodeState
from tests.contract.cluster_fixtures import Room, endpoints, room

__all__ = ["endpoints", "room"]  # fixtures

GW1, GW2 = Label("gw1"), Label("gw2")


def test_a_node_is_changed_on_what_was_seen(room: Room) -> None:
    """A change rests on every node that was looked at: it is refused when one of them was changed meanwhile."""
    room.join("gw1")
    room.join("gw2")
    before = room.store.node_records()
    assert {node: record for node, (record, _) in before.items()} == {GW1: NodeRecord(), GW2: NodeRecord()}
    seen = {node: revision for node, (_, revision) in before.items()}
    drained = NodeRecord(NodeState.DRAIN, 50, "new disks")
    newer = room.store.change_node(GW1, drained, {GW1: seen[GW1]})
    assert room.store.node_records()[GW1] == (drained, newer)
    with pytest.raises(Conflict, match="was changed by somebody else"):
        room.store.change_node(GW2, NodeRecord(NodeState.MAINTENANCE), seen)
    assert room.store.view().state_of(GW2) is NodeState.ACTIVE
    room.store.change_node(GW2, NodeRecord(NodeState.MAINTENANCE), seen | {GW1: newer})
    assert room.store.view().state_of(GW2) is NodeState.MAINTENANCE


def test_a_damaged_record_does_not_hide_the_others(room: Room) -> None:
    """A node whose record cannot be read is left out, the others are there."""
    room.join("gw1")
    room.put("nodes/gw2", b"\xff")
    assert set(room.store.node_records()) == {GW1}


def test_only_a_dead_node_is_fenced_and_removed(room: Room) -> None:
    """A live node's clients get no fence and its record stays; a dead node's fences stay when the node is gone."""
    lease = room.join("gw1")
    _, revision = room.store.node_records()[GW1]
    intents = tuple(FenceIntent(Instance(f"10.9.0.1:0/{number}"), GW1, GW2, "0" * 16, 7) for number in range(250))
    with pytest.raises(Refused, match="node gw1 is live"):
        room.store.fence_dead_node(GW1, intents)
    with pytest.raises(Refused, match="node gw1 is live"):
        room.store.remove_node(GW1, revision)
    assert (room.store.fences(), set(room.store.node_records())) == ({}, {GW1})
    room.etcd.revoke_lease(lease)
    room.store.fence_dead_node(GW1, intents)
    room.store.fence_dead_node(GW1, intents[:1])  # a second run
    with pytest.raises(Conflict, match="changed by somebody else meanwhile"):
        room.store.remove_node(GW1, revision - 1)
    room.store.remove_node(GW1, revision)
    room.store.remove_node(GW1, revision)  # done already
    assert room.store.node_records() == {}
    assert set(room.store.fences().values()) == set(intents)
    room.join("gw1")
    assert room.store.node_records()[GW1][0] == replace(NodeRecord(), state=NodeState.ACTIVE)
