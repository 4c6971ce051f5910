"""What a cephx user may do is found out on a real Ceph without changing anything."""

from __future__ import annotations

import pytest

from gateway.errors import NotFound
from gateway.images.cluster import CephConnection
from gateway.images.fence import blocklist
from gateway.images.permissions import may_administer, may_fence, may_read, may_write
from tests.contract.ceph_under_test import Ceph

pytest_plugins = ["tests.contract.ceph_fixtures"]


def test_a_gateways_user(connection: CephConnection) -> None:
    """`profile rbd` may fence, may read and write its pools and no other, may not administer; nobody is blocklisted."""
    before = blocklist(connection)  # other tests' victims
    assert may_fence(connection)
    assert not may_administer(connection)
    pools = ("rbd", "rbd2", "private")
    assert [may_read(connection, pool) for pool in pools] == [True, True, False]
    assert [may_write(connection, pool) for pool in pools] == [True, True, False]
    assert blocklist(connection) == before
    with pytest.raises(NotFound):
        may_read(connection, "nothing")


def test_users_with_too_little_and_too_much(ceph: Ceph) -> None:
    """A user who may only read may neither write nor fence; the administrator may everything."""
    reader = ceph.cluster.add_user("reader", "allow r", "allow r")
    with CephConnection(ceph.cluster.conf, "reader", reader, op_timeout=10) as connection:
        assert not may_fence(connection)
        assert not may_administer(connection)
        assert (may_read(connection, "rbd"), may_write(connection, "rbd")) == (True, False)
    with CephConnection(ceph.cluster.conf, "admin", ceph.cluster.admin_keyring, op_timeout=10) as connection:
        before = blocklist(connection)
        assert may_fence(connection)
        assert may_administer(connection)
        assert blocklist(connection) == before
