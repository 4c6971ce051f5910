"""The watch in quiet times, and the doubts that no lost member causes; the faults are in `test_store_faults.py`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.errors import StoreRefused
from gateway.store.client import EtcdClient
from gateway.store.values import Absent, Delete, KeyValue, Put
from gateway.store.watch import Changes, Listing, Removed, Watch, Written
from tests.lab.etcd import EtcdCluster

if TYPE_CHECKING:  # a plugin must not be imported before pytest does it
    from tests.contract.etcd_fixtures import Etcd

pytest_plugins = ["tests.contract.etcd_fixtures"]


def put(client: EtcdClient, key: str, value: bytes = b"x") -> int:
    """Write without a guard; returns the revision."""
    return client.transact([], [Put(key, value)]).revision


@contextmanager
def following(watch: Watch) -> Iterator[Iterator[Listing | Changes]]:
    """What the watch tells; it ends after ten seconds, so that a test that waits for too much fails."""
    end = threading.Timer(10.0, watch.close)
    end.start()
    told = iter(watch)
    try:
        yield told
    finally:
        end.cancel()
        end.join()
        watch.close()


def events(told: Iterator[Listing | Changes], number: int) -> list[Written | Removed]:
    """The next so many events, in however many pieces they come."""
    found: list[Written | Removed] = []
    while len(found) < number:
        changes = next(told)
        assert isinstance(changes, Changes)
        found += changes.events
        assert changes.revision == revision_of(found[-1])
    return found


def revision_of(event: Written | Removed) -> int:
    """When it happened."""
    return event.item.mod_revision if isinstance(event, Written) else event.revision


def test_a_watch_lists_and_then_tells_every_change_in_order(client: EtcdClient, prefix: str) -> None:
    """First what is there, then each write and removal with its revision; other prefixes are not told."""
    before = put(client, prefix + "a")
    with following(Watch(client, prefix)) as told:
        listing = next(told)
        assert isinstance(listing, Listing)
        assert [(item.key, item.mod_revision) for item in listing.snapshot.items] == [(prefix + "a", before)]
        put(client, prefix[:-1] + "0")
        written = put(client, prefix + "b", b"1")
        (event,) = events(told, 1)
        assert event == Written(KeyValue(prefix + "b", b"1", written, written, 0))
        removed = client.transact([], [Delete(prefix + "a")]).revision
        assert events(told, 1) == [Removed(prefix + "a", removed)]


def test_what_one_transaction_did_is_told_at_once(client: EtcdClient, prefix: str) -> None:
    """A transaction's writes come in one piece."""
    with following(Watch(client, prefix)) as told:
        next(told)
        client.transact([Absent(prefix + "0")], [Put(f"{prefix}{n}", b"x") for n in range(100)])
        changes = next(told)
        assert isinstance(changes, Changes)
        assert len(changes.events) == 100


def test_nothing_is_lost_between_listing_and_watch(client: EtcdClient, prefix: str) -> None:
    """Writes after the listing and before the stream was opened are told, once and in order."""
    with following(Watch(client, prefix)) as told:
        assert isinstance(next(told), Listing)  # the stream is opened only at the next step
        revisions = [put(client, f"{prefix}{n}") for n in range(20)]
        assert [revision_of(event) for event in events(told, 20)] == revisions


def test_quiet_is_no_doubt(client: EtcdClient, prefix: str) -> None:
    """A watch that hears nothing for longer than its bound, but gets its signs of life, is not begun anew."""
    late = threading.Timer(1.2, put, (client, prefix + "late"))
    with following(Watch(client, prefix, pulse=0.05, silence=0.4)) as told:
        assert isinstance(next(told), Listing)
        late.start()
        assert len(events(told, 1)) == 1
        late.join()


def test_compaction_ends_in_a_new_listing(etcd: Etcd, client: EtcdClient, prefix: str) -> None:
    """When what happened since the listing was compacted away, everything is listed again."""
    with following(Watch(client, prefix)) as told:
        next(told)
        for _ in range(3):
            revision = put(client, prefix + "k")
        assert etcd.etcdctl("compact", str(revision)).returncode == 0
        again = next(told)
    assert isinstance(again, Listing)
    assert "compacted" in again.reason
    assert [item.mod_revision for item in again.snapshot.items] == [revision]


def test_close_ends_the_watch_and_its_threads(client: EtcdClient, prefix: str) -> None:
    """Closed from another thread while it waits, the iteration ends at once and no thread of it is left."""
    watch = Watch(client, prefix, pulse=60.0, silence=60.0)
    listed = threading.Event()

    def follow() -> None:
        for _ in watch:
            listed.set()

    follower = threading.Thread(target=follow)
    follower.start()
    assert listed.wait(5)
    watch.close()
    follower.join(2)
    assert not follower.is_alive()
    assert "etcd-watch-reader" not in {thread.name for thread in threading.enumerate()}


def test_leaving_the_loop_ends_its_threads_too(client: EtcdClient, prefix: str) -> None:
    """A reader that breaks off after a change leaves nothing behind."""
    for told in Watch(client, prefix):
        if isinstance(told, Changes):
            break
        put(client, prefix + "k")
    assert "etcd-watch-reader" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdCluster]:
    """A cluster of one member whose authentication a test may switch on."""
    cluster = EtcdCluster(tmp_path / "etcd", ["127.99.2.4"], client_port=23979, peer_port=23980)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_a_forbidden_prefix_is_an_error(guarded: EtcdCluster) -> None:
    """A watch that etcd refuses raises with etcd's reason instead of waiting for ever."""
    client = EtcdClient(guarded.endpoints)
    with following(Watch(client, "/anything/")) as told:
        next(told)
        for command in ("user add root:x", "user grant-role root root", "auth enable"):
            done = guarded.etcdctl(*command.split())
            assert done.returncode == 0, done.stderr
        with pytest.raises(StoreRefused, match=r"permission denied|user name is empty"):
            next(told)
    client.close()
