"""The agent's first act: it goes on with the lease that its predecessor left, before anything slow is loaded.

From the death of an agent its successor has what is left of the tenure, 6 s with the timers as shipped; the libraries
of Ceph, the metrics and the rest of the agent take a good part of that to load on a slow machine. So this imports no
more than a renewal needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from agent.clock import boottime
from agent.keeper import LeaseKeeper, Renewal, inherited
from gateway.runtime import RuntimeDirectory
from gateway.settings import Settings
from gateway.store.client import EtcdClient, Request
from gateway.store.cluster import ClusterStore
from gateway.store.papers import News, NotRenewed, Papers

log = structlog.get_logger("main")


class Ears:
    """Passes on what is heard of renewals and of requests to etcd to whoever is named; what comes before is lost."""

    def __init__(self) -> None:
        self.on_lease: Callable[[], None] | None = None
        self.on_renewal: Callable[[Renewal, float], None] | None = None
        self.on_request: Callable[[Request], None] | None = None

    def lease(self) -> None:
        """The lease or its claims changed."""
        if self.on_lease is not None:
            self.on_lease()

    def renewal(self, renewal: Renewal, seconds: float) -> None:
        """A renewal ended, after so many seconds."""
        if self.on_renewal is not None:
            self.on_renewal(renewal, seconds)

    def request(self, request: Request) -> None:
        """A request to etcd ended."""
        if self.on_request is not None:
            self.on_request(request)


@dataclass
class Inheritance:
    """What an agent begins with."""

    papers: Papers
    """One for all its clients of etcd: the files are read once."""
    lease_client: EtcdClient
    """Of its own, so that nobody else's call delays a renewal."""
    leases: ClusterStore
    ears: Ears
    keeper: LeaseKeeper | None
    """It runs already; None if no predecessor left a lease to go on with."""


def take_up(settings: Settings, runtime: RuntimeDirectory, boot: str) -> Inheritance:
    """Begin, and have the lease renewed at once that a predecessor on this boot left, if one did."""
    papers, ears = Papers(settings.etcd.security, tell=_log_renewal), Ears()
    etcd, timers = settings.etcd, settings.timers
    client = EtcdClient(etcd.endpoints, papers=papers, call_timeout=timers.etcd_call, heard=ears.request)
    leases, keeper = ClusterStore(client, etcd.prefix), None
    tenure = inherited(runtime, boot, str(settings.node), boottime())
    if tenure is not None:
        keeper = LeaseKeeper(leases, tenure, timers=timers, runtime=runtime, on_change=ears.lease, heard=ears.renewal)
        keeper.start()
    return Inheritance(papers, client, leases, ears, keeper)


def _log_renewal(news: News) -> None:
    if isinstance(news, NotRenewed):
        log.warning("etcd certificate not renewed", reason=news.reason)
    else:
        log.info("etcd certificate renewed", not_after=news.ends.isoformat() if news.ends else None)
