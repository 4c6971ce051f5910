"""Whether each member of etcd answers: asked now and then in a thread of its own, told from what was heard last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.clock import boottime
from gateway.errors import RbdgateError
from gateway.store.values import MemberStatus

PERIOD = 5.0
"""Seconds between two rounds."""

FRESH = 15.0
"""For how many seconds an answer counts."""


class Members(Protocol):
    """etcd's client, as far as it is asked here."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints of the settings."""
        ...

    def member_status(self, endpoint: str) -> MemberStatus:
        """What one member says of itself, within its deadline."""
        ...


@dataclass(frozen=True)
class Heard:
    """A member's last answer, and when it came (CLOCK_BOOTTIME)."""

    status: MemberStatus
    at: float


class Endpoints(threading.Thread):
    """Asks every member of the settings, one after the other."""

    def __init__(self, members: Members, clock: Callable[[], float] = boottime) -> None:
        super().__init__(name="etcd-members", daemon=True)
        self._members, self._clock = members, clock
        self._heard: Mapping[str, Heard] = {}

    def run(self) -> None:
        """Round after round."""
        pause = threading.Event()
        while True:
            self.ask()
            pause.wait(PERIOD)

    def ask(self) -> None:
        """One round."""
        for endpoint in self._members.endpoints:
            try:
                status = self._members.member_status(endpoint)
            except RbdgateError:
                continue  # how long ago it answered is what is told
            self._heard = {**self._heard, endpoint: Heard(status, self._clock())}

    def answering(self, now: float) -> dict[str, MemberStatus | None]:
        """Each endpoint with what its member said of late; None if it said nothing."""
        heard = self._heard
        return {
            each: heard[each].status if each in heard and now - heard[each].at < FRESH else None
            for each in self._members.endpoints
        }
