"""The decision: from one look at the cluster and one at this node's kernel to the steps of this turn. Pure.

Two plans come from here. `plan` serves what this node holds, takes what nobody holds and withdraws the rest.
`plan_nothing` withdraws all of it, from the kernel alone: the guard and a node without a lease use that one.

An export is taken for granted only if it is complete and was built under the present claim; anything else of it is
withdrawn and built anew, through the whole takeover: doing too much there costs a second, too little costs data.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from gateway.access import Access, Opened, access_of
from gateway.credentials import Unreadable
from gateway.model import Address, Amendment, ClusterView, FenceIntent, ImageSpec, Instance, Iqn, Label, Path
from gateway.observed import ANCHOR, Device, DeviceName, Kernel, Mapping, Portal, Target
from gateway.placement import MOVES_AT_ONCE, Lately, Placement, why_not
from gateway.profile import access_differences, acl_is, differences, discovery_is
from gateway.reasons import Down
from gateway.steps import (
    Build,
    Claim,
    CloseDiscovery,
    ClosePath,
    Cut,
    DropFences,
    DropRecords,
    FinishAmendment,
    FinishMove,
    Forget,
    ForsakeHold,
    Map,
    MapAnchor,
    MarkServed,
    OpenPath,
    Plan,
    RefreshHold,
    Release,
    RemoveAddresses,
    RequestMove,
    SetDiscovery,
    SetInitiators,
    Step,
    TakeHold,
    Teardown,
    Uncut,
    Unmap,
    UnmapAnchor,
    Unmute,
)

NO_CLIENTS = "waiting for this node's clients of RADOS"

DISCOVERY = "discovery"
"""The key in `Plan.images` of what concerns this node's discovery as a whole."""


@dataclass(frozen=True)
class Me:
    """This node as a member: its lease, its RADOS client's instance, and whether its guard is alive."""

    name: Label
    lease: int
    rados: Instance | None
    """None while there is no connection to RADOS: what is served goes on, nothing is taken."""
    guarded: bool
    leaving: str = ""
    """Why it gives everything away and takes nothing any more, if it does."""
    generation: int = 0
    """The highest generation of its mappings that was ever seen: a client goes on for a while after its last mapping
    has gone from sysfs, and a new mapping with the same options would be one of that client, fenced or not."""
    boot_id: str = ""
    """Its machine's present boot."""


@dataclass(frozen=True)
class PathWish:
    """Whether a path should be up on this node now, and if not, why."""

    path: Path
    down_because: str | None
    kind: Down | None = None
    """The reason in one word; None if there is none."""


def path_wishes(
    spec: ImageSpec, kernel: Kernel, *, guarded: bool, strangers: MappingOf[Address, str]
) -> tuple[PathWish, ...]:
    """What should be of each path of an image held here; `strangers` says which addresses others have."""
    wishes = []
    for path in spec.paths:
        interface = kernel.networks.get(path.network)
        reason, kind = None, None
        if interface is None:
            reason, kind = f"no interface of this node has an address in network {path.network}", Down.NETWORK
        elif not interface.up:
            reason = f"{interface.name}, which serves network {path.network} here, has no link"
            kind = Down.NETWORK
        elif not guarded:
            reason, kind = "the guard (rbdgate-guard.service) is not running on this node", Down.GUARD
        elif path.address in strangers:
            reason, kind = strangers[path.address], Down.STRANGER
        wishes.append(PathWish(path, reason, kind))
    return tuple(wishes)


def path_is_up(spec: ImageSpec, path: Path, kernel: Kernel) -> bool:
    """Whether the kernel serves the path: TPG enabled, portal and address there, no cut."""
    return is_served(path, kernel.target(spec.identity.iqn), kernel)


def is_served(path: Path, target: Target | None, kernel: Kernel) -> bool:
    """The same, of a path whose target was found already."""
    tpg = target.tpg(path.tag) if target else None
    interface = kernel.networks.get(path.network)
    return (
        tpg is not None
        and tpg.enabled
        and Portal(path.address, path.port) in tpg.portals
        and interface is not None
        and kernel.addresses.get(path.address) == interface.name
        and path.address not in kernel.cuts
    )


def anchor_of(mappings: Iterable[Mapping], settings_pool: str) -> Mapping | None:
    """Among a node's mappings, the anchor whose client instance its maps use: the newest there is."""
    anchors = [m for m in mappings if _is_anchor(m) and m.pool == settings_pool]
    return max(anchors, key=lambda m: m.generation or 0, default=None)


