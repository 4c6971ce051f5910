"""The cycle: unknown is not absent, an ended tenure empties the node, no nicety stops a turn, the report says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import boottime
from gateway.errors import KernelRefused, StorageUnavailable, StoreUnavailable
from gateway.model import Address, Connection, parse_address
from gateway.plan import Situation, plan, plan_nothing
from gateway.report import ImageState, NodeReport, image_statuses
from gateway.steps import Cut, Plan
from gateway.timers import GUARD_STALE, Timers
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)
OTHER = replace(spec_of(2), identity=replace(spec_of(2).identity, serial="2" * 32))


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node that serves two images."""
    made = Member(Cluster(NETWORKS, (SPEC, OTHER)), "gw1", tmp_path)
    made.start()
    made.settle()
    made.acts.clear()
    yield made
    made.stop()


def later(monkeypatch: pytest.MonkeyPatch, member: Member, seconds: float) -> None:
    """Let the cycle's clock be so much ahead: to it the tenure is over, while the keeper renews on."""
    monkeypatch.setattr(member, "ahead", seconds)


def told(member: Member) -> NodeReport:
    """The node's report, which must be there."""
    assert member.report is not None
    return member.report


def state_of(member: Member) -> tuple[ImageState, str]:
    """The first image as people see it."""
    view, values = member.cluster.store.view_with_statuses()
    statuses = image_statuses(view, {node: NodeReport.from_json(value) for node, value in values.items()})
    return statuses[0].state, statuses[0].reason


def test_at_rest_a_turn_does_nothing(member: Member) -> None:
    """The plan after the last act is empty."""
    turn = member.turn()
    assert turn is not None
    assert turn.plan.empty
    assert member.acts == []


def test_etcd_that_does_not_answer_is_unknown(member: Member) -> None:
    """While the tenure runs and etcd cannot be read, nothing changes; when it can, nothing had to."""
    before = member.kernel.state
    member.cluster.etcd.down = True
    for _ in range(3):
        assert member.turn() is None
    member.cluster.etcd.down = False
    turn = member.turn()
    assert turn is not None
    assert turn.plan.empty
    assert (member.acts, member.kernel.state) == ([], before)


