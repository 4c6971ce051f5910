"""RBD's trash: where a removed image goes, whole, until somebody empties it."""

from __future__ import annotations

import rbd

from gateway.errors import OutcomeUnknown, Refused
from gateway.images.cluster import CephConnection, storage_errors
from gateway.images.image import describe_image
from gateway.model import ImageName


def move_to_trash(connection: CephConnection, name: ImageName, image_id: str) -> None:
    """Take the image of that name and id out of the pool's list, data and snapshots kept (`rbd trash restore`).

    NotFound if there is none of that name, Refused if it is another one by now or somebody has it open.
    """
    facts = describe_image(connection, name)
    if facts.image_id != image_id:
        raise Refused(f"image {name} is another one now (id {facts.image_id}, not {image_id}); it is left alone")
    if facts.openers:
        clients = ", ".join(str(instance) for instance in sorted(facts.openers))
        raise Refused(f"image {name} is open at {clients}; it can go to the trash when nobody has it open")
    with (
        connection.pool(name.pool, name.namespace) as ioctx,
        storage_errors(f"moving image {name} to the trash", timed_out=OutcomeUnknown),
    ):
        rbd.RBD().trash_move(ioctx, name.name, 0)
