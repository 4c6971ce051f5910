"""A gateway that is interrupted and goes on: drained, frozen past its lease, its guard killed."""

from __future__ import annotations

import pytest

from tests.lab_product.bounds import AFTER_LEASE, IN_ORDER, TTL
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing


@pytest.mark.full
@pytest.mark.writer(lanes=2)
def test_each_node_is_drained_and_resumed_in_turn(scene: Scene, disk: Disk, write: Writing) -> None:
    """From each node in turn an image is drained away; resumed, the node serves it again, and nothing is lost."""
    for number, node in enumerate(scene.gateways):
        scene.move(disk.image, node)
        write.wait_acknowledged()
        scene.front = scene.others(node)[0]
        write.mark(f"drain-{number}")
        scene.rbdgate("node", "drain", node, "--reason", "a test")
        image = scene.wait_serving(disk.image)
        assert image["holder"] != node
        write.wait_acknowledged()
        write.mark(f"drained-{number}")
        write.record(Interruption.DRAIN, f"drain-{number}", f"drained-{number}")
        scene.rbdgate("node", "resume", node)
        scene.move(disk.image, node)
        write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.stalls[Interruption.DRAIN] < IN_ORDER


@pytest.mark.writer(lanes=2)
def test_a_machine_frozen_past_its_lease_comes_back(scene: Scene, disk: Disk, write: Writing) -> None:
    """Another node serves; the frozen one, going on, withdraws, is fenced, and can serve again with new clients."""
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    write.mark("paused")
    scene.lab.pause(holder)
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("resumed")
    scene.lab.resume(holder)
    until("it has withdrawn", lambda: scene.is_withdrawn(holder, disk.iqn), within=30)
    scene.wait_live(holder)
    write.wait_acknowledged()
    scene.move(disk.image, holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.FROZEN, "paused", "resumed") < AFTER_LEASE
    assert write.record(Interruption.LET_GO_ON, "resumed") < TTL


@pytest.mark.writer(lanes=2)
def test_a_killed_guard_is_followed_by_another(scene: Scene, disk: Disk, write: Writing) -> None:
    """Without a guard every portal of the node is cut; the next one is there in a moment, and the holder serves on."""
    holder, claims = scene.holder(disk.image), scene.claims()
    write.mark("killed")
    scene.run(holder, "systemctl", "kill", "--signal=KILL", "--kill-who=main", "rbdgate-guard.service")
    write.wait_acknowledged()
    scene.wait_serving(disk.image, by=holder)
    until("both paths are back", lambda: scene.paths_up(disk.image) == 2, within=60)
    write.stop()
    assert scene.claims() == claims
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.GUARD_KILLED, "killed") < TTL
