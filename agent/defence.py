"""Notices when another machine claims a portal address that is served here, has it announced again, and says so.

It decides nothing: the claim in etcd says whose an address is, and a node whose tenure is over announces nothing. So a
former holder that wakes up does not fight for its address, and the holder takes it back from one that spoke too late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Set

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError
from gateway.events import Event, Kind
from gateway.model import Address
from gateway.network import Assertion, Hearing

log = structlog.get_logger("defence")

RESTART_PAUSE = 1.0
"""Seconds before listening is begun anew after it failed."""

SAY_AGAIN = 60.0
"""After how many seconds the same machine's claim to the same address is worth another line in the log."""

REMEMBERED = 1000
"""How many claims are remembered for that; whoever makes up more of them gets them all logged anew."""


class Defence(threading.Thread):
    """A thread that listens; `contested` picks what concerns an address here, `macs` knows the cluster's nodes."""

    def __init__(
        self,
        contested: Callable[[Iterable[tuple[str, Assertion]]], tuple[tuple[str, Assertion], ...]],
        macs: Callable[[], Set[str]],
        defend: Callable[[Address], None],
        clock: Callable[[], float] = boottime,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        super().__init__(name="defence", daemon=True)
        self._tell = tell
        self._contested, self._macs, self._defend, self._clock = contested, macs, defend, clock
        self._said: dict[Assertion, float] = {}

    def run(self) -> None:
        """Listen for ever; a failure costs a pause, never the agent."""
        while True:
            try:
                with Hearing() as hearing:
                    while True:
                        self.answer(hearing.wait(60.0))
            except RbdgateError as error:
                log.warning("not listening to other claims; beginning anew", error=str(error))
            threading.Event().wait(RESTART_PAUSE)

    def answer(self, heard: Iterable[tuple[str, Assertion]]) -> None:
        """Have each address announced that another machine said it has."""
        for interface, claim in self._contested(heard):
            self._defend(claim.address)
            now = self._clock()
            if now - self._said.get(claim, now - SAY_AGAIN) < SAY_AGAIN:
                continue
            if len(self._said) >= REMEMBERED:
                self._said.clear()
            self._said[claim] = now
            who = "another gateway" if claim.mac in self._macs() else "a stranger"
            log.warning(f"address claimed by {who}", address=str(claim.address), mac=claim.mac, interface=interface)
            why = f"{claim.mac} said at {interface} that it has it"
            self._tell(Event(Kind.ADDRESS, f"{claim.address} was claimed by {who}; announced it again", why))
