"""What several subjects look at: settings, the cluster in etcd, the members' metrics. Each is read once, or not at all.

A subject that is slow to read here holds up others that need the same; each has its own bound (`examination`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from gateway.actions.looking import ClusterStatus, look
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt
from gateway.settings import Settings
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.exposition import Exposition, expose
from gateway.store.papers import Papers

T = TypeVar("T")


class Once(Generic[T]):
    """Something that is read when it is first wanted, by whichever thread wants it."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._found: list[T] = []

    def __call__(self) -> T:
        """The value; everybody waits for the first reader."""
        with self._lock:
            if not self._found:
                self._found.append(self._read())
            return self._found[0]


class Sources:
    """Where subjects get what they share; `settings_path` is the file in use, right or wrong."""

    def __init__(self, settings_path: Path) -> None:
        self.settings_path = settings_path
        self.settings: Settings | Unread = attempt("the settings file", lambda: Settings.load(settings_path))
        self.status: Callable[[], ClusterStatus | Unread] = Once(self._status)
        self.expositions: Callable[[], Mapping[str, Exposition | Unread]] = Once(self._expositions)

    def client(self, endpoints: tuple[str, ...]) -> EtcdClient:
        """A client of these endpoints, as the settings secure it; BadSettings if the files do not load."""
        assert not isinstance(self.settings, Unread)
        papers = Papers(self.settings.etcd.security)
        return EtcdClient(endpoints, papers=papers, call_timeout=self.settings.timers.etcd_call)

    def _status(self) -> ClusterStatus | Unread:
        settings = self.settings
        if isinstance(settings, Unread):
            return Unread("the cluster", settings.why)
        client = attempt("the cluster", partial(self.client, settings.etcd.endpoints))
        if isinstance(client, Unread):
            return client
        try:
            return attempt("the cluster", lambda: look(ClusterStore(client, settings.etcd.prefix)))
        finally:
            client.close()

    def _expositions(self) -> Mapping[str, Exposition | Unread]:
        settings = self.settings
        if isinstance(settings, Unread):
            return {}
        bound = settings.timers.etcd_call
        return {
            endpoint: attempt("the clock of a member", partial(expose, endpoint, bound, settings.etcd.security))
            for endpoint in settings.etcd.endpoints
        }
