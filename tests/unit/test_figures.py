"""The figures: what the reference says, no less and no more; what is not known is absent; nothing hangs a scrape."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import boottime
from agent.keeper import Renewal
from agent.monitoring.counts import Drift, Kind, Outcome
from agent.monitoring.disks import read_disks
from agent.monitoring.sights import STALE
from agent.monitoring.tables import Table
from gateway import errors
from gateway.errors import KernelRefused, LostRace, RbdgateError, StorageUnavailable
from gateway.model import FenceIntent, Instance, Label, NodeRecord, NodeState
from gateway.observed import Kernel
from gateway.phases import Phase
from gateway.reasons import Down, FailureKind, Obstacle, kind_of
from gateway.report import ImageState
from gateway.steps import Unmap
from gateway.store.client import Asked, Request
from gateway.store.wire import Verdict
from tests.fakes.member import Cluster, Member
from tests.fakes.scraped import Scraped
from tests.metrics import figures
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)
OTHER = replace(spec_of(2), identity=replace(spec_of(2).identity, serial="2" * 32))
IMAGE, UID = str(SPEC.name), SPEC.uid
BOUND = 10.0


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node that serves two images."""
    made = Member(Cluster(NETWORKS, (SPEC, OTHER)), "gw1", tmp_path)
    made.start()
    made.settle()
    yield made
    made.stop()


@pytest.fixture
def scraped(member: Member, tmp_path: Path) -> Scraped:
    """Its figures, with a guard that has written and block devices that were used."""
    made = Scraped(member, tmp_path)
    made.guard_writes()
    made.disks()
    return made


def all_happens(scraped: Scraped) -> None:
    """Every event that is counted, once, and a path that is down."""
    member = scraped.member
    monitor, guard = member.monitor, scraped.figures
    counts = monitor.counts
    for renewal in Renewal:
        counts.renewed(renewal, 0.01)
    counts.etcd(Request(Asked.RANGE, 0.01))
    counts.etcd(Request(Asked.RANGE, 0.01, Verdict.UNKNOWN))
    counts.drifted(IMAGE, Drift.PATH)
    counts.let_go(0.1)
    counts.refused()
    counts.restored(1)
    with counts.rados("probe"), counts.fence(2):
        pass
    with pytest.raises(StorageUnavailable), counts.rados("probe"):
        raise StorageUnavailable("silent")
    counts.failed(Unmap(1), IMAGE, KernelRefused("no"))
    guard.committed(UID, 0.003)
    guard.failed(LostRace("another"))
    guard.table(UID, Table(3, reserved=True, size=300))
    scraped.guard_writes()
    networks = member.kernel.state.networks
    first = SPEC.paths[0].network
    member.kernel.state = replace(member.kernel.state, networks={**networks, first: replace(networks[first], up=False)})
    member.turn()
    member.ahead += 2  # longer than `link_down`
    for _ in range(3):
        member.turn()
    scraped.guard_writes()


def labels_seen(scraped: Scraped) -> dict[str, set[frozenset[str]]]:
    """The sets of labels of each figure, histograms by their family's name."""
    found: dict[str, set[frozenset[str]]] = {}
    for name, samples in scraped.samples().items():
        if name.startswith("rbdgate_"):
            for part in ("_bucket", "_count", "_sum"):
                name = name.removesuffix(part)  # noqa: PLW2901 - the family's name
            found.setdefault(name, set()).update(frozenset(dict(labels)) - {"le"} for labels in samples)
    return found


def test_the_reference_names_every_figure_with_its_labels_and_no_other(scraped: Scraped) -> None:
    """What a scrape gives after everything has happened once is exactly what agent/monitoring/README.md lists."""
    all_happens(scraped)
    seen = labels_seen(scraped)
    wanted = {figure.name: {frozenset(figure.labels)} for figure in figures()}
    assert seen.keys() == wanted.keys()
    assert {name: labels for name, labels in seen.items() if labels != wanted[name]} == {}


