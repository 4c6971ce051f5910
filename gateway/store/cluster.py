"""One cluster in etcd: the whole of it at one look, and what an operator writes.

`ClusterStore` is the door for every reader and writer; what agents write is in `holding.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gateway import schema
from gateway.errors import AlreadyExists, BadInput, Conflict, NotFound, Refused
from gateway.model import (
    Address,
    Amendment,
    AmendmentKind,
    ClusterSettings,
    ClusterView,
    FenceIntent,
    HolderRecord,
    ImageName,
    ImageSpec,
    Label,
    Move,
    NodeRecord,
    parse_address,
)
from gateway.store import view
from gateway.store.access import AccessStore
from gateway.store.events import EventStore
from gateway.store.guarded import Outcome
from gateway.store.keys import NODES, UNIQUE
from gateway.store.values import Absent, Compare, Delete, KeyValue, ModRevisionIs, Put, ValueIs

PATHS_BOUND = 32
"""Paths an image may have: etcd takes 128 operations in a transaction, and each path costs up to three."""

BATCH = 100
"""Writes in one transaction of many alike; etcd takes 128 operations."""


class ClusterStore(AccessStore):
    """A cluster's whole state under one prefix; errors as the client's, plus each act's own."""

    def view(self) -> ClusterView:
        """Everything at one revision; NotFound if there is no cluster, Inconsistent if its settings are damaged."""
        return view.view_of(self._client.range(self.keys.prefix), self.keys)

    def view_with_statuses(self) -> tuple[ClusterView, dict[Label, bytes]]:
        """The same with the nodes' reports, from the same instant."""
        snapshot = self._client.range(self.keys.prefix)
        return view.view_of(snapshot, self.keys), view.statuses(snapshot, self.keys)

    def events(self, *, timeout: float = 5.0) -> EventStore:
        """The cluster's log of events, by the same client; `timeout` in seconds bounds each act."""
        return EventStore(self._client, self.keys.prefix, timeout=timeout)

    def statuses(self) -> dict[Label, bytes]:
        """The live nodes' reports, as they wrote them."""
        return self.view_with_statuses()[1]

    def initialise(self, settings: ClusterSettings) -> None:
        """Write the cluster's settings for the first time; AlreadyExists if there is a cluster under the prefix."""
        key, value = self.keys.settings, schema.write_settings(settings)
        outcome = self._transact([Absent(key)], [Put(key, value)], [key])
        found = outcome.found.get(key)
        if outcome.revision is None and (found is None or found.value != value):
            raise AlreadyExists(f"there is a cluster under {self.keys.prefix} already; see `rbdgate cluster show`")

    def create_image(self, spec: ImageSpec) -> int:
        """Write a new image with everything that must be unique, all or nothing; returns the spec's revision.

        AlreadyExists says which value is taken and by which image.
        """
        owner = str(spec.name).encode()
        puts = [Put(self.keys.image(spec.name), schema.write_image(spec))]
        return self._where_all_is_free(spec, [*puts, *(Put(key, owner) for key in self.keys.unique(spec))])

    def refuse_taken(self, spec: ImageSpec) -> None:
        """Find out, without writing, what `create_image` would refuse now; AlreadyExists as there."""
        self._where_all_is_free(spec, [])

    def addresses_taken(self) -> dict[Address, str]:
        """Every portal address that is reserved, readable spec or not, and the name of the image that has it."""
        folder = self.keys.folder(UNIQUE) + "address/"
        taken = {}
        for item in self._client.range(folder).items:
            with suppress(BadInput):
                taken[parse_address(item.key.removeprefix(folder))] = item.value.decode("utf-8", "backslashreplace")
        return taken

    def replace_image(self, old: ImageSpec, new: ImageSpec, revision: int) -> int:
        """Change an image's spec, with what must be unique; returns its new revision.

        Conflict if the spec is not that of `revision` any more, AlreadyExists if a new value is taken.
        """
        if (old.name, old.uid) != (new.name, new.uid):
            raise BadInput(f"image {old.name}: neither name nor uid can be changed")
        _check_paths(new)
        image, value = self.keys.image(new.name), schema.write_image(new)
        before, after = self.keys.unique(old), self.keys.unique(new)
        gained = {key: words for key, words in after.items() if key not in before}
        owner = str(new.name).encode()
        outcome = self._transact(
            [ModRevisionIs(image, revision), *map(Absent, gained)],
            [
                Put(image, value),
                *(Put(key, owner) for key in gained),
                *(Delete(key) for key in before if key not in after),
                *(Delete(self.keys.served(address)) for address in _addresses(old) - _addresses(new)),
            ],
            [image, *gained],
        )
        if outcome.revision is not None:
            return outcome.revision
        found = outcome.found[image]
        if found is None:
            raise NotFound(f"image {new.name} was removed meanwhile")
        if found.value == value:
            return found.mod_revision
        if found.mod_revision != revision:
            raise Conflict(f"image {new.name} was changed by somebody else meanwhile; look and try again")
        raise AlreadyExists(f"image {new.name}: " + _taken(outcome, gained))

    def remove_image(self, spec: ImageSpec, revision: int, records: tuple[HolderRecord, ...] = ()) -> None:
        """Forget an image that is marked as deleting and held by nobody; a spec that is gone is no error.

        A claim compares the spec's revision and refuses a deleting one, so none can begin once that mark stands; and
        records are only added under a claim. So records read with no claim there are all there will be: those handed
        in (their clients fenced by the caller) go with the spec, and Refused says if there are others.
        """
        if not spec.deleting:
            raise Refused(f"image {spec.name} is not marked as deleting; nothing was removed")
        image, claim = self.keys.image(spec.name), self.keys.claim(spec.uid)
        known = {(record.instance, record.mod_revision) for record in records}
        left = [record for record in self.records_of(spec.uid) if (record.instance, record.mod_revision) not in known]
        if left:
            raise Refused(f"image {spec.name} may still be open on node {left[0].node} (client {left[0].instance})")
        keys = {self.keys.record(spec.uid, record.instance): record.mod_revision for record in records}
        outcome = self._transact(
            [ModRevisionIs(image, revision), Absent(claim), *(ModRevisionIs(k, n) for k, n in keys.items())],
            [
                Delete(image),
                *map(Delete, self.keys.unique(spec)),
                *map(Delete, keys),
                Delete(self.keys.move(spec.uid)),
                Delete(self.keys.amendment(spec.uid)),
                Delete(self.keys.connections(spec.uid)),
                *(Delete(self.keys.served(address)) for address in _addresses(spec)),
            ],
            [image, claim],
        )
        if outcome.revision is not None or outcome.found[image] is None:
            return
        if outcome.found[claim] is not None:
            raise Refused(f"image {spec.name} is still held; wait until its holder has let it go")
        raise Conflict(f"image {spec.name} was changed by somebody else meanwhile; look and try again")

    def request_move(self, uid: str, to: Label, why: str = "") -> Move:
        """Write down that an image is to be at a node; the last wish stands. NotFound without that image."""
        unique, key = self.keys.unique_uid(uid), self.keys.move(uid)
        image, earlier = self._client.get(unique), self._client.get(key)
        if image is None:
            raise NotFound(f"there is no image with uid {uid}")
        guard: Compare = Absent(key) if earlier is None else ModRevisionIs(key, earlier.mod_revision)
        value = schema.write_move(Move(to, 0, why))
        outcome = self._transact([ValueIs(unique, image.value), guard], [Put(key, value)], [key])
        if outcome.revision is not None:
            return Move(to, outcome.revision, why)
        found = outcome.found[key]
        if found is None or found.value != value:
            raise Conflict("the image was removed, or somebody else asked for a move at the same time; look again")
        return Move(to, found.mod_revision, why)

    def request_amendment(self, spec: ImageSpec, wanted: Amendment) -> int:
        """Write down a change of the image's recorded reservations, and return its revision.

        AlreadyExists says whose change is pending, NotFound if the image is gone. A CLEAR takes the place of whatever
        else is pending, read or not: a table or a wish that nobody understands must not be in the way of it.
        """
        unique, key = self.keys.unique_uid(spec.uid), self.keys.amendment(spec.uid)
        earlier = self._client.get(key)
        pending = _read_amendment(earlier)
        if earlier is not None and (
            wanted.kind is not AmendmentKind.CLEAR or (pending and pending.kind is AmendmentKind.CLEAR)
        ):
            raise AlreadyExists(_pending(spec, pending))
        guard: Compare = Absent(key) if earlier is None else ModRevisionIs(key, earlier.mod_revision)
        image, value = ValueIs(unique, str(spec.name).encode()), schema.write_amendment(wanted)
        outcome = self._transact([image, guard], [Put(key, value)], [unique, key])
        if outcome.revision is not None:
            return outcome.revision
        if outcome.found[unique] is None:
            raise NotFound(f"there is no image {spec.name} in this cluster (any more)")
        found = outcome.found[key]
        if found is not None and found.value == value:
            return found.mod_revision
        if found is None:
            raise Conflict(f"what was pending for image {spec.name} was done at this moment; look and try again")
        raise AlreadyExists(_pending(spec, _read_amendment(found)))

    def node_records(self) -> dict[Label, tuple[NodeRecord, int]]:
        """What was asked of each node, with the record's revision; a record that cannot be read is left out."""
        folder, found = self.keys.folder(NODES), {}
        for item in self._client.range(folder).items:
            with suppress(BadInput):
                record = schema.read_node(item.value, item.key)
                found[Label(item.key.removeprefix(folder))] = (record, item.mod_revision)
        return found

    def change_node(self, node: Label, record: NodeRecord, seen: Mapping[Label, int]) -> int:
        """Ask something else of a node, if each node in `seen`, it among them, still has the record of that revision.

        Returns the new revision; Conflict if one of them was changed meanwhile.
        """
        key, value = self.keys.node(node), schema.write_node(record)
        guards = {self.keys.node(other): revision for other, revision in seen.items()}
        outcome = self._transact([ModRevisionIs(k, n) for k, n in guards.items()], [Put(key, value)], [*guards])
        if outcome.revision is not None:
            return outcome.revision
        found = outcome.found[key]
        if found is not None and found.value == value:
            return found.mod_revision
        raise Conflict(f"what is asked of node {node}, or of another one, was changed by somebody else; look again")

    def fence_dead_node(self, node: Label, intents: tuple[FenceIntent, ...]) -> None:
        """Write down that these clients of a node are fenced for good; Refused if the node is live.

        A node that joins later has other clients: no word of this can meet them.
        """
        live = self.keys.live(node)
        for start in range(0, len(intents), BATCH):
            batch = intents[start : start + BATCH]
            puts = [Put(self.keys.fence(intent.instance), schema.write_fence(intent)) for intent in batch]
            if self._transact([Absent(live)], puts).revision is None:
                raise Refused(f"node {node} is live (again): its clients are not fenced")

    def remove_node(self, node: Label, revision: int) -> None:
        """Forget what was asked of a node that is not live; Refused if it is, Conflict if its record was changed."""
        key, live = self.keys.node(node), self.keys.live(node)
        outcome = self._transact([Absent(live), ModRevisionIs(key, revision)], [Delete(key)], [key, live])
        if outcome.revision is not None or outcome.found[key] is None:
            return
        if outcome.found[live] is not None:
            raise Refused(f"node {node} is live (again): stop its agent first, or it joins anew")
        raise Conflict(f"what is asked of node {node} was changed by somebody else meanwhile; look and try again")

    def _where_all_is_free(self, spec: ImageSpec, puts: list[Put]) -> int:
        """Write if neither the image nor anything that must be unique exists; returns the revision."""
        _check_paths(spec)
        image, unique = self.keys.image(spec.name), self.keys.unique(spec)
        outcome = self._transact([Absent(image), *map(Absent, unique)], puts, [image, *unique])
        if outcome.revision is not None:
            return outcome.revision
        found = outcome.found[image]
        if found is not None and puts and found.value == puts[0].value:  # ours: the uid is random
            return found.mod_revision
        if found is not None:
            raise AlreadyExists(f"image {spec.name} is served by this cluster already; see `rbdgate image show`")
        raise AlreadyExists(f"image {spec.name}: " + _taken(outcome, unique))

    def image(self, name: ImageName) -> tuple[ImageSpec, int]:
        """One image's spec with its revision; NotFound, or BadInput if it cannot be read."""
        found = self._client.get(self.keys.image(name))
        if found is None:
            raise NotFound(f"there is no image {name} in this cluster; see `rbdgate image list`")
        return schema.read_image(found.value, found.key), found.mod_revision


def _read_amendment(item: KeyValue | None) -> Amendment | None:
    try:
        return schema.read_amendment(item.value, item.key, revision=item.mod_revision) if item else None
    except BadInput:
        return None


def _pending(spec: ImageSpec, amendment: Amendment | None) -> str:
    what = amendment.words if amendment else "one that cannot be read, of a newer version or damaged"
    return f"image {spec.name}: another change of its reservations is pending ({what}); wait until it is made"


def _addresses(spec: ImageSpec) -> set[Address]:
    return {path.address for path in spec.paths}


def _check_paths(spec: ImageSpec) -> None:
    if len(spec.paths) > PATHS_BOUND:
        raise BadInput(f"image {spec.name}: {len(spec.paths)} paths are more than the {PATHS_BOUND} it may have")


def _taken(outcome: Outcome, unique: dict[str, str]) -> str:
    """Which of the values is taken and by whom."""
    for key, words in unique.items():
        found = outcome.found[key]
        if found is not None:
            return f"{words} is taken by image {found.value.decode('utf-8', 'backslashreplace')}; choose another"
    return "a value that must be unique was taken for a moment; try again"
