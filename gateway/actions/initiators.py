"""Who may log in to an image: initiators by name and by group, which the holder makes the target's ACLs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.actions.ceph import Ceph
from gateway.actions.changing import ATTEMPTS, Changed, change, with_copy
from gateway.actions.denying import Clearing, expect_cleared, forget_lost, losing
from gateway.credentials import Unreadable
from gateway.errors import BadInput, Conflict, NotFound, Refused
from gateway.model import ImageName, ImageSpec, Iqn, Label
from gateway.reservations.state import Registration
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class Allowed:
    """An initiator that may log in to an image: by its own name or (`group`) as a member, with CHAP or without."""

    iqn: Iqn
    group: Label | None
    chap: str
    """`none`, `one-way`, `mutual`, or `unreadable`."""


@dataclass(frozen=True)
class Group:
    """A group with its members and the images that name it, as it stands at a revision."""

    name: Label
    members: tuple[Iqn, ...]
    images: tuple[ImageName, ...]
    revision: int
    warning: str = ""
    """What could not be done besides, or empty."""


def allow(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn) -> Changed:
    """Let an initiator log in; allowed already is no error."""

    def with_it(spec: ImageSpec) -> ImageSpec:
        if spec.deleting:
            raise Refused(f"image {name} is being deleted")
        if initiator == spec.identity.iqn:
            raise Refused(f"{initiator} is the target's own name; name the initiator's")
        return spec if initiator in spec.initiators else replace(spec, initiators=(*spec.initiators, initiator))

    return with_copy(ceph, *change(store, name, with_it))


def deny(store: ClusterStore, ceph: Ceph, name: ImageName, initiator: Iqn, clearing: Clearing | None = None) -> Changed:
    """Let an initiator log in no more, and end its sessions; NotFound if it was not allowed by its name.

    Refused if it may log in by a group all the same: a denial that changes nothing would look like one that does. And
    if it is registered at the image, unless there is a `clearing` of that.
    """

    def without_it(spec: ImageSpec) -> ImageSpec:
        groups = store.view().groups if spec.groups else {}
        others = [str(group) for group in spec.groups if initiator in groups.get(group, ())]
        if others:
            raise Refused(
                f"{initiator} may log in to image {name} as a member of {', '.join(others)}: remove it there"
                f" (`rbdgate initiator group remove {others[0]} {initiator}`)"
            )
        if initiator not in spec.initiators:
            allowed = ", ".join(map(str, spec.initiators)) or "nobody"
            raise NotFound(f"{initiator} is not allowed at image {name}; allowed are: {allowed}")
        return replace(spec, initiators=tuple(iqn for iqn in spec.initiators if iqn != initiator))

    return _denied(store, ceph, name, without_it, clearing)


def allow_group(store: ClusterStore, ceph: Ceph, name: ImageName, group: Label) -> Changed:
    """Let a group's members log in, those of now and of later; allowed already is no error."""
    store.group(group)

    def with_it(spec: ImageSpec) -> ImageSpec:
        if spec.deleting:
            raise Refused(f"image {name} is being deleted")
        return spec if group in spec.groups else replace(spec, groups=(*spec.groups, group))

    return with_copy(ceph, *change(store, name, with_it))


def deny_group(
    store: ClusterStore, ceph: Ceph, name: ImageName, group: Label, clearing: Clearing | None = None
) -> Changed:
    """Let a group's members log in no more, unless they are allowed by name or by another group. Refused as `deny`."""

    def without_it(spec: ImageSpec) -> ImageSpec:
        if group not in spec.groups:
            allowed = ", ".join(map(str, spec.groups)) or "none"
            raise NotFound(f"group {group} is not allowed at image {name}; allowed are: {allowed}")
        return replace(spec, groups=tuple(each for each in spec.groups if each != group))

    return _denied(store, ceph, name, without_it, clearing)


