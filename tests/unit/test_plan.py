"""The planner: from every start, also one that was interrupted anywhere, to the desired state and then to rest."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access import Access
from gateway.apply import Hands, apply
from gateway.errors import FenceUnconfirmed, Inconsistent, RbdgateError, StoreUnavailable, TenureOver
from gateway.model import (
    ClusterSettings,
    ClusterView,
    Connection,
    Identity,
    ImageName,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    LiveNode,
    Move,
    Network,
    NodeRecord,
    Path,
)
from gateway.observed import DeviceName, Interface, Kernel, Portal, Target, Tpg
from gateway.placement import Lately
from gateway.plan import Me, Situation, anchor_of, export_of, path_is_up, plan, plan_nothing
from gateway.steps import Build, Claim, Cut, Map, OpenPath, TakeHold
from tests.fakes.cluster import FakeStore
from tests.fakes.node import FakeKernel, FakePool, FakeStorage

NETWORKS = (
    Network.parse("storage-1=10.1.0.0/24,10.1.0.100-10.1.0.199"),
    Network.parse("storage-2=10.2.0.0/24,10.2.0.100-10.2.0.199"),
)


def spec_of(number: int) -> ImageSpec:
    """The image of that number, with a path on each network and one initiator."""
    uid = f"{number:016x}"
    paths = tuple(
        Path(tag, ipaddress.ip_address(f"10.{tag}.0.{100 + number}"), network.name)
        for tag, network in enumerate(NETWORKS, start=1)
    )
    identity = Identity(Iqn(f"iqn.2026-11.io.rbdgate:disk{number}"), f"{number:032x}")
    initiators = (Iqn("iqn.1993-08.org.debian:01:a"),)
    return ImageSpec(ImageName("rbd", f"disk{number}"), uid, uid, 1 << 30, identity, paths, initiators)


class Node:
    """A gateway on fakes: observes, plans and applies as the agent's cycle does, one turn at a time."""

    def __init__(self, name: str, store: FakeStore, pool: FakePool) -> None:
        self.name, self.store, self.pool = Label(name), store, pool
        links = {
            network.name: Interface(f"eth{i}", i, up=True, addresses=frozenset()) for i, network in enumerate(NETWORKS)
        }
        self.kernel = FakeKernel(pool, name, links)
        self.incarnation, self.serving, self.boot_id = 0, True, f"boot of {name}"
        self.lately = Lately()
        self.join()

    def join(self) -> None:
        """Begin a new membership with a new lease and a new RADOS client."""
        self.incarnation += 1
        self.lease = int(self.name.text[-1]) * 1000 + self.incarnation
        self.storage = FakeStorage(self.pool, Instance(f"10.0.1.{self.name.text[-1]}:0/{self.incarnation}"))
        self.speak()

    def speak(self) -> None:
        """Put the node's word into the store, as the membership does before each plan."""
        anchor = anchor_of(self.kernel.state.mappings, "rbd")
        instances = tuple(sorted({self.storage.instance} | ({anchor.instance} if anchor else set())))
        networks = tuple(sorted(n for n, i in self.kernel.state.networks.items() if i.up))
        word = LiveNode(self.name, self.lease, self.boot_id, "1", networks, instances)
        nodes = {self.name: NodeRecord(), **self.store.state.nodes}
        self.store.set(live={**self.store.state.live, self.name: word}, nodes=nodes)

    def permit(self, uid: str, token: int) -> bool:
        """Whether the claim is this node's, as a proven tenure says."""
        claim = self.store.state.claims.get(uid)
        return self.serving and claim is not None and (claim.token, claim.lease) == (token, self.lease)

    def situation(self) -> Situation:
        """What the planner is given."""
        me = Me(self.name, self.lease, self.storage.instance, guarded=True, boot_id=self.boot_id)
        waited = dict.fromkeys((spec.uid for spec in self.store.state.images.values()), 60.0)
        view = self.store.view()
        kernel = self.kernel.observe(view)
        return Situation(view, kernel, me, waited, lately=self.lately)

    def turn(self) -> bool:
        """One turn; returns whether it found nothing to do. A step's failure ends that image's steps."""
        self.speak()
        decided = plan(self.situation())
        hands = Hands(self.name, self.lease, self.store, self.storage, self.kernel, self.permit, boot_id=self.boot_id)
        for group in (decided.first, *decided.images.values(), decided.last):
            try:
                for step in group:
                    apply(step, hands)
            except RbdgateError as error:
                self.pool.log.append(f"{self.name}: {type(error).__name__}: {error}")
        return decided.empty

    def settle(self) -> None:
        """Turns until there is nothing to do."""
        for _ in range(12):
            if self.turn():
                return
        raise AssertionError(f"{self.name} does not come to rest: {plan(self.situation())}")

    def withdraw(self) -> None:
        """What the guard does: towards nothing, until nothing is left."""
        hands = Hands(self.name, 0, self.store, None, self.kernel, self.permit)
        for _ in range(6):
            decided = plan_nothing(self.kernel.state)
            for group in (decided.first, *decided.images.values(), decided.last):
                for step in group:
                    apply(step, hands)
        assert plan_nothing(self.kernel.state).empty

    def serves(self, spec: ImageSpec) -> bool:
        """Whether every path of the image is up here under the present claim."""
        claim = self.store.state.claims.get(spec.uid)
        whole = claim is not None and export_of(spec, claim.token, self.kernel.state) is not None
        return whole and all(path_is_up(spec, path, self.kernel.state) for path in spec.paths)


