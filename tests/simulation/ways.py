"""A node's ways to etcd and RADOS: the product's doors with a point at each call, and with what can cut them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from gateway.errors import OutcomeUnknown, RbdgateError, StorageUnavailable, StoreUnavailable
from gateway.model import Claim, ClusterView, HolderRecord, ImageSpec, Instance, Label, LiveNode
from gateway.storage import CephStorage
from gateway.store import view as views
from gateway.store.cluster import ClusterStore
from gateway.store.keys import Keys
from gateway.store.values import Compare, KeyValue, Lease, Operation, Snapshot, TransactionResult
from tests.fakes.etcd import FakeEtcd
from tests.fakes.rados import FakeConnection, FakeRados
from tests.simulation.stage import Process, Stage

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

    def view_with_statuses(self) -> tuple[ClusterView, dict[Label, bytes]]:
        """The same; nobody on the stage looks at the reports."""
        return self.view(), {}

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


def connection_of(rados: FakeRados, client: Instance, stage: Stage, ways: Ways) -> FakeConnection:
    """A connection that does not answer while the node is cut from Ceph."""

    def calling(what: str) -> None:
        stage.point(f"Ceph: {what}")
        if ways.ceph:
            stage.sleep(MONITORS_BOUND)
            error = OutcomeUnknown if "swapped" in what else StorageUnavailable
            raise error(f"{what}: Ceph did not answer in time")

    return FakeConnection(rados, client, calling)
