"""The connections to all members: which one is asked first, and how they all change when the node's papers do.

Rule: new channels are connected and have answered before the old ones are given up, so no call waits for a renewal;
while a member that the old ones reach is not reached by the new ones, the old ones stay, and it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from gateway.errors import BadSettings
from gateway.store import wire
from gateway.store.connection import Connection, LoginFailed
from gateway.store.papers import NotRenewed, Papers
from gateway.store.security import Identity
from gateway.store.wire import etcdrpc

AGAIN = 2.0
"""Seconds before a renewal that did not reach etcd is tried again."""


class Channels:
    """One connection a member, for any number of threads; `bound` is a call's, in seconds."""

    def __init__(self, endpoints: Sequence[str], papers: Papers, bound: float) -> None:
        if not endpoints:
            raise BadSettings("no etcd endpoint is given; name at least one as HOST:PORT")
        self.endpoints = tuple(endpoints)
        self._papers, self._bound = papers, bound
        self._identity = papers.identity
        self._connections = self._opened(self._identity)
        self._lock = threading.Lock()
        self._preferred = 0
        self._renewal: threading.Thread | None = None
        self._next_renewal = 0.0
        self._untaken: tuple[Identity | None, str] | None = None
        self._closed = threading.Event()

    @property
    def preferred(self) -> Connection:
        """The connection that is asked first now: the last one that answered."""
        self._keep_in_step()
        with self._lock:
            return self._connections[self._preferred]

    def to(self, endpoint: str) -> Connection:
        """The connection to that endpoint."""
        self._keep_in_step()
        with self._lock:
            return self._connections[self.endpoints.index(endpoint)]

    def avoid(self, connection: Connection) -> None:
        """Ask the next member first from now on, if this one still is the first."""
        with self._lock:
            if self._connections[self._preferred] is connection:
                self._preferred = (self._preferred + 1) % len(self._connections)

    def holds(self, connection: Connection) -> bool:
        """Whether it is in use: a stream on one that is not will be cut."""
        self._keep_in_step()
        with self._lock:
            return connection in self._connections

    def close(self) -> None:
        """Close every channel; calls under way in other threads fail."""
        self._closed.set()
        with self._lock:
            renewal, connections = self._renewal, self._connections
        _close(connections)
        if renewal is not None:
            renewal.join(2 * self._bound)

    def _opened(self, identity: Identity | None) -> tuple[Connection, ...]:
        return tuple(Connection(endpoint, self._papers, identity) for endpoint in self.endpoints)

    def _keep_in_step(self) -> None:
        identity = self._papers.identity
        with self._lock:
            if identity is self._identity or self._renewal is not None or self._closed.is_set():
                return
            if self._untaken is not None and self._untaken[0] is identity and time.monotonic() < self._next_renewal:
                return
            self._renewal = threading.Thread(target=self._renew, args=(identity,), name="etcd-renewal", daemon=True)
            self._renewal.start()

    def _renew(self, identity: Identity | None) -> None:
        """Connect anew beside what is in use, and take its place if it reaches as much."""
        fresh = self._opened(identity)
        why = self._shortcoming(fresh)
        with self._lock:
            spare = fresh
            if not why and not self._closed.is_set():
                spare, self._connections = self._connections, fresh
                self._identity, self._untaken = identity, None
        if why:
            self._report(identity, why)
        else:
            self._closed.wait(4 * self._bound)  # what is asked of the old ones has ended
        with self._lock:
            self._renewal = None
        _close(spare)

    def _shortcoming(self, fresh: tuple[Connection, ...]) -> str:
        """Why the new connections are not as good as the old ones; empty if they are."""
        old = {connection.endpoint for connection in self._connections if not self._silence(connection)}
        silent = {connection.endpoint: words for connection in fresh if (words := self._silence(connection))}
        lost = [f"{endpoint}: {words}" for endpoint, words in silent.items() if endpoint in old]
        if lost:
            return "; ".join(lost)
        return (
            "; ".join(f"{endpoint}: {words}" for endpoint, words in silent.items()) if len(silent) == len(fresh) else ""
        )

    def _silence(self, connection: Connection) -> str:
        """Why this member gives no answer; empty if it does."""
        if self._closed.is_set():
            return "this client is closed"
        try:
            connection.maintenance.Status(etcdrpc.StatusRequest(), self._bound)
            connection.log_in(None, lambda: self._bound)
        except wire.RpcError as error:
            return wire.describe(error)
        except LoginFailed:
            pass  # a password has nothing to do with the certificate
        return ""

    def _report(self, identity: Identity | None, why: str) -> None:
        """Tell why a new identity is not in use, once for each reason."""
        known, self._untaken = self._untaken, (identity, why)
        self._next_renewal = time.monotonic() + AGAIN
        if known != self._untaken and not self._closed.is_set():
            self._papers.tell(NotRenewed(f"etcd is not reached with the new files, the former stay in use; {why}"))


def _close(connections: tuple[Connection, ...]) -> None:
    for connection in connections:
        connection.close()
