"""What ends the cycle's wait before its timer does: etcd, the kernel's network, the lease keeper, a finished step.

Each source runs in a thread of its own and only ever sets one event; none of them decides anything.
"""

from __future__ import annotations

import threading

import structlog

from gateway.errors import RbdgateError
from gateway.network import Changes
from gateway.store.client import EtcdClient
from gateway.store.watch import Watch

log = structlog.get_logger("wakeups")

RESTART_PAUSE = 1.0
"""Seconds before a watch that ended is begun anew."""


class Wake:
    """One event with the reasons it was set for, for the log."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reasons: set[str] = set()

    def set(self, reason: str) -> None:
        """End the wait, now or when it begins."""
        with self._lock:
            self._reasons.add(reason)
            self._event.set()

    def wait(self, timeout: float) -> tuple[str, ...]:
        """Wait at most `timeout` seconds; returns why it ended, empty if by the time."""
        self._event.wait(timeout)
        with self._lock:
            reasons, self._reasons = tuple(sorted(self._reasons)), set()
            self._event.clear()
        return reasons


class StoreWatch(threading.Thread):
    """Wakes the cycle at every change under the cluster's prefix."""

    def __init__(self, client: EtcdClient, prefix: str, wake: Wake) -> None:
        super().__init__(name="store-watch", daemon=True)
        self._client, self._prefix, self._wake = client, prefix, wake

    def run(self) -> None:
        """Follow the prefix for ever; whatever goes wrong wakes the cycle too, which reads for itself."""
        while True:
            try:
                for _ in Watch(self._client, self._prefix):
                    self._wake.set("etcd")
            except RbdgateError as error:
                log.warning("watch ended; beginning anew", error=str(error))
            self._wake.set("etcd")
            threading.Event().wait(RESTART_PAUSE)


class NetworkWatch(threading.Thread):
    """Wakes the cycle when a link or an address of this node changes."""

    def __init__(self, wake: Wake) -> None:
        super().__init__(name="network-watch", daemon=True)
        self._wake = wake

    def run(self) -> None:
        """Follow rtnetlink for ever."""
        with Changes() as changes:
            while True:
                if changes.wait(60.0):
                    self._wake.set("network")
