"""Somebody puts a gateway's own client on Ceph's blocklist."""

from __future__ import annotations

import json

import pytest

from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import PREFIX, Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

KINDS = (Interruption.KRBD_BLOCKLISTED, Interruption.LIBRADOS_BLOCKLISTED)  # as `instances` has them
NOTICED_WITHIN = 90.0  # seconds: `blocklist_check` is 60


def instances(scene: Scene, node: str) -> tuple[str, str]:
    """The client instances the node lives with: krbd's and librados'."""
    words = json.loads(scene.etcd.etcdctl("get", "--print-value-only", f"{PREFIX}live/{node}").stdout)["instances"]
    mapped = set(scene.shell(node, "cat /sys/bus/rbd/devices/*/client_addr").split())
    (kernel,) = set(words) & mapped
    (rados,) = set(words) - mapped
    return kernel, rados


@pytest.mark.writer(lanes=2)
@pytest.mark.parametrize("which", [pytest.param(0, id="krbd"), pytest.param(1, id="librados")])
def test_a_blocklisted_gateway_begins_anew(scene: Scene, disk: Disk, write: Writing, which: int) -> None:
    """The holder resigns, and the image is served again by it or another one, with clients that are on no blocklist."""
    holder = scene.holder(disk.image)
    victim = instances(scene, holder)[which]
    write.mark("blocklisted")
    scene.ceph.commands({"prefix": "osd blocklist", "blocklistop": "add", "addr": victim, "expire": 3600.0})
    until("the holder has other clients", lambda: victim not in live_instances(scene, holder), within=NOTICED_WITHIN)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.mark("served")
    assert not set(instances(scene, scene.holder(disk.image))) & set(scene.blocklist())
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(KINDS[which], "blocklisted", "served")
    assert verdict["errors"] == 0, "the initiator was told of an error"


def live_instances(scene: Scene, node: str) -> str:
    """What the node's sign of life says of its clients; the victim stands for them while there is none."""
    return scene.etcd.etcdctl("get", "--print-value-only", f"{PREFIX}live/{node}").stdout
