"""RBD images through librbd: make, look at, judge and remove them; and who has one open.

Looking opens the image read-only: that takes no watch and no lock, so it disturbs nobody and shows only others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import rbd

from gateway.errors import BadInput, Inconsistent, NotFound, OutcomeUnknown, Refused
from gateway.images.cluster import CephConnection, storage_errors
from gateway.images.fence import Touch
from gateway.images.header import ImageHeader
from gateway.model import ImageName, Instance
from gateway.observed import ANCHOR

CREATE_FEATURES: int = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
"""What a new image gets, and why no more and no less.

- layering: snapshots can be cloned later, and it costs nothing before.
- exclusive-lock: every other Ceph tool then sees that a writer is there, and an administrator's accidental second
  writer takes turns with the gateway instead of writing in between. It is no fence: krbd takes it while it maps
  (Linux 5.3 and later) and breaks the lock of an owner whose watch is gone, as a fenced one's is. The wait for an
  owner that lives and does not let go is bounded by `lock_timeout`. krbd's `exclusive` map option is not used:
  with it, snapshots of an exported image fail as "read-only image" (seen on Linux 6.1 with Ceph 16.2).
- not object-map and fast-diff: a second lock to break at a takeover and a write more for every object that comes
  into use. Whoever wants them for backups enables them; krbd has them since Linux 5.3 and they are not refused.
- not journaling: krbd cannot map such an image at all.
"""

_KRBD_FEATURES: int = (
    CREATE_FEATURES
    | rbd.RBD_FEATURE_STRIPINGV2
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
    | rbd.RBD_FEATURE_DATA_POOL
    | rbd.RBD_FEATURE_OPERATIONS
)
"""What Linux 6.1's krbd maps (RBD_FEATURES_SUPPORTED in drivers/block/rbd.c)."""

_ANCHOR_SIZE = 1 << 20


@dataclass(frozen=True)
class ImageFacts:
    """An image as Ceph knows it: `size` in bytes, `features` as RBD's bits, who has it open, who has its lock.

    `data_pool` is where the data objects lie: the image's own pool unless it was made with another.
    """

    name: ImageName
    image_id: str
    size: int
    features: int
    data_pool: str
    watchers: frozenset[Instance]
    lock_owners: frozenset[Instance]
    mirrored_from_elsewhere: bool

    @property
    def openers(self) -> frozenset[Instance]:
        """Every client instance that the image itself names as having it open."""
        return self.watchers | self.lock_owners

    @property
    def touches(self) -> tuple[Touch, ...]:
        """What a fence operates on: the header, and the first data object in the pool and namespace it lies in."""
        pool, namespace = self.name.pool, self.name.namespace
        return (
            Touch(pool, namespace, f"rbd_header.{self.image_id}"),
            Touch(self.data_pool, namespace, f"rbd_data.{self.image_id}.{0:016x}"),
        )


def create_image(connection: CephConnection, name: ImageName, size: int) -> str:
    """Make an image of `size` bytes with `CREATE_FEATURES`; returns its id.

    AlreadyExists for a name in use, NotFound for an unknown pool or namespace, OutcomeUnknown without an answer.
    """
    if size <= 0 or size % 512:
        raise BadInput(f"size {size}: an image needs a positive multiple of 512 bytes")
    _create(connection, name, size, CREATE_FEATURES)
    return describe_image(connection, name).image_id


def create_anchor(connection: CephConnection, pool: str) -> None:
    """Make the pool's anchor image unless it is there."""
    name = ImageName(pool=pool, name=ANCHOR)
    try:
        describe_image(connection, name)
    except NotFound:
        _create(connection, name, _ANCHOR_SIZE, rbd.RBD_FEATURE_LAYERING)


def describe_image(connection: CephConnection, name: ImageName) -> ImageFacts:
    """The image as it is now; NotFound if there is none of that name."""
    with _opened(connection, name) as image:
        features: int = image.features()
        mirror = image.mirror_image_get_info()
        return ImageFacts(
            name=name,
            image_id=image.id(),
            size=image.size(),
            features=features,
            data_pool=connection.pool_name(image.data_pool_id()),
            watchers=frozenset(_instance(name, watcher["addr"]) for watcher in image.watchers_list()),
            lock_owners=_lock_owners(name, image),
            mirrored_from_elsewhere=mirror["state"] != rbd.RBD_MIRROR_IMAGE_DISABLED and not mirror["primary"],
        )


