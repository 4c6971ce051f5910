"""Reading LIO's tree: names, links and observation, on a tree of plain files that looks like configfs."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Inconsistent, KernelRefused, Unavailable
from gateway.lio import creation, exports, names, observation, removal
from gateway.lio.logins import parse_session
from gateway.model import Iqn
from gateway.observed import Acl, DeviceName, Portal
from gateway.profile import DEVICE_FILES, TPG_SETTINGS

UID = "0123456789abcdef"
NAME = DeviceName(UID, 7)
IQN = Iqn("iqn.2026-11.io.rbdgate:disk1")
INITIATOR = Iqn("iqn.2026-11.io.rbdgate:ini1")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree with LIO loaded, in place of configfs."""
    (tmp_path / "core").mkdir()
    for module in (names, observation, removal, creation, exports):
        for name, folder in (("CORE", "core"), ("ISCSI", "iscsi")):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path / folder))
    return tmp_path


def put(path: Path, text: str) -> None:
    """Write one file as configfs shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def put_device(tree: Path, name: str = str(NAME), hba: str = "iblock_29282") -> Path:
    """A backstore as the kernel shows it."""
    device = tree / "core" / hba / name
    for file in DEVICE_FILES:
        put(device / file, "0")
    put(device / "enable", "1")
    put(device / "info", "Status: ACTIVATED\n        iBlock device: rbd0  UDEV PATH: /dev/rbd0  readonly: 0")
    put(device / "wwn/vpd_unit_serial", "T10 VPD Unit Serial Number: abc")
    for file in ("vendor_id", "product_id", "revision"):
        put(device / "wwn" / file, file)
    return device


def put_tpg(tree: Path, tag: int, device: str = str(NAME)) -> Path:
    """A TPG with one LUN, one portal and one ACL."""
    tpg = tree / "iscsi" / str(IQN) / f"tpgt_{tag}"
    for setting in TPG_SETTINGS:
        put(tpg / setting.file, setting.expected)
    put(tpg / "enable", "1")
    (tpg / "np" / "10.0.0.1:3260").mkdir(parents=True)
    (tpg / "lun/lun_0").mkdir(parents=True)
    (tpg / "lun/lun_0/x").symlink_to(f"../../../../../../target/core/iblock_29282/{device}")
    (tpg / "acls" / str(INITIATOR) / "lun_0").mkdir(parents=True)
    (tpg / "acls" / str(INITIATOR) / "lun_0/y").symlink_to("../../../lun/lun_0")
    return tpg


def test_a_complete_export_is_read_as_it_is(tree: Path) -> None:
    """Backstore and target come back with every value the files show."""
    put_device(tree)
    put_tpg(tree, 1)
    (device,), (target,) = observation.observe()
    assert (device.name, device.hba, device.dev_path, device.enabled) == (NAME, "iblock_29282", "/dev/rbd0", True)
    assert device.identity == {
        "serial": "abc",
        "vendor": "vendor_id",
        "product": "product_id",
        "revision": "revision",
    }
    assert set(device.attributes) == set(DEVICE_FILES)
    (tpg,) = target.tpgs
    assert (tpg.tag, tpg.enabled, tpg.device, tpg.initiators) == (
        1,
        True,
        NAME,
        {INITIATOR: Acl(mapped=True)},
    )
    assert tpg.portals == {Portal(ipaddress.ip_address("10.0.0.1"), 3260)}
    assert tpg.settings == {setting.file: setting.expected for setting in TPG_SETTINGS}


def test_a_tree_that_is_not_there_is_unknown_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without target_core_mod an observation raises."""
    monkeypatch.setattr(observation, "CORE", str(tmp_path / "core"))
    monkeypatch.setattr(observation, "ISCSI", str(tmp_path / "iscsi"))
    with pytest.raises(Unavailable, match="target_core_mod"):
        observation.observe()


def test_a_node_without_the_iscsi_fabric_has_no_target(tree: Path) -> None:
    """The fabric's directory is only made with its first use."""
    assert observation.observe() == ((), ())


def test_foreign_backstores_and_attributes_are_left_out(tree: Path) -> None:
    """Backstores of other names or plugins are not ours; discovery_auth is no target."""
    put_device(tree, "disk1", "iblock_0")
    put_device(tree, str(NAME), "fileio_0")
    put(tree / "iscsi/discovery_auth/userid", "")
    put(tree / "iscsi/lio_version", "v")
    assert observation.observe() == ((), ())


def test_half_built_things_are_told_as_they_are(tree: Path) -> None:
    """A TPG without LUN, an ACL without mapped LUN and a target without TPG are values, not errors."""
    tpg = tree / "iscsi" / str(IQN) / "tpgt_1"
    put(tpg / "enable", "0")
    (tpg / "acls" / str(INITIATOR)).mkdir(parents=True)
    (tree / "iscsi" / "iqn.2026-11.io.rbdgate:empty").mkdir()
    first, empty = observation.observe_targets()
    assert (first.tpgs[0].device, first.tpgs[0].initiators, first.tpgs[0].settings) == (
        None,
        {INITIATOR: Acl(mapped=False)},
        {},
    )
    assert empty.tpgs == ()


