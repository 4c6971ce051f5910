"""What the doctor says on a real gateway: nothing is wrong there, and each thing that is made wrong it names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until

KEYRING = "/etc/ceph/ceph.client.rbdgate.keyring"
RULE = "/etc/udev/rules.d/59-rbdgate.rules"
MARKED = "10.77.1.198"  # in the portals' range, of no image here
ADD = (
    "from ipaddress import ip_address; from gateway.network import add_address;"
    f" add_address('storage-1', ip_address('{MARKED}'))"
)
LAB_ONLY = ("clock is not synchronised", "to write its log", "run different versions", "may end all of them at once")
"""Warnings that are true in the lab: nobody disciplines its clocks, etcd's disk is whatever the host has, and etcd is
Debian 12's; a test before these has upgraded one gateway."""


def findings(scene: Scene, node: str, *options: str) -> tuple[int, list[dict[str, str]]]:
    """The command's exit status and its findings."""
    done = scene.lab.exec(node, "rbdgate", "doctor", "--json", *options, timeout=90, check=False)
    assert not done.stderr, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return done.returncode, found


def bad(scene: Scene, node: str, *options: str) -> list[str]:
    """What is an error or a warning, as `severity: text`, without what is true of any lab."""
    status, found = findings(scene, node, *options)
    assert (status == 1) == any(one["severity"] == "error" for one in found)
    assert all(one["what_to_do"] for one in found if one["severity"] != "ok")
    told = [f"{one['severity']}: {one['text']}" for one in found if one["severity"] != "ok"]
    return [text for text in told if not any(words in text for words in LAB_ONLY)]


def fine(scene: Scene, node: str) -> bool:
    """Whether nothing is wrong; what is, is told to whoever reads why a test gave up."""
    found = bad(scene, node)
    sys.stdout.write(f"{node}: {found}\n")
    return not found


def idle(scene: Scene, disk: Disk) -> str:
    """A gateway that does not hold the disk."""
    holder = scene.holder(disk.image)
    return next(node for node in reversed(scene.gateways) if node != holder)


@contextmanager
def changed(scene: Scene, node: str, change: str, back: str) -> Iterator[None]:
    """A node with something changed by a line of shell, and changed back."""
    try:
        scene.shell(node, change)
        yield
    finally:
        scene.shell(node, back)


def test_a_healthy_gateway(scene: Scene, disk: Disk) -> None:
    """On the holder and on another gateway of a cluster that serves there is no error, and no warning but the lab's."""
    for node in (scene.holder(disk.image), idle(scene, disk)):
        until(f"nothing is wrong on {node}", partial(fine, scene, node), within=60)
        told = {one["subject"] for one in findings(scene, node)[1]}
        assert {"kernel", "disks", "services", "etcd", "ceph", "networks", "leftovers", "gateways"} <= told


def test_a_keyring_that_others_may_read(scene: Scene, disk: Disk) -> None:
    """A keyring with mode 644 is an error, and the key is in nothing that is printed."""
    node = idle(scene, disk)
    key = scene.shell(node, f"sed -n 's/.*key = //p' {KEYRING}").strip()
    with changed(scene, node, f"chmod 644 {KEYRING}", f"chmod 600 {KEYRING}"):
        assert bad(scene, node, "--only", "ceph")[0].startswith(f"error: {KEYRING} has mode 0644")
        assert key
        assert key not in scene.run(node, "rbdgate", "doctor", check=False)
    assert bad(scene, node, "--only", "ceph") == []


def followers(scene: Scene) -> str:
    """What the doctor says of the members that do not lead: with the leader gone the others would know none."""
    told = [one["text"] for one in findings(scene, scene.front, "--only", "etcd")[1]]
    return "\n".join(text for text in told if ", a follower" in text)


def test_a_stopped_member_of_etcd(scene: Scene, disk: Disk) -> None:
    """A member that is frozen is an error, and that no other may go a warning; the rest of etcd is judged."""
    follower = next(n for n in (1, 2, 3) if f"10.77.0.1{n}:2379 answers" in followers(scene))
    scene.lab.etcd(follower).stop()
    try:
        told = bad(scene, scene.front, "--only", "etcd")
        assert told[0].startswith(f"error: 10.77.0.1{follower}:2379 does not answer")
        assert any("2 of 3 members answer: when one more goes" in text for text in told)
    finally:
        scene.lab.etcd(follower).cont()
    until("etcd is whole again", lambda: not bad(scene, scene.front, "--only", "etcd"), within=30)


