"""Images let go without a fence: by a machine that goes down in order, and after a claim was deleted by hand."""

from __future__ import annotations

import pytest

from tests.lab.machine import State
from tests.lab_product.bounds import IN_ORDER
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import PREFIX, Claimed, Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full


@pytest.mark.writer(lanes=4)
def test_a_machine_that_is_shut_down_costs_a_planned_move(scene: Scene, disk: Disk, write: Writing) -> None:
    """With `systemctl poweroff` of the holder nobody waits for a lease, nobody is fenced, and it comes back."""
    holder, fences = scene.holder(disk.image), set(scene.blocklist())
    scene.front = scene.others(holder)[0]
    write.mark("poweroff")
    scene.run(holder, "systemctl", "poweroff", check=False)
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("served")
    until(f"{holder} is off", lambda: scene.lab.state(holder) is State.OFF, within=60)
    assert set(scene.blocklist()) == fences
    scene.lab.boot(holder)
    scene.wait_live(holder)
    scene.move(disk.image, holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.SHUT_DOWN, "poweroff", "served") < IN_ORDER


@pytest.mark.writer(lanes=4)
def test_a_claim_deleted_by_hand_is_no_dead_end(scene: Scene, disk: Disk, write: Writing) -> None:
    """The former holder notices, lets go of header and records, and whoever claims the image serves it, unfenced."""
    fences = set(scene.blocklist())
    for number in range(3):
        (claim,) = scene.claims()
        write.mark(f"deleted-{number}")
        done = scene.etcd.etcdctl("del", f"{PREFIX}claims/{claim.uid}")
        assert done.returncode == 0, done.stderr
        until("another claim", lambda: another(scene, claim), within=30)  # noqa: B023 - asked before the next round
        scene.wait_serving(disk.image)
        write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert set(scene.blocklist()) == fences
    write.record(Interruption.CLAIM_DELETED, "deleted-0")


def another(scene: Scene, claim: Claimed) -> bool:
    """Whether somebody has claimed the image anew."""
    return any(each.uid == claim.uid and each.token != claim.token for each in scene.claims())
