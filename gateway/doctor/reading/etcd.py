"""Reads what `checks/etcd.py` judges: each endpoint asked by itself. Nothing is written, not even a lease."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.doctor.checks.etcd import Certificate, EndpointFacts, EtcdFacts, Rights
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt
from gateway.doctor.sources import Sources
from gateway.settings import EtcdSettings
from gateway.store.client import EtcdClient
from gateway.store.exposition import Exposition
from gateway.store.keys import Keys
from gateway.store.permissions import may_read, may_write
from gateway.store.security import PLAIN, Security, read_identity, read_password

READS = 5
"""Reads of which the median is told."""

OUTSIDE = "/rbdgate-doctor"
"""A key that is in no cluster's prefix, and that nobody makes."""


def read(sources: Sources) -> EtcdFacts | Unread:
    """etcd as this node reaches it."""
    settings = sources.settings
    if isinstance(settings, Unread):
        return settings
    bound, now = settings.timers.etcd_call, time.time()
    certificate = attempt("what secures the way to etcd", lambda: _certificate(settings.etcd.security))
    if isinstance(certificate, Unread):
        return EtcdFacts((), certificate, certificate, certificate, bound, certificate, now=now)
    told = sources.expositions()
    endpoints = tuple(_endpoint(sources, endpoint, told) for endpoint in settings.etcd.endpoints)
    client = sources.client(settings.etcd.endpoints)
    try:
        members = attempt("etcd's list of members", client.members)
        alarms = attempt("etcd's alarms", client.alarms)
        rights = attempt("what etcd lets this node do", lambda: _rights(client, settings.etcd))
    finally:
        client.close()
    status = sources.status()
    known = status if isinstance(status, Unread) else f"a cluster with {len(status.view.images)} images is there"
    return EtcdFacts(endpoints, members, alarms, known, bound, certificate, rights, now)


def _certificate(security: Security) -> Certificate | None:
    """This node's, after every file that the settings name was read."""
    if security.password_file is not None:
        read_password(security.password_file)
    identity = read_identity(security)
    if identity is None or identity.ends is None:
        return None
    return Certificate(str(security.certificate_file), identity.ends.timestamp())


def _rights(client: EtcdClient, settings: EtcdSettings) -> Rights | None:
    """None where nothing was done to tell this node from others."""
    if settings.security == PLAIN:
        return None
    keys = Keys(settings.prefix)
    wanted = {keys.prefix: keys.settings, keys.events: keys.event_counter}
    return Rights(
        tuple(prefix for prefix, key in wanted.items() if not may_write(client, key)), may_read(client, OUTSIDE)
    )


def _endpoint(sources: Sources, endpoint: str, told: Mapping[str, Exposition | Unread]) -> EndpointFacts:
    assert not isinstance(sources.settings, Unread)
    client = sources.client((endpoint,))
    try:
        status = attempt(f"etcd member {endpoint}", lambda: client.member_status(endpoint))
        if isinstance(status, Unread):
            return EndpointFacts(endpoint, status, status)
        key = f"{sources.settings.etcd.prefix}settings"
        reads = attempt(f"reads from {endpoint}", lambda: tuple(_timed(client, key) for _ in range(READS)))
    finally:
        client.close()
    metrics = told[endpoint]
    if isinstance(metrics, Unread):
        return EndpointFacts(endpoint, status, reads)
    return EndpointFacts(endpoint, status, reads, metrics.quota, metrics.fsync_p99, metrics.certificate_ends)


def _timed(client: EtcdClient, key: str) -> float:
    began = time.monotonic()
    client.get(key)
    return time.monotonic() - began
