"""What an agent writes: that its node is live, what it holds, who may have that open, and whom it fences.

Everything a holder writes compares the create revision of its claim: a node whose claim is gone writes nothing more.
"""

from __future__ import annotations

from gateway import schema
from gateway.errors import AlreadyExists, BadInput, ClaimLost, Conflict, Inconsistent, LeaseGone
from gateway.model import (
    Address,
    Claim,
    Connection,
    FenceIntent,
    HolderRecord,
    ImageSpec,
    Instance,
    Label,
    LiveNode,
    Move,
    NodeRecord,
)
from gateway.store import view
from gateway.store.guarded import GuardedStore
from gateway.store.keys import CLAIMS, FENCES, LIVE
from gateway.store.values import (
    Absent,
    Compare,
    CreateRevisionIs,
    Delete,
    KeyValue,
    ModRevisionIs,
    Put,
    ValueIs,
)


class HoldingStore(GuardedStore):
    """The agent's door to etcd; every act returns or raises within its deadline."""

    def keepalive(self, lease: int, *, timeout: float) -> float:
        """Renew a lease once; its TTL in seconds, or LeaseGone."""
        return float(self._client.keepalive_once(lease, timeout=timeout))

    def own_claims(self, lease: int, *, timeout: float | None = None) -> dict[str, int]:
        """The claims held under a lease, read linearizably: uid to token."""
        folder = self.keys.folder(CLAIMS)
        snapshot = self._client.range(folder, keys_only=True, timeout=timeout)
        return {item.key.removeprefix(folder): item.create_revision for item in snapshot.items if item.lease == lease}

    def join(self, live: LiveNode) -> None:
        """Become a member: the node's record (active, if it is new) and its sign of life under the lease.

        AlreadyExists if another agent lives under the node's name, LeaseGone if the lease is no more.
        """
        record = self.keys.node(live.name)
        if self._client.get(record) is None:
            active = Put(record, schema.write_node(NodeRecord()))
            self._transact([Absent(record)], [active])  # if it is there by now, an operator's word stands in it
        self.refresh_live(live)

    def refresh_live(self, live: LiveNode) -> None:
        """Write the node's sign of life anew: its networks or instances have changed. Errors as `join`."""
        key = self.keys.live(live.name)
        found = self._client.get(key)
        self._refuse_other_agent(live.name, live.lease, found)
        guard: Compare = Absent(key) if found is None else ModRevisionIs(key, found.mod_revision)
        value = schema.write_live(live)
        outcome = self._transact([guard], [Put(key, value, live.lease)], [key])
        if outcome.revision is None:
            now = outcome.found[key]
            self._refuse_other_agent(live.name, live.lease, now)
            if now is None or now.value != value:
                raise Conflict(f"the sign of life of node {live.name} was changed meanwhile; write it again")

    def publish_status(self, node: Label, lease: int, report: bytes) -> None:
        """Write the agent's report; only the agent that lives under the node's name may. LeaseGone if it does not."""
        live = self._own_live(node, lease)
        outcome = self._transact([live], [Put(self.keys.status(node), report, lease)])
        if outcome.revision is None:
            raise Conflict(f"node {node}: its sign of life was made anew while the report was written")

    def claim(self, spec: ImageSpec, revision: int, node: Label, lease: int) -> Claim:
        """Become the holder of an image nobody holds, if its spec is still that of `revision`.

        Conflict tells who holds it or what changed. A claim this lease has already is returned as it is.
        """
        if spec.deleting:
            raise Conflict(f"image {spec.name} is being deleted; it is not taken up any more")
        claim, image = self.keys.claim(spec.uid), self.keys.image(spec.name)
        live = self._own_live(node, lease)
        outcome = self._transact(
            [Absent(claim), ModRevisionIs(image, revision), live],
            [Put(claim, schema.write_claim(node), lease)],
            [claim, image],
        )
        if outcome.revision is not None:
            return Claim(node=node, lease=lease, token=outcome.revision)
        holder, found = outcome.found[claim], outcome.found[image]
        if holder is not None and holder.lease == lease:
            return Claim(node=node, lease=lease, token=holder.create_revision)
        if holder is not None:
            raise Conflict(f"image {spec.name} is held by {_holder(holder)} (claim {holder.create_revision})")
        if found is not None and found.mod_revision == revision:
            raise Conflict(f"image {spec.name}: node {node} lost its sign of life while claiming it")
        raise Conflict(f"image {spec.name} was {'changed' if found else 'removed'} while it was being claimed")

    def records_of(self, uid: str) -> tuple[HolderRecord, ...]:
        """Who may have the image open, read linearizably now; Inconsistent if a record cannot be read."""
        return view.records(self._client.range(self.keys.records(uid)), self.keys, uid)

    def add_records(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        """Record clients that may have the image open from now on; ClaimLost if the claim is not `token` any more."""
        puts = [Put(self.keys.record(uid, record.instance), schema.write_record(record)) for record in records]
        self._as_holder(uid, token, puts)

    def drop_records(self, uid: str, records: tuple[HolderRecord, ...]) -> None:
        """Forget clients that were read back as having nothing open; what is gone already is no error.

        Conflict if one of them was written anew since it was read: nothing was dropped then.
        """
        revisions = {self.keys.record(uid, record.instance): record.mod_revision for record in records}
        while revisions:
            guards = [ModRevisionIs(key, revision) for key, revision in revisions.items()]
            outcome = self._transact(guards, [Delete(key) for key in revisions], list(revisions))
            if outcome.revision is not None:
                return
            there = {key: item for key, item in outcome.found.items() if item is not None}
            changed = [key for key, item in there.items() if item.mod_revision != revisions[key]]
            if changed:
                raise Conflict(f"holder record {changed[0]} was written anew since it was read; look again")
            revisions = {key: revisions[key] for key in there}  # fewer each time round

    def release(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        """Give an image up: its claim and this node's records of it go in one transaction.

        Call it only after nothing of the image is left on this node. Done already is no error; ClaimLost if the claim
        was lost before this and the records still stand.
        """
        claim = self.keys.claim(uid)
        keys = [self.keys.record(uid, record.instance) for record in records]
        outcome = self._transact([CreateRevisionIs(claim, token)], [Delete(claim), *map(Delete, keys)], [claim, *keys])
        if outcome.revision is not None:
            return
        if any(outcome.found[key] is not None for key in keys):
            raise ClaimLost(f"claim {token} of image {uid} is gone: {_holder(outcome.found[claim])} has it now")

    def write_fence(self, intents: tuple[FenceIntent, ...], uid: str, token: int) -> None:
        """Write down whom the holder of claim `token` is about to fence; ClaimLost if it is not the holder any more."""
        self._as_holder(
            uid, token, [Put(self.keys.fence(intent.instance), schema.write_fence(intent)) for intent in intents]
        )

    def write_connections(self, uid: str, token: int, connections: tuple[Connection, ...]) -> None:
        """Write down which initiators are connected to the holder of claim `token`."""
        self._as_holder(uid, token, [Put(self.keys.connections(uid), schema.write_connections(connections))])

    def connections_of(self, uid: str) -> tuple[Connection, ...]:
        """The connections to an image's holder, or to its last one; what cannot be read is nobody to nudge."""
        found = self._client.get(self.keys.connections(uid))
        try:
            return schema.read_connections(found.value, found.key) if found else ()
        except BadInput:
            return ()

    def fences(self) -> dict[Instance, FenceIntent]:
        """Every fence on record."""
        return view.fences(self._client.range(self.keys.folder(FENCES)), self.keys)

    def drop_fences(self, intents: tuple[FenceIntent, ...]) -> None:
        """Forget fences whose victims are recorded nowhere any more; one that was written anew stays."""
        for intent in intents:
            key = self.keys.fence(intent.instance)
            self._transact([ValueIs(key, schema.write_fence(intent))], [Delete(key)])

    def live_instances(self) -> dict[Instance, Label]:
        """The clients of the nodes that are live now, read linearizably.

        Inconsistent if the word of one that has a lease cannot be read: its clients are unknown, not dead.
        """
        snapshot = self._client.range(self.keys.folder(LIVE))
        nodes = view.live_nodes(snapshot, self.keys)
        for item in snapshot.items:
            name = item.key.removeprefix(self.keys.folder(LIVE))
            if item.lease and name not in {str(node) for node in nodes}:
                raise Inconsistent(
                    f"{item.key} cannot be read, so nobody knows which clients are live node {name}'s: nobody is fenced"
                    " meanwhile; restart that node's agent, or stop it and wait until its lease has run out"
                )
        return {instance: live.name for live in nodes.values() for instance in live.instances}

    def mark_served(self, spec: ImageSpec, token: int, addresses: frozenset[Address]) -> None:
        """Write down that addresses of the image were served by the holder of claim `token`; ClaimLost if it is lost.

        Conflict if the image does not have one of them any more: a mark would outlive it, and hide a later stranger.
        """
        claim, owner = self.keys.claim(spec.uid), str(spec.name).encode()
        theirs = [ValueIs(self.keys.unique_address(address), owner) for address in addresses]
        marks = [Put(self.keys.served(address), owner) for address in sorted(addresses, key=str)]
        outcome = self._transact([CreateRevisionIs(claim, token), *theirs], marks, [claim])
        if outcome.revision is None:
            found = outcome.found[claim]
            if found is None or found.create_revision != token:
                raise ClaimLost(f"claim {token} of image {spec.uid} is gone: {_holder(found)} has it now")
            raise Conflict(f"image {spec.name}: its addresses were changed while they were marked as served")

    def start_move(self, uid: str, token: int, to: Label, why: str) -> None:
        """Write down where the holder of claim `token` wants the image to be; an earlier wish stands. ClaimLost."""
        claim, key = self.keys.claim(uid), self.keys.move(uid)
        put = Put(key, schema.write_move(Move(to, 0, why)))
        outcome = self._transact([CreateRevisionIs(claim, token), Absent(key)], [put], [claim, key])
        if outcome.revision is None and outcome.found[key] is None:
            raise ClaimLost(f"claim {token} of image {uid} is gone: {_holder(outcome.found[claim])} has it now")

    def finish_move(self, uid: str, revision: int) -> None:
        """Forget a move that was done or has become impossible; a newer one stays."""
        key = self.keys.move(uid)
        self._transact([ModRevisionIs(key, revision)], [Delete(key)])

    def finish_amendment(self, uid: str, revision: int) -> None:
        """Forget a change of recorded reservations that was made; a newer one stays."""
        key = self.keys.amendment(uid)
        self._transact([ModRevisionIs(key, revision)], [Delete(key)])

    def _as_holder(self, uid: str, token: int, operations: list[Put]) -> None:
        claim = self.keys.claim(uid)
        outcome = self._transact([CreateRevisionIs(claim, token)], operations, [claim])
        if outcome.revision is None:
            raise ClaimLost(f"claim {token} of image {uid} is gone: {_holder(outcome.found[claim])} has it now")

    def _own_live(self, node: Label, lease: int) -> Compare:
        """The guard that the node's sign of life is that of this lease; LeaseGone if it is not."""
        key = self.keys.live(node)
        found = self._client.get(key)
        if found is None or found.lease != lease:
            raise LeaseGone(f"node {node} is not live under lease {lease:x} (any more); join again")
        return CreateRevisionIs(key, found.create_revision)

    def _refuse_other_agent(self, node: Label, lease: int, found: KeyValue | None) -> None:
        if found is not None and found.lease != lease:
            raise AlreadyExists(
                f"another agent runs as node {node} (lease {found.lease:x}): two agents must not share a name; if that"
                " one is dead, its lease runs out by itself within the lease's TTL"
            )


def _holder(found: KeyValue | None) -> str:
    """Who a claim's key names, in words."""
    if found is None:
        return "nobody"
    try:
        return f"node {schema.read_claim(found.value, found.key)}"
    except BadInput:
        return "an unknown node"
