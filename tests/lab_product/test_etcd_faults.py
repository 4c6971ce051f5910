"""Etcd in trouble: a member down, its leader lost, its quorum lost. What is served goes on for as long as it may."""

from __future__ import annotations

import pytest

from tests.lab.etcd import Member
from tests.lab_product.bounds import PAST_A_LEASE
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

SHORT = 3.0  # seconds without a quorum that no tenure ends for


def leader_of(scene: Scene) -> Member:
    """The member that leads, once there is one."""
    return until("etcd has a leader", lambda: _leader(scene), within=20)


def _leader(scene: Scene) -> Member | None:
    try:
        return scene.etcd.leading()
    except RuntimeError:
        return None


def follower_of(scene: Scene, number: int = 0) -> Member:
    """One of the members that do not lead."""
    leader = leader_of(scene)
    return [member for member in scene.etcd.members if member != leader][number]


ONE_MEMBER = {
    "a follower killed": (follower_of, Member.kill),
    "a follower stopped": (follower_of, Member.stop),
    "the leader killed": (leader_of, Member.kill),
}


@pytest.mark.full
@pytest.mark.parametrize("fault", ONE_MEMBER)
def test_one_member_less_is_not_noticed(scene: Scene, disk: Disk, write: Writing, fault: str) -> None:
    """With one etcd member gone, the leader too, every claim stands, no session is renewed and nothing is lost."""
    choose, harm = ONE_MEMBER[fault]
    claims, sessions = scene.claims(), scene.sessions()
    target_side = scene.target_sessions(scene.holder(disk.image))
    member = choose(scene)
    write.mark("fault")
    harm(member)
    for_seconds(PAST_A_LEASE)
    write.wait_acknowledged()
    write.stop()
    assert scene.claims() == claims
    assert scene.sessions() == sessions
    assert scene.target_sessions(scene.holder(disk.image)) == target_side
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_MEMBER_LOST, "fault")


@pytest.mark.full
@pytest.mark.writer(lanes=2)
def test_a_leader_that_was_stopped_goes_on(scene: Scene, disk: Disk, write: Writing) -> None:
    """A leader frozen for longer than a lease and let go on costs at most one takeover, and nothing is lost.

    Etcd before 3.4.29 and 3.5.11 has such a member revoke every lease there is (etcd's issue 15247), Debian 12's too.
    """
    before = scene.revision()
    leader = leader_of(scene)
    leader.stop()
    for_seconds(PAST_A_LEASE)
    write.mark("continued")
    leader.cont()
    for_seconds(PAST_A_LEASE)
    scene.wait_live()
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    claimed = scene.claimed_since(before)
    assert len(claimed) == len(set(claimed)), f"claimed more than once: {claimed}"
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_LEADER_STOPPED, "continued")


def lose_quorum(scene: Scene) -> None:
    """Freeze two of the three members."""
    for member in scene.etcd.members[:2]:
        member.stop()


def give_back_quorum(scene: Scene) -> None:
    """Let them go on, and return when each answers."""
    for member in scene.etcd.members:
        member.cont()
    scene.etcd.wait_healthy(30)


def test_a_quorum_lost_for_a_moment_moves_nothing(scene: Scene, disk: Disk, write: Writing) -> None:
    """Without a quorum for less than the tenure, what is served is served on, under the same claims and sessions."""
    claims, sessions = scene.claims(), scene.sessions()
    target_side = scene.target_sessions(scene.holder(disk.image))
    write.mark("lost")
    lose_quorum(scene)
    for_seconds(SHORT)
    give_back_quorum(scene)
    for_seconds(PAST_A_LEASE)
    write.wait_acknowledged()
    write.stop()
    assert scene.claims() == claims
    assert scene.sessions() == sessions
    assert scene.target_sessions(scene.holder(disk.image)) == target_side
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.QUORUM_LOST_SHORTLY, "lost")
