"""What `rbdgate status` says is wrong: the worst first, since when, why, and what to do; as a tired person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from textwrap import dedent

import pytest

from gateway.actions.looking import ClusterStatus, Watchful, judged, watch_over
from gateway.cli.status import MOST, status_text
from gateway.cli.times import age, local, told
from gateway.errors import StoreUnavailable
from gateway.events import Event, Kind
from gateway.model import (
    Claim,
    ClusterSettings,
    ClusterView,
    ImageSpec,
    Instance,
    Label,
    LiveNode,
    NodeRecord,
    NodeState,
)
from gateway.report import ImageReport, NodeReport, PathReport, image_statuses, node_statuses
from gateway.store.events import EventStore
from gateway.trouble import Gravity
from tests.unit.test_cli import Terminal, terminal
from tests.unit.test_plan import NETWORKS, spec_of

__all__ = ["terminal"]

NOW = datetime(2026, 11, 22, 6, 7, 8, tzinfo=timezone(timedelta(hours=1)))
ONE, TWO = spec_of(1), spec_of(2)
BOTH = tuple(network.name for network in NETWORKS)


def live(name: str, networks: tuple[Label, ...] = BOTH, obstacle: str = "") -> LiveNode:
    """A node that has a lease."""
    clients = (Instance("10.0.1.1:0/1"), Instance("10.0.1.1:0/2"))
    return LiveNode(Label(name), 1, "boot", "0.1.0", networks, clients, obstacle=obstacle)


def seen(
    *,
    images: Sequence[ImageSpec] = (ONE,),
    nodes: Mapping[str, NodeRecord],
    live_nodes: Sequence[LiveNode],
    reports: Sequence[NodeReport] = (),
    claims: Mapping[str, Claim] | None = None,
    events: Sequence[Event] = (),
) -> Watchful:
    """A cluster as it was looked at."""
    view = ClusterView(
        revision=9,
        settings=ClusterSettings("fsid", NETWORKS, "rbd"),
        images={spec.name: spec for spec in images},
        revisions={spec.name: 1 for spec in images},
        broken={},
        nodes={Label(name): record for name, record in nodes.items()},
        live={node.name: node for node in live_nodes},
        claims=claims or {},
        records=(),
        moves={},
        fences={},
    )
    by_node = {report.node: NodeReport.from_json(report.to_json()) for report in reports}
    status = ClusterStatus(view, by_node, image_statuses(view, by_node), node_statuses(view, by_node))
    return judged(status, events)


def first_part(found: Watchful) -> str:
    """What is printed before the tables."""
    return status_text(found, NOW).partition("\n\n")[0] + "\n"


def report_of(name: str, *images: ImageReport) -> NodeReport:
    """What a node says of itself."""
    return NodeReport(Label(name), "0.1.0", f"holds {len(images)} images", images)


def test_a_night() -> None:
    """A gateway died, its image cannot be exported by the next one, another lost a path: the worst is on top."""
    failing = ImageReport(
        ONE.uid,
        7,
        exported=False,
        paths=(),
        error="the OSDs did not confirm the fence",
        since="2026-11-22T03:05:00.000Z",
    )
    down = PathReport(2, up=False, reason="storage-2 has no link", since="2026-11-22T04:00:00.000Z")
    lame = ImageReport(
        TWO.uid, 8, exported=True, paths=(PathReport(1, up=True, since="2026-11-20T00:00:00.000Z"), down)
    )
    events = (
        Event(Kind.IMAGE, "serves it", image=str(ONE.name), node="gw2", time="2026-11-20T00:00:00.000Z"),
        Event(Kind.NODE, "is not live any more", node="gw2", who="gw1", time="2026-11-22T03:04:05.678Z"),
        Event(Kind.IMAGE, "claimed", image=str(ONE.name), node="gw1", time="2026-11-22T03:04:06.000Z"),
    )
    found = seen(
        images=(ONE, TWO),
        nodes={"gw1": NodeRecord(), "gw2": NodeRecord()},
        live_nodes=(live("gw1", BOTH[:1]),),
        reports=(replace(report_of("gw1", failing, lame), down={"storage-2": "2026-11-22T04:00:00.000Z"}),),
        claims={ONE.uid: Claim(Label("gw1"), 1, 7), TWO.uid: Claim(Label("gw1"), 1, 8)},
        events=events,
    )
    assert first_part(found) == dedent("""\
        5 things to look at, the worst first:
        NOT SERVED  rbd/disk1: cannot be exported by gw1, since 2026-11-22 04:04:05+01:00 (2 h 3 min ago)
                    the OSDs did not confirm the fence
                    -> `rbdgate doctor` on gw1; `rbdgate events --image rbd/disk1`
        DEGRADED    rbd/disk2: 1 of 2 paths down at gw1, since 2026-11-22 05:00:00+01:00 (1 h 7 min ago)
                    path 2: storage-2 has no link
                    -> `rbdgate doctor` on gw1; `rbdgate events --image rbd/disk2`
        AT RISK     gw1: is the only gateway that can serve, since 2026-11-22 04:04:05+01:00 (2 h 3 min ago)
                    if it fails, nothing is served
                    -> bring another one back: gw2
        AT RISK     gw2: is not live, since 2026-11-22 04:04:05+01:00 (2 h 3 min ago)
                    its lease has run out: the agent, the machine or its way to etcd is down
                    -> its power, its network, then `rbdgate doctor` there; gone for good: `rbdgate node remove gw2`
        AT RISK     gw1: storage-2 is not up there, since 2026-11-22 05:00:00+01:00 (1 h 7 min ago)
                    images go to nodes that have it, and their paths on it are down here
                    -> `rbdgate doctor` on gw1
        """)


def test_a_good_night() -> None:
    """Where all is well the first line says so, and the tables follow."""
    whole = ImageReport(ONE.uid, 7, exported=True, paths=tuple(PathReport(tag, up=True) for tag in (1, 2)))
    found = seen(
        nodes={"gw1": NodeRecord(), "gw2": NodeRecord()},
        live_nodes=(live("gw1"), live("gw2")),
        reports=(report_of("gw1", whole), report_of("gw2")),
        claims={ONE.uid: Claim(Label("gw1"), 1, 7)},
    )
    assert first_part(found) == "Nothing is wrong.\n"
    assert status_text(found, NOW).count("\n\n") == 2


def test_a_thousand_images_leave_room_for_the_rest() -> None:
    """Of each gravity only the first few are told one by one, the others are counted, and nothing else is hidden."""
    images = [replace(spec_of(number), stopped=number > 50) for number in range(1, 91)]
    found = seen(images=images, nodes={}, live_nodes=())
    told_ = first_part(found).splitlines()
    assert told_[0] == "90 things to look at, the worst first:"
    assert sum(line.startswith("NOT SERVED  rbd/") for line in told_) == MOST
    assert sum(line.startswith("NOTICE      rbd/") for line in told_) == MOST
    assert told_[-2:] == [
        "NOT SERVED  and 30 more: see below, or `rbdgate status --json`",
        "NOTICE      and 20 more: see below, or `rbdgate status --json`",
    ]


def test_wishes_and_obstacles() -> None:
    """What operators asked for comes last, with the command that ends it; an obstacle has its node's own time."""
    drained = Event(Kind.OPERATOR, "rbdgate node drain gw2", "new memory", node="gw2", time="2026-11-22T05:07:05.000Z")
    stopped = Event(Kind.OPERATOR, "rbdgate image stop rbd/disk1", image="rbd/disk1", time="2026-11-20T05:07:08.000Z")
    obstacle = "the guard (rbdgate-guard.service) is not running"
    found = seen(
        images=(replace(ONE, stopped=True),),
        nodes={"gw1": NodeRecord(), "gw2": NodeRecord(NodeState.DRAIN, why="new memory"), "gw3": NodeRecord()},
        live_nodes=(live("gw1", obstacle=obstacle), live("gw2"), live("gw3")),
        reports=(replace(report_of("gw1"), obstacle=obstacle, since="2026-11-22T05:06:38.000Z"),),
        events=(stopped, drained),
    )
    assert first_part(found) == dedent("""\
        3 things to look at, the worst first:
        AT RISK  gw1: can serve nothing, since 2026-11-22 06:06:38+01:00 (30 s ago)
                 the guard (rbdgate-guard.service) is not running
                 -> `rbdgate doctor` on gw1
        NOTICE   rbd/disk1: is stopped: an operator's wish, since 2026-11-20 06:07:08+01:00 (2 d 0 h ago)
                 run `image start` to serve it
                 -> `rbdgate image start rbd/disk1` serves it
        NOTICE   gw2: is drained, since 2026-11-22 06:07:05+01:00 (3 s ago)
                 new memory
                 -> `rbdgate node resume gw2` when that is over
        """)


