"""Placement: the same answer everywhere, with its reason; images where they belong, and moved only when needed."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credentials import SealedCredentials
from gateway.model import (
    Claim,
    ClusterSettings,
    ClusterView,
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
    NodeState,
    Path,
)
from gateway.placement import (
    TOLERANCE,
    Lately,
    Placement,
    Relocation,
    candidates,
    rebalancing,
    should_leave,
    unfit,
    why_not,
)

A, B = Label("storage-1"), Label("storage-2")
GW1, GW2, GW3 = Label("gw1"), Label("gw2"), Label("gw3")
SETTINGS = ClusterSettings(
    "fsid",
    (
        Network.parse("storage-1=10.1.0.0/16,10.1.0.100-10.1.9.199"),
        Network.parse("storage-2=10.2.0.0/16,10.2.0.100-10.2.9.199"),
    ),
    "rbd",
)


def image(number: int, **changes: object) -> ImageSpec:
    """An image with a path in each network."""
    spec = ImageSpec(
        name=ImageName("rbd", f"disk{number}"),
        uid=f"{number:016x}",
        image_id=f"id{number}",
        size=1 << 30,
        identity=Identity(Iqn(f"iqn.2026-11.io.rbdgate:disk{number}"), f"serial-{number}"),
        paths=(
            Path(1, ipaddress.ip_address(f"10.1.{number // 200}.{100 + number % 100}"), A),
            Path(2, ipaddress.ip_address(f"10.2.{number // 200}.{100 + number % 100}"), B),
        ),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def word(node: Label, networks: tuple[Label, ...] = (A, B), **changes: object) -> LiveNode:
    """A live node with both its clients."""
    clients = (Instance(f"10.0.0.{str(node)[-1]}:0/1"), Instance(f"10.0.0.{str(node)[-1]}:0/2"))
    return replace(LiveNode(node, hash(node) % 1000, "boot", "1", networks, clients), **changes)  # type: ignore[arg-type]


def view_of(
    specs: Sequence[ImageSpec],
    nodes: Sequence[LiveNode] = (word(GW1), word(GW2), word(GW3)),
    held: dict[int, Label] | None = None,
    moves: dict[int, Move] | None = None,
    records: dict[Label, NodeRecord] | None = None,
) -> ClusterView:
    """A cluster of these images and live nodes; `held` and `moves` are by the image's number."""
    uid = {int(spec.uid, 16): spec.uid for spec in specs}
    return ClusterView(
        revision=1,
        settings=SETTINGS,
        images={spec.name: spec for spec in specs},
        revisions={spec.name: 1 for spec in specs},
        broken={},
        nodes={node.name: NodeRecord() for node in nodes} | (records or {}),
        live={node.name: node for node in nodes},
        claims={uid[n]: Claim(node, 1, n) for n, node in (held or {}).items()},
        records=(),
        moves={uid[n]: move for n, move in (moves or {}).items()},
        fences={},
    )


def order(view: ClusterView, spec: ImageSpec) -> list[Label]:
    """The nodes that may take the image, in order."""
    return [candidate.node for candidate in candidates(view, spec)]


def wanted(
    view: ClusterView, settled: set[Label] | None = None, hurry: set[str] | None = None
) -> list[tuple[int, Label, Label]]:
    """The relocations that the agents would make by themselves: image, from, to."""
    lately = Lately(steady=set(view.live), settled=settled or set(), failing=hurry or set())
    found = Placement(view).relocations(lately)
    return [(int(each.uid, 16), each.source, each.target) for each in found]


def moved(view: ClusterView, each: Relocation) -> ClusterView:
    """The view after that relocation was done."""
    return replace(view, claims={**view.claims, each.uid: Claim(each.target, 1, 1)})


def test_unclaimed_images_are_spread_evenly() -> None:
    """Images nobody holds are given out by share, whatever the hash says."""
    specs = [image(number) for number in range(30)]
    first = Counter(order(view_of(specs), spec)[0] for spec in specs)
    assert first == {GW1: 10, GW2: 10, GW3: 10}


def test_weights_are_shares() -> None:
    """A node of twice the weight gets twice the images."""
    specs = [image(number) for number in range(40)]
    view = view_of(specs, records={GW1: NodeRecord(weight=200)})
    assert Counter(order(view, spec)[0] for spec in specs) == {GW1: 20, GW2: 10, GW3: 10}


