"""The product's parts of one node, with their threads and clocks on the stage, and its ways to etcd and RADOS cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from agent.guard import Guard
from agent.keeper import LeaseKeeper
from agent.reachability import Prober
from agent.tenure import RequestsRead, RuntimeDirectory, Tenure
from agent.workers import Failure, Workers
from gateway.errors import OutcomeUnknown, RbdgateError, StorageUnavailable, StoreUnavailable
from gateway.images.kernel_log import Excerpt
from gateway.model import Claim, ClusterView, Connection, HolderRecord, ImageSpec, Instance, Label, LiveNode, Path
from gateway.observed import Interface, Kernel
from gateway.storage import CephStorage
from gateway.store import view as views
from gateway.store.cluster import ClusterStore
from gateway.store.keys import Keys
from gateway.store.values import Compare, KeyValue, Lease, Operation, Snapshot, TransactionResult
from tests.fakes.etcd import FakeEtcd
from tests.fakes.node import FakeKernel
from tests.fakes.rados import FakeConnection, FakeRados
from tests.simulation.signals import Meeting, Signal
from tests.simulation.stage import Actor, Process, Stage

T = TypeVar("T")

MONITORS_BOUND = 10.0
"""`mount_timeout`: how long krbd tries to make a client, in seconds."""


class Ways:
    """What of a node's connections is cut: `requests` or `answers` of etcd are lost, Ceph does not answer."""

    def __init__(self) -> None:
        self.etcd = ""
        self.ceph = False


