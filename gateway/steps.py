"""The words of a plan: each step is one act on one image (or on the node), as a value.

A step says what, never how. `plan.py` speaks these words, `apply.py` carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.access import Access
from gateway.credentials import Credentials
from gateway.model import (
    Address,
    Amendment,
    Connection,
    FenceIntent,
    HolderRecord,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    Path,
)
from gateway.observed import DeviceName


@dataclass(frozen=True)
class MapAnchor:
    """Map the anchor image read-only with an option no present mapping has, so that a new client instance begins."""

    generation: int


@dataclass(frozen=True)
class UnmapAnchor:
    """Unmap an anchor of an earlier time."""

    number: int


@dataclass(frozen=True)
class Cut:
    """Let no packet leave from these addresses any more, for all of them at once."""

    addresses: frozenset[Address]


@dataclass(frozen=True)
class Uncut:
    """Forget the cut of addresses that are not on this node any more."""

    addresses: frozenset[Address]


@dataclass(frozen=True)
class Unmute:
    """Forget that these connections were muted: they are gone."""

    connections: frozenset[Connection]


@dataclass(frozen=True)
class RemoveAddresses:
    """Take portal addresses off this node's interfaces."""

    addresses: frozenset[Address]


@dataclass(frozen=True)
class Teardown:
    """Remove the target and every backstore of an image from LIO; the block device is free afterwards."""

    uid: str
    iqns: frozenset[Iqn]


@dataclass(frozen=True)
class Unmap:
    """Unmap an image's block device."""

    number: int


@dataclass(frozen=True)
class Claim:
    """Try to become the holder: put the claim under this node's lease if nobody has one."""

    spec: ImageSpec
    revision: int
    reason: str


@dataclass(frozen=True)
class TakeHold:
    """Fence whoever may have the image open, record this node's instances, and swap the header's holder to them.

    `client` is the kernel's instance that the image will be mapped with. The swap makes the `amendment` of the recorded
    reservations, if there is one.
    """

    spec: ImageSpec
    token: int
    client: Instance
    amendment: Amendment | None = None


@dataclass(frozen=True)
class FinishAmendment:
    """Forget a change of the recorded reservations that was made with the swap, before anybody can log in again."""

    uid: str
    revision: int


@dataclass(frozen=True)
class Map:
    """Map the image with the client instance that `TakeHold` put on record, and with no other."""

    spec: ImageSpec
    token: int
    client: Instance


@dataclass(frozen=True)
class Build:
    """Build backstore, target, TPGs (disabled), LUNs and ACLs, and compare what was read back with the spec."""

    spec: ImageSpec
    device: DeviceName
    access: Access


@dataclass(frozen=True)
class OpenPath:
    """Bring one path up behind a cut: portal, enable, address, and last the lifting of the cut; then announce it.

    With `probe` the network is asked first whether a machine of others has the address: one that no gateway has served
    before. It costs a second, so a takeover never does.
    """

    spec: ImageSpec
    path: Path
    token: int
    probe: bool = False


@dataclass(frozen=True)
class MarkServed:
    """Write down that these addresses of the image are served here, so that nobody probes for them any more."""

    spec: ImageSpec
    token: int
    addresses: frozenset[Address]


@dataclass(frozen=True)
class ClosePath:
    """Take one path down while its TPG, LUN and ACLs stay."""

    spec: ImageSpec
    path: Path
    reason: str


@dataclass(frozen=True)
class SetInitiators:
    """Make or change some ACLs of an exported image and remove others; `demanded` as in `Access`, of all of them.

    `newcomers` are those wanted that have no ACL yet. One with a registration on record has the export built anew,
    unless that `waits_for` something.
    """

    spec: ImageSpec
    token: int
    wanted: Mapping[Iqn, Credentials | None]
    remove: frozenset[Iqn]
    demanded: bool
    newcomers: frozenset[Iqn] = frozenset()
    waits_for: str = ""


@dataclass(frozen=True)
class Forget:
    """Record an exported image's reservations without these of initiators that have no ACL there."""

    spec: ImageSpec
    token: int
    amendment: Amendment


@dataclass(frozen=True)
class SetDiscovery:
    """Have this node's discovery ask for these credentials; None: for nothing."""

    credentials: Credentials | None


@dataclass(frozen=True)
class CloseDiscovery:
    """Have this node's discovery answer nobody who does not know what is not known here."""


@dataclass(frozen=True)
class RefreshHold:
    """Put this node's present instances into the records and the header of an image it holds already."""

    spec: ImageSpec
    token: int


@dataclass(frozen=True)
class Release:
    """Mark the header as released and delete the claim with this node's records, in this order."""

    spec: ImageSpec
    token: int


@dataclass(frozen=True)
class ForsakeHold:
    """Let go of an image whose claim was lost under a live lease: header first, then these records of this node's.

    Only when nothing of the image was left in the kernel at this turn's look: without it a taker would wait for ever,
    for it fences no live node.
    """

    spec: ImageSpec
    records: tuple[HolderRecord, ...]


@dataclass(frozen=True)
class RequestMove:
    """Write down that the image, which this node holds under that claim, is to be held by another node, and why."""

    spec: ImageSpec
    token: int
    to: Label
    why: str


@dataclass(frozen=True)
class FinishMove:
    """Forget a move that has been done, or whose target cannot take the image any more."""

    uid: str
    revision: int


@dataclass(frozen=True)
class DropRecords:
    """Delete this node's records of instances that are fenced and that nothing here uses any more."""

    records: tuple[HolderRecord, ...]


@dataclass(frozen=True)
class DropFences:
    """Forget the fences of instances of this boot that are gone and in no record any more; the entries run out."""

    intents: tuple[FenceIntent, ...]


Step = (
    MapAnchor
    | UnmapAnchor
    | Cut
    | Uncut
    | Unmute
    | RemoveAddresses
    | Teardown
    | Unmap
    | Claim
    | TakeHold
    | FinishAmendment
    | Map
    | Build
    | OpenPath
    | MarkServed
    | ClosePath
    | SetInitiators
    | Forget
    | SetDiscovery
    | CloseDiscovery
    | RefreshHold
    | Release
    | ForsakeHold
    | RequestMove
    | FinishMove
    | DropRecords
    | DropFences
)


@dataclass(frozen=True)
class Plan:
    """What one turn does: `first` in order and before all else, then each image's steps in order, images in any.

    An image whose step fails is done for this turn; the others go on. `reasons` says why each image's steps are
    taken, for the log and for people.
    """

    first: tuple[Step, ...]
    images: Mapping[str, tuple[Step, ...]]
    last: tuple[Step, ...]
    reasons: Mapping[str, str]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do: the node is at rest."""
        return not (self.first or self.last or any(self.images.values()))
