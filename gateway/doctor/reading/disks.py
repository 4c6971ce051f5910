"""Reads what `checks/disks.py` judges: udev's rules and its database, other programs' configuration, mounts, holders.

No block device is opened: that alone would make udev look at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from gateway.doctor.checks.disks import RULE, DiskFacts, GuestDisk, Lvm
from gateway.doctor.reading.attempts import attempt, installed, output_of, text_of
from gateway.doctor.reading.mounts import mounts
from gateway.doctor.reading.services import show_units
from gateway.images.krbd import Krbd
from gateway.observed import ANCHOR, Mapping

_RULE_PLACES = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d",
                "/lib/udev/rules.d")  # fmt: skip
"""Where udev looks for a rules file; the first that has it hides the others (udev(7))."""


def read() -> DiskFacts:
    """This machine as far as guests' disks are concerned."""
    shipped = files("gateway.doctor") / "host"
    return DiskFacts(
        rule=attempt(f"the udev rule {RULE}", _rule),
        shipped=(shipped / RULE).read_text(),
        shipped_at=str(shipped),
        lvm=attempt("LVM's configuration", _lvm) if installed("lvm") else None,
        mdadm=installed("mdadm"),
        multipath_config=attempt("multipath's configuration", _multipath) if installed("multipath") else None,
        multipathd=attempt("whether multipathd runs", _multipathd),
        os_prober=installed("os-prober") and _grub_probes(text_of(Path("/etc/default/grub")) or ""),
        guests=attempt("the images mapped here", _guests),
    )


def _rule() -> str | None:
    found = (text_of(Path(place, RULE)) for place in _RULE_PLACES)
    return next((text for text in found if text is not None), None)


def _lvm() -> Lvm:
    said = output_of("lvm", "lvmconfig", "--typeconfig", "full", "devices")
    settings = dict(re.findall(r"^\s*(\w+)=(.*)$", said, re.MULTILINE))
    if "filter" not in settings:
        raise ValueError("`lvm lvmconfig` shows no section `devices`")
    listed = Path("/etc/lvm/devices", settings.get("devicesfile", '"system.devices"').strip('"'))
    return Lvm(
        filters=(settings.get("global_filter", ""), settings["filter"]),
        devices_file=settings.get("use_devicesfile") == "1" and listed.exists(),
    )


def _multipath() -> str:
    said = output_of("multipath", "-t")
    if "blacklist {" not in said:
        raise ValueError("`multipath -t` shows no blacklist")
    return said


def _multipathd() -> bool:
    return show_units(("multipathd.service",))["multipathd.service"].active == "active"


def _grub_probes(defaults: str) -> bool:
    """Whether GRUB's settings ask for os-prober; it is off by default since GRUB 2.06."""
    return re.search(r"^\s*GRUB_DISABLE_OS_PROBER=[\"']?false", defaults, re.MULTILINE) is not None


def _guests() -> tuple[GuestDisk, ...]:
    ours = [m for m in Krbd().mappings() if m.generation is not None and m.name != ANCHOR]
    uses = tuple(_uses())
    return tuple(_guest(mapping, uses) for mapping in ours)


def _guest(mapping: Mapping, uses: Iterable[tuple[str, str]]) -> GuestDisk:
    block = Path("/sys/block", f"rbd{mapping.number}")
    holders = sorted({holder.name for holder in [*block.glob("holders/*"), *block.glob("*/holders/*")]})
    mine = re.compile(rf"{re.escape(mapping.dev_path)}(p\d+)?")
    users = (*map(_holder, holders), *(use for device, use in uses if mine.fullmatch(device)))
    return GuestDisk(mapping.dev_path, users, attempt("udev's database", lambda: _is_marked(block)))


def _holder(name: str) -> str:
    """A device that sits on another, by its name in `/dev` and device-mapper's."""
    mapped = text_of(Path("/sys/block", name, "dm/name"))
    return f"{name} ({mapped.strip()})" if mapped else name


def _uses() -> Iterable[tuple[str, str]]:
    """Every device that is mounted or swapped on, and how."""
    yield from ((mount.source, f"a mount on {mount.point}") for mount in mounts())
    for line in (text_of(Path("/proc/swaps")) or "").splitlines()[1:]:
        yield line.split()[0], "swap"


def _is_marked(block: Path) -> bool:
    """Whether our rule was applied, as udev's database says; its form is udev's own (`E:KEY=VALUE` lines)."""
    number = (block / "dev").read_text().strip()
    if not Path("/run/udev/control").exists():
        return True  # without udev nothing reads disks by itself
    entry = text_of(Path("/run/udev/data", f"b{number}"))
    return entry is not None and "E:RBDGATE_GUEST=1" in entry.splitlines()
