"""Etcd loses its memory while images are served: it is wiped, or restored from an older backup."""

from __future__ import annotations

import pytest

from tests.lab_product.bounds import PAST_A_LEASE
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

INIT = (
    *("cluster", "init", "--network", "storage-1=10.77.1.0/24,10.77.1.100-10.77.1.199"),
    *("--network", "storage-2=10.77.2.0/24,10.77.2.100-10.77.2.199", "--anchor-pool", "rbd"),
)


@pytest.mark.writer(lanes=2)
def test_a_wiped_etcd_is_rebuilt_from_the_images(scene: Scene, disk: Disk, write: Writing) -> None:
    """Without etcd's memory every node lets go; `cluster init` and `image restore` bring the same disk back."""
    image, holder = scene.image(disk.image), scene.holder(disk.image)
    write.mark("wiped")
    scene.etcd.forget()
    until("the holder has withdrawn", lambda: scene.is_withdrawn(holder, disk.iqn), within=30)
    done = scene.try_rbdgate("status")
    assert done.returncode == 1
    assert "rbdgate cluster init" in done.stderr
    scene.rbdgate(*INIT)
    scene.wait_live()
    restored = scene.rbdgate("image", "restore", disk.image)
    assert [restored[key] for key in ("iqn", "serial", "size")] == [image[key] for key in ("iqn", "serial", "size")]
    assert [path["address"] for path in restored["paths"]] == [path["address"] for path in image["paths"]]
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_WIPED, "wiped")


@pytest.mark.writer(lanes=2)
def test_an_older_backup_makes_no_second_holder(scene: Scene, disk: Disk, write: Writing) -> None:
    """With a backup restored in which another node holds the image, one node serves it, and nothing is lost."""
    former = scene.holder(disk.image)
    backup = scene.etcd.back_up()
    now = scene.others(former)[0]
    scene.move(disk.image, now)
    write.wait_acknowledged()
    write.mark("restored")
    scene.etcd.restore(backup)
    for_seconds(PAST_A_LEASE)
    scene.wait_live()
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    holders = [node for node in scene.gateways if not scene.is_withdrawn(node, disk.iqn)]
    assert holders == [scene.holder(disk.image)]
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_RESTORED, "restored")


@pytest.mark.writer(lanes=2)
def test_a_backup_from_before_a_power_cut_fences_the_last_holder(scene: Scene, disk: Disk, write: Writing) -> None:
    """The backup knows nothing of the node that had the image last and is cut off now; the image itself does."""
    former = scene.holder(disk.image)
    backup = scene.etcd.back_up()
    last = scene.others(former)[0]
    scene.front = former
    scene.move(disk.image, last)
    write.wait_acknowledged()
    fenced = set(scene.blocklist())
    write.mark("cut")
    scene.lab.cut(last, "etcd")
    scene.etcd.restore(backup)
    until("somebody else serves it", lambda: scene.image(disk.image)["holder"] not in (None, last), within=60)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    assert set(scene.blocklist()) > fenced, "the last holder was not fenced"
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_RESTORED_AND_CUT, "cut")
