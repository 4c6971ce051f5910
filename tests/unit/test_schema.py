"""The stored forms keep what they are given and refuse all else, naming the key and the reason."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import schema
from gateway.errors import BadInput, NewerSchema
from gateway.model import (
    Amendment,
    AmendmentKind,
    ClusterSettings,
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
)

LABELS = st.from_regex(r"[a-z0-9]([a-zA-Z0-9_.-]{0,20}[a-z0-9])?", fullmatch=True).map(Label)
POOLS = st.from_regex(r"[A-Za-z0-9_.+:=-][A-Za-z0-9_.+:=\- ]{0,20}", fullmatch=True)
NAMES = st.builds(ImageName, pool=POOLS, name=POOLS, namespace=st.one_of(st.just(""), POOLS))
IQNS = st.from_regex(r"iqn\.2026-11\.io\.rbdgate:[a-z0-9.-]{1,40}", fullmatch=True).map(Iqn)
UIDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
NUMBERS = st.integers(0, 2**63 - 1)
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6).filter(lambda a: isinstance(a, ipaddress.IPv6Address) and not a.is_link_local)
ADDRESSES = st.one_of(V4, V6)
INSTANCES = st.builds(
    lambda address, port, nonce: Instance(f"{f'[{address}]' if address.version == 6 else address}:{port}/{nonce}"),
    ADDRESSES,
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
)
IDENTITIES = st.builds(
    Identity,
    iqn=IQNS,
    serial=st.uuids().map(str),
    vendor=st.from_regex(r"[!-~]{1,8}", fullmatch=True),
    product=st.from_regex(r"[!-~]{1,16}", fullmatch=True),
)


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    """Any valid spec."""
    addresses = draw(st.lists(ADDRESSES, min_size=1, max_size=4, unique=True))
    networks = [draw(LABELS) for _ in addresses]
    return ImageSpec(
        name=draw(NAMES),
        uid=draw(UIDS),
        image_id=draw(st.from_regex(r"[0-9a-f]{8,20}", fullmatch=True)),
        size=512 * draw(st.integers(1, 2**50)),
        identity=draw(IDENTITIES),
        paths=tuple(
            Path(tag, address, network, port=draw(st.integers(1, 65535)))
            for tag, (address, network) in enumerate(zip(addresses, networks, strict=True), 1)
        ),
        initiators=tuple(draw(st.lists(IQNS, max_size=3, unique=True))),
        attributes=DeviceAttributes(block_size=draw(st.sampled_from([512, 4096]))),
        deleting=draw(st.booleans()),
        groups=tuple(draw(st.lists(LABELS, max_size=2, unique=True))),
        pin=draw(st.one_of(st.none(), st.just(Label("gw1")))),
        keep_away=tuple(draw(st.lists(LABELS.filter(lambda node: node != Label("gw1")), max_size=2, unique=True))),
        stopped=draw(st.booleans()),
    )


RECORDS = st.builds(
    HolderRecord,
    image_uid=UIDS,
    instance=INSTANCES,
    node=LABELS,
    token=NUMBERS,
    kind=st.sampled_from(["krbd", "rados"]),
    boot_id=st.one_of(st.just(""), st.uuids().map(str)),
    mod_revision=NUMBERS,
)
INTENTS = st.builds(
    FenceIntent,
    instance=INSTANCES,
    node=st.one_of(st.none(), LABELS),
    by=LABELS,
    image_uid=UIDS,
    token=NUMBERS,
    boot_id=st.one_of(st.just(""), st.uuids().map(str)),
)
LIVE = st.builds(
    LiveNode,
    name=LABELS,
    lease=NUMBERS,
    boot_id=st.uuids().map(str),
    version=st.text(max_size=20),
    networks=st.lists(LABELS, max_size=3).map(tuple),
    instances=st.lists(INSTANCES, max_size=3).map(tuple),
    obstacle=st.text(max_size=20),
    macs=st.lists(st.just("02:00:00:00:00:01"), max_size=1).map(tuple),
)
LIVE_NODE = LiveNode(Label("gw1"), 5, "boot", "0.1.0", (Label("a"),), (Instance("10.0.1.1:0/1"),))
SETTINGS = ClusterSettings(
    fsid="6f0d4f0a-0000-4000-8000-000000000000",
    networks=(Network.parse("a=10.0.1.0/24,10.0.1.100-10.0.1.199"), Network.parse("b=fd77::/64,fd77::100-fd77::1ff")),
    anchor_pool="rbd",
)
SPEC = ImageSpec(
    name=ImageName.parse("rbd/disk1"),
    uid="00112233445566aa",
    image_id="10dc6b8b4567",
    size=1 << 30,
    identity=Identity(Iqn("iqn.2026-11.io.rbdgate:rbd-disk1"), "7b6c1f4e-8a0e-4b57-9b1c-2f1f6b1d8f11"),
    paths=(Path(1, ipaddress.ip_address("10.0.1.100"), Label("a")),),
)


@given(specs())
def test_image_round_trip(spec: ImageSpec) -> None:
    """A spec that was written is read back equal."""
    assert schema.read_image(schema.write_image(spec), "k") == spec


@given(RECORDS)
def test_record_round_trip(record: HolderRecord) -> None:
    """A holder record that was written is read back equal, with its key's revision."""
    assert schema.read_record(schema.write_record(record), "k", mod_revision=record.mod_revision) == record


