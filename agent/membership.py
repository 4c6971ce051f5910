"""This node's membership: the lease and its keeper, the connection to RADOS, and the node's word in etcd.

One membership is one lease and one set of client instances. A successor of the agent on the same boot takes the lease
up from `/run` without touching a session. When the lease is gone or an instance is blocklisted, everything of ours is
withdrawn from the kernel first; only then a new lease is asked for, with new instances. The lease of a membership that
is over is ended earlier: as soon as nothing answers from this node any more (`_leave`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from agent.clock import boottime
from agent.emptying import Emptying, NotYet
from agent.keeper import LeaseKeeper, LeaseStore
from agent.reachability import Reachability
from agent.requests import RequestLedger
from agent.storage import StorageLink
from agent.storage_loss import StorageLoss, Witness
from agent.word import Fitness, clients, macs, own_addresses
from gateway.apply import Hands, KernelDoor
from gateway.errors import AlreadyExists, NotFound, RbdgateError, StorageUnavailable
from gateway.model import NOT_ANSWERED, ClusterView, Instance, Label, LiveNode
from gateway.observed import Kernel
from gateway.plan import plan_nothing
from gateway.runtime import RuntimeDirectory, Tenure
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.timers import Timers

if TYPE_CHECKING:
    from gateway.storage import CephStorage

log = structlog.get_logger("membership")


class Membership:
    """Joins, stays and leaves; the cycle asks it before every plan."""

    def __init__(
        self,
        *,
        node: Label,
        version: str,
        boot_id: str,
        timers: Timers,
        store: ClusterStore,
        leases: LeaseStore,
        lease_client: EtcdClient,
        link: StorageLink[CephStorage],
        kernel: KernelDoor,
        runtime: RuntimeDirectory,
        on_change: Callable[[str], None],
        clock: Callable[[], float] = boottime,
        keeper: Callable[..., LeaseKeeper] = LeaseKeeper,
        reachability: Reachability | None = None,
        requests: RequestLedger | None = None,
        key_id: Callable[[], str] = lambda: "",
    ) -> None:
        """Without a `reachability` that somebody feeds Ceph is never in doubt; without `requests` none was given up."""
        self.store = store
        self._node, self._version, self.boot_id, self._timers = node, version, boot_id, timers
        self._leases, self._link, self._kernel, self._runtime = leases, link, kernel, runtime
        self._lease_client, self._on_change, self._clock = lease_client, on_change, clock
        self._make_keeper = keeper
        self._key_id = key_id
        self._keeper: LeaseKeeper | None = None
        self._resigned: str | None = None
        self._emptying = Emptying(timers, clock)
        self._lock = threading.Lock()
        self.requests = requests
        self._reachability = reachability or Reachability(timers, clock())
        self._witness, self._loss = Witness(), StorageLoss(timers)
        self._leaving = ""

    @property
    def tenure(self) -> Tenure:
        """The proven tenure; over when there is none or this node has resigned."""
        keeper = self._keeper
        if keeper is None or self._resigned is not None:
            return Tenure(self.boot_id, keeper.lease if keeper else 0, 0.0)
        return keeper.tenure

    def adopt(self, keeper: LeaseKeeper) -> None:
        """Go on with a lease that a predecessor left; its keeper finds out if it lives.

        What the predecessor proved holds until its end: nothing is withdrawn meanwhile.
        """
        self._keeper = keeper

    def keep(self, tenure: Tenure) -> LeaseKeeper:
        """A started keeper of that lease."""
        keeper = self._make_keeper(
            self._leases,
            tenure,
            timers=self._timers,
            runtime=self._runtime,
            on_change=lambda: self._on_change("lease"),
        )
        keeper.start()
        return keeper

    @property
    def over(self) -> str:
        """Why the present membership is over, if it is; no path is opened under it from then on."""
        if self._resigned is not None:
            return self._resigned
        return "the lease is gone; withdrawing everything" if self._keeper is not None and self._keeper.gone else ""

    def ensure(self, view: ClusterView | None, kernel: Kernel, fitness: Fitness, over: str) -> None:
        """Be a member or raise `NotYet`; also keeps the node's word in etcd true, and resigns where Ceph is lost.

        `over` is what `over` was before the kernel was looked at.
        """
        keeper = self._keeper
        if keeper is not None and self.over:
            self._leave(keeper, kernel, over)
            keeper = None
        if keeper is None:
            self._emptying.expect(kernel, "withdrawing what an earlier membership left in the kernel")
            if self._leaving:
                raise NotYet(self._leaving)
            self._begin(view, kernel, fitness)
        if view is not None:
            self._mind_storage(view)
            self._speak(view, kernel, fitness)

    def leave(self, reason: str) -> None:
        """Begin no other membership from now on."""
        self._leaving = reason

    @property
    def ended(self) -> bool:
        """Whether this node has no lease (any more)."""
        return self._keeper is None or self._keeper.gone

    def resign(self, reason: str, lease: int) -> None:
        """Give the membership of that lease up: this node serves nothing more under its instances.

        A word about an earlier one, from work that hung since then, says nothing about the clients of this one.
        """
        with self._lock:
            if self._keeper is None or self._keeper.lease != lease:
                return
            if self._resigned is None:
                log.error("resigning", reason=reason)
                self._resigned = reason
        self._on_change("resigned")

    def prove(self) -> None:
        """Have the tenure and the claims proven anew, waiting as long as one etcd call may take."""
        if self._keeper is not None:
            self._keeper.prove(self._timers.etcd_call)

    def stop(self) -> None:
        """Stop renewing, leaving lease and claims to a successor."""
        if self._keeper is not None:
            self._keeper.stop()

    def rados_instance(self) -> Instance | None:
        """The instance of this node's RADOS client, if it is connected."""
        return self._link.instance

    def storage_obstacle(self) -> str | None:
        """Why RADOS is out of reach: it does not answer, or there is no connection; None if it is not."""
        if self._reachability.doubted(self._clock()):
            return NOT_ANSWERED
        try:
            self._link.connected()
        except StorageUnavailable as error:
            return str(error)
        return None

    def hands(self, permit: Callable[[str, int], bool]) -> Hands:
        """What this turn's steps work with."""
        lease, storage = self.tenure.lease, self._link.storage
        hands = Hands(self._node, lease, self.store, storage, self._kernel, permit, boot_id=self.boot_id)
        return hands if self.requests is None else replace(hands, complete=self.requests.complete)

    def client_fenced(self, storage: object, reason: str) -> None:
        """That connection was told that it is on the blocklist; what an earlier one is told ends no new membership."""
        keeper = self._keeper
        if keeper is not None and self._link.storage is storage:
            self.resign(reason, keeper.lease)

    def check_blocklist(self, fenced: frozenset[Instance], own: frozenset[Instance], lease: int) -> frozenset[Instance]:
        """Fence again whatever has no entry any more, returned; resign if one of that lease's own has one."""
        storage = self._link.connected()
        listed = storage.blocklisted()
        if own & listed:
            self.resign(
                f"this node's client {min(own & listed)} is on Ceph's blocklist: somebody fenced this node", lease
            )
        missing = fenced - listed
        if missing:
            log.warning("fences vanished from the blocklist; adding them again", instances=sorted(map(str, missing)))
            storage.fence_again(missing)
        return missing

    def publish(self, report: bytes) -> None:
        """Write the node's report under its lease."""
        self.store.publish_status(self._node, self.tenure.lease, report)

    def _begin(self, view: ClusterView | None, kernel: Kernel, fitness: Fitness) -> None:
        if view is None:
            raise NotYet("etcd does not answer, or the cluster is not initialised (`rbdgate cluster init`)")
        other = view.live.get(self._node)
        if other is not None:
            raise NotYet(
                f"node {self._node} is live under another lease ({other.lease:x}): an earlier lease of this node has"
                " not run out yet, or a second machine has the same node name"
            )
        lease = self._lease_client.grant_lease(round(self._timers.lease_ttl)).id
        try:
            self.store.join(self._word(lease, view, kernel, fitness))
        except (AlreadyExists, NotFound) as error:
            self._lease_client.revoke_lease(lease)
            raise NotYet(str(error)) from error
        self._resigned = None
        self._keeper = self.keep(Tenure(self.boot_id, lease, 0.0, node=str(self._node)))
        self.prove()

    def _leave(self, keeper: LeaseKeeper, kernel: Kernel, over: str) -> None:
        """End a membership whose lease is gone or that was resigned: the lease first, then what is in the kernel.

        The lease is ended as soon as nothing answers from here any more, read back, though devices may hang for as
        long as krbd waits for Ceph: holding on to it protects nothing, whatever the membership was resigned for. The
        records and headers of all that was held still name this node's clients, and those of a node without a lease are
        fenced by whoever takes an image, before it maps it, as after a crash. A client that is on the blocklist
        already is only named there once more. What still runs here under the old claims is refused: by etcd without
        the claim, by the header that names another, by the OSDs. The next membership begins with an empty kernel.

        A look from before the membership was over shows nothing: a worker may have opened a path after it.
        """
        keeper.abandon()
        self._runtime.drop_tenure()
        if not over:
            raise NotYet(self.over, withdraw=True)
        if not keeper.gone and not plan_nothing(kernel).first:
            self._end_lease(keeper)
        self._emptying.expect(kernel, self.over)
        if not keeper.gone:
            raise NotYet("the lease of the former membership could not be ended: etcd does not answer")
        self._link.renew()
        self._keeper, self._resigned = None, None

    def _end_lease(self, keeper: LeaseKeeper) -> None:
        try:
            self._lease_client.revoke_lease(keeper.lease)
        except RbdgateError as error:  # it runs out by itself; nobody renews it any more
            log.warning("the lease is not ended", lease=f"{keeper.lease:x}", error=str(error))
            return
        keeper.gone = True
        log.info("lease ended", lease=f"{keeper.lease:x}")

    def _mind_storage(self, view: ClusterView) -> None:
        """Ask Ceph anew where another node wants to know, and give everything up where only this one is not answered.

        A node that holds nothing has nothing to give up: it just takes nothing.
        """
        now, lease = self._clock(), self.tenure.lease
        self._reachability.pool = view.settings.anchor_pool
        running, silence = self._reachability.running(now), self._reachability.silence(now)
        since = self._witness.asked(view, self._node, running)
        if since is not None:
            self._reachability.expect_after(since)
        lost = self._loss.reason(view, self._node, silence=silence, running=running)
        if lost is not None and view.held_under(lease):
            self.resign(lost, lease)

    def _speak(self, view: ClusterView, kernel: Kernel, fitness: Fitness) -> None:
        word = self._word(self.tenure.lease, view, kernel, fitness)
        if not self.tenure.lease or view.live.get(self._node) == word:
            return
        try:
            self.store.refresh_live(word)
        except RbdgateError as error:  # what is served goes on; nothing is claimed before the word is true
            log.warning("this node's word in etcd is not refreshed", error=str(error))
        else:
            self._on_change("live")

    def _word(self, lease: int, view: ClusterView, kernel: Kernel, fitness: Fitness) -> LiveNode:
        return LiveNode(
            name=self._node,
            lease=lease,
            boot_id=self.boot_id,
            version=self._version,
            networks=fitness.networks,
            obstacle=fitness.obstacle,
            answered=self._witness.said(self._reachability.answered),
            instances=clients(view, kernel, self._link.instance),
            addresses=own_addresses(view, kernel),
            macs=macs(kernel),
            key_id=self._key_id(),
        )