def world(images: int = 1, nodes: int = 2) -> tuple[FakeStore, FakePool, list[Node]]:
    """A cluster at its beginning."""
    specs = {spec_of(n).name: spec_of(n) for n in range(1, images + 1)}
    view = ClusterView(
        revision=10,
        settings=ClusterSettings("fsid", NETWORKS, "rbd"),
        images=specs,
        revisions=dict.fromkeys(specs, 5),
        broken={},
        nodes={},
        live={},
        claims={},
        records=(),
        moves={},
        fences={},
    )
    store, pool = FakeStore(view), FakePool()
    return store, pool, [Node(f"gw{n}", store, pool) for n in range(1, nodes + 1)]


def test_an_unclaimed_image_is_taken_served_and_then_left_alone() -> None:
    """One node serves a new image with all paths, and a node at rest has an empty plan."""
    store, pool, (node,) = world(nodes=1)
    node.settle()
    assert node.serves(spec_of(1))
    assert pool.holders[spec_of(1).uid].token == store.state.claims[spec_of(1).uid].token
    assert not pool.blocklist


def test_a_crashed_holder_is_fenced_before_the_image_is_mapped_elsewhere() -> None:
    """After a power cut every instance of the old holder is blocklisted before the header is taken and mapped."""
    store, pool, nodes = world()
    first = nodes[0]
    first.settle()
    instances = set(pool.holders[spec_of(1).uid].instances)
    store.expire(first.name)
    nodes[1].settle()
    assert nodes[1].serves(spec_of(1))
    assert instances <= pool.blocklist
    assert pool.log.index(f"fence {spec_of(1).uid}") < len(pool.log) - 1 - pool.log[::-1].index(
        f"take {spec_of(1).uid}"
    )


def test_a_taker_nudges_whoever_was_connected_to_the_path_it_opens() -> None:
    """Right after a path is up, the initiators on record for that portal are nudged, and no others."""
    store, _, (node,) = world(nodes=1)
    spec = spec_of(1)
    ends = [(spec.paths[0].address, "10.1.0.61"), (spec.paths[1].address, "10.2.0.61")]
    store.connections[spec.uid] = tuple(Connection(a, 3260, ipaddress.ip_address(p), 4711) for a, p in ends)
    acts: list[str] = []
    node.kernel.before = acts.append
    node.settle()
    assert [act for act in acts if act.startswith(("open_path", "nudge"))] == [
        "open_path",
        "open_path halfway",
        "nudge 10.1.0.61",
        "open_path",
        "open_path halfway",
        "nudge 10.2.0.61",
    ]


