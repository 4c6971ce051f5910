"""What LIO has now, as values: our backstores, and every iSCSI target.

Other processes write this tree while it is read: what vanishes is left out, what is half-built is told as it is. A
tree that cannot be read raises, so that nobody takes *unknown* for *nothing*. Per image: one listing, one link and a
fixed number of small files for the backstore and for each TPG, and one listing per ACL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.credentials import Secret
from gateway.errors import BadInput
from gateway.lio.configfs import entries, exists, link_target, links, read, root_entries
from gateway.lio.names import CORE, DISCOVERY, ISCSI, MAPPED_LUN, UNSET, device_of, device_path, parse_portal, tag_of
from gateway.model import Iqn
from gateway.observed import Acl, Device, DeviceName, Discovery, Target, Tpg
from gateway.profile import AUTH_FILES, AUTHENTICATION, DEVICE_FILES, TPG_SETTINGS

_UDEV_PATH = re.compile(r"UDEV PATH: (\S+)")
_IDENTITY = {
    "serial": "wwn/vpd_unit_serial",
    "vendor": "wwn/vendor_id",
    "product": "wwn/product_id",
    "revision": "wwn/revision",
}


def observe() -> tuple[tuple[Device, ...], tuple[Target, ...]]:
    """Our backstores and all iSCSI targets, each in the order of their names."""
    return observe_devices(), observe_targets()


def observe_devices() -> tuple[Device, ...]:
    """The backstores whose name is ours, under whatever iblock HBA."""
    found = []
    for hba in root_entries(CORE):
        if not hba.startswith("iblock_"):
            continue
        names = filter(None, map(DeviceName.parse, entries(f"{CORE}/{hba}")))
        found += [device for name in names if (device := _device(hba, name)) is not None]
    return tuple(sorted(found, key=lambda device: device.name))


def observe_targets() -> tuple[Target, ...]:
    """Every iSCSI target with a name in normal form; one of another form cannot be ours."""
    names = filter(None, map(_iqn, entries(ISCSI) if exists(ISCSI) else _without_iscsi()))
    found = (observe_target(name) for name in sorted(names))
    return tuple(target for target in found if target is not None)


def observe_target(iqn: Iqn) -> Target | None:
    """One target, or None if it is not there."""
    path = f"{ISCSI}/{iqn}"
    tags = sorted(filter(None, map(tag_of, entries(path))))
    tpgs = tuple(tpg for tag in tags if (tpg := _tpg(path, tag)) is not None)
    return Target(iqn, tpgs) if exists(path) else None


def _without_iscsi() -> tuple[str, ...]:
    root_entries(CORE)  # no target_core_mod: raises
    return ()  # the fabric's directory is made with the first use; without it there is no target


def _device(hba: str, name: DeviceName) -> Device | None:
    path = device_path(hba, name)
    attributes = _files(path, DEVICE_FILES)
    identity = {}
    for what, file in _IDENTITY.items():
        shown = read(f"{path}/{file}")
        if shown is not None:
            identity[what] = shown.removeprefix("T10 VPD Unit Serial Number:").strip()
    info = _UDEV_PATH.search(read(f"{path}/info") or "")
    enabled = read(f"{path}/enable")
    if enabled is None:
        return None  # `enable` is there from the first moment to the last: the backstore has gone
    return Device(name, hba, info[1] if info else "", enabled == "1", attributes, identity)


def _tpg(target: str, tag: int) -> Tpg | None:
    path = f"{target}/tpgt_{tag}"
    enabled = read(f"{path}/enable")
    if enabled is None:
        return None
    lun = links(f"{path}/lun/lun_0")
    portals = frozenset(filter(None, map(parse_portal, entries(f"{path}/np"))))
    initiators = {iqn: _acl(path, iqn) for iqn in filter(None, map(_iqn, entries(f"{path}/acls")))}
    device = next(filter(None, map(device_of, lun.values())), None)
    # Enabled without a portal: it is being closed, and a reader of its settings would wait for its last command.
    closing = enabled == "1" and not portals
    settings = {} if closing else _files(path, (setting.file for setting in TPG_SETTINGS))
    authentication = None if closing else read(f"{path}/{AUTHENTICATION}")
    return Tpg(tag, enabled == "1", device, portals, initiators, settings, authentication)


def observe_discovery() -> Discovery:
    """What discovery asks for on this node."""
    enforced = read(f"{DISCOVERY}/enforce_discovery_auth") == "1"  # not there: the fabric was not used yet
    return Discovery(enforced, _auth(DISCOVERY) if enforced else {})


def _acl(tpg: str, initiator: Iqn) -> Acl:
    path = f"{tpg}/acls/{initiator}"
    authentication = read(f"{path}/{AUTHENTICATION}")
    return Acl(_is_mapped(tpg, initiator), authentication, {} if authentication == "0" else _auth(f"{path}/auth"))


def _auth(path: str) -> dict[str, Secret]:
    found = ((name, read(f"{path}/{name}") or "") for name in AUTH_FILES)
    return {name: Secret(text) for name, text in found if text and not text.startswith(UNSET)}


def _is_mapped(tpg: str, initiator: Iqn) -> bool:
    lun = f"{tpg}/acls/{initiator}/lun_0"
    # The link we make is looked for by its name, one call instead of three: there are as many as initiators and paths.
    found = [ours] if (ours := link_target(f"{lun}/{MAPPED_LUN}")) else list(links(lun).values())
    return any(target.endswith("/lun/lun_0") for target in found)


def _files(path: str, names: Iterable[str]) -> dict[str, str]:
    found = ((name, read(f"{path}/{name}")) for name in names)
    return {name: text for name, text in found if text is not None}


def _iqn(entry: str) -> Iqn | None:
    try:
        return Iqn(entry)
    except BadInput:
        return None  # `discovery_auth` and other attributes of the fabric, or a foreign name