def test_reports_of_an_older_version_have_no_times() -> None:
    """A node that does not say since when is read all the same, and that this is not on record is said."""
    down = ImageReport(
        ONE.uid, 7, exported=True, paths=(PathReport(1, up=False, reason="no link"), PathReport(2, up=True))
    )
    report = report_of("gw1", down)
    old = report.to_json()
    for word in (b',"since":""', b'"since":"",', b',"down":{}'):
        old = old.replace(word, b"")
    assert b"since" not in old
    assert NodeReport.from_json(old) == report
    claims = {ONE.uid: Claim(Label("gw1"), 1, 7)}
    nodes = {"gw1": NodeRecord()}
    found = seen(nodes=nodes, live_nodes=(live("gw1"),), reports=(NodeReport.from_json(old),), claims=claims)
    assert "rbd/disk1: 1 of 2 paths down at gw1, since when is not on record" in first_part(found)


def test_an_image_that_nobody_holds_is_unserved_since_its_holder_went() -> None:
    """Not since somebody asks, and not since a later failure: since the holder let go, or was told to be dead."""
    name = str(ONE.name)
    gone = Event(Kind.IMAGE, "let go of it", image=name, node="gw1", time="2026-11-22T03:00:00.000Z")
    serves = Event(Kind.IMAGE, "serves it, 2 of 2 paths up", image=name, node="gw1", time="2026-11-22T02:00:00.000Z")
    other = Event(Kind.NODE, "is not live any more", node="gw2", time="2026-11-22T03:30:00.000Z")
    dead = Event(Kind.NODE, "is not live any more", node="gw1", time="2026-11-22T04:00:00.000Z")

    def since(*events: Event) -> str:
        found = seen(nodes={}, live_nodes=(), events=events)
        assert found.troubles[0].gravity is Gravity.NOT_SERVED
        return found.troubles[0].since

    assert since(serves, gone, other, dead) == gone.time
    assert since(serves, other, dead) == dead.time
    assert since(serves, other) == ""
    assert since(gone, serves) == ""


