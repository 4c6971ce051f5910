"""The watchdog in the lab: it resets a gateway that nobody takes down, and none for what etcd or Ceph do.

The losses stand first: the gateway that was reset has no watchdog in the boot after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab_product.bounds import TTL
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.test_etcd_faults import give_back_quorum, lose_quorum
from tests.lab_product.test_storage_loss import can_serve, give_back_ceph, lose_ceph
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

SETTINGS = "/etc/rbdgate/rbdgate.toml"
TIMEOUT = 15.0  # seconds, `agent.watchdog.TIMEOUT`
UNFED = TIMEOUT + 4  # seconds after which a watchdog that is fed no more has fired
AWAY = 30.0  # seconds: longer than a node alone bears it
SETTLED = 20.0  # seconds in which an image that flaps would be seen to
RESET = "softdog: Initiating system reboot"  # what the kernel says last
TABLE = '\\n[agent]\\nwatchdog = "/dev/watchdog1"\\n'
ARM = (
    f"modprobe softdog nowayout=0 && ls /dev/watchdog1 && printf '{TABLE}' >> {SETTINGS}"
    " && systemctl restart rbdgate-guard"
)
DISARM = f"sed -i '/^\\[agent\\]$/d; /^watchdog = /d' {SETTINGS}; systemctl restart rbdgate-guard; rmmod softdog"


@pytest.fixture(name="_armed", scope="module")
def _watchdogs(scene: Scene, disk: Disk) -> Iterator[None]:
    """Every gateway with a watchdog, armed; afterwards none."""
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


def boots(scene: Scene) -> dict[str, str]:
    """Which boot of its kernel each gateway is on."""
    return {node: scene.run(node, "cat", "/proc/sys/kernel/random/boot_id").strip() for node in scene.gateways}


@pytest.mark.usefixtures("_armed")
@pytest.mark.writer(lanes=2)
def test_a_quorum_lost_for_long_resets_nobody_and_nothing_flaps(scene: Scene, disk: Disk, write: Writing) -> None:
    """Without a quorum each node serves for its tenure, withdraws and is not reset; with it back nothing flaps."""
    holder, before = scene.holder(disk.image), scene.revision()
    on_boot = boots(scene)
    write.mark("lost")
    lose_quorum(scene)
    write.wait_acknowledged(50, within=4)  # the tenure runs: at least as long as it takes to renew a lease
    until("the holder has withdrawn", lambda: scene.is_withdrawn(holder, disk.iqn), within=20)
    for_seconds(UNFED)
    give_back_quorum(scene)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.mark("served")
    for_seconds(SETTLED)
    claimed = scene.claimed_since(before)
    assert len(claimed) == len(set(claimed)), f"claimed more than once: {claimed}"
    assert boots(scene) == on_boot, "a node was reset"
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.QUORUM_LOST, "lost", "served")
    assert write.stall("served").seconds < 3, "the image moved again after it was back"


@pytest.mark.usefixtures("_armed")
@pytest.mark.writer(lanes=2)
def test_nobody_gives_up_when_ceph_is_away_for_all(scene: Scene, disk: Disk, write: Writing) -> None:
    """With monitor and OSDs stopped for 30 s every node says so, none resigns or is reset, and all goes on in place."""
    claims, revision, on_boot = scene.claims(), scene.revision(), boots(scene)
    write.mark("away")
    lose_ceph(scene)
    for_seconds(AWAY)
    assert not any(can_serve(scene, node) for node in scene.gateways)
    assert all(node["live"] for node in scene.rbdgate("node", "list"))
    assert boots(scene) == on_boot, "a node was reset"
    give_back_ceph(scene)
    write.wait_acknowledged()
    until("every node can serve", lambda: all(can_serve(scene, node) for node in scene.gateways), within=60)
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert scene.claims() == claims
    assert scene.claimed_since(revision) == []
    write.record(Interruption.CEPH_STOPPED, "away")


@pytest.mark.usefixtures("_armed")
@pytest.mark.writer(lanes=2)
def test_losing_etcd_and_ceph_resets_nobody(scene: Scene, disk: Disk, write: Writing) -> None:
    """With both gone the holder hangs in its kernel; it is silent, not reset, and serves once both are back."""
    holder, on_boot = scene.holder(disk.image), boots(scene)
    write.mark("away")
    lose_ceph(scene)
    lose_quorum(scene)
    until("the holder is silent", lambda: scene.is_silent(holder), within=20)
    for_seconds(UNFED)
    assert boots(scene) == on_boot, "a node was reset"
    assert all("watchdog armed" in said(scene, node) for node in scene.gateways)
    give_back_ceph(scene)
    give_back_quorum(scene)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    assert boots(scene) == on_boot, "a node was reset"
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    write.record(Interruption.ETCD_AND_CEPH_STOPPED, "away")


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
    write.record(Interruption.BOTH_HUNG, "hung", "reset")
