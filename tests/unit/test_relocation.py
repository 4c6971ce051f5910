"""Images that go by themselves: a drained node, a lost network, a node that came back; each move is on record."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gateway.errors import KernelRefused
from gateway.model import Label, Move, NodeRecord, NodeState
from gateway.placement import MOVES_AT_ONCE, Lately
from gateway.plan import plan
from gateway.steps import RequestMove
from tests.fakes.cluster import FakeStore
from tests.unit.test_plan import Node, spec_of, world

IMAGES = 6


@pytest.fixture(name="cluster")
def _cluster() -> tuple[FakeStore, list[Node]]:
    """Three nodes that serve six images."""
    store, _pool, nodes = world(images=IMAGES, nodes=3)
    for node in nodes:
        node.lately = long_after(nodes)
    settle(nodes)
    for node in nodes:
        node.lately = Lately()
    return store, nodes


def settle(nodes: list[Node]) -> None:
    """Turns of all nodes until none has anything to do."""
    for _ in range(40):
        at_rest = [node.turn() for node in nodes]
        if all(at_rest):
            return
    raise AssertionError(f"no rest: {[node.name.text for node in nodes]}: {nodes[0].store.state.moves}")


def long_after(nodes: list[Node]) -> Lately:
    """What is known when nothing has changed for long."""
    names = frozenset(node.name for node in nodes)
    return Lately(steady=names, settled=names)


def served(nodes: list[Node]) -> Counter[str]:
    """How many images each node serves; each image must be served once."""
    found = [(node.name.text, n) for node in nodes for n in range(1, IMAGES + 1) if node.serves(spec_of(n))]
    assert sorted(number for _, number in found) == list(range(1, IMAGES + 1))
    return Counter(name for name, _ in found)


def ask(store: FakeStore, node: Node, state: NodeState) -> None:
    """What `rbdgate node drain` and its like write."""
    store.set(nodes={**store.state.nodes, node.name: NodeRecord(state)})


def test_a_new_cluster_is_even(cluster: tuple[FakeStore, list[Node]]) -> None:
    """Each of three nodes serves two of six images."""
    assert served(cluster[1]) == {"gw1": 2, "gw2": 2, "gw3": 2}


def test_drain_and_resume(cluster: tuple[FakeStore, list[Node]]) -> None:
    """A drained node ends with nothing and fences nobody; resumed and settled, it gets its share back."""
    store, nodes = cluster
    ask(store, nodes[0], NodeState.DRAIN)
    settle(nodes)
    assert served(nodes) == {"gw2": 3, "gw3": 3}
    assert not store.state.moves
    ask(store, nodes[0], NodeState.ACTIVE)
    settle(nodes)
    assert served(nodes) == {"gw2": 3, "gw3": 3}
    for node in nodes:
        node.lately = long_after(nodes)
    settle(nodes)
    assert served(nodes) == {"gw1": 2, "gw2": 2, "gw3": 2}
    assert not nodes[0].pool.blocklist


def test_the_last_node_keeps_its_images_in_a_drain_and_not_in_maintenance() -> None:
    """With nobody else there, a drain takes nothing from the initiators; maintenance does what it says."""
    store, _pool, (node,) = world(images=1, nodes=1)
    node.settle()
    ask(store, node, NodeState.DRAIN)
    node.settle()
    assert node.serves(spec_of(1))
    ask(store, node, NodeState.MAINTENANCE)
    node.settle()
    assert not node.kernel.state.targets
    assert not store.state.claims
    ask(store, node, NodeState.ACTIVE)
    node.settle()
    assert node.serves(spec_of(1))


def test_few_are_on_their_way_at_once() -> None:
    """However many images a drained node holds, only a few moves are under way in the whole cluster."""
    store, _pool, nodes = world(images=20, nodes=2)
    settle(nodes)
    ask(store, nodes[0], NodeState.DRAIN)
    most = 0
    for _ in range(60):
        for node in nodes:
            node.turn()
            most = max(most, len(store.state.moves))
    assert most == MOVES_AT_ONCE
    assert all(claim.node == nodes[1].name for claim in store.state.claims.values())


def test_a_holder_that_does_nothing_blocks_no_other() -> None:
    """Of two drained nodes one hangs: all images of the other one go, though the first one's come first."""
    store, _pool, nodes = world(images=24, nodes=3)
    for node in nodes:
        node.lately = long_after(nodes)
    settle(nodes)
    for node in nodes:
        node.lately = Lately()
    hung, drained, taker = nodes
    ask(store, hung, NodeState.DRAIN)
    ask(store, drained, NodeState.DRAIN)
    before = [uid for uid, claim in store.state.claims.items() if claim.node == hung.name]
    assert len(before) > MOVES_AT_ONCE
    most = 0
    for _ in range(40):
        for node in (drained, taker):
            node.turn()
            most = max(most, len(store.state.moves))
    assert drained.name not in {claim.node for claim in store.state.claims.values()}
    assert most <= MOVES_AT_ONCE
    assert before == [uid for uid, claim in store.state.claims.items() if claim.node == hung.name]


def test_busy_images_block_none_of_their_own_holder() -> None:
    """The moves that cannot be asked for, because their images' steps hang, leave their places to others."""
    store, _pool, nodes = world(images=12, nodes=2)
    settle(nodes)
    ask(store, nodes[0], NodeState.DRAIN)
    uids = [uid for uid, claim in sorted(store.state.claims.items()) if claim.node == nodes[0].name]
    for hanging in (0, 1, MOVES_AT_ONCE):
        steps = plan(replace(nodes[0].situation(), busy=frozenset(uids[:hanging]))).images
        asked = [uid for uid in uids for step in steps.get(uid, ()) if isinstance(step, RequestMove)]
        assert asked == uids[hanging : hanging + MOVES_AT_ONCE][: len(uids) - hanging]