def test_promtool_finds_nothing_to_say(scraped: Scraped) -> None:
    """Names, types, units and help are as Prometheus wants them."""
    all_happens(scraped)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped.text(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SETS = {
    "state": {each.value for each in ImageState} | {"active", "drain", "maintenance"},
    "reason": {each.value for kind in (Down, FailureKind, Obstacle) for each in kind} | {"unavailable", "lease_gone"},
    "outcome": {each.value for kind in (Outcome, Renewal) for each in kind} | {"confirmed", "failed"},
    "kind": {each.value for kind in (Kind, Drift) for each in kind},
    "phase": {each.value for each in Phase},
    "direction": {"read", "write", "discard"},
    "part": {"cycle", "lease", "etcd", "storage", "guard"},
    "image": {IMAGE, str(OTHER.name)},
    "network": {str(network.name) for network in NETWORKS},
    "path": {"1", "2"},
    "node": {"gw1"},
}


def test_labels_are_bounded(scraped: Scraped) -> None:
    """Each label's values come from what is in the cluster or from a small set, whatever errors and reasons say."""
    all_happens(scraped)
    samples = (labels for name, each in scraped.samples().items() if name.startswith("rbdgate_") for labels in each)
    strange = {(key, value) for labels in samples for key, value in labels if key in SETS and value not in SETS[key]}
    assert strange == set()


def test_every_error_has_a_kind() -> None:
    """No error of ours is called a bug, and what is none of ours is called one."""
    ours = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RbdgateError)]
    assert len(ours) > 20
    assert FailureKind.BUG not in {kind_of(each) for each in ours}
    assert kind_of(ZeroDivisionError) is FailureKind.BUG


def test_a_served_image_in_figures(scraped: Scraped) -> None:
    """Holder, paths, export and the block device's bytes, requests and times, in bytes and seconds."""
    assert scraped.one("cluster_image_holder", image=IMAGE, node="gw1") == 1
    assert scraped.one("cluster_images", state="serving") == 2
    assert scraped.one("cluster_path_up", image=IMAGE, path="1", network=str(SPEC.paths[0].network)) == 1
    assert scraped.one("path_serving", image=IMAGE, path="1", network=str(SPEC.paths[0].network)) == 1
    assert scraped.one("image_exported", image=IMAGE) == 1
    assert scraped.one("image_bytes_total", image=IMAGE, direction="write") == 160 * 512
    assert scraped.one("image_operations_total", image=IMAGE, direction="read") == 10
    assert scraped.one("image_operation_time_seconds_total", image=IMAGE, direction="discard") == 0.1
    assert scraped.one("image_operations_in_progress", image=IMAGE) == 3
    assert scraped.one("claims") == 2
    assert scraped.one("node_ready", part="lease") == 1


def test_a_network_counts_gateways_that_could_take_an_image(member: Member, scraped: Scraped, tmp_path: Path) -> None:
    """One in maintenance or with an obstacle is no second place for a path; a drained one is, if need be."""
    other, network = Member(member.cluster, "gw2", tmp_path), str(NETWORKS[0].name)
    other.start()
    other.settle()
    store = member.cluster.store

    def counted(state: NodeState) -> float | None:
        store.change_node(other.name, NodeRecord(state), {other.name: store.node_records()[other.name][1]})
        member.turn()
        return scraped.one("cluster_network_nodes", network=network)

    states = (NodeState.ACTIVE, NodeState.DRAIN, NodeState.MAINTENANCE)
    assert [counted(state) for state in states] == [2, 2, 1]
    other.guard_sign = None
    other.turn()
    assert [counted(state) for state in states] == [1, 1, 1]
    other.stop()


def test_a_start_is_counted_by_its_phases(scraped: Scraped) -> None:
    """Both images came up here: once each as a start, with the seconds of every phase there was."""
    assert scraped.one("takeover_duration_seconds_count", kind="start") == 2
    for phase in ("detect", "claim", "fence", "map", "export"):
        assert scraped.one("takeover_phase_duration_seconds_count", kind="start", phase=phase) == 2


def test_a_former_holder_that_was_fenced_makes_it_a_takeover(member: Member, scraped: Scraped) -> None:
    """The fence decides, not the words of the claim's reason."""
    member.monitor.fenced(
        (FenceIntent(instance=Instance("10.0.0.9:0/1"), node=None, by=Label("gw1"), image_uid=UID, token=1),)
    )
    member.kernel.state = replace(member.kernel.state, devices=(), targets=())
    member.settle()
    assert scraped.one("takeover_duration_seconds_count", kind="takeover") == 1
    assert scraped.one("takeover_duration_seconds_count", kind="again") == 1


