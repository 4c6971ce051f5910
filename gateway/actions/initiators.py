"""Who may log in to an image: the access list of its spec, which the holder makes the target's ACLs."""

from __future__ import annotations

from dataclasses import replace

from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, change, with_copy
from gateway.errors import NotFound, Refused
from gateway.model import ImageName, ImageSpec, Iqn
from gateway.store.cluster import ClusterStore


def allow(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn) -> Changed:
    """Let an initiator log in; allowed already is no error."""

    def with_it(spec: ImageSpec) -> ImageSpec:
        if spec.deleting:
            raise Refused(f"image {name} is being deleted")
        if initiator == spec.identity.iqn:
            raise Refused(f"{initiator} is the target's own name; name the initiator's")
        return spec if initiator in spec.initiators else replace(spec, initiators=(*spec.initiators, initiator))

    return with_copy(ceph, *change(store, name, with_it))


def deny(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn) -> Changed:
    """Let an initiator log in no more, and end its sessions; NotFound if it was not allowed."""

    def without_it(spec: ImageSpec) -> ImageSpec:
        if initiator not in spec.initiators:
            allowed = ", ".join(map(str, spec.initiators)) or "nobody"
            raise NotFound(f"{initiator} is not allowed at image {name}; allowed are: {allowed}")
        return replace(spec, initiators=tuple(iqn for iqn in spec.initiators if iqn != initiator))

    return with_copy(ceph, *change(store, name, without_it))


def listed(store: ClusterStore, name: ImageName) -> tuple[Iqn, ...]:
    """Who may log in."""
    spec, _ = store.image(name)
    return spec.initiators
