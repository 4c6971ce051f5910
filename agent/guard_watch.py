"""Whether this node has a guard, by the sign of life that it leaves in `/run`."""

from __future__ import annotations

from collections.abc import Callable

from gateway.timers import guard_lives

GUARD_DOUBT = 1.5
"""How long, in seconds, a guard with a stale sign of life gets to renew it: it gives one a second."""


class GuardWatch:
    """Looks at the sign; a stale one is doubted for a moment before it is believed. `clock` is the sign's own.

    After a pause of the whole machine the guard's sign is as old as the pause, until the guard has had its turn.
    """

    def __init__(self, sign: Callable[[], float | None], clock: Callable[[], float]) -> None:
        self._sign, self._clock = sign, clock
        self._doubted_since: float | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether the last sign that was seen was stale."""
        return self._doubted_since is not None

    def is_fresh(self) -> bool:
        """Whether the sign is fresh, without any doubt: what a path may be opened on. Any thread may ask."""
        return guard_lives(self._sign(), self._clock())

    def is_there(self) -> bool:
        """Whether there is a guard, as far as can be told now."""
        sign, now = self._sign(), self._clock()
        if sign is None:
            return False
        if guard_lives(sign, now):
            self._doubted_since = None
            return True
        if self._doubted_since is None:
            self._doubted_since = now
        return now - self._doubted_since < GUARD_DOUBT
