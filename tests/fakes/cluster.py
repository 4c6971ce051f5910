"""etcd's part of a cluster in memory, as values: what `plan` sees and what a step's `Store` calls change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.errors import ClaimLost, Conflict
from gateway.model import (
    Address,
    Claim,
    ClusterView,
    Connection,
    FenceIntent,
    HolderRecord,
    ImageSpec,
    Instance,
    Label,
    Move,
)


@dataclass
class FakeStore:
    """One etcd that all fake nodes share; revisions grow by one with each write."""

    state: ClusterView
    connections: dict[str, tuple[Connection, ...]] = field(default_factory=dict)

    def view(self) -> ClusterView:
        """Everything at one revision."""
        return self.state

    def set(self, **parts: object) -> None:
        """Change parts of the state under a new revision."""
        self.state = replace(self.state, revision=self.state.revision + 1, **parts)  # type: ignore[arg-type]

    def claim(self, spec: ImageSpec, revision: int, node: Label, lease: int) -> Claim:
        """Claim if nobody has."""
        if spec.uid in self.state.claims or self.state.revisions[spec.name] != revision:
            raise Conflict(f"{spec.name} is claimed, or its spec changed")
        claim = Claim(node, lease, self.state.revision + 1)
        self.set(claims={**self.state.claims, spec.uid: claim})
        return claim

    def records_of(self, uid: str) -> tuple[HolderRecord, ...]:
        """The image's records."""
        return tuple(record for record in self.state.records if record.image_uid == uid)

    def add_records(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        """Add records under the claim."""
        self._guard(uid, token)
        keys = {(record.image_uid, record.instance) for record in records}
        kept = tuple(r for r in self.state.records if (r.image_uid, r.instance) not in keys)
        self.set(records=kept + records)

    def drop_records(self, uid: str, records: tuple[HolderRecord, ...]) -> None:
        """Delete records."""
        self.set(records=tuple(record for record in self.state.records if record not in records))

    def write_fence(self, intents: tuple[FenceIntent, ...], uid: str, token: int) -> None:
        """Record what will be fenced."""
        self._guard(uid, token)
        self.set(fences={**self.state.fences, **{intent.instance: intent for intent in intents}})

    def drop_fences(self, intents: tuple[FenceIntent, ...]) -> None:
        """Forget fences."""
        gone = {intent.instance for intent in intents}
        self.set(fences={i: f for i, f in self.state.fences.items() if i not in gone})

    def release(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        """Delete the claim and its records at once."""
        self._guard(uid, token)
        self.set(
            claims={u: c for u, c in self.state.claims.items() if u != uid},
            records=tuple(record for record in self.state.records if record not in records),
        )

    def mark_served(self, spec: ImageSpec, token: int, addresses: frozenset[Address]) -> None:
        """Mark addresses as served before."""
        self._guard(spec.uid, token)
        self.set(served=self.state.served | addresses)

    def start_move(self, uid: str, token: int, to: Label, why: str) -> None:
        """Write down a holder's own move unless there is one."""
        self._guard(uid, token)
        if uid not in self.state.moves:
            self.set(moves={**self.state.moves, uid: Move(to, self.state.revision + 1, why)})

    def finish_move(self, uid: str, revision: int) -> None:
        """Forget a move."""
        self.set(moves={u: m for u, m in self.state.moves.items() if (u, m.revision) != (uid, revision)})

    def finish_amendment(self, uid: str, revision: int) -> None:
        """Forget a change of reservations that was made."""
        kept = {u: a for u, a in self.state.amendments.items() if (u, a.revision) != (uid, revision)}
        self.set(amendments=kept)

    def connections_of(self, uid: str) -> tuple[Connection, ...]:
        """Who was connected to the last holder."""
        return self.connections.get(uid, ())

    def live_instances(self) -> Mapping[Instance, Label]:
        """Which live node each instance belongs to."""
        return {instance: node.name for node in self.state.live.values() for instance in node.instances}

    def expire(self, node: Label) -> None:
        """What the end of a node's lease does."""
        lease = self.state.live[node].lease
        self.set(
            live={n: word for n, word in self.state.live.items() if n != node},
            claims={u: c for u, c in self.state.claims.items() if c.lease != lease},
        )

    def _guard(self, uid: str, token: int) -> None:
        claim = self.state.claims.get(uid)
        if claim is None or claim.token != token:
            raise ClaimLost(f"claim {token} of {uid} is gone")
