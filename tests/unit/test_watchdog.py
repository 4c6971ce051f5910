"""The watchdog: fed while this node serves by right or is silent, and by nothing else."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from agent.watchdog import LOOK_STALE, OPEN_AGAIN, TURN_STALE, Feeder, LinuxWatchdog, Signs
from gateway.errors import KernelRefused, RbdgateError

NOW = 1000.0
SERVING = Signs(tenure_end=NOW + 5, looked=NOW - 0.25, turned=NOW - 5)
OVER = Signs(tenure_end=NOW - 1, looked=NOW, turned=NOW)


class FakeDevice:
    """Counts."""

    def __init__(self) -> None:
        self.fed, self.disarmed = 0, False

    def feed(self) -> None:
        """Count one."""
        self.fed += 1

    def disarm(self) -> None:
        """Remember it."""
        self.disarmed = True


class Fed:
    """A feeder with its device, and everything it goes by."""

    def __init__(self) -> None:
        self.device, self.signs, self.now = FakeDevice(), SERVING, NOW
        self.silent: bool | RbdgateError = False
        self.opened = 0
        self.missing = False
        self.feeder = Feeder(self.open, signs=lambda: self.signs, silent=self.is_silent, clock=lambda: self.now)

    def open(self) -> FakeDevice:
        """The device, unless it is missing."""
        self.opened += 1
        if self.missing:
            raise FileNotFoundError("/dev/watchdog")
        return self.device

    def is_silent(self) -> bool:
        """Whether no portal is up; or the failure to read it."""
        if isinstance(self.silent, RbdgateError):
            raise self.silent
        return self.silent


@pytest.mark.parametrize(
    ("signs", "silent", "fed"),
    [
        (SERVING, False, True),
        (OVER, False, False),
        (OVER, True, True),
        (Signs(-math.inf, -math.inf, -math.inf), True, True),
        (Signs(NOW + 5, NOW - LOOK_STALE - 0.1, NOW), False, False),
        (Signs(NOW + 5, NOW, NOW - TURN_STALE - 0.1), False, False),
        (Signs(NOW + 5, NOW, NOW - TURN_STALE - 0.1), True, True),
        (OVER, KernelRefused("no netlink"), False),
    ],
    ids=[
        *("serving", "tenure over, portals up", "tenure over, silent", "nothing known, silent", "guard hangs"),
        *("agent hangs", "agent hangs, silent", "nothing can be read"),
    ],
)
def test_it_is_fed_by_right_or_in_silence(signs: Signs, silent: bool | RbdgateError, fed: bool) -> None:
    """Portals that are up without a running tenure, a looking guard and a turning cycle reset the machine."""
    world = Fed()
    world.signs, world.silent = signs, silent
    world.feeder.turn()
    assert world.device.fed == fed


def test_feeding_is_taken_up_again() -> None:
    """A tenure that is proven anew before the time-out feeds again, and so does the end of a cut."""
    world = Fed()
    for signs, silent, fed in ((SERVING, False, 1), (OVER, False, 1), (SERVING, False, 2), (OVER, True, 3)):
        world.signs, world.silent = signs, silent
        world.feeder.turn()
        assert world.device.fed == fed


def test_a_stopping_guard_disarms_it_only_in_silence() -> None:
    """With portals still up nobody would watch them: then the machine is reset."""
    for silent in (False, True):
        world = Fed()
        world.feeder.turn()
        world.silent = silent
        world.feeder.stop()
        assert world.device.disarmed == silent


def test_a_missing_device_is_looked_for_again() -> None:
    """Without its device the node goes on, and the device is used as soon as it is there."""
    world = Fed()
    world.missing = True
    world.feeder.turn()
    world.feeder.turn()
    assert world.opened == 1
    world.missing, world.now = False, NOW + OPEN_AGAIN
    world.feeder.turn()
    assert world.opened == 2
    world.feeder.stop()


def test_a_device_is_written_to_and_closed_with_the_magic_letter(tmp_path: Path) -> None:
    """Feeding writes, disarming ends with V; a device without the ioctl for its time-out is armed all the same."""
    path = tmp_path / "watchdog"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    device = LinuxWatchdog(path)
    device.feed()
    device.disarm()
    assert os.read(reader, 10) == b"\0\0V"
    os.close(reader)
