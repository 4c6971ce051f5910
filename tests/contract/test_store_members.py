"""What etcd's members say of themselves, on a real cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.client import EtcdClient
from gateway.store.exposition import expose
from gateway.store.wire import etcdrpc

if TYPE_CHECKING:
    from tests.contract.etcd_fixtures import Etcd

pytest_plugins = ["tests.contract.etcd_fixtures"]


def test_members_and_alarms(etcd: Etcd, client: EtcdClient) -> None:
    """All three members are listed under the ids they answer with, and no alarm is raised."""
    listed = client.members()
    assert {member.name for member in listed} == {"etcd-1", "etcd-2", "etcd-3"}
    assert {member.id for member in listed} == {client.member_status(end).member_id for end in etcd.endpoints}
    assert client.alarms() == ()


def test_an_alarm_is_told(etcd: Etcd, client: EtcdClient) -> None:
    """An alarm that a member raised is listed with that member's id until it is disarmed."""
    member = client.member_status(etcd.endpoints[0]).member_id

    def switch(action: int) -> None:
        client.connection.maintenance.Alarm(
            etcdrpc.AlarmRequest(action=action, memberID=member, alarm=etcdrpc.NOSPACE), 5.0
        )

    switch(etcdrpc.AlarmRequest.ACTIVATE)
    try:
        assert client.alarms() == ((member, "NOSPACE"),)
    finally:
        switch(etcdrpc.AlarmRequest.DEACTIVATE)
    assert client.alarms() == ()


def test_a_members_exposition(etcd: Etcd) -> None:
    """A member tells its clock's date and its database's bound over HTTP, and its clock is this machine's."""
    told = expose(etcd.endpoints[0], 5.0)
    assert abs(told.date + 0.5 - time.time()) < 5
    assert told.quota == 2 << 30  # etcd's default, the members are started without another


def test_a_frozen_member_has_no_exposition(hurt: Etcd) -> None:
    """A member that is stopped is given up after the time-out."""
    hurt.member(2).stop()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"no answer over HTTP"):
        expose(hurt.endpoints[1], 0.3)
    assert time.monotonic() - began < 3
