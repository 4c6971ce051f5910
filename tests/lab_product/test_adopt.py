"""A disk moves here from another gateway, and back: its initiator knows it again, and finds its data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab_product.scene import Refused, Scene, wwid_of
from tests.lab_product.waiting import until

IMAGE = "rbd/veteran"
IQN = "iqn.2003-01.com.example.elsewhere:veteran"
SERIAL = "a7f60b92-4f1f-4b93-9b4c-2d1e0f5c7a31"
VENDOR, PRODUCT = "LIO-ORG", "TCMU device"
PORTALS = ("10.77.1.150", "10.77.2.150")
FEATURES = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
"""What ceph-iscsi makes its images with."""

MAP = r"""
import re, sys
from pathlib import Path
from gateway.images.cephx import lent_to_kernel, read_keyring
key = read_keyring(Path("/etc/ceph/ceph.client.rbdgate.keyring"), "client.rbdgate")
monitor = re.search(r"[0-9.]+:6789", Path("/etc/ceph/ceph.conf").read_text())[0]
with lent_to_kernel(key, "another-gateway") as name:
    words = f"{monitor} name=rbdgate,key={name} {sys.argv[1].replace('/', ' ')} -"
    Path("/sys/bus/rbd/add_single_major").write_text(words)
"""
"""A map as another product does it: with a kernel client of its own, and nothing that marks it as rbdgate's."""

EXPORT = f"""
set -e
number=$(grep -lx veteran /sys/bus/rbd/devices/*/name | cut -d/ -f6)
core=/sys/kernel/config/target/core/iblock_77/veteran
target=/sys/kernel/config/target/iscsi/{IQN}
mkdir -p $core
echo udev_path=/dev/rbd$number > $core/control
echo 1 > $core/enable
echo '{VENDOR}' > $core/wwn/vendor_id
echo '{PRODUCT}' > $core/wwn/product_id
echo {SERIAL} > $core/wwn/vpd_unit_serial
tag=0
for portal in {" ".join(PORTALS)}; do
    tag=$((tag + 1)); tpg=$target/tpgt_$tag
    mkdir -p $tpg/lun/lun_0
    ln -s $core $tpg/lun/lun_0/device
    echo 0 > $tpg/attrib/authentication
    mkdir -p $tpg/acls/$INITIATOR/lun_0
    ln -s $tpg/lun/lun_0 $tpg/acls/$INITIATOR/lun_0/lun
    mkdir $tpg/np/$portal:3260
    ip address add $portal/24 dev storage-$tag
    echo 1 > $tpg/enable
done
"""

WITHDRAW = f"""
target=/sys/kernel/config/target/iscsi/{IQN}
tag=0
for portal in {" ".join(PORTALS)}; do
    tag=$((tag + 1)); tpg=$target/tpgt_$tag
    ip address del $portal/24 dev storage-$tag
    echo 0 > $tpg/enable
    rmdir $tpg/np/*
    rm $tpg/acls/*/lun_0/lun; rmdir $tpg/acls/*/lun_0 $tpg/acls/*
    rm $tpg/lun/lun_0/device; rmdir $tpg/lun/lun_0 $tpg
done
rmdir $target /sys/kernel/config/target/core/iblock_77/veteran /sys/kernel/config/target/core/iblock_77
grep -lx veteran /sys/bus/rbd/devices/*/name | cut -d/ -f6 > /sys/bus/rbd/remove_single_major
"""


LOOK = (
    "sg_inq /dev/{0}; sg_vpd -p di /dev/{0};"
    " session=$(readlink -f /sys/block/{0}/device | sed 's,.*/session\\([0-9]*\\)/.*,\\1,');"
    ' echo "portal $(cat /sys/class/iscsi_connection/connection$session:0/persistent_address)"'
)
SHOWN = {
    "vendor": r"Vendor identification: (.*?)\s*$",
    "product": r"Product identification: (.*?)\s*$",
    "serial": r"Unit serial number: (\S+)",
    "naa": r"0x(6001405[0-9a-f]{25})",
    "path": rf"(?:{re.escape(IQN)},t,|^portal )(0x[0-9a-f]+|[0-9.]+)",
}


@dataclass(frozen=True)
class Elsewhere:
    """Another product's gateway: a target of LIO made by hand beside rbdgate's, on the last of the lab's gateways."""

    scene: Scene

    @property
    def node(self) -> str:
        """The machine it is on."""
        return self.scene.gateways[-1]

    def serve(self) -> None:
        """Map the image and export it at both portals."""
        self.scene.run(self.node, "/opt/rbdgate/bin/python", "-c", MAP, IMAGE)
        initiator = self.scene.initiator_name("ini1")
        self.scene.shell(self.node, f"INITIATOR={initiator}; {EXPORT}")
        self.scene.run("ini1", "ip", "neigh", "flush", "all")  # it announces nothing, unlike rbdgate

    def withdraw(self) -> None:
        """Leave nothing of it; what is not there is fine."""
        self.scene.shell(self.node, f"{WITHDRAW} exec 2>/dev/null; true", check=False)


