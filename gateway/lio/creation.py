"""Building an export, and what changes while it is there: portals and ACLs.

Callers hold the lock on configfs (`gateway.lio.lock`) around each of these. Nothing can be reached before all of it is
there and was read back; a step that fails leaves what was built so far, and the next turn tears that down before it
builds again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.access import Access
from gateway.credentials import Credentials
from gateway.errors import Inconsistent, NotFound
from gateway.lio.authentication import authenticate, authenticate_all
from gateway.lio.configfs import entries, exists, link, links, make, make_if_missing, read, write
from gateway.lio.loop import make_loop
from gateway.lio.names import CORE, HBA, ISCSI, MAPPED_LUN, device_path, portal_name, target_path, tpg_path
from gateway.lio.removal import close_portal, remove_acl, tags_of
from gateway.model import ImageSpec, Iqn, Path
from gateway.observed import DeviceName, Portal
from gateway.profile import ACL_SETTINGS, TPG_SETTINGS, device_settings


def build(spec: ImageSpec, device: DeviceName, dev_path: str, access: Access, reservations: Iterable[str] = ()) -> None:
    """Make backstore, target, TPGs, LUNs and ACLs of an image, with no portal and nothing enabled.

    `reservations` are the lines with which the kernel restores them (`gateway.reservations.lines`). Raises Inconsistent
    if anything of the image is there already, KernelRefused for what the kernel does not take.
    """
    expect_nothing(spec, device)
    _make_device(spec, device, dev_path)
    for line in reservations:  # taken only before the first LUN link; each binds when its ACL's LUN appears
        write(f"{device_path(HBA, device)}/pr/res_aptpl_metadata", line)
    make_if_missing(ISCSI)  # the fabric's directory, made with its first target on a node
    make(target_path(spec.identity.iqn))
    for path in spec.paths:
        _make_tpg(spec.identity.iqn, path.tag)
    for path in spec.paths:  # in the order of the tags on a fresh device: the relative port ids follow it
        _link_lun(spec.identity.iqn, path.tag, device)
    if spec.attributes.emulate_pr:
        make_loop(device, spec.identity.vendor, spec.identity.product)
    set_acls(spec.identity.iqn, access.initiators, (), demanded=access.demanded)


def expect_nothing(spec: ImageSpec, device: DeviceName) -> None:
    """Raise Inconsistent if anything of the image is there already."""
    left = [name for name in map(DeviceName.parse, entries(f"{CORE}/{HBA}")) if name and name.uid == spec.uid]
    if left:
        raise Inconsistent(f"backstore {left[0]} is still there; tear it down before {device} is built")
    if exists(target_path(spec.identity.iqn)):
        raise Inconsistent(f"target {spec.identity.iqn} is there already; tear it down before {device} is built")


def _make_device(spec: ImageSpec, device: DeviceName, dev_path: str) -> None:
    path = device_path(HBA, device)
    make_if_missing(f"{CORE}/{HBA}")
    make(path)
    write(f"{path}/control", f"udev_path={dev_path}")
    write(f"{path}/udev_path", dev_path)  # what targetcli and rtslib show
    write(f"{path}/enable", "1")
    identity = spec.identity
    write(f"{path}/wwn/vendor_id", identity.vendor)
    write(f"{path}/wwn/product_id", identity.product)
    write(f"{path}/wwn/revision", identity.revision)
    write(f"{path}/wwn/vpd_unit_serial", identity.serial)
    for setting in device_settings(spec.attributes):
        write(f"{path}/{setting.file}", setting.value)


def _make_tpg(iqn: Iqn, tag: int) -> None:
    path = tpg_path(iqn, tag)
    make(path)
    for setting in TPG_SETTINGS:
        write(f"{path}/{setting.file}", setting.value)


def _link_lun(iqn: Iqn, tag: int, device: DeviceName) -> None:
    lun = f"{tpg_path(iqn, tag)}/lun/lun_0"
    make(lun)
    link(f"{lun}/{device}", device_path(HBA, device))


def _make_acl(iqn: Iqn, tag: int, initiator: Iqn, credentials: Credentials | None) -> None:
    tpg = tpg_path(iqn, tag)
    acl = f"{tpg}/acls/{initiator}"
    make_if_missing(acl)
    authenticate(acl, credentials)
    if links(f"{acl}/lun_0"):
        return
    for setting in ACL_SETTINGS:
        write(f"{acl}/{setting.file}", setting.value)
    make_if_missing(f"{acl}/lun_0")
    link(f"{acl}/lun_0/{MAPPED_LUN}", f"{tpg}/lun/lun_0")


def set_acls(iqn: Iqn, wanted: Mapping[Iqn, Credentials | None], remove: Iterable[Iqn], *, demanded: bool) -> None:
    """Make or change the ACLs of these initiators on every TPG of a target, and remove others.

    `demanded` tells whether any initiator of the image, named here or not, has to authenticate. A removed initiator's
    session ends at once; no other session is touched: what was changed counts from the next login on.
    """
    tags = tags_of(iqn)
    if not tags:
        raise NotFound(f"target {iqn} has no TPG here; build it first")
    unwanted = sorted(remove)
    for tag in tags:
        for initiator in unwanted:
            remove_acl(f"{tpg_path(iqn, tag)}/acls/{initiator}")
        if demanded:
            authenticate_all(tpg_path(iqn, tag))
        for initiator, credentials in sorted(wanted.items()):
            _make_acl(iqn, tag, initiator, credentials)
        if not demanded:
            authenticate_all(tpg_path(iqn, tag), unless_inherited=True)


def open_portal(iqn: Iqn, path: Path) -> None:
    """Make the path's portal the TPG's only one, then enable the TPG; nothing happens where that is so already.

    LIO binds with IP_FREEBIND: the address need not be on this node yet.
    """
    tpg = tpg_path(iqn, path.tag)
    name = portal_name(Portal(path.address, path.port))
    present = entries(f"{tpg}/np")
    if set(present) - {name}:
        close_portal(iqn, path.tag)
    make_if_missing(f"{tpg}/np/{name}")
    if read(f"{tpg}/enable") != "1":
        write(f"{tpg}/enable", "1")