def test_nobody_is_fenced_twice() -> None:
    """Once a taker has fenced a dead holder and swapped the header, a later taker of the image fences nobody."""
    store, pool, nodes = world(nodes=3)
    nodes[0].settle()
    store.expire(nodes[0].name)
    nodes[1].settle()
    dead = set(pool.blocklist)
    assert dead <= set(store.state.fences)
    assert not dead & {record.instance for record in store.state.records}
    nodes[2].settle()
    store.set(moves={spec_of(1).uid: Move(nodes[2].name, 77)})
    for _ in range(4):
        for node in nodes[1:]:
            node.turn()
    assert nodes[2].serves(spec_of(1))
    assert sum(entry.startswith("fence") for entry in pool.log) == 1
    assert pool.blocklist == dead


def test_a_fenced_node_comes_back_with_new_instances_and_forgets_the_old() -> None:
    """A node that lost its lease withdraws, joins anew, and drops records and fences of its old instances."""
    store, pool, nodes = world()
    nodes[0].settle()
    store.expire(nodes[0].name)
    nodes[1].settle()
    nodes[0].withdraw()
    nodes[0].join()
    nodes[0].settle()
    nodes[1].settle()
    nodes[0].settle()
    live = {i for word in store.state.live.values() for i in word.instances}
    assert not live & pool.blocklist
    assert not store.state.fences
    assert {record.instance for record in store.state.records} <= live
    assert nodes[1].serves(spec_of(1))


def test_a_machine_of_the_same_name_forgets_no_fence_of_the_former() -> None:
    """Whoever joins under a dead node's name, another machine or the same one booted anew, leaves its fences alone."""
    store, pool, nodes = world()
    nodes[0].settle()
    victims = set(pool.holders[spec_of(1).uid].instances)
    store.expire(nodes[0].name)
    nodes[1].settle()
    assert victims == set(store.state.fences)
    other = Node("gw1", store, pool)
    other.boot_id = "boot of another machine"
    other.storage, other.kernel._nonce = FakeStorage(pool, Instance("10.0.9.1:0/1")), 900
    other.settle()
    assert victims == set(store.state.fences)


def test_a_record_outlives_an_intent_that_was_not_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A taker that dies between intent and blocklist leaves the victim's records to the next, whoever cleans up."""
    store, pool, nodes = world()
    nodes[0].settle()
    instances = set(pool.holders[spec_of(1).uid].instances)
    store.expire(nodes[0].name)

    def die(self: FakeStorage, spec: ImageSpec, victims: frozenset[Instance]) -> None:
        raise FenceUnconfirmed("died")

    with monkeypatch.context() as patch:
        patch.setattr(FakeStorage, "fence", die)
        for _ in range(4):
            nodes[1].turn()
        assert instances <= set(store.state.fences)
        nodes[0].withdraw()
        nodes[0].join()
        for _ in range(3):
            nodes[0].turn()
    assert not pool.blocklist
    assert instances <= {record.instance for record in store.state.records}
    assert instances <= set(store.state.fences)


def test_a_live_node_is_never_fenced_for_one_image() -> None:
    """A claim that was deleted under a live holder is not taken over by force."""
    store, pool, nodes = world()
    nodes[0].settle()
    nodes[1].turn()
    uid = spec_of(1).uid
    store.set(claims={})
    nodes[1].kernel.before = lambda act: None
    nodes[1].turn()
    nodes[1].turn()
    assert store.state.claims[uid].node == nodes[1].name
    assert not pool.blocklist
    assert not nodes[1].serves(spec_of(1))
    nodes[0].settle()
    assert not nodes[0].kernel.state.devices


def test_a_planned_move_fences_nobody() -> None:
    """A move withdraws, releases and serves at the target with no blocklist entry, and ends the request."""
    store, pool, nodes = world()
    nodes[0].settle()
    uid = spec_of(1).uid
    holder = store.state.claims[uid].node
    other = next(node for node in nodes if node.name != holder)
    other.settle()
    store.set(moves={uid: Move(other.name, 77)})
    for _ in range(4):
        for node in nodes:
            node.turn()
    assert other.serves(spec_of(1))
    assert store.state.claims[uid].node == other.name
    assert not store.state.moves
    for node in nodes:
        node.settle()
    assert pool.blocklist <= {record.instance for record in store.state.records} | pool.blocklist
    assert not store.state.fences


