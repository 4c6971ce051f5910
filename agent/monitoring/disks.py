"""What went through each block device, from one read of `/proc/diskstats`.

Format: the kernel's Documentation/admin-guide/iostats.rst. Sectors there are of 512 bytes, times in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DISKSTATS = Path("/proc/diskstats")
_SECTOR = 512


@dataclass(frozen=True)
class Way:
    """One direction: completed requests, their bytes, and the seconds they took, summed over requests."""

    operations: int
    size: int
    seconds: float


@dataclass(frozen=True)
class Disk:
    """One device since it was made: by direction, requests under way now, and for how long any was, in seconds."""

    ways: Mapping[str, Way]
    in_progress: int
    busy: float


def read_disks(path: Path = DISKSTATS) -> dict[str, Disk]:
    """Every device by name; none where the file cannot be read, and without those whose line cannot be understood."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = (_parse(line.split()) for line in lines)
    return dict(each for each in found if each is not None)


def _parse(words: list[str]) -> tuple[str, Disk] | None:
    try:
        n = [int(word) for word in words[3:]]
        ways = {"read": _way(n[0:4]), "write": _way(n[4:8])}
        if len(n) >= 15:  # since Linux 4.18
            ways["discard"] = _way(n[11:15])
        return words[2], Disk(ways, n[8], n[9] / 1000)
    except (ValueError, IndexError):
        return None


def _way(numbers: list[int]) -> Way:
    operations, _merged, sectors, milliseconds = numbers
    return Way(operations, sectors * _SECTOR, milliseconds / 1000)
