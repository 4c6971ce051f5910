"""The log of events, once on the fake and once on three real members: order, bounds, races and damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway.errors import Conflict, OutcomeUnknown, StoreUnavailable
from gateway.events import Event, Kind
from gateway.store import events as events_module
from gateway.store.client import EtcdClient
from gateway.store.events import BATCH, EventStore
from gateway.store.values import Compare, Delete, Operation, Put, TransactionResult
from tests.contract.cluster_fixtures import Room, endpoints, room
from tests.fakes.etcd import FakeEtcd

__all__ = ["endpoints", "room"]  # fixtures

Transact = Callable[..., TransactionResult]


def log_of(room: Room, slots: int = events_module.SLOTS) -> EventStore:
    """The log of the room's cluster."""
    return EventStore(room.etcd, room.store.keys.prefix, slots=slots)


def event(text: str) -> Event:
    """An event that says this."""
    return Event(Kind.NODE, text, who="gw1", time="2026-11-22T03:04:05.678Z")


def texts(log: EventStore) -> list[str]:
    """What the log says, in its order."""
    return [each.text for each in log.read().events]


def test_events_come_back_in_order(room: Room) -> None:
    """Events are numbered from 1 on, across writers, and read oldest first with their revisions."""
    log, other = log_of(room), log_of(room)
    assert (log.read().events, log.last_change()) == ((), 0)
    log.record([event("one"), event("two")])
    other.record([event("three")])
    found = log.read()
    assert [each.text for each in found.events] == ["one", "two", "three"]
    assert [each.number for each in found.events] == [1, 2, 3]
    assert found.events[-1].revision == log.last_change()
    assert replace(found.events[0], number=0, revision=0) == event("one")
    assert found.damaged == 0


def test_the_cluster_does_not_see_its_log(room: Room) -> None:
    """An event changes nothing under the prefix that turns read and watches follow."""
    before = room.etcd.range(room.store.keys.prefix).items
    log_of(room).record([event("one")])
    assert room.etcd.range(room.store.keys.prefix).items == before


def test_the_ring_is_bounded(room: Room) -> None:
    """With every slot used, the oldest event makes room; the order stays over the wrap."""
    log = log_of(room, slots=5)
    for number in range(1, 13):
        log.record([event(str(number))])
    log.record([event("13"), event("14"), event("15")])
    assert texts(log) == ["11", "12", "13", "14", "15"]
    assert len(room.etcd.range(room.store.keys.event_slots).items) == 5


def test_a_whole_batch_fits_into_one_transaction(room: Room) -> None:
    """As many events as one call may bring, each as large as can be, are written at once."""
    log = log_of(room)
    log.record([event("x" * 5000)] * BATCH)
    assert len({each.revision for each in log.read().events}) == 1
    assert [each.number for each in log.read().events] == list(range(1, BATCH + 1))


def test_racing_writers_lose_nothing(room: Room) -> None:
    """Two writers at once: every event is there exactly once, numbers are given once, each writer's order is kept."""
    with ThreadPoolExecutor(2) as pool:
        for end in [pool.submit(_write, room, name) for name in ("a", "b")]:
            end.result()
    found = log_of(room).read().events
    assert [each.number for each in found] == list(range(1, 41))
    for name in ("a", "b"):
        assert [each.text for each in found if each.text[0] == name] == [f"{name}{n}" for n in range(20)]


def _write(room: Room, name: str) -> None:
    log = log_of(room)
    for number in range(20):
        log.record([event(f"{name}{number}")])


def test_a_writer_that_always_loses_gives_up(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overtaken each time, a writer ends with Conflict after a bounded number of tries."""
    transact, other, tries = room.etcd.transact, log_of(room), []

    def overtaken(*arguments: Sequence[Compare | Operation], **keywords: float) -> TransactionResult:
        tries.append(1)
        with monkeypatch.context() as patch:
            patch.setattr(room.etcd, "transact", transact)
            other.record([event("faster")])
        return transact(*arguments, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(room.etcd, "transact", overtaken)
        with pytest.raises(Conflict, match="faster"):
            log_of(room).record([event("slow")])
    assert len(tries) == events_module.RACES
    assert set(texts(other)) == {"faster"}


def test_garbage_in_a_slot_is_stepped_over(room: Room) -> None:
    """A slot nobody can read is counted, costs no other event, and is written over by the next lap."""
    log = log_of(room, slots=4)
    log.record([event("one"), event("two"), event("three")])
    _put(room, room.store.keys.event_slot(2), b"\xff\0garbage")
    found = log.read()
    assert ([each.text for each in found.events], found.damaged) == (["one", "three"], 1)
    log.record([event(text) for text in ("four", "five", "six")])
    found = log.read()
    assert ([each.text for each in found.events], found.damaged) == (["three", "four", "five", "six"], 0)


def test_a_counter_that_is_gone_goes_on(room: Room) -> None:
    """With the counter deleted, numbers go on after the greatest there is, and nothing is written over."""
    log = log_of(room)
    log.record([event("one"), event("two")])
    room.etcd.transact([], [Delete(room.store.keys.event_counter)])
    log.record([event("three")])
    assert [(each.number, each.text) for each in log.read().events] == [(1, "one"), (2, "two"), (3, "three")]


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"0", b"9" * 30, b"\xff", "\u0664".encode()])
def test_a_counter_that_is_garbage_goes_on(room: Room, value: bytes) -> None:
    """With anything but a number in the counter, numbers go on after the greatest there is."""
    log = log_of(room)
    log.record([event("one")])
    _put(room, room.store.keys.event_counter, value)
    log.record([event("two")])
    assert [(each.number, each.text) for each in log.read().events] == [(1, "one"), (2, "two")]


def test_a_counter_that_was_set_back_breaks_no_order(room: Room) -> None:
    """Events are read in the order they were written in, whatever their numbers say."""
    log = log_of(room)
    log.record([event("one"), event("two")])
    _put(room, room.store.keys.event_counter, b"1")
    log.record([event("three")])
    assert texts(log) == ["two", "three"]


@pytest.mark.parametrize("ran", [True, False])
def test_a_lost_answer_writes_an_event_once(room: Room, monkeypatch: pytest.MonkeyPatch, ran: bool) -> None:
    """Whether the transaction whose answer was lost ran or not, the event is there once."""
    transact, lost = room.etcd.transact, [True]

    def losing(*arguments: Sequence[Compare | Operation], **keywords: float) -> TransactionResult:
        if lost and lost.pop():
            if ran:
                transact(*arguments, **keywords)  # type: ignore[arg-type]
            raise OutcomeUnknown("no answer")
        return transact(*arguments, **keywords)  # type: ignore[arg-type]

    log = log_of(room)
    log.record([event("before")])
    monkeypatch.setattr(room.etcd, "transact", losing)
    log.record([event("once")])
    assert not lost
    assert texts(log) == ["before", "once"]


def test_without_etcd_it_says_so() -> None:
    """With no member that answers, writing and reading raise StoreUnavailable."""
    etcd = FakeEtcd(lambda: 0.0)
    etcd.down = True
    with pytest.raises(StoreUnavailable):
        EventStore(etcd, "/x/").record([event("one")])
    client = EtcdClient(["127.0.0.1:9"], call_timeout=0.1, timeout=0.2)
    with pytest.raises(StoreUnavailable):
        EventStore(client, "/x/", timeout=0.2).read()
    client.close()


def _put(room: Room, key: str, value: bytes) -> None:
    room.etcd.transact([], [Put(key, value)])
