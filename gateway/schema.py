"""The stored forms: every value under the prefix as strict JSON, `{"schema": 1, ...}`, and back.

Pure. A form is read whole or not at all: a missing or unknown key, a wrong type or bytes that are no JSON raise
`BadInput`, a form of a newer version raises `NewerSchema`; each names the key it was read from and the reason.
What etcd itself knows of a key (its lease, its revisions) is not stored in the value: the reader passes it in.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, fields

from gateway.credentials import SealedCredentials
from gateway.errors import BadInput
from gateway.model import (
    USUAL_WEIGHT,
    Amendment,
    AmendmentKind,
    ClusterSettings,
    Connection,
    DeviceAttributes,
    FenceIntent,
    HolderRecord,
    Identity,
    ImageName,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    LiveNode,
    Move,
    Network,
    NodeRecord,
    NodeState,
    Path,
    parse_address,
)
from gateway.strict_json import Fields, reading, write_form


def write_image(spec: ImageSpec) -> bytes:
    """The form of `images/<pool>/[<namespace>/]<name>`."""
    return write_form(
        name=str(spec.name),
        uid=spec.uid,
        image_id=spec.image_id,
        size=spec.size,
        identity=asdict(spec.identity) | {"iqn": str(spec.identity.iqn)},
        paths=[
            {"tag": p.tag, "address": str(p.address), "network": str(p.network), "port": p.port} for p in spec.paths
        ],
        initiators=[str(iqn) for iqn in spec.initiators],
        attributes=asdict(spec.attributes),
        deleting=spec.deleting,
        **_said(
            groups=[str(group) for group in spec.groups],
            pin=str(spec.pin or ""),
            keep_away=[str(node) for node in spec.keep_away],
            stopped=spec.stopped,
        ),
    )


def read_image(value: bytes, where: str) -> ImageSpec:
    """Read an image's spec."""
    with reading(where, value) as form:
        return ImageSpec(
            name=ImageName.parse(form.text("name")),
            uid=form.text("uid"),
            image_id=form.text("image_id"),
            size=form.number("size"),
            identity=_read_identity(form.inner("identity")),
            paths=tuple(_read_path(each) for each in form.objects("paths")),
            initiators=tuple(Iqn(text) for text in form.texts("initiators")),
            attributes=_read_attributes(form.inner("attributes")),
            deleting=form.flag("deleting"),
            groups=_labels(form, "groups"),
            pin=Label(form.text("pin")) if form.has("pin") else None,
            keep_away=_labels(form, "keep_away"),
            stopped=form.flag("stopped") if form.has("stopped") else False,
        )


def write_settings(settings: ClusterSettings) -> bytes:
    """The form of `settings`."""
    networks = [
        {"name": str(n.name), "cidr": str(n.cidr), "first": str(n.first), "last": str(n.last)}
        for n in settings.networks
    ]
    return write_form(
        fsid=settings.fsid,
        networks=networks,
        anchor_pool=settings.anchor_pool,
        iqn_prefix=settings.iqn_prefix,
    )


def read_settings(value: bytes, where: str) -> ClusterSettings:
    """Read the cluster's settings."""
    with reading(where, value) as form:
        return ClusterSettings(
            fsid=form.text("fsid"),
            networks=tuple(_read_network(each) for each in form.objects("networks")),
            anchor_pool=form.text("anchor_pool"),
            iqn_prefix=form.text("iqn_prefix"),
        )


def write_live(live: LiveNode) -> bytes:
    """The form of `live/<node>`; the lease is the key's own."""
    return write_form(
        node=str(live.name),
        boot_id=live.boot_id,
        version=live.version,
        networks=[str(network) for network in live.networks],
        instances=[str(instance) for instance in live.instances],
        addresses=[str(address) for address in live.addresses],
        obstacle=live.obstacle,
        macs=list(live.macs),
        answered=live.answered,
        key_id=live.key_id,
    )