def drifts(scraped: Scraped) -> float:
    """How often an image was found changed."""
    return sum(scraped.samples()["rbdgate_drift_found_total"].values())


def test_a_kernel_that_somebody_else_changed_is_drift(member: Member, scraped: Scraped) -> None:
    """An address that is taken off is counted once, and so is an export that is taken away; our own acts never. Each
    kind of each image is told from 0 on."""
    found = scraped.samples()["rbdgate_drift_found_total"]
    assert (len(found), set(found.values())) == (2 * len(Drift), {0})
    address = SPEC.paths[0].address
    left = {a: name for a, name in member.kernel.state.addresses.items() if a != address}
    member.kernel.state = replace(member.kernel.state, addresses=left)
    member.settle()
    assert scraped.one("drift_found_total", image=IMAGE, kind="path") == 1
    devices = tuple(device for device in member.kernel.state.devices if device.name.uid != UID)
    targets = tuple(target for target in member.kernel.state.targets if target.iqn != SPEC.identity.iqn)
    member.kernel.state = replace(member.kernel.state, devices=devices, targets=targets)
    member.settle()
    assert scraped.one("drift_found_total", image=IMAGE, kind="export") == 1
    assert drifts(scraped) == 2


@pytest.mark.parametrize("down", [False, True])
def test_our_own_withdrawal_is_no_drift(member: Member, scraped: Scraped, *, down: bool) -> None:
    """A tenure that is over empties the node, with etcd readable or not, and a moment later it runs again."""
    member.cluster.etcd.down, member.ahead = down, 60
    member.turn()
    assert not member.kernel.state.targets
    assert not member.empty  # the withdrawal is not complete
    member.cluster.etcd.down, member.ahead = False, 0
    member.membership.prove()
    member.settle()
    assert scraped.one("image_exported", image=IMAGE) == 1
    assert drifts(scraped) == 0


