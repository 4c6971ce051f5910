"""Generations of krbd's client: a membership's mappings never share one with a client that is on its way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.observed import ANCHOR
from gateway.plan import newest_generation, plan
from gateway.steps import MapAnchor
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of, world


def test_an_empty_node_goes_on_counting() -> None:
    """With nothing mapped any more, the next anchor has a higher generation than any that was seen before."""
    _, _, (node,) = world(nodes=1)
    situation = node.situation()
    seen = replace(situation, me=replace(situation.me, generation=7))
    assert plan(situation).images[ANCHOR] == (MapAnchor(1),)
    assert plan(seen).images[ANCHOR] == (MapAnchor(8),)


def test_a_new_membership_has_another_generation(tmp_path: Path) -> None:
    """A node that resigned and emptied its kernel maps with options that its former client did not have."""
    member = Member(Cluster(NETWORKS, (spec_of(1),)), "gw1", tmp_path)
    member.start()
    try:
        member.settle()
        former = newest_generation(member.kernel.state)
        member.membership.resign("a test", member.lease)
        while member.kernel.state.mappings:
            member.turn()
        member.settle()
        assert newest_generation(member.kernel.state) > former
    finally:
        member.stop()
