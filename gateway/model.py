"""What should be: the words of README as frozen values, checked once, at the edge.

No I/O, no clock, no logger. A value that exists is valid: constructors refuse, with the reason.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from gateway.credentials import SealedCredentials, Unreadable
from gateway.errors import BadInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ISCSI_PORT = 3260
"""The port IANA assigned to iSCSI (RFC 7143 section 4.2.7)."""

_RBD_NAME = re.compile(r"[A-Za-z0-9_.+:=-][A-Za-z0-9_.+:=\- ]*")
_ISCSI_NAME = re.compile(
    r"(iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?)|(eui\.[0-9a-f]{16})|(naa\.([0-9a-f]{16}|[0-9a-f]{32}))"
)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def parse_address(text: str) -> Address:
    """An IPv4 or IPv6 address without zone or prefix length."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadInput(f"{text!r} is not an IP address; write it like 192.0.2.10 or 2001:db8::10") from None
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.is_link_local):
        raise BadInput(f"{text!r} is a link-local IPv6 address; a portal needs a routable one")
    return address


@dataclass(frozen=True, order=True)
class Label:
    """A name for a node or a network: letters, digits, `-`, `_` and `.`, 63 at most."""

    text: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.text):
            raise BadInput(
                f"{self.text!r} is no name for a node or network: use letters, digits, '-', '_' and '.', at most 63,"
                " with a letter or digit at both ends"
            )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, order=True)