def test_a_dead_nodes_images_go_to_several() -> None:
    """What one node held is divided among the others, and nothing else moves."""
    specs = [image(number) for number in range(30)]
    held = {number: (GW1, GW2, GW3)[number % 3] for number in range(30)}
    left = {number: node for number, node in held.items() if node != GW1}
    view = view_of(specs, nodes=(word(GW2), word(GW3)), held=left)
    assert Counter(order(view, specs[number])[0] for number in range(0, 30, 3)) == {GW2: 5, GW3: 5}
    assert wanted(view, settled={GW2, GW3}) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"live": {}}, "is not live"),
        ({"nodes": {}}, "cannot be read"),
        ({"nodes": {GW1: NodeRecord(NodeState.MAINTENANCE)}}, "is in maintenance"),
        ({"live": {GW1: word(GW1, obstacle="no guard")}}, "can serve nothing: no guard"),
        ({"live": {GW1: word(GW1, instances=())}}, "not connected to Ceph"),
    ],
)
def test_who_can_take_nothing(changed: dict[str, object], words: str) -> None:
    """A node that is not live, not active, has an obstacle or no clients of Ceph is nobody's candidate, and why."""
    view = replace(view_of([image(1)], nodes=(word(GW1),)), **changed)  # type: ignore[arg-type]
    assert order(view, image(1)) == []
    reason = unfit(view, GW1)
    assert reason is not None
    assert re.search(words, reason)


def test_a_drained_node_takes_only_what_nobody_else_can() -> None:
    """Being drained is a wish, being served a need: the last one that is there takes the image, and gives it on."""
    drained = {GW1: NodeRecord(NodeState.DRAIN, why="new disk")}
    alone = view_of([image(1)], nodes=(word(GW1),), records=drained)
    assert unfit(alone, GW1) == "is drained (new disk)"
    assert order(alone, image(1)) == [GW1]
    assert order(view_of([image(1)], nodes=(word(GW1, obstacle="no guard"),), records=drained), image(1)) == []
    assert order(view_of([image(1)], records=drained), image(1)) != [GW1]
    both = view_of([image(1)], nodes=(word(GW1), word(GW2)), held={1: GW1}, records=drained)
    assert wanted(both) == [(1, GW1, GW2)]
    leaving = view_of([image(1)], nodes=(word(GW1), word(GW2)), held={1: GW2}, records=drained)
    leaving = replace(leaving, nodes={**leaving.nodes, GW2: NodeRecord(NodeState.MAINTENANCE)})
    assert wanted(leaving) == []
    assert "no other node can take" in str(should_leave(leaving, image(1), GW2))


def test_a_pin_and_the_networks_do_not_quarrel() -> None:
    """A pinned node with one network of three does not fetch an image from one that has the two others."""
    third = Label("storage-3")
    paths = (*image(1).paths, Path(3, ipaddress.ip_address("10.3.0.101"), third))
    spec = image(1, paths=paths, pin=GW1)
    view = view_of([spec], nodes=(word(GW1, (A,)), word(GW2, (B, third))), held={1: GW2})
    assert wanted(view, settled={GW1, GW2}) == []


def test_a_drain_gives_nothing_to_a_node_without_its_networks() -> None:
    """An image with a path up is not moved to where it would have none, not even for a drain."""
    view = view_of([image(1)], nodes=(word(GW1), word(GW2, ())), held={1: GW1})
    view = replace(view, nodes={**view.nodes, GW1: NodeRecord(NodeState.DRAIN)})
    assert wanted(view) == []


def test_moves_that_are_none_take_no_place() -> None:
    """Only images that are on their way count against the bound: not stopped ones, nor those nobody can take."""
    specs = [image(1), image(2, stopped=True), image(3), image(4)]
    moves = {1: Move(GW2, 1, "x"), 2: Move(GW2, 2, "x"), 3: Move(Label("gw9"), 3), 4: Move(GW3, 4)}
    view = view_of(specs, held={1: GW1, 3: GW1, 4: GW3}, moves=moves)
    assert Placement(view).under_way == 2


def test_a_move_that_was_made_keeps_nothing_where_it_is() -> None:
    """An image whose move ended at its present holder goes on from there as any other, drained or failing."""
    spec = image(1)
    view = view_of([spec], held={1: GW2}, moves={1: Move(GW2, 3)})
    assert wanted(view, hurry={spec.uid})[0][:2] == (1, GW2)
    drained = replace(view, nodes={**view.nodes, GW2: NodeRecord(NodeState.DRAIN)})
    assert wanted(drained)[0][:2] == (1, GW2)


def test_more_networks_come_before_share_and_pin() -> None:
    """A node with more of the image's networks up comes first, also before the pin; other networks do not count."""
    only_a = image(1, paths=image(1).paths[:1])
    view = view_of([image(2), only_a], nodes=(word(GW1, (A,)), word(GW2)))
    assert order(view, image(2, pin=GW1)) == [GW2, GW1]
    assert order(view, replace(only_a, pin=GW1)) == [GW1, GW2]


