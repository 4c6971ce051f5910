"""Is this kernel able to serve: its version, LIO, krbd, FUSE, and where reservations are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread

KERNEL = Subject("kernel")

NEEDED = (5, 18)
"""The first kernel whose addresses carry the mark that tells ours from an administrator's (IFA_PROTO)."""

TRAP = "trap"
"""What is said of the place where reservations are written if the guard's file system is mounted there."""


@dataclass(frozen=True)
class KernelFacts:
    """What the kernel says of itself.

    `missing` are modules that are not loaded, each with whether it could be; `dbroot` is where target_core_mod
    writes, None if it is not loaded; `pr_place` the kind of thing at `<dbroot>/pr`: TRAP, `mount of ...`, `directory`,
    `read-only` or `nothing`.
    `aptpl` tells whether a backstore has the attribute `force_pr_aptpl`, None while there is no backstore.
    """

    release: str
    required: tuple[str, ...]
    missing: Mapping[str, bool | Unread]
    configfs: bool
    dbroot: str | Unread | None
    pr_place: str | Unread
    aptpl: bool | Unread | None
    fuse_device: bool
    krbd: bool


def check(facts: KernelFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    yield _version(facts)
    yield from _modules(facts)
    yield _configfs(facts)
    yield _krbd(facts)
    yield _reservations_place(facts)
    yield _aptpl(facts)
    yield _fuse(facts)


def _version(facts: KernelFacts) -> Finding:
    found = re.match(r"(\d+)\.(\d+)", facts.release)
    if found is None:
        return KERNEL.unread(Unread("the kernel's version", f"{facts.release!r} is none"))
    if (int(found[1]), int(found[2])) >= NEEDED:
        return KERNEL.ok(f"Linux {facts.release}")
    return KERNEL.error(
        f"Linux {facts.release} is too old: it cannot mark the addresses that are ours (IFA_PROTO)",
        f"boot Linux {NEEDED[0]}.{NEEDED[1]} or newer",
    )


def _modules(facts: KernelFacts) -> Iterator[Finding]:
    for name, available in facts.missing.items():
        if isinstance(available, Unread):
            yield KERNEL.unread(available, f"load it: `modprobe {name}`")
        elif available:
            yield KERNEL.ok(f"module {name} is not loaded yet; it is there, and the agent loads what it needs")
        else:
            yield KERNEL.error(
                f"this kernel has no module {name}: nothing can be served",
                "install the distribution's full kernel and its extra modules, then boot it",
            )
    loaded = [name for name in facts.required if name not in facts.missing]
    if loaded:
        yield KERNEL.ok(f"loaded: {', '.join(loaded)}")


def _configfs(facts: KernelFacts) -> Finding:
    if facts.configfs:
        return KERNEL.ok("configfs is mounted")
    if facts.missing.get("configfs"):
        return KERNEL.ok("configfs is not mounted yet; the agent mounts it")
    return KERNEL.error(
        "configfs is not mounted, and the agent has not mounted it",
        "`mount -t configfs configfs /sys/kernel/config`",
    )


def _krbd(facts: KernelFacts) -> Finding:
    if facts.krbd:
        return KERNEL.ok("krbd takes maps (/sys/bus/rbd/add_single_major)")
    if "rbd" in facts.missing:
        return KERNEL.ok("krbd will be asked when its module is loaded")
    return KERNEL.error(
        "the module rbd is loaded and has no /sys/bus/rbd/add_single_major", "boot the distribution's own kernel"
    )


def _reservations_place(facts: KernelFacts) -> Finding:
    if isinstance(facts.dbroot, Unread):
        return KERNEL.unread(facts.dbroot)
    if facts.dbroot is None:
        return KERNEL.ok("where LIO keeps reservations is known when target_core_mod is loaded")
    place = f"{facts.dbroot}/pr"
    if isinstance(facts.pr_place, Unread):
        return KERNEL.unread(facts.pr_place)
    if facts.pr_place == "nothing":
        return KERNEL.error(
            f"{place} does not exist: LIO cannot write reservations down",
            f"`mkdir -p {place}`; it has to be there before target_core_mod is loaded",
        )
    if facts.pr_place == "read-only":
        return KERNEL.error(f"{place} cannot be written to", f"mount the file system of {place} read-write")
    if facts.pr_place == TRAP:
        return KERNEL.ok(f"the guard's file system is on {place}: changes of reservations are caught")
    if facts.pr_place == "directory":
        return KERNEL.error(
            f"the guard's file system is not mounted on {place}: no image that keeps reservations is exported",
            "see `journalctl -u rbdgate-guard` for the reason; `systemctl start rbdgate-guard` if it does not run",
        )
    return KERNEL.error(
        f"a {facts.pr_place} is on {place}, where the guard's file system should be: no image that keeps reservations"
        " is exported",
        f"`umount {place}`; the guard mounts its own within seconds",
    )


def _aptpl(facts: KernelFacts) -> Finding:
    if isinstance(facts.aptpl, Unread):
        return KERNEL.unread(facts.aptpl)
    if facts.aptpl is None:
        return KERNEL.ok("force_pr_aptpl is an attribute of backstores, and there is none here now to see it on")
    if facts.aptpl:
        return KERNEL.ok("backstores have force_pr_aptpl")
    return KERNEL.error(
        "backstores have no force_pr_aptpl: reservations would be lost without a word",
        "boot the distribution's own kernel",
    )


def _fuse(facts: KernelFacts) -> Finding:
    if facts.fuse_device:
        return KERNEL.ok("/dev/fuse is there")
    if "fuse" in facts.missing:
        return KERNEL.ok("/dev/fuse comes with the module fuse")
    return KERNEL.error(
        "/dev/fuse is not there though the module is loaded: changes of reservations cannot be caught",
        "`mknod /dev/fuse c 10 229`, or mount devtmpfs on /dev",
    )
