"""An agent without a kernel: it claims, reports, moves and lets go as a real one does, a turn at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from gateway.errors import Conflict
from gateway.model import ClusterView, HolderRecord, ImageSpec, Instance, Label, LiveNode
from gateway.placement import MOVES_AT_ONCE, Lately, Placement, candidates, should_leave
from gateway.report import ImageReport, NodeReport, PathReport
from gateway.reservations.amending import amended
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.vault import Vault
from tests.fakes.ceph import FakeCeph
from tests.fakes.etcd import FakeEtcd

KEY = Vault(bytes(range(32)))
"""The key of the secrets that all nodes have."""

BOOT = "a boot"


class FakeAgent:
    """One node; `stuck` keeps it from letting anything go, `broken` from exporting."""

    def __init__(self, store: ClusterStore, etcd: FakeEtcd | EtcdClient, name: str, address: str) -> None:
        self.store, self.node = store, Label(name)
        self.instance = Instance(f"{address}:0/1")
        self.lease = etcd.grant_lease(3600).id
        self.stuck = False
        self.key_id = KEY.key_id
        self.broken = ""
        self.ceph: FakeCeph | None = None
        clients = (self.instance, Instance(f"{address}:0/2"))
        networks = tuple(network.name for network in store.view().settings.networks)
        store.join(LiveNode(self.node, self.lease, BOOT, "0.1.0", networks, clients, key_id=self.key_id))

    def turn(self) -> None:
        """Look once, let go, take up, report."""
        view = self.store.view()
        for uid, claim in view.claims.items():
            spec = view.spec_of(uid)
            if claim.lease == self.lease and spec and should_leave(view, spec, self.node) and not self.stuck:
                self.store.release(uid, claim.token, self.store.records_of(uid))
        self._relocate(self.store.view())
        view = self.store.view()
        for spec in view.images.values():
            self._take(view, spec)
        self._amend(self.store.view())
        self._report(self.store.view())

    def _relocate(self, view: ClusterView) -> None:
        """Ask for what placement wants of this node's images; nobody is settled, so nothing is evened out."""
        for each in islice(Placement(view).relocations(Lately()), max(0, MOVES_AT_ONCE - len(view.moves))):
            if each.source == self.node:
                self.store.start_move(each.uid, view.claims[each.uid].token, each.target, each.reason)

    def _take(self, view: ClusterView, spec: ImageSpec) -> None:
        order = candidates(view, spec)
        if spec.uid in view.claims or spec.deleting or spec.stopped or not order or order[0].node != self.node:
            return
        try:
            claim = self.store.claim(spec, view.revisions[spec.name], self.node, self.lease)
        except Conflict:
            return
        record = HolderRecord(spec.uid, self.instance, self.node, claim.token, "krbd", BOOT)
        self.store.add_records(spec.uid, claim.token, (record,))
        if spec.uid in view.moves:
            self.store.finish_move(spec.uid, view.moves[spec.uid].revision)

    def _amend(self, view: ClusterView) -> None:
        """Change recorded reservations as operators asked, of what is held here."""
        for uid, amendment in view.amendments.items():
            claim, spec = view.claims.get(uid), view.spec_of(uid)
            if claim and claim.lease == self.lease and spec and self.ceph and not self.stuck:
                self.ceph.pr_info[spec.image_id] = amended(self.ceph.pr_info.get(spec.image_id), amendment)
                self.store.finish_amendment(uid, amendment.revision)

    def _report(self, view: ClusterView) -> None:
        images, applied = [], 0 if self.stuck else view.access_revision
        for uid, claim in view.claims.items():
            spec = view.spec_of(uid)
            if claim.lease == self.lease and spec:
                paths = tuple(PathReport(path.tag, up=not self.broken, reason=self.broken) for path in spec.paths)
                image = ImageReport(uid, claim.token, not self.broken, paths, self.broken)
                images.append(replace(image, applied=0 if self.stuck else view.wanted_revision(spec)))
        report = NodeReport(self.node, "0.1.0", f"holds {len(images)} images", tuple(images), discovery=applied)
        self.store.publish_status(self.node, self.lease, report.to_json())
