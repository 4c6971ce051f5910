"""Letting go: of what a lost claim left on record, and never as clean of what an OSD may still write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.apply import Hands, apply
from gateway.errors import RequestsGivenUp
from gateway.model import Instance
from gateway.plan import plan
from gateway.steps import ForsakeHold, Release, TakeHold
from tests.fakes.cluster import FakeStore
from tests.fakes.node import FakePool
from tests.unit.test_plan import Node, spec_of, world

SPEC = spec_of(1)


def taken_away() -> tuple[FakeStore, FakePool, Node, Node]:
    """Somebody deleted the claim of the first node by hand, and the second has claimed the image."""
    store, pool, (first, second) = world()
    first.settle()
    second.turn()
    store.set(claims={})
    second.turn()
    assert store.state.claims[SPEC.uid].node == second.name
    return store, pool, first, second


def hands_of(node: Node, *, complete: bool) -> Hands:
    """A node's hands whose kernel client answered everything, or did not."""
    return Hands(node.name, node.lease, node.store, node.storage, node.kernel, node.permit, complete=lambda _: complete)


def test_a_claim_deleted_by_hand_ends_with_the_image_served_elsewhere() -> None:
    """The former holder withdraws, lets go of header and records, and the taker need not wait for ever or fence."""
    store, pool, first, second = taken_away()
    first.settle()
    second.settle()
    assert second.serves(SPEC)
    assert not pool.blocklist
    assert {record.node for record in store.state.records} == {second.name}


def test_what_a_restored_etcd_forgot_is_let_go_all_the_same() -> None:
    """With claim and records lost and only the header naming the live holder, it lets go and another one serves."""
    store, pool, first, second = taken_away()
    store.set(records=())
    first.settle()
    assert not pool.holders[SPEC.uid].released
    second.turn()
    assert {(r.node, r.instance) for r in store.state.records} == {
        (first.name, i) for i in pool.holders[SPEC.uid].instances
    }
    first.settle()
    second.settle()
    assert second.serves(SPEC)
    assert not pool.blocklist
    assert {record.node for record in store.state.records} == {second.name}


def test_nothing_is_let_go_before_the_kernel_was_seen_empty() -> None:
    """While anything of the image is here, the plan withdraws and says nothing to others."""
    _, pool, first, _ = taken_away()
    decided = plan(first.situation())
    assert decided.images[SPEC.uid]
    assert not any(isinstance(step, ForsakeHold) for step in decided.images[SPEC.uid])
    first.turn()
    assert not pool.holders[SPEC.uid].released
    assert plan(first.situation()).images[SPEC.uid] == (
        ForsakeHold(SPEC, tuple(r for r in first.store.state.records if r.node == first.name)),
    )


def test_a_death_between_header_and_records_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the header released and the records left, the next turn finishes."""
    store, _, first, second = taken_away()
    first.turn()

    def die(uid: str, records: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "drop_records", die)
        with pytest.raises(KeyboardInterrupt):
            first.turn()
    first.settle()
    second.settle()
    assert second.serves(SPEC)


def test_former_clients_are_left_to_be_fenced() -> None:
    """A record of a client that this node does not have any more is none that it may let go."""
    store, _, first, _ = taken_away()
    store.set(
        records=tuple(replace(r, instance=Instance(f"10.9.9.9:0/{i}")) for i, r in enumerate(store.state.records))
    )
    first.turn()
    assert not plan(first.situation()).images


def test_a_client_that_gave_a_request_up_releases_nothing() -> None:
    """Neither header nor claim says that the image was let go cleanly, in order or after a lost claim."""
    store, pool, (node,) = world(nodes=1)
    node.settle()
    token = store.state.claims[SPEC.uid].token
    with pytest.raises(RequestsGivenUp, match="is to be fenced"):
        apply(Release(SPEC, token), hands_of(node, complete=False))
    with pytest.raises(RequestsGivenUp):
        apply(ForsakeHold(SPEC, store.state.records), hands_of(node, complete=False))
    assert not pool.holders[SPEC.uid].released
    assert store.state.claims[SPEC.uid].token == token
    assert store.state.records
    apply(Release(SPEC, token), hands_of(node, complete=True))
    assert pool.holders[SPEC.uid].released
    assert not store.state.claims


def test_a_client_that_gave_a_request_up_does_not_take_its_image_again() -> None:
    """Rebuilding an export on it would let the late write land after newer ones; another image it may take."""
    store, _, (node,) = world(images=2, nodes=1)
    node.settle()
    client = node.kernel.anchor_instance()
    store.set(claims={})
    claim = store.claim(SPEC, 5, node.name, node.lease)
    with pytest.raises(RequestsGivenUp):
        apply(TakeHold(SPEC, claim.token, client), hands_of(node, complete=False))
    store.set(records=())
    apply(TakeHold(SPEC, claim.token, client), hands_of(node, complete=False))
