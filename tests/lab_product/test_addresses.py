"""Portal addresses on real kernels: both families in one image, an address that others have, one that others claim."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.timers import ANNOUNCE_AGAIN
from tests.lab_product.bounds import IN_ORDER
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

pytestmark = pytest.mark.full

BOTH, FOREIGN = "rbd/both-families", "rbd/foreign-address"
SIX = "fd77:1::150"
STRANGER = "02:66:66:66:66:66"
QUICK = 3.0
"""Seconds in which a claim must have been answered, on nodes whose system calls cost 0.2 ms."""


@contextmanager
def image(scene: Scene, name: str, *addresses: str) -> Iterator[dict[str, Any]]:
    """An image with these NETWORK=ADDRESS as its paths, which the initiator may use; deleted in the end."""
    words = [word for address in addresses for word in ("--address", address)]
    scene.rbdgate("image", "create", name, "--size", "64M", "--paths", str(len(addresses)), *words, "--no-wait")
    try:
        scene.rbdgate("initiator", "allow", name, scene.initiator_name("ini1"))
        yield scene.image(name)
    finally:
        log_out(scene, scene.image(name)["iqn"])
        scene.rbdgate("image", "delete", name)


def log_out(scene: Scene, iqn: str) -> None:
    """End the initiator's sessions with a target, and forget it."""
    scene.shell(
        "ini1",
        f"multipath -F 2>/dev/null; iscsiadm -m node -T {iqn} --logout; iscsiadm -m node -T {iqn} -o delete; true",
        within=120,
    )


def path_of(scene: Scene, name: str, address: str) -> tuple[str, str]:
    """A path's state and reason."""
    return next((path["state"], path["reason"]) for path in scene.image(name)["paths"] if path["address"] == address)


def mac_of(scene: Scene, node: str) -> str:
    """The hardware address of a node's interface in storage-1."""
    return scene.shell(node, "cat /sys/class/net/storage-1/address").strip()


def neighbour(scene: Scene, address: str) -> str:
    """The MAC that the initiator has for an address; empty if none."""
    words = scene.shell("ini1", f"ip neigh show {address} dev storage-1").split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


@pytest.mark.parametrize("address", ["10.77.1.160", "fd77:1::160"])
def test_an_address_that_others_have_is_not_exported(scene: Scene, address: str) -> None:
    """The path stays down and names the owner, the other path is served; freed, it goes up by itself."""
    network, prefix = ("storage-1", 32) if "." in address else ("six", 128)
    owner = mac_of(scene, "ini1")
    scene.shell("ini1", f"ip address add {address}/{prefix} dev storage-1 nodad")
    try:
        with image(scene, FOREIGN, f"{network}={address}", "storage-2=10.77.2.160"):
            reason = until(
                "the path's reason", lambda: re.search("in use by", path_of(scene, FOREIGN, address)[1]), within=60
            ).string
            assert owner in reason
            assert network in reason
            until("the other path", lambda: path_of(scene, FOREIGN, "10.77.2.160")[0] == "up", within=60)
            for_seconds(5)
            assert path_of(scene, FOREIGN, address) == ("down", reason)
            for node in scene.gateways:
                assert f"{address}/" not in scene.shell(node, "ip -o address show dev storage-1")
            scene.shell("ini1", f"ip address del {address}/{prefix} dev storage-1")
            scene.wait_serving(FOREIGN)
    finally:
        scene.shell("ini1", f"ip address del {address}/{prefix} dev storage-1 2>/dev/null; true")


def test_both_families_serve_one_image_through_a_move(scene: Scene) -> None:
    """Discovery and login over IPv4 and over IPv6, one disk of two paths, and no block lost when it moves."""
    with image(scene, BOTH, "storage-1=10.77.1.150", f"six={SIX}"):
        scene.wait_serving(BOTH)
        listed = scene.run("ini1", "iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", f"[{SIX}]:3260")
        assert f"[{SIX}]:3260,2 " in listed
        assert "10.77.1.150:3260,1 " in listed
        disk = scene.log_in(BOTH)
        write = Writing(scene.lab, "families", disk.device)
        write.wait_acknowledged()
        here = scene.holder(BOTH)
        write.mark("move")
        there = next(node for node in scene.gateways if node != here)
        scene.rbdgate("image", "move", BOTH, "--to", there)
        scene.wait_serving(BOTH, by=there)
        until("both paths", lambda: scene.paths_up(BOTH) == 2, within=60)
        write.wait_acknowledged()
        write.stop()
        verdict = write.verify()
        assert verdict["clean"], verdict
        assert write.stall("move").seconds < IN_ORDER
        assert not uncut_meanwhile(scene, here), "a cut that must stay a while keeps the node busy"
        let_die(scene, here)
        took = [line for line in opened(scene, there) if line["image"] == BOTH]
        assert [line["step"] for line in took if line["step"] == "OpenPath"] == ["OpenPath"] * 2
        assert all(line["seconds"] < 1.0 for line in took if line["step"] == "OpenPath"), (
            "a takeover waited for a probe"
        )