def test_the_settings_of_a_tpg_that_closes_are_not_read(tree: Path) -> None:
    """An enabled TPG without a portal may be waiting for its commands, and its readers with it."""
    tpg = put_tpg(tree, 1)
    (tpg / "np" / "10.0.0.1:3260").rmdir()
    assert observation.observe_targets()[0].tpgs[0].settings == {}


def test_a_target_on_a_foreign_backstore_is_left_alone(tree: Path) -> None:
    """Disabling and tearing down name the foreign backstore and change nothing."""
    tpg = put_tpg(tree, 1, device="somebody-elses")
    with pytest.raises(Inconsistent, match="core/iblock_29282/somebody-elses"):
        removal.teardown(UID, [IQN])
    with pytest.raises(Inconsistent, match="core/iblock_29282/somebody-elses"):
        removal.disable(IQN)
    assert (tpg / "enable").read_text() == "1\n"
    assert (tpg / "np" / "10.0.0.1:3260").is_dir()


def test_tearing_down_what_is_not_there_is_done(tree: Path) -> None:
    """Neither target nor backstore: nothing to do, no error."""
    removal.teardown(UID, [IQN])


@given(
    address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    port=st.integers(min_value=1, max_value=65535),
)
def test_a_portals_name_reads_back_as_the_portal(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """Writing and reading a portal's directory name lose nothing."""
    portal = Portal(address, port)
    assert names.parse_portal(names.portal_name(portal)) == portal


@pytest.mark.parametrize("entry", ["", "x", "10.0.0.1", "[::1]", "10.0.0.1:x", "10.0.0.300:3260"])
def test_what_is_no_portal_is_none(entry: str) -> None:
    """A directory of another form is not taken for a portal."""
    assert names.parse_portal(entry) is None


def test_tags_are_read_from_directory_names_only() -> None:
    """Only `tpgt_N` is a TPG."""
    assert [names.tag_of(e) for e in ("tpgt_1", "tpgt_65535", "param", "tpgt_", "xtpgt_1")] == [
        1,
        65535,
        None,
        None,
        None,
    ]


def test_only_links_to_iblock_backstores_of_ours_name_a_device() -> None:
    """A link to another plugin's or another tool's backstore is not ours."""
    assert names.device_of(f"../../target/core/iblock_3/{NAME}") == NAME
    assert names.device_of(f"../../target/core/fileio_3/{NAME}") is None
    assert names.device_of("../../target/core/iblock_3/disk") is None
    assert names.device_of("x") is None


LOGGED_IN = """InitiatorName: iqn.2026-11.io.rbdgate:ini1
InitiatorAlias: ini1
LIO Session ID: 1   ISID: 0x00 02 3d 00 00 02  TSIH: 1  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address {address} TCP  StatSN: 0x89fbeb67
"""


@pytest.mark.parametrize(("shown", "address"), [("10.88.0.61", "10.88.0.61"), ("[fd88::61]", "fd88::61")])
def test_a_session_is_read_from_the_kernels_text(shown: str, address: str) -> None:
    """ISID and peer come out of an ACL's `info`."""
    session = parse_session(2, str(INITIATOR), LOGGED_IN.format(address=shown))
    assert session is not None
    assert (session.tag, session.initiator, session.isid) == (2, INITIATOR, "00023d000002")
    assert session.peer == ipaddress.ip_address(address)


def test_an_acl_without_a_session_has_none() -> None:
    """The kernel's sentence for nobody, and no text at all, both mean nobody."""
    assert parse_session(1, str(INITIATOR), f"No active iSCSI Session for Initiator Endpoint: {INITIATOR}") is None
    assert parse_session(1, str(INITIATOR), "") is None


def test_an_export_is_found_whatever_alua_group_its_ports_are_in(tree: Path) -> None:
    """The links tell where the group does not; what tells nothing is an error. Only another's serial is nobody's."""
    device = put_device(tree)
    put(device / "attrib/force_pr_aptpl", "1")
    put(device / "udev_path", "/dev/rbd0")
    assert exports.find_export("another") is None
    with pytest.raises(KernelRefused, match="linked to no target"):
        exports.find_export("abc")
    assert exports.find_exports() == ()
    put_tpg(tree, 1)
    found = exports.Export(NAME, "/dev/rbd0", IQN)
    assert exports.find_export("abc") == found
    assert exports.find_exports() == (found,)
    put(device / "alua/default_tg_pt_gp/members", f"iSCSI/{IQN}/tpgt_1/lun_0")
    assert exports.find_export("abc") == found
    (device / "udev_path").unlink()
    with pytest.raises(KernelRefused, match="which block device"):
        exports.find_export("abc")