class NodeEtcd:
    """One node's client of etcd: a point before each request arrives and one before its answer does."""

    def __init__(self, etcd: FakeEtcd, stage: Stage, ways: Ways, rate: float) -> None:
        self._etcd, self._stage, self._ways, self._rate = etcd, stage, ways, rate

    def range(self, prefix: str, *, keys_only: bool = False, timeout: float | None = None) -> Snapshot:
        """As `EtcdClient`."""
        return self._call("range", lambda: self._etcd.range(prefix, keys_only=keys_only), timeout)

    def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """As `EtcdClient`."""
        return self._call("get", lambda: self._etcd.get(key), timeout)

    def transact(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TransactionResult:
        """As `EtcdClient`."""
        return self._call("write", lambda: self._etcd.transact(compares, success, failure), timeout, OutcomeUnknown)

    def grant_lease(self, ttl: int, *, timeout: float | None = None) -> Lease:
        """As `EtcdClient`."""
        return self._call("lease", lambda: self._etcd.grant_lease(ttl), timeout)

    def keepalive_once(self, lease: int, *, timeout: float | None = None) -> int:
        """As `EtcdClient`."""
        return self._call("keepalive", lambda: self._etcd.keepalive_once(lease), timeout)

    def revoke_lease(self, lease: int, *, timeout: float | None = None) -> None:
        """As `EtcdClient`."""
        self._call("revoke", lambda: self._etcd.revoke_lease(lease), timeout)

    def _call(
        self, what: str, act: Callable[[], T], timeout: float | None, lost: type[RbdgateError] = StoreUnavailable
    ) -> T:
        self._stage.point(f"etcd {what}")
        if self._ways.etcd == "requests":
            self._stage.sleep((5.0 if timeout is None else timeout) / self._rate)
            raise lost("no etcd member answered in time")
        done = act()
        self._stage.point(f"etcd {what} answers")
        if self._ways.etcd == "answers":
            self._stage.sleep((5.0 if timeout is None else timeout) / self._rate)
            raise lost("no etcd member answered in time")
        return done


@lru_cache(maxsize=64)
def _view(snapshot: Snapshot, prefix: str) -> ClusterView:
    return views.view_of(snapshot, Keys(prefix))


class NodeStore(ClusterStore):
    """The real door to etcd; a look at the same keys as before is not read twice."""

    said: Callable[[str], None] = staticmethod(lambda _text: None)
    """Hears what is written that matters."""

    def view(self) -> ClusterView:
        """Everything at one revision."""
        return _view(self._client.range(self.keys.prefix), self.keys.prefix)

    def claim(self, spec: ImageSpec, revision: int, node: Label, lease: int) -> Claim:
        """As it is, and told."""
        claim = super().claim(spec, revision, node, lease)
        self.said(f"claims {spec.name.name}, token {claim.token}")
        return claim

    def release(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        """As it is, and told."""
        super().release(uid, token, records)
        self.said(f"lets go of claim {token}")

    def join(self, live: LiveNode) -> None:
        """As it is, and told."""
        super().join(live)
        self.said("joins")


class MemoryRuntime(RuntimeDirectory):
    """`/run/rbdgate` in memory, for one boot; `shorter` hears when the tenure ends earlier than it did."""

    def __init__(self, sign: Callable[[], float | None]) -> None:
        object.__setattr__(self, "path", None)
        object.__setattr__(self, "_tenure", None)
        object.__setattr__(self, "_requests", None)
        object.__setattr__(self, "_sign", sign)
        object.__setattr__(self, "shorter", lambda: None)

    _tenure: Tenure | None
    _requests: RequestsRead | None
    _sign: Callable[[], float | None]
    shorter: Callable[[], None]

    def write_tenure(self, tenure: Tenure) -> None:
        """Write it."""
        earlier = self._tenure is not None and tenure.end < self._tenure.end
        object.__setattr__(self, "_tenure", tenure)
        if earlier:
            self.shorter()

    def read_tenure(self, boot_id: str) -> Tenure | None:
        """Read it."""
        tenure = self._tenure
        return tenure if tenure is not None and tenure.boot_id == boot_id else None

    def drop_tenure(self) -> None:
        """Forget it."""
        object.__setattr__(self, "_tenure", None)
        self.shorter()

    def write_requests(self, read: RequestsRead) -> None:
        """Keep it."""
        object.__setattr__(self, "_requests", read)

    def read_requests(self, boot_id: str) -> RequestsRead | None:
        """What was kept."""
        return self._requests

    def write_guard_sign(self, now: float) -> None:
        """The guard's sign is as fresh as the guard is alive."""

    def guard_sign(self) -> float | None:
        """Its sign."""
        return self._sign()

    def drop_guard_sign(self) -> None:
        """Likewise."""


class StagedKeeper(LeaseKeeper):
    """The real keeper as an actor."""

    def __init__(self, process: Process, rate: float, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._process, self._stage = process, process.stage
        self._wake = Signal(self._stage, rate)  # type: ignore[assignment]
        self._stop_requested = Signal(self._stage, rate)  # type: ignore[assignment]
        self._proofs = Meeting(self._stage, rate)  # type: ignore[assignment]
        self._actor: Actor | None = None

    def start(self) -> None:
        """Begin."""
        self._actor = self._process.spawn("keeper", self.run)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        end = self._stage.now + (timeout or 0.0)
        while self._stage.current and self._actor and not self._actor.over and self._stage.now < end:
            self._stage.sleep(0.05)


class StagedWorkers(Workers):
    """The real workers; each piece of work is an actor."""

    def __init__(self, process: Process, **named: Any) -> None:
        super().__init__(**named)
        self._process = process

    def _start(self, key: str, work: Callable[[], None]) -> None:
        self._process.spawn(f"work {key[-6:]}", lambda: self._work(key, work))

    def _failed(self, key: str, error: Exception) -> Failure:
        if not isinstance(error, RbdgateError):
            self._process.stage.fail(f"{self._process.name}: a bug in the steps of {key}: {error!r}", error)
        return super()._failed(key, error)


class StagedGuard(Guard):
    """The real guard; it sleeps through looks at which it could only find that the tenure runs."""

    def __init__(self, stage: Stage, rate: float, **named: Any) -> None:
        super().__init__(**named)
        self._stop = self._signal = _GuardPause(stage, rate, self)  # type: ignore[assignment]
        self._runtime.shorter = self._signal.look  # type: ignore[attr-defined]

    def idle(self) -> float:
        """For how many seconds of its clock nothing can become due."""
        now, tenure = self._clock(), self._runtime.read_tenure(self._boot_id)
        if tenure is None or tenure.end + self._timers.guard_grace <= now:
            return max(0.0, self._look_at - now)
        return tenure.end + self._timers.guard_grace - now


class _GuardPause(Signal):
    def __init__(self, stage: Stage, rate: float, guard: StagedGuard) -> None:
        super().__init__(stage, rate)
        self._guard = guard

    def wait(self, timeout: float | None = None) -> bool:
        """One period, at least, and as long as nothing can happen; a tenure cut short ends that."""
        self._waiters.wait(self._guard.idle())
        self._waiters.stage.sleep(timeout or 0.0)
        return self.is_set()

    def look(self) -> None:
        """The tenure is not what it was."""
        self._waiters.rouse()


class StagedProber(Prober):
    """The real prober; itself and each of its reads are actors."""

    def __init__(self, process: Process, rate: float, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._process, self._rate = process, rate

    def start(self) -> None:
        """Begin."""
        self._process.spawn("prober", self.run)

    def run(self) -> None:
        """Probe for as long as the process lives."""
        while True:
            self.probe()
            self._process.stage.sleep(self._period / self._rate)

    def _begin(self, read: Callable[[], None]) -> Any:
        return self._process.spawn("probe", read)


class NodeLog:
    """A node's kernel log, in which only requests that were given up stand."""

    def __init__(self) -> None:
        self.given_up = 0

    def look(self, after: int) -> Excerpt:
        """What is new."""
        return Excerpt(max(after, self.given_up - 1), given_up=self.given_up - 1 > after)


class NodeLink:
    """As `StorageLink`: a connection made in an actor of its own, each with a new instance."""

    def __init__(self, process: Process, connect: Callable[[], CephStorage], on_change: Callable[[], None]) -> None:
        self._process, self._connect, self._on_change = process, connect, on_change
        self._storage: CephStorage | None = None

    @property
    def storage(self) -> CephStorage | None:
        """The connection, if there is one."""
        return self._storage

    @property
    def instance(self) -> Instance | None:
        """Its instance."""
        return self._storage.instance if self._storage else None

    def connected(self) -> CephStorage:
        """The connection, or why there is none."""
        if self._storage is None:
            raise StorageUnavailable("this node has no connection to Ceph: connecting")
        return self._storage

    def renew(self) -> None:
        """Another connection."""
        self._storage = None
        self.start()

    def start(self) -> None:
        """Connect, until it is done."""
        self._process.spawn("link", self._run)

    def _run(self) -> None:
        while True:
            try:
                self._storage = self._connect()
            except RbdgateError:
                self._process.stage.sleep(2.0)
                continue
            self._on_change()
            return


class NodeKernel(FakeKernel):
    """The fake kernel with a point before each act; what has to wait for Ceph waits on the stage.

    `in_flight` counts a client's writes to an image that have not come back. Each map has a serial number, higher than
    all before it in the cluster.
    """

    def __init__(self, rados: FakeRados, name: str, networks: dict[Label, Interface], stage: Stage, ways: Ways) -> None:
        super().__init__(rados, name, networks)
        self.stage, self.ways, self.rados = stage, ways, rados
        self.before = self._before
        self.in_flight: Callable[[Instance, str], int] = lambda _client, _uid: 0
        self.next_serial: Callable[[], int] = lambda: 0
        self.said: Callable[[str], None] = lambda _text: None
        self.serials: dict[int, int] = {}
        self.lock = _NoLock()

    def observe(self, view: ClusterView | None) -> Kernel:
        """Look."""
        self.stage.point("observe")
        return super().observe(view)

    def portal_addresses(self) -> frozenset[Any]:
        """What of ours is on the node."""
        return frozenset(self.state.addresses)

    def connections(self, spec: ImageSpec) -> tuple[Connection, ...]:
        """Nobody is nudged here."""
        return ()

    def teardown(self, uid: str, iqns: frozenset[Any], permit: Callable[[], None] = lambda: None) -> None:
        """Wait for the device's commands, then remove."""
        for device in self.state.devices_of(uid):
            self._drain(device.dev_path)
        super().teardown(uid, iqns, permit)

    def unmap(self, number: int) -> None:
        """Wait for the device's requests, then unmap."""
        self._drain(f"/dev/rbd{number}")
        super().unmap(number)

    def map_image(self, spec: ImageSpec, client: Instance) -> None:
        """Map; with no monitor in reach it hangs until there is one."""
        while self.ways.ceph:
            self.stage.sleep(0.5)
        super().map_image(spec, client)
        self.serials[self.state.mappings[-1].number] = self.next_serial()
        self.said(f"maps {spec.name.name}")

    def open_path(self, spec: ImageSpec, path: Path, permit: Callable[[], None]) -> None:
        """Open; between the permission and the address there is a moment, too."""

        def permitted() -> None:
            permit()
            self.stage.point("permitted")

        super().open_path(spec, path, permitted)

    def map_anchor(self, generation: int) -> None:
        """Map the anchor; without a monitor the kernel gives up."""
        if self.ways.ceph:
            self.stage.sleep(MONITORS_BOUND)
            raise StorageUnavailable("mapping the anchor: no monitor could be reached")
        super().map_anchor(generation)
        self.rados.connect(self.state.mappings[-1].instance)

    def _drain(self, dev_path: str) -> None:
        for mapping in self.state.mappings:
            while mapping.dev_path == dev_path and self.in_flight(mapping.instance, mapping.image_id):
                self.stage.sleep(0.1)

    def _set(self, **parts: object) -> None:
        super()._set(**parts)
        self.stage.change()

    def _before(self, act: str) -> None:
        self.stage.point(act)

    def set_link(self, number: int, *, up: bool) -> None:
        """Plug a network's cable in or out."""
        name = sorted(self.state.networks)[number - 1]
        networks = dict(self.state.networks)
        networks[name] = replace(networks[name], up=up)
        self.state = replace(self.state, networks=networks)


class _NoLock:
    def holder(self) -> None:
        """Nobody keeps it long here."""


def connection_of(rados: FakeRados, client: Instance, stage: Stage, ways: Ways) -> FakeConnection:
    """A connection that does not answer while the node is cut from Ceph."""

    def calling(what: str) -> None:
        stage.point(f"Ceph: {what}")
        if ways.ceph:
            stage.sleep(MONITORS_BOUND)
            error = OutcomeUnknown if "swapped" in what else StorageUnavailable
            raise error(f"{what}: Ceph did not answer in time")

    return FakeConnection(rados, client, calling)
