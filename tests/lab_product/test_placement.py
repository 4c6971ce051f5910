"""Images go where they belong by themselves: to a node that is new or came back, away from one that is drained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from gateway.placement import MOVES_AT_ONCE
from tests.lab.machine import State
from tests.lab_product.bounds import IN_ORDER
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import PREFIX, Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

SETTINGS = "/etc/rbdgate/rbdgate.toml"
DELAY = 8  # seconds a node must have been fit before images come back to it, instead of the lab's hour
MORE = tuple(f"rbd/more{number}" for number in range(1, 6))
WEIGHT = "400"  # four times the usual
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
            if scene.lab.state(node) is State.OFF:  # the test failed there: its settings are on its disk
                scene.lab.boot(node)
            scene.shell(node, change.format(before), check=False)


@pytest.fixture(name="more", scope="module")
def _more(scene: Scene, disk: Disk) -> Iterator[None]:
    """Five images more, served, next to the one that is written to; gone afterwards."""
    for name in MORE:
        scene.rbdgate("image", "create", name, "--size", "64M", "--no-wait")
    until("all served", lambda: whole(scene), within=120)
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
    assert new in holders(scene), "it has nothing open, so nobody would be fenced"
    with fail_back_soon(scene):
        # An agent that was restarted is another client of Ceph's, and says so in its first turn.
        until("its clients are on record", lambda: scene.instances(new) <= scene.recorded(new), within=60)
        victims = scene.instances(new)
        scene.lab.crash(new)
        until("the others serve all", lambda: new not in holders(scene), within=60)
        scene.rbdgate("node", "remove", new)
        assert scene.fenced() >= victims, "its fences are forgotten with it"
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
    scene.rbdgate("image", "pin", disk.image, holder)
    write.mark("drain")
    scene.rbdgate("node", "drain", holder, "--reason", "a test")
    assert holder not in holders(scene)
    write.wait_acknowledged()
    write.mark("drained")
    with fail_back_soon(scene):
        scene.rbdgate("node", "resume", holder)
        scene.wait_serving(disk.image, by=holder)
        until("the images are even", lambda: is_even(scene), within=90)
    write.wait_acknowledged()
    write.stop()
    scene.rbdgate("image", "unpin", disk.image)
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.DRAIN, "drain", "drained") < IN_ORDER
    assert write.record(Interruption.FAIL_BACK, "drained") < IN_ORDER


def most_at_once(events: Iterable[tuple[str, str]]) -> int:
    """How many keys of a folder there were at once at the most, from all that happened to them."""
    there: set[str] = set()
    most = 0
    for kind, key in events:
        if kind == "PUT":
            there.add(key)
        else:
            there.discard(key)
        most = max(most, len(there))
    return most


@pytest.mark.writer(lanes=2)
def test_maintenance_empties_and_rebalance_spreads_as_weighed(
    scene: Scene, disk: Disk, more: None, write: Writing
) -> None:
    """A node in maintenance has nothing; a rebalance spreads the images by the nodes' weights, four at a time."""
    former = scene.holder(disk.image)
    last, other = scene.others(former)
    light, before = (former, other), scene.revision()
    scene.front = last
    write.mark("maintenance")
    for node in light:
        scene.rbdgate("node", "maintenance", node, "--reason", "a test")
        assert node not in holders(scene)
    write.wait_acknowledged()
    write.mark("emptied")
    assert holders(scene) == {last: len(MORE) + 1}
    scene.rbdgate("image", "pin", disk.image, other)  # which cannot take it now, so nothing moves yet
    for node in light:
        scene.rbdgate("node", "resume", node)
        scene.rbdgate("node", "weight", node, WEIGHT)
    claims = scene.claims()
    planned = {move["image"]: move for move in scene.rbdgate("image", "rebalance", "--dry-run")}
    assert len(planned) == len(MORE)
    assert (planned[disk.image]["from"], planned[disk.image]["to"]) == (last, other)
    assert scene.claims() == claims
    assert scene.keys("moves/") == []
    write.mark("rebalance")
    moved = scene.rbdgate("image", "rebalance", within=300)
    spread = holders(scene)
    write.wait_acknowledged()
    write.mark("rebalanced")
    assert len(moved) == len(MORE)
    assert spread[last] == 1, spread
    assert {spread[node] for node in light} == {2, 3}, spread
    assert scene.holder(disk.image) == other
    assert 1 < most_at_once(scene.etcd.history(f"{PREFIX}moves/", before + 1)) <= MOVES_AT_ONCE
    scene.rbdgate("image", "unpin", disk.image)
    for node in light:
        scene.rbdgate("node", "weight", node, "100")
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.DRAIN, "maintenance", "emptied") < IN_ORDER
    assert write.record(Interruption.REBALANCE, "rebalance", "rebalanced") < IN_ORDER


@pytest.mark.writer(lanes=2)
def test_pins_and_nodes_to_keep_away_from(scene: Scene, disk: Disk, write: Writing) -> None:
    """An image goes at once to its pin, and away from nodes it is kept from: a planned move each."""
    here = scene.holder(disk.image)
    there, third = (node for node in scene.gateways if node != here)
    write.mark("pin")
    scene.rbdgate("image", "pin", disk.image, there)
    scene.wait_serving(disk.image, by=there)
    write.wait_acknowledged()
    write.mark("pinned")
    scene.rbdgate("image", "unpin", disk.image)
    scene.rbdgate("image", "keep-away", disk.image, there, third)
    scene.wait_serving(disk.image, by=here)
    scene.rbdgate("image", "keep-away", disk.image, "--clear")
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.PIN, "pin", "pinned") < IN_ORDER
