"""The cluster under thousands of schedules: no invariant is ever broken, and after all faults everything is served."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.machine import search
from tests.simulation.planted import BUGS, Bug
from tests.simulation.schedule import SCHEDULES, lines_of, replay
from tests.simulation.stage import Violation

COUNT = int(os.environ.get("RBDGATE_SCHEDULES", "3000"))
CHECKOUT = Path(__file__).resolve().parents[2]


def schedule(name: str) -> list[str]:
    """One that was kept."""
    return lines_of((SCHEDULES / f"{name}.txt").read_text())


@pytest.mark.timeout(1800)
def test_no_schedule_breaks_an_invariant() -> None:
    """Crashes, pauses, partitions, held calls and drifting clocks, at any point: data stays whole, images come back."""
    assert search(COUNT, 12) == ""


@pytest.mark.parametrize("name", sorted(path.stem for path in SCHEDULES.glob("*.txt")))
def test_what_was_kept_passes(name: str) -> None:
    """Every schedule that showed a bug once, planted or not, shows none now."""
    assert "> settle" in replay(schedule(name))


@pytest.mark.parametrize(("name", "bug"), BUGS.items(), ids=BUGS.keys())
def test_a_planted_bug_is_found(name: str, bug: Bug) -> None:
    """The simulation finds each way to get the fence or the tenure wrong, and its transcript shows the same again."""
    with bug():
        with pytest.raises(Violation) as found:
            replay(schedule(name))
        transcript = str(found.value)
        with pytest.raises(Violation) as again:
            replay(lines_of(transcript.partition("\n")[2]))
    assert "WRONG" in transcript
    assert str(again.value) == transcript


def test_a_schedule_is_the_same_every_time() -> None:
    """Two processes with different hash seeds tell the same of one schedule, word for word."""
    told = set()
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-m", "tests.simulation.schedule", str(SCHEDULES / "fence-before-the-claim.txt")]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1
