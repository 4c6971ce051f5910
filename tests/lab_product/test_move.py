"""A planned move under load."""

from __future__ import annotations

from tests.lab_product.bounds import IN_ORDER
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.writing import Writing

NOT_AT_REST = ("event=step", "event=planned", "turn failed", "image failed", "clean-up postponed", "not cut")


def test_a_planned_move_loses_nothing(scene: Scene, disk: Disk, write: Writing) -> None:
    """An image moved to another gateway and back keeps every acknowledged write, and waits for no lease."""
    here = scene.holder(disk.image)
    there = next(node for node in scene.gateways if node != here)
    for number, node in enumerate((there, here)):
        write.mark(f"move-{number}")
        scene.rbdgate("image", "move", disk.image, "--to", node)
        scene.wait_serving(disk.image, by=node)
        write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.PLANNED_MOVE, "move-0", "move-1") < IN_ORDER
    assert write.record(Interruption.PLANNED_MOVE, "move-1") < IN_ORDER
    assert disk.iqn not in scene.shell(there, "ls /sys/kernel/config/target/iscsi"), "the former holder keeps a target"


def test_at_rest_there_is_nothing_to_do(scene: Scene, disk: Disk) -> None:
    """With everything served, three turns of every agent plan nothing, take no step and fail at nothing."""
    from tests.lab_product.waiting import for_seconds  # noqa: PLC0415 - where passing time is the test

    for_seconds(6)  # what the tests before left to clean up is done in the turn after the last image was served
    began = scene.run("gw1", "date", "+%s").strip()
    for_seconds(16)
    for node in scene.gateways:
        journal = scene.run(node, "journalctl", "--unit=rbdgate-agent", f"--since=@{began}", "--output=cat")
        assert scene.run(node, "systemctl", "is-active", "rbdgate-agent").strip() == "active"
        busy = [line for line in journal.splitlines() if any(word in line for word in NOT_AT_REST)]
        assert not busy, f"{node}: {busy}"