def test_what_the_guard_withdrew_is_no_drift(member: Member, scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine was paused for longer than its tenure: the guard cut before the agent's next turn, for which the lease
    was renewed in time."""
    tenure = replace(member.membership.tenure, end=boottime() + 2)
    with monkeypatch.context() as patch:
        patch.setattr(type(member.membership), "tenure", tenure)
        member.turn()
    member.ahead = 3
    member.membership.prove()
    member.kernel.state = replace(member.kernel.state, addresses={})
    member.settle()
    assert member.kernel.state.addresses
    assert drifts(scraped) == 0
    member.kernel.state = replace(member.kernel.state, addresses={})
    member.settle()
    assert drifts(scraped) == 2


def test_an_operators_wish_is_no_drift(member: Member, scraped: Scraped) -> None:
    """An image that is stopped is taken down because that was asked."""
    store = member.cluster.store
    revision = store.view().revisions[SPEC.name]
    store.replace_image(SPEC, replace(SPEC, stopped=True), revision)
    member.settle()
    assert scraped.one("image_exported", image=IMAGE) is None
    assert drifts(scraped) == 0


def test_etcd_that_is_not_read_leaves_the_cluster_unknown(member: Member, scraped: Scraped) -> None:
    """Nothing of the cluster is told when it is too old, least of all as 0; when it was read is told."""
    member.ahead += STALE + 1
    seen = scraped.samples()
    assert not [name for name in seen if name.startswith("rbdgate_cluster_") and "timestamp" not in name]
    assert not [name for name in seen if name.startswith(("rbdgate_image_bytes", "rbdgate_path_", "rbdgate_network"))]
    assert "rbdgate_cluster_read_timestamp_seconds" in seen
    assert scraped.one("node_ready", part="etcd") == 0


def test_an_agent_without_a_good_turn_yet_says_when_it_started(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the age of the last good turn, which an alert is about, would be unknown for as long as all fail."""
    member.restart()
    scraped = Scraped(member, tmp_path)
    started = scraped.one("cycle_last_success_timestamp_seconds")
    assert started is not None

    def refuse(_: object) -> Kernel:
        raise KernelRefused("configfs: EIO")

    monkeypatch.setattr(member.kernel, "observe", refuse)
    with suppress(KernelRefused):
        member.turn()
    assert scraped.one("cycle_turns_total", outcome="failed") == 1
    assert scraped.one("cycle_last_success_timestamp_seconds") == started


def test_an_obstacle_of_long_ago_is_not_told(member: Member, scraped: Scraped) -> None:
    """While the cycle hangs, what was in its way then may be gone by now; that the tenure is over is known still."""
    member.guard_sign = None
    member.turn()
    assert scraped.one("node_obstacle", reason="guard") == 1
    board = member.monitor.board
    assert board.held is not None
    board.held = replace(board.held, at=board.held.at - STALE)
    assert "rbdgate_node_obstacle" not in scraped.samples()
    member.ahead += STALE
    assert [scraped.one("node_obstacle", reason=reason) for reason in ("guard", "tenure")] == [0, 1]


def test_a_scrape_waits_for_no_kernel_and_no_store(member: Member, scraped: Scraped) -> None:
    """With the cycle hanging in a read of configfs, and then of etcd, every page is answered at once."""
    reached, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        reached.set()
        go.wait(BOUND)
        raise KernelRefused("late")

    def turn_that_fails() -> None:
        with suppress(KernelRefused):
            member.cycle.turn()

    for owner, name in ((member.kernel, "observe"), (member.cluster.store, "view_with_statuses")):
        kept = getattr(owner, name)
        setattr(owner, name, hang)
        turn = threading.Thread(target=turn_that_fails)
        turn.start()
        assert reached.wait(BOUND)
        for path in ("/metrics", "/healthz", "/readyz", "/status"):
            done = threading.Thread(target=scraped.pages.page, args=(path,), daemon=True)
            done.start()
            done.join(BOUND / 2)
            assert not done.is_alive(), path
        setattr(owner, name, kept)
        go.set()
        turn.join(BOUND)
        reached.clear()
        go.clear()


def test_a_scrape_reads_two_small_files_and_no_more(
    scraped: Scraped, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is held, it opens /proc/diskstats and the guard's file, once each, and nothing of the kernel's tree."""
    opened: list[str] = []
    original = Path.open

    def noting(self: Path, *words: object, **named: object) -> object:
        opened.append(str(self))
        return original(self, *words, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", noting)
    before = list(member.acts)
    scraped.text()
    assert sorted(opened) == sorted((str(scraped.diskstats), str(scraped.sources.guard_file)))
    assert member.acts == before


def test_lines_of_diskstats_that_cannot_be_understood_are_left_out(tmp_path: Path) -> None:
    """Old kernels have no discards; a line that is cut says nothing; without the file nothing is known."""
    path = tmp_path / "diskstats"
    path.write_text(" 8 0 rbd0 1 0 8 5 2 0 16 6 0 9 11\n 8 1 rbd1 1 0\n 8 2 rbd2 a b c d e f g h i j k\n\n")
    found = read_disks(path)
    assert set(found) == {"rbd0"}
    assert set(found["rbd0"].ways) == {"read", "write"}
    assert read_disks(tmp_path / "none") == {}


def test_images_that_are_gone_are_forgotten(member: Member, scraped: Scraped) -> None:
    """What was counted of an image goes with it, so that labels do not pile up."""
    member.monitor.counts.drifted("rbd/gone", Drift.EXPORT)
    member.monitor.counts.failed(Unmap(1), "rbd/gone", KernelRefused("no"))
    member.turn()
    assert "rbd/gone" not in scraped.text()


def test_reservations_are_told_as_far_as_they_are_known(member: Member, scraped: Scraped) -> None:
    """What was restored, what the guard recorded since, and a nearly full table even after an agent's restart."""
    assert scraped.one("reservation_registrations", image=IMAGE) is None
    member.kernel.state = replace(member.kernel.state, crowded={UID: 450})
    member.turn()
    assert scraped.one("reservation_registrations", image=IMAGE) == 450
    token = member.cluster.store.view().claims[UID].token
    member.monitor.restored(UID, token, Table(5, reserved=False, size=700))
    assert scraped.one("reservation_registrations", image=IMAGE) == 5
    scraped.figures.table(UID, Table(6, reserved=True, size=800))
    scraped.guard_writes()
    assert scraped.one("reservation_registrations", image=IMAGE) == 6
    assert scraped.one("reservation_held", image=IMAGE) == 1
    scraped.figures.forget(UID)
    scraped.guard_writes()
    member.monitor.restored(UID, token + 1, Table(9, reserved=False, size=900))
    assert scraped.one("reservation_held", image=IMAGE) is None
