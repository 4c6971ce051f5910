"""Which export a unit serial names, found with a few reads: what a write of the kernel's reservations is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from gateway.errors import BadInput, KernelRefused
from gateway.lio.configfs import entries, links, read
from gateway.lio.names import CORE, HBA, ISCSI, device_of, device_path, parse_portal, tpg_path
from gateway.lio.removal import tags_of
from gateway.model import Address, Iqn
from gateway.observed import DeviceName

_MEMBER = re.compile(r"iSCSI/(\S+?)/tpgt_\d+/lun_0", re.IGNORECASE)
_SERIAL = "T10 VPD Unit Serial Number:"


@dataclass(frozen=True)
class Export:
    """A backstore of ours that is linked to a target: `dev_path` is the block device under it."""

    device: DeviceName
    dev_path: str
    iqn: Iqn


def find_export(serial: str) -> Export | None:
    """The export whose unit serial that is; None if no backstore of ours on this node has it.

    KernelRefused for one of which it cannot be told whose it is: that is unknown, and not absent.
    """
    for entry in entries(f"{CORE}/{HBA}"):
        device = DeviceName.parse(entry)
        if device is not None and serial_of(device) == serial:
            export = _export(device)
            if export is None:
                raise KernelRefused(
                    f"backstore {device} is linked to no target: whose reservations change is not known"
                )
            return export
    return None


def find_exports() -> tuple[Export, ...]:
    """All exports of ours whose reservations are kept; a backstore that no target has is none (yet, or any more)."""
    devices = filter(None, map(DeviceName.parse, entries(f"{CORE}/{HBA}")))
    kept = (d for d in devices if read(f"{device_path(HBA, d)}/attrib/force_pr_aptpl") == "1")
    return tuple(filter(None, map(_export, kept)))


def _export(device: DeviceName) -> Export | None:
    """What a backstore is exported as; None if it is linked to no target."""
    iqn = _target_of(device)
    if iqn is None:
        return None
    dev_path = read(f"{device_path(HBA, device)}/udev_path")
    if not dev_path:
        raise KernelRefused(f"backstore {device} does not say which block device is under it")
    return Export(device, dev_path, iqn)


def _target_of(device: DeviceName) -> Iqn | None:
    """The target that a backstore is linked to.

    Its ports are listed with its ALUA group (target_core_alua.c), unless somebody has put them into another group.
    """
    member = _MEMBER.search(read(f"{device_path(HBA, device)}/alua/default_tg_pt_gp/members") or "")
    if member:
        return Iqn(member[1])
    for name in entries(ISCSI):
        with suppress(BadInput):  # not a target's, or another tool's under a name that we would not make
            iqn = Iqn(name)
            luns = (links(f"{tpg_path(iqn, tag)}/lun/lun_0") for tag in tags_of(iqn))
            if any(device_of(backstore) == device for lun in luns for backstore in lun.values()):
                return iqn
    return None


def serial_of(device: DeviceName) -> str:
    """A backstore's unit serial; empty if it is not there (any more)."""
    return (read(f"{device_path(HBA, device)}/wwn/vpd_unit_serial") or "").removeprefix(_SERIAL).strip()


def portals_of(iqn: Iqn) -> frozenset[Address]:
    """The addresses of a target's portals, whether they are up or not."""
    names = (name for tag in tags_of(iqn) for name in entries(f"{tpg_path(iqn, tag)}/np"))
    return frozenset(portal.address for portal in map(parse_portal, names) if portal is not None)


def relative_ports(iqn: Iqn) -> dict[int, int]:
    """The relative target port identifier of each TPG, by its tag.

    Up to Linux 6.4 it counts the LUN links of the device, which are made in the order of the tags; newer kernels give
    each TPG one of its own and show it (target_core_fabric_configfs.c, `rtpi`).
    """
    shown = {tag: read(f"{tpg_path(iqn, tag)}/rtpi") for tag in tags_of(iqn)}
    return {tag: int(text) if text and text.isdecimal() else tag for tag, text in shown.items()}


def mapped_initiators(iqn: Iqn) -> dict[int, frozenset[Iqn]]:
    """The initiators with a mapped LUN 0 at each TPG, by its tag: whose registrations the kernel has in force."""
    return {tag: frozenset(_mapped(f"{tpg_path(iqn, tag)}/acls")) for tag in tags_of(iqn)}


def _mapped(acls: str) -> Iterator[Iqn]:
    for name in entries(acls):
        if links(f"{acls}/{name}/lun_0"):
            try:
                yield Iqn(name)
            except BadInput:
                continue  # another tool's, under a name that we would not make
