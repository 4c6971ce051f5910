"""Reads what `checks/kernel.py` judges, from /proc, /sys and configfs; nothing is loaded or mounted by looking."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.doctor.checks.kernel import TRAP, KernelFacts
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt, succeeds, text_of
from gateway.doctor.reading.mounts import mounts
from gateway.lio import configfs
from gateway.lio.modules import MODULES
from gateway.lio.names import CORE
from gateway.reservations.fuse import KIND

_TARGET = Path(configfs.TARGET_ROOT)


def read() -> KernelFacts:
    """The kernel as it is now."""
    dbroot = attempt("LIO's dbroot", lambda: configfs.read(str(_TARGET / "dbroot")))
    return KernelFacts(
        release=os.uname().release,
        required=MODULES,
        missing={name: _available(name) for name in MODULES if not _present(name)},
        configfs=os.path.ismount(_TARGET.parent),
        dbroot=dbroot,
        pr_place=attempt("LIO's place for reservations", lambda: _place(dbroot)),
        aptpl=attempt("the attributes of backstores", _aptpl),
        fuse_device=Path("/dev/fuse").is_char_device(),
        krbd=Path("/sys/bus/rbd/add_single_major").exists(),
    )


def _present(module: str) -> bool:
    """A module that is built in may have no directory of its own; a file system is listed all the same."""
    systems = (text_of(Path("/proc/filesystems")) or "").split()
    return Path("/sys/module", module).is_dir() or module in systems


def _available(module: str) -> bool | Unread:
    return attempt(f"whether module {module} is there", lambda: succeeds("modprobe", "--dry-run", "--quiet", module))


def _place(dbroot: str | Unread | None) -> str:
    """What is at `<dbroot>/pr`; what is mounted there is not touched, for it may be a FUSE that does not answer."""
    place = Path(dbroot if isinstance(dbroot, str) else "/etc/target", "pr")
    kinds = [mount.kind for mount in mounts() if mount.point == str(place)]
    if kinds:  # the last one is on top
        return TRAP if kinds[-1] == KIND else f"mount of {kinds[-1]}"
    if not place.is_dir():
        return "nothing"
    return "read-only" if os.statvfs(place).f_flag & os.ST_RDONLY else "directory"


def _aptpl() -> bool | None:
    """Whether the first backstore there is has the attribute; None without one, and without LIO."""
    for hba in configfs.entries(CORE):
        for device in configfs.entries(f"{CORE}/{hba}"):
            if configfs.exists(f"{CORE}/{hba}/{device}/attrib"):
                return configfs.exists(f"{CORE}/{hba}/{device}/attrib/force_pr_aptpl")
    return None
