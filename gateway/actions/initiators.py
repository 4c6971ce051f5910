"""Who may log in to an image: the access list of its spec, which the holder makes the target's ACLs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gateway.actions.ceph import Ceph
from gateway.actions.images import change
from gateway.actions.looking import look
from gateway.actions.waiting import Patience, Pending
from gateway.errors import NotFound, RbdgateError, Refused
from gateway.model import ImageName, ImageSpec, Iqn
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class Changed:
    """A spec as it stands now, at its revision; `warning` says what could not be done besides, or is empty."""

    spec: ImageSpec
    revision: int
    warning: str = ""


def allow(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn) -> Changed:
    """Let an initiator log in; allowed already is no error."""

    def with_it(spec: ImageSpec) -> ImageSpec:
        if spec.deleting:
            raise Refused(f"image {name} is being deleted")
        if initiator == spec.identity.iqn:
            raise Refused(f"{initiator} is the target's own name; name the initiator's")
        return spec if initiator in spec.initiators else replace(spec, initiators=(*spec.initiators, initiator))

    return _with_copy(ceph, *change(store, name, with_it))


def deny(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn) -> Changed:
    """Let an initiator log in no more, and end its sessions; NotFound if it was not allowed."""

    def without_it(spec: ImageSpec) -> ImageSpec:
        if initiator not in spec.initiators:
            allowed = ", ".join(map(str, spec.initiators)) or "nobody"
            raise NotFound(f"{initiator} is not allowed at image {name}; allowed are: {allowed}")
        return replace(spec, initiators=tuple(iqn for iqn in spec.initiators if iqn != initiator))

    return _with_copy(ceph, *change(store, name, without_it))


def listed(store: ClusterStore, name: ImageName) -> tuple[Iqn, ...]:
    """Who may log in."""
    spec, _ = store.image(name)
    return spec.initiators


def await_applied(store: ClusterStore, changed: Changed, patience: Patience) -> None:
    """Look on until the holder's kernel agrees with the spec; an image nobody serves agrees when it is taken up."""
    name, uid = changed.spec.name, changed.spec.uid

    def applied() -> Literal[True] | Pending:
        status = look(store)
        claim = status.view.claims.get(uid)
        report = status.reports.get(claim.node) if claim else None
        image = next((each for each in report.images if each.uid == uid), None) if report else None
        if claim is None or image is None or image.token != claim.token or not image.exported:
            return True  # whoever exports it next does so by this spec
        if image.applied >= changed.revision:
            return True
        return Pending(f"{claim.node} has not changed the access list of image {name} yet")

    patience.until(applied)


def _with_copy(ceph: Ceph, spec: ImageSpec, revision: int) -> Changed:
    """The change stands in etcd, which is what counts; without its copy only a rebuild from the pool would be older."""
    try:
        ceph.write_copy(spec)
    except RbdgateError as error:
        return Changed(spec, revision, f"the change is made, but not in the copy kept with the image: {error}")
    return Changed(spec, revision)
