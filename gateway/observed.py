"""What is: this node's kernel as it was read this turn. Pure values; `None` for a part means *unknown*.

Everything of ours is recognised by its name alone, so that a node needs no memory: a backstore is called
`rbdgate.<uid>.<token>`, the token being the claim's create revision it was built under.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field

from gateway.credentials import Secret
from gateway.model import Address, Connection, ImageSpec, Instance, Iqn, Label

_DEVICE = re.compile(r"rbdgate\.([0-9a-f]{16})\.(\d{1,19})")

ANCHOR = "rbdgate.anchor"
"""The image every gateway keeps mapped read-only, so that its client instance is there before any other map."""

GENERATION_BASE = 7200
"""Our mappings carry `osd_idle_ttl` = this + generation: any differing ceph option makes krbd use a new client
(`ceph_compare_options`), and an idle connection kept for two hours instead of one minute does no harm."""


@dataclass(frozen=True, order=True)
class DeviceName:
    """The name of a LIO backstore of ours: which image, built under which claim."""

    uid: str
    token: int

    @classmethod
    def parse(cls, text: str) -> DeviceName | None:
        """The name's parts, or None for a backstore that is not ours."""
        match = _DEVICE.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def __str__(self) -> str:
        return f"rbdgate.{self.uid}.{self.token}"


@dataclass(frozen=True)
class Device:
    """A LIO `iblock` backstore of ours; `dev_path` is the block device under it, as `/dev/rbd0`.

    `attributes` holds every attribute the export profile sets, as read; `identity` the unit serial, vendor,
    product and revision as LIO shows them, each stripped of padding.
    """

    name: DeviceName
    hba: str
    dev_path: str
    enabled: bool
    attributes: MappingOf[str, str]
    identity: MappingOf[str, str]


@dataclass(frozen=True)
class Portal:
    """One network portal of a TPG."""

    address: Address
    port: int


@dataclass(frozen=True)
class Acl:
    """An initiator at one TPG: `mapped` tells whether its mapped LUN 0 is there.

    `authentication` is the ACL's own attribute as read: "1", "0", or "-1" for the TPG's; None on a kernel that has no
    such attribute. `auth` holds what is set of the files in `auth/`, by name; it is not read where no
    authentication is asked for.
    """

    mapped: bool
    authentication: str | None = None
    auth: MappingOf[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovery:
    """What the node's discovery asks for: `auth` as in `Acl`, read only where it is enforced."""

    enforced: bool = False
    auth: MappingOf[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True)
class Tpg:
    """One target portal group: `device` is what its LUN 0 links to (None: no LUN, or not a backstore of ours).

    `settings` holds every attribute and parameter the export profile sets, as read (`attrib/<name>`, `param/<name>`),
    and `authentication` that attribute, which an ACL's own goes before; they are empty and None for a TPG that is being
    closed (enabled, without a portal), whose settings the kernel does not show until that is done.
    """

    tag: int
    enabled: bool
    device: DeviceName | None
    portals: frozenset[Portal]
    initiators: MappingOf[Iqn, Acl]
    settings: MappingOf[str, str]
    authentication: str | None = None


@dataclass(frozen=True)
class Target:
    """An iSCSI target with its TPGs in the order of their tags."""

    iqn: Iqn
    tpgs: tuple[Tpg, ...]

    def tpg(self, tag: int) -> Tpg | None:
        """The TPG of that tag."""
        return next((tpg for tpg in self.tpgs if tpg.tag == tag), None)


@dataclass(frozen=True)
class Mapping:
    """An RBD image mapped by krbd: `number` is N of `/dev/rbdN`, `options` the map string's ceph options."""

    number: int
    pool: str
    namespace: str
    name: str
    image_id: str
    instance: Instance
    options: MappingOf[str, str]
    read_only: bool
    size: int

    @property
    def dev_path(self) -> str:
        """The block device's node."""
        return f"/dev/rbd{self.number}"

    @property
    def generation(self) -> int | None:
        """Which client of ours made the mapping (`osd_idle_ttl` carries the number); None if it is not ours."""
        idle_ttl = int(self.options.get("osd_idle_ttl", "0"))
        return idle_ttl - GENERATION_BASE if idle_ttl >= GENERATION_BASE else None

    def is_of(self, spec: ImageSpec) -> bool:
        """Whether this maps the very image of the spec (the name may have changed, the id does not)."""
        here = (self.pool, self.namespace, self.image_id)
        return here == (spec.name.pool, spec.name.namespace, spec.image_id)

    def serves(self, spec: ImageSpec) -> bool:
        """Whether we made this mapping to export the spec's image; an administrator's own, or a snapshot's, is left
        alone: it has a client of its own, which a takeover fences if it watches the image."""
        return self.generation is not None and not self.read_only and self.is_of(spec)


@dataclass(frozen=True)
class Interface:
    """A network interface that has an address in one of the cluster's networks; `up` includes the carrier.

    `mac` is its hardware address as `aa:bb:cc:dd:ee:ff`, in lower case; empty where it has none.
    """

    name: str
    index: int
    up: bool
    addresses: frozenset[Address]
    mac: str = ""


@dataclass(frozen=True)
class Kernel:
    """The whole node at one look.

    `addresses` are portal addresses present on any interface (single-host prefixes of ours); `cuts` are the source
    addresses that a drop rule of ours holds back; `networks` maps each cluster network to the interface that serves
    it here, if any. `lingering` are those cuts that hold back a connection which was closed behind them and would send
    on: they stay until it has given up.
    """

    devices: tuple[Device, ...]
    targets: tuple[Target, ...]
    mappings: tuple[Mapping, ...]
    addresses: MappingOf[Address, str]
    cuts: frozenset[Address]
    networks: MappingOf[Label, Interface]
    discovery: Discovery = field(default_factory=Discovery)
    lingering: frozenset[Address] = frozenset()
    spent: frozenset[Connection] = frozenset()
    """The connections that are muted and gone: what they had not sent is heard by nobody any more."""
    condemned: MappingOf[str, str] = field(default_factory=dict)
    """The images whose export must not be reached any more, by uid, and why: the guard could not record a change of
    their reservations in time, so what this kernel says of them is not what is kept."""
    crowded: MappingOf[str, int] = field(default_factory=dict)
    """The images whose table of registrations is nearly full, by uid, with their number."""

    def devices_of(self, uid: str) -> tuple[Device, ...]:
        """Every backstore built for the image of that uid, under whatever claim."""
        return tuple(device for device in self.devices if device.name.uid == uid)

    def target(self, iqn: Iqn) -> Target | None:
        """The target of that name."""
        return next((target for target in self.targets if target.iqn == iqn), None)

    def mappings_of(self, spec: ImageSpec) -> tuple[Mapping, ...]:
        """Every mapping of ours of the spec's image."""
        return tuple(mapping for mapping in self.mappings if mapping.serves(spec))
