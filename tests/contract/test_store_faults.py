"""What a fault of etcd costs: bounded time, and nothing else. Every fault is a real one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.errors import OutcomeUnknown, StoreUnavailable
from gateway.store.client import EtcdClient
from gateway.store.values import Absent, Put
from gateway.store.watch import Changes, Listing, Watch
from tests.contract.etcd_load import LEASE_TTL, Load, Verdict
from tests.lab.etcd import EtcdCluster

if TYPE_CHECKING:  # a plugin must not be imported before pytest does it
    from tests.contract.etcd_fixtures import Etcd

pytest_plugins = ["tests.contract.etcd_fixtures"]

BOUND = 8.0  # seconds any single fault may stall a writer, a lease or a watch; below the shortest lease


def judge(verdict: Verdict) -> None:
    """Nothing was lost, doubled or told wrongly, no lease ended, and no stall was longer than the bound."""
    sys.stdout.write(f"{verdict}\n")  # the measured stalls, for `pytest -rP`
    assert verdict.errors == ()
    assert verdict.counted == verdict.writes
    assert verdict.watch_is_right
    assert max(verdict.longest_write, verdict.longest_keepalive, verdict.longest_watch) < BOUND < LEASE_TTL


@pytest.mark.parametrize("fault", ["frozen", "killed"])
@pytest.mark.parametrize("role", ["follower", "leader"])
def test_the_loss_of_the_member_that_is_asked(hurt: Etcd, prefix: str, role: str, fault: str) -> None:
    """The member that everybody is connected to freezes or dies, and comes back: no write is lost or doubled."""
    leader = hurt.leader()
    victim = leader if role == "leader" else leader % 3 + 1
    load = Load(hurt.endpoints, prefix)
    for client in load.clients:
        hurt.let_ask(client, victim)
    load.start()
    load.wait_for_writes(20, BOUND)
    (hurt.member(victim).stop if fault == "frozen" else hurt.member(victim).kill)()
    load.wait_for_writes(20, BOUND)
    _pause(2.5)  # the watch may notice later than the writer
    (hurt.member(victim).cont if fault == "frozen" else hurt.member(victim).start)()
    load.wait_for_writes(20, BOUND)
    judge(load.finish())


def test_the_loss_of_the_quorum(hurt: Etcd, prefix: str) -> None:
    """Two members die and come back after two seconds: everything waits, goes on, and is right."""
    load = Load(hurt.endpoints, prefix)
    load.start()
    load.wait_for_writes(20, BOUND)
    victims = [hurt.member(1), hurt.member(2)]
    for victim in victims:
        victim.kill()
    _pause(2.0)
    for victim in victims:
        victim.start()
    load.wait_for_writes(20, BOUND)
    judge(load.finish())


def test_a_watch_leaves_a_member_without_leader(hurt: Etcd, client: EtcdClient, prefix: str) -> None:
    """A member that answers but hears no leader could stay behind for ever, so the watch gives it up and lists anew."""
    hurt.let_ask(client, 3)
    watch = Watch(client, prefix)
    told: list[Listing | Changes] = []
    follower = threading.Thread(target=lambda: told.extend(watch))
    follower.start()
    _wait(lambda: "etcd-watch-reader" in {thread.name for thread in threading.enumerate()}, 5.0)
    hurt.member(1).kill()
    hurt.member(2).kill()
    _wait(lambda: hurt.asked_by(client) != 3, BOUND)
    hurt.heal()
    put = client.transact([], [Put(prefix + "k", b"x")])
    _wait(lambda: bool(told) and _revision(told[-1]) >= put.revision, BOUND)
    watch.close()
    follower.join(BOUND)
    assert not follower.is_alive()
    assert sum(isinstance(one, Listing) for one in told) >= 2


def _revision(told: Listing | Changes) -> int:
    return told.snapshot.revision if isinstance(told, Listing) else told.revision


def test_without_quorum_every_call_ends(hurt: Etcd, client: EtcdClient, prefix: str) -> None:
    """With one member of three left, reads, writes and keepalives fail in bounded time and say what is known."""
    lease = client.grant_lease(60).id
    hurt.member(1).kill()
    hurt.member(2).kill()
    hurt.let_ask(client, 3)
    with _within(2.0), pytest.raises((StoreUnavailable, OutcomeUnknown)):
        client.transact([Absent(prefix)], [Put(prefix, b"x")], timeout=1.0)
    with _within(2.0), pytest.raises(StoreUnavailable, match="member"):
        client.get(prefix, timeout=1.0)
    for _ in hurt.members:
        with _within(2.0), pytest.raises(StoreUnavailable):
            client.keepalive_once(lease)
    hurt.heal()
    _wait(lambda: _renews(client, lease), BOUND)
    client.revoke_lease(lease)


def _renews(client: EtcdClient, lease: int) -> bool:
    """One keepalive asks one member once, and a channel that was refused rests for up to 1.5 s: a no is no verdict."""
    try:
        return client.keepalive_once(lease) == 60
    except StoreUnavailable:
        return False


def test_a_write_nobody_received_was_not_done(hurt: Etcd, client: EtcdClient, prefix: str) -> None:
    """With every member dead a write is StoreUnavailable, not unknown; and it works when they are back."""
    for member in hurt.members:
        member.kill()
    with _within(2.0), pytest.raises(StoreUnavailable):
        client.transact([], [Put(prefix, b"x")], timeout=1.0)
    for endpoint in hurt.endpoints:
        with _within(2.0), pytest.raises(StoreUnavailable, match=endpoint):
            client.member_status(endpoint)
    hurt.heal()
    assert client.get(prefix) is None
    assert client.transact([Absent(prefix)], [Put(prefix, b"x")]).succeeded


def test_a_write_to_a_frozen_member_is_unknown(hurt: Etcd, client: EtcdClient, prefix: str) -> None:
    """What was sent and not answered may happen later, so it is not sent again; the next call asks another member."""
    leader = hurt.leader()
    hurt.let_ask(client, leader)
    client.get(prefix)
    hurt.member(leader).stop()
    with _within(2.5), pytest.raises(OutcomeUnknown, match="DEADLINE"):
        client.transact([], [Put(prefix, b"x")])
    assert hurt.asked_by(client) != leader


def test_an_endpoint_that_accepts_and_says_nothing(etcd: Etcd, prefix: str) -> None:
    """A port that takes connections and never speaks costs one call's deadline, and is not asked again."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = EtcdClient([f"127.0.0.1:{mute.getsockname()[1]}", *etcd.endpoints])
        with _within(2.5):
            assert client.get(prefix) is None
        with _within(0.5):
            assert client.get(prefix) is None
        client.close()


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Fail if the block took longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def _pause(seconds: float) -> None:
    """Let a fault last: there is nothing to wait for."""
    threading.Event().wait(seconds)


