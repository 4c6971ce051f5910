"""From one snapshot of the prefix to the cluster as it was then. Pure: no client, no clock.

One damaged key never stops the rest; what it then counts as is decided here, kind by kind, on the safe side:
an image whose spec, uniqueness or holder records cannot be read is `broken` (nobody takes it up, its holder keeps it),
an unreadable claim is the claim of a node nobody knows (never an absent one), an unreadable fence still names its
victim by its key, an unreadable node record is a node that takes nothing, an unreadable amendment is not made.
Only the settings must be readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway import schema
from gateway.credentials import SealedCredentials, Unreadable
from gateway.errors import BadInput, Inconsistent, NewerSchema, NotFound
from gateway.model import (
    Address,
    Amendment,
    Claim,
    ClusterSettings,
    ClusterView,
    FenceIntent,
    HolderRecord,
    ImageName,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    LiveNode,
    Move,
    NodeRecord,
    parse_address,
)
from gateway.store.keys import (
    AMENDMENTS,
    CLAIMS,
    FENCES,
    GROUPS,
    IMAGES,
    INITIATORS,
    LIVE,
    MOVES,
    NODES,
    RECORDS,
    SERVED,
    STATUS,
    UNIQUE,
    Keys,
    instance_of,
    uid_of,
)
from gateway.store.values import KeyValue, Snapshot

UNKNOWN = Label("unknown")
"""Who holds a claim that cannot be read."""


def view_of(snapshot: Snapshot, keys: Keys) -> ClusterView:
    """The cluster at the snapshot's revision.

    NotFound if it was never initialised; Inconsistent (or NewerSchema) if its settings cannot be read.
    """
    items = {item.key: item for item in snapshot.items}
    settings = _settings(items.get(keys.settings), keys)
    gathered = _Gathered(keys, _values(snapshot, keys, UNIQUE))
    for name, item in _under(snapshot, keys, IMAGES):
        gathered.add_image(name, item)
    gathered.refuse_twins()
    for part, item in _under(snapshot, keys, RECORDS):
        gathered.add_record(part, item)
    groups, broken_groups = _groups(snapshot, keys)
    return ClusterView(
        revision=snapshot.revision,
        settings=settings,
        images=gathered.images,
        revisions=gathered.revisions,
        broken=gathered.named_broken(),
        nodes=_nodes(snapshot, keys),
        live=live_nodes(snapshot, keys),
        claims=claims(snapshot, keys),
        records=tuple(gathered.records),
        moves=_moves(snapshot, keys),
        amendments=_amendments(snapshot, keys),
        fences=fences(snapshot, keys),
        groups=groups,
        broken_groups=broken_groups,
        credentials=_credentials(snapshot, keys),
        discovery=_sealed(items[keys.discovery]) if keys.discovery in items else None,
        access_revision=items[keys.access].mod_revision if keys.access in items else 0,
        served=_served(snapshot, keys),
    )


def statuses(snapshot: Snapshot, keys: Keys) -> dict[Label, bytes]:
    """The reports of the live nodes, as they wrote them."""
    found = {}
    for part, item in _under(snapshot, keys, STATUS):
        try:
            found[Label(part)] = item.value
        except BadInput:
            continue
    return found


def live_nodes(snapshot: Snapshot, keys: Keys) -> dict[Label, LiveNode]:
    """The nodes that have a lease now and say so in a readable way."""
    found = {}
    for part, item in _under(snapshot, keys, LIVE):
        try:
            live = schema.read_live(item.value, item.key, lease=item.lease, revision=item.mod_revision)
        except BadInput:
            continue
        if str(live.name) == part:
            found[live.name] = live
    return found


def claims(snapshot: Snapshot, keys: Keys) -> dict[str, Claim]:
    """Who holds what: by the image's uid."""
    found = {}
    for part, item in _under(snapshot, keys, CLAIMS):
        try:
            node = schema.read_claim(item.value, item.key)
        except BadInput:
            node = UNKNOWN
        found[part] = Claim(node=node, lease=item.lease, token=item.create_revision)
    return found


def records(snapshot: Snapshot, keys: Keys, uid: str) -> tuple[HolderRecord, ...]:
    """One image's holder records; Inconsistent if one cannot be read, for then nobody knows whom to fence."""
    found = []
    for part, item in _under(snapshot, keys, RECORDS):
        if part.partition("/")[0] == uid:
            try:
                found.append(_record(part, item))
            except BadInput as error:
                raise Inconsistent(f"image {uid}: who may have it open cannot be read: {error}") from None
    return tuple(found)


def fences(snapshot: Snapshot, keys: Keys) -> dict[Instance, FenceIntent]:
    """Every client that was decided to be fenced."""
    found = {}
    for part, item in _under(snapshot, keys, FENCES):
        try:
            victim = instance_of(part)
        except BadInput:
            continue
        try:
            intent = schema.read_fence(item.value, item.key)
        except BadInput:
            intent = None
        if intent is None or intent.instance != victim:
            intent = FenceIntent(instance=victim, node=None, by=UNKNOWN, image_uid="", token=0)
        found[victim] = intent
    return found