def test_a_deleted_image_is_withdrawn_and_released() -> None:
    """An image marked as deleting leaves no trace on its holder and nobody claims it again."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec = spec_of(1)
    store.set(images={spec.name: replace(spec, deleting=True)})
    node.settle()
    assert not store.state.claims
    assert not store.state.records
    assert not node.kernel.state.devices
    assert not node.kernel.state.addresses


def test_a_lost_link_takes_only_its_path_down_and_keeps_the_rest() -> None:
    """The path on a network without link goes down alone, and comes up again with the link."""
    _store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec = spec_of(1)
    up = dict(node.kernel.state.networks)
    down = {**up, NETWORKS[0].name: replace(up[NETWORKS[0].name], up=False)}
    node.kernel.state = replace(node.kernel.state, networks=down)
    node.settle()
    assert [path_is_up(spec, path, node.kernel.state) for path in spec.paths] == [False, True]
    assert len(node.kernel.state.targets[0].tpgs) == 2
    node.kernel.state = replace(node.kernel.state, networks=up)
    node.settle()
    assert node.serves(spec)


def test_initiators_change_while_exported() -> None:
    """Allowing and denying an initiator changes ACLs in place: no cut, no new device."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    device = node.kernel.state.devices[0]
    spec = replace(spec_of(1), initiators=(Iqn("iqn.1993-08.org.debian:01:b"),))
    store.set(images={spec.name: spec})
    node.kernel.before = _forbid("cut")
    node.settle()
    assert node.kernel.state.devices == (device,)
    assert set(node.kernel.state.targets[0].tpgs[1].initiators) == set(spec.initiators)


def test_a_restarted_agent_refreshes_its_hold_without_touching_the_export() -> None:
    """A new RADOS client under the old lease is recorded and named in the header; nothing else happens."""
    store, pool, (node,) = world(nodes=1)
    node.settle()
    before = node.kernel.state
    node.storage = FakeStorage(pool, Instance("10.0.1.1:0/4242"))
    node.settle()
    assert node.kernel.state == before
    assert Instance("10.0.1.1:0/4242") in pool.holders[spec_of(1).uid].instances
    assert {record.instance for record in store.state.records} == set(pool.holders[spec_of(1).uid].instances)


def test_an_unreadable_spec_neither_stops_nor_moves_its_image() -> None:
    """Garbage over a spec leaves the export as it is, and the other images are served."""
    store, _pool, (node,) = world(images=2, nodes=1)
    node.settle()
    before = node.kernel.state
    rest = {name: spec for name, spec in store.state.images.items() if name != spec_of(1).name}
    store.set(images=rest, broken={"rbd/disk1": "garbage"})
    node.settle()
    assert node.kernel.state == before


def test_an_image_whose_records_cannot_be_read_is_not_claimed() -> None:
    """Unknown is not absent: an image that stands among the broken ones too is left to the operator."""
    store, _, (node,) = world(nodes=1)
    store.set(broken={"rbd/disk1": "who may have it open cannot be read"})
    node.turn()
    node.settle()
    assert not store.state.claims


def test_busy_images_are_left_out() -> None:
    """An image whose steps still run gets no second plan, and its addresses are not taken for leftovers."""
    _store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec = spec_of(1)
    halfway = replace(node.kernel.state, targets=())
    busy = replace(node.situation(), kernel=halfway, busy=frozenset({spec.uid}))
    assert plan(busy).empty
    assert any(isinstance(step, Cut) for step in plan(replace(busy, busy=frozenset())).first)


def test_nothing_is_claimed_without_a_guard_or_a_client() -> None:
    """A node whose guard is dead, or that has no RADOS client, takes nothing up."""
    store, _pool, (node,) = world(nodes=1)
    node.turn()
    node.turn()
    situation = replace(node.situation(), view=replace(store.state, claims={}))
    for me in (replace(situation.me, guarded=False), replace(situation.me, rados=None)):
        steps = plan(replace(situation, me=me)).images.get(spec_of(1).uid, ())
        assert not any(isinstance(step, Claim) for step in steps)


def test_the_order_of_a_takeover_is_take_map_build_open() -> None:
    """A plan never maps before the hold was taken, nor opens a path before the build."""
    _store, _pool, (node,) = world(nodes=1)
    node.turn()
    node.turn()
    steps = [type(step) for step in plan(node.situation()).images[spec_of(1).uid]]
    assert steps.index(TakeHold) < steps.index(Map) < steps.index(OpenPath)