@given(INTENTS)
def test_fence_round_trip(intent: FenceIntent) -> None:
    """A fence intent that was written is read back equal."""
    assert schema.read_fence(schema.write_fence(intent), "k") == intent


def test_a_fence_of_an_earlier_version_is_of_no_known_boot() -> None:
    """What was written without a boot is read all the same, and stays what it is when it is compared as it stands."""
    value = b'{"schema":1,"instance":"10.0.0.1:0/7","node":"gw7","by":"gw1","image_uid":"' + b"0" * 16 + b'","token":7}'
    intent = schema.read_fence(value, "k")
    assert (intent.boot_id, schema.write_fence(intent)) == ("", value)


@given(LIVE)
def test_live_round_trip(live: LiveNode) -> None:
    """A live node that was written is read back equal, with its key's lease."""
    assert schema.read_live(schema.write_live(live), "k", lease=live.lease) == live


def test_small_forms_round_trip() -> None:
    """Settings, claims, moves, amendments and node states that were written are read back equal."""
    assert schema.read_settings(schema.write_settings(SETTINGS), "k") == SETTINGS
    assert schema.read_claim(schema.write_claim(Label("gw1")), "k") == Label("gw1")
    for move in (Move(Label("gw2"), 7), Move(Label("gw2"), 7, "node gw1 is drained")):
        assert schema.read_move(schema.write_move(move), "k", revision=7) == move
    clear = Amendment(AmendmentKind.CLEAR, "operator root@gw1", "gone", revision=9)
    for amendment in (clear, Amendment(AmendmentKind.FORGET, "root", "gone", ("iqn.a:b,i,any,iqn.c:d,t,0x1",), 9)):
        assert schema.read_amendment(schema.write_amendment(amendment), "k", revision=9) == amendment
    for record in (NodeRecord(), *(NodeRecord(state, 50, "disk") for state in NodeState)):
        assert schema.read_node(schema.write_node(record), "k") == record
    members = (Iqn("iqn.1993-08.org.debian:01:a"), Iqn("iqn.1993-08.org.debian:01:b"))
    assert schema.read_group(schema.write_group(members), "k") == members