class ImageName:
    """An RBD image's full name, `pool/name` or `pool/namespace/name`."""

    pool: str
    name: str
    namespace: str = ""

    def __post_init__(self) -> None:
        for what, value in (("pool", self.pool), ("image name", self.name)):
            if not _RBD_NAME.fullmatch(value):
                raise BadInput(f"{value!r} is no {what}: use letters, digits and any of '_.+:=-', like rbd/disk1")
        if self.namespace and not _RBD_NAME.fullmatch(self.namespace):
            raise BadInput(f"{self.namespace!r} is no RBD namespace: use letters, digits and any of '_.+:=-'")

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read `pool/name` or `pool/namespace/name`."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise BadInput(f"{text!r} names no image: write POOL/NAME or POOL/NAMESPACE/NAME, like rbd/disk1")
        return cls(pool=parts[0], name=parts[-1], namespace=parts[1] if len(parts) == 3 else "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.pool, self.namespace, self.name) if part)


@dataclass(frozen=True, order=True)
class Iqn:
    """An iSCSI name in its normal form: `iqn.`, `eui.` or `naa.` (RFC 7143 section 4.2.7), 223 bytes at most."""

    text: str

    def __post_init__(self) -> None:
        if self.text != self.text.lower() and _ISCSI_NAME.fullmatch(self.text.lower()):
            raise BadInput(f"{self.text!r} is not in normal form: iSCSI names are lower case, {self.text.lower()!r}")
        if len(self.text) > 223 or not _ISCSI_NAME.fullmatch(self.text):
            raise BadInput(
                f"{self.text!r} is no iSCSI name: write it like iqn.1993-08.org.debian:01:abc (or eui. and 16,"
                " naa. and 16 or 32 hex digits), at most 223 characters"
            )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Network:
    """A network of the initiators: its prefix, and the range portal addresses are taken from."""

    name: Label
    cidr: ipaddress.IPv4Network | ipaddress.IPv6Network
    first: Address
    last: Address

    def __post_init__(self) -> None:
        for address in (self.first, self.last):
            if address not in self.cidr:
                raise BadInput(f"network {self.name}: {address} is outside {self.cidr}")
        if int(self.first) > int(self.last):
            raise BadInput(f"network {self.name}: the range {self.first}-{self.last} is empty; swap its ends")
        edges = {self.cidr.network_address, self.cidr.broadcast_address}
        if self.cidr.prefixlen < self.cidr.max_prefixlen - 1 and edges & {self.first, self.last}:
            raise BadInput(f"network {self.name}: the range holds the network or broadcast address of {self.cidr}")

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read `NAME=CIDR,FIRST-LAST`, as `storage-1=10.0.1.0/24,10.0.1.100-10.0.1.199`."""
        name, equals, rest = text.partition("=")
        cidr, comma, portals = rest.partition(",")
        first, dash, last = portals.partition("-")
        if not (equals and comma and dash):
            raise BadInput(
                f"{text!r} is no network: write NAME=CIDR,FIRST-LAST, like lan1=10.0.1.0/24,10.0.1.100-10.0.1.199"
            )
        try:
            network = ipaddress.ip_network(cidr.strip())
        except ValueError as error:
            raise BadInput(f"network {name}: {cidr!r} is no network prefix: {error}") from None
        return cls(Label(name.strip()), network, parse_address(first.strip()), parse_address(last.strip()))

    def __contains__(self, address: Address) -> bool:
        return address in self.cidr


@dataclass(frozen=True)
class Path:
    """One portal of an image; its tag is the target portal group tag (RFC 7143 section 4.4, 1 to 65535)."""

    tag: int
    address: Address
    network: Label
    port: int = ISCSI_PORT

    def __post_init__(self) -> None:
        if not 1 <= self.tag <= 65535:
            raise BadInput(f"path tag {self.tag} is out of range: 1 to 65535")
        if not 1 <= self.port <= 65535:
            raise BadInput(f"path {self.tag}: port {self.port} is out of range: 1 to 65535")


@dataclass(frozen=True)
class Identity:
    """What an initiator knows the disk by: chosen once, stored, never derived again.

    `serial` is the unit serial number (SPC-4 clause 7.8.15), from whose first 25 hex digits LIO makes the NAA
    designator; vendor (8), product (16) and revision (4) are INQUIRY's (SPC-4 clause 6.6.2), in characters.
    """

    iqn: Iqn
    serial: str
    vendor: str = "RBDGATE"
    product: str = "RBD"
    revision: str = "1"

    @property
    def naa(self) -> str:
        """The part of the serial that tells disks apart: LIO takes its first 25 hex digits (target_core_spc.c)."""
        return re.sub(r"[^0-9a-f]", "", self.serial.lower())[:25].ljust(25, "0")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", self.serial):
            raise BadInput(f"serial {self.serial!r}: use 1 to 64 letters, digits, '-', '_', '.' or ':'")
        for what, value, size in (
            ("vendor", self.vendor, 8),
            ("product", self.product, 16),
            ("revision", self.revision, 4),
        ):
            if not 1 <= len(value) <= size or not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
                raise BadInput(f"{what} {value!r}: use 1 to {size} printable ASCII characters, no space at the ends")


@dataclass(frozen=True)
class DeviceAttributes:
    """LIO device attributes an initiator can see (`core/<hba>/<dev>/attrib/<name>`), the same on every gateway.

    With `emulate_pr` 0 every PERSISTENT RESERVE is refused. With `enforce_pr_isids` 0 a registrant is known by its name
    alone from the next takeover on, so that it may come back with another ISID.
    """

    block_size: int = 512
    emulate_3pc: int = 0
    emulate_caw: int = 1
    emulate_fua_write: int = 1
    emulate_pr: int = 1
    emulate_tpu: int = 1
    emulate_tpws: int = 1
    emulate_write_cache: int = 0
    enforce_pr_isids: int = 1
    is_nonrot: int = 1

    def __post_init__(self) -> None:
        if self.block_size not in (512, 4096):
            raise BadInput(f"block size {self.block_size}: 512 and 4096 are what LIO serves")


@dataclass(frozen=True)
class ImageSpec:
    """One image as a target: everything a gateway needs to export it, and nothing that says where it is now.

    `uid` (16 hex digits) names the export on the nodes and never changes; `image_id` is RBD's own id, so that an
    image that was removed and made anew under the old name is not mistaken for this one. `size` is in bytes.
    `initiators` may log in, and so may the members of `groups`. The image is at node `pin` while that one can serve it,
    never at a node of `keep_away`, and at none while it is `stopped`.
    """

    name: ImageName
    uid: str
    image_id: str
    size: int
    identity: Identity
    paths: tuple[Path, ...]
    initiators: tuple[Iqn, ...] = ()
    attributes: DeviceAttributes = field(default_factory=DeviceAttributes)
    deleting: bool = False
    groups: tuple[Label, ...] = ()
    pin: Label | None = None
    keep_away: tuple[Label, ...] = ()
    stopped: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", self.uid):
            raise BadInput(f"image {self.name}: uid {self.uid!r} is not 16 hex digits")
        if not re.fullmatch(r"[0-9a-zA-Z]{1,64}", self.image_id):
            raise BadInput(f"image {self.name}: RBD id {self.image_id!r} is not letters and digits")
        if self.size <= 0 or self.size % 512:
            raise BadInput(f"image {self.name}: size {self.size} is not a positive multiple of 512 bytes")
        if not self.paths:
            raise BadInput(f"image {self.name} has no path; it needs at least one")
        if [path.tag for path in self.paths] != list(range(1, len(self.paths) + 1)):
            raise BadInput(f"image {self.name}: path tags must be 1 to {len(self.paths)}, in order")
        if len({path.address for path in self.paths}) != len(self.paths):
            raise BadInput(f"image {self.name}: two of its paths have the same address")
        for what, listed in (
            ("an initiator", self.initiators),
            ("a group of initiators", self.groups),
            ("a node to keep away from", self.keep_away),
        ):
            if len(set(listed)) != len(listed):
                raise BadInput(f"image {self.name}: {what} is listed twice")
        if self.pin is not None and self.pin in self.keep_away:
            raise BadInput(f"image {self.name} cannot be pinned to node {self.pin} and kept away from it")


class NodeState(Enum):
    """What an operator has asked of a node."""

    ACTIVE = "active"
    DRAIN = "drain"
    MAINTENANCE = "maintenance"


USUAL_WEIGHT = 100
"""The weight of a node of which nobody said anything else."""


@dataclass(frozen=True)
class NodeRecord:
    """What an operator has asked of a node, and why.

    `weight` (1 to 1000) is its share of the images: a node of weight 200 takes twice as many as one of 100.
    A node in DRAIN gives away what others can take and keeps the rest; one in MAINTENANCE keeps nothing.
    """

    state: NodeState = NodeState.ACTIVE
    weight: int = USUAL_WEIGHT
    why: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= 1000:
            raise BadInput(f"weight {self.weight}: use 1 to 1000; {USUAL_WEIGHT} is the usual")


@dataclass(frozen=True)
class ClusterSettings:
    """What all gateways agree on; `fsid` is the Ceph cluster's. (Timers are each node's own: its settings file.)"""

    fsid: str
    networks: tuple[Network, ...]
    anchor_pool: str
    iqn_prefix: str = "iqn.2026-11.io.rbdgate"

    def __post_init__(self) -> None:
        if not self.networks:
            raise BadInput("a cluster needs at least one network")
        for index, network in enumerate(self.networks):
            for other in self.networks[:index]:
                if network.name == other.name:
                    raise BadInput(f"network {network.name} is named twice")
                if network.cidr.version == other.cidr.version and network.cidr.overlaps(other.cidr):
                    raise BadInput(f"networks {other.name} and {network.name} overlap ({other.cidr}, {network.cidr})")
        Iqn(self.iqn_prefix + ":probe")

    def network_of(self, address: Address) -> Network | None:
        """The network an address belongs to."""
        return next((network for network in self.networks if address in network), None)

    def network(self, name: Label) -> Network | None:
        """The network of that name."""
        return next((network for network in self.networks if network.name == name), None)


@dataclass(frozen=True, order=True)
class Instance:
    """A RADOS client as the OSDs see it, `IP:port/nonce`: what a blocklist entry names."""

    text: str

    def __post_init__(self) -> None:
        host, colon, tail = self.text.rpartition(":")
        if not colon or not re.fullmatch(r"\d{1,5}/\d{1,10}", tail):
            raise BadInput(f"{self.text!r} names no RADOS client instance: expected IP:port/nonce")
        try:
            ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        except ValueError:
            raise BadInput(f"{self.text!r} names no RADOS client instance: {host!r} is no IP address") from None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Claim:
    """Who holds an image now. `token` is the etcd create revision that guards all that the holder writes."""

    node: Label
    lease: int
    token: int


@dataclass(frozen=True)
class HolderRecord:
    """One client instance that may have an image open for writing; it has no lease, so it outlives its node."""

    image_uid: str
    instance: Instance
    node: Label
    token: int
    kind: str
    """`krbd` or `rados`."""
    boot_id: str = ""
    """The boot of its machine that the instance lives in; empty where its node did not say so itself."""
    mod_revision: int = 0


NOT_ANSWERED = "Ceph does not answer it"
"""The obstacle, word for word, that makes other nodes show whether Ceph answers them (`LiveNode.answered`)."""


@dataclass(frozen=True)
class LiveNode:
    """A node as its own agent last wrote it under its lease."""

    name: Label
    lease: int
    boot_id: str
    version: str
    networks: tuple[Label, ...]
    instances: tuple[Instance, ...]
    addresses: tuple[Address, ...] = ()
    """The node's own addresses in the cluster's networks: never portals."""
    obstacle: str = ""
    """Why it can serve no image now, in one sentence; empty if it can. Others wait for it, or do without it."""
    macs: tuple[str, ...] = ()
    """The hardware addresses of its interfaces in the cluster's networks: an ARP answer from one is no stranger's."""
    answered: int = 0
    """A revision of etcd that this node had read before it asked Ceph something that was answered. Written when another
    node has an obstacle: whoever said at an older revision that Ceph does not answer knows by it that Ceph does."""
    key_id: str = ""
    """Which key it can open sealed secrets with; empty if it has none."""
    revision: int = field(default=0, compare=False)
    """Where this word was written; 0 while it is not."""


@dataclass(frozen=True)
class FenceIntent:
    """An instance that a taker decided to fence: while it is recorded, its blocklist entry is kept alive."""

    instance: Instance
    node: Label | None
    """The node the instance belonged to, where a holder record named it."""
    by: Label
    image_uid: str
    token: int
    boot_id: str = ""
    """The boot that the instance was recorded for: only in that one its machine can tell that the instance is gone.
    Empty: nobody can, and the intent stays."""


@dataclass(frozen=True)
class Connection:
    """One initiator's TCP connection to a portal, by both ends; a taker nudges the initiator over it."""

    portal: Address
    portal_port: int
    peer: Address
    peer_port: int


