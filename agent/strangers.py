"""The portal addresses that machines of others were found to have: why each path is down, and when to ask again.

It remembers what a probe found for as long as it takes to ask anew, and outlives no agent. Each time the wait doubles,
so that a foreign machine is not asked once a second for weeks.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from gateway.model import Address, ClusterView


@dataclass(frozen=True)
class Stranger:
    """What the last probe of an address said, how often it did so in a row, and when to ask again (CLOCK_BOOTTIME)."""

    reason: str
    count: int
    not_before: float


class Strangers:
    """Written by the workers that probe, read by the turn; `first` and `last` are the waits, in seconds."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._lock = threading.Lock()
        self._found: dict[Address, Stranger] = {}

    def found(self, address: Address, reason: str, now: float) -> None:
        """A probe found a stranger with the address."""
        with self._lock:
            before = self._found.get(address)
            count = before.count + 1 if before else 1
            wait = min(self._last, self._first * 2 ** min(count - 1, 16))
            self._found[address] = Stranger(reason, count, now + wait)

    def at(self, view: ClusterView, lease: int, now: float) -> dict[Address, str]:
        """Why addresses of the images held under the lease are not to be probed yet.

        What is not held, or is known to be ours by now, is forgotten: it says nothing of a later time.
        """
        held = view.held_under(lease)
        here = {path.address for spec in view.images.values() if spec.uid in held for path in spec.paths}
        with self._lock:
            self._found = {a: each for a, each in self._found.items() if a in here - view.served}
            return {a: each.reason for a, each in self._found.items() if now < each.not_before}

    def reasons(self) -> dict[Address, str]:
        """What was last found of each address, whether it is to be asked again or not."""
        with self._lock:
            return {address: each.reason for address, each in self._found.items()}
