"""Taking an initiator's access away without losing its registrations by the way.

A registered initiator takes part in a cluster that counts on its key. The kernel drops the registration with the ACL,
so who is registered is denied only together with its registration, on purpose and with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.actions.ceph import Ceph
from gateway.actions.reservations import understood
from gateway.errors import RbdgateError, Refused
from gateway.model import Amendment, AmendmentKind, ClusterView, ImageSpec
from gateway.reservations.amending import full_name
from gateway.reservations.state import Registration
from gateway.store.cluster import ClusterStore

SHOWN = 3
"""How many registrations an error names."""


@dataclass(frozen=True)
class Clearing:
    """An operator's word that registrations go with the access: whose it is, and why."""

    by: str
    why: str


def losing(ceph: Ceph, spec: ImageSpec, before: ClusterView, after: ClusterView) -> tuple[Registration, ...]:
    """The registrations of those who may not log in to the image any more; `after` has the image as it is to be.

    Whether somebody may is unknown where a group cannot be read, and unknown is not allowed. Refused for a table that
    cannot be understood, StorageUnavailable if it cannot be read.
    """
    if not spec.attributes.emulate_pr:
        return ()
    left = set(after.initiators_of(after.images[spec.name]))
    was, unlisted = set(before.initiators_of(spec)), any(group not in before.groups for group in spec.groups)
    if was <= left and not unlisted:
        return ()
    registered = understood(ceph, spec).registrations
    return tuple(
        each for each in registered if each.nexus.initiator not in left and (unlisted or each.nexus.initiator in was)
    )


def expect_cleared(lost: Mapping[ImageSpec, tuple[Registration, ...]], clearing: Clearing | None) -> None:
    """Refused, with the keys and the way, if registrations would be lost and nobody said that they are to go."""
    if clearing is not None:
        return
    for spec, registrations in lost.items():
        if registrations:
            some = ", ".join(f"{each.nexus.initiator} with key {each.key:#x}" for each in registrations[:SHOWN])
            more = f" and {len(registrations) - SHOWN} more" if len(registrations) > SHOWN else ""
            raise Refused(
                f"registered at image {spec.name}: {some}{more}; have it unregistered first, or clear that with the"
                " access: `--clear-registration --reason TEXT`"
            )


def forget_lost(
    store: ClusterStore, lost: Mapping[ImageSpec, tuple[Registration, ...]], clearing: Clearing | None
) -> str:
    """Have the lost registrations forgotten, whoever serves the image by then; a sentence if that cannot be.

    Who exports an image records its table without them before it takes the access away; that may fail half-way, and
    what stays recorded would be in force again when they are allowed anew. So it is written down until it is done.
    """
    said = []
    for spec, registrations in lost.items():
        if clearing is None or not registrations:
            continue
        names = tuple(full_name(each.nexus) for each in registrations)
        try:
            store.request_amendment(spec, Amendment(AmendmentKind.FORGET, clearing.by, clearing.why, names))
        except RbdgateError as error:
            said.append(f"if no gateway serves it, the registrations of those who were denied stay recorded: {error}")
    return "; ".join(said)
