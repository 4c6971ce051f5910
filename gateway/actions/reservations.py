"""Persistent reservations as an operator sees them: what is recorded in the image, and changes of it by hand.

What is recorded is what every gateway restores, so reading it needs no gateway. It is changed by whoever takes the
image next (`gateway.model.Amendment`): a holder withdraws the image for that and serves it anew, where it must.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from gateway.actions.ceph import Ceph
from gateway.actions.looking import look
from gateway.actions.waiting import Patience, Pending
from gateway.errors import DamagedTable, NewerSchema, NotFound, RbdgateError, Refused, StorageUnavailable
from gateway.model import Amendment, AmendmentKind, ClusterView, ImageName, ImageSpec, Iqn, Label
from gateway.report import ImageState
from gateway.reservations import pr_info
from gateway.reservations.amending import full_name, name_at
from gateway.reservations.state import Registration, ReservationState
from gateway.store.cluster import ClusterStore

if TYPE_CHECKING:
    from gateway.lio.logins import Session

Logins: TypeAlias = "Callable[[Iqn], Collection[Session]]"

SHOWN = 3
"""How many registrations an error names."""


@dataclass(frozen=True)
class Registered:
    """One registration: `name` is what `forget` takes, `stale` why it is recorded and not in force, or empty.

    `elsewhere` are the ISIDs of sessions of the same initiator at the same path that have no registration.
    """

    name: str
    registration: Registration
    stale: str
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What an image's header records. Without a `state`, `damaged` or `unknown` says why; `holder` is the node."""

    spec: ImageSpec
    state: ReservationState | None
    registered: tuple[Registered, ...] = ()
    damaged: str = ""
    unknown: str = ""
    holder: Label | None = None
    pending: Amendment | None = None

    @property
    def way_out(self) -> str:
        """What helps against damage."""
        return f"`rbdgate reservation clear {self.spec.name} --reason TEXT` empties the table"


@dataclass(frozen=True)
class Asked:
    """A change that was written down at a revision; `holder` is who will make it, None if nobody holds the image."""

    spec: ImageSpec
    revision: int
    holder: Label | None


def show(store: ClusterStore, ceph: Ceph, name: ImageName, node: Label, logins: Logins) -> Table:
    """One image's table; `logins` tells who is logged in to a target on this node, `node`. StorageUnavailable."""
    store.image(name)
    view = store.view()
    spec = view.images[name]
    return _table(view, spec, ceph, logins if _holder(view, spec) == node else None)


def listed(store: ClusterStore, ceph: Ceph) -> tuple[Table, ...]:
    """Every image's table, by name; after one that was not answered, no more is asked of its pool."""
    view, silent = store.view(), dict[str, str]()

    def found() -> Iterator[Table]:
        for name, spec in sorted(view.images.items()):
            if name.pool not in silent:
                try:
                    yield _table(view, spec, ceph)
                    continue
                except StorageUnavailable as error:
                    silent[name.pool] = str(error)
                except RbdgateError as error:
                    yield Table(spec, None, unknown=str(error), holder=_holder(view, spec))
                    continue
            yield Table(spec, None, unknown=silent[name.pool], holder=_holder(view, spec))

    return tuple(found())


def carried(ceph: Ceph, spec: ImageSpec) -> Table:
    """What an image brought along that is served for the first time; stale is what no allowing would bring in force."""
    try:
        state = read(ceph, spec)
    except (DamagedTable, NewerSchema) as error:
        return Table(spec, None, damaged=str(error))
    target = spec.identity.iqn
    rows = (Registered(name_at(each.nexus, target), each, _unfit(spec, each)) for each in state.registrations)
    return Table(spec, state, tuple(rows))


def clear(store: ClusterStore, ceph: Ceph, name: ImageName, *, by: str, why: str) -> Asked:
    """Have an image's table emptied, whatever stands in it; Refused if it is known that nobody is registered."""
    spec = _served(store, name)
    try:
        state = read(ceph, spec)
    except (DamagedTable, NewerSchema, StorageUnavailable):
        state = None  # whoever makes the change needs no table that can be read
    if state is not None and not state.registrations and state.spc2_holder is None:
        raise Refused(f"image {name} has no registrations: there is nothing to clear")
    return _ask(store, spec, Amendment(AmendmentKind.CLEAR, by, why))


def forget(store: ClusterStore, ceph: Ceph, name: ImageName, nexus: str, *, by: str, why: str) -> Asked:
    """Have one registration forgotten, with what it holds; NotFound if there is none of that name.

    Refused for a table that cannot be understood, StorageUnavailable if it cannot be read.
    """
    spec = _served(store, name)
    found = [each.nexus for each in understood(ceph, spec).registrations]
    wanted = [each for each in found if nexus in (name_at(each, spec.identity.iqn), full_name(each))]
    if not wanted:
        some = ", ".join(name_at(each, spec.identity.iqn) for each in found[:SHOWN])
        more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise NotFound(f"{nexus} is not registered at image {name}; registered are: {some or 'none'}{more}")
    return _ask(store, spec, Amendment(AmendmentKind.FORGET, by, why, tuple(map(full_name, wanted))))


