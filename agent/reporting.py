"""What a node says of itself after a turn, from what the turn saw. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.access import Opened, access_of
from gateway.credentials import Unreadable
from gateway.model import Address, ClusterView, ImageSpec, Label
from gateway.observed import Kernel
from gateway.plan import PathWish, anchor_of, export_of, path_is_up, path_wishes
from gateway.profile import access_differences, differences, discovery_is
from gateway.reasons import Down
from gateway.report import ImageReport, NodeReport, PathReport
from gateway.reservations.state import MAX_REGISTRATIONS


@dataclass(frozen=True)
class Seen:
    """What a report rests on: `error` tells an image's last failure, `obstacle` why this node takes nothing now."""

    view: ClusterView
    kernel: Kernel
    lease: int
    guarded: bool
    error: Callable[[str], str | None]
    obstacle: str
    strangers: Mapping[Address, str] = field(default_factory=dict)
    """Why an address is not served: a machine of others was found to have it."""
    opened: Opened = field(default_factory=Opened)
    """What of the cluster's sealed credentials could be opened here."""


def node_report(node: Label, version: str, seen: Seen) -> NodeReport:
    """The report on everything held under the lease."""
    held = seen.view.held_under(seen.lease)
    images = tuple(_image_report(uid, token, seen) for uid, token in sorted(held.items()))
    served = sum(1 for image in images if image.exported and all(path.up for path in image.paths))
    sentence = f"holds {len(images)} of {len(seen.view.images)} images, {served} with all paths up"
    if seen.obstacle:
        sentence += f"; takes nothing: {seen.obstacle}"
    stuck = stuck_devices(seen.view, seen.kernel)
    if stuck:
        sentence += f"; {' and '.join(stuck)} of an earlier membership did not let go: it is open here, or it hangs"
    discovery = seen.opened.discovery
    unknown = discovery.reason if isinstance(discovery, Unreadable) else ""
    if unknown:
        sentence += f"; discovery's credentials {unknown}"
    asked = not isinstance(discovery, Unreadable) and discovery_is(seen.kernel.discovery, discovery)
    return NodeReport(
        node,
        version,
        sentence,
        images,
        seen.obstacle,
        untaken=_untaken(seen),
        discovery=seen.view.access_revision if asked else 0,
    )


def stuck_devices(view: ClusterView, kernel: Kernel) -> list[str]:
    """The block devices of ours that have another client than the present one: this membership went on without them."""
    anchor = anchor_of(kernel.mappings, view.settings.anchor_pool)
    ours = (mapping for mapping in kernel.mappings if mapping.generation is not None and not mapping.read_only)
    return [mapping.dev_path for mapping in ours if anchor is not None and mapping.instance != anchor.instance]


def _untaken(seen: Seen) -> dict[str, str]:
    """Why this node could not serve an image that nobody holds, whatever its turn."""
    unclaimed = (spec for spec in seen.view.images.values() if spec.uid not in seen.view.claims)
    found = {spec.uid: access_of(seen.view, seen.opened, spec).obstacle for spec in unclaimed}
    return {uid: obstacle for uid, obstacle in found.items() if obstacle}


def _image_report(uid: str, token: int, seen: Seen) -> ImageReport:
    spec = seen.view.spec_of(uid)
    if spec is None:
        return ImageReport(uid, token, bool(seen.kernel.devices_of(uid)), (), "its spec cannot be read")
    export = export_of(spec, token, seen.kernel)
    access = access_of(seen.view, seen.opened, spec)
    error = seen.error(uid) or access.obstacle or ("" if export else seen.obstacle) or _crowd(uid, seen.kernel)
    grown = all(mapping.size >= spec.size for mapping in seen.kernel.mappings_of(spec))  # krbd hears of it by itself
    complete = export is not None and grown and not differences(spec, *export)
    agrees = complete and not access.obstacle and not access_differences(access, export[1] if export else None)
    applied = seen.view.wanted_revision(spec) if agrees else 0
    return ImageReport(uid, token, export is not None, _paths(spec, error, seen), error, applied)


def _crowd(uid: str, kernel: Kernel) -> str:
    many = kernel.crowded.get(uid)
    if many is None:
        return ""
    return (
        f"it has {many} registrations of persistent reservations, and room for {MAX_REGISTRATIONS}: see `rbdgate"
        " reservation show`, and have hosts unregister that are gone"
    )


def _paths(spec: ImageSpec, error: str, seen: Seen) -> tuple[PathReport, ...]:
    return tuple(
        _path_report(wish, error, up=path_is_up(spec, wish.path, seen.kernel))
        for wish in path_wishes(spec, seen.kernel, guarded=seen.guarded, strangers=seen.strangers)
    )


def _path_report(wish: PathWish, error: str, *, up: bool) -> PathReport:
    if up:
        return PathReport(wish.path.tag, up)
    kind = wish.kind or (Down.FAILURE if error else Down.STARTING)
    return PathReport(wish.path.tag, up, wish.down_because or error or "being brought up", kind=kind)
