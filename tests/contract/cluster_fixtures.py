"""Stores to test against, real and fake, and values to put into them. A plugin: tests import the fixtures."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

import pytest

from gateway.model import (
    ClusterSettings,
    HolderRecord,
    Identity,
    ImageName,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    LiveNode,
    Network,
    Path,
    parse_address,
)
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.values import Put
from tests.fakes.etcd import FakeEtcd
from tests.lab.etcd import EtcdCluster

SETTINGS = ClusterSettings(
    fsid="6f0d4f0a-0000-4000-8000-000000000000",
    networks=(Network.parse("a=10.0.1.0/24,10.0.1.100-10.0.1.199"), Network.parse("b=10.0.2.0/24,10.0.2.9-10.0.2.19")),
    anchor_pool="rbd",
)


@dataclass(frozen=True)
class Room:
    """One cluster store on a prefix of its own, with the client under it."""

    store: ClusterStore
    etcd: EtcdClient | FakeEtcd

    def lease(self, ttl: int = 60) -> int:
        """A fresh lease."""
        return self.etcd.grant_lease(ttl).id

    def join(self, name: str = "gw1") -> int:
        """Let a node join under a fresh lease."""
        lease = self.lease()
        self.store.join(live(name, lease))
        return lease

    def put(self, key: str, value: bytes) -> None:
        """Write a raw value under the prefix, as somebody else would."""
        self.etcd.transact([], [Put(self.store.keys.prefix + key, value)])


@pytest.fixture(scope="module")
def endpoints() -> Iterator[tuple[str, ...]]:
    """Three real members on loopback addresses of their own."""
    directory = FilePath(tempfile.mkdtemp(prefix="rbdgate-cluster-"))
    network = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"  # two runs at once do not meet
    cluster = EtcdCluster(directory, [f"{network}.{n}" for n in (1, 2, 3)], client_port=23790, peer_port=23800)
    try:
        with warnings.catch_warnings():
            # A member is a process that outlives the object that started it: the pidfile knows it, nobody waits.
            warnings.simplefilter("ignore", ResourceWarning)
            cluster.start()
        yield tuple(cluster.endpoints)
    finally:
        cluster.stop()
        shutil.rmtree(directory)


@pytest.fixture(params=["fake", "real"])
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """An initialised cluster on a fresh prefix, once on the fake and once on the real etcd."""
    etcd: EtcdClient | FakeEtcd
    etcd = FakeEtcd(time.monotonic) if request.param == "fake" else EtcdClient(request.getfixturevalue("endpoints"))
    store = ClusterStore(etcd, f"/rbdgate/{uuid.uuid4().hex}/")
    store.initialise(SETTINGS)
    yield Room(store, etcd)
    if isinstance(etcd, EtcdClient):
        etcd.close()


def live(name: str, lease: int, instance: str = "10.9.0.1:0/1") -> LiveNode:
    """A node that says it is live."""
    return LiveNode(Label(name), lease, "boot", "0.1.0", (Label("a"),), (Instance(instance),))


def spec(name: str = "rbd/disk1", *addresses: str, serial: str = "", iqn: str = "") -> ImageSpec:
    """A spec with a fresh uid."""
    where = ImageName.parse(name)
    return ImageSpec(
        name=where,
        uid=uuid.uuid4().hex[:16],
        image_id="10dc6b8b4567",
        size=1 << 30,
        identity=Identity(Iqn(iqn or f"iqn.2026-11.io.rbdgate:{where.name}"), serial or str(uuid.uuid4())),
        paths=tuple(
            Path(tag, parse_address(address), Label("a")) for tag, address in enumerate(addresses or ("10.0.1.100",), 1)
        ),
    )


def record(of: ImageSpec, token: int, instance: str = "10.9.0.1:0/1", node: str = "gw1") -> HolderRecord:
    """A krbd client that may have the image open."""
    return HolderRecord(of.uid, Instance(instance), Label(node), token, "krbd")