def export_of(spec: ImageSpec, token: int, kernel: Kernel) -> tuple[Device, Target] | None:
    """The image's export if it is complete, built under that claim and on the node's present client; else None.

    Who may log in is not looked at: that is changed while it is exported.
    """
    devices = kernel.devices_of(spec.uid)
    target = kernel.target(spec.identity.iqn)
    mappings = kernel.mappings_of(spec)
    anchors = {m.instance for m in kernel.mappings if _is_anchor(m)}
    if len(devices) != 1 or len(mappings) != 1 or target is None or not target.tpgs or spec.uid in kernel.condemned:
        return None
    device, mapping = devices[0], mappings[0]
    if device.name.token != token or device.dev_path != mapping.dev_path or mapping.instance not in anchors:
        return None
    return None if differences(spec, device, target) else (device, target)


def plan_nothing(kernel: Kernel) -> Plan:
    """Withdraw everything of ours from this node, knowing nothing but its kernel."""
    ours = tuple(m for m in kernel.mappings if m.generation is not None)
    images: dict[str, tuple[Step, ...]] = {}
    addresses: set[Address] = set(kernel.addresses)
    for uid in {device.name.uid for device in kernel.devices}:
        targets = _targets_of(uid, kernel)
        addresses |= _portal_addresses(targets)
        numbers = [m.number for m in ours if m.dev_path in {d.dev_path for d in kernel.devices_of(uid)}]
        images[uid] = (Teardown(uid, frozenset(t.iqn for t in targets)), *map(Unmap, numbers))
    taken = {step.number for steps in images.values() for step in steps if isinstance(step, Unmap)}
    images |= {f"rbd{m.number}": (Unmap(m.number),) for m in ours if m.number not in taken and not _is_anchor(m)}
    last: tuple[Step, ...] = ()
    if not kernel.devices:  # the anchors last, but not after a mapping that is stuck
        images |= {ANCHOR: tuple(UnmapAnchor(m.number) for m in ours if _is_anchor(m))}
        idle = kernel.cuts - addresses - kernel.lingering
        last = (Uncut(idle),) if idle else ()
    images = {key: steps for key, steps in images.items() if steps}
    reasons = dict.fromkeys(images, "this node may not serve now")
    return Plan(_cut_first(addresses, kernel), images, last, reasons)


def left_mappings(kernel: Kernel) -> tuple[Mapping, ...]:
    """What keeps a node from being empty if that is mappings alone, which nothing of ours sits on; else nothing.

    Somebody else has such a device open, or it hangs. The client it was mapped with is on record, so whoever takes the
    image fences it, and a new anchor is another client: the node may serve other images meanwhile.
    """
    ours = tuple(m for m in kernel.mappings if m.generation is not None)
    if kernel.devices or kernel.addresses or any(map(_is_anchor, ours)):
        return ()
    return ours


@dataclass(frozen=True)
class Situation:
    """All that a plan rests on.

    `waited` tells for each image nobody claims how many seconds ago that was first seen; `stagger` is how many of
    them each place in the placement order waits. `busy` are images whose steps of an earlier turn still run: what is
    seen of them is halfway, so nothing is decided for them.
    """

    view: ClusterView
    kernel: Kernel
    me: Me
    waited: MappingOf[str, float] = field(default_factory=dict)
    stagger: float = 1.0
    busy: AbstractSet[str] = frozenset()
    lately: Lately = field(default_factory=Lately)
    strangers: MappingOf[Address, str] = field(default_factory=dict)
    """The addresses that machines of others were found to have and that are not to be probed again yet, with words."""
    opened: Opened = field(default_factory=Opened)
    """What of the view's sealed credentials could be opened on this node."""


def plan(situation: Situation) -> Plan:
    """What this node, a member with a running lease, does now."""
    return _Planner(situation).plan()


