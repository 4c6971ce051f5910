"""The clocks: the only place that asks for the time.

`CLOCK_BOOTTIME` goes on while a machine sleeps, which `CLOCK_MONOTONIC` does not; a tenure is counted on it, for a
node that slept through its tenure must know so the moment it wakes.
"""

from __future__ import annotations

import time
from pathlib import Path


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_clock() -> float:
    """Unix time, in seconds: for people and figures, never for a decision."""
    return time.time()


def boot_id() -> str:
    """The kernel's random identity of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
