"""Images go where they belong by themselves: to a node that is new or came back, away from one that is drained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

SETTINGS = "/etc/rbdgate/rbdgate.toml"
DELAY = 8  # seconds a node must have been fit before images come back to it, instead of the lab's hour
MORE = tuple(f"rbd/more{number}" for number in range(1, 6))
NEVER = 20.0  # seconds in which nothing must move


@contextmanager
def fail_back_soon(scene: Scene) -> Iterator[None]:
    """Have the agents even the images out after seconds; the agents are restarted for it, which no session notices."""
    change = "sed -i 's/^failback_delay = .*/failback_delay = {}/' " + SETTINGS + " && systemctl restart rbdgate-agent"
    before = scene.shell(scene.front, f"sed -n 's/^failback_delay = //p' {SETTINGS}").strip()
    for node in scene.gateways:
        scene.shell(node, change.format(DELAY))
    try:
        yield
    finally:
        for node in scene.gateways:
            scene.shell(node, change.format(before), check=False)


@pytest.fixture(name="more")
def _more(scene: Scene, disk: Disk) -> Iterator[None]:
    """Five images more, served, next to the one that is written to; gone afterwards."""
    for name in MORE:
        scene.rbdgate("image", "create", name, "--size", "64M", "--no-wait")
    for name in MORE:
        scene.wait_serving(name)
    yield
    for name in MORE:
        scene.rbdgate("image", "delete", name)


def holders(scene: Scene) -> Counter[str]:
    """How many images each node holds, once all are served."""
    images = until("all served", lambda: whole(scene), within=60)
    return Counter(str(image["holder"]) for image in images)


def whole(scene: Scene) -> list[dict[str, object]] | None:
    """All images, if each is served on all its paths."""
    images = scene.rbdgate("image", "list")
    return images if all(image["state"] == "serving" for image in images) else None


def is_even(scene: Scene) -> bool:
    """Whether six images are spread two by two."""
    return holders(scene) == dict.fromkeys(scene.gateways, 2)


@pytest.mark.writer(lanes=2)
def test_a_new_node_gets_its_share(scene: Scene, disk: Disk, more: None, write: Writing) -> None:
    """A node that the cluster has never heard of joins, and is given its share with nothing restarted and lost."""
    holder = scene.holder(disk.image)
    new = next(node for node in scene.gateways if node != holder)
    scene.front = holder
    with fail_back_soon(scene):
        scene.lab.crash(new)
        until("the others serve all", lambda: new not in holders(scene), within=60)
        scene.rbdgate("node", "remove", new)
        assert new not in {node["name"] for node in scene.rbdgate("node", "list")}
        scene.lab.boot(new)
        until("the images are even", lambda: is_even(scene), within=90)
        settled = {image["name"]: image["holder"] for image in scene.rbdgate("image", "list")}
        for_seconds(NEVER)
        assert {image["name"]: image["holder"] for image in scene.rbdgate("image", "list")} == settled
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict


@pytest.mark.writer(lanes=2)
def test_drain_moves_everything_and_resume_brings_it_back(scene: Scene, disk: Disk, more: None, write: Writing) -> None:
    """A drained node is empty when the command returns; resumed, it has its share again; no write is lost."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    write.mark("drain")
    scene.rbdgate("node", "drain", holder, "--reason", "a test")
    assert holder not in holders(scene)
    write.wait_acknowledged()
    write.mark("drained")
    with fail_back_soon(scene):
        scene.rbdgate("node", "resume", holder)
        until("the images are even", lambda: is_even(scene), within=90)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record("drain", "drain", "drained") < 4


def test_pins_and_nodes_to_keep_away_from(scene: Scene, disk: Disk) -> None:
    """An image goes to its pin, away from a node it is kept from, and nowhere while it is stopped."""
    here = scene.holder(disk.image)
    there, third = (node for node in scene.gateways if node != here)
    with fail_back_soon(scene):
        scene.rbdgate("image", "pin", disk.image, there)
        scene.wait_serving(disk.image, by=there)
        scene.rbdgate("image", "unpin", disk.image)
        scene.rbdgate("image", "keep-away", disk.image, there, third)
        scene.wait_serving(disk.image, by=here)
        scene.rbdgate("image", "keep-away", disk.image, "--clear")
