"""The fence: what it stops, what happens without it, and what happens when it cannot be confirmed."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

SETTINGS = "/etc/rbdgate/rbdgate.toml"
REFUSED_WRITE = re.compile(r"rbd\d+: write .*result -108")
"""What krbd says of a write that an OSD refused; its watch is refused too, and says so in other words."""

# A write that was under way when the cut came may have reached its OSD, with only the answer lost: sent again it is
# known there and changes nothing. So most lanes are between two writes at any moment, and begin one after the cut.
LANES = 16
RATE = 10  # writes a second of each lane but the first two
BLOCKS = 64  # few, so that what was queued in the old holder is overwritten soon


def overtake(scene: Scene, disk: Disk, write: Writing) -> str:
    """Let writes queue in the holder, pause it, let another take over and overwrite the same blocks; the old holder."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    write.mark("cut")
    scene.lab.cut(holder, "ceph")
    write.wait_stalled(1.0)
    scene.lab.pause(holder)
    until("another gateway holds it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    scene.wait_serving(disk.image)
    write.mark("overtaken")
    write.wait_acknowledged()
    until("every block was overwritten", lambda: overwritten(write, "overtaken"), within=60)
    write.stop()
    return holder


def overwritten(write: Writing, since: str) -> bool:
    """Whether every block was written twice since a mark: the first may be the very write that is queued elsewhere."""
    history = write.history()
    marked = history.mark(since)
    times = Counter(w.block for w in history.writes.values() if w.acknowledged and w.began > marked)
    return all(times[block] >= 2 for block in range(BLOCKS))


@pytest.mark.writer(lanes=LANES, blocks=BLOCKS, rate=RATE, read_every=0)
def test_a_stale_write_is_refused(scene: Scene, disk: Disk, write: Writing) -> None:
    """Writes queued in the old holder come too late: the OSDs refuse them with -108, and no block goes back."""
    lines = {node: len(scene.kernel_log(node)) for node in scene.gateways}
    holder = overtake(scene, disk, write)
    scene.lab.heal(holder)
    scene.lab.resume(holder)
    refused = until(
        "a write refused with -108 on the old holder",
        lambda: [line for line in scene.kernel_log(holder, lines[holder]) if REFUSED_WRITE.search(line)],
        within=60,
    )
    assert refused
    until(f"{holder} is live again", lambda: scene.rbdgate("node", "show", holder)["live"], within=120)
    verdict = write.verify()
    assert verdict["clean"], verdict


@pytest.fixture
def _lifted_fences_stay_lifted(scene: Scene) -> Iterator[None]:
    """Agents that do not look for vanished fences: by default they add one again within a minute."""
    settings = {node: scene.run(node, "cat", SETTINGS) for node in scene.gateways}
    for node, text in settings.items():  # the table of timers is the file's last (conftest.py)
        scene.put(node, SETTINGS, f"{text.rstrip()}\nblocklist_check = 3600\n".encode())
        scene.run(node, "systemctl", "restart", "rbdgate-agent.service")
    yield
    for node, text in settings.items():
        scene.put(node, SETTINGS, text.encode())
        scene.run(node, "systemctl", "restart", "rbdgate-agent.service")


@pytest.mark.full
@pytest.mark.usefixtures("_lifted_fences_stay_lifted")
@pytest.mark.writer(lanes=LANES, blocks=BLOCKS, rate=RATE, read_every=0)
def test_without_the_fence_the_checker_sees_a_stale_block(scene: Scene, disk: Disk, write: Writing) -> None:
    """With the blocklist entries lifted by hand the old holder's writes land, and the checker reports it."""
    before = scene.blocklist()
    holder = overtake(scene, disk, write)
    lifted = set(scene.blocklist()) - set(before)
    assert lifted, "the takeover fenced nobody"
    scene.lift_fences(lifted)
    scene.lab.heal(holder)
    scene.lab.resume(holder)
    verdict: dict[str, Any] = until("a stale block", lambda: stale(write), within=90)
    assert verdict["lost_writes"] >= 1


def stale(write: Writing) -> dict[str, Any] | None:
    """The verdict, once it names a stale block."""
    verdict = write.verify()
    return verdict if verdict["stale_blocks"] else None


def test_a_fence_that_cannot_be_confirmed_exports_nothing(scene: Scene, disk: Disk, write: Writing) -> None:
    """While the monitor does not answer, the taker exports nothing and says why; when it does, it serves."""
    holder = scene.holder(disk.image)
    others = [node for node in scene.gateways if node != holder]
    scene.front = others[0]
    write.mark("crash")
    scene.ceph.mon.signal(signal.SIGSTOP)
    scene.lab.crash(holder)
    until("another gateway claims it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    image = until("the failure", lambda: failed(scene, disk), within=90)
    assert "fence" in image["reason"] or "blocklist" in image["reason"], image["reason"]
    for node in others:
        exported = scene.shell(
            node, f"cat /sys/kernel/config/target/iscsi/{disk.iqn}/tpgt_*/enable 2>/dev/null; echo looked"
        )
        assert "looked" in exported
        assert "1" not in exported, f"{node} exports without a confirmed fence"
    assert all(path["state"] == "down" for path in image["paths"])
    scene.ceph.mon.signal(signal.SIGCONT)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict


def failed(scene: Scene, disk: Disk) -> dict[str, Any] | None:
    """The image, once it is known to have failed to be served."""
    image = scene.image(disk.image)
    return image if image["state"] == "failed" else None