def test_forms_of_an_earlier_version_are_read() -> None:
    """What says nothing new is written as the version before wrote it, and read with what was meant then."""
    assert schema.write_node(NodeRecord()) == b'{"schema":1,"state":"active"}'
    assert schema.write_move(Move(Label("gw2"), 1)) == b'{"schema":1,"to":"gw2"}'
    assert not {"pin", "keep_away", "stopped", "groups"} & set(json.loads(schema.write_image(SPEC)))


def test_a_live_node_of_a_newer_version_is_live() -> None:
    """A word that this version does not know does not make a live node look dead: its clients would be fenced."""
    newer = json.loads(schema.write_live(LIVE_NODE)) | {"something": [1]}
    assert schema.read_live(json.dumps(newer).encode(), "k", lease=LIVE_NODE.lease) == LIVE_NODE


@given(st.binary(max_size=60))
def test_garbage_is_bad_input(value: bytes) -> None:
    """No bytes whatever raise anything but BadInput."""
    for read in (schema.read_image, schema.read_settings, schema.read_claim, schema.read_fence, schema.read_node):
        with pytest.raises(BadInput, match="images/rbd/disk1"):
            read(value, "images/rbd/disk1")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@given(st.data())
def test_a_changed_word_is_refused_or_read(data: st.DataObject) -> None:
    """A spec in which one value was replaced by any other JSON is read as a valid spec or refused as BadInput."""
    form = json.loads(schema.write_image(SPEC))
    key = data.draw(st.sampled_from(sorted(form)))
    form[key] = data.draw(JSON)
    try:
        spec = schema.read_image(json.dumps(form).encode(), "k")
    except BadInput:
        return
    assert schema.read_image(schema.write_image(spec), "k") == spec


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 1000}, "multiple of 512"),
        ({"size": "1G"}, "size should be an integer"),
        ({"size": True}, "size should be an integer"),
        ({"size": 2**70}, "size should be an integer"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"deleting": 0}, "deleting should be true or false"),
        ({"initiators": [1]}, "initiators should be a list of strings"),
        ({"initiators": "iqn.2026-11.x:y"}, "initiators should be a list"),
        ({"paths": [7]}, r"paths\[0\]: expected a JSON object"),
        ({"identity": {}}, "identity: key 'iqn' is missing"),
        ({"name": "disk1"}, "names no image"),
        ({"attributes": {"block_size": 512}}, "attributes: key"),
    ],
)
def test_image_refusals(change: dict[str, object], reason: str) -> None:
    """What may not stand in a spec is named, with the reason."""
    form = json.loads(schema.write_image(SPEC)) | change
    with pytest.raises(BadInput, match=reason):
        schema.read_image(json.dumps(form).encode(), "images/rbd/disk1")


def test_every_key_is_needed() -> None:
    """A spec without one of its keys is refused, and the key is named."""
    form = json.loads(schema.write_image(SPEC))
    for key in form:
        without = {other: value for other, value in form.items() if other != key}
        with pytest.raises(BadInput, match=f"'{key}' is missing"):
            schema.read_image(json.dumps(without).encode(), "k")


def test_newer_schema() -> None:
    """A newer version is told apart from garbage, whatever else stands in it."""
    with pytest.raises(NewerSchema, match="k: written with schema 2"):
        schema.read_image(b'{"schema":2,"future":true}', "k")
    with pytest.raises(BadInput, match="no schema 0"):
        schema.read_image(b'{"schema":0}', "k")


def test_twins_and_depth() -> None:
    """A key that stands twice, NaN, and nesting without end are refused."""
    for value in (b'{"schema":1,"schema":1}', b'{"schema":1,"size":NaN}', b"[" * 100000):
        with pytest.raises(BadInput, match="no JSON"):
            schema.read_image(value, "k")


def test_secrets_have_no_place() -> None:
    """A spec's form holds exactly the documented words."""
    words = {"schema", "name", "uid", "image_id", "size", "identity", "paths", "initiators", "attributes", "deleting"}
    assert set(json.loads(schema.write_image(replace(SPEC, deleting=True)))) == words
