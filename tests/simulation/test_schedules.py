"""The cluster under thousands of schedules: no invariant is ever broken, and after all faults everything is served."""

from __future__ import annotations

import os

from tests.simulation.machine import search

SCHEDULES = int(os.environ.get("RBDGATE_SCHEDULES", "3000"))


def test_no_schedule_breaks_an_invariant() -> None:
    """Crashes, pauses, partitions, held calls and drifting clocks, at any point: data stays whole, images come back."""
    assert search(SCHEDULES, 12) == ""
