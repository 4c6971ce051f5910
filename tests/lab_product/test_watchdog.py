"""The watchdog in the lab: it resets a gateway that nobody takes down, and none for what etcd does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.test_etcd_faults import boot_id, give_back_quorum, lose_quorum
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

SETTINGS = "/etc/rbdgate/rbdgate.toml"
TTL = 10.0  # seconds, the default lease
TIMEOUT = 15.0  # seconds, `agent.watchdog.TIMEOUT`
RESET = "softdog: Initiating system reboot"  # what the kernel says last
TABLE = '\\n[agent]\\nwatchdog = "/dev/watchdog1"\\n'
ARM = (
    f"modprobe softdog nowayout=0 && ls /dev/watchdog1 && printf '{TABLE}' >> {SETTINGS}"
    " && systemctl restart rbdgate-guard"
)
DISARM = f"sed -i '/^\\[agent\\]$/d; /^watchdog = /d' {SETTINGS}; systemctl restart rbdgate-guard; rmmod softdog"


@pytest.fixture(name="_armed")
def _watchdogs(scene: Scene, disk: Disk) -> Iterator[None]:
    """Every gateway with a watchdog, armed; afterwards none, whatever was broken mended first."""
    for node in scene.gateways:
        assert "[agent]" not in scene.run(node, "cat", SETTINGS)
        scene.shell(node, ARM)
    scene.wait_serving(disk.image)
    for node in scene.gateways:
        until("armed", lambda node=node: "watchdog armed" in said(scene, node), within=20)  # type: ignore[misc]
    yield
    for node in scene.gateways:
        scene.shell(node, DISARM, check=False)
    scene.wait_serving(disk.image)


def said(scene: Scene, node: str) -> str:
    """What the guards of this boot of the node wrote."""
    return scene.run(node, "journalctl", "--unit=rbdgate-guard", "--output=cat")


@pytest.mark.usefixtures("_armed")
@pytest.mark.writer(lanes=2)
def test_a_node_that_nobody_takes_down_is_reset(scene: Scene, disk: Disk, write: Writing) -> None:
    """With agent and guard hanging, portals up and its lease gone, the holder is reset, and another one serves."""
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    write.mark("hung")
    scene.shell(holder, "systemctl kill --signal=STOP --kill-who=main rbdgate-agent rbdgate-guard")
    until("the watchdog has reset it", lambda: RESET in scene.lab.logs(holder), within=TTL + TIMEOUT + 10)
    scene.lab.crash(holder)  # a kernel that starts anew in its old process has no network here (tests/lab/README.md)
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    write.mark("reset")
    scene.lab.boot(holder)
    scene.wait_live(holder)
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record("agent and guard hung: the watchdog resets", "hung", "reset")


@pytest.mark.full
@pytest.mark.usefixtures("_armed")
@pytest.mark.writer(lanes=2)
def test_losing_etcd_resets_nobody(scene: Scene, disk: Disk, write: Writing) -> None:
    """Without a quorum for longer than tenure and watchdog together, every node withdraws and none is reset."""
    boots = {node: boot_id(scene, node) for node in scene.gateways}
    lose_quorum(scene)
    for_seconds(TTL + TIMEOUT + 10)
    assert {node: boot_id(scene, node) for node in scene.gateways} == boots
    assert all("watchdog armed" in said(scene, node) for node in scene.gateways)
    give_back_quorum(scene)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