def test_a_leftover_address(scene: Scene, disk: Disk) -> None:
    """An address with our mark that belongs to nothing held here is an error while the agent does not take it off."""
    node = idle(scene, disk)
    agent = "systemctl kill --kill-who=main --signal={} rbdgate-agent"
    with changed(
        scene,
        node,
        f'{agent.format("STOP")}; /opt/rbdgate/bin/python -c "{ADD}"',
        f"ip address del {MARKED}/32 dev storage-1 2>/dev/null; {agent.format('CONT')}",
    ):
        told = bad(scene, node, "--only", "leftovers")
        assert any(text.startswith(f"error: the portal address {MARKED} is on this node") for text in told), told
    until("nothing is left", lambda: not bad(scene, node, "--only", "leftovers"), within=30)


def test_multipath_that_takes_rbd(scene: Scene, disk: Disk) -> None:
    """A multipath configuration with an exception for RBD devices is told, as Debian's `multipath` understands it."""
    node, file = idle(scene, disk), "/etc/multipath/conf.d/z.conf"
    exception = 'blacklist_exceptions {\\n devnode "^rbd"\\n}\\n'
    with changed(scene, node, f"printf '{exception}' > {file}", f"rm {file}"):
        (told,) = bad(scene, node, "--only", "disks")
        assert told.startswith("warning: multipath is installed (multipathd does not run)")


@pytest.fixture
def file_system(scene: Scene, tmp_path: Path) -> Iterator[str]:
    """An image with a guest's ext4 on it, served by `gw1`."""
    content, name = tmp_path / "ext4", "rbd/doctor"
    with content.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", str(content)], check=True, timeout=60)
    scene.rbd("import", "--image-feature", "layering,exclusive-lock", str(content), name)
    scene.rbdgate("image", "adopt", name, "--paths", "1")
    yield name
    scene.rbdgate("image", "delete", name)


def test_udev_leaves_a_guests_file_system_alone(scene: Scene, disk: Disk, file_system: str) -> None:
    """udev as newer systemd has it (it probes RBD devices) learns nothing of a guest's disk while our rule is there;
    without the rule it does, and the doctor says that the rule is missing."""
    holder = scene.holder(file_system)
    probing = "/etc/udev/rules.d/60-persistent-storage.rules"
    again = "udevadm control --reload; udevadm trigger --settle --action=change -s block"
    look = "for d in /sys/block/rbd*; do udevadm info $d; done"
    scene.shell(holder, f"sed 's/nbd\\*|zd\\*/nbd*|rbd*|zd*/' /lib{probing[4:]} > {probing}; {again}")
    try:
        seen = scene.shell(holder, look)
        assert "RBDGATE_GUEST=1" in seen
        assert "ID_FS_UUID=" not in seen
        assert bad(scene, holder, "--only", "disks") == []
        with changed(scene, holder, f"mv {RULE} /root/rule; {again}", f"mv /root/rule {RULE}; {again}"):
            assert "ID_FS_UUID=" in scene.shell(holder, look)
            assert bad(scene, holder, "--only", "disks")[0].startswith("error: the udev rule 59-rbdgate.rules is not")
        assert "ID_FS_UUID=" not in scene.shell(holder, look)
    finally:
        scene.shell(holder, f"rm {probing}; {again}")


def test_before_there_is_a_cluster(scene: Scene, disk: Disk) -> None:
    """Under a prefix where nothing was initialised there is no error about etcd, and what to do is `cluster init`."""
    node, file = idle(scene, disk), "/run/other.toml"
    settings = "sed 's|^endpoints|prefix = \"/other/\"\\nendpoints|' /etc/rbdgate/rbdgate.toml"
    with changed(scene, node, f"{settings} > {file}", f"rm {file}"):
        told = bad(scene, node, "--settings", file, "--only", "etcd", "--only", "ceph", "--only", "networks")
        assert any("run `rbdgate cluster init`" in text for text in told), told
        assert not any(text.startswith("error") for text in told), told


def test_as_nobody(scene: Scene, disk: Disk) -> None:
    """Without root's rights the doctor says what it could not look at, and calls none of that an error."""
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "rbdgate", "doctor", "--json")
    done = scene.lab.exec(idle(scene, disk), *words, timeout=90, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["errors"]) == (0, 0), told
    assert any("only root may read" in one["text"] for one in told["findings"])
