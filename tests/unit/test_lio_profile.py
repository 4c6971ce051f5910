"""The export profile and the comparison against it, on values alone."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import DeviceAttributes, Identity, ImageName, ImageSpec, Iqn, Label, Path
from gateway.observed import Acl, Device, DeviceName, Portal, Target, Tpg
from gateway.profile import DEVICE_FILES, TPG_SETTINGS, device_settings, differences, shown_identity

INITIATOR = Iqn("iqn.2026-11.io.rbdgate:ini1")
STRANGER = Iqn("iqn.2026-11.io.rbdgate:stranger")
SPEC = ImageSpec(
    name=ImageName("rbd", "disk1"),
    uid="0123456789abcdef",
    image_id="10ab",
    size=1 << 30,
    identity=Identity(Iqn("iqn.2026-11.io.rbdgate:disk1"), "6001405a-0000-4000-8000-000000000001"),
    paths=tuple(Path(tag, ipaddress.ip_address(f"10.77.{tag}.100"), Label(f"storage-{tag}")) for tag in (1, 2)),
    initiators=(INITIATOR,),
)
DEVICE = Device(
    name=DeviceName(SPEC.uid, 7),
    hba="iblock_29282",
    dev_path="/dev/rbd0",
    enabled=True,
    attributes={setting.file: setting.expected for setting in device_settings(SPEC.attributes)},
    identity=shown_identity(SPEC.identity),
)
SETTINGS = {setting.file: setting.expected for setting in TPG_SETTINGS}
TPG = Tpg(1, False, DEVICE.name, frozenset(), {INITIATOR: Acl(mapped=True, authentication="0")}, SETTINGS, "1")
TARGET = Target(SPEC.identity.iqn, (TPG, replace(TPG, tag=2)))


def with_tpg(**changes: object) -> Target:
    """The complete target with its first TPG changed."""
    return replace(TARGET, tpgs=(replace(TPG, **changes), TARGET.tpgs[1]))  # type: ignore[arg-type]


def test_what_the_profile_asks_for_differs_in_nothing() -> None:
    """An export that shows every expected value is complete."""
    assert differences(SPEC, DEVICE, TARGET) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"device": None}, "TPG 1 of iqn.2026-11.io.rbdgate:disk1 has no LUN 0 on a backstore of ours"),
        ({"device": DeviceName(SPEC.uid, 6)}, "is backstore rbdgate.0123456789abcdef.6, not"),
        ({"settings": SETTINGS | {"param/MaxConnections": "4"}}, "param/MaxConnections is '4', it should be '1'"),
        (
            {"settings": {k: v for k, v in SETTINGS.items() if k != "param/InitialR2T"}},
            "param/InitialR2T cannot be read, it should be 'No'",
        ),
    ],
)
def test_each_deviation_of_a_tpg_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    """Whatever one TPG lacks is told once, with the value found."""
    found = differences(SPEC, DEVICE, with_tpg(**changes))
    assert len(found) == 1
    assert sentence in found[0]


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        (None, "there is no backstore for image rbd/disk1"),
        (replace(DEVICE, enabled=False), "is not enabled"),
        (replace(DEVICE, identity={**DEVICE.identity, "serial": "x"}), "serial is 'x'"),
        (replace(DEVICE, attributes={**DEVICE.attributes, "attrib/emulate_3pc": "1"}), "attrib/emulate_3pc is '1'"),
    ],
)
def test_each_deviation_of_the_backstore_is_one_sentence(device: Device | None, sentence: str) -> None:
    """Whatever the backstore lacks is told once."""
    found = differences(SPEC, device, TARGET)
    assert len(found) == 1
    assert sentence in found[0]


def test_missing_and_surplus_parts_of_the_target_are_told() -> None:
    """A missing target, a missing TPG and a TPG nobody asks for are each a difference."""
    assert differences(SPEC, DEVICE, None) == ("there is no target iqn.2026-11.io.rbdgate:disk1",)
    assert "has no TPG 2" in differences(SPEC, DEVICE, replace(TARGET, tpgs=(TPG,)))[0]
    surplus = replace(TARGET, tpgs=(*TARGET.tpgs, replace(TPG, tag=3)))
    assert "has a TPG 3 that no path" in differences(SPEC, DEVICE, surplus)[0]


def test_what_comes_and_goes_with_a_path_is_not_compared() -> None:
    """Enabled or not, with portal or without: the export is as complete as before."""
    portal = Portal(SPEC.paths[0].address, 3260)
    assert differences(SPEC, DEVICE, with_tpg(enabled=True, portals=frozenset({portal}))) == ()


def test_a_tpg_that_is_being_closed_is_not_taken_for_a_broken_one() -> None:
    """Settings that could not be read because the TPG closes are unknown, not wrong."""
    assert differences(SPEC, DEVICE, with_tpg(enabled=True, settings={})) == ()
    assert differences(SPEC, DEVICE, with_tpg(enabled=False, settings={})) != ()


@given(block_size=st.sampled_from((512, 4096)))
def test_limits_are_the_same_bytes_whatever_the_block_size(block_size: int) -> None:
    """UNMAP's limit and granularity and WRITE SAME's limit are counted in blocks and mean the same bytes."""
    values = {s.file: s.value for s in device_settings(DeviceAttributes(block_size=block_size))}
    assert int(values["attrib/max_unmap_lba_count"]) * block_size == 32 << 20
    assert int(values["attrib/unmap_granularity"]) * block_size == 64 << 10
    assert int(values["attrib/max_write_same_len"]) * block_size == 4 << 20


def test_unmap_limits_are_written_before_unmap_is_switched_on() -> None:
    """The kernel refuses `emulate_tpu` without a limit, so the order of the settings counts."""
    assert DEVICE_FILES.index("attrib/max_unmap_block_desc_count") < DEVICE_FILES.index("attrib/emulate_tpu")
