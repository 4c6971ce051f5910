"""What agents write, on the real etcd and on the fake: membership, claims, records, fences, and lost answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway.errors import (
    AlreadyExists,
    ClaimLost,
    Conflict,
    Inconsistent,
    LeaseGone,
    OutcomeUnknown,
    Refused,
    StoreUnavailable,
)
from gateway.model import Claim, FenceIntent, ImageSpec, Instance, Label, NodeRecord
from gateway.store.cluster import ClusterStore
from gateway.store.values import Compare, Operation, Put, TransactionResult
from tests.contract.cluster_fixtures import SETTINGS, Room, endpoints, live, record, room, spec
from tests.fakes.etcd import FakeEtcd

__all__ = ["endpoints", "room"]  # fixtures

GW1 = Label("gw1")


def held(room: Room) -> tuple[ImageSpec, int, Claim]:
    """An image held by gw1."""
    one = spec()
    revision = room.store.create_image(one)
    return one, revision, room.store.claim(one, revision, GW1, room.join())


def test_join_and_refresh(room: Room) -> None:
    """A node that joined is active and live; its later words replace the earlier, its state stays an operator's."""
    lease = room.join()
    room.store.refresh_live(live("gw1", lease, "10.9.0.1:0/2"))
    room.store.join(live("gw1", lease, "10.9.0.1:0/3"))
    view = room.store.view()
    assert view.nodes == {GW1: NodeRecord()}
    assert view.live == {GW1: live("gw1", lease, "10.9.0.1:0/3")}
    assert room.store.live_instances() == {Instance("10.9.0.1:0/3"): GW1}


def test_a_live_node_that_cannot_be_read_is_not_dead(room: Room) -> None:
    """Whose clients are unknown is nobody to fence: a leased word that cannot be read refuses all; garbage does not."""
    lease = room.join()
    room.etcd.transact([], [Put(room.store.keys.live(Label("gw8")), b"somebody's garbage")])
    assert set(room.store.live_instances().values()) == {GW1}
    room.etcd.transact([], [Put(room.store.keys.live(Label("gw9")), b"damaged", lease)])
    with pytest.raises(Inconsistent, match=r"live/gw9 cannot be read.*nobody is fenced"):
        room.store.live_instances()


def test_two_agents_under_one_name(room: Room) -> None:
    """A second agent under a living node's name is refused in all it does; when the first is gone it may."""
    first, second = room.join(), room.lease()
    for act in (room.store.join, room.store.refresh_live):
        with pytest.raises(AlreadyExists, match="another agent runs as node gw1"):
            act(live("gw1", second))
    with pytest.raises(LeaseGone, match="not live under lease"):
        room.store.publish_status(GW1, second, b"x")
    room.etcd.revoke_lease(first)
    room.store.join(live("gw1", second))


def test_a_dead_lease_writes_nothing(room: Room) -> None:
    """Under a lease that is no more nothing can be joined, claimed or published."""
    one = spec()
    revision = room.store.create_image(one)
    lease = room.join()
    room.etcd.revoke_lease(lease)
    with pytest.raises(LeaseGone):
        room.store.join(live("gw1", lease))
    with pytest.raises(LeaseGone):
        room.store.claim(one, revision, GW1, lease)
    with pytest.raises(LeaseGone):
        room.store.publish_status(GW1, lease, b"x")
    with pytest.raises(LeaseGone):
        room.store.keepalive(lease, timeout=5)
    assert not room.store.view().live


def test_claim(room: Room) -> None:
    """A claim's token is its key's create revision; the same lease gets it again, another is told who has it."""
    one, revision, claim = held(room)
    assert room.store.view().claims == {one.uid: claim}
    assert room.store.own_claims(claim.lease) == {one.uid: claim.token}
    assert room.store.claim(one, revision, GW1, claim.lease) == claim
    other = room.join("gw2")
    with pytest.raises(Conflict, match=f"held by node gw1 \\(claim {claim.token}\\)"):
        room.store.claim(one, revision, Label("gw2"), other)
    assert room.store.own_claims(other) == {}


