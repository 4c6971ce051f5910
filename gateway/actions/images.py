"""Making, adopting, moving and deleting images.

`create` makes the RBD image first and writes the spec last. The other order would let a gateway claim what does not
exist yet, and the spec names RBD's id, which only exists with the image. Cut short in between, it leaves an empty RBD
image that nothing serves; a second `create` says so and that `adopt` takes it as it is. The spec's copy in the image's
metadata is written before the spec, for as soon as the spec stands a gateway writes to the same header.

`delete` marks the spec, waits for the holder, then moves the RBD image to the trash, then forgets the spec: until
the last step a second run finds the spec and goes on from wherever the first one stopped. It destroys no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from gateway.actions.ceph import Ceph
from gateway.actions.changing import ATTEMPTS, change
from gateway.actions.choosing import IdentityWish, choose_identity, choose_paths, paths_with_tags
from gateway.actions.looking import look
from gateway.actions.waiting import NotReached, Patience, Pending
from gateway.errors import AlreadyExists, BadInput, Conflict, NotFound, OutcomeUnknown, RbdgateError, Refused
from gateway.model import Address, ClusterView, HolderRecord, ImageName, ImageSpec, Label, NodeState, Path
from gateway.placement import candidates, unfit, why_not
from gateway.report import ImageState, ImageStatus
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class Wish:
    """What an operator asks of a new target: how many paths, addresses named by network, and its identity."""

    paths: int = 2
    addresses: tuple[tuple[Label, Address], ...] = ()
    identity: IdentityWish = field(default_factory=IdentityWish)


@dataclass(frozen=True)
class RbdImage:
    """The RBD image a target is made of; `size` in bytes, `image_id` is "0" while it is not made yet."""

    name: ImageName
    image_id: str
    size: int


def create(
    store: ClusterStore, ceph: Ceph, name: ImageName, size: int, wish: Wish, *, random: Callable[[], UUID]
) -> ImageSpec:
    """Make an RBD image of `size` bytes and serve it as a target. Errors name what is taken, unknown or malformed."""
    if size <= 0 or size % 512:
        raise BadInput(f"size {size} is not a positive multiple of 512 bytes")
    rbd = RbdImage(name, "0", size)
    choose = _chooser(store, wish)
    draft = _draft(store, rbd, wish.identity, choose(), random)
    store.refuse_taken(draft)
    try:
        image_id = ceph.make_image(name, size)
    except AlreadyExists:
        raise AlreadyExists(
            f"RBD image {name} exists already; `rbdgate image adopt {name}` serves it with the data in it"
        ) from None
    try:
        return _write_new(store, ceph, replace(draft, image_id=image_id), choose)
    except OutcomeUnknown:
        raise
    except RbdgateError as error:
        _take_back(ceph, name, image_id, error)
        raise


def adopt(
    store: ClusterStore,
    ceph: Ceph,
    name: ImageName,
    wish: Wish,
    *,
    tagged: Mapping[int, Address],
    random: Callable[[], UUID],
) -> ImageSpec:
    """Serve an existing RBD image as it is, with the identity and the tagged paths it had elsewhere, if named.

    Refused says everything about the image that stands in the way; nothing was changed then.
    """
    view = store.view()
    image_id, size, obstacles = ceph.examine(name)
    if obstacles:
        raise Refused(f"image {name} cannot be served: " + "; ".join(obstacles))

    def kept() -> tuple[Path, ...]:
        return paths_with_tags(view, store.addresses_taken(), tagged)

    choose = kept if tagged else _chooser(store, wish)
    spec = _draft(store, RbdImage(name, image_id, size), wish.identity, choose(), random)
    store.refuse_taken(spec)
    return _write_new(store, ceph, spec, choose)


def _chooser(store: ClusterStore, wish: Wish) -> Callable[[], tuple[Path, ...]]:
    """Paths as wished, chosen by what is free at the time of each call."""
    return lambda: choose_paths(store.view(), store.addresses_taken(), wish.addresses, wish.paths)


def _draft(
    store: ClusterStore,
    rbd: RbdImage,
    identity: IdentityWish,
    paths: tuple[Path, ...],
    random: Callable[[], UUID],
) -> ImageSpec:
    prefix, uid = store.view().settings.iqn_prefix, random().hex[:16]
    return ImageSpec(
        name=rbd.name,
        uid=uid,
        image_id=rbd.image_id,
        size=rbd.size,
        identity=choose_identity(prefix, rbd.name, uid, str(random()), identity),
        paths=paths,
    )


def _write_new(store: ClusterStore, ceph: Ceph, spec: ImageSpec, choose: Callable[[], tuple[Path, ...]]) -> ImageSpec:
    """Write copy and spec; addresses that were chosen here are chosen anew when somebody else was faster."""
    for _ in range(ATTEMPTS):
        ceph.write_copy(spec)
        try:
            store.create_image(spec)
        except AlreadyExists:
            paths = choose()
            if paths == spec.paths:
                raise
            spec = replace(spec, paths=paths)
        else:
            return spec
    raise Conflict(f"image {spec.name}: its addresses were taken {ATTEMPTS} times while it was made; try again")


def _take_back(ceph: Ceph, name: ImageName, image_id: str, error: RbdgateError) -> None:
    """Put an RBD image that was made a moment ago, and that nobody was told of, out of the way."""
    try:
        ceph.move_to_trash(name, image_id)
    except RbdgateError as second:
        raise type(error)(
            f"{error}; the empty RBD image {name} that was just made is still there ({second}): remove it by hand"
        ) from None


def await_serving(store: ClusterStore, name: ImageName, patience: Patience, by: Label | None = None) -> ImageStatus:
    """Look on until the image is served on all its paths, by that node if one is named, which it was to move to.

    Refused when the move was given up: its target did not take it.
    """

    def served() -> ImageStatus | Pending:
        status = look(store)
        image, spec = status.image(name), status.view.images.get(name)
        if image.state is ImageState.SERVING and (by is None or image.holder == str(by)):
            return image
        given_up = spec is not None and spec.uid not in status.view.moves
        if by is not None and given_up and image.holder not in (None, str(by)):
            raise Refused(f"the move of image {name} was given up: node {by} did not take it; {image.holder} has it")
        holder = f" at {image.holder}" if image.holder else ""
        return Pending(f"image {name} is {image.state.value}{holder}" + (f": {image.reason}" if image.reason else ""))

    return patience.until(served)


def request_move(store: ClusterStore, name: ImageName, to: Label | None) -> Label:
    """Ask for an image to be moved to a node, or to the best other one; returns to which. Refused says why not."""
    view = store.view()
    if str(name) in view.broken:
        raise Refused(f"image {name} is broken: {view.broken[str(name)]}")
    spec = view.images.get(name)
    if spec is None:
        raise NotFound(f"there is no image {name} in this cluster; see `rbdgate image list`")
    if spec.deleting or spec.stopped:
        raise Refused(
            f"image {name} is " + ("being deleted" if spec.deleting else "stopped; see `rbdgate image start`")
        )
    claim = view.claims.get(spec.uid)
    holder = claim.node if claim else None
    if to is None:
        others = [each.node for each in candidates(view, spec) if each.node != holder]
        if not others:
            raise Refused(f"there is no other live and active node that image {name} could move to")
        to = others[0]
    if to not in view.nodes:
        known = ", ".join(str(node) for node in sorted(view.nodes)) or "none"
        raise NotFound(f"there is no node {to}; known are: {known}")
    if to == holder:
        raise Refused(f"node {to} holds image {name} already")
    _refuse_place(view, spec, to)
    store.request_move(spec.uid, to)
    return to


def await_fit(store: ClusterStore, name: ImageName, to: Label, patience: Patience) -> None:
    """Look on while a live and active node only cannot take anything yet: it is starting, or does not reach Ceph.

    Holders forget a move that cannot be made at once, so it is asked for when it can; what is in the way for good, or
    for longer than the patience, `request_move` says.
    """

    def fit() -> Literal[True] | Pending:
        view = store.view()
        record, why = view.nodes.get(to), unfit(view, to)
        passing = name in view.images and to in view.live and record is not None and record.state is NodeState.ACTIVE
        return Pending(f"node {to} {why}") if passing and why is not None else True

    with suppress(NotReached):
        patience.until(fit)


def _refuse_place(view: ClusterView, spec: ImageSpec, to: Label) -> None:
    """A move to a node that cannot take the image now would be forgotten by its holder: it is refused at once."""
    reason = why_not(view, spec, to)
    if reason is not None:
        raise Refused(f"node {to} {reason}: it does not take image {spec.name}; see `rbdgate node show {to}`")
    if spec.pin is not None and spec.pin != to and why_not(view, spec, spec.pin) is None:
        raise Refused(
            f"image {spec.name} is pinned to {spec.pin} and would go back; `rbdgate image unpin {spec.name}` first"
        )


def delete(store: ClusterStore, ceph: Ceph, name: ImageName, patience: Patience, *, keep: bool) -> None:
    """Stop serving an image and forget it; the RBD image goes to the trash, or with `keep` stays as it is.

    NotReached if the holder has not let go in time: what was done stands, and a second run goes on from there.
    """
    spec, revision = _mark_deleting(store, name)
    ceph_has_it = True
    try:
        ceph.write_copy(spec)  # so that a rebuild from the pool does not bring the target back
    except NotFound:
        ceph_has_it = False  # moved or removed by hand, or by a run that was cut short
    left = patience.until(lambda: _await_release(store, spec))
    if left and ceph_has_it:
        ceph.fence(spec, [record.instance for record in left])
    if not keep and ceph_has_it:
        ceph.move_to_trash(name, spec.image_id)
    store.remove_image(spec, revision, left)


def _mark_deleting(store: ClusterStore, name: ImageName) -> tuple[ImageSpec, int]:
    def marked(spec: ImageSpec) -> ImageSpec:
        return replace(spec, deleting=True)

    return change(store, name, marked)


def _await_release(store: ClusterStore, spec: ImageSpec) -> tuple[HolderRecord, ...] | Pending:
    """The records that dead clients left; Pending while a node holds the image or a live one may have it open."""
    view = store.view()
    claim = view.claims.get(spec.uid)
    if claim is not None:
        return Pending(f"{claim.node} has not let image {spec.name} go yet")
    living = {instance: live.name for live in view.live.values() for instance in live.instances}
    records = store.records_of(spec.uid)
    for record in records:
        if record.instance in living:
            return Pending(f"{living[record.instance]} may still have image {spec.name} open")
    return records
