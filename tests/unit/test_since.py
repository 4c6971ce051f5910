"""Since when: a node's report keeps the time of what did not change, also past the agent that wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.since import Since
from gateway.model import Label
from gateway.report import ImageReport, NodeReport, PathReport
from gateway.timers import Timers
from tests.fakes.member import Cluster, Member
from tests.unit.test_narrator import set_link
from tests.unit.test_plan import NETWORKS, spec_of

SERVED = ImageReport("1" * 16, 7, exported=True, paths=(PathReport(1, up=True), PathReport(2, up=True)))


def report(*images: ImageReport, obstacle: str = "") -> NodeReport:
    """What a node says now."""
    return NodeReport(Label("gw1"), "1", "", images, obstacle)


class Clock:
    """Hours that the test moves."""

    hour = 0

    def __call__(self) -> str:
        """The time as events have it."""
        return f"2026-11-22T{self.hour:02}:00:00.000Z"


@pytest.fixture
def clock() -> Clock:
    """Midnight."""
    return Clock()


def at(hour: int) -> str:
    """That hour."""
    clock = Clock()
    clock.hour = hour
    return clock()


def test_what_does_not_change_keeps_its_time(clock: Clock) -> None:
    """Reports of the same state are the same bytes, so that nothing is written anew for the time alone."""
    since = Since(clock)
    first = since.dated(report(SERVED, obstacle="no Ceph"), [Label("storage-2")], lambda: None)
    clock.hour = 1
    again = since.dated(report(SERVED, obstacle="no Ceph (2)"), [Label("storage-2")], lambda: None)
    assert replace(again, obstacle="no Ceph") == first
    assert (first.since, first.down, first.images[0].since) == (at(0), {"storage-2": at(0)}, at(0))
    assert since.dated(report(SERVED), [], lambda: None).since == ""


def test_what_changes_gets_a_new_time(clock: Clock) -> None:
    """A path that goes down has the time of that, whatever reasons follow; the image goes on; an error is new."""
    since = Since(clock)
    since.dated(report(SERVED), [], lambda: None)
    for hour, reason in ((1, "no link"), (2, "being brought up")):
        clock.hour = hour
        paths = (SERVED.paths[0], PathReport(2, up=False, reason=reason))
        dated = since.dated(report(replace(SERVED, paths=paths)), [], lambda: None)
    (image,) = dated.images
    assert (image.since, [path.since for path in image.paths]) == (at(0), [at(0), at(1)])
    clock.hour = 3
    failing = since.dated(report(replace(SERVED, exported=False, error="refused")), [], lambda: None)
    assert failing.images[0].since == at(3)
    clock.hour = 4
    assert since.dated(report(replace(SERVED, token=8)), [], lambda: None).images[0].since == at(4)


def test_a_successor_goes_on_with_the_times_on_record(clock: Clock) -> None:
    """A new agent asks once what its predecessor said, and an older version's word has no times to go on with."""
    former = Since(clock).dated(report(SERVED, obstacle="x"), [Label("a")], lambda: None)
    clock.hour = 5
    read = NodeReport.from_json(former.to_json())
    successor = Since(clock)
    assert successor.dated(report(SERVED, obstacle="x"), [Label("a")], lambda: read) == former
    asked: list[int] = []

    def older() -> NodeReport:
        asked.append(1)
        return report(SERVED, obstacle="x")

    other = Since(clock)
    dated = other.dated(report(SERVED, obstacle="x"), [Label("a")], older)
    other.dated(report(SERVED), [], older)
    assert (dated.since, dated.down, dated.images[0].since, len(asked)) == (at(5), {"a": at(5)}, at(5), 1)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node that serves an image."""
    made = Member(Cluster(NETWORKS, (spec_of(1),)), "gw1", tmp_path)
    made.start()
    made.settle()
    yield made
    made.stop()


def test_the_published_times_outlive_the_agent(member: Member) -> None:
    """A path that has been down since before the agent was restarted is down since then, in etcd."""
    set_link(member, 1, up=False)
    member.settle()
    member.ahead = Timers().link_down
    member.settle()
    before = member.report
    assert before is not None
    assert [bool(path.since) for path in before.images[0].paths] == [True, True]
    assert before.images[0].paths[1].since > before.images[0].paths[0].since
    assert set(before.down) == {"storage-2"}
    assert member.restart()
    member.settle()
    after = member.report
    assert after is not None
    assert [path.since for path in after.images[0].paths] == [path.since for path in before.images[0].paths]
    assert after.down == before.down
