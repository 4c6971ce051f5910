"""What a gateway left behind when its agent and guard were gone: address, target, mapping, and old words in `/run`."""

from __future__ import annotations

import json

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

# Without Restart= and ExecStopPost= both daemons can vanish as if the machine had never had them.
VANISH = (
    "for unit in agent guard; do d=/run/systemd/system/rbdgate-$unit.service.d; mkdir -p $d;"
    " printf '[Service]\\nRestart=no\\nExecStopPost=\\n' > $d/test.conf; done; systemctl daemon-reload;"
    " systemctl kill --signal=KILL rbdgate-agent.service rbdgate-guard.service"
)
COME_BACK = (
    "rm -rf /run/systemd/system/rbdgate-*.service.d; systemctl daemon-reload; systemctl reset-failed;"
    " systemctl start rbdgate-guard rbdgate-agent"
)
TENURE = "/run/rbdgate/tenure"
ANOTHER_BOOT = "00000000-0000-4000-8000-000000000000"


def left(scene: Scene, node: str, disk: Disk) -> set[str]:
    """Which of target, portal address and mapping the node still has."""
    script = (
        f"test -d /sys/kernel/config/target/iscsi/{disk.iqn} && echo target;"
        " ip -o address show | grep -qE '10\\.77\\.[12]\\.1[0-9][0-9]/' && echo address;"
        f" grep -qx {disk.image.partition('/')[2]} /sys/bus/rbd/devices/*/name && echo mapping; echo looked"
    )
    found = set(scene.shell(node, script, check=False).split())
    assert "looked" in found
    return found - {"looked"}


def tenure_of(scene: Scene, node: str) -> dict[str, object]:
    """What `/run` says of the node's tenure."""
    words: dict[str, object] = json.loads(scene.run(node, "cat", TENURE))
    return words


@pytest.mark.writer(lanes=2)
@pytest.mark.full
@pytest.mark.parametrize("boot", ["another", "this"])
def test_a_node_cleans_up_what_it_left(scene: Scene, disk: Disk, write: Writing, boot: str) -> None:
    """Agent and guard vanish with everything served; back after another took over, they clean up first and serve.

    In `/run` they find a tenure of another boot that never ends, or one of this boot with a lease that is long dead.
    """
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    write.mark("vanished")
    scene.lab.cut(holder, "all")  # nothing in it takes the portals down any more: the network has to
    scene.shell(holder, VANISH)
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    assert left(scene, holder, disk) == {"target", "address", "mapping"}
    if boot == "another":
        tenure = {"boot_id": ANOTHER_BOOT, "lease": 1, "end": 1e12, "claims": {}}
        scene.put(holder, TENURE, json.dumps(tenure).encode())
    else:
        left_behind = tenure_of(scene, holder)
        assert left_behind["boot_id"] == scene.run(holder, "cat", "/proc/sys/kernel/random/boot_id").strip()
        assert left_behind["claims"], "it held nothing"
        assert holder not in scene.live(), "its lease lives"
    write.mark("back")
    scene.shell(holder, COME_BACK, within=120, check=False)
    until("the portals are off", lambda: scene.is_silent(holder), within=20)
    scene.lab.heal(holder)
    until("nothing is left", lambda: not left(scene, holder, disk), within=90)
    scene.wait_live(holder)
    scene.move(disk.image, holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
