"""Is anything on this node, or on record of it, that should not be there (any more)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread
from gateway.model import Address, ClusterView, ImageSpec, Label
from gateway.observed import ANCHOR, Device, DeviceName, Mapping, Target

LEFTOVERS = Subject("leftovers")

_AGAIN = "the agent removes it by itself; run the doctor again, and if it stays see `journalctl -u rbdgate-agent`"


@dataclass(frozen=True)
class Tenure:
    """What `/run` says of the right to serve: of this boot or an earlier one, and the seconds that are left of it."""

    this_boot: bool
    left: float


@dataclass(frozen=True)
class LeftoverFacts:
    """This node's kernel, part by part, beside the cluster.

    `targets` maps each iSCSI target to the backstores its LUNs are on that are not ours, as LIO names them. `tenure` is
    None where there is none; `strays` are half-written files in `/run`.
    """

    node: Label
    view: ClusterView | Unread
    devices: tuple[Device, ...] | Unread
    targets: tuple[tuple[Target, tuple[str, ...]], ...] | Unread
    mappings: tuple[Mapping, ...] | Unread
    addresses: frozenset[Address] | Unread
    cuts: frozenset[Address] | Unread
    tenure: Tenure | Unread | None
    strays: tuple[str, ...]


def check(facts: LeftoverFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    parts = (facts.devices, facts.targets, facts.mappings, facts.addresses, facts.tenure)
    for part in parts:
        if isinstance(part, Unread):
            yield LEFTOVERS.unread(part)
    found = [*_exports(facts), *_foreign(facts), *_mappings(facts), *_addresses(facts), *_run(facts)]
    if isinstance(facts.view, Unread):
        yield LEFTOVERS.unread(
            Unread("what of this node's exports should be here", facts.view.why), "see what is said of etcd"
        )
    else:
        found += _records(facts.view)
    yield from found
    if not found:
        yield LEFTOVERS.ok("nothing is here that should not be")


def held(view: ClusterView, node: Label) -> dict[str, ImageSpec | None]:
    """The images this node holds now, by uid."""
    return {uid: view.spec_of(uid) for uid, claim in view.claims.items() if claim.node == node}


def _exports(facts: LeftoverFacts) -> Iterator[Finding]:
    if isinstance(facts.view, Unread):
        return
    mine = held(facts.view, facts.node)
    for device in () if isinstance(facts.devices, Unread) else facts.devices:
        if not _is_current(device.name, facts.view, facts.node):
            name = _named(facts.view, device.name.uid)
            enabled = " and enabled" if _is_served(device.name, facts.targets) else ""
            yield LEFTOVERS.error(
                f"backstore {device.name} of {name} is built{enabled} here, and this node does not hold that image so",
                _AGAIN,
            )
    names = {spec.identity.iqn for spec in mine.values() if spec is not None}
    others = {spec.identity.iqn: spec.name for spec in facts.view.images.values()}
    for target, foreign in () if isinstance(facts.targets, Unread) else facts.targets:
        if target.iqn in others and target.iqn not in names and not foreign:
            yield LEFTOVERS.error(
                f"target {target.iqn} of image {others[target.iqn]} is here, and this node does not hold that image",
                _AGAIN,
            )


def _is_current(name: DeviceName, view: ClusterView, node: Label) -> bool:
    claim = view.claims.get(name.uid)
    return claim is not None and claim.node == node and claim.token == name.token


def _is_served(name: DeviceName, targets: tuple[tuple[Target, tuple[str, ...]], ...] | Unread) -> bool:
    known = () if isinstance(targets, Unread) else targets
    return any(tpg.device == name and tpg.enabled for target, _ in known for tpg in target.tpgs)


def _foreign(facts: LeftoverFacts) -> Iterator[Finding]:
    """Targets that another tool made, and portals of theirs that stand in our way."""
    if isinstance(facts.targets, Unread):
        return
    view = None if isinstance(facts.view, Unread) else facts.view
    ours = {spec.identity.iqn for spec in view.images.values()} if view else set()
    for target, foreign in facts.targets:
        wide = sorted({str(p.address) for t in target.tpgs for p in t.portals if p.address.is_unspecified})
        if target.iqn in ours and foreign:
            yield LEFTOVERS.error(
                f"target {target.iqn} is one of this cluster's, and another tool built it here on {', '.join(foreign)}:"
                " it stands in the image's way",
                "remove it with the tool that made it (targetcli)",
            )
        elif wide:
            yield LEFTOVERS.error(
                f"target {target.iqn}, which is not ours, listens on every address ({', '.join(wide)}): our portals"
                " cannot be opened beside it",
                "remove its portal with the tool that made it (targetcli)",
            )
        elif foreign:
            yield LEFTOVERS.warning(
                f"target {target.iqn} is another tool's: it is served by this machine alone, and left alone by us",
                "move it elsewhere; a gateway should serve nothing of its own",
            )


def _mappings(facts: LeftoverFacts) -> Iterator[Finding]:
    if isinstance(facts.mappings, Unread) or isinstance(facts.view, Unread):
        return
    mine = [spec for spec in held(facts.view, facts.node).values() if spec is not None]
    for mapping in facts.mappings:
        image = f"{mapping.pool}/{mapping.name}"
        if mapping.name == ANCHOR:
            continue
        if mapping.generation is not None and not any(mapping.is_of(spec) for spec in mine):
            yield LEFTOVERS.warning(
                f"{mapping.dev_path} maps {image}, which this node does not hold",
                "the agent unmaps it; if it stays, something has it open (`lsof`, `lsblk`), or Ceph does not answer it",
            )
        elif mapping.generation is None and any(mapping.is_of(spec) for spec in facts.view.images.values()):
            yield LEFTOVERS.warning(
                f"{mapping.dev_path} maps {image}, an image of this cluster, and no gateway made that mapping"
                + ("" if mapping.read_only else ": what is written through it goes past the initiators"),
                f"`rbd unmap {mapping.dev_path}`; the next takeover fences it anyway",
            )


def _addresses(facts: LeftoverFacts) -> Iterator[Finding]:
    if isinstance(facts.addresses, Unread) or isinstance(facts.view, Unread):
        return
    mine = held(facts.view, facts.node)
    wanted = {path.address for spec in mine.values() if spec is not None for path in spec.paths}
    for address in sorted(facts.addresses - wanted, key=str):
        yield LEFTOVERS.error(
            f"the portal address {address} is on this node, which does not hold an image with it: two machines may"
            " answer for it",
            f"{_AGAIN}; by hand: `ip address del {address} dev INTERFACE`",
        )
    cut = frozenset() if isinstance(facts.cuts, Unread) else facts.cuts & facts.addresses & wanted
    for address in sorted(cut, key=str):
        yield LEFTOVERS.warning(
            f"the portal address {address} is here and cut off (`ip rule`): its path is on its way up or down", _AGAIN
        )


def _run(facts: LeftoverFacts) -> Iterator[Finding]:
    for stray in facts.strays:
        yield LEFTOVERS.warning(f"{stray} was left half-written by a process that died", f"`rm {stray}`")
    tenure = facts.tenure
    if isinstance(tenure, Unread) or tenure is None:
        over = "there is no tenure in /run" if tenure is None else ""
    elif not tenure.this_boot:
        over = "the tenure in /run is of an earlier boot"
    else:
        over = f"the tenure ended {-tenure.left:.0f} s ago" if tenure.left < 0 else ""
    served = [] if isinstance(facts.targets, Unread) else [t for t, foreign in facts.targets if not foreign]
    enabled = [str(target.iqn) for target in served if any(tpg.enabled and tpg.device for tpg in target.tpgs)]
    if over and enabled:
        yield LEFTOVERS.error(
            f"{over}, and {', '.join(enabled)} can still be reached here",
            "the guard takes it down; if it does not run (`systemctl status rbdgate-guard`): `rbdgate-agent cut`",
        )


def _records(view: ClusterView) -> Iterator[Finding]:
    """Who may have an image open that is not among the living: nothing is wrong, but a takeover fences it."""
    gone: dict[Label, set[str]] = {}
    for record in view.records:
        if record.node not in view.live:
            gone.setdefault(record.node, set()).add(_named(view, record.image_uid))
    for node, images in sorted(gone.items()):
        yield LEFTOVERS.warning(
            f"node {node} is not live and may have {len(images)} image(s) open, among them {min(images)}",
            f"whoever takes them fences it; if {node} is gone for good: `rbdgate node remove {node}`",
        )


def _named(view: ClusterView, uid: str) -> str:
    spec = view.spec_of(uid)
    return f"image {spec.name}" if spec is not None else f"an image this cluster does not know (uid {uid})"