def test_a_pin_comes_first_and_others_serve_without_it() -> None:
    """A pinned image is its node's while that can take it, and another's when it cannot."""
    spec = image(1, pin=GW3)
    assert order(view_of([spec]), spec)[0] == GW3
    assert "pinned" in candidates(view_of([spec]), spec)[0].reason
    assert GW3 not in order(view_of([spec], nodes=(word(GW1), word(GW2))), spec)


def test_keep_away_is_absolute() -> None:
    """A node the image is kept away from never takes it, and gives it up if it has it."""
    spec = image(1, keep_away=(GW1, GW2))
    assert order(view_of([spec]), spec) == [GW3]
    assert order(view_of([spec], nodes=(word(GW1),)), spec) == []
    assert "kept away" in str(should_leave(view_of([spec], held={1: GW1}), spec, GW1))
    assert "kept away" in str(why_not(view_of([spec]), spec, GW2))


def test_a_node_without_the_key_takes_nothing_that_needs_it() -> None:
    """An image whose initiators use CHAP goes to nodes that can open the credentials, and has no other candidate."""
    alice = Iqn("iqn.1993-08.org.debian:01:alice")
    spec, free = image(1, initiators=(alice,), pin=GW2), image(2)
    view = view_of([spec, free], nodes=(word(GW1, key_id="one"), word(GW2), word(GW3, key_id="two")), held={1: GW1})
    view = replace(view, credentials={alice: SealedCredentials("alice", "", "one", "sealed")})
    assert order(view, spec) == [GW1]
    assert set(order(view, free)) == {GW1, GW2, GW3}
    assert why_not(view, spec, GW3) == f"has key two, and the CHAP credentials of {alice} are sealed with key one"
    assert wanted(view, settled={GW1, GW2, GW3}) == []


def test_a_stopped_or_deleted_image_is_given_up() -> None:
    """Its holder lets it go, and says why."""
    for spec, words in ((image(1, stopped=True), "stopped"), (image(1, deleting=True), "deleted")):
        assert words in str(should_leave(view_of([spec], held={1: GW1}), spec, GW1))


def test_a_move_is_made_when_its_target_can_take_the_image() -> None:
    """The holder lets go for a target that can serve now, and for no other."""
    spec = image(1)
    view = view_of([spec], held={1: GW1}, moves={1: Move(GW2, 5)})
    assert should_leave(view, spec, GW1) == "it moves to gw2: an operator's move"
    assert should_leave(view, spec, GW2) is None
    assert order(view, spec)[0] == GW2
    for changed in (
        replace(view, live={**view.live, GW2: word(GW2, obstacle="no guard")}),
        replace(view, nodes={**view.nodes, GW2: NodeRecord(NodeState.DRAIN)}),
        replace(view, live={GW1: word(GW1)}),
    ):
        assert should_leave(changed, spec, GW1) is None


def test_a_drained_node_gives_its_images_to_all_the_others() -> None:
    """Each image of a drained node is wanted elsewhere, spread over the others; it keeps what nobody can take."""
    specs = [image(number) for number in range(8)] + [image(8, keep_away=(GW2, GW3))]
    view = view_of(specs, held=dict.fromkeys(range(9), GW1), records={GW1: NodeRecord(NodeState.DRAIN)})
    found = wanted(view)
    assert {number for number, _, _ in found} == set(range(8))
    assert set(Counter(target for _, _, target in found).values()) <= {3, 4, 5}
    assert should_leave(view, specs[8], GW1) is None


def test_maintenance_keeps_nothing() -> None:
    """In maintenance an image that nobody else can take is given up as well; the others move as in a drain."""
    specs = [image(1), image(2, keep_away=(GW2, GW3))]
    view = view_of(specs, held={1: GW1, 2: GW1}, records={GW1: NodeRecord(NodeState.MAINTENANCE)})
    assert [number for number, _, _ in wanted(view)] == [1]
    assert should_leave(view, specs[0], GW1) is None
    assert "no other node can take" in str(should_leave(view, specs[1], GW1))


def test_a_lost_network_moves_the_image_only_if_somebody_has_more() -> None:
    """The image leaves a holder that lost one of its networks for a node that has it, and else it stays."""
    specs = [image(1)]
    crippled = (word(GW1, (A,)), word(GW2, (A,)))
    assert wanted(view_of(specs, nodes=crippled, held={1: GW1})) == []
    view = view_of(specs, nodes=(*crippled, word(GW3)), held={1: GW1})
    assert wanted(view) == [(1, GW1, GW3)]
    reason = next(Placement(view).relocations(Lately(steady=set(view.live)))).reason
    assert reason == "gw3 has storage-2 up, gw1 has not"


