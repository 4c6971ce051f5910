"""Reads what `checks/etcd.py` judges: each endpoint asked by itself. Nothing is written, not even a lease."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.doctor.checks.etcd import EndpointFacts, EtcdFacts
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt
from gateway.doctor.sources import Sources
from gateway.store.client import EtcdClient
from gateway.store.exposition import Exposition

READS = 5
"""Reads of which the median is told."""


def read(sources: Sources) -> EtcdFacts | Unread:
    """etcd as this node reaches it."""
    settings = sources.settings
    if isinstance(settings, Unread):
        return settings
    told = sources.expositions()
    endpoints = tuple(_endpoint(sources, endpoint, told) for endpoint in settings.etcd.endpoints)
    client = EtcdClient(settings.etcd.endpoints, call_timeout=settings.timers.etcd_call)
    try:
        members = attempt("etcd's list of members", client.members)
        alarms = attempt("etcd's alarms", client.alarms)
    finally:
        client.close()
    status = sources.status()
    known = status if isinstance(status, Unread) else f"a cluster with {len(status.view.images)} images is there"
    return EtcdFacts(endpoints, members, alarms, known, settings.timers.etcd_call)


def _endpoint(sources: Sources, endpoint: str, told: Mapping[str, Exposition | Unread]) -> EndpointFacts:
    assert not isinstance(sources.settings, Unread)
    client = EtcdClient([endpoint], call_timeout=sources.settings.timers.etcd_call)
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
    return EndpointFacts(endpoint, status, reads, metrics.quota, metrics.fsync_p99)


def _timed(client: EtcdClient, key: str) -> float:
    began = time.monotonic()
    client.get(key)
    return time.monotonic() - began
