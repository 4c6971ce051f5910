"""Gateways that vanish, one and two at a time, and come back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.lab_product.bounds import AFTER_LEASE
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import PREFIX, Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

PUBLISHED_WITHIN = 20.0  # seconds from a login to its ports in etcd: the holder looks once a turn
AT_ONCE = 2.0  # seconds from a nudge to the end of the connection: two packets in each direction, on busy nodes


@dataclass(frozen=True, order=True)
class Connection:
    """One of the initiator's TCP connections to a portal of the disk."""

    portal: str
    peer: str
    port: int


def published(scene: Scene, disk: Disk) -> set[Connection]:
    """The connections to the image's holder that etcd has."""
    found = scene.etcd.etcdctl(
        "get", "--print-value-only", f"{PREFIX}connections/{scene.spec(disk.image)['uid']}"
    ).stdout
    entries = [entry.split() for entry in json.loads(found)["connections"]] if found else []
    return {Connection(portal, peer, int(port)) for portal, _, peer, port in entries}


def connected(scene: Scene, disk: Disk) -> set[Connection]:
    """The connections to the image's portals that the initiator's kernel has."""
    portals = {path["address"] for path in scene.spec(disk.image)["paths"]}
    said = scene.run("ini1", "ss", "-Htn", "state", "established", "( dport = :3260 )")
    ends = [[end.rpartition(":") for end in line.split()[2:4]] for line in said.splitlines()]
    return {Connection(far[0], near[0], int(near[2])) for near, far in ends if far[0] in portals}


@contextmanager
def packets_told(scene: Scene, connections: set[Connection]) -> Iterator[None]:
    """Have the initiator's kernel log what these connections get: bare acknowledgements, and resets from either end."""
    for each in connections:
        there = f"-p tcp -s {each.portal} --sport 3260 -d {each.peer} --dport {each.port}"
        back = f"-p tcp -d {each.portal} --dport 3260 -s {each.peer} --sport {each.port}"
        only_ack, reset = "--tcp-flags SYN,FIN,RST,ACK ACK", "--tcp-flags RST RST"
        for word, chain, rule in (
            ("nudged", "INPUT", f"{there} {only_ack}"),
            ("reset", "INPUT", f"{there} {reset}"),
            ("reset", "OUTPUT", f"{back} {reset}"),
        ):
            log = f"-j LOG --log-level debug --log-prefix '{word} {each.portal} {each.port} '"
            scene.shell("ini1", f"iptables-legacy -A {chain} {rule} {log}")
    try:
        yield
    finally:
        scene.shell("ini1", "iptables-legacy -F INPUT; iptables-legacy -F OUTPUT")


def first_told(lines: list[str], word: str, connection: Connection) -> float | None:
    """When the initiator's kernel first logged that of the connection, in seconds of its own clock."""
    wanted = re.compile(rf"^\[ *([\d.]+)\] {word} {re.escape(connection.portal)} {connection.port} ")
    return next((float(found[1]) for line in lines if (found := wanted.match(line))), None)


@pytest.mark.writer(lanes=2)
def test_a_power_cut_of_the_holder_loses_nothing(scene: Scene, disk: Disk, write: Writing) -> None:
    """Another gateway takes over after one lease and nudges the initiator on its old connections, which ends them at
    once; the former holder cleans up and serves again when it is back."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    connections = connected(scene, disk)
    assert len(connections) == len(scene.spec(disk.image)["paths"])
    until("etcd has them", lambda: published(scene, disk) == connections, within=PUBLISHED_WITHIN)
    lines = len(scene.kernel_log("ini1"))
    write.mark("crash")
    scene.lab.crash(holder)
    with packets_told(scene, connections):
        scene.wait_taken_over(disk.image, holder)
        write.wait_acknowledged()
    write.mark("back")
    told = scene.kernel_log("ini1", lines)
    for each in connections:
        nudged, reset = first_told(told, "nudged", each), first_told(told, "reset", each)
        assert nudged is not None, f"nobody nudged {each}"
        assert reset is not None, f"{each} was never reset"
        assert reset < nudged + AT_ONCE, each
    scene.lab.boot(holder)
    until(f"{holder} is live", lambda: scene.rbdgate("node", "show", holder)["live"], within=90)
    scene.rbdgate("image", "move", disk.image, "--to", holder)
    scene.wait_serving(disk.image, by=holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.POWER_CUT, "crash", "back") < AFTER_LEASE


@pytest.mark.full
@pytest.mark.writer(lanes=2)
def test_two_nodes_cut_off_at_once(scene: Scene, disk: Disk, write: Writing) -> None:
    """With the holder and another node cut off from everything the third serves; healed, they clean up and serve."""
    holder = scene.holder(disk.image)
    other, third = (node for node in scene.gateways if node != holder)
    scene.front = third
    write.mark("cut")
    scene.lab.cut(holder, "all")
    scene.lab.cut(other, "all")
    scene.wait_serving(disk.image, by=third)
    write.wait_acknowledged()
    for node in (holder, other):
        scene.lab.heal(node)
    until("both are live again", lambda: all(n["live"] for n in scene.rbdgate("node", "list")), within=120)
    until("they hold nothing of it", lambda: clean(scene, (holder, other), disk), within=60)
    scene.rbdgate("image", "move", disk.image, "--to", holder)
    scene.wait_serving(disk.image, by=holder)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict


@pytest.mark.full
@pytest.mark.writer(lanes=2)
def test_two_nodes_lose_power_at_once(scene: Scene, disk: Disk, write: Writing) -> None:
    """With the holder and another node off, the third serves alone; nothing acknowledged is lost."""
    holder = scene.holder(disk.image)
    other, third = (node for node in scene.gateways if node != holder)
    scene.front = third
    write.mark("crash")
    scene.lab.crash(holder)
    scene.lab.crash(other)
    scene.wait_serving(disk.image, by=third)
    write.wait_acknowledged()
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    assert write.record(Interruption.POWER_CUT_OF_TWO, "crash") < AFTER_LEASE


def clean(scene: Scene, nodes: tuple[str, ...], disk: Disk) -> bool:
    """Whether none of the nodes has a target of the disk left."""
    looks = [scene.shell(node, "ls /sys/kernel/config/target/iscsi; echo looked", check=False) for node in nodes]
    return all("looked" in look and disk.iqn not in look for look in looks)
