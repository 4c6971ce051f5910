"""Ceph as the operator's acts need it: a protocol, and the real thing, which connects when it is first needed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.model import ImageName, ImageSpec, Instance
from gateway.schema import write_image
from gateway.settings import CephSettings
from gateway.timers import BLOCKLIST_EXPIRY

if TYPE_CHECKING:  # librados takes long to load, and most commands never need it
    from gateway.images.cluster import CephConnection


@dataclass(frozen=True)
class Carried:
    """An image that may be served again: its id and size in bytes, the copy of a spec in it, and what is in the way."""

    image_id: str
    size: int
    copy: str | None
    obstacles: tuple[str, ...]


class Ceph(Protocol):
    """What is asked of Ceph; every call raises what the images room raises."""

    def fsid(self) -> str:
        """The cluster's id."""
        ...

    def make_anchor(self, pool: str) -> None:
        """Make the anchor image unless it is there; NotFound for an unknown pool."""
        ...

    def make_image(self, name: ImageName, size: int) -> str:
        """Make an image of `size` bytes and return its id; AlreadyExists for a name in use."""
        ...

    def grow_image(self, spec: ImageSpec, size: int) -> None:
        """Make the image `size` bytes large; one that is that large already is left alone, Refused for a larger one."""
        ...

    def examine(self, name: ImageName) -> tuple[str, int, tuple[str, ...]]:
        """An image's id, its size in bytes and why it cannot be exported as it is; NotFound."""
        ...

    def write_copy(self, spec: ImageSpec) -> None:
        """Keep a copy of the spec in the image's own metadata."""
        ...

    def read_copy(self, name: ImageName) -> Carried:
        """What the image carries, and why it cannot be served; a lock that its last holder left is no reason."""
        ...

    def read_pr_info(self, spec: ImageSpec) -> bytes | None:
        """What the image's header records of its reservations, None if it never did; NotFound if it was removed."""
        ...

    def fence(self, spec: ImageSpec, victims: Collection[Instance]) -> None:
        """See to it that none of these clients writes to the image or has its lock any more; FenceUnconfirmed."""
        ...

    def move_to_trash(self, name: ImageName, image_id: str) -> None:
        """Take the image out of the pool's list with its data kept; NotFound, Refused while it is open."""
        ...


class CephCluster:
    """The real Ceph, connected at the first call; `op_timeout` in seconds bounds each operation."""

    def __init__(self, settings: CephSettings, op_timeout: float) -> None:
        self._settings, self._op_timeout = settings, op_timeout
        self._connected: CephConnection | None = None

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connected is not None:
            self._connected.close()

    def fsid(self) -> str:
        """The cluster's id."""
        return self._connection().fsid

    def make_anchor(self, pool: str) -> None:
        """Make the anchor image unless it is there."""
        from gateway.images.image import create_anchor  # noqa: PLC0415 - loaded when needed, as all of Ceph

        create_anchor(self._connection(), pool)

    def make_image(self, name: ImageName, size: int) -> str:
        """Make an image with the features `gateway.images.image` argues for."""
        from gateway.images.image import create_image  # noqa: PLC0415

        return create_image(self._connection(), name, size)

    def grow_image(self, spec: ImageSpec, size: int) -> None:
        """Grow the image, which may be mapped and written to meanwhile."""
        from gateway.images.growth import grow_image  # noqa: PLC0415

        grow_image(self._connection(), spec.name, spec.image_id, size)

    def examine(self, name: ImageName) -> tuple[str, int, tuple[str, ...]]:
        """The image as it is now; no client at all may have it open, for none of ours serves it yet."""
        from gateway.images.image import adoption_obstacles, describe_image  # noqa: PLC0415

        facts = describe_image(self._connection(), name)
        return facts.image_id, facts.size, adoption_obstacles(facts, ours=())

    def write_copy(self, spec: ImageSpec) -> None:
        """Write the spec's stored form, which has no secrets and names the image's id, under `rbdgate.spec`."""
        from gateway.images.image import header_of  # noqa: PLC0415
        from gateway.images.metadata import SPEC_KEY, write_metadata  # noqa: PLC0415

        write_metadata(header_of(self._connection(), spec.name, spec.image_id), SPEC_KEY, write_image(spec).decode())

    def read_copy(self, name: ImageName) -> Carried:
        """What is kept under `rbdgate.spec`, whoever wrote it.

        Whoever watches the image has it open, its last holder too, and may be serving it for another cluster.
        """
        from gateway.images.image import adoption_obstacles, describe_image, header_of  # noqa: PLC0415
        from gateway.images.metadata import SPEC_KEY, read_metadata  # noqa: PLC0415

        facts = describe_image(self._connection(), name)
        header = header_of(self._connection(), name, facts.image_id)
        holder = header.read().holder
        gone = set(holder.instances) - facts.watchers if holder else set()
        copy = read_metadata(header, SPEC_KEY)
        return Carried(facts.image_id, facts.size, copy, adoption_obstacles(facts, ours=gone))

    def read_pr_info(self, spec: ImageSpec) -> bytes | None:
        """The xattr as it is now."""
        from gateway.images.image import header_of  # noqa: PLC0415

        return header_of(self._connection(), spec.name, spec.image_id).read().pr_info

    def fence(self, spec: ImageSpec, victims: Collection[Instance]) -> None:
        """Blocklist the clients, show on the image's own objects that it holds, and take its lock from them."""
        from gateway.images.fence import fence  # noqa: PLC0415
        from gateway.images.image import break_locks, describe_image  # noqa: PLC0415

        facts = describe_image(self._connection(), spec.name)
        fence(self._connection(), victims, facts.touches, expire=BLOCKLIST_EXPIRY)
        break_locks(self._connection(), spec.name, victims)  # a dead client's lock stays until somebody breaks it

    def move_to_trash(self, name: ImageName, image_id: str) -> None:
        """Move the image to RBD's trash."""
        from gateway.images.trash import move_to_trash  # noqa: PLC0415

        move_to_trash(self._connection(), name, image_id)

    def _connection(self) -> CephConnection:
        if self._connected is None:
            from gateway.images.cluster import CephConnection  # noqa: PLC0415

            settings = self._settings
            self._connected = CephConnection(
                settings.conf, settings.user, settings.keyring, op_timeout=self._op_timeout
            )
        return self._connected
