"""Three real etcd members for the contract tests: one cluster a run, a prefix a test, each fault healed after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.client import EtcdClient
from tests.lab.etcd import EtcdCluster


class Etcd(EtcdCluster):
    """The cluster with the questions the fault tests ask."""

    def leader(self) -> int:
        """The number of the member that leads now."""
        client = EtcdClient(self.endpoints)
        try:
            for number, endpoint in enumerate(self.endpoints, 1):
                try:
                    status = client.member_status(endpoint)
                except StoreUnavailable:
                    continue
                if status.leader_id == status.member_id:
                    return number
        finally:
            client.close()
        raise AssertionError("no member leads")

    def asked_by(self, client: EtcdClient) -> int:
        """The number of the member that this client asks first."""
        return self.endpoints.index(client.connection.endpoint) + 1

    def let_ask(self, client: EtcdClient, number: int) -> None:
        """Make this client ask that member first."""
        while self.asked_by(client) != number:
            client.avoid(client.connection)

    def heal(self) -> None:
        """Every member runs and answers again."""
        for member in self.members:
            member.cont()
        self.start()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members on loopback addresses that no other run on this machine uses."""
    network = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    cluster = Etcd(tmp_path_factory.mktemp("etcd"), [f"{network}.{n}" for n in (1, 2, 3)])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def hurt(etcd: Etcd) -> Iterator[Etcd]:
    """The same members, to be stopped and killed: healed again after the test."""
    yield etcd
    etcd.heal()


@pytest.fixture
def client(etcd: Etcd) -> Iterator[EtcdClient]:
    """A client of its own for each test."""
    client = EtcdClient(etcd.endpoints)
    yield client
    client.close()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """Keys that no other test uses."""
    return f"/{tmp_path.name}/"
