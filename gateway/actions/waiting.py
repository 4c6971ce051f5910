"""Looking on until what was asked for is reached; the one place of the operator's side that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import RbdgateError, Unavailable

T = TypeVar("T")

LOOK_EVERY = 0.25
"""Seconds between two looks: a look is one read of etcd."""


class NotReached(RbdgateError):
    """What was asked for was accepted and is under way; it was not seen done in the time that was given."""


@dataclass(frozen=True)
class Pending:
    """Not reached yet, and why."""

    reason: str


@dataclass(frozen=True)
class Patience:
    """How long to look on, in seconds; `progress` hears the reason of each look that was not the last."""

    timeout: float
    progress: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until(self, look: Callable[[], T | Pending]) -> T:
        """Look until there is something else than `Pending`; NotReached, with the last reason, at the deadline.

        An etcd that does not answer for a while is one more reason to wait.
        """
        deadline = self.clock() + self.timeout
        while True:
            try:
                found = look()
            except Unavailable as error:
                found = Pending(str(error))
            if not isinstance(found, Pending):
                return found
            left = deadline - self.clock()
            if left <= 0:
                raise NotReached(f"accepted, but not reached within {self.timeout:g} s: {found.reason}")
            self.progress(found.reason)
            self.sleep(min(LOOK_EVERY, left))
