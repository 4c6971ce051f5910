"""What etcd promises to everything above it: transactions, ranges and leases, against three real members."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gateway.errors import BadSettings, LeaseGone, StoreRefused
from gateway.store import client as client_module
from gateway.store.client import EtcdClient
from gateway.store.values import (
    Absent,
    Compare,
    CreateRevisionIs,
    Delete,
    Get,
    KeyValue,
    ModRevisionIs,
    Put,
    ValueIs,
)
from gateway.store.watch import Listing, Watch, Written

if TYPE_CHECKING:  # a plugin must not be imported before pytest does it
    from tests.contract.etcd_fixtures import Etcd

pytest_plugins = ["tests.contract.etcd_fixtures"]


def put(client: EtcdClient, key: str, value: bytes, lease: int = 0) -> int:
    """Write without a guard; returns the revision."""
    return client.transact([], [Put(key, value, lease)]).revision


def test_a_key_carries_its_revisions_and_lease(client: EtcdClient, prefix: str) -> None:
    """A key comes back byte for byte, with the revisions of its creation and last write, and its lease."""
    lease = client.grant_lease(60)
    created = put(client, prefix + "k", b"old")
    written = put(client, prefix + "k", b"\0\xff", lease.id)
    assert client.get(prefix + "k") == KeyValue(prefix + "k", b"\0\xff", created, written, lease.id)
    client.revoke_lease(lease.id)


def test_a_missing_key_is_none(client: EtcdClient, prefix: str) -> None:
    """Reading a key that does not exist is no error."""
    assert client.get(prefix + "nothing") is None


def test_a_transaction_runs_one_branch_and_reads_in_order(client: EtcdClient, prefix: str) -> None:
    """The branch that ran is named, its reads come in their order, and a failed guard writes nothing."""
    key, other = prefix + "k", prefix + "other"
    first = client.transact([Absent(key)], [Put(key, b"1"), Get(other), Get(key)], [Get(key)])
    assert first.succeeded
    assert [read and read.value for read in first.reads] == [None, b"1"]
    second = client.transact([Absent(key)], [Put(key, b"2")], [Get(other), Get(key)])
    assert not second.succeeded
    assert [read and read.value for read in second.reads] == [None, b"1"]
    assert second.revision == first.revision


def test_each_compare_holds_only_for_what_it_names(client: EtcdClient, prefix: str) -> None:
    """Absence, both revisions and the value are each compared exactly."""
    key, missing = prefix + "k", prefix + "missing"
    created = put(client, key, b"1")
    written = put(client, key, b"2")

    def holds(compare: Compare) -> bool:
        return client.transact([compare], []).succeeded

    assert holds(Absent(missing))
    assert holds(CreateRevisionIs(key, created))
    assert holds(ModRevisionIs(key, written))
    assert holds(ValueIs(key, b"2"))
    assert not holds(Absent(key))
    assert not holds(CreateRevisionIs(key, written))
    assert not holds(CreateRevisionIs(missing, created))
    assert not holds(ModRevisionIs(key, created))
    assert not holds(ModRevisionIs(missing, written))
    assert not holds(ValueIs(key, b"1"))
    assert not holds(ValueIs(missing, b""))


def test_all_compares_must_hold(client: EtcdClient, prefix: str) -> None:
    """One guard that fails is enough for nothing to be written."""
    key = prefix + "k"
    put(client, key, b"1")
    result = client.transact([ValueIs(key, b"1"), Absent(key)], [Delete(key)])
    assert not result.succeeded
    assert client.get(key) is not None


def test_a_recreated_key_is_another_key(client: EtcdClient, prefix: str) -> None:
    """After delete and create the create revision differs, so a token of the former one guards nothing."""
    key = prefix + "claim"
    token = put(client, key, b"node-a")
    client.transact([], [Delete(key)])
    put(client, key, b"node-a")
    assert not client.transact([CreateRevisionIs(key, token)], [Put(key, b"stale")]).succeeded


def test_a_range_is_exactly_the_prefix(client: EtcdClient, prefix: str) -> None:
    """Keys next to the prefix do not slip in, order is by key, and `keys_only` leaves the values out."""
    for key in ("a/2", "a/1", "a/\U0010ffff", "a", "a0", "b/1"):
        put(client, prefix + key, b"x")
    keys = [prefix + key for key in ("a/1", "a/2", "a/\U0010ffff")]
    assert [item.key for item in client.range(prefix + "a/").items] == keys
    assert {item.value for item in client.range(prefix + "a/", keys_only=True).items} == {b""}


def test_garbage_in_a_key_survives(etcd: Etcd, client: EtcdClient, prefix: str) -> None:
    """A key that is no UTF-8 can be read and deleted under the name it is listed with."""
    written = etcd.etcdctl("put", prefix + "\udcfe\udcff", "x")  # the bytes fe ff
    assert written.returncode == 0
    (item,) = client.range(prefix).items
    assert client.get(item.key) == item
    client.transact([ModRevisionIs(item.key, item.mod_revision)], [Delete(item.key)])
    assert client.range(prefix).items == ()


def test_a_paged_range_is_one_revision(client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a token is moved between the first and the last key, no listing over many pages sees it twice or not."""
    monkeypatch.setattr(client_module, "PAGE", 10)
    ends = [prefix + "a", prefix + "z"]
    client.transact([], [Put(f"{prefix}m{n:03}", b"") for n in range(100)])
    put(client, ends[0], b"token")
    with ThreadPoolExecutor(1) as pool:
        moves = pool.submit(_move_back_and_forth, client, ends, 300)
        seen = []
        while not moves.done():
            seen.append([item.key for item in client.range(prefix).items if item.value == b"token"])
        moves.result()
    assert all(len(keys) == 1 for keys in seen)
    assert {keys[0] for keys in seen} == set(ends)


