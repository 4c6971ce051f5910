"""A gateway's kernel and its way to RADOS in memory, for planning and applying without a machine.

`FakeKernel` does what the acts of `gateway.kernel.NodeKernel` do to the values that `observe` returns, and refuses what
the real one refuses; `FakePool` is the one RADOS all fake nodes share: headers, mappings' watches, the blocklist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from typing import Protocol

from gateway.access import Access
from gateway.apply import Openers
from gateway.credentials import Credentials
from gateway.errors import AddressInUse, Inconsistent, LostRace, NotFound, StorageUnavailable
from gateway.images.holder import Holder
from gateway.images.krbd import DeviceInUse
from gateway.images.sequence import next_pr_info
from gateway.model import (
    Address,
    Amendment,
    AmendmentKind,
    ClusterView,
    Connection,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    Path,
)
from gateway.observed import (
    ANCHOR,
    GENERATION_BASE,
    Acl,
    Device,
    DeviceName,
    Discovery,
    Interface,
    Kernel,
    Mapping,
    Portal,
    Target,
    Tpg,
)
from gateway.plan import anchor_of
from gateway.profile import TPG_SETTINGS, auth_of, device_settings, shown_identity
from gateway.reservations.amending import amended
from gateway.reservations.recording import recorded
from gateway.reservations.state import ReservationState
from gateway.steps import SetInitiators


@dataclass
class FakePool:
    """All of RADOS that matters: each image's header, who watches it, has its lock, and who is blocklisted.

    `deaf` is an OSD that answers no unmap: watch and lock stay behind.
    """

    holders: dict[str, Holder] = field(default_factory=dict)
    watchers: dict[str, set[Instance]] = field(default_factory=dict)
    locks: dict[str, Instance] = field(default_factory=dict)
    blocklist: set[Instance] = field(default_factory=set)
    pr_info: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    deaf: bool = False

    def opened(self, uid: str, client: Instance) -> None:
        """What a map does: it takes watch and lock; the image must have been taken for that client first."""
        holder = self.holders.get(uid)
        if holder is None or client not in holder.instances:
            raise AssertionError(f"{uid} is mapped by {client} before the header names it")
        owner = self.locks.get(uid)
        if owner is not None:  # the kernel breaks a lock only after it blocklisted the owner, itself included (seen)
            self.blocklist.add(owner)
        self.locks[uid] = client
        self.watchers.setdefault(uid, set()).add(client)

    def closed(self, uid: str, client: Instance) -> None:
        """What an unmap does, if an OSD answers."""
        if not self.deaf:
            self.watchers.get(uid, set()).discard(client)
            if self.locks.get(uid) == client:
                del self.locks[uid]

    def forgot(self, spec: ImageSpec, nexuses: Iterable[str]) -> None:
        """What a guard records of initiators that have no ACL."""
        done = Amendment(AmendmentKind.FORGET, "nobody", "", tuple(nexuses))
        self.pr_info[spec.uid] = amended(self.pr_info[spec.uid], done)


@dataclass
class FakeStorage:
    """One node's RADOS client."""

    pool: FakePool
    instance: Instance

    def openers(self, spec: ImageSpec) -> Openers:
        """The header's holder, and everybody it and its watchers name."""
        holder, lock = self.pool.holders.get(spec.uid), self.pool.locks.get(spec.uid)
        named = set(holder.instances) if holder else set()
        locked = {lock} if lock else set[Instance]()
        seen = self.pool.watchers.get(spec.uid, set()) | locked
        opened = seen - named if holder and holder.released else seen | named
        return Openers(holder, frozenset(opened), frozenset(locked))

    def fence(self, spec: ImageSpec, victims: frozenset[Instance]) -> None:
        """Blocklist the victims and take their lock; the OSDs drop the watches of whom a new map has blocklisted."""
        self.pool.blocklist |= victims
        for watchers in self.pool.watchers.values():
            watchers.difference_update(victims)
        self.break_locks(spec, victims)
        self.pool.log.append(f"fence {spec.uid}")

    def blocklisted(self) -> frozenset[Instance]:
        """Who has an entry."""
        return frozenset(self.pool.blocklist)

    def break_locks(self, spec: ImageSpec, owners: frozenset[Instance]) -> None:
        """Take the lock from any of these."""
        if self.pool.locks.get(spec.uid) in owners:
            del self.pool.locks[spec.uid]

    def take(self, spec: ImageSpec, expected: Holder | None, mine: Holder, amendment: Amendment | None = None) -> None:
        """Swap the holder if it still is the expected one, and change the recorded reservations with it."""
        if self.pool.holders.get(spec.uid) != expected or self.instance in self.pool.blocklist:
            raise LostRace(f"image {spec.name}: somebody else holds it")
        self.pool.holders[spec.uid] = mine
        old = self.pool.pr_info.get(spec.uid)
        self.pool.pr_info[spec.uid] = next_pr_info(old) if amendment is None else amended(old, amendment)
        self.pool.log.append(f"take {spec.uid}")

    def reservations(self, spec: ImageSpec, token: int) -> ReservationState:
        """What the header keeps."""
        holder = self.pool.holders.get(spec.uid)
        if holder is None or holder.token != token or holder.released:
            raise LostRace(f"image {spec.name}: somebody else holds it")
        return recorded(self.pool.pr_info.get(spec.uid))

    def refresh(self, spec: ImageSpec, mine: Holder) -> None:
        """Put new instances under the same token."""
        holder = self.pool.holders.get(spec.uid)
        if holder is None or holder.token != mine.token:
            raise LostRace(f"image {spec.name}: somebody else holds it")
        self.pool.holders[spec.uid] = mine

    def release(self, spec: ImageSpec, token: int) -> None:
        """Mark the holder as released, if it is ours."""
        holder = self.pool.holders.get(spec.uid)
        if holder is not None and holder.token == token:
            self.pool.holders[spec.uid] = replace(holder, released=True)
        self.pool.log.append(f"release {spec.uid}")


