"""Serving images again whose specs etcd has lost, from the copies that the images carry.

For an etcd that was wiped, or restored from before an image was made. The image is given back what its initiators know
it by: target name, serial, addresses, and who may log in. What is not in the copy is lost with etcd: groups'
members, CHAP credentials, where operators wanted images to be.

Whoever served the image before cannot serve it any more: with etcd its leases are gone, and its claim with them. What
is left of it the takeover finds in the image itself (`rbdgate.holder`) and fences.
"""

from __future__ import annotations

from dataclasses import replace

from gateway import schema
from gateway.actions.ceph import Ceph
from gateway.errors import BadInput, NewerSchema, Refused
from gateway.model import ClusterSettings, ImageName, ImageSpec
from gateway.store.cluster import ClusterStore


def restore(store: ClusterStore, ceph: Ceph, name: ImageName) -> ImageSpec:
    """Serve an image by the copy of its spec; Refused says everything that stands in the way, and changes nothing.

    AlreadyExists if etcd has the image, or one that was given its target name, serial or addresses meanwhile.
    """
    settings = store.view().settings
    found = ceph.read_copy(name)
    if found.obstacles:
        raise Refused(f"image {name} cannot be served: " + "; ".join(found.obstacles))
    spec = _spec_in(found.copy, name, found.image_id)
    _expect_networks(spec, settings)
    spec = replace(spec, name=name, size=found.size)  # it may have been renamed or grown after the copy was made
    store.refuse_taken(spec)
    ceph.write_copy(spec)
    store.create_image(spec)
    return spec


def _spec_in(copy: str | None, name: ImageName, image_id: str) -> ImageSpec:
    adopt = f"`rbdgate image adopt {name}` serves it under a new identity, or one that is named"
    if copy is None:
        raise Refused(f"image {name} carries no copy of a spec; {adopt}")
    try:
        spec = schema.read_image(copy.encode(), f"the copy of the spec in image {name}")
    except NewerSchema:
        raise  # adopting it would give away what a newer rbdgate can read
    except BadInput as error:
        raise Refused(f"{error}; {adopt}") from None
    if spec.image_id != image_id:
        raise Refused(f"image {name} has the id {image_id}, and inherited a copy made for {spec.image_id}; {adopt}")
    if spec.deleting:
        raise Refused(f"image {name} was being deleted when its spec was lost; {adopt}")
    return spec


def _expect_networks(spec: ImageSpec, settings: ClusterSettings) -> None:
    for path in spec.paths:
        network = settings.network_of(path.address)
        if network is None or network.name != path.network:
            raise Refused(
                f"image {spec.name} has the address {path.address} in network {path.network}, which this cluster does"
                " not have; `rbdgate cluster init` names the networks"
            )
