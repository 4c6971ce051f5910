"""Changing an image's spec: on the revision it was read at, with its copy in the image, and seen by its holder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.actions.ceph import Ceph
from gateway.actions.looking import ClusterStatus, look
from gateway.actions.waiting import Patience, Pending
from gateway.errors import Conflict, RbdgateError, Refused
from gateway.model import ImageName, ImageSpec
from gateway.store.cluster import ClusterStore

ATTEMPTS = 5
"""How often a change is decided anew when somebody else changed the same thing meanwhile."""


@dataclass(frozen=True)
class Changed:
    """A spec as it stands now, at its revision; `warning` says what could not be done besides, or is empty."""

    spec: ImageSpec
    revision: int
    warning: str = ""


def change(store: ClusterStore, name: ImageName, to: Callable[[ImageSpec], ImageSpec]) -> tuple[ImageSpec, int]:
    """Change an image's spec on the revision it was read at, again if somebody else was faster."""
    for attempt in range(ATTEMPTS):
        old, revision = store.image(name)
        new = to(old)
        if new == old:
            return old, revision
        try:
            return new, store.replace_image(old, new, revision)
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def change_served(store: ClusterStore, ceph: Ceph, name: ImageName, to: Callable[[ImageSpec], ImageSpec]) -> Changed:
    """The same with the spec's copy; Refused for an image that is being deleted."""

    def checked(spec: ImageSpec) -> ImageSpec:
        if spec.deleting:
            raise Refused(f"image {name} is being deleted")
        return to(spec)

    return with_copy(ceph, *change(store, name, checked))


def with_copy(ceph: Ceph, spec: ImageSpec, revision: int) -> Changed:
    """The change stands in etcd, which is what counts; without its copy only a rebuild from the pool would be older."""
    try:
        ceph.write_copy(spec)
    except RbdgateError as error:
        return Changed(spec, revision, f"the change is made, but not in the copy kept with the image: {error}")
    return Changed(spec, revision)


def await_applied(store: ClusterStore, changed: Changed, patience: Patience) -> None:
    """Look on until the holder's kernel agrees with the spec; an image nobody serves agrees when it is taken up."""
    patience.until(lambda: behind(look(store), changed.spec, changed.revision) or True)


def behind(
    status: ClusterStatus, spec: ImageSpec, revision: int, because: Callable[[str], str] = lambda _: ""
) -> Pending | None:
    """What an image that is exported now has not got of a change made at that revision; None if nothing.

    `because` makes the end of the sentence of what keeps the holder from it, which may be empty.
    """
    claim = status.view.claims.get(spec.uid)
    report = status.reports.get(claim.node) if claim else None
    image = next((each for each in report.images if each.uid == spec.uid), None) if report else None
    if claim is None or image is None or image.token != claim.token or not image.exported:
        return None  # whoever exports it next does so by this spec
    if spec.uid in status.view.amendments:  # a denial's; whoever is allowed anew before that has it made otherwise
        return Pending(f"{claim.node} has not changed the recorded reservations of image {spec.name} yet")
    if image.applied >= revision:
        return None
    return Pending(f"{claim.node} does not serve image {spec.name} with this change yet{because(image.error)}")