def test_trouble_of_the_holder_moves_its_image() -> None:
    """An image that its holder cannot serve goes to another node, if there is one."""
    spec = image(1)
    assert wanted(view_of([spec], held={1: GW1}), hurry={spec.uid})[0][:2] == (1, GW1)
    assert wanted(view_of([spec], nodes=(word(GW1),), held={1: GW1}), hurry={spec.uid}) == []


def test_images_come_back_only_to_a_settled_node() -> None:
    """A node that came back gets its share, and its pins, once it has been there for a while, and not before."""
    specs = [image(number) for number in range(6)] + [image(6, pin=GW3)]
    view = view_of(specs, held={number: (GW1, GW2)[number % 2] for number in range(7)})
    assert wanted(view, settled={GW1, GW2}) == []
    back = wanted(view, settled={GW1, GW2, GW3})
    assert back[0] == (6, GW1, GW3)
    assert Counter(target for _, _, target in back) == {GW3: 2}


def test_nothing_moves_for_a_difference_of_one() -> None:
    """Loads that cannot be more even are left alone, also with the tolerance of `rebalancing`, which has none."""
    specs = [image(number) for number in range(4)]
    view = view_of(specs, held={0: GW1, 1: GW1, 2: GW2, 3: GW3})
    assert wanted(view, settled={GW1, GW2, GW3}) == []
    assert rebalancing(view) == ()


def test_small_differences_of_many_images_are_left_alone() -> None:
    """With a hundred images a node, a few too many move nothing by themselves; `rebalancing` evens them out."""
    specs = [image(number) for number in range(300)]
    held = {n: GW1 if n < 103 else GW2 if n < 201 else GW3 for n in range(300)}
    view = view_of(specs, held=held)
    assert abs(103 - 100) < 100 * TOLERANCE
    assert wanted(view, settled={GW1, GW2, GW3}) == []
    assert Counter((each.source, each.target) for each in rebalancing(view)) == {(GW1, GW2): 2, (GW1, GW3): 1}


def test_images_on_their_way_are_counted_where_they_go() -> None:
    """What a pending move brings is not brought twice."""
    specs = [image(number) for number in range(4)]
    view = view_of(specs, nodes=(word(GW1), word(GW2)), held=dict.fromkeys(range(4), GW1), moves={0: Move(GW2, 3, "x")})
    assert len(wanted(view, settled={GW1, GW2})) == 1


NODES = st.lists(
    st.tuples(
        st.sampled_from([(A,), (B,), (A, B)]), st.sampled_from(list(NodeState)), st.sampled_from(["", "no guard"]),
        st.sampled_from([50, 100, 300]),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(NODES, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 5)), max_size=24))
def test_moving_comes_to_an_end(shape: list[tuple[tuple[Label, ...], NodeState, str, int]], images: list) -> None:  # type: ignore[type-arg]
    """From any cluster, doing what placement wants, one move at a time, ends in a state in which it wants nothing."""
    labels = [Label(f"gw{number}") for number in range(1, len(shape) + 1)]
    nodes = [word(n, networks, obstacle=trouble) for n, (networks, _, trouble, _) in zip(labels, shape, strict=True)]
    records = {n: NodeRecord(state, weight) for n, (_, state, _, weight) in zip(labels, shape, strict=True)}
    specs, held = [], {}
    for number, (holder, pin, away) in enumerate(images):
        chosen = labels[pin] if pin < len(labels) else None
        avoided = tuple(labels[away : away + 1]) if chosen is None else ()
        specs.append(image(number, pin=chosen, keep_away=avoided))
        if holder < len(labels):
            held[number] = labels[holder]
    view = view_of(specs, nodes=nodes, held=held, records=records)
    for _ in range(4 * len(specs) + 1):
        each = next(Placement(view).relocations(Lately(steady=set(labels), settled=set(labels))), None)
        if each is None:
            break
        assert each.source != each.target
        assert why_not(view, view.images[ImageName("rbd", f"disk{int(each.uid, 16)}")], each.target) is None
        view = moved(view, each)
    else:
        raise AssertionError(f"it never ends: {each}")
    turned = replace(
        view, live=dict(reversed(list(view.live.items()))), images=dict(reversed(list(view.images.items())))
    )
    assert [candidates(view, spec) for spec in specs] == [candidates(turned, spec) for spec in specs]
