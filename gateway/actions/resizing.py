"""Growing an image while it is served.

Ceph's size comes first, the spec second: a spec never promises more than there is. Cut short in between, the image is
larger than its spec says, which nothing suffers from, and a second run with the same size finds nothing to do in Ceph
and goes on. The kernel's driver hears of the new size by itself (it watches the header), and LIO answers READ CAPACITY
with what the driver has, so initiators see it at their next rescan, in the session they have.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, change_served
from gateway.errors import BadInput, Refused
from gateway.model import ImageName, ImageSpec
from gateway.store.cluster import ClusterStore


def grow(store: ClusterStore, ceph: Ceph, name: ImageName, size: int) -> Changed:
    """Make an image `size` bytes large. Refused for fewer than it has: a guest's data would be cut off."""
    spec, _ = store.image(name)
    _check(spec, size)
    ceph.grow_image(spec, size)

    def grown(now: ImageSpec) -> ImageSpec:
        if now.image_id != spec.image_id:
            raise Refused(f"image {name} was replaced by another one meanwhile; look and try again")
        _check(now, size)
        return replace(now, size=size)

    return change_served(store, ceph, name, grown)


def _check(spec: ImageSpec, size: int) -> None:
    block = spec.attributes.block_size
    if spec.deleting:
        raise Refused(f"image {spec.name} is being deleted")
    if size <= 0 or size % block:
        raise BadInput(f"size {size} is not a positive multiple of {block} bytes, the block size of image {spec.name}")
    if size < spec.size:
        raise Refused(
            f"image {spec.name} has {spec.size} bytes; it is not made smaller ({size}), for whatever a guest has beyond"
            " that would be lost: copy what is needed into a new image"
        )
