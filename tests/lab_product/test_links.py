"""Carrier loss on a storage network: the image goes where more of its networks are up, and never back and forth."""

from __future__ import annotations

import pytest

from tests.lab_product.bounds import AFTER_LEASE
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

BEATS = 6
BEAT = 3.0  # seconds without carrier, and as many with it: longer than `link_down`, shorter than `link_up`
NEVER = 15.0  # seconds in which nothing must move


@pytest.mark.writer(lanes=4)
def test_an_image_follows_its_networks(scene: Scene, disk: Disk, write: Writing) -> None:
    """With one of two carriers gone at the holder, a node with both takes the image, and nothing is lost."""
    holder = scene.holder(disk.image)
    write.mark("carrier-lost")
    scene.lab.link(holder, "storage-1", "down")
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("moved")
    until("the initiator has both paths", lambda: scene.paths_up(disk.image) == 2, within=60)
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.CARRIER_LOST, "carrier-lost", "moved") < AFTER_LEASE


@pytest.mark.full
@pytest.mark.writer(lanes=4)
def test_an_image_stays_where_no_other_node_has_more(scene: Scene, disk: Disk, write: Writing) -> None:
    """With that network gone everywhere the image stays, one path down with the reason, its TPG, LUN and ACLs kept."""
    holder, claims = scene.holder(disk.image), scene.claims()
    both = kept(scene, holder, disk)
    assert len(both) == 2 * len(("lun", "mapped lun")), both
    for node in scene.others(holder):
        scene.lab.link(node, "storage-1", "down")
    until(
        "the others say so", lambda: all("storage-1" not in networks(scene, n) for n in scene.others(holder)), within=30
    )
    write.mark("carrier-lost")
    scene.lab.link(holder, "storage-1", "down")
    image = until("the image says so", lambda: degraded(scene, disk), within=30)
    assert "has no link" in str(image["reason"])
    assert [path["state"] for path in scene.image(disk.image)["paths"]] == ["down", "up"]
    assert kept(scene, holder, disk) == both
    for_seconds(NEVER)
    write.wait_acknowledged()
    assert scene.claims() == claims
    for node in scene.gateways:
        scene.lab.link(node, "storage-1", "up")
    scene.wait_serving(disk.image, by=holder)
    until("both paths are back", lambda: scene.paths_up(disk.image) == 2, within=60)
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.CARRIER_LOST_EVERYWHERE, "carrier-lost")


@pytest.mark.full
@pytest.mark.writer(lanes=4)
def test_a_flapping_link_makes_no_image_flap(scene: Scene, disk: Disk, write: Writing) -> None:
    """A carrier that goes and comes every 3 s costs at most one move, and a loss below the bound none."""
    holder, before = scene.holder(disk.image), scene.revision()
    sessions = scene.target_sessions(holder)
    write.mark("blink")
    scene.shell(holder, "ip -n cabling link set cable-1 down; sleep 0.3; ip -n cabling link set cable-1 up")
    for_seconds(4)
    assert scene.claimed_since(before) == []
    assert scene.target_sessions(holder) == sessions
    write.mark("flapping")
    for _ in range(BEATS):
        scene.lab.link(holder, "storage-1", "down")
        for_seconds(BEAT)
        scene.lab.link(holder, "storage-1", "up")
        for_seconds(BEAT)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    assert len(scene.claimed_since(before)) <= 1
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.CARRIER_FLAPPING, "flapping")


def kept(scene: Scene, node: str, disk: Disk) -> list[str]:
    """What links to a LUN in the target's TPGs: each path's LUN to its device, each ACL's mapped LUN to its LUN."""
    links = "-path '*/lun/lun_0/*' -o -path '*/acls/*/lun_0/*'"
    target = f"/sys/kernel/config/target/iscsi/{disk.iqn}"
    return sorted(scene.shell(node, f"find {target} -type l '(' {links} ')'").split())


def networks(scene: Scene, node: str) -> list[str]:
    """The networks the node says it has."""
    return list(scene.rbdgate("node", "show", node)["networks"])


def degraded(scene: Scene, disk: Disk) -> dict[str, object] | None:
    """The image, once it is served with a path down."""
    image = scene.image(disk.image)
    return image if image["state"] == "degraded" else None