@dataclass
class _Gathered:
    """The images read so far, and why others are not among them."""

    keys: Keys
    owners: Mapping[str, bytes]
    images: dict[ImageName, ImageSpec] = field(default_factory=dict)
    revisions: dict[ImageName, int] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    records: list[HolderRecord] = field(default_factory=list)

    def add_image(self, name: str, item: KeyValue) -> None:
        try:
            spec = schema.read_image(item.value, item.key)
        except BadInput as error:
            self.broken[name] = str(error)
            return
        if str(spec.name) != name:
            self.broken[name] = f"{item.key}: the spec in it is of image {spec.name}"
            return
        self.images[spec.name] = spec
        self.revisions[spec.name] = item.mod_revision

    def refuse_twins(self) -> None:
        """Of images that share what must be unique, only the one that reserved it stands."""
        users: dict[str, list[ImageSpec]] = {}
        for spec in self.images.values():
            for key in self.keys.unique(spec):
                users.setdefault(key, []).append(spec)
        for key, twins in users.items():
            owner = self.owners.get(key)
            for spec in twins if len(twins) > 1 else ():
                if owner != str(spec.name).encode() and spec.name in self.images:
                    others = " and ".join(str(twin.name) for twin in twins if twin is not spec)
                    self.broken[str(spec.name)] = f"its {self.keys.unique(spec)[key]} is that of {others} as well"
                    del self.images[spec.name], self.revisions[spec.name]

    def add_record(self, part: str, item: KeyValue) -> None:
        """A record that cannot be read stays a reason not to take its image: it is put under the uid for now."""
        try:
            self.records.append(_record(part, item))
        except BadInput as error:
            self.broken[part.partition("/")[0]] = f"who may have it open cannot be read: {error}"

    def named_broken(self) -> dict[str, str]:
        """The reasons by image name; what belongs to no known image stays under its uid."""
        names = {spec.uid: str(spec.name) for spec in self.images.values()}
        return {_printable(names.get(key, key)): _printable(reason) for key, reason in self.broken.items()}


def _settings(item: KeyValue | None, keys: Keys) -> ClusterSettings:
    if item is None:
        raise NotFound(f"there is no cluster under {keys.prefix}: not initialised, run `rbdgate cluster init`")
    try:
        return schema.read_settings(item.value, item.key)
    except NewerSchema:
        raise
    except BadInput as error:
        raise Inconsistent(f"the cluster's settings are damaged: {error}; restore {item.key} from a backup") from None


def _record(part: str, item: KeyValue) -> HolderRecord:
    uid, _, instance = part.partition("/")
    record = schema.read_record(item.value, item.key, mod_revision=item.mod_revision)
    if (record.image_uid, record.instance) != (uid_of(uid), instance_of(instance)):
        raise BadInput(f"{item.key}: the record in it is of {record.instance} at image {record.image_uid}")
    return record


def _nodes(snapshot: Snapshot, keys: Keys) -> dict[Label, NodeRecord]:
    found = {}
    for part, item in _under(snapshot, keys, NODES):
        try:
            found[Label(part)] = schema.read_node(item.value, item.key)
        except BadInput:
            continue
    return found


def _moves(snapshot: Snapshot, keys: Keys) -> dict[str, Move]:
    found = {}
    for part, item in _under(snapshot, keys, MOVES):
        try:
            found[part] = schema.read_move(item.value, item.key, revision=item.mod_revision)
        except BadInput:
            continue
    return found


def _amendments(snapshot: Snapshot, keys: Keys) -> dict[str, Amendment]:
    """Those that can be read: what nobody understands is not done, and stops no image."""
    found = {}
    for part, item in _under(snapshot, keys, AMENDMENTS):
        try:
            found[part] = schema.read_amendment(item.value, item.key, revision=item.mod_revision)
        except BadInput:
            continue
    return found


def _groups(snapshot: Snapshot, keys: Keys) -> tuple[dict[Label, tuple[Iqn, ...]], dict[Label, str]]:
    """The groups that can be read, and why the others cannot: who is in those is unknown, not nobody."""
    found, broken = {}, {}
    for part, item in _under(snapshot, keys, GROUPS):
        try:
            name = Label(part)
        except BadInput:
            continue  # no image can name it
        try:
            found[name] = schema.read_group(item.value, item.key)
        except BadInput as error:
            broken[name] = f"cannot be read: {error}"
    return found, broken


def _credentials(snapshot: Snapshot, keys: Keys) -> dict[Iqn, SealedCredentials | Unreadable]:
    found = {}
    for part, item in _under(snapshot, keys, INITIATORS):
        try:
            found[Iqn(part)] = _sealed(item)
        except BadInput:
            continue  # no image can name it
    return found


def _sealed(item: KeyValue) -> SealedCredentials | Unreadable:
    try:
        return schema.read_credentials(item.value, item.key)
    except BadInput as error:
        return Unreadable(f"cannot be read: {error}")


def _served(snapshot: Snapshot, keys: Keys) -> frozenset[Address]:
    found = set()
    for part, _ in _under(snapshot, keys, SERVED):
        try:
            found.add(parse_address(part))
        except BadInput:
            continue
    return frozenset(found)


def _values(snapshot: Snapshot, keys: Keys, folder: str) -> dict[str, bytes]:
    return {item.key: item.value for _, item in _under(snapshot, keys, folder)}


def _under(snapshot: Snapshot, keys: Keys, folder: str) -> Iterator[tuple[str, KeyValue]]:
    prefix = keys.folder(folder)
    return ((item.key.removeprefix(prefix), item) for item in snapshot.items if item.key.startswith(prefix))


def _printable(text: str) -> str:
    """The text as any terminal takes it: somebody's key may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
