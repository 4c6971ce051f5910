"""An etcd in memory that passes the same contract tests as the real one: for faults and time no real one gives.

Time is the clock that is handed in; a lease ends when that clock says so, at the next call. `lose_next` makes the
next transactions end in OutcomeUnknown, having run or not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gateway.errors import LeaseGone, OutcomeUnknown, StoreUnavailable
from gateway.store.values import (
    Absent,
    Compare,
    CreateRevisionIs,
    Delete,
    Get,
    KeyValue,
    Lease,
    ModRevisionIs,
    Operation,
    Put,
    Snapshot,
    TransactionResult,
    ValueIs,
)


@dataclass
class _Lease:
    ttl: int
    ends: float


class FakeEtcd:
    """`EtcdClient`'s reading and writing API on one dict of keys; usable from several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._keys: dict[str, KeyValue] = {}
        self._leases: dict[int, _Lease] = {}
        self._revision = 1
        self._next_lease = 0x1000
        self._lost: deque[bool] = deque()
        self.down = False

    def lose_next(self, *ran: bool) -> None:
        """Let the answers of the next transactions be lost: for each, whether it runs all the same."""
        self._lost.extend(ran)

    def range(self, prefix: str, *, keys_only: bool = False, timeout: float | None = None) -> Snapshot:
        """All keys with this prefix, in the order of their bytes."""
        with self._turn():
            items = (item for key, item in self._keys.items() if key.startswith(prefix))
            ordered = sorted(items, key=lambda item: item.key.encode("utf-8", "surrogateescape"))
            return Snapshot(self._revision, tuple(replace(item, value=b"") if keys_only else item for item in ordered))

    def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """One key."""
        with self._turn():
            return self._keys.get(key)

    def transact(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TransactionResult:
        """One transaction; LeaseGone, with nothing done, if a `Put` names a lease that is no more."""
        with self._turn():
            lost = self._lost.popleft() if self._lost else None
            if lost is False:
                raise OutcomeUnknown("no answer (and it did not run)")
            result = self._run(compares, success, failure)
            if lost is True:
                raise OutcomeUnknown("no answer (but it ran)")
            return result

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._revision

    def peek(self, key: str) -> KeyValue | None:
        """One key as it is now, with nothing else happening, leases that ended included."""
        item = self._keys.get(key)
        lease = self._leases.get(item.lease) if item is not None else None
        return None if lease is not None and lease.ends <= self._clock() else item

    def grant_lease(self, ttl: int, *, timeout: float | None = None) -> Lease:
        """A new lease, running from now."""
        with self._turn():
            self._next_lease += 1
            self._leases[self._next_lease] = _Lease(ttl, self._clock() + ttl)
            return Lease(self._next_lease, ttl)

    def keepalive_once(self, lease: int, *, timeout: float | None = None) -> int:
        """Renew a lease; LeaseGone if it ran out."""
        with self._turn():
            found = self._leases.get(lease)
            if found is None:
                raise LeaseGone(f"lease {lease:x} is no more")
            found.ends = self._clock() + found.ttl
            return found.ttl

    def revoke_lease(self, lease: int, *, timeout: float | None = None) -> None:
        """End a lease with its keys."""
        with self._turn():
            if lease in self._leases:
                self._end(lease)

    def _turn(self) -> threading.RLock:
        """What every call begins with: leases whose time has come end."""
        if self.down:
            raise StoreUnavailable("no etcd member answered in time")
        with self._lock:
            for lease in [lease for lease, found in self._leases.items() if found.ends <= self._clock()]:
                self._end(lease)
        return self._lock

    def _end(self, lease: int) -> None:
        del self._leases[lease]
        gone = [key for key, item in self._keys.items() if item.lease == lease]
        self._revision += bool(gone)
        for key in gone:
            del self._keys[key]

    def _run(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
    ) -> TransactionResult:
        holds = all(self._holds(compare) for compare in compares)
        branch = success if holds else failure
        for operation in branch:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise LeaseGone(f"lease {operation.lease:x} is no more")
        puts = any(isinstance(operation, Put) for operation in branch)
        deletes = any(isinstance(operation, Delete) and operation.key in self._keys for operation in branch)
        self._revision += puts or deletes
        reads = [self._do(operation) for operation in branch]
        answered = [read for operation, read in zip(branch, reads, strict=True) if isinstance(operation, Get)]
        return TransactionResult(holds, self._revision, tuple(answered))

    def _holds(self, compare: Compare) -> bool:
        found = self._keys.get(compare.key)
        match compare:
            case Absent():
                return found is None
            case ModRevisionIs():
                return (found.mod_revision if found else 0) == compare.revision
            case CreateRevisionIs():
                return (found.create_revision if found else 0) == compare.revision
            case ValueIs():
                return found is not None and found.value == compare.value

    def _do(self, operation: Operation) -> KeyValue | None:
        found = self._keys.get(operation.key)
        match operation:
            case Put():
                created = found.create_revision if found else self._revision
                self._keys[operation.key] = KeyValue(
                    operation.key, operation.value, created, self._revision, operation.lease
                )
            case Delete():
                self._keys.pop(operation.key, None)
            case Get():
                return found
        return None
