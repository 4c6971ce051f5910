"""An operator's change of recorded reservations: made once with a takeover, whatever interrupts it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import DamagedTable, StoreUnavailable
from gateway.images.holder import Holder
from gateway.model import Amendment, AmendmentKind, DeviceAttributes, Instance, Label
from gateway.plan import plan
from gateway.reservations.amending import full_name
from gateway.reservations.pr_info import decode, encode
from gateway.reservations.state import Nexus, Registration, ReservationState
from gateway.steps import Build, FinishAmendment, Forget, Map, OpenPath, SetInitiators, TakeHold, Teardown
from gateway.storage import CephStorage
from tests.fakes.cluster import FakeStore
from tests.fakes.node import FakePool
from tests.fakes.rados import FakeConnection, FakeRados, on_fakes
from tests.unit.test_plan import Node, spec_of, world

SPEC = spec_of(1)
ONE, OTHER = (Nexus(SPEC.initiators[0], f"00023d00000{n}", SPEC.identity.iqn, 1) for n in (1, 2))
TABLE = ReservationState(5, 3, tuple(Registration(nexus, 0xABC) for nexus in (ONE, OTHER)))
FORGET = Amendment(AmendmentKind.FORGET, "operator root@gw1", "it is gone", (full_name(ONE),), revision=77)
CLEAR = Amendment(AmendmentKind.CLEAR, "operator root@gw1", "all are gone", revision=78)


def served(amendment: Amendment, nodes: int = 1) -> tuple[FakeStore, FakePool, list[Node]]:
    """An image that is served with two registrations, and a change of them that is pending since."""
    store, pool, all_nodes = world(nodes=nodes)
    pool.pr_info[SPEC.uid] = encode(TABLE)
    all_nodes[0].settle()
    assert all_nodes[0].serves(SPEC)
    store.set(amendments={SPEC.uid: amendment})
    return store, pool, all_nodes


def test_the_order_is_withdraw_take_finish_map_build_open() -> None:
    """The change is made while nothing is exported, and its key is gone before anybody can log in."""
    _, _, (node,) = served(FORGET)
    steps = plan(node.situation()).images[SPEC.uid]
    kinds = [type(step) for step in steps]
    order = [kinds.index(kind) for kind in (Teardown, TakeHold, FinishAmendment, Map, Build, OpenPath)]
    assert order == sorted(order)
    assert [step.amendment for step in steps if isinstance(step, TakeHold)] == [FORGET]
    assert FinishAmendment(SPEC.uid, 77) in steps


@pytest.mark.parametrize(("amendment", "left"), [(FORGET, {OTHER}), (CLEAR, set[Nexus]())])
def test_it_is_made_once_and_the_image_served_again(amendment: Amendment, left: set[Nexus]) -> None:
    """What was named is gone from the record, the rest is as it was, and nothing is pending."""
    store, pool, (node,) = served(amendment)
    node.settle()
    state = decode(pool.pr_info[SPEC.uid])
    assert {each.nexus for each in state.registrations} == left
    assert state.generation == TABLE.generation + 1
    assert not store.state.amendments
    assert node.serves(SPEC)
    assert not pool.blocklist


@pytest.mark.parametrize("stop", range(12))
def test_a_crash_after_any_step_loses_nothing_and_changes_no_more(stop: int) -> None:
    """Cut short anywhere, and taken by another node, the change is made; until then the image is not exported."""
    store, pool, nodes = served(FORGET, nodes=2)
    holder, other = nodes
    done = 0

    def count(_act: str) -> None:
        nonlocal done
        done += 1
        if done > stop:
            raise StoreUnavailable("the power is gone")

    holder.kernel.before = count
    holder.turn()
    assert bool(store.state.amendments) == (_registered(pool) != {OTHER})
    holder.kernel.before = lambda _act: None
    store.expire(holder.name)
    holder.withdraw()
    other.settle()
    assert other.serves(SPEC)
    assert _registered(pool) == {OTHER}
    assert not store.state.amendments


def denied(store: FakeStore, attributes: DeviceAttributes = SPEC.attributes) -> None:
    """Nobody is allowed at the image any more, and the registrations of who was are to go."""
    store.set(images={SPEC.name: replace(SPEC, initiators=(), attributes=attributes)}, amendments={SPEC.uid: FORGET})


def test_what_the_denied_had_registered_is_forgotten_on_the_fly() -> None:
    """The ACLs go first, then the record; nothing is withdrawn. If one of them may log in again, it is a takeover."""
    store, pool, (node,) = served(FORGET)
    denied(store)
    steps = plan(node.situation()).images[SPEC.uid]
    assert [type(step) for step in steps] == [SetInitiators, Forget, FinishAmendment]
    node.settle()
    assert _registered(pool) == {OTHER}
    assert not store.state.amendments
    assert node.serves(SPEC)
    denied(store)
    store.set(images={SPEC.name: SPEC})
    assert any(isinstance(step, TakeHold) for step in plan(node.situation()).images[SPEC.uid])
    denied(store, DeviceAttributes(emulate_pr=0))
    assert not any(isinstance(step, Forget) for step in plan(node.situation()).images[SPEC.uid])


@pytest.mark.parametrize("act", ["set_initiators", "set_initiators halfway", "forget"])
@pytest.mark.parametrize("power_cut", [False, True])
def test_a_denial_that_is_cut_short_is_finished(act: str, power_cut: bool) -> None:
    """By the next agent of the same node, or by whoever takes the image: the registration does not come back."""
    store, pool, (holder, other) = served(FORGET, nodes=2)
    denied(store)

    def refuse(seen: str) -> None:
        if seen == act:
            raise StoreUnavailable("the agent is gone")

    holder.kernel.before = refuse
    holder.turn()
    assert store.state.amendments
    holder.kernel.before = lambda _act: None
    if power_cut:
        store.expire(holder.name)
        holder.withdraw()
    taker = other if power_cut else holder
    taker.settle()
    assert taker.serves(SPEC)
    assert _registered(pool) == {OTHER}
    assert not store.state.amendments


def test_a_crash_between_the_swap_and_the_end_of_it() -> None:
    """The key is still there, so the change is made again, of a table in which nobody could register meanwhile."""
    store, pool, (node,) = served(FORGET)
    whole = store.finish_amendment

    def refuse(uid: str, revision: int) -> None:
        raise StoreUnavailable("etcd does not answer")

    store.finish_amendment = refuse  # type: ignore[method-assign]
    node.turn()
    assert _registered(pool) == {OTHER}
    assert not node.kernel.state.devices
    assert store.state.amendments
    store.finish_amendment = whole  # type: ignore[method-assign]
    node.settle()
    assert node.serves(SPEC)
    assert _registered(pool) == {OTHER}
    assert not store.state.amendments


def test_what_is_served_stays_while_the_change_could_not_be_made() -> None:
    """Without a client of RADOS the image would be withdrawn for nothing: it waits."""
    _, _, (node,) = served(CLEAR)
    situation = node.situation()
    assert plan(replace(situation, me=replace(situation.me, rados=None))).empty


def test_it_waits_for_the_next_taker_while_nobody_holds_the_image() -> None:
    """Of a stopped image nothing is taken; started again, its first taker makes the change."""
    store, pool, (node,) = served(CLEAR)
    store.set(images={SPEC.name: replace(SPEC, stopped=True)})
    node.settle()
    assert store.state.amendments
    assert _registered(pool) == {ONE, OTHER}
    store.set(images={SPEC.name: SPEC})
    node.settle()
    assert node.serves(SPEC)
    assert not _registered(pool)


def test_a_damaged_table_says_the_way_out_and_clear_is_one() -> None:
    """Whoever takes the image exports nothing and names the command; the swap that clears it needs no table."""
    rados = FakeRados()
    rados.add_image(SPEC.name, SPEC.image_id, SPEC.size)
    image = rados.image_of(SPEC.image_id)
    with on_fakes():
        connection = FakeConnection(rados, Instance("10.0.1.1:0/1"))
        storage = CephStorage(connection, Label("gw1"))  # type: ignore[arg-type] # as much of one as is used
        mine = _holder(storage)
        for text in (b"junk", encode(TABLE).replace(b"0x00000001", b"0x00000002", 1)):
            image.pr_info = text
            with pytest.raises(DamagedTable, match=r"image rbd/disk1 is not exported: .*reservation clear rbd/disk1"):
                storage.take(SPEC, image.holder, mine)
            assert (image.holder, image.pr_info) == (None, text)
        image.pr_info = encode(TABLE).replace(b",i,0x", b",j,0x", 1)  # a frame that a takeover does not look behind
        storage.take(SPEC, None, mine)
        with pytest.raises(DamagedTable, match=r"line 6: .*`rbdgate reservation clear rbd/disk1 --reason TEXT`"):
            storage.reservations(SPEC, 7)
        storage.take(SPEC, mine, mine, CLEAR)
        assert storage.reservations(SPEC, 7) == ReservationState(7, 4)


def _holder(storage: CephStorage) -> Holder:
    return Holder(7, Label("gw1"), (storage.instance,))


def _registered(pool: FakePool) -> set[Nexus]:
    return {each.nexus for each in decode(pool.pr_info[SPEC.uid]).registrations}


def test_an_image_that_is_to_keep_no_reservations_is_exported_anew() -> None:
    """What an initiator sees of reservations is the spec's, so the export is not the one that it asks for."""
    store, pool, (node,) = world(nodes=1)
    node.settle()
    for number in (0, 1):
        attributes = DeviceAttributes(emulate_pr=number, enforce_pr_isids=number)
        store.set(images={SPEC.name: replace(SPEC, attributes=attributes)})
        assert any(isinstance(step, Build) for step in plan(node.situation()).images[SPEC.uid])
        node.settle()
        assert node.kernel.state.devices[0].attributes["attrib/emulate_pr"] == str(number)
    assert not pool.blocklist
