"""Gateways that vanish, one and two at a time, and come back."""

from __future__ import annotations

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

TTL = 10.0  # seconds, the default lease


@pytest.mark.writer(lanes=2)
def test_a_power_cut_of_the_holder_loses_nothing(scene: Scene, disk: Disk, write: Writing) -> None:
    """Another gateway takes over within TTL + 5 s, and the old one cleans up and serves again when it is back."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    write.mark("crash")
    scene.lab.crash(holder)
    until("another gateway holds it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.mark("back")
    scene.lab.boot(holder)
    until(f"{holder} is live", lambda: scene.rbdgate("node", "show", holder)["live"], within=90)
    scene.rbdgate("image", "move", disk.image, "--to", holder)
    scene.wait_serving(disk.image, by=holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record("power cut", "crash", "back") < TTL + 5


@pytest.mark.writer(lanes=2)
def test_two_nodes_cut_off_at_once(scene: Scene, disk: Disk, write: Writing) -> None:
    """With the holder and another node cut off from everything the third serves; healed, they clean up and serve."""
    holder = scene.holder(disk.image)
    other, third = (node for node in scene.gateways if node != holder)
    scene.front = third
    write.mark("cut")
    scene.lab.cut(holder, "all")
    scene.lab.cut(other, "all")
    scene.wait_serving(disk.image, by=third)
    write.wait_acknowledged()
    for node in (holder, other):
        scene.lab.heal(node)
    until("both are live again", lambda: all(n["live"] for n in scene.rbdgate("node", "list")), within=120)
    until("they hold nothing of it", lambda: clean(scene, (holder, other), disk), within=60)
    scene.rbdgate("image", "move", disk.image, "--to", holder)
    scene.wait_serving(disk.image, by=holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict


@pytest.mark.writer(lanes=2)
def test_two_nodes_lose_power_at_once(scene: Scene, disk: Disk, write: Writing) -> None:
    """With the holder and another node off, the third serves alone; nothing acknowledged is lost."""
    holder = scene.holder(disk.image)
    other, third = (node for node in scene.gateways if node != holder)
    scene.front = third
    write.mark("crash")
    scene.lab.crash(holder)
    scene.lab.crash(other)
    scene.wait_serving(disk.image, by=third)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record("power cut of two gateways at once", "crash") < TTL + 5


def clean(scene: Scene, nodes: tuple[str, ...], disk: Disk) -> bool:
    """Whether none of the nodes has a target of the disk left."""
    looks = [scene.shell(node, "ls /sys/kernel/config/target/iscsi; echo looked", check=False) for node in nodes]
    return all("looked" in look and disk.iqn not in look for look in looks)