def read(ceph: Ceph, spec: ImageSpec) -> ReservationState:
    """What the image's header records: nothing if it was never held. DamagedTable, NewerSchema, StorageUnavailable."""
    text = ceph.read_pr_info(spec)
    return ReservationState() if text is None else pr_info.decode(text)


def understood(ceph: Ceph, spec: ImageSpec) -> ReservationState:
    """The same; Refused, with the way out, for a table that cannot be understood."""
    try:
        return read(ceph, spec)
    except (DamagedTable, NewerSchema) as error:
        raise Refused(
            f"image {spec.name}: who is registered is not known: {error};"
            f" `rbdgate reservation clear {spec.name} --reason TEXT` empties the table"
        ) from None


def await_made(store: ClusterStore, asked: Asked, patience: Patience) -> None:
    """Look on until the change was made and the image is exported again."""
    uid, name = asked.spec.uid, asked.spec.name

    def made() -> Literal[True] | Pending:
        status = look(store)
        image, pending = status.image(name), status.view.amendments.get(uid)
        told = f": {image.reason}" if image.reason else ""
        if pending is not None and pending.revision == asked.revision:
            return Pending(f"{image.holder or 'nobody'}, who holds image {name}, has not made the change yet{told}")
        if image.state in (ImageState.SERVING, ImageState.DEGRADED):
            return True
        return Pending(f"the change is made, and image {name} is {image.state.value}{told}")

    patience.until(made)


def stale_reason(view: ClusterView, spec: ImageSpec, registration: Registration) -> str:
    """Why a recorded registration is not in force, or empty."""
    nexus = registration.nexus
    unfit = _unfit(spec, registration)
    if unfit or nexus.initiator in view.initiators_of(spec):
        return unfit
    unknown = [str(group) for group in spec.groups if group not in view.groups]
    if unknown:
        return f"whether {nexus.initiator} is allowed is not known: group {', '.join(unknown)} cannot be read"
    return f"{nexus.initiator} is not allowed at the image"


def _unfit(spec: ImageSpec, registration: Registration) -> str:
    """Why a registration could not be in force at the image whoever is allowed, or empty."""
    nexus = registration.nexus
    if nexus.target != spec.identity.iqn:
        return f"it was made at another target, {nexus.target}"
    if all(path.tag != nexus.tag for path in spec.paths):
        return f"the image has no path {nexus.tag}"
    return ""


def _table(
    view: ClusterView,
    spec: ImageSpec,
    ceph: Ceph,
    logins: Logins | None = None,
) -> Table:
    holder, pending = _holder(view, spec), view.amendments.get(spec.uid)
    try:
        state = read(ceph, spec)
    except (DamagedTable, NewerSchema) as error:
        return Table(spec, None, damaged=str(error), holder=holder, pending=pending)
    sessions = logins(spec.identity.iqn) if logins else ()
    rows = []
    for each in state.registrations:
        stale = stale_reason(view, spec, each)
        elsewhere = () if stale else _elsewhere(each, state, sessions)
        rows.append(Registered(name_at(each.nexus, spec.identity.iqn), each, stale, elsewhere))
    return Table(spec, state, tuple(rows), holder=holder, pending=pending)


def _elsewhere(each: Registration, state: ReservationState, sessions: Iterable[Session]) -> tuple[str, ...]:
    """The initiator's sessions at that path that are not registered; none for a registration of any session."""
    one = each.nexus
    known = {
        other.nexus.isid
        for other in state.registrations
        if (other.nexus.initiator, other.nexus.tag, other.nexus.target) == (one.initiator, one.tag, one.target)
    }
    if len(one.isid) < 12 or known & {""}:
        return ()
    here = (session.isid for session in sessions if (session.initiator, session.tag) == (one.initiator, one.tag))
    return tuple(sorted(isid for isid in here if isid not in known))


def _served(store: ClusterStore, name: ImageName) -> ImageSpec:
    spec, _ = store.image(name)
    if spec.deleting:
        raise Refused(f"image {name} is being deleted")
    return spec


def _ask(store: ClusterStore, spec: ImageSpec, amendment: Amendment) -> Asked:
    revision = store.request_amendment(spec, amendment)
    return Asked(spec, revision, _holder(store.view(), spec))


def _holder(view: ClusterView, spec: ImageSpec) -> Label | None:
    claim = view.claims.get(spec.uid)
    return claim.node if claim else None
