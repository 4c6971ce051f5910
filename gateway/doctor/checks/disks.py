"""Does anything on this gateway but LIO touch guests' disks: udev, LVM, mdadm, multipath, a mount."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread

DISKS = Subject("disks")

RULE = "59-rbdgate.rules"
"""The udev rule we ship: its name puts it before those that would read or watch a disk."""

_SAMPLE = "rbd0"


@dataclass(frozen=True)
class Lvm:
    """LVM's own view of its configuration. RBD is among the kinds of disks it knows by itself."""

    filters: tuple[str, ...]
    """`global_filter` and `filter`, each as `["r|^/dev/rbd|","a|.*|"]`."""
    devices_file: bool
    """Whether it looks only at devices that are listed in a file which is there."""


@dataclass(frozen=True)
class GuestDisk:
    """A mapped image of ours: its device, what sits on it (dm, md), what is mounted or swapped on, and udev's mark."""

    device: str
    users: tuple[str, ...]
    marked: bool | Unread


@dataclass(frozen=True)
class DiskFacts:
    """`rule` is the installed rule's text (None: not installed), `shipped` ours, `shipped_at` where ours lies.

    `lvm` and `multipath_config` are None where the programs are not installed; `multipathd` tells whether it runs.
    """

    rule: str | Unread | None
    shipped: str
    shipped_at: str
    lvm: Lvm | Unread | None
    mdadm: bool
    multipath_config: str | Unread | None
    multipathd: bool | Unread
    os_prober: bool
    guests: tuple[GuestDisk, ...] | Unread


def check(facts: DiskFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    yield _rule(facts)
    yield from _used(facts)
    yield from _marked(facts)
    yield from _lvm(facts)
    yield from _mdadm(facts)
    yield from _multipath(facts)
    if facts.os_prober:
        yield DISKS.warning(
            "os-prober is installed and GRUB runs it: it mounts every disk's file systems, guests' too",
            "`apt-get remove os-prober`, or GRUB_DISABLE_OS_PROBER=true in /etc/default/grub",
        )


def _rule(facts: DiskFacts) -> Finding:
    install = (
        f"`cp {facts.shipped_at}/{RULE} /etc/udev/rules.d/ && udevadm control --reload && udevadm trigger -s block`"
    )
    if isinstance(facts.rule, Unread):
        return DISKS.unread(facts.rule)
    if facts.rule is None or not facts.rule.strip():
        return DISKS.error(
            f"the udev rule {RULE} is not installed: udev may read guests' disks and hand them to LVM, mdadm or btrfs",
            install,
        )
    if facts.rule != facts.shipped:
        return DISKS.warning(f"the udev rule {RULE} is not the one of this version, or was changed", install)
    return DISKS.ok(f"the udev rule {RULE} is installed")


def _used(facts: DiskFacts) -> Iterator[Finding]:
    if isinstance(facts.guests, Unread):
        yield DISKS.unread(facts.guests)
        return
    used = [guest for guest in facts.guests if guest.users]
    for guest in used:
        yield DISKS.error(
            f"{guest.device} is a guest's disk, and on this gateway {', '.join(guest.users)} uses it: two writers"
            " destroy its data",
            "end that use at once (umount, `vgchange -an`, `dmsetup remove`, `mdadm --stop`, swapoff), then find out"
            " what began it",
        )
    if facts.guests and not used:
        yield DISKS.ok(f"nothing on this gateway sits on the {len(facts.guests)} mapped images")


def _marked(facts: DiskFacts) -> Iterator[Finding]:
    guests = () if isinstance(facts.guests, Unread) else facts.guests
    unread = next((guest.marked for guest in guests if isinstance(guest.marked, Unread)), None)
    if unread is not None:
        yield DISKS.unread(unread)
    unmarked = [guest.device for guest in guests if guest.marked is False]
    if unmarked and facts.rule is not None:
        yield DISKS.warning(
            f"udev has not applied {RULE} to {', '.join(unmarked)}",
            "`udevadm control --reload && udevadm trigger -s block`, and see that systemd-udevd runs",
        )


def _lvm(facts: DiskFacts) -> Iterator[Finding]:
    if facts.lvm is None:
        return
    if isinstance(facts.lvm, Unread):
        yield DISKS.unread(facts.lvm)
    elif facts.lvm.devices_file:
        yield DISKS.ok("LVM looks only at the devices in its devices file")
    elif any(rejects(text, f"/dev/{_SAMPLE}") for text in facts.lvm.filters):
        yield DISKS.ok("LVM's filter rejects /dev/rbd*")
    else:
        yield DISKS.warning(
            "LVM looks at /dev/rbd* whenever it is called: `vgchange -ay` would open guests' volume groups",
            'devices { global_filter = [ "r|^/dev/rbd|" ] } in /etc/lvm/lvm.conf',
        )


def _mdadm(facts: DiskFacts) -> Iterator[Finding]:
    if facts.mdadm and isinstance(facts.rule, str) and facts.rule.strip():
        yield DISKS.ok("mdadm is installed, and udev does not hand it guests' disks")


def _multipath(facts: DiskFacts) -> Iterator[Finding]:
    if facts.multipath_config is None:
        return
    if isinstance(facts.multipath_config, Unread):
        yield DISKS.unread(facts.multipath_config)
        return
    excluded = multipath_excludes(facts.multipath_config)
    if isinstance(facts.multipathd, Unread):
        yield DISKS.unread(facts.multipathd)
    elif excluded:
        yield DISKS.ok("multipath's blacklist names RBD devices")
    elif facts.multipathd:
        yield DISKS.error(
            "multipathd runs, and its blacklist does not name RBD devices: it may take guests' disks",
            f"`cp {facts.shipped_at}/multipath.conf /etc/multipath/conf.d/rbdgate.conf && multipathd reconfigure`, or"
            " `systemctl disable --now multipathd`",
        )
    else:
        yield DISKS.warning(
            "multipath is installed (multipathd does not run), and its blacklist does not name RBD devices",
            f"`cp {facts.shipped_at}/multipath.conf /etc/multipath/conf.d/rbdgate.conf`",
        )


def rejects(lvm_filter: str, device: str) -> bool:
    """Whether an LVM filter rejects the device: the first pattern that matches decides (lvm.conf(5))."""
    for action, rest in re.findall(r'"([ar])([^"]*)"', lvm_filter):
        pattern = rest[1:-1].replace("\\\\", "\\")
        try:
            matches = re.search(pattern, device) is not None
        except re.error:
            continue
        if matches:
            return str(action) == "r"
    return False


def multipath_excludes(config: str, device: str = _SAMPLE) -> bool:
    """Whether the configuration `multipath -t` printed blacklists the device (multipath.conf(5), "blacklist")."""
    return _any(_devnodes(config, "blacklist"), device) and not _any(_devnodes(config, "blacklist_exceptions"), device)


def _devnodes(config: str, section: str) -> list[str]:
    """The `devnode` patterns of a section; its subsections (`device`, `protocol`) have none."""
    found = re.findall(rf"^{section}\s*{{\n(.*?)^}}", config, re.MULTILINE | re.DOTALL)
    return [pattern for body in found for pattern in re.findall(r'^\s*devnode\s+"?([^"\n]*)"?\s*$', body, re.MULTILINE)]


def _any(patterns: list[str], device: str) -> bool:
    return any(_matches(pattern, device) for pattern in patterns)


def _matches(pattern: str, device: str) -> bool:
    inverted = pattern.startswith("!")
    try:
        return (re.search(pattern.removeprefix("!"), device) is not None) != inverted
    except re.error:
        return False