@dataclass(frozen=True)
class Move:
    """A wish that an image be held by a certain node; `revision` is where it was written, 0 while it is not.

    An operator's has no `why`; one that a holder wrote down by itself (drain, lost link, fail-back) says there why.
    """

    to: Label
    revision: int
    why: str = ""

    @property
    def reason(self) -> str:
        """Why the image is to go, in words."""
        return self.why or "an operator's move"


class AmendmentKind(Enum):
    """What an operator wants done to an image's recorded reservations."""

    CLEAR = "clear"
    FORGET = "forget"


@dataclass(frozen=True)
class Amendment:
    """An operator's change of an image's recorded reservations: whoever takes the image next makes it with that.

    Who serves it takes it anew, unless it is about initiators that are not allowed, who cannot register meanwhile.

    `nexuses` are the registrations to forget, in full (`gateway.reservations.amending`), none for CLEAR. `by` and `why`
    are for people. `revision` is where it was written, 0 while it is not.
    """

    kind: AmendmentKind
    by: str
    why: str
    nexuses: tuple[str, ...] = ()
    revision: int = 0

    def __post_init__(self) -> None:
        if bool(self.nexuses) != (self.kind is AmendmentKind.FORGET):
            raise BadInput(f"an amendment that is to {self.kind.value} names {len(self.nexuses)} registrations")

    @property
    def initiators(self) -> frozenset[str]:
        """Whose registrations are to be forgotten."""
        return frozenset(name.partition(",")[0] for name in self.nexuses)

    @property
    def what(self) -> str:
        """What it does."""
        return "clear" if self.kind is AmendmentKind.CLEAR else f"forget {', '.join(self.nexuses)}"

    @property
    def words(self) -> str:
        """What it does, who wants it and why."""
        return f"{self.what}, asked for by {self.by}: {self.why}"


