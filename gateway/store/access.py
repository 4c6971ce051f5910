"""What an operator writes about access as a whole: groups of initiators, and credentials, sealed already.

Each act also writes the key `access`, whose mod revision is what nodes answer with when their kernel agrees: so the
removal of a key has a revision, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway import schema
from gateway.credentials import SealedCredentials
from gateway.errors import AlreadyExists, BadInput, Conflict, NotFound, Refused
from gateway.model import Iqn, Label
from gateway.store.holding import HoldingStore
from gateway.store.keys import IMAGES
from gateway.store.values import Absent, Compare, Delete, KeyValue, ModRevisionIs, Operation, Put
from gateway.strict_json import write_form


class AccessStore(HoldingStore):
    """Groups and credentials; each act returns the revision at which it stands."""

    def group(self, name: Label) -> tuple[tuple[Iqn, ...], int]:
        """A group's members and the revision they were written at; NotFound, or BadInput if it cannot be read."""
        found = self._client.get(self.keys.group(name))
        if found is None:
            raise NotFound(f"there is no group {name} of initiators; see `rbdgate initiator group list`")
        return schema.read_group(found.value, found.key), found.mod_revision

    def create_group(self, name: Label, members: tuple[Iqn, ...]) -> int:
        """Make a group; AlreadyExists if there is one with other members."""
        key, value = self.keys.group(name), schema.write_group(members)
        outcome = self._transact([Absent(key)], [Put(key, value), self._changed()], [key])
        found = outcome.found.get(key)
        if outcome.revision is not None:
            return outcome.revision
        if found is None or found.value != value:
            raise AlreadyExists(f"there is a group {name} already; see `rbdgate initiator group show {name}`")
        return found.mod_revision

    def replace_group(self, name: Label, members: tuple[Iqn, ...], revision: int) -> int:
        """Change a group that was read at `revision`; Conflict if somebody else was faster."""
        return self._replace(self.keys.group(name), schema.write_group(members), revision, f"group {name}")

    def delete_group(self, name: Label) -> None:
        """Forget a group that no image names; Refused says which does.

        An image that comes to name it at the same moment says that there is no such group, and keeps its initiators.
        """
        key, folder = self.keys.group(name), self.keys.folder(IMAGES)
        found = self._client.get(key)
        if found is None:
            raise NotFound(f"there is no group {name} of initiators; see `rbdgate initiator group list`")
        snapshot = self._client.range(folder)
        users = [item.key.removeprefix(folder) for item in snapshot.items if _may_name(item, name)]
        if users:
            raise Refused(
                f"group {name} is used by image {', '.join(users)}: take it away there first"
                f" (`rbdgate initiator deny IMAGE --group {name}`)"
            )
        self._act([ModRevisionIs(key, found.mod_revision)], [Delete(key)], f"group {name}")

    def put_initiator(self, iqn: Iqn, sealed: SealedCredentials) -> int:
        """Write what an initiator proves itself with; the last word stands."""
        return self._put(self.keys.initiator(iqn), sealed, str(iqn))

    def delete_initiator(self, iqn: Iqn) -> int | None:
        """Let an initiator log in without authentication; None if it does so already."""
        return self._delete(self.keys.initiator(iqn), str(iqn))

    def put_discovery(self, sealed: SealedCredentials) -> int:
        """Write what discovery asks for."""
        return self._put(self.keys.discovery, sealed, "discovery")

    def delete_discovery(self) -> int | None:
        """Let discovery ask for nothing; None if it does so already."""
        return self._delete(self.keys.discovery, "discovery")

    def _put(self, key: str, sealed: SealedCredentials, what: str) -> int:
        found = self._client.get(key)
        value = schema.write_credentials(sealed)
        return self._replace(key, value, found.mod_revision if found else 0, f"the credentials of {what}")

    def _delete(self, key: str, what: str) -> int | None:
        found = self._client.get(key)
        if found is None:
            return None
        return self._act([ModRevisionIs(key, found.mod_revision)], [Delete(key)], f"the credentials of {what}")

    def _replace(self, key: str, value: bytes, revision: int, what: str) -> int:
        outcome = self._transact([ModRevisionIs(key, revision)], [Put(key, value), self._changed()], [key])
        if outcome.revision is not None:
            return outcome.revision
        found = outcome.found[key]
        if found is not None and found.value == value:
            return found.mod_revision
        raise Conflict(f"{what} was changed by somebody else meanwhile; look and try again")

    def _act(self, guards: Sequence[Compare], operations: Sequence[Operation], what: str) -> int:
        """A transaction that, when its outcome stays unknown and it is sent again, finds its own work done."""
        key = self.keys.access
        outcome = self._transact(guards, [*operations, self._changed()], [key, *(g.key for g in guards)])
        if outcome.revision is not None:
            return outcome.revision
        if any(outcome.found[guard.key] is not None for guard in guards):
            raise Conflict(f"{what} was changed by somebody else meanwhile; look and try again")
        found = outcome.found[key]
        return found.mod_revision if found is not None else 0

    def _changed(self) -> Put:
        return Put(self.keys.access, write_form())


def _may_name(item: KeyValue, group: Label) -> bool:
    """Whether an image's stored spec names a group; one that cannot be read may do so if the name stands in it."""
    try:
        return group in schema.read_image(item.value, item.key).groups
    except BadInput:
        return f'"{group}"'.encode() in item.value
