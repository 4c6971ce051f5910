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

COUNT = int(os.environ.get("RBDGATE_SCHEDULES", "1000"))
ENOUGH = 1500
"""Among how many drawn schedules each planted bug must show."""

CHECKOUT = Path(__file__).resolve().parents[2]


def schedule(name: str) -> list[str]:
    """One that was kept."""
    return lines_of((SCHEDULES / f"{name}.txt").read_text())


def expect_none(found: str) -> None:
    """Fail with the whole transcript of a violation, if there is one: a comparison of strings would be cut short."""
    if found:
        pytest.fail(found, pytrace=False)


@pytest.mark.timeout(1800)
def test_no_schedule_breaks_an_invariant() -> None:
    """Crashes, pauses, partitions, held calls and drifting clocks, at any point: data stays whole, images come back."""
    expect_none(search(COUNT, 12))


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


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "bug"), BUGS.items(), ids=BUGS.keys())
def test_drawn_schedules_find_a_planted_bug(name: str, bug: Bug) -> None:
    """Each planted bug shows in some of the schedules that are drawn, with none that was kept to help."""
    with bug():
        assert search(ENOUGH, 12, shrink=False) != "", name


def test_a_violation_is_printed_whole(tmp_path: Path) -> None:
    """Whoever runs the simulation sees every line of the transcript that a failure ends with."""
    with BUGS["map-before-the-fence"](), pytest.raises(Violation) as found:
        replay(schedule("map-before-the-fence"))
    transcript = str(found.value)
    failing = tmp_path / "test_found.py"
    failing.write_text(
        "from tests.simulation.test_schedules import expect_none\n\n\n"
        f"def test_found() -> None:\n    expect_none({transcript!r})\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(failing)]
    told = subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert transcript in told.stdout


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
