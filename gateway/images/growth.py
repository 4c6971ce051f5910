"""Growing an RBD image that is in use.

librbd changes a size under the image's exclusive lock (where it has that feature): it asks the owner for it, krbd hands
it over, and takes it back with its next write after the image was closed here. A guest's writes wait for that long.
Everybody who has the image open is told through the header, and krbd then asks for the new size.
"""

from __future__ import annotations

import rbd

from gateway.errors import NotFound, OutcomeUnknown, Refused
from gateway.images.cluster import CephConnection, storage_errors
from gateway.model import ImageName


def grow_image(connection: CephConnection, name: ImageName, image_id: str, size: int) -> None:
    """Make the image `size` bytes large, or leave it alone if it is; Refused if it is larger, now or by then.

    NotFound if the image of that name is not the one with that id, OutcomeUnknown without an answer.
    """
    with (
        connection.pool(name.pool, name.namespace) as ioctx,
        storage_errors(f"growing image {name}", timed_out=OutcomeUnknown),
        rbd.Image(ioctx, name.name) as image,
    ):
        if image.id() != image_id:
            raise NotFound(f"image {name} has the id {image.id()} now, not {image_id}: it was replaced")
        now = image.size()
        if now == size:
            return
        if now < size:
            try:
                image.resize(size, allow_shrink=False)  # librbd looks again, under the lock: nobody faster is undone
            except rbd.InvalidArgument:
                now = image.size()
                if now <= size:
                    raise
            else:
                return
        raise Refused(f"image {name} has {now} bytes in Ceph, more than {size}; it is not made smaller")
