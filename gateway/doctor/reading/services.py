"""Reads what `checks/services.py` and `checks/settings.py` judge: systemd, `/run`, and two files."""

from __future__ import annotations

import json
import time
from pathlib import Path

from gateway.doctor.checks.services import UNITS, ServicesFacts, Unit
from gateway.doctor.checks.settings import SettingsFacts
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt, output_of, text_of
from gateway.settings import Settings


def read_settings(path: Path, settings: Settings | Unread) -> SettingsFacts:
    """The settings file."""
    shown = attempt(f"{path}", path.stat)
    return SettingsFacts(
        path=str(path),
        mode=shown if isinstance(shown, Unread) else shown.st_mode & 0o7777,
        owner=shown if isinstance(shown, Unread) else shown.st_uid,
        node=settings if isinstance(settings, Unread) else str(settings.node),
    )


def read(runtime_directory: Path) -> ServicesFacts:
    """The services of this machine."""
    return ServicesFacts(
        units=attempt("systemd's units", lambda: show_units(UNITS)),
        guard_sign_age=attempt("the guard's sign of life", lambda: _sign_age(runtime_directory / "guard")),
        rbdmap_entries=attempt("/etc/ceph/rbdmap", lambda: _entries(text_of(Path("/etc/ceph/rbdmap")) or "")),
    )


def show_units(names: tuple[str, ...]) -> dict[str, Unit]:
    """What systemd says of these units; ValueError where there is no systemd to ask."""
    properties = ("Id", "LoadState", "ActiveState", "UnitFileState")
    said = output_of("systemctl", "show", *(f"--property={name}" for name in properties), "--", *names)
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in said.split("\n\n")]
    blocks = [block for block in blocks if block]
    if len(blocks) != len(names):
        raise ValueError(f"systemctl showed {len(blocks)} of {len(names)} units: does systemd run here?")
    # In the order asked for: an alias answers under another Id.
    return {
        name: Unit(block.get("LoadState", ""), block.get("ActiveState", ""), block.get("UnitFileState", ""))
        for name, block in zip(names, blocks, strict=True)
    }


def _sign_age(sign: Path) -> float | None:
    text = text_of(sign)
    return None if text is None else time.clock_gettime(time.CLOCK_BOOTTIME) - float(json.loads(text))


def _entries(rbdmap: str) -> int:
    lines = (line.strip() for line in rbdmap.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)
