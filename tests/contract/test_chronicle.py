"""The chronicle on a real etcd that loses its quorum: nothing told meanwhile is lost, doubled or out of order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agent import chronicle as module
from agent.chronicle import Chronicle
from gateway.events import Event, Kind
from gateway.model import Label
from gateway.store.client import EtcdClient
from gateway.store.events import EventStore

if TYPE_CHECKING:  # a plugin must not be imported before pytest does it
    from tests.contract.etcd_fixtures import Etcd

pytest_plugins = ["tests.contract.etcd_fixtures"]


def letters(number: int) -> str:
    """A text of its own for each number, without a digit: alike ones would be counted as one."""
    return "".join(chr(97 + int(digit)) for digit in str(number))


def test_events_outlast_a_lost_quorum(
    hurt: Etcd, client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two of three members stopped events wait; when they go on, all are there, once and in order."""
    monkeypatch.setattr(module, "RETRY", 0.1)
    store = EventStore(client, prefix)
    chronicle = Chronicle(store, Label("gw1"))
    chronicle.start()
    chronicle.tell(Event(Kind.NODE, "before"))
    chronicle.flush(10)
    for member in hurt.members[:2]:
        member.stop()
    told = [letters(number) for number in range(100)]
    began = time.monotonic()
    for text in told:
        chronicle.tell(Event(Kind.NODE, text))
    assert time.monotonic() - began < 0.5, "telling waited for etcd"
    chronicle.flush(3)
    hurt.heal()
    chronicle.flush(60)
    assert [event.text for event in store.read().events] == ["before", *told]


def test_what_telling_costs(client: EtcdClient, prefix: str) -> None:
    """An event is told in well under a millisecond, whatever writing it takes."""
    chronicle = Chronicle(EventStore(client, prefix), Label("gw1"))
    chronicle.start()
    began = time.monotonic()
    for number in range(300):
        chronicle.tell(Event(Kind.NODE, letters(number)))
    assert (time.monotonic() - began) / 300 < 0.002
    chronicle.flush(30)
    assert len(EventStore(client, prefix).read().events) == 300