def read_live(value: bytes, where: str, *, lease: int, revision: int = 0) -> LiveNode:
    """Read a live node; lease and mod revision are its key's. Words of a newer version are passed over: it is live."""
    with reading(where, value) as form:
        live = LiveNode(
            name=Label(form.text("node")),
            lease=lease,
            boot_id=form.text("boot_id"),
            version=form.text("version"),
            networks=tuple(Label(text) for text in form.texts("networks")),
            instances=tuple(Instance(text) for text in form.texts("instances")),
            addresses=tuple(parse_address(text) for text in form.texts("addresses")),
            obstacle=form.text("obstacle") if form.has("obstacle") else "",
            macs=form.texts("macs") if form.has("macs") else (),
            answered=form.number("answered") if form.has("answered") else 0,
            key_id=form.text("key_id") if form.has("key_id") else "",
            revision=revision,
        )
        form.ignore_rest()
    return live


def write_node(record: NodeRecord) -> bytes:
    """The form of `nodes/<node>`."""
    weight = record.weight if record.weight != USUAL_WEIGHT else 0
    return write_form(state=record.state.value, **_said(weight=weight, why=record.why))


def read_node(value: bytes, where: str) -> NodeRecord:
    """Read what an operator asked of a node."""
    with reading(where, value) as form:
        text = form.text("state")
        weight = form.number("weight") if form.has("weight") else USUAL_WEIGHT
        why = form.text("why") if form.has("why") else ""
        try:
            state = NodeState(text)
        except ValueError:
            raise BadInput(f"there is no node state {text!r}") from None
        return NodeRecord(state, weight, why)


def write_record(record: HolderRecord) -> bytes:
    """The form of `records/<uid>/<instance>`."""
    return write_form(
        image_uid=record.image_uid,
        instance=str(record.instance),
        node=str(record.node),
        token=record.token,
        kind=record.kind,
        **_said(boot_id=record.boot_id),
    )


def read_record(value: bytes, where: str, *, mod_revision: int) -> HolderRecord:
    """Read a holder record; `mod_revision` is that of its key."""
    with reading(where, value) as form:
        record = HolderRecord(
            image_uid=form.text("image_uid"),
            instance=Instance(form.text("instance")),
            node=Label(form.text("node")),
            token=form.number("token"),
            kind=form.text("kind"),
            boot_id=form.text("boot_id") if form.has("boot_id") else "",
            mod_revision=mod_revision,
        )
    if record.kind not in ("krbd", "rados"):
        raise BadInput(f"{where}: there is no kind of client {record.kind!r}")
    return record


def write_claim(node: Label) -> bytes:
    """The form of `claims/<uid>`; lease and token are the key's own lease and create revision."""
    return write_form(node=str(node))


def read_claim(value: bytes, where: str) -> Label:
    """Read which node a claim names."""
    return _read_one_label(value, where, "node")


def write_move(move: Move) -> bytes:
    """The form of `moves/<uid>`; its revision is the key's own mod revision."""
    return write_form(to=str(move.to), **_said(why=move.why))


def read_move(value: bytes, where: str, *, revision: int) -> Move:
    """Read where an image is to be; `revision` is that of its key."""
    with reading(where, value) as form:
        return Move(Label(form.text("to")), revision, form.text("why") if form.has("why") else "")


def write_amendment(amendment: Amendment) -> bytes:
    """The form of `amendments/<uid>`; its revision is the key's own mod revision."""
    said = _said(nexuses=list(amendment.nexuses))
    return write_form(kind=amendment.kind.value, by=amendment.by, why=amendment.why, **said)


def read_amendment(value: bytes, where: str, *, revision: int) -> Amendment:
    """Read a change of recorded reservations; `revision` is that of its key."""
    with reading(where, value) as form:
        text = form.text("kind")
        try:
            kind = AmendmentKind(text)
        except ValueError:
            raise BadInput(f"there is no kind of amendment {text!r}") from None
        nexuses = form.texts("nexuses") if form.has("nexuses") else ()
        return Amendment(kind, form.text("by"), form.text("why"), nexuses, revision)


def write_group(initiators: tuple[Iqn, ...]) -> bytes:
    """The form of `groups/<name>`."""
    return write_form(initiators=[str(iqn) for iqn in initiators])


