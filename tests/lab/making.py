"""How a lab comes to be, in order: tree, wires, etcd and Ceph and the checkout's code, disks, nodes, cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import package, tree
from tests.lab.ceph import CephCluster
from tests.lab.etcd import EtcdCluster
from tests.lab.furnish import CEPH_USER, CephAccess, furnish
from tests.lab.host import run
from tests.lab.layout import (
    ETCD_ADDRESSES,
    MON_ADDRESS,
    OSD_ADDRESSES,
    PORTAL_RANGES,
    LabError,
    Node,
    Places,
    Role,
)
from tests.lab.machine import Machine
from tests.lab.networks import Wires
from tests.lab.shape import Shape, read_shape
from tests.lab.ssh import Door, make_keys

POOLS = {"rbd": 0, "rbd2": 1}  # each on an OSD of its own
MON_CAPS = "profile rbd"
OSD_CAPS = ", ".join(f"profile rbd pool={pool}" for pool in POOLS)
SYSTEM_BOUND = 90.0  # seconds from a node's first answer until its services are started
LIVE_BOUND = 60.0  # seconds from the cluster's making until every gateway's agent has joined it


def ceph_of(places: Places) -> CephCluster:
    """The lab's Ceph."""
    return CephCluster(places.data / "ceph", MON_ADDRESS, OSD_ADDRESSES, places.netns)


def etcd_of(places: Places) -> EtcdCluster:
    """The lab's etcd."""
    return EtcdCluster(places.data / "etcd", ETCD_ADDRESSES, places.netns)


@dataclass(frozen=True)
class Making:
    """The making of one lab, told to `say` step by step."""

    places: Places
    say: Callable[[str], None]

    def make(self, shape: Shape) -> None:
        """Make the lab of that shape, from nothing; LabError, with the rest left as it is, if a step fails."""
        began = time.monotonic()
        shape.write(self.places)
        for directory in (self.places.data / "log", self.places.run / "uml"):
            directory.mkdir(parents=True)
        self.places.data.chmod(0o700)
        root = tree.ready(tree.Recipe.of(tree.CHECKOUT), self.say)
        Wires(self.places.netns).create(shape.nodes())
        self.say("starting etcd and Ceph" + ("" if shape.bare else ", installing the checkout"))
        shape = replace(shape, tree=str(root), layer=self._backends_and_layer(root, bare=shape.bare))
        shape.write(self.places)
        self._furnish(shape)
        self.say(f"starting {', '.join(node.name for node in shape.nodes())}")
        at_once(self.boot, shape.nodes())
        if not shape.bare:
            self._initialise(shape)
        replace(shape, ready=True).write(self.places)
        self.say(f"up after {time.monotonic() - began:.0f} s")

    def boot(self, node: Node) -> None:
        """Switch a node on and return when its services are started; LabError if they do not."""
        Machine(node, self.places).power_on(read_shape(self.places).layers(node))
        door = Door(node, self.places)
        door.open()
        state = self._in_node(node, "systemctl", "is-system-running", "--wait")
        if state != "running":
            failed = self._in_node(node, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
            self.say(f"{node.name} is {state}: {' '.join(failed.split())}")

    def _in_node(self, node: Node, *command: str) -> str:
        """A command's output, whatever its status."""
        words = Door(node, self.places).command(["sh", "-c", '"$@" || true', "sh", *command])
        return run(words, timeout=SYSTEM_BOUND).strip()

    def _backends_and_layer(self, root: Path, *, bare: bool) -> str | None:
        """Start etcd and Ceph and install the checkout, all at once; the installed layer's path."""
        with ThreadPoolExecutor() as pool:
            etcd = pool.submit(etcd_of(self.places).start)
            ceph = pool.submit(self._start_ceph)
            layer = None if bare else pool.submit(self._layer, root)
            etcd.result()
            ceph.result()
            return None if layer is None else str(layer.result())

    def _start_ceph(self) -> None:
        ceph = ceph_of(self.places)
        ceph.start()
        for pool, osd in POOLS.items():
            ceph.create_pool(pool, osd)
        ceph.add_user(CEPH_USER, MON_CAPS, OSD_CAPS)

    def _layer(self, root: Path) -> Path:
        directory = self.places.data / "package"
        return package.install_layer(root, directory, package.build_wheel(root, directory))

    def _furnish(self, shape: Shape) -> None:
        keys = make_keys(self.places.data / "keys")
        ceph = ceph_of(self.places)
        access = CephAccess(ceph.conf, ceph.directory / f"ceph.client.{CEPH_USER}.keyring")
        for node in shape.nodes():
            furnish(node, self.places, keys, access)

    def _initialise(self, shape: Shape) -> None:
        """Make the rbdgate cluster on the first gateway and wait until every gateway is live in it."""
        gateways = [node.name for node in shape.nodes() if node.role is Role.GATEWAY]
        if not gateways:
            return
        self.say("initialising the rbdgate cluster")
        networks = [word for name, range_ in PORTAL_RANGES.items() for word in ("--network", f"{name}={range_}")]
        door = Door(shape.nodes()[0], self.places)
        run(door.command(["rbdgate", "cluster", "init", *networks, "--anchor-pool", "rbd"]), timeout=60)
        deadline = time.monotonic() + LIVE_BOUND
        while missing := [name for name in gateways if name not in _live(door)]:
            if time.monotonic() > deadline:
                raise LabError(f"not live within {LIVE_BOUND:.0f} s: {', '.join(missing)}; see `lab logs NODE`")
            time.sleep(0.5)


def _live(door: Door) -> set[str]:
    """The gateways that are live in the rbdgate cluster, as the node behind that door sees it."""
    answer = json.loads(run(door.command(["rbdgate", "node", "list", "--json"]), timeout=60))
    return {node["name"] for node in answer if node["live"]}


def at_once(act: Callable[[Node], None], over: Iterable[Node]) -> None:
    """Do it for all nodes in parallel; the first failure is raised after all have ended."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        for result in [pool.submit(act, node) for node in over]:
            result.result()
