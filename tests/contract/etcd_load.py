"""One writer, one watch and one lease keeper on etcd, which together notice whatever a fault may break.

Run as `python -m tests.contract.etcd_load ENDPOINT,... PREFIX` it works in another network namespace: it says `ready`,
prints a line after each line it reads (the number of writes then), and its verdict as JSON at the end of input.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.errors import OutcomeUnknown, StoreUnavailable
from gateway.store.client import EtcdClient
from gateway.store.papers import Papers
from gateway.store.values import Get, KeyValue, ModRevisionIs, Put
from gateway.store.watch import Listing, Watch, Written

LEASE_TTL = 10


@dataclass(frozen=True)
class Verdict:
    """What the load saw; the longest stalls in seconds, `counted` what the counter says at the end."""

    writes: int
    counted: int
    unknown_outcomes: int
    longest_write: float
    longest_keepalive: float
    longest_watch: float
    listings: tuple[str, ...]
    watch_is_right: bool
    errors: tuple[str, ...]


class Load:
    """The three threads; each has a client of its own."""

    def __init__(self, endpoints: Sequence[str], prefix: str, papers: Papers | None = None) -> None:
        self.writer, self.keeper, self.follower = (EtcdClient(endpoints, papers=papers) for _ in range(3))
        self._prefix = prefix
        self._watch = Watch(self.follower, prefix)
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._told: dict[str, KeyValue] = {}
        self._told_revision = 0
        self._listings: list[str] = []
        self._errors: list[str] = []
        self._longest = {"write": 0.0, "keepalive": 0.0, "watch": 0.0}
        self._revision = 0
        self.writes = 0
        self.unknown_outcomes = 0
        self._threads = [threading.Thread(target=self._guarded(act)) for act in (self._write, self._keep, self._follow)]

    @property
    def clients(self) -> tuple[EtcdClient, ...]:
        """The clients, to choose which member they ask."""
        return (self.writer, self.keeper, self.follower)

    def start(self) -> None:
        """Begin; returns when the counter exists."""
        self._revision = self.writer.transact([], [Put(self._prefix + "count", b"0")]).revision
        for thread in self._threads:
            thread.start()

    def wait_for_writes(self, number: int, seconds: float) -> None:
        """Return after so many more writes; AssertionError if they take longer."""
        with self._progress:
            goal = self.writes + number
            assert self._progress.wait_for(lambda: self.writes >= goal or self._errors, seconds), (
                f"{number} writes took more than {seconds} s"
            )

    def abandon(self) -> None:
        """Let the threads end without a verdict: a test that failed must not be waited for."""
        self._stop.set()
        self._watch.close()

    def finish(self) -> Verdict:
        """Stop writing, let the watch catch up (bounded), and judge."""
        self._stop.set()
        self._threads[0].join(30)
        last = self.writer.get(self._prefix + "count", timeout=10)
        assert last is not None
        with self._progress:
            self._progress.wait_for(lambda: self._told_revision >= last.mod_revision, 15)
        truth = {item.key: item for item in self.writer.range(self._prefix, timeout=10).items}
        self._watch.close()
        for thread in self._threads:
            thread.join(30)
        for client in self.clients:
            client.close()
        return Verdict(
            writes=self.writes,
            counted=int(last.value),
            unknown_outcomes=self.unknown_outcomes,
            longest_write=round(self._longest["write"], 2),
            longest_keepalive=round(self._longest["keepalive"], 2),
            longest_watch=round(self._longest["watch"], 2),
            listings=tuple(self._listings),
            watch_is_right=self._told == truth,
            errors=tuple(self._errors),
        )

    def _guarded(self, act: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                act()
            except Exception as error:  # noqa: BLE001 - whatever ends a thread is part of the verdict
                with self._progress:
                    self._errors.append(f"{act.__name__}: {type(error).__name__}: {error}")
                    self._progress.notify_all()

        return run

    def _write(self) -> None:
        """Count up by guarded writes, each beside a key of its own; one of unknown outcome is sent again."""
        while not self._stop.is_set():
            began = time.monotonic()
            self._count_to(self.writes + 1)
            self._stall("write", time.monotonic() - began)
            with self._progress:
                self.writes += 1
                self._progress.notify_all()
            self._stop.wait(0.01)

    def _count_to(self, number: int) -> None:
        count = self._prefix + "count"
        puts = [Put(count, b"%d" % number), Put(f"{self._prefix}{number:06}", b"x")]
        while True:
            try:
                result = self.writer.transact([ModRevisionIs(count, self._revision)], puts, [Get(count)])
            except OutcomeUnknown:
                self.unknown_outcomes += 1
            except StoreUnavailable:
                self._stop.wait(0.05)
            else:
                break
        self._revision = result.revision
        if not result.succeeded:  # then an earlier one, of unknown outcome, has happened
            (found,) = result.reads
            assert found is not None
            assert int(found.value) == number, f"the counter says {found.value!r} instead of {number}"
            self._revision = found.mod_revision

    def _keep(self) -> None:
        """Keep a lease alive; LeaseGone would be an error of this thread."""
        lease = self.keeper.grant_lease(LEASE_TTL).id
        proven = time.monotonic()
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                self.keeper.keepalive_once(lease)
            except StoreUnavailable:
                self._stop.wait(0.05)
                continue
            self._stall("keepalive", time.monotonic() - proven)
            proven = sent
            self._stop.wait(0.2)
        self.keeper.revoke_lease(lease)

    def _follow(self) -> None:
        """Apply what the watch tells; nothing may be told twice, backwards, or without a listing after a gap."""
        heard = time.monotonic()
        for told in self._watch:
            with self._progress:
                if isinstance(told, Listing):
                    assert told.snapshot.revision >= self._told_revision, "a listing older than what was told"
                    self._listings.append(told.reason)
                    self._told = {item.key: item for item in told.snapshot.items}
                    self._told_revision = told.snapshot.revision
                else:
                    for event in told.events:
                        assert isinstance(event, Written), "nobody deletes here"
                        assert event.item.mod_revision > self._told_revision, "an event was told twice"
                        self._told[event.item.key] = event.item
                    self._told_revision = told.revision
                self._progress.notify_all()
            self._stall("watch", time.monotonic() - heard)
            heard = time.monotonic()

    def _stall(self, name: str, seconds: float) -> None:
        self._longest[name] = max(self._longest[name], seconds)


def main() -> None:
    """Run the load for another process that hurts etcd meanwhile."""
    load = Load(sys.argv[1].split(","), sys.argv[2])
    load.start()
    load.wait_for_writes(10, 20)
    _say("ready")
    for _ in sys.stdin:
        load.wait_for_writes(20, 20)
        _say(str(load.writes))
    _say(json.dumps(dataclasses.asdict(load.finish())))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
