"""The least role that README names is enough for a gateway, and is no more than it says."""

from __future__ import annotations

import pytest

from gateway.errors import StoreRefused
from gateway.store.permissions import may_read, may_write
from gateway.store.values import Delete, Put
from tests.contract.secured import EVENTS, PREFIX, Secured

pytest_plugins = ["tests.contract.secured_fixtures"]


def test_a_key_outside_is_refused(least: Secured) -> None:
    """Keys beside the cluster's two prefixes can neither be read nor written, and nothing was changed by asking."""
    client = least.client()
    before = client.range(PREFIX).revision
    assert [may_write(client, prefix + "x") for prefix in (PREFIX, EVENTS)] == [True, True]
    outside = ["/rbdgate/default", "/rbdgate/other/x", "/rbdgate/default0", "x"]
    assert [(may_read(client, key), may_write(client, key)) for key in outside] == [(False, False)] * len(outside)
    assert client.range(PREFIX).revision == before
    with pytest.raises(StoreRefused, match="permission denied"):
        client.transact([], [Put("/rbdgate/other/x", b"")])
    with pytest.raises(StoreRefused, match="permission denied"):
        client.range("/")
    assert client.transact([], [Put(PREFIX + "x", b"1")]).succeeded
    assert client.transact([], [Delete(PREFIX + "x")]).succeeded


def test_members_alarms_and_states_need_no_more(least: Secured) -> None:
    """What the doctor asks of etcd itself is answered to a gateway's user (etcd 3.4)."""
    client = least.client()
    assert len(client.members()) == 3
    assert client.alarms() == ()
    assert {client.member_status(endpoint).leader_id for endpoint in least.endpoints} != {0}
