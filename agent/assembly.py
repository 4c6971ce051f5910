"""Puts the agent together from its rooms, the lease first: nothing slow comes before the first renewal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import structlog

from agent.clock import boottime
from agent.leases import EtcdLeases
from agent.membership import Membership
from agent.notify import notify
from agent.storage import StorageLink
from agent.tenure import RuntimeDirectory
from agent.wakeups import NetworkWatch, StoreWatch, Wake
from agent.workers import Workers
from gateway.apply import Storage
from gateway.kernel import NodeKernel
from gateway.settings import Settings
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore

log = structlog.get_logger("main")


@contextmanager
def assemble(settings: Settings, runtime: RuntimeDirectory, boot: str) -> Iterator["Cycle"]:  # noqa: F821
    """The agent's cycle, ready to run; afterwards lease, claims and exports are left to a successor."""
    wake, timers = Wake(), settings.timers

    def client() -> EtcdClient:
        return EtcdClient(settings.etcd.endpoints, call_timeout=timers.etcd_call)

    lease_client, client_of_cycle = client(), client()
    link = StorageLink(lambda: _connect(settings), on_change=lambda: wake.set("storage"))
    kernel = NodeKernel.of(settings, runtime.lock)
    membership = Membership(
        node=settings.node,
        version=version("rbdgate"),
        boot_id=boot,
        timers=timers,
        store=ClusterStore(client_of_cycle, settings.etcd.prefix),
        leases=EtcdLeases(lease_client, ClusterStore(lease_client, settings.etcd.prefix)),
        link=link,
        kernel=kernel,
        runtime=runtime,
        on_change=wake.set,
    )
    adopted = membership.adopt()
    log.info("agent starts", node=str(settings.node), version=version("rbdgate"), adopted=adopted)
    from agent.cycle import Cycle  # noqa: PLC0415 - after the lease was taken up

    link.start()
    workers = Workers(
        threads=8, retry_first=timers.retry_first, retry_last=timers.retry_last, on_done=lambda: wake.set("worker")
    )
    cycle = Cycle(
        node=settings.node,
        version=version("rbdgate"),
        timers=timers,
        membership=membership,
        observer=kernel,
        workers=workers,
        wake=wake,
        guard_sign=runtime.guard_sign,
    )
    StoreWatch(client(), settings.etcd.prefix, wake).start()
    NetworkWatch(wake).start()
    notify(READY="1", STATUS="started")
    try:
        yield cycle
    finally:
        membership.stop()


def _connect(settings: Settings) -> Storage:
    from gateway.storage import connect  # noqa: PLC0415 - librados is slow to load, and this runs in its own thread

    return connect(settings.ceph, settings.timers.rados_operation)
