"""What we ship for a gateway's own system says what the code says."""

from __future__ import annotations

from pathlib import Path

from gateway.lio.modules import MODULES

HOST = Path(__file__).parents[2] / "gateway/doctor/host"


def test_the_modules_loaded_at_boot_are_those_the_agent_needs() -> None:
    """`modules.conf` names every module that serving needs, in the order of their loading."""
    lines = (HOST / "modules.conf").read_text().splitlines()
    assert tuple(line for line in lines if line and not line.startswith("#")) == MODULES
