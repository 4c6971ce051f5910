"""Taking down: portals, targets and backstores of ours, tolerant of whatever is not there (any more) or half-built.

This is all of the room that the guard needs, so it imports little. Disabling a TPG ends its sessions and waits in the
kernel for their commands, as long as the block device takes for them; it needs no lock, and what is done to other
images in configfs goes on meanwhile. Everything else here is quick once the TPGs are disabled, and is done under the
lock. So: `disable` without the lock first, then `teardown` with it.

Portals go before the disabling: an enabled TPG without a portal is one that is being closed, whose settings nobody
should read, because the kernel makes the reader wait until the disabling is done (`tpg_access_lock`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.errors import Inconsistent
from gateway.lio.configfs import entries, links, read, remove, root_entries, unlink, write
from gateway.lio.loop import remove_loop
from gateway.lio.names import CORE, HBA, device_of, device_path, tag_of, target_path, tpg_path
from gateway.model import Iqn
from gateway.observed import DeviceName


def tags_of(iqn: Iqn) -> tuple[int, ...]:
    """The tags of a target's TPGs, ascending; none if there is no such target."""
    return tuple(sorted(filter(None, map(tag_of, entries(target_path(iqn))))))


def disable(iqn: Iqn) -> None:
    """Close every TPG of a target: no portal, no session. Blocks until their commands are back from the device.

    Raises Inconsistent, with nothing changed, if a LUN of the target is on a backstore that is not ours.
    """
    for name, where in _backstores(iqn):
        if name is None:
            raise _foreign(where)
    tags = tags_of(iqn)
    for tag in tags:
        _remove_portals(tpg_path(iqn, tag))
    for tag in tags:
        close_portal(iqn, tag)


def close_portal(iqn: Iqn, tag: int) -> None:
    """Remove one TPG's portals and disable it; TPG, LUN and ACLs stay. Blocks like `disable`, and needs no lock too."""
    tpg = tpg_path(iqn, tag)
    _remove_portals(tpg)
    if read(f"{tpg}/enable") == "1":
        write(f"{tpg}/enable", "0")


def teardown(uid: str, iqns: Iterable[Iqn]) -> None:
    """Remove an image's targets, then every backstore built for it; what is not ours is never touched.

    Raises Inconsistent if a LUN of one of the targets is on a backstore that is not the image's, before anything
    of that target is changed; KernelRefused, naming file and errno, if the kernel keeps something.
    """
    for iqn in sorted(iqns):
        for name, where in _backstores(iqn):
            if name is None or name.uid != uid:
                raise _foreign(where)
        disable(iqn)
        for tag in tags_of(iqn):
            _remove_tpg(tpg_path(iqn, tag))
        remove(target_path(iqn))
    remove_loop(uid)
    for hba in root_entries(CORE):
        if hba.startswith("iblock_"):
            names = filter(None, map(DeviceName.parse, entries(f"{CORE}/{hba}")))
            for name in names:
                if name.uid == uid:
                    remove(device_path(hba, name))
    _remove_empty_hba()


def remove_acl(acl: str) -> None:
    """Remove an ACL with its mapped LUNs, if it is there; its session ends."""
    for lun in entries(acl):
        if lun.startswith("lun_"):
            for name in links(f"{acl}/{lun}"):
                unlink(f"{acl}/{lun}/{name}")
            remove(f"{acl}/{lun}")
    remove(acl)


def _backstores(iqn: Iqn) -> Iterator[tuple[DeviceName | None, str]]:
    """What each LUN of a target is on: the backstore's name if it is one of ours, and a description of the place."""
    for tag in tags_of(iqn):
        luns = f"{tpg_path(iqn, tag)}/lun"
        for lun in entries(luns):
            for to in links(f"{luns}/{lun}").values():
                yield device_of(to), f"{lun} of TPG {tag} of target {iqn} is on {to.rpartition('target/')[2]}"


def _foreign(where: str) -> Inconsistent:
    return Inconsistent(
        f"{where}, which is no backstore of this image: the target is left alone; remove it with the tool that made it"
    )


def _remove_portals(tpg: str) -> None:
    for portal in entries(f"{tpg}/np"):
        remove(f"{tpg}/np/{portal}")


def _remove_tpg(tpg: str) -> None:
    for acl in entries(f"{tpg}/acls"):
        remove_acl(f"{tpg}/acls/{acl}")
    for lun in entries(f"{tpg}/lun"):
        for name in links(f"{tpg}/lun/{lun}"):
            unlink(f"{tpg}/lun/{lun}/{name}")
        remove(f"{tpg}/lun/{lun}")
    remove(tpg)


def _remove_empty_hba() -> None:
    left = [name for name in entries(f"{CORE}/{HBA}") if DeviceName.parse(name)]
    if not left:
        remove(f"{CORE}/{HBA}")
