"""The real kernel and the real Ceph under the scenarios that the fakes are held to (tests/unit/test_node_acts.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.node_acts_seen import SEEN

if TYPE_CHECKING:  # the plugin below imports it, and pytest wants to be the first
    from tests.lab.bare import Rooms

pytest_plugins = ("tests.lab.bare",)

PLACE = "/run/acts-test"
ACTS = Path(__file__).resolve().parents[1] / "contract/node_acts.py"

BENCH = f"""
import pathlib
from gateway.errors import AlreadyExists
from gateway.images.cluster import CephConnection
from gateway.images.image import create_anchor, create_image, describe_image
from gateway.kernel import NodeKernel
from gateway.runtime import RuntimeDirectory
from gateway.storage import CephStorage
from gateway.timers import Timers
here = pathlib.Path("{PLACE}")

class RealBench:
    def __init__(self):
        self.c, d = (CephConnection(here / "ceph.conf", "actstest", here / "keyring", op_timeout=10) for _ in "ab")
        self.storage, self.other = CephStorage(self.c, Label("gw1")), CephStorage(d, Label("gw2"))
        self.kernel = NodeKernel(RuntimeDirectory(here), Timers(), client=lambda: self.storage.kernel_client)
        self.specs = {{}}
        create_anchor(self.c, "rbd")
        self.look()

    def image(self, number):
        name = ImageName("rbd", f"acts{{number}}")
        try:
            image_id = create_image(self.c, name, 16 << 20)
        except AlreadyExists:
            image_id = describe_image(self.c, name).image_id
        self.specs[name] = ImageSpec(
            name, f"{{number:016x}}", image_id, 16 << 20,
            Identity(Iqn(f"iqn.2026-11.io.rbdgate:acts{{number}}"), f"{{number:032x}}"),
            tuple(Path(tag, A(f"10.77.{{tag}}.10{{number}}"), Label(f"storage-{{tag}}")) for tag in (1, 2)),
            attributes=DeviceAttributes(emulate_pr=0),  # no guard catches changes of reservations here
        )
        self.look()
        return self.specs[name]

    def look(self):
        ranges = (f"storage-{{n}}=10.77.{{n}}.0/24,10.77.{{n}}.100-10.77.{{n}}.199" for n in (1, 2))
        networks = tuple(map(Network.parse, ranges))
        settings = ClusterSettings(self.c.fsid, networks, "rbd")
        return self.kernel.observe(ClusterView(1, settings, self.specs, {{}}, {{}}, {{}}, {{}}, {{}}, (), {{}}, {{}}))

    def write(self, mapping):
        try:
            with open(mapping.dev_path, "r+b", buffering=0) as disk:
                disk.write(b"a" * 4096)
                os.fsync(disk.fileno())
        except OSError:
            return "refused"
        return "done"

    def blocklisted(self):
        return self.storage.blocklisted()

def clean(bench):
    kernel = bench.look()
    bench.kernel.cut(frozenset(kernel.addresses))
    bench.kernel.remove_addresses(frozenset(kernel.addresses))
    for device in kernel.devices:
        iqns = frozenset(t.iqn for t in kernel.targets for g in t.tpgs if g.device == device.name)
        bench.kernel.teardown(device.name.uid, iqns)
    for mapping in sorted(kernel.mappings, key=lambda m: m.read_only):
        bench.kernel.unmap(mapping.number)
    bench.kernel.uncut(bench.look().cuts)
"""


@pytest.fixture
def gw(rooms: Rooms) -> Iterator[Rooms]:
    """gw1 with a user of no more than `profile rbd`."""
    from tests.lab.making import ceph_of  # noqa: PLC0415 - after the plugin, which pytest wants to import itself

    ceph = ceph_of(rooms.lab.places)
    keyring = ceph.add_user("actstest", "profile rbd", "profile rbd pool=rbd, profile rbd pool=rbd2")
    rooms.sh("gw1", f"mkdir -p -m 0700 {PLACE}; modprobe -a rbd target_core_mod iscsi_target_mod")
    rooms.lab.put("gw1", ceph.conf, f"{PLACE}/ceph.conf")
    rooms.lab.put("gw1", keyring, f"{PLACE}/keyring")
    try:
        yield rooms
    finally:
        rooms.python("gw1", BENCH, "clean(RealBench())")


@pytest.mark.parametrize("name", SEEN)
def test_the_real_ones_say_what_was_seen(gw: Rooms, name: str) -> None:
    """Each scenario ends as it is recorded, so the fakes that are held to the record act as the real ones do."""
    acts = ACTS.read_text().replace("from __future__ import annotations\n", "")
    (said,) = gw.python("gw1", acts, BENCH, f"say({name}(RealBench()))", timeout=120)
    assert said == SEEN[name]
