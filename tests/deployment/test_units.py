"""What systemd itself says of the units we ship."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "agent" / "systemd"
NAMES = ("rbdgate-agent.service", "rbdgate-guard.service")
THRESHOLD = 60  # tenths of systemd's exposure; 96 without a restriction


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; it needs no running systemd for what is asked here."""
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong() -> None:
    """`systemd-analyze verify` has no word about either unit."""
    done = analyze("verify", *(str(UNITS / name) for name in NAMES))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_open_has_a_reason(name: str) -> None:
    """Everything that `systemd-analyze security` calls open stands in the chapter's table, and nothing else."""
    done = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", "--json=short", str(UNITS / name))
    assert done.returncode == 0, f"more exposed than {THRESHOLD}"
    said = {each["name"] for each in json.loads(done.stdout) if each["set"] is False and each["exposure"]}
    table = (UNITS / "README.md").read_text().partition("<!-- open:")[2]
    rows = {row.replace("\\|", "|") for row in re.findall(r"^\| `(.+?)` \| .+ \|$", table, re.MULTILINE)}
    assert said == rows


def test_the_capabilities_are_enough_for_ceph_and_the_network() -> None:
    """Fences in a real Ceph and ARP on a real kernel work with the capabilities that both units have, and no others."""
    units = [(UNITS / name).read_text() for name in NAMES]
    (line,) = {found for unit in units for found in re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)}
    bounding = ",".join(["-all", *(word.lower().replace("cap_", "+") for word in line.split())])
    confined = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}"]
    tests = ("tests/contract/test_images_fence.py", "tests/contract/test_network_neighbours.py")
    command = [*confined, sys.executable, "-m", "pytest", "-q", "-m", "not full", *tests]
    done = subprocess.run(command, cwd=UNITS.parents[1], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
