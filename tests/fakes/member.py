"""A whole agent on fakes: membership, cycle and workers as assembled for real, over a fake etcd, kernel and Ceph."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.clock import boottime
from agent.cycle import Cycle, Turn
from agent.keeper import inherited
from agent.membership import Membership
from agent.monitoring.monitor import Monitor
from agent.narrator import Narrator
from agent.reachability import Reachability
from agent.wakeups import Wake
from agent.workers import Workers
from gateway.apply import Openers
from gateway.errors import Blocklisted, RbdgateError, StorageUnavailable
from gateway.events import Event
from gateway.images.holder import Holder
from gateway.model import Amendment, ClusterSettings, Connection, ImageSpec, Instance, Label, Network
from gateway.observed import Interface
from gateway.report import NodeReport
from gateway.runtime import RuntimeDirectory
from gateway.store.cluster import ClusterStore
from gateway.timers import Timers
from tests.fakes.etcd import FakeEtcd
from tests.fakes.node import FakeKernel, FakePool, FakeStorage

PREFIX = "/rbdgate/default/"


@dataclass
class MemberStorage(FakeStorage):
    """The fake RADOS client with what the membership asks of it; a blocklisted one is refused everything."""

    def openers(self, spec: ImageSpec) -> Openers:
        """As the parent; a released holder needs no fence."""
        self._expect_no_fence()
        return super().openers(spec)

    def take(self, spec: ImageSpec, expected: Holder | None, mine: Holder, amendment: Amendment | None = None) -> None:
        """As the parent."""
        self._expect_no_fence()
        super().take(spec, expected, mine, amendment)

    def fence_again(self, victims: frozenset[Instance]) -> None:
        """Add entries again."""
        self.pool.blocklist |= victims

    def _expect_no_fence(self) -> None:
        if self.instance in self.pool.blocklist:
            raise Blocklisted(f"{self.instance} is on the blocklist")


class MemberKernel(FakeKernel):
    """The fake kernel with the observer's part: `observing` and `connecting` may raise, to make a look fail."""

    connected: tuple[Connection, ...] = ()
    failure: RbdgateError | None = None

    def connections(self, specs: Sequence[ImageSpec]) -> dict[str, tuple[Connection, ...]]:
        """The connections as set, or the failure."""
        if self.failure is not None:
            raise self.failure
        owners = {path.address: spec.uid for spec in specs for path in spec.paths}
        return {uid: tuple(c for c in self.connected if owners.get(c.portal) == uid) for uid in owners.values()}


class FakeLink:
    """The connection to RADOS, made at once; `reason` says why there is none."""

    def __init__(self, pool: FakePool, number: str) -> None:
        self._pool, self._number, self._made = pool, number, 0
        self._storage: MemberStorage | None = None
        self.reason = ""
        self.renew()

    @property
    def storage(self) -> MemberStorage | None:
        """The connection, if there is one."""
        return None if self.reason else self._storage

    @property
    def instance(self) -> Instance | None:
        """Its instance."""
        return self.storage.instance if self.storage else None

    def connected(self) -> MemberStorage:
        """The connection, or why there is none."""
        if self.storage is None:
            raise StorageUnavailable(f"this node has no connection to Ceph: {self.reason}")
        return self.storage

    def renew(self) -> None:
        """A new connection with a new instance."""
        self._made += 1
        self._storage = MemberStorage(self._pool, Instance(f"10.0.1.{self._number}:0/{self._made}"))


@dataclass
class Cluster:
    """What all members share: etcd with a clock that the test moves, and RADOS."""

    networks: tuple[Network, ...]
    images: tuple[ImageSpec, ...]
    now: float = 0.0
    pool: FakePool = field(default_factory=FakePool)

    def __post_init__(self) -> None:
        self.etcd = FakeEtcd(lambda: self.now)
        self.store = ClusterStore(self.etcd, PREFIX, clock=lambda: self.now)
        self.store.initialise(ClusterSettings("fsid", self.networks, "rbd"))
        for spec in self.images:
            self.store.create_image(spec)


