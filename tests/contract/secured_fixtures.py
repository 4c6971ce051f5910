"""Real etcd members that want certificates and users. A plugin: tests import the fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.store.security import Security
from tests.authority import Authority, replace_file
from tests.contract.documented import PASSWORD
from tests.contract.secured import EVENTS, PREFIX, Secured
from tests.lab.etcd import EtcdCluster, Tls


@contextmanager
def members(directory: Path, client_port: int) -> Iterator[Secured]:
    """Members that want certificates and ask nobody for a user; a gateway's files are there for both."""
    network = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"  # two runs at once do not meet
    addresses = [f"{network}.{number}" for number in (1, 2, 3)]
    tls, gateway = Tls(directory / "tls"), directory / "gateway"
    for made in (tls.directory, gateway):
        made.mkdir()
    cluster = EtcdCluster(directory / "etcd", addresses, client_port=client_port, peer_port=client_port + 10, tls=tls)
    security = Security(gateway / "ca", gateway / "crt", gateway / "key", "rbdgate", gateway / "password")
    secured = Secured(cluster, Authority("the first authority"), tls, security)
    secured.certify()
    secured.authority.issue("etcdctl").write(tls.directory / "etcdctl.crt", tls.directory / "etcdctl.key")
    replace_file(tls.directory / "ca.crt", secured.authority.certificate, 0o644)
    secured.trust(secured.authority)
    secured.show(secured.authority.issue("gw1"))
    secured.write_password(PASSWORD)
    with secured.closing:
        secured.closing.callback(cluster.stop)
        cluster.start()
        yield secured


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Secured]:
    """Members that want certificates and ask nobody for a user."""
    with members(tmp_path, 23791) as secured:
        yield secured


@pytest.fixture
def secured(open_to_all: Secured) -> Secured:
    """Members of a test's own that want certificates and ask for users."""
    open_to_all.ask_for_users()
    return open_to_all


@pytest.fixture(scope="session")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The same for a whole run, to be left as it was."""
    with members(tmp_path_factory.mktemp("lasting"), 23792) as secured:
        secured.ask_for_users()
        yield secured


@pytest.fixture
def least(lasting: Secured) -> Iterator[Secured]:
    """Healthy members for one test, with nothing under the gateways' prefixes."""
    yield lasting
    for prefix in (PREFIX, EVENTS):
        lasting.root("del", "--prefix", prefix)
