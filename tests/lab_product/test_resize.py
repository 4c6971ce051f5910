"""A disk grows under its writer, and is stopped and started, with real initiators."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab_product.conftest import remember_stalls, written
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until

pytestmark = pytest.mark.full

IMAGE = "rbd/grown"
GIB = 1 << 30
STALL = 3.0  # seconds a write may wait while Ceph changes the size


@pytest.fixture(name="grown")
def _grown(scene: Scene) -> Iterator[Disk]:
    """A disk of 256 MiB with two paths, of its own: it cannot be made smaller again."""
    scene.create(IMAGE, size="256M")
    yield scene.log_in(IMAGE)
    scene.log_out(IMAGE)
    scene.rbdgate("image", "delete", IMAGE)


def sessions(scene: Scene, disk: Disk) -> set[str]:
    """The numbers of the initiator's sessions with the disk's target: a new login has a new one."""
    text = scene.run("ini1", "iscsiadm", "-m", "session", check=False)
    return set(re.findall(rf"\[(\d+)\] \S+ {re.escape(disk.iqn)} ", text))


def sizes(scene: Scene, disk: Disk) -> set[int]:
    """The bytes that each path of the disk has, as the initiator's kernel knows it."""
    name = disk.device.removeprefix("/dev/mapper/")
    text = scene.run("ini1", "multipathd", "show", "paths", "raw", "format", "%d %m")
    paths = [line.split()[0] for line in text.splitlines() if line.split()[1:] == [name]]
    assert len(paths) == 2, text
    return {int(scene.run("ini1", "blockdev", "--getsize64", f"/dev/{path}")) for path in paths}


def test_a_disk_grows_under_its_writer(scene: Scene, grown: Disk, request: pytest.FixtureRequest) -> None:
    """After a rescan the initiator has the new size in its old sessions, and keeps it over a move; no write is lost."""
    with written(scene, grown, request) as writing:
        before = sessions(scene, grown)
        writing.mark("resize")
        assert scene.rbdgate("image", "resize", IMAGE, "--size", "1G")["size"] == GIB
        assert "it is not made smaller" in scene.try_rbdgate("image", "resize", IMAGE, "--size", "512M").stderr
        scene.run("ini1", "iscsiadm", "-m", "session", "-R")
        until("every path has the new size", lambda: sizes(scene, grown) == {GIB}, within=30)
        scene.run("ini1", "multipathd", "resize", "map", grown.device.removeprefix("/dev/mapper/"))
        assert int(scene.run("ini1", "blockdev", "--getsize64", grown.device)) == GIB
        assert sessions(scene, grown) == before
        writing.wait_acknowledged()
        writing.mark("resized")
        scene.run("ini1", "dd", "if=/dev/zero", f"of={grown.device}", "bs=1M", "count=1", "seek=900", "oflag=direct")
        scene.rbdgate("image", "move", IMAGE)
        until("both paths again", lambda: scene.paths_up(IMAGE) == 2, within=60)
        assert sizes(scene, grown) == {GIB}
        writing.wait_acknowledged()
        writing.stop()
        stall = writing.record(Interruption.GROWN, "resize", "resized")
        remember_stalls(writing, request)
        verdict = writing.verify()
    assert stall < STALL
    assert verdict["clean"], verdict


def test_a_stopped_disk_is_nowhere_until_it_is_started(
    scene: Scene, grown: Disk, request: pytest.FixtureRequest
) -> None:
    """Stopped, it is held by nobody and answers on no path; started, the writer goes on with nothing lost."""
    with written(scene, grown, request) as writing:
        writing.mark("stop")
        stopped = scene.rbdgate("image", "stop", IMAGE)
        assert (stopped["state"], stopped["holder"]) == ("stopped", None)
        until("no path is good", lambda: scene.paths_up(IMAGE) == 0, within=60)
        started = scene.rbdgate("image", "start", IMAGE)
        assert started["state"] == "serving"
        until("both paths again", lambda: scene.paths_up(IMAGE) == 2, within=60)
        writing.wait_acknowledged()
        writing.stop()
        remember_stalls(writing, request)
        verdict = writing.verify()
    assert verdict["clean"], verdict


def test_a_plan_tells_and_does_nothing(scene: Scene, grown: Disk) -> None:
    """A gateway at rest has nothing to do; one whose path was taken away by hand would bring it back, and says so."""
    holder = scene.holder(grown.image)
    scene.front = holder
    until("nothing to do", lambda: scene.rbdgate("plan")["steps"] == [], within=30)
    address = scene.image(grown.image)["paths"][0]["address"]
    scene.run(holder, "systemctl", "stop", "rbdgate-agent")
    try:
        scene.shell(holder, f"ip -br address | awk '$0 ~ / {address}\\// {{print $1}}' | cut -d@ -f1 > /tmp/interface")
        scene.shell(holder, f"ip address del {address}/32 dev $(cat /tmp/interface)")
        planned = scene.rbdgate("plan")["steps"]
    finally:
        scene.run(holder, "systemctl", "start", "rbdgate-agent")
    assert [(step["subject"], step["step"]) for step in planned] == [(grown.image, "OpenPath")]
    assert address in planned[0]["words"]
    scene.front = scene.gateways[0]
    scene.wait_serving(grown.image)