def test_the_log_is_read_where_something_is_wrong(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy cluster costs one read; with trouble the log gives times, and without it the rest is told."""
    assert terminal.run("image create rbd/disk1 --size 1G --paths 2") == 0
    reads: list[int] = []
    read = EventStore.read

    def counted(store: EventStore) -> object:
        reads.append(1)
        return read(store)

    monkeypatch.setattr(EventStore, "read", counted)
    assert terminal.json("status")["troubles"] == []
    assert reads == []
    assert terminal.run("node drain gw1 --reason memory --no-wait") == 0, terminal.error
    (notice,) = [each for each in terminal.json("status")["troubles"] if each["gravity"] == "notice"]
    assert set(notice) == {"gravity", "about", "what", "since", "reason", "next"}
    assert notice["since"].endswith("Z")

    def fail(_: EventStore) -> object:
        raise StoreUnavailable("no etcd member answered")

    monkeypatch.setattr(EventStore, "read", fail)
    assert [each.what for each in watch_over(terminal.made.store).troubles if not each.since] == ["is drained"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s ago"),
        (59.4, "59 s ago"),
        (60, "1 min 0 s ago"),
        (3661, "1 h 1 min ago"),
        (86400, "1 d 0 h ago"),
        (-3, "3 s from now: clocks differ"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    """The two largest units; a clock that is ahead is named as such."""
    assert age(NOW - timedelta(seconds=seconds), NOW) == words


def test_times_are_local_with_their_offset() -> None:
    """In the reader's zone, and what is no time is shown as it is."""
    assert local("2026-11-22T03:04:05.678Z", NOW) == "2026-11-22 04:04:05.678+01:00"
    assert told("2026-11-22T05:07:00.000Z", NOW) == "2026-11-22 06:07:00+01:00 (8 s ago)"
    assert (local("noon", NOW), local("", NOW), told("2026-11-22", NOW)) == ("noon", "?", "2026-11-22")