@pytest.fixture(name="elsewhere")
def _elsewhere(scene: Scene) -> Iterator[Elsewhere]:
    """An image that another product's gateway serves, and an initiator that discovered it there."""
    elsewhere = Elsewhere(scene)
    scene.rbd("create", IMAGE, "--size", "64M", "--image-feature", FEATURES)
    elsewhere.serve()
    scene.run("ini1", "iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", PORTALS[0], "-o", "new")
    yield elsewhere
    log_out(scene)
    scene.run("ini1", "iscsiadm", "-m", "node", "-T", IQN, "-o", "delete", check=False)
    elsewhere.withdraw()
    if any(image["name"] == IMAGE for image in scene.rbdgate("image", "list")):
        scene.rbdgate("image", "delete", IMAGE, "--keep")
    scene.rbd("rm", "--no-progress", IMAGE)


def log_in(scene: Scene) -> str:
    """Log in by the records that are there, without a discovery; the multipath device with both paths."""
    scene.run("ini1", "iscsiadm", "-m", "node", "-T", IQN, "--login")
    wwid = wwid_of(SERIAL)

    def complete() -> bool:
        maps = scene.run("ini1", "multipathd", "show", "maps", "raw", "format", "%w %N", check=False)
        return [wwid, "2"] in [line.split() for line in maps.splitlines()]

    device = f"/dev/mapper/{wwid}"
    until(f"a multipath device {wwid} with 2 paths", complete, within=30)
    # Its node comes after the map; what is written before is a file of that name.
    until(f"{device} is a disk", lambda: scene.shell("ini1", f"test -b {device} && echo yes", check=False), within=30)
    return device


def log_out(scene: Scene) -> None:
    """End the sessions; the multipath device goes first."""
    scene.run("ini1", "multipath", "-f", wwid_of(SERIAL), check=False)
    scene.run("ini1", "iscsiadm", "-m", "node", "-T", IQN, "--logout", check=False)


def known_by(scene: Scene) -> dict[str, set[str]]:
    """What the initiator knows the disk by, over all its paths: INQUIRY's words, serial, NAA, tag and portal."""
    paths = scene.run("ini1", "multipathd", "show", "paths", "raw", "format", "%d %w").splitlines()
    disks = [line.split()[0] for line in paths if line.split()[1:] == [wwid_of(SERIAL)]]
    assert len(disks) == 2, paths
    known: dict[str, set[str]] = {}
    for disk in disks:
        said = scene.shell("ini1", LOOK.format(disk))
        for what, pattern in SHOWN.items():
            known.setdefault(what, set()).add(" ".join(dict.fromkeys(re.findall(pattern, said, re.MULTILINE))))
    return known


def checksum(scene: Scene, device: str) -> str:
    """The checksum of the first MiB of the disk, read from the target."""
    return scene.shell("ini1", f"dd if={device} bs=1M count=1 iflag=direct 2>/dev/null | sha256sum").split()[0]


def adopt(scene: Scene) -> None:
    """Serve the image here as what it was elsewhere."""
    paths = [word for tag, address in enumerate(PORTALS, 1) for word in ("--path", f"{tag}={address}")]
    identity = ["--iqn", IQN, "--serial", SERIAL, "--vendor", VENDOR, "--product", PRODUCT]
    scene.rbdgate("image", "adopt", IMAGE, *identity, *paths)
    scene.rbdgate("initiator", "allow", IMAGE, scene.initiator_name("ini1"))
    scene.wait_serving(IMAGE)


@pytest.mark.full
def test_a_disk_moves_here_and_back(scene: Scene, elsewhere: Elsewhere) -> None:
    """Name, serial, NAA, vendor, product, tags, portals and data are the same here, and there again afterwards."""
    device = log_in(scene)
    scene.shell("ini1", f"dd if=/dev/urandom of={device} bs=1M count=1 oflag=direct 2>/dev/null")
    before, data = known_by(scene), checksum(scene, device)
    assert before == {
        "vendor": {VENDOR},
        "product": {PRODUCT},
        "serial": {SERIAL},
        "naa": {wwid_of(SERIAL)[1:]},
        "path": {f"0x0001 {PORTALS[0]}", f"0x0002 {PORTALS[1]}"},
    }

    with pytest.raises(Refused, match="it is open at"):
        adopt(scene)
    log_out(scene)
    elsewhere.withdraw()
    adopt(scene)
    device = log_in(scene)
    assert known_by(scene) == before
    assert checksum(scene, device) == data

    scene.shell("ini1", f"dd if=/dev/urandom of={device} bs=1M count=1 oflag=direct 2>/dev/null")
    data = checksum(scene, device)
    log_out(scene)
    scene.rbdgate("image", "delete", IMAGE, "--keep")
    elsewhere.serve()
    device = log_in(scene)
    assert known_by(scene) == before
    assert checksum(scene, device) == data