class _Planner:
    """One planning: gathers steps per image; the function above is its door."""

    def __init__(self, situation: Situation) -> None:
        self.view, self.kernel, self.me, self.busy = situation.view, situation.kernel, situation.me, situation.busy
        self.waited, self.stagger = situation.waited, situation.stagger
        self.lately, self.placement = situation.lately, Placement(self.view)
        self.strangers, self.opened = situation.strangers, situation.opened
        self.discovery_open = False
        self.anchor = anchor_of(self.kernel.mappings, self.view.settings.anchor_pool)
        self.cut: set[Address] = set()
        self.images: dict[str, tuple[Step, ...]] = {}
        self.reasons: dict[str, str] = {}
        self.held = self.view.held_under(self.me.lease)

    def plan(self) -> Plan:
        self._plan_discovery()
        for spec in self.view.images.values():
            self._plan_image(spec)
        if not self.me.leaving:
            self._relocate()
        self._plan_unknown()
        if self.anchor is None:
            self.images[ANCHOR] = (MapAnchor(max(newest_generation(self.kernel), self.me.generation) + 1),)
        images = {uid: steps for uid, steps in self.images.items() if steps}
        return Plan(_cut_first(self.cut, self.kernel), images, self._last(), self.reasons)

    def _plan_image(self, spec: ImageSpec) -> None:
        if spec.uid in self.busy:
            return
        token = self.held.get(spec.uid)
        if token is None:
            steps = self._withdraw(spec)
            if steps:
                self.reasons[spec.uid] = "this node does not hold the image (any more)"
            forsaken = () if steps else self._forsake(spec)  # only what was read back as empty is let go
            self.images[spec.uid] = forsaken or (*steps, *self._claim(spec))
            return
        leave = self.me.leaving or self.placement.should_leave(spec, self.me.name)
        if leave is not None:
            self.reasons[spec.uid] = leave
            self.images[spec.uid] = (*self._finish_move(spec), *self._withdraw(spec), Release(spec, token))
            return
        self.images[spec.uid] = self._serve(spec, token)

    def _serve(self, spec: ImageSpec, token: int) -> tuple[Step, ...]:
        export = export_of(spec, token, self.kernel)
        amendment = self.view.amendments.get(spec.uid)
        if export is not None and (amendment is None or self._is_of_denied(spec, amendment) or self._waits_for(spec)):
            return self._keep(spec, token, export[1])
        if self.anchor is None or self.me.rados is None:
            self.reasons[spec.uid] = NO_CLIENTS
            return self._withdraw(spec)
        waits_for = self._waits_for(spec)
        if waits_for:
            self.reasons[spec.uid] = waits_for
            steps = self._withdraw(spec)
            return (*steps, Release(spec, token)) if self._fits_elsewhere(spec) else steps
        condemned = self.kernel.condemned.get(spec.uid)
        asked = f"its recorded reservations are to be changed: {amendment.words}" if amendment else ""
        self.reasons[spec.uid] = condemned or asked or f"held under claim {token}, not exported under it yet"
        opened = [self._open(spec, w.path, token) for w in self._wishes(spec) if w.down_because is None]
        opened.sort(key=lambda step: step.probe)  # what is known to be ours waits for no probe
        over = self._finish_move(spec)
        stuck = self.lately.failed | self.lately.failing
        early = over if spec.uid in stuck else ()  # what cannot be exported here must be free to go on
        return (
            *early,
            *self._withdraw(spec),
            TakeHold(spec, token, self.anchor.instance, amendment),
            *((FinishAmendment(spec.uid, amendment.revision),) if amendment else ()),
            Map(spec, token, self.anchor.instance),
            Build(spec, DeviceName(spec.uid, token), self._access(spec)),
            *opened,
            *(over if not early else ()),
        )

    def _waits_for(self, spec: ImageSpec) -> str:
        """What an image that is held here could not be exported for if it were withdrawn now; empty if it could."""
        if self.anchor is None or self.me.rados is None:
            return NO_CLIENTS
        return self._access(spec).obstacle or (
            "discovery does not ask for its credentials yet" if self.discovery_open else ""
        )

    def _keep(self, spec: ImageSpec, token: int, target: Target) -> tuple[Step, ...]:
        steps: list[Step] = []
        opened: list[OpenPath] = []
        unmarked: set[Address] = set()
        for wish in self._wishes(spec):
            up = path_is_up(spec, wish.path, self.kernel)
            if up and wish.path.address not in self.view.served:
                unmarked.add(wish.path.address)
            if wish.down_because is None and not up:
                if self._is_elsewhere(wish.path):
                    steps.append(ClosePath(spec, wish.path, "another interface serves its network now"))
                opened.append(self._open(spec, wish.path, token))
            elif wish.down_because is not None and self._is_partly_up(spec, wish.path):
                steps.append(ClosePath(spec, wish.path, wish.down_because))
        opened.sort(key=lambda step: step.probe)
        # What is to be silent waits for nobody; what concerns reservations may wait for Ceph.
        steps += [*self._set_initiators(spec, token, target), *self._forget_denied(spec, token), *opened]
        if unmarked:
            steps.append(MarkServed(spec, token, frozenset(unmarked)))
        recorded = {record.instance for record in self.view.records_of(spec.uid) if record.token == token}
        present = {self.anchor.instance, self.me.rados} if self.anchor and self.me.rados else set[Instance]()
        if not present <= recorded:
            steps.append(RefreshHold(spec, token))
        if steps:
            self.reasons[spec.uid] = "exported, and not yet as it should be"
        return (*steps, *self._finish_move(spec))

    def _set_initiators(self, spec: ImageSpec, token: int, target: Target) -> tuple[Step, ...]:
        """Make the ACLs what they should be, as far as that is known; what is unknown stays as it is."""
        access = self._access(spec)
        if not access_differences(access, target):
            return ()
        wanted = {
            iqn: credentials
            for iqn, credentials in access.initiators.items()
            if any(not acl_is(tpg.initiators.get(iqn), credentials) for tpg in target.tpgs)
        }
        extra = {iqn for tpg in target.tpgs for iqn in tpg.initiators if not access.expects(iqn)}
        known = {iqn for tpg in target.tpgs for iqn in tpg.initiators}
        newcomers, waits_for = frozenset(wanted) - known, self._waits_for(spec)
        return (SetInitiators(spec, token, wanted, frozenset(extra), access.demanded, newcomers, waits_for),)

    def _is_of_denied(self, spec: ImageSpec, amendment: Amendment) -> bool:
        """Whether a change is about registrations alone that cannot be in force once the ACLs are right."""
        access = self._access(spec)
        allowed = {str(iqn) for iqn in (*access.initiators, *access.unknown)}
        known = amendment.nexuses and spec.attributes.emulate_pr and not access.unlisted
        return bool(known) and allowed.isdisjoint(amendment.initiators)

    def _forget_denied(self, spec: ImageSpec, token: int) -> tuple[Step, ...]:
        """Have them forgotten on the fly; the change is pending until that was recorded, whoever serves it by then."""
        amendment = self.view.amendments.get(spec.uid)
        if amendment is None or not self._is_of_denied(spec, amendment):
            return ()
        return (Forget(spec, token, amendment), FinishAmendment(spec.uid, amendment.revision))

    def _plan_discovery(self) -> None:
        """Have discovery ask for what it should; where that is not known here it answers nobody, or whom it did."""
        wanted, now = self.opened.discovery, self.kernel.discovery
        step: Step | None = None
        if isinstance(wanted, Unreadable) or (wanted is None and self.view.discovery is not None):
            self.discovery_open = not now.enforced
            step = CloseDiscovery() if self.discovery_open else None
        else:
            self.discovery_open = wanted is not None and not now.enforced
            step = None if discovery_is(now, wanted) else SetDiscovery(wanted)
        if step is not None and DISCOVERY not in self.busy:
            self.images[DISCOVERY] = (step,)
            self.reasons[DISCOVERY] = "discovery does not ask for the credentials it should"

    def _fits_elsewhere(self, spec: ImageSpec) -> bool:
        """Whether it is this node's key alone that keeps the image from being served."""
        if not self.view.key_lacking(spec, self.me.name):
            return False
        return any(each.node != self.me.name for each in self.placement.candidates(spec))

    def _access(self, spec: ImageSpec) -> Access:
        return access_of(self.view, self.opened, spec)

    def _wishes(self, spec: ImageSpec) -> tuple[PathWish, ...]:
        return path_wishes(spec, self.kernel, guarded=self.me.guarded, strangers=self.strangers)

    def _open(self, spec: ImageSpec, path: Path, token: int) -> OpenPath:
        return OpenPath(spec, path, token, probe=path.address not in self.view.served)

    def _is_partly_up(self, spec: ImageSpec, path: Path) -> bool:
        target = self.kernel.target(spec.identity.iqn)
        tpg = target.tpg(path.tag) if target else None
        return path.address in self.kernel.addresses or (tpg is not None and (tpg.enabled or bool(tpg.portals)))

    def _is_elsewhere(self, path: Path) -> bool:
        interface, here = self.kernel.networks.get(path.network), self.kernel.addresses.get(path.address)
        return interface is not None and here not in (None, interface.name)

    def _finish_move(self, spec: ImageSpec) -> tuple[Step, ...]:
        """A move is over when its target holds the image, and when it cannot: it must not fire much later."""
        move = self.view.moves.get(spec.uid)
        if move is None:
            return ()
        done, off = move.to == self.me.name, spec.deleting or spec.stopped
        impossible = why_not(self.view, spec, move.to) is not None
        return (FinishMove(spec.uid, move.revision),) if done or off or impossible else ()

    def _relocate(self) -> None:
        """Ask for the moves of images held here that placement wants, as long as few are under way in all.

        Every node counts the same first few, and asks for as many moves as concern it: instead of an image of its own
        that is busy, a later one.
        """
        budget, mine = MOVES_AT_ONCE - self.placement.under_way, 0
        if budget <= 0:
            return
        for place, each in enumerate(self.placement.relocations(self.lately)):
            mine += place < budget and each.source == self.me.name
            if place >= budget and not mine:
                return
            spec = self.view.spec_of(each.uid)
            if each.source == self.me.name and spec is not None and each.uid in self.images and each.uid in self.held:
                mine -= 1
                self.reasons.setdefault(each.uid, f"{each.reason}: to be moved to {each.target}")
                asked = RequestMove(spec, self.held[each.uid], each.target, each.reason)
                self.images[each.uid] = (asked, *self.images[each.uid])  # first: what comes after may be what fails

    def _withdraw(self, spec: ImageSpec) -> tuple[Step, ...]:
        """Steps that leave nothing of the image on this node; its addresses join this turn's cut."""
        targets = _targets_of(spec.uid, self.kernel, spec.identity.iqn)
        mappings = self.kernel.mappings_of(spec)
        # A target of another tool's under this name can have the node's own address as a portal: not ours to cut.
        self.cut |= _portal_addresses(_targets_of(spec.uid, self.kernel))
        self.cut |= {path.address for path in spec.paths if path.address in self.kernel.addresses}
        steps: list[Step] = []
        if targets or self.kernel.devices_of(spec.uid):
            steps.append(Teardown(spec.uid, frozenset(t.iqn for t in targets)))
        return (*steps, *(Unmap(m.number) for m in mappings))

    def _forsake(self, spec: ImageSpec) -> tuple[Step, ...]:
        """Let go of what a claim that is lost left on record of this node's living clients, now that nothing is here.

        Records of its former clients stay: whoever takes the image fences those.
        """
        alive = {self.anchor.instance if self.anchor else None, self.me.rados}
        left = tuple(
            record
            for record in self.view.records_of(spec.uid)
            if record.node == self.me.name and record.instance in alive
        )
        if not left or self.me.rados is None:
            return ()
        self.reasons[spec.uid] = "this node's claim was lost, and nothing of the image is left here"
        return (ForsakeHold(spec, left),)

    def _claim(self, spec: ImageSpec) -> tuple[Step, ...]:
        if (
            spec.uid in self.view.claims
            or spec.deleting
            or spec.stopped
            or str(spec.name) in self.view.broken
            or not self.me.guarded
            or self.me.leaving
        ):
            return ()
        if self.anchor is None or self.me.rados is None:
            return ()
        word = self.view.live.get(self.me.name)
        if word is None or not {self.anchor.instance, self.me.rados} <= set(word.instances):
            return ()  # others must be able to tell this node's instances before it opens anything
        if self.discovery_open or self._access(spec).obstacle:
            return ()  # it could not be served as it should be
        for rank, candidate in enumerate(self.placement.candidates(spec)):
            if candidate.node == self.me.name and self.waited.get(spec.uid, 0.0) >= rank * self.stagger:
                revision = self.view.revisions[spec.name]
                return (Claim(spec, revision, candidate.reason),)
        return ()

    def _plan_unknown(self) -> None:
        """Withdraw exports and mappings of ours that no readable spec speaks of, unless their claim is ours.

        An export whose claim this node holds but whose spec is gone or unreadable stays as it is: a damaged key in
        etcd must not stop a guest.
        """
        known = {spec.uid for spec in self.view.images.values()}
        spoken_for: set[str] = set()
        for uid in {device.name.uid for device in self.kernel.devices} - known - self.busy:
            devices = self.kernel.devices_of(uid)
            spoken_for |= {device.dev_path for device in devices}
            if uid in self.held and all(device.name.token == self.held[uid] for device in devices):
                continue
            targets = _targets_of(uid, self.kernel)
            self.cut |= _portal_addresses(targets)
            numbers = [m.number for m in self.kernel.mappings if m.dev_path in {d.dev_path for d in devices}]
            self.images[uid] = (Teardown(uid, frozenset(t.iqn for t in targets)), *map(Unmap, numbers))
            self.reasons[uid] = "no image of that uid is known, and this node holds no claim for it"
        for mapping in self.kernel.mappings:
            stray = mapping.generation is not None and mapping.dev_path not in spoken_for and not _is_anchor(mapping)
            if stray and not any(mapping.serves(spec) for spec in self.view.images.values()):
                self.images[f"rbd{mapping.number}"] = (Unmap(mapping.number),)
                self.reasons[f"rbd{mapping.number}"] = "mapped by us, and no known image of ours"
        self.cut |= set(self.kernel.addresses) - self._addresses_in_use(known)

    def _addresses_in_use(self, known: AbstractSet[str]) -> set[Address]:
        """Addresses that may be on this node: those of images held here, and of unreadable ones left alone."""
        keep = self.busy | set(self.held)
        used = {p.address for spec in self.view.images.values() if spec.uid in keep for p in spec.paths}
        for uid in set(self.held) - known:
            used |= _portal_addresses(_targets_of(uid, self.kernel))
        return used

    def _last(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        exported = _portal_addresses(self.kernel.targets)
        idle = self.kernel.cuts - set(self.kernel.addresses) - exported - self.cut - self.kernel.lingering
        if idle:
            steps.append(Uncut(frozenset(idle)))
        if self.kernel.spent:
            steps.append(Unmute(self.kernel.spent))
        used = {m.instance for m in self.kernel.mappings} | ({self.me.rados} if self.me.rados else set())
        stale = tuple(
            record
            for record in self.view.records
            if record.node == self.me.name and record.instance not in used and record.instance in self.view.fences
        )
        if stale:
            steps.append(DropRecords(stale))
        forgotten = self._forgettable_fences(used)
        if forgotten:
            steps.append(DropFences(forgotten))
        if self.anchor is not None:
            in_use = {m.instance for m in self.kernel.mappings if not _is_anchor(m)} | {self.anchor.instance}
            old = (m for m in self.kernel.mappings if _is_anchor(m) and m.instance not in in_use)
            steps += [UnmapAnchor(m.number) for m in old]
        return tuple(steps)

    def _forgettable_fences(self, used: AbstractSet[Instance]) -> tuple[FenceIntent, ...]:
        """The fences of what lived in this very boot and is gone from its kernel.

        A name is no proof: another machine may have taken it over while the former one, cut off, still has writes
        queued. Nor can a machine tell its own earlier boot from another machine's; those fences stay.
        """
        if not self.me.boot_id:
            return ()
        recorded = {record.instance for record in self.view.records}
        mine = (intent for intent in self.view.fences.values() if intent.boot_id == self.me.boot_id)
        return tuple(intent for intent in mine if intent.instance not in used | recorded)


def _cut_first(addresses: AbstractSet[Address], kernel: Kernel) -> tuple[Step, ...]:
    present = frozenset(addresses & set(kernel.addresses))
    uncut = frozenset(addresses - kernel.cuts)
    steps: list[Step] = [Cut(uncut)] if uncut else []
    if present:
        steps.append(RemoveAddresses(present))
    return tuple(steps)


def _targets_of(uid: str, kernel: Kernel, iqn: Iqn | None = None) -> tuple[Target, ...]:
    """Targets that link to a backstore of that uid, and the one of that name even if it links to none."""
    return tuple(
        target
        for target in kernel.targets
        if target.iqn == iqn or any(tpg.device is not None and tpg.device.uid == uid for tpg in target.tpgs)
    )


def _portal_addresses(targets: tuple[Target, ...]) -> set[Address]:
    return {portal.address for target in targets for tpg in target.tpgs for portal in tpg.portals}


def _is_anchor(mapping: Mapping) -> bool:
    return mapping.name == ANCHOR and mapping.read_only and mapping.generation is not None


def newest_generation(kernel: Kernel) -> int:
    """The highest generation among the mappings; 0 if none is ours."""
    return max((m.generation or 0 for m in kernel.mappings), default=0)