class Member:
    """One node. An agent can be started anew on the kernel and the runtime directory that an earlier one left."""

    def __init__(self, cluster: Cluster, name: str, path: Path) -> None:
        self.cluster, self.name, self.boot_id = cluster, Label(name), f"boot of {name}"
        self.runtime = RuntimeDirectory(path / name)
        links = {
            network.name: Interface(f"eth{i}", i, up=True, addresses=frozenset())
            for i, network in enumerate(cluster.networks)
        }
        self.kernel = MemberKernel(cluster.pool, name, links)
        self.acts: list[str] = []
        self.kernel.before = self.acts.append
        self.now = 0.0
        """The membership's clock."""
        self.ahead = 0.0
        """By how many seconds the cycle's clock is ahead of everybody else's."""
        self.guard_sign: float | None = 0.0
        """0: fresh at every look; else as `RuntimeDirectory.guard_sign`."""
        self.link = FakeLink(cluster.pool, name[-1])
        self.events: list[Event] = []
        """What the agents of this node told, in order."""

    def start(self, timers: Timers | None = None) -> bool:
        """Start an agent; returns whether it took up the lease of the one before."""
        timers = timers or Timers(retry_first=0.001, retry_last=0.001, claim_stagger=0.001)
        self.done = threading.Semaphore(0)
        self.wake = Wake()
        self.workers = Workers(
            slots=4, retry_first=timers.retry_first, retry_last=timers.retry_last, on_done=self.done.release
        )
        self.reachability = Reachability(timers, self.now)
        """Nobody probes: unless a test ticks, Ceph is not in doubt."""
        self.membership = Membership(
            node=self.name,
            version="1",
            boot_id=self.boot_id,
            timers=timers,
            store=self.cluster.store,
            leases=self.cluster.store,
            lease_client=self.cluster.etcd,  # type: ignore[arg-type] # the fake has what is asked of it
            link=self.link,  # type: ignore[arg-type]
            kernel=self.kernel,
            runtime=self.runtime,
            on_change=self.wake.set,
            clock=lambda: self.now,
            reachability=self.reachability,
        )
        self.runtime.write_cycle_sign(boottime())  # as the agents before this one did after each turn
        tenure = inherited(self.runtime, self.boot_id, str(self.name), boottime())
        if tenure is not None:
            self.membership.adopt(self.membership.keep(tenure))
        self.monitor = Monitor(clock=lambda: boottime() + self.ahead)
        self.cycle = Cycle(
            node=self.name,
            version="1",
            timers=timers,
            membership=self.membership,
            observer=self.kernel,
            workers=self.workers,
            wake=self.wake,
            monitor=self.monitor,
            guard_sign=self.sign,
            clock=lambda: boottime() + self.ahead,
            narrator=Narrator(
                self.name,
                "1",
                self.events.append,
                adopted=tenure.lease if tenure else 0,
                runtime=self.runtime,
                clock=lambda: boottime() + self.ahead,
            ),
        )
        return tenure is not None

    def sign(self) -> float | None:
        """When the guard last gave a sign of life."""
        return boottime() if self.guard_sign == 0.0 else self.guard_sign

    def stop(self) -> None:
        """End the agent as `systemctl stop` does."""
        self.membership.stop()

    def restart(self) -> bool:
        """Another agent with another connection to RADOS on the same kernel and runtime directory."""
        self.stop()
        self.link.renew()
        return self.start()

    def turn(self) -> Turn | None:
        """One turn, and all that it started is done."""
        turn = self.cycle.turn()
        self.idle()
        return turn

    def idle(self) -> None:
        """Wait until no worker is at work."""
        while self.workers.busy():
            assert self.done.acquire(timeout=10), f"still at work: {self.workers.busy()}"

    def settle(self) -> None:
        """Turns until there is nothing to do, twice in a row: a turn that only speaks leaves work for the next."""
        rested = 0
        for _ in range(24):
            turn = self.turn()
            rested = rested + 1 if turn is not None and turn.plan.empty and self.lease else 0
            if rested == 2:
                return
        raise AssertionError(f"{self.name} does not come to rest: {turn}")

    @property
    def lease(self) -> int:
        """The present lease; 0 if there is none."""
        return self.membership.tenure.lease

    @property
    def report(self) -> NodeReport | None:
        """What the node last said under its lease."""
        found = self.cluster.store.statuses().get(self.name)
        return NodeReport.from_json(found) if found is not None else None

    @property
    def empty(self) -> bool:
        """Whether nothing of ours is in the kernel."""
        state = self.kernel.state
        return not (state.devices or state.targets or state.mappings or state.addresses)
