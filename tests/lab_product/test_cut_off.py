"""Gateways cut off from what they live on: from etcd, from etcd and Ceph, from everything, from one storage network."""

from __future__ import annotations

import pytest

from tests.lab_product.bounds import AFTER_LEASE, TTL
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

WITHDRAWN_WITHIN = TTL + 3  # seconds: the tenure and the guard's grace are less; the rest is for looking into a node

CUT_OFF = {
    Interruption.CUT_FROM_ETCD: ("etcd",),
    Interruption.CUT_FROM_BOTH: ("etcd", "ceph"),
    Interruption.CUT_FROM_ALL: ("all",),
}
MORE = (Interruption.CUT_FROM_ETCD, Interruption.CUT_FROM_ALL)


@pytest.mark.writer(lanes=2)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.value, marks=[pytest.mark.full] if kind in MORE else []) for kind in CUT_OFF]
)
def test_a_holder_that_is_cut_off_lets_another_serve(
    scene: Scene, disk: Disk, write: Writing, kind: Interruption
) -> None:
    """A holder without etcd withdraws by itself when its tenure ends, another one serves, and the first comes back."""
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    write.mark("cut")
    for what in CUT_OFF[kind]:
        scene.lab.cut(holder, what)
    # Without Ceph its target cannot be taken down before krbd gives up; no packet leaves it all the same.
    until("the holder has withdrawn", lambda: scene.is_silent(holder), within=WITHDRAWN_WITHIN)
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("served")
    scene.lab.heal(holder)
    scene.wait_live(holder)
    scene.move(disk.image, holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(kind, "cut", "served") < AFTER_LEASE


@pytest.mark.full
@pytest.mark.writer(lanes=2)
def test_a_lost_storage_network_leaves_the_other_path(scene: Scene, disk: Disk, write: Writing) -> None:
    """With every packet of one network lost and its link up, multipath goes on on the other one, and nothing moves."""
    holder, claims = scene.holder(disk.image), scene.claims()
    write.mark("cut")
    scene.lab.cut(holder, "storage-1")
    until("the initiator gave one path up", lambda: scene.paths_up(disk.image) == 1, within=60)
    write.wait_acknowledged()
    write.mark("one-path")
    assert scene.claims() == claims
    scene.lab.heal(holder)
    until("both paths are back", lambda: scene.paths_up(disk.image) == 2, within=60)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert scene.claims() == claims
    write.record(Interruption.NETWORK_SILENT, "cut", "one-path")