def _wait(holds: Callable[[], bool], seconds: float) -> None:
    """Return when it holds; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        _pause(0.05)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, timeout=10)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[EtcdCluster, str]]:
    """Members in one network namespace, and the name of another one beside it for their client."""
    inside, outside = (f"contract-{side}-{os.getpid()}" for side in ("etcd", "client"))
    cluster = EtcdCluster(tmp_path / "etcd", [f"10.9.8.{n}" for n in (1, 2, 3)], netns=inside)
    with ExitStack() as undo:
        for name in (inside, outside):
            _ip(f"netns add {name}")
            undo.callback(_ip, f"netns del {name}")
        _ip(f"-n {inside} link add to-client type veth peer name to-etcd netns {outside}")
        for name, link in ((inside, "to-client"), (outside, "to-etcd")):
            _ip(f"-n {name} link set lo up")
            _ip(f"-n {name} link set {link} up")
        for n in (1, 2, 3):
            _ip(f"-n {inside} addr add 10.9.8.{n}/24 dev to-client")
        _ip(f"-n {outside} addr add 10.9.8.100/24 dev to-etcd")
        undo.callback(cluster.stop)
        cluster.start()
        yield cluster, outside


def test_a_member_that_is_cut_off(apart: tuple[EtcdCluster, str], prefix: str) -> None:
    """The packets of the member that is asked are dropped without a word: no reset, no refusal, no unreachable."""
    cluster, outside = apart
    command = ["ip", "netns", "exec", outside, sys.executable, "-m", "tests.contract.etcd_load"]
    with subprocess.Popen(
        [*command, ",".join(cluster.endpoints), prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        # Nobody has this hardware address, so every packet to the member is dropped on arrival.
        _ip(f"-n {outside} neigh replace 10.9.8.1 lladdr 02:00:00:00:00:01 dev to-etcd nud permanent")
        load.stdin.write("\n")
        load.stdin.flush()
        assert load.stdout.readline().strip().isdecimal()
        _pause(2.5)  # the watch may notice later than the writer
        answer, _ = load.communicate(timeout=40)
    verdict = json.loads(answer)
    verdict = Verdict(**{**verdict, "listings": tuple(verdict["listings"]), "errors": tuple(verdict["errors"])})
    assert len(verdict.listings) >= 2
    judge(verdict)
