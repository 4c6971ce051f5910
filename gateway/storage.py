"""RADOS as a step needs it: who has an image open, the fence, and the header's holder; one connection, one instance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.apply import Openers
from gateway.errors import DamagedTable, LostRace, NewerSchema, NotFound
from gateway.images.cluster import CephConnection, storage_errors
from gateway.images.fence import blocklist, fence
from gateway.images.header import is_of, refresh, release, take_over
from gateway.images.holder import Holder
from gateway.images.image import break_locks, describe_image, header_of
from gateway.images.krbd import KernelClient
from gateway.images.sequence import next_pr_info
from gateway.model import Amendment, ImageSpec, Instance, Label
from gateway.observed import ANCHOR
from gateway.reservations.amending import amended, known_by_name
from gateway.reservations.recording import recorded
from gateway.reservations.state import ReservationState
from gateway.settings import CephSettings
from gateway.timers import BLOCKLIST_EXPIRY


class CephStorage:
    """The real storage behind the steps. Every act raises what its room raises."""

    def __init__(self, connection: CephConnection, node: Label) -> None:
        self._connection, self._node = connection, node
        self._monitors = connection.mon_addresses()

    @classmethod
    def connect(cls, settings: CephSettings, node: Label, op_timeout: float) -> CephStorage:
        """A new connection, with a new client instance."""
        connection = CephConnection(settings.conf, settings.user, settings.keyring, op_timeout=op_timeout)
        return cls(connection, node)

    @property
    def instance(self) -> Instance:
        """This connection's client instance."""
        return self._connection.instance

    @property
    def kernel_client(self) -> KernelClient:
        """How the kernel logs in to the same cluster as the same user."""
        return KernelClient(self._monitors, self._connection.user, self._connection.key)

    def openers(self, spec: ImageSpec) -> Openers:
        """The header's holder, its watchers and its lock's owners, read now."""
        facts = describe_image(self._connection, spec.name)
        if facts.image_id != spec.image_id:
            raise NotFound(f"image {spec.name} has the id {facts.image_id} now, not {spec.image_id}: it was replaced")
        holder = header_of(self._connection, spec.name, spec.image_id).read().holder
        named = frozenset(holder.instances) if holder is not None else frozenset()
        released = holder is not None and holder.released
        return Openers(holder, facts.openers - named if released else facts.openers | named, facts.lock_owners)

    def fence(self, spec: ImageSpec, victims: frozenset[Instance]) -> None:
        """Blocklist the victims, show on the image's own objects that it holds, and only then take their locks."""
        facts = describe_image(self._connection, spec.name)
        fence(self._connection, victims, facts.touches, expire=BLOCKLIST_EXPIRY)
        break_locks(self._connection, spec.name, victims)

    def break_locks(self, spec: ImageSpec, owners: frozenset[Instance]) -> None:
        """Take the image's lock from owners that do not have it open any more."""
        break_locks(self._connection, spec.name, owners)

    def take(self, spec: ImageSpec, expected: Holder | None, mine: Holder, amendment: Amendment | None = None) -> None:
        """Swap the header's holder from exactly the one that was read to this node, and change `pr_info` with it.

        DamagedTable, with the way out, for reservations that cannot be understood.
        """

        def advance(text: bytes | None) -> bytes:
            with _understood(spec):
                after = next_pr_info(text) if amendment is None else amended(text, amendment)
                return after if spec.attributes.enforce_pr_isids else known_by_name(after)

        take_over(header_of(self._connection, spec.name, spec.image_id), expected, mine, advance)

    def reservations(self, spec: ImageSpec, token: int) -> ReservationState:
        """What the header keeps of the image's reservations; LostRace if it is not held under this claim.

        DamagedTable, with the way out, if they cannot be understood.
        """
        seen = header_of(self._connection, spec.name, spec.image_id).read()
        if not is_of(seen.holder, token, self._node):
            raise LostRace(f"image {spec.name}: its header does not name claim {token} of this node; decide anew")
        with _understood(spec):
            return recorded(seen.pr_info)

    def refresh(self, spec: ImageSpec, mine: Holder) -> None:
        """Put this node's present instances into the header it holds."""
        refresh(header_of(self._connection, spec.name, spec.image_id), mine)

    def release(self, spec: ImageSpec, token: int) -> None:
        """Say in the header that the image was let go cleanly; a header that never named this claim says nothing."""
        try:
            release(header_of(self._connection, spec.name, spec.image_id), token, self._node)
        except (LostRace, NotFound):
            return

    def read_anchor(self, pool: str) -> None:
        """Ask an OSD for something small: returns or raises when it has answered, or after the bound of an operation.

        The object is the one that gives the anchor's name its id (librbd's `util::id_obj_name`).
        """
        with self._connection.pool(pool) as ioctx, storage_errors(f"reading {pool}/{ANCHOR}"):
            ioctx.stat(f"rbd_id.{ANCHOR}")

    def blocklisted(self) -> frozenset[Instance]:
        """Every instance that has an entry on the blocklist now."""
        return frozenset(blocklist(self._connection))

    def fence_again(self, victims: frozenset[Instance]) -> None:
        """Put entries that vanished on the blocklist again."""
        fence(self._connection, victims, (), expire=BLOCKLIST_EXPIRY)


@contextmanager
def _understood(spec: ImageSpec) -> Iterator[None]:
    """What cannot be understood of an image's reservations is told with what an operator can do about it."""
    try:
        yield
    except NewerSchema as error:
        raise DamagedTable(
            f"image {spec.name} is not exported: {error}; upgrade rbdgate on this node, or empty its table of"
            f" reservations with `rbdgate reservation clear {spec.name} --reason TEXT`"
        ) from None
    except DamagedTable as error:
        raise DamagedTable(
            f"image {spec.name} is not exported: {error}; empty its table of reservations with"
            f" `rbdgate reservation clear {spec.name} --reason TEXT`"
        ) from None