def read_group(value: bytes, where: str) -> tuple[Iqn, ...]:
    """Read a group of initiators."""
    with reading(where, value) as form:
        return tuple(Iqn(text) for text in form.texts("initiators"))


def write_credentials(sealed: SealedCredentials) -> bytes:
    """The form of `initiators/<iqn>` and of `discovery`."""
    return write_form(
        user=sealed.user, **_said(mutual_user=sealed.mutual_user), key_id=sealed.key_id, sealed=sealed.sealed
    )


def read_credentials(value: bytes, where: str) -> SealedCredentials:
    """Read sealed credentials."""
    with reading(where, value) as form:
        return SealedCredentials(
            user=form.text("user"),
            mutual_user=form.text("mutual_user") if form.has("mutual_user") else "",
            key_id=form.text("key_id"),
            sealed=form.text("sealed"),
        )


def write_connections(connections: tuple[Connection, ...]) -> bytes:
    """The form of `connections/<uid>`."""
    return write_form(connections=[f"{c.portal} {c.portal_port} {c.peer} {c.peer_port}" for c in connections])


def read_connections(value: bytes, where: str) -> tuple[Connection, ...]:
    """Read an image's connections."""
    with reading(where, value) as form:
        return tuple(_read_connection(text, where) for text in form.texts("connections"))


def _read_connection(text: str, where: str) -> Connection:
    try:
        portal, portal_port, peer, peer_port = text.split()
        return Connection(parse_address(portal), int(portal_port), parse_address(peer), int(peer_port))
    except ValueError:
        raise BadInput(f"{where}: {text!r} is no connection") from None


def write_fence(intent: FenceIntent) -> bytes:
    """The form of `fences/<instance>`."""
    return write_form(
        instance=str(intent.instance),
        node=None if intent.node is None else str(intent.node),
        by=str(intent.by),
        image_uid=intent.image_uid,
        token=intent.token,
        **_said(boot_id=intent.boot_id),
    )


def read_fence(value: bytes, where: str) -> FenceIntent:
    """Read a fence intent."""
    with reading(where, value) as form:
        node = form.optional_text("node")
        return FenceIntent(
            instance=Instance(form.text("instance")),
            node=None if node is None else Label(node),
            by=Label(form.text("by")),
            image_uid=form.text("image_uid"),
            token=form.number("token"),
            boot_id=form.text("boot_id") if form.has("boot_id") else "",
        )


def _said(**values: object) -> dict[str, object]:
    """The values that say something; the others are left out, so that an earlier version reads the form."""
    return {key: value for key, value in values.items() if value}


def _labels(form: Fields, key: str) -> tuple[Label, ...]:
    return tuple(Label(text) for text in form.texts(key)) if form.has(key) else ()


def _read_one_label(value: bytes, where: str, key: str) -> Label:
    with reading(where, value) as form:
        return Label(form.text(key))


def _read_identity(form: Fields) -> Identity:
    identity = Identity(
        iqn=Iqn(form.text("iqn")),
        serial=form.text("serial"),
        vendor=form.text("vendor"),
        product=form.text("product"),
        revision=form.text("revision"),
    )
    form.finish()
    return identity


def _read_path(form: Fields) -> Path:
    path = Path(
        tag=form.number("tag"),
        address=parse_address(form.text("address")),
        network=Label(form.text("network")),
        port=form.number("port"),
    )
    form.finish()
    return path


def _read_attributes(form: Fields) -> DeviceAttributes:
    names = [field.name for field in fields(DeviceAttributes)]
    # A word that specs of before this version lack has its default.
    attributes = DeviceAttributes(
        **{name: form.number(name) for name in names if name != "enforce_pr_isids" or form.has(name)}
    )
    form.finish()
    return attributes


def _read_network(form: Fields) -> Network:
    name, cidr = Label(form.text("name")), form.text("cidr")
    try:
        prefix = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise BadInput(f"network {name}: {cidr!r} is no network prefix: {error}") from None
    network = Network(name, prefix, parse_address(form.text("first")), parse_address(form.text("last")))
    form.finish()
    return network