def test_a_claim_rests_on_the_spec(room: Room) -> None:
    """An image whose spec changed, went or is being deleted is not claimed."""
    one = spec()
    old = room.store.create_image(one)
    lease = room.join()
    marked = replace(one, deleting=True)
    new = room.store.replace_image(one, marked, old)
    with pytest.raises(Conflict, match="was changed while"):
        room.store.claim(one, old, GW1, lease)
    with pytest.raises(Conflict, match="being deleted"):
        room.store.claim(marked, new, GW1, lease)
    room.store.remove_image(marked, new)
    with pytest.raises(Conflict, match="was removed while"):
        room.store.claim(one, old, GW1, lease)


def test_a_crash_leaves_records(room: Room) -> None:
    """When a lease ends the claim goes, who may have the image open stays, and the old token writes nothing more."""
    one, revision, claim = held(room)
    room.store.add_records(one.uid, claim.token, (record(one, claim.token),))
    room.etcd.revoke_lease(claim.lease)
    view = room.store.view()
    assert not view.claims
    assert [str(r.instance) for r in view.records] == ["10.9.0.1:0/1"]
    lease = room.join("gw2")
    second = room.store.claim(one, revision, Label("gw2"), lease)
    assert second.token > claim.token
    with pytest.raises(ClaimLost, match="node gw2 has it now"):
        room.store.add_records(one.uid, claim.token, (record(one, claim.token, "10.9.0.1:0/9"),))
    with pytest.raises(ClaimLost, match="node gw2 has it now"):
        room.store.write_fence((intent(one, claim.token),), one.uid, claim.token)
    with pytest.raises(ClaimLost, match="node gw2 has it now"):
        room.store.release(one.uid, claim.token, room.store.records_of(one.uid))
    assert room.store.view().claims == {one.uid: second}


def test_release(room: Room) -> None:
    """Claim and records go together; a second time is no error; another's records stay."""
    one, _, claim = held(room)
    mine, other = record(one, claim.token), record(one, 1, "10.9.0.2:0/5", "gw2")
    room.store.add_records(one.uid, claim.token, (mine, other))
    mine = next(r for r in room.store.records_of(one.uid) if r.node == GW1)
    room.store.release(one.uid, claim.token, (mine,))
    room.store.release(one.uid, claim.token, (mine,))
    view = room.store.view()
    assert not view.claims
    assert [r.node for r in view.records] == [Label("gw2")]


def test_drop_records(room: Room) -> None:
    """A record goes only as it was read; one that was written anew since stays, and nothing with it goes."""
    one, _, claim = held(room)
    first, second = record(one, claim.token), record(one, claim.token, "10.9.0.1:0/2")
    room.store.add_records(one.uid, claim.token, (first, second))
    read = room.store.records_of(one.uid)
    room.store.add_records(one.uid, claim.token, (second,))
    with pytest.raises(Conflict, match="written anew"):
        room.store.drop_records(one.uid, read)
    assert len(room.store.records_of(one.uid)) == 2
    room.store.drop_records(one.uid, tuple(r for r in read if r.instance == first.instance))
    room.store.drop_records(one.uid, room.store.records_of(one.uid) + read[:1])
    assert room.store.records_of(one.uid) == ()


def intent(of: ImageSpec, token: int, victim: str = "10.9.0.7:0/1") -> FenceIntent:
    """A fence against gw7's client."""
    return FenceIntent(Instance(victim), Label("gw7"), GW1, of.uid, token, "a boot of gw7")


def test_fences(room: Room) -> None:
    """A holder's fences are on record until they are dropped as they were read."""
    one, _, claim = held(room)
    one_intent, two = intent(one, claim.token), intent(one, claim.token, "[fd77::7]:0/2")
    room.store.write_fence((one_intent, two), one.uid, claim.token)
    assert room.store.fences() == {i.instance: i for i in (one_intent, two)} == room.store.view().fences
    room.store.drop_fences((replace(one_intent, token=1), two))
    assert room.store.fences() == {one_intent.instance: one_intent}
    room.store.drop_fences((one_intent, two))
    assert room.store.fences() == {}


