"""Puts the agent together from its rooms, around the lease that is renewed already if there was one to inherit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from agent.announcer import Announcer
from agent.chronicle import Chronicle
from agent.clock import boottime
from agent.cycle import Cycle
from agent.defence import Defence
from agent.inheritance import Inheritance
from agent.keeper import LeaseKeeper
from agent.membership import Membership
from agent.monitoring.collector import Sources, registry_of
from agent.monitoring.endpoints import Endpoints
from agent.monitoring.monitor import Monitor
from agent.monitoring.pages import Pages
from agent.monitoring.readiness import Live
from agent.monitoring.server import Server
from agent.monitoring.storage import MeasuredStorage
from agent.narrator import Narrator
from agent.notify import notify
from agent.opening import Opener
from agent.reachability import Prober, Reachability
from agent.requests import RequestLedger
from agent.storage import StorageLink
from agent.wakeups import NetworkWatch, StoreWatch, Wake
from agent.workers import Workers
from gateway import lio
from gateway.images.cluster import CephConnection
from gateway.images.kernel_log import KernelLog
from gateway.kernel import NodeKernel
from gateway.runtime import RuntimeDirectory
from gateway.settings import Settings
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.events import EventStore

if TYPE_CHECKING:
    from gateway.storage import CephStorage

log = structlog.get_logger("main")

LAST_EVENTS = 1.0
"""How long an agent that ends waits for its last events to be written, in seconds: nothing hangs on them."""


@contextmanager
def assemble(settings: Settings, runtime: RuntimeDirectory, boot: str, inheritance: Inheritance) -> Iterator[Cycle]:
    """The agent's cycle, ready to run; afterwards lease, claims and exports are left to a successor."""
    wake, timers, monitor = Wake(), settings.timers, Monitor()

    papers, keeper, ears = inheritance.papers, inheritance.keeper, inheritance.ears
    ears.on_lease = partial(wake.set, "lease")
    ears.on_renewal, ears.on_request = monitor.counts.renewed, monitor.counts.etcd

    def client() -> EtcdClient:
        return EtcdClient(
            settings.etcd.endpoints, papers=papers, call_timeout=timers.etcd_call, heard=monitor.counts.etcd
        )

    link = StorageLink(lambda: _connect(settings, monitor), on_change=lambda: wake.set("storage"))
    kernel = NodeKernel(runtime, timers, client=lambda: link.connected().kernel_client)
    reachability = Reachability(timers, boottime())
    requests = RequestLedger(KernelLog(), runtime, boot)
    opener = Opener(settings.key_file, settings.etcd.prefix)
    membership = Membership(
        node=settings.node,
        version=version("rbdgate"),
        boot_id=boot,
        timers=timers,
        store=ClusterStore(client(), settings.etcd.prefix),
        leases=inheritance.leases,
        lease_client=inheritance.lease_client,
        link=link,
        kernel=kernel,
        runtime=runtime,
        on_change=wake.set,
        reachability=reachability,
        requests=requests,
        keeper=partial(LeaseKeeper, heard=monitor.counts.renewed),
        key_id=opener.key_id,
    )
    prober = Prober(
        reachability,
        link,
        timers=timers,
        on_change=lambda: wake.set("storage"),
        on_blocklisted=membership.client_fenced,
    )
    announcer = Announcer(kernel.announce, lambda: membership.tenure.runs(boottime()))
    kernel.on_address = announcer.again
    chronicle = Chronicle(EventStore(client(), settings.etcd.prefix), settings.node)
    defence = Defence(kernel.contested, kernel.macs, announcer.defend, tell=chronicle.tell)
    if keeper is not None:
        membership.adopt(keeper)
    log.info("agent starts", node=str(settings.node), version=version("rbdgate"), adopted=keeper is not None)
    lio.ensure_modules()

    chronicle.start()
    link.start()
    prober.start()
    announcer.start()
    defence.start()
    workers = Workers(
        slots=8, retry_first=timers.retry_first, retry_last=timers.retry_last, on_done=lambda: wake.set("worker")
    )
    narrator = Narrator(
        settings.node,
        version("rbdgate"),
        chronicle.tell,
        adopted=keeper.lease if keeper is not None else 0,
        runtime=runtime,
        lease_ttl=timers.lease_ttl,
    )
    kernel.during = narrator.during
    live = Live(
        clock=boottime,
        board=monitor.board,
        started=monitor.started,
        tenure=lambda: membership.tenure,
        reachability=reachability,
        connected=lambda: link.storage is not None,
        guard_sign=runtime.guard_sign,
    )
    endpoints = Endpoints(EtcdClient(settings.etcd.endpoints, papers=papers, call_timeout=timers.etcd_call))
    sources = Sources(
        node=str(settings.node),
        version=version("rbdgate"),
        timers=timers,
        live=live,
        guard_file=runtime.figures,
        members=endpoints.answering,
        at_work=workers.count,
        failing=lambda: len(workers.failing((Exception,))),
        events=chronicle.backlog,
        given_up=lambda: requests.given_up,
    )
    pages = Pages(registry_of(monitor.counts, sources), live)
    server = Server(settings.http, pages.page, boottime, monitor.counts.refused)
    cycle = Cycle(
        node=settings.node,
        version=version("rbdgate"),
        timers=timers,
        membership=membership,
        observer=kernel,
        workers=workers,
        wake=wake,
        guard_sign=runtime.guard_sign,
        on_turn=runtime.write_cycle_sign,
        opener=opener.open,
        narrator=narrator,
        monitor=monitor,
        remark=lambda: server.trouble,
    )
    endpoints.start()
    server.start()
    StoreWatch(client(), settings.etcd.prefix, wake).start()
    NetworkWatch(wake).start()
    notify(READY="1", STATUS="started")
    try:
        yield cycle
    finally:
        membership.stop()
        chronicle.flush(LAST_EVENTS)


def _connect(settings: Settings, monitor: Monitor) -> CephStorage:
    """A measured connection."""
    ceph, bound = settings.ceph, settings.timers.rados_operation
    connection = CephConnection(ceph.conf, ceph.user, ceph.keyring, op_timeout=bound)
    return MeasuredStorage(connection, settings.node, monitor)
