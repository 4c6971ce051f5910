"""Whole agents on fakes while Ceph is silent: to one of them, to all, to one whose peer has not noticed anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import Blocklisted
from gateway.model import NOT_ANSWERED
from gateway.timers import Timers
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)
TIMERS = Timers()


class Pair:
    """Two nodes, the first of which serves the image; time passes a second at a time."""

    def __init__(self, path: Path) -> None:
        self.cluster = Cluster(NETWORKS, (SPEC,))
        self.first, self.second = (Member(self.cluster, name, path) for name in ("gw1", "gw2"))
        for member in (self.first, self.second):
            member.start()
            member.settle()
        self.lease = self.first.lease

    def pass_time(self, seconds: int, *, answered: tuple[Member, ...], turning: tuple[Member, ...]) -> None:
        """Let it pass; those that are answered are so at once, and those that turn take a turn each second."""
        for _ in range(seconds):
            for member in (self.first, self.second):
                member.now += 1.0
                member.reachability.tick(member.now)
                if member in answered:
                    member.reachability.answer(member.reachability.running(member.now), member.now)
            for member in turning:
                member.turn()

    @property
    def holder(self) -> str:
        """Who holds the image."""
        claim = self.cluster.store.view().claims.get(SPEC.uid)
        return str(claim.node) if claim else "nobody"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two nodes at rest."""
    made = Pair(tmp_path)
    yield made
    made.first.stop()
    made.second.stop()


def test_only_the_holder_is_cut_off_and_the_other_takes_over(pair: Pair) -> None:
    """After `storage_loss` the holder resigns, its clients are fenced, and the other one serves."""
    both = (pair.first, pair.second)
    clients = set(pair.cluster.pool.holders[SPEC.uid].instances)
    pair.pass_time(int(TIMERS.storage_loss) - 1, answered=(pair.second,), turning=both)
    assert (pair.holder, pair.first.lease) == ("gw1", pair.lease)
    assert pair.cluster.store.view().live[pair.first.name].obstacle == NOT_ANSWERED
    pair.pass_time(10, answered=(pair.second,), turning=both)
    assert pair.holder == "gw2"
    assert clients <= pair.cluster.pool.blocklist


def test_a_ceph_that_is_silent_to_all_moves_nothing(pair: Pair) -> None:
    """However long it lasts, nobody resigns, and whoever is answered first gives the other time to heal."""
    both = (pair.first, pair.second)
    pair.pass_time(100, answered=(), turning=both)
    pair.pass_time(int(TIMERS.storage_doubt) - 2, answered=(pair.second,), turning=both)
    pair.pass_time(30, answered=both, turning=both)
    assert (pair.holder, pair.first.lease) == ("gw1", pair.lease)
    assert not pair.cluster.pool.blocklist
    assert not any(word.obstacle for word in pair.cluster.store.view().live.values())


def test_a_peer_that_takes_no_turns_is_no_witness(pair: Pair) -> None:
    """Its word has no obstacle because it is old: nothing is given up for that."""
    pair.pass_time(100, answered=(), turning=(pair.first,))
    assert pair.cluster.store.view().live[pair.second.name].obstacle == ""
    assert (pair.holder, pair.first.lease) == ("gw1", pair.lease)


def test_a_silent_node_without_images_stays_a_member(pair: Pair) -> None:
    """It takes nothing and says why; there is nothing that another one could serve better."""
    lease = pair.second.lease
    pair.pass_time(60, answered=(pair.first,), turning=(pair.first, pair.second))
    assert pair.second.lease == lease
    assert pair.cluster.store.view().live[pair.second.name].obstacle == NOT_ANSWERED


def test_a_probe_that_meets_the_blocklist_ends_the_membership(pair: Pair) -> None:
    """It is told of the present connection only: an earlier one's word says nothing about this membership."""
    old = pair.first.link.storage
    assert old is not None
    pair.first.membership.client_fenced(old, str(Blocklisted("fenced")))
    pair.first.settle()
    assert pair.first.lease != pair.lease
    lease = pair.first.lease
    pair.first.membership.client_fenced(old, "late")
    pair.first.settle()
    assert pair.first.lease == lease
