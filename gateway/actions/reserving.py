"""Whether an image keeps persistent reservations, and how it knows a registrant again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, change_served
from gateway.actions.reservations import understood
from gateway.errors import Refused
from gateway.model import ImageName, ImageSpec
from gateway.reservations.amending import name_at
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class ReservingWish:
    """What an operator wants of an image: each 1 for on, 0 for off, None for as it is."""

    reservations: int | None = None
    enforce_isids: int | None = None


def set_reserving(store: ClusterStore, ceph: Ceph, name: ImageName, wish: ReservingWish) -> Changed:
    """Change it; the holder exports the image anew for that.

    Refused if reservations are to be off and somebody is registered, or may be: what is registered would be in force
    for nobody. StorageUnavailable if that cannot be read.
    """

    def changed(spec: ImageSpec) -> ImageSpec:
        now = spec.attributes
        new = replace(
            now,
            emulate_pr=now.emulate_pr if wish.reservations is None else wish.reservations,
            enforce_pr_isids=now.enforce_pr_isids if wish.enforce_isids is None else wish.enforce_isids,
        )
        if now.emulate_pr and not new.emulate_pr:
            _expect_nobody(ceph, spec)
        return replace(spec, attributes=new)

    return change_served(store, ceph, name, changed)


def _expect_nobody(ceph: Ceph, spec: ImageSpec) -> None:
    registered = understood(ceph, spec).registrations
    if registered:
        first = name_at(registered[0].nexus, spec.identity.iqn)
        more = f" and {len(registered) - 1} more" if len(registered) > 1 else ""
        raise Refused(
            f"registered at image {spec.name}: {first}{more}; have them unregistered first, or empty the table with"
            f" `rbdgate reservation clear {spec.name} --reason TEXT`"
        )
