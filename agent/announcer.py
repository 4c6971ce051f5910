"""Announces portal addresses again: after they came up, so that a lost frame costs a second and no more, and whenever
another machine claims one."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError
from gateway.model import Address
from gateway.timers import ANNOUNCE_AGAIN, DEFENCE_SPACING

log = structlog.get_logger("announcer")


class Schedule:
    """Which address is to be announced when; all times in seconds on one clock."""

    def __init__(self) -> None:
        self._due: list[tuple[float, str, Address]] = []
        self._last: dict[Address, float] = {}

    @property
    def next(self) -> float | None:
        """When the next announcement is due."""
        return self._due[0][0] if self._due else None

    def came_up(self, address: Address, now: float) -> None:
        """It was announced just now for the first time."""
        self._last[address] = now
        for delay in ANNOUNCE_AGAIN:
            self._add(address, now + delay)

    def was_claimed(self, address: Address, now: float) -> None:
        """Another machine said it has it: say otherwise at once, though not twice within a second, and once more.

        A claim that comes too soon after an announcement is answered when the second is over: the last word is ours.
        """
        soonest = max(now, self._last.get(address, now - DEFENCE_SPACING) + DEFENCE_SPACING)
        planned = [when for when, _, other in self._due if other == address]
        if not any(when <= soonest for when in planned):
            self._add(address, soonest)
        if not any(soonest < when <= soonest + DEFENCE_SPACING for when in planned):
            self._add(address, soonest + DEFENCE_SPACING)  # one frame can be lost

    def take(self, now: float) -> Address | None:
        """The address whose announcement is due, if there is one; it counts as made now."""
        if not self._due or self._due[0][0] > now:
            return None
        address = heapq.heappop(self._due)[2]
        self._last[address] = now
        return address

    def _add(self, address: Address, when: float) -> None:
        heapq.heappush(self._due, (when, str(address), address))


class Announcer(threading.Thread):
    """A thread that keeps to the schedule; `announce` sends one and does nothing if the address is gone."""

    def __init__(self, announce: Callable[[Address], None], serving: Callable[[], bool]) -> None:
        super().__init__(name="announcer", daemon=True)
        self._announce, self._serving = announce, serving
        self._schedule = Schedule()
        self._changed = threading.Condition()

    def again(self, address: Address) -> None:
        """Announce this address, which just came up, after 1, 2, 5 and 10 s."""
        with self._changed:
            self._schedule.came_up(address, boottime())
            self._changed.notify()

    def defend(self, address: Address) -> None:
        """Announce this address, which another machine claims, as soon as a second has passed since it last was."""
        with self._changed:
            self._schedule.was_claimed(address, boottime())
            self._changed.notify()

    def run(self) -> None:
        """Wait for the next announcement, make it, go on."""
        while True:
            with self._changed:
                while (address := self._schedule.take(boottime())) is None:
                    due = self._schedule.next
                    self._changed.wait(due - boottime() if due is not None else None)
            try:
                if self._serving():
                    self._announce(address)
            except RbdgateError as error:
                log.warning("not announced", address=str(address), error=str(error))
