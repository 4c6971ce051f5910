"""The agent's connection to RADOS: made in a thread of its own, for connecting can take long.

One connection is one client instance. `renew` drops it, so that the next membership has a new one; steps that still
run keep the old object until they are done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from gateway.errors import RbdgateError, StorageUnavailable
from gateway.model import Instance

log = structlog.get_logger("storage")

RETRY = 2.0
"""Seconds between two tries to connect."""


class Connected(Protocol):
    """A connection, which is one client instance."""

    @property
    def instance(self) -> Instance:
        """What the OSDs know it by."""
        ...


C = TypeVar("C", bound=Connected)


class StorageLink(threading.Thread, Generic[C]):
    """Keeps one connection to RADOS, or says why there is none."""

    def __init__(self, connect: Callable[[], C], on_change: Callable[[], None]) -> None:
        super().__init__(name="rados-link", daemon=True)
        self._connect, self._on_change = connect, on_change
        self._storage: C | None = None
        self._instance: Instance | None = None
        self._reason = "connecting"
        self._wanted = threading.Event()
        self._wanted.set()

    @property
    def storage(self) -> C | None:
        """The connection, if there is one."""
        return self._storage

    def connected(self) -> C:
        """The connection; `StorageUnavailable` with the reason if there is none."""
        storage = self._storage
        if storage is None:
            raise StorageUnavailable(f"this node has no connection to Ceph: {self._reason}")
        return storage

    @property
    def instance(self) -> Instance | None:
        """The connection's client instance, if there is a connection."""
        return self._instance

    def renew(self) -> None:
        """Forget the connection and make a new one, with a new client instance."""
        self._storage, self._instance, self._reason = None, None, "connecting anew"
        self._wanted.set()

    def run(self) -> None:
        """Connect whenever a connection is wanted, again after a while when it fails."""
        pause = threading.Event()
        while True:
            self._wanted.wait()
            try:
                storage = self._connect()
                self._wanted.clear()
                self._storage, self._instance = storage, storage.instance
            except RbdgateError as error:
                self._reason = str(error)
                log.warning("no connection to Ceph", error=str(error))
                pause.wait(RETRY)
                continue
            log.info("connected to Ceph", instance=str(storage.instance))
            self._on_change()
