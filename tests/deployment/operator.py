"""What an operator does with a site that runs: a disk for its initiator, and the checking writer on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.deployment.controller import Play
from tests.deployment.stage import POOL, Site
from tests.lab.making import ceph_of
from tests.lab_product.scene import wwid_of
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

IMAGE = f"{POOL}/disk1"
GATEWAYS = ("gw1", "gw2", "gw3")
INITIATOR = "ini1"
IQN = f"iqn.2026-11.io.rbdgate:{INITIATOR}"
USER, SECRET = "host1", "a-secret-of-host1"
TARGET_USER, TARGET_SECRET = "target1", "a-secret-of-target1"
VERSION = "0.1.0"
PLAYED_WITHIN = 1500.0  # seconds; a playbook's first run takes half of that where two processors are free for it
SERVED_WITHIN = 120.0
RATE = 50  # writes a second
# A session of the initiator's kernel, and of the target's: a renewed one has another number.
_SESSIONS = 'for s in /sys/class/iscsi_session/session*; do echo "${s##*/} $(cat $s/targetname) $(cat $s/tpgt)"; done'


@dataclass(frozen=True)
class Disk:
    """An image as its initiator has it: its target's name and its multipath device."""

    iqn: str
    device: str


def told(play: Play) -> str:
    """What a failed assertion shows of a play."""
    return play.output[-6000:]


def image(site: Site, node: str = "gw1") -> dict[str, Any]:
    """The image as a gateway prints it."""
    shown: dict[str, Any] = site.rbdgate("image", "show", IMAGE, node=node)
    return shown


def wait_served(site: Site, node: str = "gw1") -> dict[str, Any]:
    """The image once all its paths are up."""

    def served() -> dict[str, Any] | None:
        found = image(site, node)
        return found if found["state"] == "serving" else None

    return until(f"{IMAGE} is served", served, within=SERVED_WITHIN)


def live(site: Site, node: str = "gw1") -> set[str]:
    """The nodes that a gateway sees live."""
    return {each["name"] for each in site.rbdgate("node", "list", node=node) if each["live"]}


def create(site: Site) -> dict[str, Any]:
    """Make the image and let the initiator use it, each proving itself to the other; the image once it is served."""
    site.rbdgate("image", "create", IMAGE, "--size", "256M")
    site.rbdgate("initiator", "allow", IMAGE, IQN)
    kept = "/run/secret-of-the-target"
    site.lab.exec("gw1", "sh", "-c", f"umask 077; cat > {kept}", input=TARGET_SECRET + "\n")
    chap = ("initiator", "chap", "set", IQN, "--user", USER, "--secret-file", "/dev/stdin")
    mutual = ("--mutual-user", TARGET_USER, "--mutual-secret-file", kept)
    site.lab.exec("gw1", "rbdgate", *chap, *mutual, input=SECRET + "\n", timeout=120)
    return wait_served(site)


def log_in(site: Site, made: dict[str, Any]) -> Disk:
    """Have the role prepare the initiator and log in; the multipath device with every path."""
    portals = [f"{path['address']}:{path['port']}" for path in made["paths"]]
    site.vary(
        initiator_name=IQN,
        initiator_chap_user=USER,
        initiator_chap_secret=SECRET,
        initiator_chap_mutual_user=TARGET_USER,
        initiator_chap_mutual_secret=TARGET_SECRET,
        initiator_targets=[{"iqn": made["iqn"], "portals": portals}],
    )
    play = site.controller.play("site", "--limit", "initiators", within=PLAYED_WITHIN)
    assert play.status == 0, told(play)
    assert SECRET not in play.output
    assert TARGET_SECRET not in play.output
    wwid = wwid_of(str(made["serial"]))

    def device() -> str | None:
        said = site.lab.exec(INITIATOR, "multipathd", "show", "maps", "raw", "format", "%w %N", check=False).stdout
        return f"/dev/mapper/{wwid}" if f"{wwid} {len(portals)}" in said.splitlines() else None

    return Disk(made["iqn"], until(f"a multipath device {wwid} with {len(portals)} paths", device, within=60))


def sessions(site: Site) -> str:
    """The initiator's sessions as its kernel numbers them: unchanged if none was renewed."""
    said: str = site.lab.exec(INITIATOR, "sh", "-c", _SESSIONS).stdout
    assert said.strip()
    return said


def daemons(site: Site, *units: str) -> list[str]:
    """The pids of these units' processes on every gateway."""
    show = ("systemctl", "show", "--property=MainPID", "--value", *units)
    return [site.lab.exec(gateway, *show).stdout for gateway in GATEWAYS]


def certificates(site: Site) -> list[str]:
    """The serial numbers of every member's and every gateway's certificate."""
    files = ("/etc/rbdgate-etcd/member.crt", "/etc/rbdgate/etcd/client.crt")
    show = ("openssl", "x509", "-noout", "-serial", "-in")
    return [site.lab.exec(gateway, *show, file).stdout for gateway in GATEWAYS for file in files]


def leave_nothing(site: Site) -> None:
    """Have the initiator forget every target, and Ceph the image, which outlives the cluster that was uninstalled."""
    for words in (("iscsiadm", "-m", "node", "-u"), ("multipath", "-F"), ("iscsiadm", "-m", "node", "-o", "delete")):
        site.lab.exec(INITIATOR, *words, timeout=120, check=False)
    ceph = ceph_of(site.lab.places)
    pools = json.loads(ceph.commands({"prefix": "osd pool ls", "format": "json"})[0])
    pool, name = IMAGE.split("/")
    if pool in pools and name in ceph.rbd("ls", pool).split():
        ceph.rbd("rm", "--no-progress", IMAGE)


@contextmanager
def writer(site: Site, disk: Disk) -> Iterator[Writing]:
    """The checking writer on the disk; at the end it still writes, stops, and every block is read back and is right.

    It leaves the two processors room for the playbooks, which take minutes.
    """
    writing = Writing(site.lab, f"deploy-{int(time.time())}", disk.device, initiator=INITIATOR, rate=RATE)
    writing.wait_acknowledged()
    try:
        yield writing
        writing.wait_acknowledged()
    finally:  # the next test's writer must not find this one at work
        writing.stop()
    verdict = writing.verify()
    assert verdict["clean"], verdict
