"""An empty kernel, which every membership begins with: what keeps it from being empty, and for how long at most."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gateway.observed import Kernel
from gateway.plan import left_mappings, plan_nothing
from gateway.timers import Timers

log = structlog.get_logger("membership")

STUCK_GRACE = 15.0
"""How much longer than krbd's own bound on a request a withdrawal may take before a mapping counts as stuck."""


class NotYet(Exception):
    """Why this node is no member now; `withdraw` says that its kernel must be emptied first."""

    def __init__(self, reason: str, *, withdraw: bool = False) -> None:
        super().__init__(reason)
        self.withdraw = withdraw


class Emptying:
    """Follows one withdrawal over many looks; `clock` in seconds."""

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        self._bound, self._clock = timers.osd_request_timeout + STUCK_GRACE, clock
        self._since: float | None = None

    def expect(self, kernel: Kernel, reason: str) -> None:
        """Refuse to go on while anything of a former membership is left; not for ever where a device is stuck."""
        now = self._clock()
        if plan_nothing(kernel).empty:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        stuck = [mapping.dev_path for mapping in left_mappings(kernel)]
        if not stuck:
            raise NotYet(reason, withdraw=True)
        if now - self._since < self._bound:
            raise NotYet(f"{reason}; waiting for {', '.join(stuck)} to let go", withdraw=True)
        log.warning("going on with devices that cannot be unmapped", devices=stuck)