def uncut_meanwhile(scene: Scene, node: str) -> list[str]:
    """How often a node lifts cuts in three turns: the dying IPv6 connection is held back for minutes."""
    began = scene.run(node, "date", "+%s").strip()
    for_seconds(16)
    journal = scene.run(node, "journalctl", "--unit=rbdgate-agent", f"--since=@{began}", "--output=cat")
    lifted = [line for line in journal.splitlines() if "step=Uncut" in line]
    return lifted if len(lifted) > 1 else []


def let_die(scene: Scene, node: str) -> None:
    """Have the kernel give up soon what lingers behind cuts, and wait until the agent has lifted them."""
    scene.run(node, "sysctl", "-q", "-w", "net.ipv4.tcp_orphan_retries=1")
    until("no cut", lambda: "blackhole" not in scene.run(node, "ip", "-6", "rule"), within=120)
    scene.run(node, "sysctl", "-q", "-w", "net.ipv4.tcp_orphan_retries=0")


def opened(scene: Scene, node: str) -> list[dict[str, Any]]:
    """The steps that a node's agent has logged."""
    found = []
    for line in scene.run(node, "journalctl", "--unit=rbdgate-agent", "--output=cat").splitlines():
        words = dict(re.findall(r"(\w+)=('[^']*'|\S+)", line))
        if words.get("event") == "step" and "image" in words and "seconds" in words:
            found.append({"image": words["image"], "step": words["step"], "seconds": float(words["seconds"])})
    return found


@pytest.mark.parametrize("address", ["10.77.1.170", "fd77:1::170"])
def test_an_address_that_others_claim_comes_back(scene: Scene, address: str) -> None:
    """A stranger announces a portal's address: the initiator's table is back at the holder soon, and it is logged."""
    network = "storage-1" if "." in address else "six"
    with image(scene, FOREIGN, f"{network}={address}"):
        scene.wait_serving(FOREIGN)
        for_seconds(ANNOUNCE_AGAIN[-1] + 2)  # or one of the repeated announcements would be taken for the answer
        holder = scene.holder(FOREIGN)
        portal = f"[{address}]:3260" if ":" in address else f"{address}:3260"
        scene.run("ini1", "iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal)
        assert neighbour(scene, address) == mac_of(scene, holder)
        scene.put("ini1", "/tmp/monitor", b"timeout 20 ip -ts monitor neigh > /tmp/monitor.txt 2>&1\n")
        scene.shell("ini1", "setsid sh /tmp/monitor </dev/null >/dev/null 2>&1 &")
        until("the monitor", lambda: scene.shell("ini1", "pgrep -x ip; true").strip(), within=20)
        announce_from_host(scene, address)
        mac = mac_of(scene, holder)
        claimed, answered = until("the holder's answer", lambda: back(scene, address, mac), within=20)
        assert answered - claimed < QUICK
        said = scene.run(holder, "journalctl", "--unit=rbdgate-agent", "--output=cat")
        assert [line for line in said.splitlines() if "claimed by a stranger" in line and STRANGER in line]
        assert scene.image(FOREIGN)["state"] == "serving"


def back(scene: Scene, address: str, mac: str) -> tuple[float, float] | None:
    """When the initiator's table had the stranger's MAC, and when the holder's again; None if not both yet."""
    claimed = None
    for line in scene.shell("ini1", "cat /tmp/monitor.txt").splitlines():
        found = re.match(rf"\[.*T(\d+):(\d+):([\d.]+)\] {re.escape(address)} .*lladdr (\S+)", line)
        if found is None:
            continue
        seconds = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
        if found[4] == STRANGER and claimed is None:
            claimed = seconds
        if found[4] == mac and claimed is not None:
            return claimed, seconds
    return None


ANNOUNCE = """
import ipaddress, json, socket, sys
from gateway.network.announcement import frames
address, mac = json.load(sys.stdin)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
    wire.bind(("storage-1", 0))
    for frame in frames(bytes.fromhex(mac.replace(":", "")), ipaddress.ip_address(address)):
        wire.send(frame)
"""


def announce_from_host(scene: Scene, address: str) -> None:
    """Announce the address for a machine that is none of the cluster's, on the switch of storage-1."""
    enter = ["nsenter", f"--net=/run/netns/{scene.lab.places.netns}"]
    subprocess.run(
        [*enter, sys.executable, "-c", ANNOUNCE],
        input=json.dumps([address, STRANGER]),
        text=True,
        check=True,
        timeout=30,
    )
