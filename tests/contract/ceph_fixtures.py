"""Fixtures on a real Ceph cluster; a test module loads them by `pytest_plugins` and never imports them."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator

import pytest

from gateway.images.cluster import CephConnection
from gateway.images.header import ImageHeader
from gateway.images.image import create_image, header_of
from gateway.model import ImageName
from tests.contract.ceph_under_test import Ceph
from tests.contract.documented import cephx_caps
from tests.lab.ceph import CephCluster, remove


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """One cluster for the whole run, on a loopback address that no other run uses."""
    pid = os.getpid()
    address = f"127.{64 + (pid >> 16) % 64}.{(pid >> 8) % 256}.{pid % 254 + 1}"
    cluster = CephCluster(tmp_path_factory.mktemp("ceph"), address, (address, address))
    try:
        with warnings.catch_warnings():
            # The daemons outlive the object that started them, which is meant (tests/lab/processes.py).
            warnings.simplefilter("ignore", ResourceWarning)
            cluster.start()
        for number, pool in enumerate(("rbd", "rbd2")):
            cluster.create_pool(pool, number)
        cluster.create_pool("private", 1)
        caps = cephx_caps()  # exactly what README tells to give
        keyring = cluster.add_user("gw", caps["mon"], caps["osd"])
        yield Ceph(cluster, keyring)
    finally:
        remove(cluster)


@pytest.fixture
def connection(ceph: Ceph) -> Iterator[CephConnection]:
    """A client of the user gw."""
    with ceph.connect() as connection:
        yield connection


_numbers = itertools.count(1)


@pytest.fixture
def new_image(connection: CephConnection) -> Callable[[], tuple[ImageName, ImageHeader]]:
    """Makes images of 1 MiB, each under a name of its own."""

    def make() -> tuple[ImageName, ImageHeader]:
        name = ImageName(pool="rbd", name=f"image{next(_numbers)}")
        return name, header_of(connection, name, create_image(connection, name, 1 << 20))

    return make
