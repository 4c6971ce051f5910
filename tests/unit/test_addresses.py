"""Addresses that are new to the cluster: probed once, marked when served, and left alone where others have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.strangers import Strangers
from gateway.model import Label, parse_address
from gateway.plan import plan, plan_nothing
from gateway.report import ImageState, NodeReport, image_statuses
from gateway.steps import MarkServed, OpenPath, Uncut
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of, world

SPEC = spec_of(1)
FIRST, SECOND = (path.address for path in SPEC.paths)
MAC = "52:54:00:00:00:01"


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node that will serve an image of two paths, and has not begun."""
    made = Member(Cluster(NETWORKS, (SPEC,)), "gw1", tmp_path)
    made.start()
    yield made
    made.stop()


def state_of(member: Member) -> tuple[ImageState, list[tuple[str, str]]]:
    """The image as people see it, and its paths."""
    view, values = member.cluster.store.view_with_statuses()
    (status,) = image_statuses(view, {node: NodeReport.from_json(value) for node, value in values.items()})
    return status.state, [(path.state, path.reason) for path in status.paths]


def served(member: Member) -> set[object]:
    """What is marked as served before."""
    return set(member.cluster.store.view().served)


def test_new_addresses_are_probed_first_and_then_marked(member: Member) -> None:
    """Each is asked for before anything of it is in the kernel, and marked once it is up; then the node rests."""
    member.settle()
    assert [act for act in member.acts if act in ("probe", "open_path")] == ["probe", "open_path"] * 2
    assert served(member) == {FIRST, SECOND}


def test_a_takeover_waits_for_no_probe() -> None:
    """Whoever takes an image whose addresses were served before opens them without asking anybody."""
    store, _pool, nodes = world()
    nodes[0].settle()
    assert store.state.served == {FIRST, SECOND}
    acts: list[str] = []
    nodes[1].kernel.before = acts.append
    store.expire(nodes[0].name)
    nodes[1].settle()
    assert nodes[1].serves(SPEC)
    assert "probe" not in acts


def test_addresses_served_by_an_older_version_are_marked_where_they_are() -> None:
    """An image that is served and not marked, as after an upgrade, is marked without a touch of its paths."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    store.set(served=frozenset({FIRST}))
    token = store.state.claims[SPEC.uid].token
    assert plan(node.situation()).images == {SPEC.uid: (MarkServed(SPEC, token, frozenset({SECOND})),)}
    node.settle()
    assert store.state.served == {FIRST, SECOND}


def test_what_is_known_to_be_ours_is_opened_before_what_must_be_probed() -> None:
    """A path that was served before does not wait for the probe of one that was not."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    store.set(served=frozenset({SECOND}))
    node.kernel.cut(frozenset({FIRST, SECOND}))
    node.kernel.remove_addresses(frozenset({FIRST, SECOND}))
    steps = plan(node.situation()).images[SPEC.uid]
    assert [(step.path.address, step.probe) for step in steps if isinstance(step, OpenPath)] == [
        (SECOND, False),
        (FIRST, True),
    ]


@pytest.mark.parametrize("tag", [1, 2])
def test_a_stranger_costs_one_path(member: Member, tag: int) -> None:
    """The path whose address others have is down with that reason, the other is up, and the image is not failing."""
    taken = SPEC.paths[tag - 1].address
    member.kernel.strangers = {taken: MAC}
    for _ in range(6):
        member.turn()
    state, paths = state_of(member)
    assert state is ImageState.DEGRADED
    assert paths[tag - 1] == ("down", f"address {taken} is in use by {MAC}")
    assert paths[2 - tag] == ("up", "")
    assert taken not in member.kernel.state.addresses
    assert served(member) == {FIRST, SECOND} - {taken}
    assert member.workers.error(SPEC.uid) is None


def test_strangers_on_all_paths_leave_the_image_built_and_say_each(member: Member) -> None:
    """With every address taken each path has its own reason."""
    member.kernel.strangers = {FIRST: MAC, SECOND: MAC}
    for _ in range(6):
        member.turn()
    _, paths = state_of(member)
    assert paths == [("down", f"address {address} is in use by {MAC}") for address in (FIRST, SECOND)]
    assert not member.kernel.state.addresses


def test_an_address_that_was_freed_is_served(member: Member) -> None:
    """When the stranger is gone the next probe finds that, and the reason goes with it."""
    member.kernel.strangers = {FIRST: MAC}
    for _ in range(6):
        member.turn()
    assert state_of(member)[0] is ImageState.DEGRADED
    member.kernel.strangers = {}
    member.ahead = 1.0  # past the wait for the next probe, within the tenure
    member.settle()
    assert state_of(member) == (ImageState.SERVING, [("up", ""), ("up", "")])
    assert served(member) == {FIRST, SECOND}


def test_while_the_next_probe_waits_there_is_nothing_to_do() -> None:
    """A path that is down because of a stranger leaves the plan empty: no step is taken again and again."""
    _store, _pool, (node,) = world(nodes=1)
    node.kernel.strangers = {FIRST: MAC}
    for _ in range(4):
        node.turn()
    situation = replace(node.situation(), strangers={FIRST: "others have it"})
    node.kernel.strangers = {}
    steps = plan(situation).images.get(SPEC.uid, ())
    assert not any(isinstance(step, OpenPath) and step.path.address == FIRST for step in steps)


def test_the_wait_for_the_next_probe_doubles_up_to_its_bound() -> None:
    """1, 2, 4 and then 5 s when that is the most; what is not held here, or was served meanwhile, is forgotten."""
    store, _pool, (node,) = world(nodes=1)
    node.settle()
    store.set(served=frozenset())
    lease, strangers = node.lease, Strangers(1.0, 5.0)
    now = 0.0
    for wait in (1.0, 2.0, 4.0, 5.0, 5.0):
        strangers.found(FIRST, "why", now)
        assert strangers.at(store.state, lease, now + wait - 0.01) == {FIRST: "why"}
        assert strangers.at(store.state, lease, now + wait) == {}
        assert strangers.reasons() == {FIRST: "why"}
        now += wait
    assert strangers.at(store.state, lease + 1, now) == {}
    assert strangers.reasons() == {}
    strangers.found(FIRST, "why", now)
    store.set(served=frozenset({FIRST}))
    assert strangers.at(store.state, lease, now) == {}
    assert strangers.reasons() == {}


def test_a_node_publishes_the_macs_of_its_portal_networks(member: Member) -> None:
    """What other nodes need to tell it from a stranger stands in its word."""
    networks = {
        label: replace(interface, mac=f"02:00:00:00:00:0{interface.index}")
        for label, interface in member.kernel.state.networks.items()
    }
    member.kernel.state = replace(member.kernel.state, networks=networks)
    member.settle()
    live = member.cluster.store.view().live[Label("gw1")]
    assert live.macs == ("02:00:00:00:00:00", "02:00:00:00:00:01")


def test_a_cut_that_holds_a_dying_connection_back_is_not_planned_away() -> None:
    """While a closed connection would still send the node is at rest, and may begin anew; then the cut goes."""
    _store, _pool, (node,) = world(nodes=1)
    node.settle()
    gone = parse_address("fd77:1::100")
    node.kernel.state = replace(node.kernel.state, cuts=frozenset({gone}), lingering=frozenset({gone}))
    assert plan(node.situation()).empty
    node.withdraw()
    assert gone in node.kernel.state.cuts
    node.kernel.state = replace(node.kernel.state, lingering=frozenset())
    assert plan_nothing(node.kernel.state).last == (Uncut(frozenset({gone})),)
    node.join()
    node.settle()
    assert gone not in node.kernel.state.cuts