def test_no_step_starts_to_serve_after_the_tenure() -> None:
    """Whatever takes, maps, builds or opens is refused when the tenure does not cover the claim."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    node.serving = False
    spec, client = spec_of(1), node.kernel.anchor_instance()
    hands = Hands(node.name, node.lease, store, node.storage, node.kernel, node.permit)
    starting = (
        TakeHold(spec, 1, client),
        Map(spec, 1, client),
        Build(spec, DeviceName(spec.uid, 1), Access({})),
        OpenPath(spec, spec.paths[0], 1),
    )
    for step in starting:
        with pytest.raises(TenureOver):
            apply(step, hands)


def test_a_path_whose_tenure_ends_on_the_way_does_not_answer() -> None:
    """The tenure is asked once more after all that can wait, before the address is there."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec = spec_of(1)
    address = spec.paths[0].address
    token = store.state.claims[spec.uid].token
    node.kernel.cut(frozenset({address}))
    node.kernel.remove_addresses(frozenset({address}))
    asked = iter((True, False))
    hands = Hands(node.name, node.lease, store, node.storage, node.kernel, lambda *_: next(asked))
    with pytest.raises(TenureOver):
        apply(OpenPath(spec, spec.paths[0], token), hands)
    assert address not in node.kernel.state.addresses
    assert address in node.kernel.state.cuts


@pytest.mark.parametrize("taker", [0, 1])
def test_a_lock_left_behind_costs_nobody_its_client(taker: int) -> None:
    """A holder that let go while Ceph did not answer leaves its lock: its own node or another one takes the image."""
    store, pool, nodes = world()
    nodes[0].settle()
    nodes[1].settle()
    spec, (holder, other) = spec_of(1), (nodes[0], nodes[1])
    claim = store.state.claims[spec.uid]
    if claim.node != holder.name:
        holder, other = other, holder
    pool.deaf = True
    store.set(moves={spec.uid: Move(other.name, 99)})
    holder.turn()
    assert spec.uid not in store.state.claims
    assert pool.locks[spec.uid] == holder.kernel.anchor_instance()
    pool.deaf = False
    to = (holder, other)[taker]
    store.set(moves={spec.uid: Move(to.name, 100)})
    to.settle()
    assert to.serves(spec)
    assert not pool.blocklist


def test_an_image_stays_where_its_move_cannot_be_done() -> None:
    """A target that has no clients of Ceph would not take it: letting go would only send it back and forth."""
    store, _pool, nodes = world()
    nodes[0].settle()
    nodes[1].settle()
    spec = spec_of(1)
    holder = next(node for node in nodes if node.serves(spec))
    other = next(node for node in nodes if node is not holder)
    word = store.state.live[other.name]
    store.set(moves={spec.uid: Move(other.name, 99)})
    store.set(live={**store.state.live, other.name: replace(word, instances=word.instances[:1])})
    holder.settle()
    assert holder.serves(spec)
    assert not store.state.moves


def test_connections_that_cannot_be_read_keep_no_path_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nudge is a nicety: with etcd out of reach at that moment the paths are opened all the same."""
    store, _pool, (node,) = world(nodes=1)

    def fail(uid: str) -> tuple[Connection, ...]:
        raise StoreUnavailable(f"no answer about {uid}")

    monkeypatch.setattr(store, "connections_of", fail)
    node.settle()
    assert node.serves(spec_of(1))
    assert not any("no answer" in line for line in node.pool.log)


def test_a_path_follows_its_network_to_another_interface() -> None:
    """A second interface takes over the network: the address leaves the first one before it is added there."""
    _store, _pool, (node,) = world(nodes=1)
    node.settle()
    state, path = node.kernel.state, spec_of(1).paths[0]
    second = Interface("eth9", 9, up=True, addresses=frozenset())
    node.kernel.state = replace(state, networks={**state.networks, path.network: second})
    node.settle()
    assert node.kernel.state.addresses[path.address] == "eth9"
    assert node.serves(spec_of(1))


def test_a_mapping_made_by_hand_is_left_alone() -> None:
    """An administrator's snapshot or second mapping on a gateway is neither unmapped nor a reason to export anew."""
    _store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec = spec_of(1)
    (ours,) = node.kernel.state.mappings_of(spec)
    by_hand = replace(ours, number=70, options={}, instance=Instance("10.0.0.1:0/77"))
    snapshot = replace(by_hand, number=71, read_only=True)
    node.kernel.state = replace(node.kernel.state, mappings=(by_hand, snapshot, *node.kernel.state.mappings))
    assert plan(node.situation()).empty
    node.withdraw()
    assert {mapping.number for mapping in node.kernel.state.mappings} == {70, 71}
    node.settle()
    assert node.kernel.state.devices[0].dev_path not in ("/dev/rbd70", "/dev/rbd71")
    assert node.serves(spec)