def test_a_holders_own_move(room: Room) -> None:
    """The holder writes down where its image is to go, and why; not over another wish, nor without the claim."""
    one, _, claim = held(room)
    room.store.start_move(one.uid, claim.token, Label("gw2"), "node gw1 is drained")
    move = room.store.view().moves[one.uid]
    assert (move.to, move.why, move.reason) == (Label("gw2"), "node gw1 is drained", "node gw1 is drained")
    room.store.start_move(one.uid, claim.token, Label("gw3"), "another reason")
    assert room.store.view().moves == {one.uid: move}
    room.store.request_move(one.uid, Label("gw3"))
    assert room.store.view().moves[one.uid].reason == "an operator's move"
    room.store.finish_move(one.uid, room.store.view().moves[one.uid].revision)
    with pytest.raises(ClaimLost):
        room.store.start_move(one.uid, claim.token + 1, Label("gw2"), "late")
    assert room.store.view().moves == {}


@pytest.mark.parametrize("answers", [(True,), (False,), (True, True), (False, True), (True, False)])
def test_lost_answers(answers: tuple[bool, ...]) -> None:
    """Whatever becomes of a write whose answer is lost, each act ends as if it had been heard."""
    etcd = FakeEtcd(time.monotonic)
    store = ClusterStore(etcd, "/rbdgate/lost/")
    etcd.lose_next(*answers)
    store.initialise(SETTINGS)
    one = spec()
    etcd.lose_next(*answers)
    revision = store.create_image(one)
    assert store.view().revisions == {one.name: revision}
    lease = etcd.grant_lease(60).id
    etcd.lose_next(*answers)
    store.join(live("gw1", lease))
    etcd.lose_next(*answers)
    claim = store.claim(one, revision, GW1, lease)
    assert store.view().claims == {one.uid: claim}
    etcd.lose_next(*answers)
    store.add_records(one.uid, claim.token, (record(one, claim.token),))
    etcd.lose_next(*answers)
    move = store.request_move(one.uid, GW1)
    assert store.view().moves == {one.uid: move}
    store.finish_move(one.uid, move.revision)
    etcd.lose_next(*answers)
    store.start_move(one.uid, claim.token, GW1, "drained")
    assert store.view().moves[one.uid].why == "drained"
    etcd.lose_next(*answers)
    marked = replace(one, deleting=True)
    revision = store.replace_image(one, marked, revision)
    etcd.lose_next(*answers)
    store.release(one.uid, claim.token, store.records_of(one.uid))
    etcd.lose_next(*answers)
    store.remove_image(marked, revision)
    view = store.view()
    assert (*view.images, *view.claims, *view.records, *view.moves) == ()


def test_answers_that_stay_lost() -> None:
    """If no answer comes at all the outcome is said to be unknown, and nothing is claimed to have happened."""
    etcd = FakeEtcd(time.monotonic)
    store = ClusterStore(etcd, "/rbdgate/lost/")
    etcd.lose_next(*[False] * 100)
    with pytest.raises(OutcomeUnknown):
        store.initialise(SETTINGS)


def test_unavailable_after_a_lost_answer() -> None:
    """When etcd falls silent after an answer was lost, the outcome is unknown, not "nothing was done"."""

    class FallsSilent(FakeEtcd):
        """Answers nothing after the first lost answer."""

        def transact(
            self,
            compares: Sequence[Compare],
            success: Sequence[Operation],
            failure: Sequence[Operation] = (),
            *,
            timeout: float | None = None,
        ) -> TransactionResult:
            try:
                return super().transact(compares, success, failure, timeout=timeout)
            finally:
                self.down = True

    etcd = FallsSilent(time.monotonic)
    etcd.lose_next(True)
    with pytest.raises(OutcomeUnknown):
        ClusterStore(etcd, "/rbdgate/lost/").initialise(SETTINGS)
    with pytest.raises(StoreUnavailable):
        ClusterStore(etcd, "/rbdgate/lost/").initialise(SETTINGS)


def test_a_lost_create_is_not_anothers(room: Room) -> None:
    """An image somebody else created under the name is never taken for one's own whose answer was lost."""
    room.store.create_image(spec())
    if isinstance(room.etcd, FakeEtcd):
        room.etcd.lose_next(True)
    with pytest.raises(AlreadyExists):
        room.store.create_image(spec("rbd/disk1", "10.0.1.101"))
    with pytest.raises(Refused):
        room.store.create_image(spec("rbd/disk2"))