def _move_back_and_forth(client: EtcdClient, ends: list[str], times: int) -> None:
    for _ in range(times):
        assert client.transact([Absent(ends[1])], [Delete(ends[0]), Put(ends[1], b"token")]).succeeded
        ends = ends[::-1]


RACER = """
import sys
from gateway.store.client import EtcdClient
from gateway.store.values import Absent, ModRevisionIs, Put
endpoints, prefix, name = sys.argv[1].split(","), sys.argv[2], sys.argv[3].encode()
client = EtcdClient(endpoints)
print("ready", flush=True)
sys.stdin.readline()
won = sum(client.transact([Absent(f"{prefix}{n:03}")], [Put(f"{prefix}{n:03}", name)]).succeeded for n in range(200))
for _ in range(100):
    while True:
        old = client.get(prefix + "count")
        new = Put(prefix + "count", b"%d" % (int(old.value) + 1))
        if client.transact([ModRevisionIs(old.key, old.mod_revision)], [new]).succeeded:
            break
print(won)
"""


def test_two_processes_never_both_win(etcd: Etcd, client: EtcdClient, prefix: str) -> None:
    """Of two processes racing for 200 names each name has one winner, and of 200 guarded increments none is lost."""
    put(client, prefix + "count", b"0")
    racers = {}
    for name in ("a", "b"):
        command = [sys.executable, "-c", RACER, ",".join(etcd.endpoints), prefix, name]
        racers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for racer in racers.values():
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    won = {name: int(racer.communicate("go\n", timeout=30)[0]) for name, racer in racers.items()}
    owners = [item.value.decode() for item in client.range(prefix).items if item.key != prefix + "count"]
    assert {name: owners.count(name) for name in won} == won
    assert sum(won.values()) == 200
    count = client.get(prefix + "count")
    assert count is not None
    assert count.value == b"200"


def test_one_client_serves_many_threads(client: EtcdClient, prefix: str) -> None:
    """Eight threads on one client each read back exactly what they wrote."""

    def work(thread: int) -> bool:
        keys = [f"{prefix}{thread}/{n}" for n in range(50)]
        for key in keys:
            put(client, key, key.encode())
        return all((found := client.get(key)) is not None and found.value == key.encode() for key in keys)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_lease_that_ends_takes_its_keys(client: EtcdClient, prefix: str) -> None:
    """Without keepalives the key goes; the keepalive and a write under the lease then say that it is gone."""
    lease = client.grant_lease(2)
    assert lease.ttl == 2
    put(client, prefix + "live", b"x", lease.id)
    assert client.keepalive_once(lease.id) == 2
    _until_gone(client, prefix + "live")
    with pytest.raises(LeaseGone, match=f"{lease.id:x}"):
        client.keepalive_once(lease.id)
    with pytest.raises(LeaseGone):
        put(client, prefix + "live", b"x", lease.id)
    assert client.get(prefix + "live") is None


def _until_gone(client: EtcdClient, key: str) -> None:
    """Wait until etcd itself tells of the deletion."""
    for told in Watch(client, key):
        if not (told.snapshot.items if isinstance(told, Listing) else isinstance(told.events[-1], Written)):
            return


def test_a_revoked_lease_takes_its_keys_at_once(client: EtcdClient, prefix: str) -> None:
    """Revoking removes the keys before it returns, and doing it twice is no error."""
    lease = client.grant_lease(60)
    put(client, prefix + "live", b"x", lease.id)
    client.revoke_lease(lease.id)
    assert client.get(prefix + "live") is None
    client.revoke_lease(lease.id)
    with pytest.raises(LeaseGone):
        client.keepalive_once(lease.id)


def test_a_refusal_is_told_with_etcds_reason(client: EtcdClient, prefix: str) -> None:
    """Too many operations and too large a value are refused by name, and nothing is written."""
    with pytest.raises(StoreRefused, match="too many operations"):
        client.transact([], [Put(f"{prefix}{n}", b"") for n in range(129)])
    with pytest.raises(StoreRefused, match="too large"):
        put(client, prefix + "k", bytes(1_600_000))
    with pytest.raises(StoreRefused, match="larger than max"):
        put(client, prefix + "k", bytes(2 << 20))
    assert client.range(prefix).items == ()


def test_an_endpoint_must_be_host_and_port() -> None:
    """A URL or a missing port is refused with the form that is right."""
    for endpoint in ("http://192.0.2.1:2379", "192.0.2.1", ":2379", "host:0"):
        with pytest.raises(BadSettings, match="HOST:PORT"):
            EtcdClient([endpoint])


def test_every_member_knows_the_same_leader(etcd: Etcd, client: EtcdClient) -> None:
    """The members' own words agree on one leader among them."""
    told = [client.member_status(endpoint) for endpoint in etcd.endpoints]
    assert len({status.member_id for status in told}) == 3
    assert {status.leader_id for status in told} == {next(iter({status.leader_id for status in told}))}
    assert told[0].leader_id in {status.member_id for status in told}


@pytest.mark.parametrize("first", ["", "import google.protobuf.message; "])
def test_the_client_loads_with_a_present_day_protobuf(first: str) -> None:
    """The old generated code loads on protobuf 4 and newer, with warnings as errors."""
    check = "import google.protobuf as p; assert int(p.__version__.split('.')[0]) >= 4"
    script = f"{first}import gateway.store.client; {check}"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=30)
