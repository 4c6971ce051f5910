"""The machine's watchdog, fed by the guard: what resets a node that answers without a right to, when nobody else can.

It is fed while the tenure runs, the guard looks and the agent's cycle turns; or while no portal address is read back
on this node, whatever else hangs: losing etcd, and Ceph with it, must not reset the fleet. So a reset means that
portals were up, and neither agent nor guard took them down when they had to, or that nothing could be read.

The feeding has a thread of its own that touches neither configfs nor RADOS: the guard's own can hang in either.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from gateway.errors import RbdgateError

log = structlog.get_logger("watchdog")

TIMEOUT = 15
"""Seconds without being fed after which the machine is reset; a paused machine may find itself reset as well."""

FEED_PERIOD = 1.0
"""How often the watchdog is fed, in seconds."""

LOOK_STALE = 5.0
"""A guard that has not looked at a running tenure for so long, in seconds, hangs: looking is one read of a file."""

TURN_STALE = 180.0
"""An agent without a turn for so long, in seconds, hangs: systemd kills one after 60, and its successor needs some."""

OPEN_AGAIN = 30.0
"""How often a watchdog that cannot be opened is tried again, in seconds."""

_SET_TIMEOUT = 0xC0045706  # WDIOC_SETTIMEOUT (linux/watchdog.h): _IOWR('W', 6, int)
_MAGIC_CLOSE = b"V"  # without it a closed watchdog goes on counting (Documentation/watchdog/watchdog-api.rst)


class Device(Protocol):
    """What resets the machine unless it is fed."""

    def feed(self) -> None:
        """Count from the beginning again."""
        ...

    def disarm(self) -> None:
        """Reset nothing any more."""
        ...


class LinuxWatchdog:
    """A watchdog device, armed by being opened; OSError if it is not there or somebody else has it."""

    def __init__(self, path: Path, timeout: int = TIMEOUT) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.feed()
        with suppress(OSError):  # one that cannot be set has a time-out of its own
            fcntl.ioctl(self._descriptor, _SET_TIMEOUT, struct.pack("i", timeout))

    def feed(self) -> None:
        """Write anything."""
        os.write(self._descriptor, b"\0")

    def disarm(self) -> None:
        """Close it as the kernel wants it closed; one with `nowayout` resets the machine all the same."""
        os.write(self._descriptor, _MAGIC_CLOSE)
        os.close(self._descriptor)


@dataclass(frozen=True)
class Signs:
    """What the right to serve shows in, in seconds on CLOCK_BOOTTIME: the tenure's end, and who was last seen when."""

    tenure_end: float
    looked: float
    turned: float

    def objection(self, now: float) -> str | None:
        """Why this node does not serve by right, watched and looked after; None if it does."""
        if now >= self.tenure_end:
            return "the tenure is over"
        if now - self.looked > LOOK_STALE:
            return "the guard does not look at the tenure"
        if now - self.turned > TURN_STALE:
            return "the agent's cycle does not turn"
        return None


class Feeder(threading.Thread):
    """Feeds a watchdog for as long as it should be, from its opening on."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        *,
        signs: Callable[[], Signs],
        silent: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._open, self._signs, self._silent, self._clock = open_device, signs, silent, clock
        self._device: Device | None = None
        self._tried = -OPEN_AGAIN
        self._said: str | None = None
        self._missing = ""
        self._stop_requested = threading.Event()

    def run(self) -> None:
        """Look and feed, again and again, until told to stop."""
        while not self._stop_requested.is_set():
            self.turn()
            self._stop_requested.wait(FEED_PERIOD)

    def turn(self) -> None:
        """Feed once if it should be; the reason why not is logged when it changes."""
        device = self._opened()
        if device is None:
            return
        objection = self._objection()
        if objection is None:
            device.feed()
        if objection is not None and self._said is None:
            log.error("the watchdog is not fed and will reset this machine", reason=objection)
        elif objection is None and self._said is not None:
            log.info("the watchdog is fed again")
        self._said = objection

    def stop(self) -> None:
        """End; the watchdog is disarmed only if this node is silent, for nobody watches it from now on."""
        self._stop_requested.set()
        if self.is_alive():
            self.join(2 * FEED_PERIOD)
        if self._device is not None and self._is_silent():
            self._device.disarm()

    def _objection(self) -> str | None:
        objection = self._signs().objection(self._clock())
        if objection is None or self._is_silent():
            return None
        return f"{objection}, and portals are up here"

    def _is_silent(self) -> bool:
        try:
            return self._silent()
        except RbdgateError as error:
            log.warning("portals not read", error=str(error))
            return False

    def _opened(self) -> Device | None:
        now = self._clock()
        if self._device is None and now - self._tried >= OPEN_AGAIN:
            self._tried = now
            try:
                self._device = self._open()
            except OSError as error:
                if self._missing != str(error):
                    log.warning("the watchdog cannot be opened; this node goes on without", error=str(error))
                self._missing = str(error)
            else:
                log.info("watchdog armed", timeout=TIMEOUT)
        return self._device
