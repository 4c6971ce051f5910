"""Announces portal addresses again after they came up, so that a lost gratuitous ARP costs a second and no more."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError
from gateway.model import Address
from gateway.timers import ANNOUNCE_AGAIN

log = structlog.get_logger("announcer")


class Announcer(threading.Thread):
    """A thread with a list of announcements to make; `announce` sends one and does nothing if the address is gone."""

    def __init__(self, announce: Callable[[Address], None], serving: Callable[[], bool]) -> None:
        super().__init__(name="announcer", daemon=True)
        self._announce, self._serving = announce, serving
        self._due: list[tuple[float, str, Address]] = []
        self._changed = threading.Condition()

    def again(self, address: Address) -> None:
        """Announce this address, which just came up, after 1, 2, 5 and 10 s."""
        now = boottime()
        with self._changed:
            for delay in ANNOUNCE_AGAIN:
                heapq.heappush(self._due, (now + delay, str(address), address))
            self._changed.notify()

    def run(self) -> None:
        """Wait for the next announcement, make it, go on."""
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > boottime():
                    self._changed.wait(self._due[0][0] - boottime() if self._due else None)
                address = heapq.heappop(self._due)[2]
            try:
                if self._serving():
                    self._announce(address)
            except RbdgateError as error:
                log.warning("not announced", address=str(address), error=str(error))