def test_a_foreign_target_of_the_same_name_cuts_nothing() -> None:
    """An image adopted while its former target still runs here: the node's own address is that target's portal."""
    _store, _pool, (node,) = world(nodes=1)
    own = Portal(ipaddress.ip_address("192.0.2.1"), 3260)
    tpg = Tpg(1, enabled=True, device=None, portals=frozenset({own}), initiators={}, settings={})
    foreign = Target(spec_of(1).identity.iqn, (tpg,))
    node.kernel.state = replace(node.kernel.state, targets=(foreign,))
    decided = plan(node.situation())
    assert not any(isinstance(step, Cut) for step in decided.first)
    node.store.claim(spec_of(1), 5, node.name, node.lease)
    assert not any(isinstance(step, Cut) for step in plan(node.situation()).first)


def test_an_image_is_mapped_with_the_client_on_record_only() -> None:
    """A client that came anew between the taking and the mapping is not what others would fence."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    spec, old = spec_of(1), node.kernel.anchor_instance()
    token = store.state.claims[spec.uid].token
    node.withdraw()
    node.kernel.map_anchor(7)
    hands = Hands(node.name, node.lease, store, node.storage, node.kernel, node.permit)
    apply(TakeHold(spec, token, old), hands)
    with pytest.raises(Inconsistent):
        apply(Map(spec, token, old), hands)
    assert not node.kernel.state.mappings_of(spec)


def test_a_live_victim_is_an_unconfirmed_fence() -> None:
    """The refusal to fence a live node names the node."""
    store, pool, nodes = world()
    nodes[0].settle()
    nodes[1].turn()
    uid, spec = spec_of(1).uid, spec_of(1)
    store.set(claims={})
    claim = store.claim(spec, 5, nodes[1].name, nodes[1].lease)
    hands = Hands(nodes[1].name, nodes[1].lease, store, nodes[1].storage, nodes[1].kernel, nodes[1].permit)
    with pytest.raises(FenceUnconfirmed, match="gw1"):
        apply(TakeHold(spec, claim.token, nodes[1].kernel.anchor_instance()), hands)
    assert uid in pool.holders


class Interrupted(Exception):
    """The agent died right here."""


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_an_agent_that_dies_anywhere_is_taken_up_by_the_next(stops: list[int]) -> None:
    """After a death before any act, also several times in a row, the next agent comes to serve and to rest."""
    _store, _pool, (node,) = world(images=2, nodes=1)
    for stop in stops:
        left = stop

        def die(_act: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Interrupted

        node.kernel.before = die
        try:
            for _ in range(4):
                node.turn()
        except Interrupted:
            pass
        node.kernel.before = lambda _act: None
    node.settle()
    assert node.serves(spec_of(1))
    assert node.serves(spec_of(2))


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(0, 12))
def test_a_guard_that_dies_anywhere_is_taken_up_by_the_next(steps: int, stop: int) -> None:
    """From any halfway export, and any halfway withdrawal of it, a withdrawal leaves nothing of ours behind."""
    _store, _pool, (node,) = world(nodes=1)
    for limit, act in ((steps, node.settle), (stop, node.withdraw)):
        left = limit

        def die(_act: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Interrupted

        node.kernel.before = die
        with contextlib.suppress(Interrupted):
            act()
        node.kernel.before = lambda _act: None
    node.withdraw()
    state = node.kernel.state
    assert state == Kernel((), (), (), {}, frozenset(), state.networks)


def _forbid(forbidden: str):  # type: ignore[no-untyped-def] # a one-line check
    def check(act: str) -> None:
        assert act != forbidden, f"{act} was not to happen"

    return check