class Opened(Protocol):
    """What RADOS hears of a kernel's maps."""

    def opened(self, uid: str, client: Instance) -> None:
        """The client maps the image; may refuse."""
        ...

    def closed(self, uid: str, client: Instance) -> None:
        """The client unmaps the image."""
        ...

    def forgot(self, spec: ImageSpec, nexuses: Iterable[str]) -> None:
        """The guard records the image's reservations without these."""
        ...


class FakeKernel:
    """One node's kernel; `before` is called with each act's name first and may raise to interrupt it."""

    def __init__(self, pool: Opened, name: str, networks: dict[Label, Interface]) -> None:
        self.pool, self.name = pool, name
        self.state = Kernel((), (), (), {}, frozenset(), networks)
        self.before: Callable[[str], None] = lambda _act: None
        self.settings_pool = "rbd"
        self.held_open: set[int] = set()
        """Numbers of block devices that somebody else has open."""
        self.strangers: dict[Address, str] = {}
        """Who has addresses on this node's networks that is none of the cluster's nodes, by MAC."""
        self._clients: dict[int, Instance] = {}
        self._nonce = 0

    def observe(self, view: ClusterView | None) -> Kernel:
        """The kernel as it is; without a view the networks are unknown."""
        return self.state if view is not None else replace(self.state, networks={})

    def cut(self, addresses: frozenset[Address]) -> None:
        """Hold back these source addresses."""
        self.before("cut")
        self._set(cuts=self.state.cuts | addresses)

    def uncut(self, addresses: frozenset[Address]) -> None:
        """Let them go again."""
        self.before("uncut")
        self._set(cuts=self.state.cuts - addresses)

    def unmute(self, connections: frozenset[Connection]) -> None:
        """Forget that they were muted."""
        self.before("unmute")
        self._set(spent=self.state.spent - connections)

    def remove_addresses(self, addresses: frozenset[Address]) -> None:
        """Take addresses off; refuses one that is not cut, for the cut is the first act of every withdrawal."""
        self.before("remove_addresses")
        if not addresses <= self.state.cuts:
            raise AssertionError(f"addresses go off without a cut: {addresses - self.state.cuts}")
        self._set(addresses={a: i for a, i in self.state.addresses.items() if a not in addresses})

    def teardown(self, uid: str, iqns: frozenset[Iqn], permit: Callable[[], None] = lambda: None) -> None:
        """Remove targets and backstores; refuses while one of their addresses still answers."""
        self.before("teardown")
        permit()
        for target in self.state.targets:
            for tpg in target.tpgs:
                live = {portal.address for portal in tpg.portals} & (set(self.state.addresses) - self.state.cuts)
                if target.iqn in iqns and live:
                    raise AssertionError(f"torn down while {live} is on the node")
        self._set(
            targets=tuple(t for t in self.state.targets if t.iqn not in iqns),
            devices=tuple(d for d in self.state.devices if d.name.uid != uid),
        )

    def unmap(self, number: int) -> None:
        """Unmap; refuses while a backstore sits on the device; one that is not mapped (any more) is fine."""
        self.before("unmap")
        mapping = next((m for m in self.state.mappings if m.number == number), None)
        if mapping is None:
            return
        if number in self.held_open or any(device.dev_path == mapping.dev_path for device in self.state.devices):
            raise DeviceInUse(f"{mapping.dev_path} is in use")
        self._set(mappings=tuple(m for m in self.state.mappings if m.number != number))
        if not any(m.instance == mapping.instance for m in self.state.mappings):
            self._clients = {g: i for g, i in self._clients.items() if i != mapping.instance}
        if not mapping.read_only:
            self.pool.closed(_uid(mapping), mapping.instance)

    def map_anchor(self, generation: int) -> None:
        """Map the anchor under a generation."""
        self.before("map_anchor")
        self._map(self.settings_pool, ANCHOR, "a" * 12, generation, read_only=True)

    def anchor_instance(self) -> Instance:
        """The anchor's client."""
        return self._anchor().instance

    def map_image(self, spec: ImageSpec, client: Instance) -> None:
        """Map an image on the anchor's client, if that is this one; it must have been taken first."""
        self.before("map_image")
        anchor = self._anchor()
        if anchor.instance != client:
            raise Inconsistent(f"{spec.name} was taken for {client}")
        self.pool.opened(spec.image_id, client)
        self._map(spec.name.pool, spec.name.name, spec.image_id, anchor.generation or 0, read_only=False)

    def build(self, spec: ImageSpec, device: DeviceName, access: Access, reservations: ReservationState | None) -> None:
        """Build a complete export with nothing enabled; what was condemned of it is gone then."""
        self.before("build")
        assert (reservations is not None) == bool(spec.attributes.emulate_pr)
        if self.state.devices_of(spec.uid) or self.state.target(spec.identity.iqn):
            raise Inconsistent(f"something of {spec.name} is there already")
        if not self.state.mappings_of(spec):
            raise NotFound(f"image {spec.name} is not mapped on this node")
        mapping = self.state.mappings_of(spec)[0]
        self._set(condemned={uid: why for uid, why in self.state.condemned.items() if uid != spec.uid})
        settings = {setting.file: setting.expected for setting in device_settings(spec.attributes)}
        built = Device(device, "iblock_0", mapping.dev_path, True, settings, shown_identity(spec.identity))
        acls = {iqn: acl_of(credentials) for iqn, credentials in access.initiators.items()}
        of_tpg = {setting.file: setting.expected for setting in TPG_SETTINGS}
        tpgs = tuple(Tpg(path.tag, False, device, frozenset(), acls, of_tpg, "1") for path in spec.paths)
        self._set(devices=(*self.state.devices, built))
        self.before("build halfway")
        self._set(targets=(*self.state.targets, Target(spec.identity.iqn, tpgs)))

    def probe(self, path: Path) -> None:
        """Refuse what one of `strangers` has."""
        self.before("probe")
        if path.address in self.strangers:
            raise AddressInUse(f"address {path.address} is in use by {self.strangers[path.address]}")

    def open_path(self, spec: ImageSpec, path: Path, permit: Callable[[], None]) -> None:
        """Cut, portal, enable, address, no cut; permission is asked as often as the real one asks."""
        self.before("open_path")
        interface = self.state.networks[path.network]
        self._set(cuts=self.state.cuts | {path.address})
        portals = frozenset({Portal(path.address, path.port)})
        self._tpg(spec, path.tag, lambda tpg: replace(tpg, enabled=True, portals=portals))
        permit()
        if self.state.addresses.get(path.address, interface.name) != interface.name:
            raise Inconsistent(f"{path.address} is on another interface")
        self._set(addresses={**self.state.addresses, path.address: interface.name})
        self.before("open_path halfway")
        permit()
        self._set(cuts=self.state.cuts - {path.address})

    def nudge(self, connection: Connection) -> None:
        """Remember whom."""
        self.before(f"nudge {connection.peer}")

    def close_path(self, spec: ImageSpec, path: Path) -> None:
        """The reverse."""
        self.before("close_path")
        self._set(cuts=self.state.cuts | {path.address})
        self._set(addresses={a: i for a, i in self.state.addresses.items() if a != path.address})
        self._tpg(spec, path.tag, lambda tpg: replace(tpg, enabled=False, portals=frozenset()))

    def set_initiators(self, step: SetInitiators, reservations: ReservationState | None) -> None:
        """Change the ACLs, one TPG after the other; the real one looks at recorded reservations of newcomers first."""
        self.before("set_initiators")
        for path in step.spec.paths:
            self._tpg(
                step.spec,
                path.tag,
                lambda tpg: replace(tpg, initiators=_changed(tpg, step.wanted, step.remove), authentication="1"),
            )
            self.before("set_initiators halfway")

    def forget(self, spec: ImageSpec, nexuses: Iterable[str]) -> None:
        """Have the guard record that, which is the pool's business here."""
        self.before("forget")
        self.pool.forgot(spec, nexuses)

    def set_discovery(self, credentials: Credentials | None) -> None:
        """Ask for these credentials, or for nothing."""
        self.before("set_discovery")
        self._set(discovery=Discovery(credentials is not None, auth_of(credentials)))

    def close_discovery(self) -> None:
        """Ask for whatever there is."""
        self.before("close_discovery")
        self._set(discovery=replace(self.state.discovery, enforced=True))

    def _anchor(self) -> Mapping:
        anchor = anchor_of(self.state.mappings, self.settings_pool)
        if anchor is None:
            raise StorageUnavailable("the anchor is not mapped")
        return anchor

    def _map(self, pool: str, name: str, image_id: str, generation: int, *, read_only: bool) -> None:
        if generation not in self._clients:
            self._nonce += 1
            self._clients[generation] = Instance(f"10.0.0.{self.name[-1]}:0/{self._nonce}")
        number = max((m.number for m in self.state.mappings), default=-1) + 1
        options = {"osd_idle_ttl": str(GENERATION_BASE + generation)}
        mapping = Mapping(
            number, pool, "", name, image_id, self._clients[generation], options, read_only=read_only, size=1 << 30
        )
        self._set(mappings=(*self.state.mappings, mapping))

    def _tpg(self, spec: ImageSpec, tag: int, change: Callable[[Tpg], Tpg]) -> None:
        targets = tuple(
            target
            if target.iqn != spec.identity.iqn
            else replace(target, tpgs=tuple(change(t) if t.tag == tag else t for t in target.tpgs))
            for target in self.state.targets
        )
        self._set(targets=targets)

    def _set(self, **parts: object) -> None:
        self.state = replace(self.state, **parts)  # type: ignore[arg-type] # the parts are Kernel's own


def acl_of(credentials: Credentials | None) -> Acl:
    """The ACL of an initiator that has to prove itself with these credentials, or with none."""
    return Acl(mapped=True, authentication="0" if credentials is None else "1", auth=auth_of(credentials))


def _changed(tpg: Tpg, wanted: MappingOf[Iqn, Credentials | None], remove: frozenset[Iqn]) -> dict[Iqn, Acl]:
    kept = {iqn: acl for iqn, acl in tpg.initiators.items() if iqn not in remove}
    return kept | {iqn: acl_of(credentials) for iqn, credentials in wanted.items()}


def _uid(mapping: Mapping) -> str:
    """Fake images have their uid as RBD id, too."""
    return mapping.image_id
