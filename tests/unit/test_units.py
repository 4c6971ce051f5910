"""The units we ship: what their lines must say for an agent that restarts without a touch and a guard that is there."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "agent" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    """A unit file; none of ours has a key twice."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # systemd's keys have capitals
    parser.read_string((UNITS / f"rbdgate-{name}.service").read_text())
    return parser


@pytest.mark.parametrize("name", ["agent", "guard"])
def test_a_daemon_is_always_started_again(name: str) -> None:
    """No number of failures in a row makes systemd give up on it."""
    assert unit(name)["Service"]["Restart"] == "always"
    assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("name", ["agent", "guard"])
def test_what_they_tell_each_other_outlives_both(name: str) -> None:
    """Neither unit's end removes the directory with tenure, sign of life and lock."""
    assert unit(name)["Service"]["RuntimeDirectoryPreserve"] == "yes"


def test_only_the_guards_end_cuts() -> None:
    """The agent comes and goes without a touch; nobody watches the tenure without a guard."""
    assert "ExecStopPost" not in unit("agent")["Service"]
    assert unit("guard")["Service"]["ExecStopPost"].endswith("rbdgate-agent cut")
