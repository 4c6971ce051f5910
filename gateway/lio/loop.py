"""The node's own way to an exported device: a tcm_loop target, through which its reservations are read.

A SCSI host of its own for each image, `naa.<uid>`, whose one LUN is linked after the image's paths, so that those have
the relative ports that their tags say. It is there for its SCSI generic device alone: the kernel is told to attach no
disk to it, which would read the guest's partition table, and could not be removed while that read hangs. Where the
kernel cannot be told, the udev rules that rbdgate ships keep everything else on the gateway away from that disk.
"""

from __future__ import annotations

from pathlib import Path

from gateway.errors import Unavailable
from gateway.lio.configfs import TARGET_ROOT, entries, link, links, make_if_missing, read, remove, unlink, write
from gateway.lio.names import HBA, device_path
from gateway.observed import DeviceName

LOOPBACK = f"{TARGET_ROOT}/loopback"
_SCSI_DEVICES = "/sys/bus/scsi/devices"
_DEVICE_INFO = Path("/proc/scsi/device_info")
_NO_DISK = 0x100000  # BLIST_NO_ULD_ATTACH of scsi/scsi_devinfo.h


def loop_path(uid: str) -> str:
    """The directory of an image's own TPG; a `naa.` name needs 16 (or 32) hex digits, which a uid has."""
    return f"{LOOPBACK}/naa.{uid}/tpgt_1"


def make_loop(device: DeviceName, vendor: str, product: str) -> None:
    """Link the device, whose INQUIRY says that, to a nexus of this node's own; nothing happens where that is so."""
    _attach_no_disk(vendor, product)
    tpg = loop_path(device.uid)
    for path in (LOOPBACK, f"{LOOPBACK}/naa.{device.uid}", tpg):
        make_if_missing(path)
    if not (read(f"{tpg}/nexus") or "").startswith("naa."):
        write(f"{tpg}/nexus", f"naa.{device.uid}")
    make_if_missing(f"{tpg}/lun/lun_0")
    if str(device) not in links(f"{tpg}/lun/lun_0"):
        link(f"{tpg}/lun/lun_0/{device}", device_path(HBA, device))


def _attach_no_disk(vendor: str, product: str) -> None:
    """Have the kernel attach no driver but sg to what says it is that (scsi_devinfo.c: `vendor:model:flags`)."""
    entry = f"'{vendor:<8}' '{product:<16}' {_NO_DISK:#x}"
    try:
        known = _DEVICE_INFO.read_text().splitlines()
        if entry not in known:
            _DEVICE_INFO.write_text(f"{vendor}:{product}:{_NO_DISK:#x}")
    except OSError:
        return  # a kernel without CONFIG_SCSI_PROC_FS


def remove_loop(uid: str) -> None:
    """Take an image's own nexus away, as far as it is there; waits for what is under way through it."""
    tpg = loop_path(uid)
    for name in links(f"{tpg}/lun/lun_0"):
        unlink(f"{tpg}/lun/lun_0/{name}")
    for path in (f"{tpg}/lun/lun_0", tpg, f"{LOOPBACK}/naa.{uid}"):
        remove(path)


def scsi_generic(uid: str) -> str:
    """The `/dev/sgN` of an image's own nexus; Unavailable if there is none."""
    address = read(f"{loop_path(uid)}/address")  # HOST:CHANNEL:TARGET (tcm_loop.c, tcm_loop_tpg_address_show)
    if address:
        for name in entries(f"{_SCSI_DEVICES}/{address}:0/scsi_generic"):
            return f"/dev/{name}"
    raise Unavailable(
        f"this node has no SCSI device of its own for image {uid} (tcm_loop, sg): its reservations cannot be read;"
        " see the kernel's log (dmesg)"
    )