@dataclass(frozen=True)
class ClusterView:
    """One linearizable look at everything under the prefix, with the revision it was taken at.

    `revisions` holds each spec's mod revision; claims, records, moves and amendments are keyed by the image's uid, so
    that they outlive a rename. `broken` maps the name of an image whose spec could not be read to the reason: it is
    neither claimed nor withdrawn because of that. `nodes` holds every node that ever joined, `live` those with a lease
    now.
    """

    revision: int
    settings: ClusterSettings
    images: Mapping[ImageName, ImageSpec]
    revisions: Mapping[ImageName, int]
    broken: Mapping[str, str]
    nodes: Mapping[Label, NodeRecord]
    live: Mapping[Label, LiveNode]
    claims: Mapping[str, Claim]
    records: tuple[HolderRecord, ...]
    moves: Mapping[str, Move]
    fences: Mapping[Instance, FenceIntent]
    groups: Mapping[Label, tuple[Iqn, ...]] = field(default_factory=dict)
    """The groups of initiators, by name."""
    served: frozenset[Address] = frozenset()
    """The portal addresses that a gateway has served before: they are known to be ours, and not probed again."""
    broken_groups: Mapping[Label, str] = field(default_factory=dict)
    """Why a group cannot be read, in words that follow its name: who is in it is unknown, not nobody."""
    credentials: Mapping[Iqn, SealedCredentials | Unreadable] = field(default_factory=dict)
    """What an initiator has to prove itself with, wherever it logs in."""
    discovery: SealedCredentials | Unreadable | None = None
    """What discovery asks for; None: nothing."""
    access_revision: int = 0
    """Where groups or credentials were last changed."""
    amendments: Mapping[str, Amendment] = field(default_factory=dict)
    """The pending changes of recorded reservations, by the image's uid; one that cannot be read is not among them."""

    @cached_property
    def _by_uid(self) -> Mapping[str, ImageSpec]:
        return {spec.uid: spec for spec in self.images.values()}

    @cached_property
    def _records_by_uid(self) -> Mapping[str, tuple[HolderRecord, ...]]:
        found: dict[str, list[HolderRecord]] = {}
        for record in self.records:
            found.setdefault(record.image_uid, []).append(record)
        return {uid: tuple(records) for uid, records in found.items()}

    def held_under(self, lease: int) -> dict[str, int]:
        """What is held under a lease: the claim's token by the image's uid."""
        return {uid: claim.token for uid, claim in self.claims.items() if claim.lease == lease}

    def records_of(self, uid: str) -> tuple[HolderRecord, ...]:
        """Who may have the image open, as far as is on record."""
        return self._records_by_uid.get(uid, ())

    def spec_of(self, uid: str) -> ImageSpec | None:
        """The image of that uid, if its spec is there and readable."""
        return self._by_uid.get(uid)

    def initiators_of(self, spec: ImageSpec) -> tuple[Iqn, ...]:
        """Who may log in to an image: the spec's own initiators and the members of its groups, each once."""
        members = (iqn for name in spec.groups for iqn in self.groups.get(name, ()))
        return tuple(dict.fromkeys((*spec.initiators, *members)))

    def key_lacking(self, spec: ImageSpec, node: Label) -> str | None:
        """Why a live node cannot open what the image's initiators prove themselves with; None if its key fits."""
        word = self.live.get(node) if self.credentials else None
        for iqn in self.initiators_of(spec) if word is not None else ():
            sealed = self.credentials.get(iqn)
            if isinstance(sealed, SealedCredentials) and word is not None and word.key_id != sealed.key_id:
                has = f"has key {word.key_id}" if word.key_id else "has no key"
                return f"{has}, and the CHAP credentials of {iqn} are sealed with key {sealed.key_id}"
        return None

    def wanted_revision(self, spec: ImageSpec) -> int:
        """The revision of the last change that matters to the image's export."""
        return max(self.revisions[spec.name], self.access_revision)

    def state_of(self, node: Label) -> NodeState | None:
        """What an operator asked of a node; None of one that never joined, or whose record cannot be read."""
        record = self.nodes.get(node)
        return record.state if record is not None else None