def _denied(
    store: ClusterStore,
    ceph: Ceph,
    name: ImageName,
    without: Callable[[ImageSpec], ImageSpec],
    clearing: Clearing | None,
) -> Changed:
    lost: dict[ImageSpec, tuple[Registration, ...]] = {}

    def checked(spec: ImageSpec) -> ImageSpec:
        new, view = without(spec), store.view()
        after = replace(view, images={**view.images, name: new})
        lost.clear()
        lost[spec] = losing(ceph, spec, view, after)
        expect_cleared(lost, clearing)
        return new

    changed = with_copy(ceph, *change(store, name, checked))
    return replace(changed, warning=_joined(changed.warning, forget_lost(store, lost, clearing)))


def listed(store: ClusterStore, name: ImageName) -> tuple[Allowed, ...]:
    """Who may log in, and how; an initiator that may for two reasons is there twice."""
    store.image(name)
    view = store.view()
    spec = view.images[name]

    def chap(iqn: Iqn) -> str:
        sealed = view.credentials.get(iqn)
        if sealed is None:
            return "none"
        if isinstance(sealed, Unreadable):
            return "unreadable"
        return "mutual" if sealed.mutual else "one-way"

    named = [Allowed(iqn, None, chap(iqn)) for iqn in spec.initiators]
    members = [Allowed(iqn, group, chap(iqn)) for group in spec.groups for iqn in view.groups.get(group, ())]
    return (*named, *members)


def groups(store: ClusterStore) -> tuple[Group, ...]:
    """Every group that can be read, by name."""
    view = store.view()
    users = {name: [i for i, spec in view.images.items() if name in spec.groups] for name in view.groups}
    return tuple(
        Group(name, members, tuple(sorted(users[name])), view.access_revision)
        for name, members in sorted(view.groups.items())
    )


def group(store: ClusterStore, name: Label) -> Group:
    """One group; NotFound."""
    store.group(name)
    return next(each for each in groups(store) if each.name == name)


def create_group(store: ClusterStore, name: Label, members: tuple[Iqn, ...]) -> Group:
    """Make a group; AlreadyExists."""
    revision = store.create_group(name, _each_once(members))
    return Group(name, _each_once(members), (), revision)


def delete_group(store: ClusterStore, name: Label) -> None:
    """Forget a group; Refused while an image names it."""
    store.delete_group(name)


def add_members(store: ClusterStore, name: Label, members: tuple[Iqn, ...]) -> Group:
    """Add initiators to a group, and so to all images that name it; those in it already are no error."""
    return _change_group(store, name, lambda present: _each_once((*present, *members)))


def remove_members(
    store: ClusterStore, ceph: Ceph, name: Label, members: tuple[Iqn, ...], clearing: Clearing | None = None
) -> Group:
    """Take initiators out of a group; NotFound if one was not in it. Refused as `deny`, for any image that names it."""
    lost: dict[ImageSpec, tuple[Registration, ...]] = {}

    def without(present: tuple[Iqn, ...]) -> tuple[Iqn, ...]:
        for iqn in members:
            if iqn not in present:
                raise NotFound(f"{iqn} is not in group {name}; see `rbdgate initiator group show {name}`")
        left, view = tuple(iqn for iqn in present if iqn not in members), store.view()
        after = replace(view, groups={**view.groups, name: left})
        lost.clear()
        for spec in (each for each in view.images.values() if name in each.groups):
            lost[spec] = losing(ceph, spec, view, after)
        expect_cleared(lost, clearing)
        return left

    changed = _change_group(store, name, without)
    return replace(changed, warning=forget_lost(store, lost, clearing))


def _change_group(store: ClusterStore, name: Label, to: Callable[[tuple[Iqn, ...]], tuple[Iqn, ...]]) -> Group:
    for attempt in range(ATTEMPTS):
        present, revision = store.group(name)
        members = to(present)
        try:
            at = revision if members == present else store.replace_group(name, members, revision)
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return replace(group(store, name), revision=at)
    raise AssertionError("the last attempt returns or raises")


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)


def _each_once(members: tuple[Iqn, ...]) -> tuple[Iqn, ...]:
    """The members without repetition; BadInput for more than etcd takes in one value with ease."""
    found = tuple(dict.fromkeys(members))
    if len(found) > 1000:
        raise BadInput(f"a group has at most 1000 members, not {len(found)}")
    return found
