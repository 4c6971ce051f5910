"""What is read from etcd and what is asked of it, as plain values: no connection, no protocol.

Rule: nothing here imports the client, so a fake store in a test speaks in the same values.
Keys are text; bytes that are no UTF-8 (somebody else's garbage) survive as surrogate escapes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeyValue:
    """One key as it was at one revision; `lease` is 0 if it has none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True)
class Snapshot:
    """All keys under a prefix, in key order, exactly as they were at `revision`."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True)
class Absent:
    """Holds if the key does not exist."""

    key: str


@dataclass(frozen=True)
class ModRevisionIs:
    """Holds if the key was last written at this revision (0: if it does not exist)."""

    key: str
    revision: int


@dataclass(frozen=True)
class CreateRevisionIs:
    """Holds if the key is still the one that was created at this revision (0: if it does not exist)."""

    key: str
    revision: int


@dataclass(frozen=True)
class ValueIs:
    """Holds if the key exists with exactly this value."""

    key: str
    value: bytes


Compare = Absent | ModRevisionIs | CreateRevisionIs | ValueIs


@dataclass(frozen=True)
class Put:
    """Write a key; with a lease it goes when the lease goes, and without one an earlier lease is taken off."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """Remove a key if it exists."""

    key: str


@dataclass(frozen=True)
class Get:
    """Read a key in the same instant."""

    key: str


Operation = Put | Delete | Get


@dataclass(frozen=True)
class TransactionResult:
    """Which branch ran; `reads` answers the `Get`s of that branch in their order (None: no such key).

    `revision` is the store's after the transaction: what a `Put` in it wrote has it as its mod revision.
    """

    succeeded: bool
    revision: int
    reads: tuple[KeyValue | None, ...] = ()


@dataclass(frozen=True)
class Lease:
    """A granted lease; `ttl` in seconds, as etcd rounded it."""

    id: int
    ttl: int


@dataclass(frozen=True)
class MemberStatus:
    """What one member says of itself; ids are etcd's, `leader_id` is 0 while it knows no leader."""

    endpoint: str
    member_id: int
    leader_id: int
    raft_term: int
    revision: int
    version: str
    database_bytes: int


@dataclass(frozen=True)
class Member:
    """One member of etcd's cluster as the others list it; one that has not started yet has no name."""

    id: int
    name: str