def test_an_ended_tenure_empties_the_node_though_etcd_is_down(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without etcd the plan is towards nothing from the kernel alone, the cut first, until nothing is left."""
    member.cluster.etcd.down = True
    later(monkeypatch, member, 60)
    turn = member.turn()
    assert turn is not None
    assert isinstance(turn.plan.first[0], Cut)
    assert {path.address for spec in (SPEC, OTHER) for path in spec.paths} == turn.plan.first[0].addresses
    for _ in range(3):
        member.turn()
    assert member.empty
    assert plan_nothing(member.kernel.state).empty


def test_a_tenure_that_comes_back_serves_again(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims lived on under the lease: with the tenure proven anew they are taken up with new instances."""
    tokens = {uid: claim.token for uid, claim in member.cluster.store.view().claims.items()}
    with monkeypatch.context() as patch:
        later(patch, member, 60)
        for _ in range(4):
            member.turn()
        assert member.empty
    member.settle()
    assert {uid: claim.token for uid, claim in member.cluster.store.view().claims.items()} == tokens
    assert state_of(member)[0] is ImageState.SERVING


def test_a_step_that_starts_to_serve_asks_the_tenure(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan made within the tenure and carried out after it opens nothing."""
    address = SPEC.paths[0].address
    member.kernel.cut(frozenset({address}))
    member.kernel.remove_addresses(frozenset({address}))

    def planned(situation: Situation) -> Plan:
        decided = plan(situation)
        later(monkeypatch, member, 60)
        return decided

    monkeypatch.setattr("agent.cycle.plan", planned)
    member.turn()
    assert address not in member.kernel.state.addresses


def test_one_image_that_fails_stops_no_other(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure stands in that image's report with its reason; the other one is served."""
    build = member.kernel.build

    def refuse(spec: object, *rest: object) -> None:
        if spec == SPEC:
            raise KernelRefused("no memory")
        build(spec, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(member.kernel, "build", refuse)
    with monkeypatch.context() as patch:
        later(patch, member, 60)
        for _ in range(4):
            member.turn()
    for _ in range(8):
        member.turn()
    assert state_of(member) == (ImageState.FAILED, "no memory")
    images = {image.uid: image for image in told(member).images}
    assert not images[SPEC.uid].exported
    assert images[OTHER.uid].exported
    assert all(path.up for path in images[OTHER.uid].paths)


def test_the_report_says_what_is_served(member: Member) -> None:
    """Each held image with its claim, its paths and the spec it agrees with, and one sentence for people."""
    view, report = member.cluster.store.view(), told(member)
    assert report.sentence.startswith("holds 2 of 2 images, 2 with all paths up")
    for image, spec in zip(report.images, (SPEC, OTHER), strict=True):
        assert (image.uid, image.token) == (spec.uid, view.claims[spec.uid].token)
        assert image.exported
        assert [(path.tag, path.up) for path in image.paths] == [(1, True), (2, True)]
        assert image.applied == view.revisions[spec.name]


def test_a_size_counts_when_the_kernel_has_it(member: Member) -> None:
    """A spec that was grown is agreed with when krbd was seen with that size, which it learns by itself."""
    revision = member.cluster.store.view().revisions[SPEC.name]
    mappings = member.kernel.state.mappings

    def report_with(size: int) -> int:
        smaller = tuple(replace(m, size=size) if m.is_of(SPEC) else m for m in mappings)
        member.kernel.state = replace(member.kernel.state, mappings=smaller)
        member.turn()
        return next(image.applied for image in told(member).images if image.uid == SPEC.uid)

    assert [report_with(SPEC.size - 512), report_with(SPEC.size), report_with(2 * SPEC.size)] == [0, revision, revision]


def test_the_report_says_why_a_path_is_down(member: Member) -> None:
    """A network that stays without link takes that path down, alone, and its reason reaches the status."""
    networks = member.kernel.state.networks
    name = NETWORKS[1].name
    cut_off = {**networks, name: replace(networks[name], up=False)}
    member.kernel.state = replace(member.kernel.state, networks=cut_off)
    member.settle()
    assert SPEC.paths[1].address in member.kernel.state.addresses
    member.ahead = Timers().link_down
    member.settle()
    assert state_of(member) == (
        ImageState.DEGRADED,
        "path 2: eth1, which serves network storage-2 here, has no link",
    )
    assert SPEC.paths[0].address in member.kernel.state.addresses
    assert SPEC.paths[1].address not in member.kernel.state.addresses


def test_without_a_guard_nothing_is_served(member: Member) -> None:
    """With the guard gone the paths go down and the exports stay; with its sign of life they are up again."""
    devices = member.kernel.state.devices
    member.guard_sign = None
    member.settle()
    assert not member.kernel.state.addresses
    assert member.kernel.state.devices == devices
    assert "guard" in state_of(member)[1]
    member.guard_sign = 0.0
    member.settle()
    assert state_of(member)[0] is ImageState.SERVING


@pytest.mark.parametrize("moment", ["probe", "open_path", "open_path halfway"])
def test_no_path_is_opened_without_a_guard(tmp_path: Path, moment: str) -> None:
    """A guard that goes while a path is being opened, or whose sign is old by then, leaves nothing that is heard."""
    for sign in (None, boottime() - GUARD_STALE):
        made = Member(Cluster(NETWORKS, (SPEC,)), "gw1", tmp_path / str(sign))
        made.start()

        def go(act: str, made: Member = made, sign: float | None = sign) -> None:
            if act == moment:
                made.guard_sign = sign

        made.kernel.before = go
        for _ in range(4):
            made.turn()
            heard = set(made.kernel.state.addresses) - made.kernel.state.cuts
            assert not heard
        assert made.guard_sign == sign
        made.kernel.before = made.acts.append
        made.guard_sign = 0.0
        made.settle()
        assert state_of(made)[0] is ImageState.SERVING
        made.stop()


def test_a_new_lease_has_a_report(tmp_path: Path) -> None:
    """A report goes with its lease: under the next one it is written again, though not a word of it changed."""
    made = Member(Cluster(NETWORKS, ()), "gw1", tmp_path)
    made.start()
    made.settle()
    before = told(made)
    made.cluster.now += 100
    made.membership.prove()
    made.settle()
    assert told(made) == before
    made.stop()


def test_connections_are_told_and_what_cannot_be_told_stops_nothing(member: Member) -> None:
    """Who is connected is written down for a taker; a kernel that does not say costs only that."""
    portal, peer = SPEC.paths[0].address, parse_address("10.1.0.9")
    member.kernel.connected = (Connection(portal, 3260, peer, 40000),)
    member.turn()
    assert member.cluster.store.connections_of(SPEC.uid) == member.kernel.connected
    member.kernel.failure = KernelRefused("no sock_diag")
    address = SPEC.paths[1].address
    member.kernel.cut(frozenset({address}))
    member.kernel.remove_addresses(frozenset({address}))
    member.settle()
    assert address in member.kernel.state.addresses


def test_who_was_connected_to_a_path_that_is_down_stays_on_record(member: Member) -> None:
    """The initiator may not have noticed: a taker that serves that path again nudges it."""
    ends = [Connection(path.address, 3260, parse_address("10.1.0.9"), 40000 + path.tag) for path in SPEC.paths]
    member.kernel.connected = tuple(ends)
    member.turn()
    address = SPEC.paths[0].address
    networks = member.kernel.state.networks
    down = {**networks, NETWORKS[0].name: replace(networks[NETWORKS[0].name], up=False)}
    member.kernel.state = replace(member.kernel.state, networks=down)
    member.ahead = 0.0
    member.turn()
    member.ahead = Timers().link_down
    member.settle()
    assert address not in member.kernel.state.addresses
    member.kernel.connected = tuple(ends[1:])
    member.settle()
    assert set(member.cluster.store.connections_of(SPEC.uid)) == set(ends)


def test_a_failed_cut_does_not_keep_addresses_on(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel takes no drop rule, the addresses go off all the same, and everything after them."""

    def refuse(addresses: object) -> None:
        raise KernelRefused("no policy rules")

    def remove(addresses: object) -> None:
        member.kernel.state = replace(member.kernel.state, addresses={})

    monkeypatch.setattr(member.kernel, "cut", refuse)
    monkeypatch.setattr(member.kernel, "remove_addresses", remove)
    later(monkeypatch, member, 60)
    for _ in range(4):
        member.turn()
    assert member.empty


def test_an_address_that_stays_keeps_only_its_image(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are withdrawn though the kernel keeps an address; only the one whose it is stays claimed, and says why."""
    store, stuck = member.cluster.store, SPEC.paths[0].address
    remove = member.kernel.remove_addresses

    def refuse(addresses: frozenset[Address]) -> None:
        remove(addresses - {stuck})
        if stuck in addresses:
            raise KernelRefused(f"{stuck} cannot be removed")

    spec, revision = store.image(SPEC.name)
    store.replace_image(spec, replace(spec, stopped=True), revision)
    other, revision = store.image(OTHER.name)
    store.replace_image(other, replace(other, stopped=True), revision)
    with monkeypatch.context() as patch:
        patch.setattr(member.kernel, "remove_addresses", refuse)
        for _ in range(8):
            member.turn()
        assert set(store.view().claims) == {SPEC.uid}
        assert not member.kernel.state.devices
        assert set(member.kernel.state.addresses) == {stuck}
        assert stuck in member.kernel.state.cuts
        assert f"{stuck} cannot be removed" in str(told(member).images[0])
    member.settle()
    assert not store.view().claims
    assert not member.kernel.state.addresses


def test_a_clean_up_that_fails_is_only_postponed(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to tidy does not keep a turn from its report."""

    def refuse(addresses: object) -> None:
        raise KernelRefused("busy")

    monkeypatch.setattr(member.kernel, "uncut", refuse)
    member.kernel.cut(frozenset({parse_address("10.1.0.150")}))
    turn = member.turn()
    assert turn is not None
    assert turn.plan.last


def test_the_blocklist_is_looked_at_as_soon_as_there_is_a_connection(tmp_path: Path) -> None:
    """A node that was fenced while its agent was away learns so at the first turn with a connection to RADOS."""
    made = Member(Cluster(NETWORKS, (SPEC,)), "gw1", tmp_path)
    made.start()
    made.settle()
    made.cluster.pool.blocklist.add(made.kernel.anchor_instance())
    made.stop()
    reason, made.link.reason = made.link.reason, "connecting"
    assert made.start()
    made.turn()
    assert made.membership.tenure.runs(boottime())
    made.link.reason = reason
    made.turn()
    assert not made.membership.tenure.runs(boottime())
    made.stop()


def test_a_node_that_takes_nothing_says_why(tmp_path: Path) -> None:
    """Without RADOS nothing is claimed, and the status of the image nobody serves names the reason."""
    made = Member(Cluster(NETWORKS, (SPEC,)), "gw1", tmp_path)
    made.link.reason = "no monitor answers"
    made.start()
    for _ in range(4):
        made.turn()
    assert made.cluster.store.view().claims == {}
    assert "no monitor answers" in told(made).sentence
    state, reason = state_of(made)
    assert state is ImageState.UNCLAIMED
    assert "no monitor answers" in reason
    made.stop()


def test_a_failure_that_is_over_is_not_told_any_more(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image at rest has no error, whatever its last steps met."""
    address = SPEC.paths[0].address

    def refuse(spec: object, path: object, permit: object) -> None:
        raise StorageUnavailable("later")

    with monkeypatch.context() as patch:
        patch.setattr(member.kernel, "open_path", refuse)
        member.kernel.cut(frozenset({address}))
        addresses = dict(member.kernel.state.addresses)
        member.turn()
        assert "later" in state_of(member)[1] or "later" in str(member.workers.error(SPEC.uid))
    member.kernel.state = replace(member.kernel.state, cuts=frozenset(), addresses=addresses)
    member.settle()
    assert state_of(member) == (ImageState.SERVING, "")


def test_an_unreadable_cluster_is_told_as_such(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """What etcd said is what the node says: damaged settings are no etcd that does not answer."""
    said: list[str] = []
    monkeypatch.setattr("agent.cycle.notify", lambda **words: said.append(words.get("STATUS", "")))

    def fail() -> None:
        raise StoreUnavailable("no etcd member answered in time, the last one was etcd7")

    monkeypatch.setattr(member.cluster.store, "view_with_statuses", fail)
    assert member.turn() is None
    assert "etcd7" in said[-1]


def test_a_turn_is_told_also_where_etcd_takes_no_report(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd hears what the turn came to and why etcd has not got it; the turn does not count as done."""
    said: list[str] = []
    monkeypatch.setattr("agent.cycle.notify", lambda **words: said.append(words.get("STATUS", "")))
    board = member.monitor.board
    wall = board.succeeded_wall

    def refuse(*_: object) -> None:
        raise StoreUnavailable("etcdserver: mvcc: database space exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(member.cluster.store, "publish_status", refuse)
        member.kernel.state = replace(member.kernel.state, addresses={})
        member.turn()
    assert said == ["holds 2 of 2 images, 0 with all paths up; not reported: etcdserver: mvcc: database space exceeded"]
    assert board.succeeded_wall == wall
    member.settle()
    assert said[-1] == "holds 2 of 2 images, 2 with all paths up"
    assert board.succeeded_wall != wall


def test_a_machine_that_was_paused_gives_its_guard_a_moment(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a pause the guard's sign is old: no path goes down for that, and all do if it stays old."""
    member.guard_sign = boottime() - 6
    member.turn()
    assert member.acts == []
    member.guard_sign = 0.0
    member.turn()
    member.guard_sign = boottime() - 6
    member.turn()
    assert member.acts == []
    later(monkeypatch, member, 1.6)
    member.turn()
    assert "close_path" in member.acts
