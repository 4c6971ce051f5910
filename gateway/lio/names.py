"""Where things stand in LIO's tree, and how a portal is written there."""

from __future__ import annotations

import ipaddress

from gateway.lio.configfs import TARGET_ROOT
from gateway.model import Iqn
from gateway.observed import DeviceName, Portal

CORE = f"{TARGET_ROOT}/core"
ISCSI = f"{TARGET_ROOT}/iscsi"

DISCOVERY = f"{ISCSI}/discovery_auth"
"""What discovery asks for, the whole node's."""

UNSET = "NULL"
"""What is written to a file of an `auth/` directory to unset it; the kernel shows it afterwards."""

HBA = "iblock_29282"
"""The iblock HBA that holds all backstores of ours (0x7262, "rb"); what other tools make lies in HBAs of their own."""

MAPPED_LUN = "lun"
"""The name of an ACL's link to its LUN."""


def device_path(hba: str, name: DeviceName) -> str:
    """The directory of a backstore."""
    return f"{CORE}/{hba}/{name}"


def target_path(iqn: Iqn) -> str:
    """The directory of a target."""
    return f"{ISCSI}/{iqn}"


def tpg_path(iqn: Iqn, tag: int) -> str:
    """The directory of a TPG."""
    return f"{ISCSI}/{iqn}/tpgt_{tag}"


def tag_of(entry: str) -> int | None:
    """The tag in a TPG directory's name; None for anything else in a target's directory."""
    prefix, _, digits = entry.partition("tpgt_")
    return int(digits) if not prefix and digits.isdecimal() else None


def device_of(link_target: str) -> DeviceName | None:
    """The backstore of ours that a LUN's link leads to; None if it leads elsewhere."""
    *_, core, hba, name = ("", "", "", *link_target.split("/"))
    return DeviceName.parse(name) if core == "core" and hba.startswith("iblock_") else None


def portal_name(portal: Portal) -> str:
    """A portal's directory name, `192.0.2.1:3260` or `[2001:db8::1]:3260`."""
    if isinstance(portal.address, ipaddress.IPv6Address):
        return f"[{portal.address}]:{portal.port}"
    return f"{portal.address}:{portal.port}"


def parse_portal(entry: str) -> Portal | None:
    """The portal a directory name stands for; None if it is none (a wildcard of another tool's counts as one)."""
    host, _, port = entry.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return Portal(ipaddress.ip_address(bare), int(port))
    except ValueError:
        return None
