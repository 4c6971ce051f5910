"""Transactions that are guarded by the revisions they were decided on, and what that makes possible.

Rule: every transaction sent from here invalidates its own guards by running, or may run twice without harm. So when
its outcome is unknown it is sent again: if the second one runs, the first can never run any more; if it does not,
what stands in etcd says whether the first one did. Reading alone could not tell: the first might still be under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import OutcomeUnknown, StoreUnavailable
from gateway.store.keys import Keys
from gateway.store.values import Compare, Get, KeyValue, Operation, Snapshot, TransactionResult

ATTEMPTS = 6
"""How often a transaction whose outcome stays unknown is sent; each goes to another member."""


class Etcd(Protocol):
    """What is needed of `EtcdClient`; the fake of the tests offers the same."""

    def range(self, prefix: str, *, keys_only: bool = False, timeout: float | None = None) -> Snapshot:
        """All keys under a prefix, linearizably."""
        ...

    def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """One key, linearizably."""
        ...

    def transact(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TransactionResult:
        """One transaction, sent once."""
        ...

    def keepalive_once(self, lease: int, *, timeout: float | None = None) -> int:
        """One keepalive; the TTL that is left."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of a transaction: the revision it wrote, or None and what was found where it was told to look."""

    revision: int | None
    found: Mapping[str, KeyValue | None]


class GuardedStore:
    """A prefix of etcd with guarded transactions; `timeout` in seconds bounds each act as a whole."""

    def __init__(
        self,
        client: Etcd,
        prefix: str,
        *,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = Keys(prefix)
        self._client = client
        self._timeout = timeout
        self._clock = clock

    def _transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], look_at: Sequence[str] = ()
    ) -> Outcome:
        """Run the transaction, again while its outcome is unknown; OutcomeUnknown if that stays so to the deadline.

        `look_at` names the keys to read in the same instant if the guards do not hold.
        """
        deadline = self._clock() + self._timeout
        failure = [Get(key) for key in look_at]
        unknown: OutcomeUnknown | None = None
        for _ in range(ATTEMPTS):
            left = max(deadline - self._clock(), 0.1)
            try:
                return _outcome(self._client.transact(compares, success, failure, timeout=left), look_at)
            except OutcomeUnknown as error:
                unknown = error
            except StoreUnavailable:
                if unknown is None:
                    raise
                raise unknown from None  # this one did nothing, but an earlier one may have
            if self._clock() >= deadline:
                break
        assert unknown is not None
        raise unknown


def _outcome(result: TransactionResult, look_at: Sequence[str]) -> Outcome:
    if result.succeeded:
        return Outcome(result.revision, {})
    return Outcome(None, dict(zip(look_at, result.reads, strict=True)))
