"""Ceph out of reach: of the holder alone, and for longer than the kernel waits for an OSD; of all: test_watchdog.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from gateway.timers import Timers
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

TIMERS = Timers()
GIVEN_UP = "rbd/given-up"


@pytest.mark.writer(lanes=2)
def test_a_holder_cut_from_ceph_lets_another_serve(scene: Scene, disk: Disk, write: Writing) -> None:
    """The holder reaches etcd and initiators but not Ceph: it resigns, another node serves, and it comes back new."""
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    write.mark("cut")
    scene.lab.cut(holder, "ceph")
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("served")
    assert scene.is_silent(holder)
    scene.lab.heal(holder)
    until(f"{holder} can serve", lambda: can_serve(scene, holder), within=120)
    scene.move(disk.image, holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    stall = write.record(Interruption.CUT_FROM_CEPH, "cut", "served")
    assert TIMERS.storage_loss - TIMERS.storage_probe < stall < TIMERS.storage_loss + 10


def lose_ceph(scene: Scene) -> None:
    """Freeze Ceph's monitor and both OSDs."""
    scene.ceph.mon.signal(signal.SIGSTOP)
    for number in range(2):
        scene.ceph.osd(number).stop()


def give_back_ceph(scene: Scene) -> None:
    """Let them go on."""
    scene.ceph.mon.signal(signal.SIGCONT)
    for number in range(2):
        scene.ceph.osd(number).cont()


def can_serve(scene: Scene, node: str) -> bool:
    """Whether the node is live and says nothing of what keeps it from taking images."""
    shown = scene.rbdgate("node", "show", node)
    return shown["live"] and "takes nothing" not in shown["reason"]


@pytest.fixture(name="given_up")
def _given_up(scene: Scene) -> Iterator[str]:
    """An image that no initiator uses, for the length of a test."""
    scene.rbdgate("image", "create", GIVEN_UP, "--size", "64M")
    yield GIVEN_UP
    scene.rbdgate("image", "delete", GIVEN_UP)


def test_a_client_that_gave_a_write_up_is_fenced_and_not_released(scene: Scene, disk: Disk, given_up: str) -> None:
    """After an OSD hung for longer than krbd waits, a planned move ends with the former client on the blocklist.

    The OSD may still have the write. In a healthy move nobody is fenced.
    """
    holder = scene.holder(given_up)
    scene.front = scene.others(holder)[0]
    device = scene.shell(holder, "grep -l given-up /sys/bus/rbd/devices/*/name").split("/")[-2]
    client = scene.shell(holder, f"cat /sys/bus/rbd/devices/{device}/client_addr").strip()
    lines = len(scene.kernel_log(holder))
    scene.ceph.osd(0).stop()
    scene.run(
        holder, "systemd-run", "--quiet", "--collect", "dd", "if=/dev/zero", f"of=/dev/rbd{device}", "bs=4096",
        "count=1", "oflag=direct",
    )  # fmt: skip
    until("krbd gave the write up", lambda: timeouts(scene, holder, lines), within=TIMERS.osd_request_timeout + 20)
    scene.ceph.osd(0).cont()
    until("Ceph answers again", lambda: can_serve(scene, holder), within=60)
    assert client not in scene.blocklist()
    scene.move(given_up, scene.front)
    assert client in scene.blocklist()
    until(f"{holder} can serve", lambda: can_serve(scene, holder), within=60)
    before = set(scene.blocklist())
    scene.move(given_up, holder)
    assert set(scene.blocklist()) == before
    until("everything is served", lambda: scene.image(disk.image)["state"] == "serving", within=60)


def timeouts(scene: Scene, node: str, since: int) -> list[str]:
    """What the node's kernel has said of requests it gave up, from that line of its log on."""
    return [line for line in scene.kernel_log(node, since) if "libceph: tid" in line and "timeout" in line]