def test_a_lost_network_takes_the_images_elsewhere(cluster: tuple[FakeStore, list[Node]]) -> None:
    """Where another node has both networks the images go there; when all have lost it they stay where they are."""
    store, nodes = cluster

    def plug(node: Node, *, up: bool = True) -> None:
        link = replace(node.kernel.state.networks[Label("storage-2")], up=up)
        networks = {**node.kernel.state.networks, Label("storage-2"): link}
        node.kernel.state = replace(node.kernel.state, networks=networks)

    before = dict(store.state.claims)
    for node in nodes:
        plug(node, up=False)
    settle(nodes)
    assert store.state.claims == before, "moved while the others had not yet said that they lost it as well"
    for node in nodes:
        node.lately = Lately(steady={each.name for each in nodes})
    settle(nodes)
    assert store.state.claims == before
    for node in nodes[1:]:
        plug(node)
        node.turn()
    settle(nodes)
    assert served(nodes) == {"gw2": 3, "gw3": 3}


def test_an_image_that_cannot_be_served_here_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose kernel refuses an image for long hands it over, though its own steps fail every time."""
    store, _pool, nodes = world(nodes=2)
    settle(nodes)
    holder = next(node for node in nodes if node.serves(spec_of(1)))
    other = next(node for node in nodes if node is not holder)

    def refuse(*_: object) -> None:
        raise KernelRefused("no memory")

    monkeypatch.setattr(holder.kernel, "build", refuse)
    holder.kernel.teardown(spec_of(1).uid, frozenset())
    holder.lately = Lately(failing={spec_of(1).uid})
    for _ in range(4):
        holder.turn()
        other.turn()
    assert other.serves(spec_of(1))
    assert not store.state.moves


def test_an_image_is_not_nailed_to_a_target_that_cannot_export_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move ends where its target claims the image: if that one cannot build it, the image goes on to another."""
    store, _pool, nodes = world(nodes=2)
    settle(nodes)
    holder = next(node for node in nodes if node.serves(spec_of(1)))
    other = next(node for node in nodes if node is not holder)

    def refuse(*_: object) -> None:
        raise KernelRefused("no memory")

    monkeypatch.setattr(other.kernel, "build", refuse)
    store.set(moves={spec_of(1).uid: Move(other.name, 99)})
    for _ in range(4):
        holder.turn()
        other.turn()
    assert store.state.claims[spec_of(1).uid].node == other.name
    other.lately = Lately(failing={spec_of(1).uid})
    for _ in range(6):
        holder.turn()
        other.turn()
    assert holder.serves(spec_of(1))
    assert not store.state.moves


def test_a_stopped_image_leaves_no_move_behind(cluster: tuple[FakeStore, list[Node]]) -> None:
    """A move of an image that is stopped is over: it would count against the few that may be under way."""
    store, nodes = cluster
    spec, claim = spec_of(1), store.state.claims[spec_of(1).uid]
    target = next(node.name for node in nodes if node.name != claim.node)
    store.set(moves={spec.uid: Move(target, 99)})
    store.set(images={**store.state.images, spec.name: replace(spec, stopped=True)})
    settle(nodes)
    assert not store.state.moves
    assert spec.uid not in store.state.claims


@pytest.mark.parametrize("why", ["", "gw1 is drained"])
def test_a_move_to_a_node_that_is_gone_is_forgotten(cluster: tuple[FakeStore, list[Node]], why: str) -> None:
    """A move whose target is not there does not wait for it to come back."""
    store, nodes = cluster
    uid, claim = next(iter(store.state.claims.items()))
    gone = next(node for node in nodes if node.name != claim.node)
    store.expire(gone.name)
    store.set(moves={uid: Move(gone.name, 99, why)})
    rest = [node for node in nodes if node is not gone]
    settle(rest)
    assert not store.state.moves
    assert store.state.claims[uid] == claim


def test_no_move_waits_for_a_node_in_trouble(cluster: tuple[FakeStore, list[Node]]) -> None:
    """A move to a node that cannot take anything is forgotten, whoever asked: it would keep all others waiting."""
    store, nodes = cluster
    (one, claim), (two, _) = [(u, c) for u, c in store.state.claims.items() if c.node == nodes[0].name]
    target = store.state.live[nodes[1].name]
    store.set(live={**store.state.live, target.name: replace(target, obstacle="no guard")})
    store.set(moves={one: Move(target.name, 98), two: Move(target.name, 99, "to be even")})
    nodes[0].turn()
    assert not store.state.moves
    assert store.state.claims[one] == claim


def test_an_image_kept_away_is_given_up_at_once(cluster: tuple[FakeStore, list[Node]]) -> None:
    """A holder that the image is to be kept away from lets it go, and another takes it."""
    store, nodes = cluster
    spec = spec_of(1)
    holder = next(node for node in nodes if node.serves(spec))
    kept = replace(spec, keep_away=(holder.name,))
    store.set(images={**store.state.images, spec.name: kept})
    settle(nodes)
    assert store.state.claims[spec.uid].node != holder.name
    assert served(nodes)


def test_a_stopped_image_is_nowhere_until_it_is_started(cluster: tuple[FakeStore, list[Node]]) -> None:
    """Stopped, an image is held by nobody and open nowhere; started, it is served again."""
    store, nodes = cluster
    spec = spec_of(1)
    store.set(images={**store.state.images, spec.name: replace(spec, stopped=True)})
    settle(nodes)
    assert spec.uid not in store.state.claims
    assert not any(mapping.is_of(spec) for node in nodes for mapping in node.kernel.state.mappings)
    store.set(images={**store.state.images, spec.name: spec})
    settle(nodes)
    assert served(nodes)