def adoption_obstacles(facts: ImageFacts, ours: Collection[Instance]) -> tuple[str, ...]:
    """Why the image cannot be exported as it is, one sentence each with what to do; empty if it can.

    A parent, snapshots, a data pool, striping, object-map and fast-diff are no obstacles. `ours` are the instances
    of this cluster's own gateways.
    """
    obstacles = []
    if facts.features & rbd.RBD_FEATURE_JOURNALING:
        obstacles.append(
            "it has the journaling feature, which the kernel's RBD driver cannot map; use snapshot mirroring, or"
            f" `rbd feature disable {facts.name} journaling`"
        )
    if facts.features & rbd.RBD_FEATURE_MIGRATING:
        obstacles.append("it is being migrated; let `rbd migration commit` finish first")
    unknown = facts.features & ~(_KRBD_FEATURES | rbd.RBD_FEATURE_JOURNALING | rbd.RBD_FEATURE_MIGRATING)
    if unknown:
        obstacles.append(f"it has features {unknown:#x} that the kernel's RBD driver (Linux 6.1) does not know")
    if facts.mirrored_from_elsewhere:
        obstacles.append(f"it is a mirror's non-primary copy; `rbd mirror image promote {facts.name}` first")
    if facts.size <= 0 or facts.size % 512:
        obstacles.append(f"its size of {facts.size} bytes is not a positive multiple of 512; resize it")
    strangers = facts.watchers.difference(ours)
    if strangers:
        obstacles.append(f"it is open at {_listed(strangers)}; unmap or stop that client first")
    owners = facts.lock_owners.difference(ours, strangers)
    if owners:
        obstacles.append(f"its lock is held by {_listed(owners)}; see `rbd lock list {facts.name}`")
    return tuple(obstacles)


def break_locks(connection: CephConnection, name: ImageName, fenced: Collection[Instance]) -> None:
    """Take the image's lock from owners that are fenced already, and from no others.

    The kernel would do so when it maps, but asks the monitors to blocklist the owner once more, which costs a
    takeover a round of Paxos (0.7 s with Ceph's defaults); this connection's settings leave that out.
    """
    with _opened(connection, name) as image:
        lockers = image.list_lockers()
        for client, cookie, address in lockers["lockers"] if lockers else ():
            if Instance(address) in fenced:
                with suppress(rbd.ImageNotFound):  # its owner's lock went away meanwhile
                    image.break_lock(client, cookie)


def header_of(connection: CephConnection, name: ImageName, image_id: str) -> ImageHeader:
    """The header object of the image with that id."""
    return ImageHeader(connection, name.pool, name.namespace, image_id)


def _create(connection: CephConnection, name: ImageName, size: int, features: int) -> None:
    with (
        connection.pool(name.pool, name.namespace) as ioctx,
        storage_errors(f"creating image {name}", timed_out=OutcomeUnknown),
    ):
        rbd.RBD().create(ioctx, name.name, size, old_format=False, features=features)


@contextmanager
def _opened(connection: CephConnection, name: ImageName) -> Iterator[rbd.Image]:
    with (
        connection.pool(name.pool, name.namespace) as ioctx,
        storage_errors(f"image {name}"),
        rbd.Image(ioctx, name.name, read_only=True) as image,
    ):
        if image.old_format():
            raise Refused(f"image {name} has RBD's old format 1; copy it into a new image")
        yield image


def _lock_owners(name: ImageName, image: rbd.Image) -> frozenset[Instance]:
    lockers = image.list_lockers()
    return frozenset(_instance(name, address) for _, _, address in lockers["lockers"]) if lockers else frozenset()


def _instance(name: ImageName, text: str) -> Instance:
    try:
        return Instance(text)
    except BadInput as error:
        raise Inconsistent(f"image {name}: Ceph names a client that cannot be fenced: {error}") from None


def _listed(instances: Collection[Instance]) -> str:
    return ", ".join(str(instance) for instance in sorted(instances))
